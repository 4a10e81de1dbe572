"""The pages in a real browser: they work, ask nobody else, and another origin gets nothing."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tasks.prefect_runtime import proxy
from tasks.prefect_runtime.page_addresses import new_name
from tests.tasks.test_proxy import serving

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.stack,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver here"),
]
SFDA = [sys.executable, "-c", "from flows.cli.app import main; main()"]
KEEP = os.environ.get("SFDA_PICTURES")  # a folder for pictures of the pages
HTML = "<html><body><p>shown</p><script>document.title = 'ran'</script></body></html>"
HOSTILE = """
<meta http-equiv=x-dns-prefetch-control content=on>
<link rel=preconnect href=AWAY><link rel=prefetch href=AWAY/a><link rel=stylesheet href=AWAY/b>
<link rel=preload as=image href=AWAY/c>
<style>@import 'AWAY/d'; p { background: url(AWAY/e) }</style>
<img src=AWAY/f onerror="fetch('AWAY/g')"><video poster=AWAY/h src=AWAY/i autoplay></video>
<iframe src=AWAY/j></iframe><object data=AWAY/k></object><embed src=AWAY/l>
<script src=AWAY/m></script>
<script src='/get-artifact?path=page.html&run_uuid=RUN'></script>
<script>document.title = 'ran'; top.location = 'AWAY/n'; fetch('AWAY/o')</script>
<form id=f action=AWAY/p method=post><input autofocus onfocus="f.submit()"></form><p>shown</p>
<meta http-equiv=refresh content="1;url=AWAY/q">
"""

ATTACK = """
const [mlflow, prefect, done] = arguments;
const said = {};
const note = (name, promise) =>
  promise.then(what => { said[name] = String(what); }, error => { said[name] = 'refused'; });
const send = (url, body, mode) =>
  fetch(url, {method: 'POST', mode, credentials: 'include', body,
              headers: mode == 'cors' ? {'content-type': 'application/json'} : {}});
