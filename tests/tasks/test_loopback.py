"""Behind a proxy, what is on this machine is asked without it."""

from __future__ import annotations

import os
import urllib.request

import pytest
from httpx._utils import get_environment_proxies
from requests.utils import should_bypass_proxies

from tasks.prefect_runtime.loopback import spare_loopback

PROXY = "http://proxy.clinic.example:3128"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "")  # so that it is put back afterwards
    monkeypatch.setenv("no_proxy", "")


@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("stated", ["", "intra.example", "intra.example,127.0.0.1"])
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_loopback_goes_to_no_proxy_and_what_was_excepted_stays(
    monkeypatch: pytest.MonkeyPatch, proxy: str, stated: str, name: str
) -> None:
    monkeypatch.setenv(proxy, PROXY)
    monkeypatch.setenv(name, stated)
    spare_loopback()
    for host in ("127.0.0.1:4200", "localhost:4200"):
        assert urllib.request.proxy_bypass(host)
        assert should_bypass_proxies(f"http://{host}/api", None)
    spared = {pattern for pattern, address in get_environment_proxies().items() if address is None}
    assert {"all://127.0.0.1", "all://localhost", "all://[::1]"} <= spared
    assert os.environ["no_proxy"].split(",").count("127.0.0.1") == 1
    assert bool(urllib.request.proxy_bypass("intra.example")) == bool(stated)
    assert not urllib.request.proxy_bypass("elsewhere.example")


def test_without_a_proxy_or_with_none_for_anything_all_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spare_loopback()
    assert os.environ["NO_PROXY"] == ""
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", "*")
    spare_loopback()
    assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == ("*", "")
