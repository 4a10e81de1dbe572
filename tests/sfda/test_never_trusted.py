"""Nobody can trust what this program is made of as a model's code."""

from __future__ import annotations

import pytest

from sfda.errors import BadInput
from sfda.networks.foreign.code import check_trusted
from sfda.networks.foreign.trusted import TRUST_CODE, trusted_packages
from sfda.refs import NetworkCode

PARTS = ("psutil", "mmengine", "timm", "matplotlib", "mmdet", "rich", "click", "albumentations")


@pytest.mark.parametrize("package", [*PARTS, "os", "test", "__main__", "psutil.tests", "sfda.x"])
def test_what_runs_here_anyway_is_never_trusted(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRUST_CODE, raising=False)
    code = NetworkCode(kind="package", name=package.partition(".")[0], sha256="0" * 64)
    with pytest.raises(BadInput, match="part of Python or of what runs here") as refused:
        check_trusted(code, "x:Net")
    assert "--trust-code" not in str(refused.value)
    monkeypatch.setenv(TRUST_CODE, package)
    with pytest.raises(BadInput, match=f"--trust-code {package}: that is part of"):
        trusted_packages()


def test_a_package_of_somebody_else_can_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_CODE, "my_lab,timm.py@" + "0" * 32)
    assert trusted_packages() == {"my_lab", "timm.py@" + "0" * 32}