const socket = new Promise((opened, failed) => {
  const one = new WebSocket(prefect.replace('http', 'ws') + '/api/events/out', 'prefect');
  one.onopen = () => opened('open'); one.onerror = failed;
});
const element = (name, field, url) => new Promise((loaded, failed) => {
  const one = document.createElement(name);
  one.onload = () => loaded('loaded'); one.onerror = failed; one[field] = url;
  document.body.append(one);
});
const create = '/ajax-api/2.0/mlflow/experiments/create';
const variable = '/api/variables/';
const frame = document.createElement('iframe');
frame.src = mlflow + '/';
document.body.append(frame);
Promise.all([
  note('read mlflow', fetch(mlflow + '/ajax-api/2.0/mlflow/experiments/search?max_results=1',
                            {credentials: 'include'}).then(r => r.text())),
  note('read prefect', fetch(prefect + '/api/admin/version', {credentials: 'include'})
                         .then(r => r.text())),
  note('write cors', send(mlflow + create, '{"name": "evil1"}', 'cors')),
  note('write prefect', send(prefect + variable, '{"name": "evil", "value": 1}', 'cors')),
  send(mlflow + create, '{"name": "evil2"}', 'no-cors').catch(() => 0),
  send(prefect + variable, '{"name": "evil2", "value": 1}', 'no-cors').catch(() => 0),
  note('socket', socket),
  note('script', element('script', 'src', mlflow + '/static-files/static/js/none.js')),
  note('image', element('img', 'src', mlflow + '/static-files/favicon.ico')),
]).then(() => {
  const form = document.createElement('form');
  form.method = 'POST'; form.enctype = 'text/plain'; form.action = mlflow + create;
  form.target = '_blank';
  const field = document.createElement('input');
  field.name = '{"name": "evil3", "a": "'; field.value = '"}';
  form.append(field); document.body.append(form); form.submit();
  setTimeout(() => done(said), 2000);
});
"""

SOCKET = """
const done = arguments[0];
const one = new WebSocket(location.origin.replace('http', 'ws') + '/api/events/out', 'prefect');
one.onopen = () => one.send(JSON.stringify({type: 'auth', token: null}));
one.onmessage = message => done(JSON.parse(message.data).type);
one.onerror = () => done('refused');
"""


class Served:
    """A running `sfda ui`."""

    def __init__(self, process: subprocess.Popen[str], output: dict[str, str], home: Path) -> None:
        self.process, self.said, self.home = process, output, home
        self.away: socket.socket  # where a hostile artifact would like to go
        self.mlflow, self.prefect = (
            output[f"{name}_url"].partition("/open?")[0] for name in ("mlflow", "prefect")
        )

    def ask(self, url: str, body: Any = None) -> Any:
        """As a program that knows the secret."""
        import httpx

        user, _, password = (self.home / "secrets" / "prefect").read_text().strip().partition(":")
        for name in ("mlflow", "prefect"):  # programs do not find the name
            url = url.replace(getattr(self, name), self.said[f"{name}_address"])
        answer = httpx.request(
            "GET" if body is None else "POST", url, json=body, auth=(user, password),
            trust_env=False, timeout=60,
        )  # fmt: skip
        assert answer.status_code < 300, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def stack() -> Iterator[ExitStack]:
    with ExitStack() as ends:
        yield ends


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, template_store: Path, stack: ExitStack
) -> Iterator[Served]:
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("pages")
    home = folder / "home"
    home.mkdir()
    shutil.copy(template_store, home / "mlflow.db")
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    made = client.create_experiment("looked-at", (home / "mlartifacts").as_uri())
    run = client.create_run(made)
    client.log_text(run.info.run_id, HTML, "page.html")
    client.log_metric(run.info.run_id, "accuracy", 0.875)
    away = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    text = HOSTILE.replace("AWAY", f"http://127.0.0.1:{away.getsockname()[1]}")
    client.log_text(run.info.run_id, text.replace("RUN", run.info.run_id), "hostile.html")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    env |= {"SFDA_HOME": str(home), "RUN": run.info.run_id}
    with (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [*SFDA, "ui", "--json"],
            stdout=subprocess.PIPE, stderr=err, text=True, cwd=folder, env=env,
            start_new_session=True,
        )  # fmt: skip
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert line, (folder / "err").read_text()
        result = Served(process, json.loads(line), home)
        result.said["run"], result.said["experiment"] = run.info.run_id, made
        result.away = away
        yield result
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def browser(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One that has opened both pages by their links."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for word in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage",
        "window-size=1400,1000", "disable-features=BlockInsecurePrivateNetworkRequests",
    ):  # fmt: skip
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    options.binary_location = str(CHROMIUM)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_script_timeout(60)
    for name in ("prefect_url", "mlflow_url"):
        driver.get(served.said[name])
    yield driver
    driver.quit()


def shows(browser: Any, *words: str) -> None:
    end, text = time.monotonic() + 60, ""
    while time.monotonic() < end:
        try:
            text = browser.find_element("tag name", "body").text
        except Exception:  # it is being drawn anew
            text = ""
        if all(word in text for word in words):
            return
        time.sleep(0.2)
    raise AssertionError(f"{browser.current_url}: {text[:2000]}")


def keep(browser: Any, name: str) -> None:
    if KEEP:
        Path(KEEP).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(KEEP, f"{name}.png")))


def answered(browser: Any) -> set[str]:
    """Addresses that the network was asked for since the last call, those in the page left out."""
    asked, refused = {}, set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        order = message["params"]
        if message["method"] == "Network.requestWillBeSent":
            asked[order["requestId"]] = order["request"]["url"]
        elif message["method"] == "Network.webSocketCreated":
            asked[order["requestId"]] = order["url"]
        elif message["method"] == "Network.loadingFailed" and order.get("blockedReason") == "csp":
            refused.add(order["requestId"])
    return {
        url
        for number, url in asked.items()
        if number not in refused and not url.startswith(("data:", "blob:", "chrome"))
    }


def test_the_pages_work_and_ask_nobody_else(served, browser):
    run, experiment = served.said["run"], served.said["experiment"]
    browser.get(f"{served.prefect}/")
    shows(browser, "Dashboard", "Runs")
    keep(browser, "prefect-dashboard")
    for page, word in (("runs", "Runs"), ("deployments", "Deployments"), ("events", "Event")):
        browser.get(f"{served.prefect}/v2/{page}")
        shows(browser, word)
        assert "Unauthorized" not in browser.find_element("tag name", "body").text
        keep(browser, f"prefect-{page}")
    browser.get(f"{served.mlflow}/#/experiments/{experiment}/runs/{run}")
    shows(browser, "accuracy", "0.875")
    keep(browser, "mlflow-run")
    browser.get(f"{served.mlflow}/#/experiments/{experiment}/runs/{run}/artifacts/page.html")
    browser.refresh()
    shows(browser, "page.html")
    assert framed(browser) == "shown"
    keep(browser, "mlflow-artifact")
    time.sleep(2)  # what a page sends late
    asked = answered(browser)
    own = tuple(
        f"{word}{at[4:]}/" for at in (served.mlflow, served.prefect) for word in ("http", "ws")
    )
    assert asked
    assert {url for url in asked if not url.startswith(own)} == set()


def framed(browser: Any) -> str:
    """What an artifact in its frame shows."""
    end, text = time.monotonic() + 60, ""
    while not text and time.monotonic() < end:
        time.sleep(0.5)
        if frames := browser.find_elements("css selector", "iframe.mlflow-html-iframe"):
            browser.switch_to.frame(frames[0])
            text = browser.find_element("tag name", "body").text
            browser.switch_to.default_content()
    return str(text)


def test_an_artifact_in_its_frame_runs_nothing_and_connects_to_nobody(served, browser):
    """Not even early, by `<link rel=preconnect>` or a refused address: a connection tells of it."""
    at = f"{served.mlflow}/#/experiments/{served.said['experiment']}/runs/{served.said['run']}"
    browser.get(f"{at}/artifacts/hostile.html")
    browser.refresh()
    shows(browser, "hostile.html")
    assert framed(browser) == "shown"
    time.sleep(4)  # it would refresh itself after one
    keep(browser, "mlflow-hostile")
    assert browser.title != "ran"
    assert browser.current_url.startswith(served.mlflow)
    served.away.settimeout(0.2)
    with pytest.raises(TimeoutError):
        served.away.accept()


def test_the_graph_of_a_run_is_drawn_and_events_come(served, browser):
    flow = served.ask(f"{served.prefect}/api/flows/", {"name": "drawn"})["id"]
    body = {"flow_id": flow, "name": "drawn-run", "state": {"type": "COMPLETED"}}
    run = served.ask(f"{served.prefect}/api/flow_runs/", body)["id"]
    browser.get_log("browser")
    for version in ("", "/v2"):
        browser.get(f"{served.prefect}{version}/runs/flow-run/{run}")
        shows(browser, "drawn-run")
        time.sleep(3)
        keep(browser, f"prefect-run{version.strip('/')}")
        words = " ".join(entry["message"] for entry in browser.get_log("browser"))
        assert "unsafe-eval" not in words
    assert browser.execute_async_script(SOCKET) == "auth_success"


def test_an_artifact_that_is_a_page_runs_nothing(served, browser):
    browser.get(f"{served.mlflow}/get-artifact?path=page.html&run_uuid={served.said['run']}")
    time.sleep(1)
    assert browser.title != "ran"


WORKER = """
self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', event => event.waitUntil(clients.claim()));
self.addEventListener('fetch', event => event.respondWith(fetch(event.request)));
"""
POST = """
const done = arguments[0];
fetch('/api/x', {method: 'POST', body: '{}'}).then(answer => done(answer.status), done);
"""


def test_whoever_had_the_port_before_has_nothing_of_the_page(browser, tmp_path):
    """A tab of theirs is still open, and their service worker works at that port for ever."""
    (tmp_path / "index.html").write_text(
        "<script>navigator.serviceWorker.register('w.js')</script>"
    )
    (tmp_path / "w.js").write_text(WORKER)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as before:
        threading.Thread(target=before.serve_forever, daemon=True).start()
        port = before.server_port
        browser.get(f"http://127.0.0.1:{port}/")
        browser.execute_async_script("navigator.serviceWorker.ready.then(arguments[0])")
        before.shutdown()
    tab = browser.current_window_handle
    front = socket.create_server(("127.0.0.1", port))
    page = proxy.Page(port, new_name(), "http://127.0.0.1:9", "sfda:hidden", "key")
    with serving(proxy.application({port: page}), front):
        browser.switch_to.new_window("tab")
        browser.get(f"{page.origin}/open?key=key")
        assert "does not answer" in browser.find_element("tag name", "body").text
        assert len(page.sessions) == 1
        assert browser.execute_async_script(POST) == 502  # it was let in
        browser.close()
        browser.switch_to.window(tab)
        assert browser.execute_async_script(POST) == 401
        browser.refresh()
        assert browser.current_url == f"{page.origin}/"  # led to, where none of theirs runs


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin_reads_and_changes_nothing(served, browser, tmp_path, host):
    """On 127.0.0.1 it is on the same site, and our cookies come with its calls."""
    (tmp_path / "index.html").write_text("<html><body>evil</body></html>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as evil:
        threading.Thread(target=evil.serve_forever, daemon=True).start()
        browser.get(f"http://{host}:{evil.server_port}/index.html")
        output = browser.execute_async_script(ATTACK, served.mlflow, served.prefect)
        evil.shutdown()
    assert output == dict.fromkeys(output, "refused"), output
    assert len(output) == 7
    log = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "frame-ancestors" in log or "Refused to frame" in log or "X-Frame-Options" in log
    search = f"{served.mlflow}/ajax-api/2.0/mlflow/experiments/search"
    names = {one["name"] for one in served.ask(search, {"max_results": 100})["experiments"]}
    assert names == {"Default", "looked-at"}
    assert served.ask(f"{served.prefect}/api/variables/filter", {}) == []
