"""The pages of Prefect and MLflow in a real browser: a form is filled in, its run is looked at."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small
import stacked

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WHY = stacked.why_not() or ("" if CHROMIUM and DRIVER else "no chromium and chromedriver here")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.stack,
    pytest.mark.skipif(bool(WHY), reason=WHY or "-"),
]
KEEP = os.environ.get("SFDA_PICTURES")  # a folder for pictures of the pages


class Pages:
    """A browser, and ways to find things by what they say."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def wait(self, results: Callable[[], Any], seconds: float = 60) -> Any:
        """What `found` gives once it gives something."""
        end, last = time.monotonic() + seconds, None
        while time.monotonic() < end:
            try:
                if result := results():
                    return result
            except Exception as error:  # the page is not there yet, or is being drawn anew
                last = error
            time.sleep(0.3)
        self.keep("failed")
        raise AssertionError(f"{self.driver.current_url}: {last}\n{self.text()[:2000]}")

    def all(self, path: str) -> list[Any]:
        return list(self.driver.find_elements("xpath", path))

    def seen(self, words: str) -> list[Any]:
        """What can be seen and says exactly this."""
        result = self.all(f"//*[normalize-space(.)='{words}' and not(*)]")
        return [one for one in result if one.is_displayed()]

    def text(self) -> str:
        return str(self.driver.find_element("tag name", "body").text)

    def shows(self, *words: str) -> None:
        """Wait until the page says all of this."""
        self.wait(lambda: all(word in self.text() for word in words))

    def press(self, name: str) -> None:
        self.wait(lambda: self.all(f"//button[normalize-space()='{name}']"))[0].click()

    def keep(self, name: str) -> None:
        if KEEP:
            Path(KEEP).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(KEEP, f"{name}.png")))


@pytest.fixture
def pages() -> Iterator[Pages]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for word in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage",
        "window-size=1400,1400",
    ):  # fmt: skip
        options.add_argument(f"--{word}")
    options.binary_location = str(CHROMIUM)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield Pages(driver)
    driver.quit()


def test_a_form_refuses_what_is_wrong_and_starts_a_run_whose_pages_show_its_results(
    pages, tmp_path
):
    small.bundle(tmp_path / "scanner")
    target = small.write(tmp_path / "new-site", "target", small.target_arrays(), small.TARGET)
    with stacked.stack("--workers", "1") as on:
        prefect = on.env["PREFECT_API_URL"].removesuffix("/api")
        result = on.call("deployments/name/adapt/adapt")
        form = f"{prefect}/deployments/deployment/{result['id']}/run"
        pages.driver.get(form)
        box = pages.wait(lambda: pages.all("//input"))[0]
        box.send_keys(on.env["PREFECT_API_AUTH_STRING"])
        pages.press("Login")
        pages.wait(lambda: "/login" not in pages.driver.current_url)
        pages.driver.get(form)
        source, where = pages.wait(lambda: pages.all("//textarea"))[:2]
        source.send_keys(str(tmp_path / "scanner"))
        where.send_keys(str(target))
        pages.press("int")
        epochs = pages.wait(lambda: pages.all("//input[@type='number']"))[0]
        epochs.send_keys("0")
        pages.press("Submit")
        pages.shows("is not valid under any of the given schemas")
        assert pages.driver.current_url == form
        assert not on.runs()
        epochs.clear()
        epochs.send_keys("3")
        pages.keep("prefect-form")
        pages.press("Submit")
        (run,) = pages.wait(on.runs)
        done = pages.wait(lambda: _ended(on, run["id"]), 180)
        assert done["state_type"] == "COMPLETED", done["state"]["message"]
        pages.driver.get(f"{prefect}/runs/flow-run/{run['id']}")
        pages.shows("Completed", "Task Runs", "epoch 3/3")
        pages.keep("prefect-run")
        pages.wait(lambda: pages.seen("Artifacts"))[0].click()
        pages.shows("adaptation-report", "pseudo-labels", "choice", "progress", "results")
        pages.keep("prefect-artifacts")
        _see_the_registry(pages, on)


def _ended(on: stacked.Stacked, run: str) -> Any:
    (result,) = on.runs([run])
    return result if result["state_type"] in stacked.ENDED else None


def _see_the_registry(pages: Pages, on: stacked.Stacked) -> None:
    """MLflow's page asks for the password as browsers do: it is part of the address."""
    user, password = (on.env[f"MLFLOW_TRACKING_{n}"] for n in ("USERNAME", "PASSWORD"))
    plain = on.env["MLFLOW_TRACKING_URI"].removeprefix("http://")
    pages.driver.get(f"http://{user}:{password}@{plain}/")
    pages.driver.get(f"http://{plain}/#/models/scanner/versions/1")
    pages.shows("scanner", "Version 1", "candidate")
    pages.keep("mlflow-version")
    pages.driver.get(f"http://{plain}/#/models/scanner")
    pages.shows("scanner", "Version 1", "candidate")
    pages.keep("mlflow-model")
