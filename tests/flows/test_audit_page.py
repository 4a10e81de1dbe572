"""An audit in a real browser: a person answers by keys and touch, and nobody else hears of it."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from auditing import audit_of, unit_of
from patience import eventually

from sfda.annotation.audit.answers import take_answers, taken_answers
from sfda.annotation.audit.page import PAGE_FILE
from sfda.annotation.audit.questions import AuditRequest
from sfda.decision.change import PoolUnit
from sfda.measures.change import CANNOT_TELL, NONE_OF_THESE

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.stack,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver here"),
]
MANY = tuple(
    f"{word} {number}" for word in ("cat", "lion", "nail", "zebra") for number in range(90)
)
SIZES = {"desktop": (1280, 800), "phone": (360, 740)}
PROBLEMS = ("classification", "segmentation", "detection", "multilabel", "pose")
FORGETFUL = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }});"
ASK = """
const done = arguments[1];
fetch(arguments[0]).then(() => done('heard'), () => {
  const image = new Image();
  image.onload = () => done('heard'); image.onerror = () => done('refused');
  image.src = arguments[0];
});
"""


class Person:
    """Who sits before the page."""

    def __init__(self, browser: Any, downloads: Path) -> None:
        self.browser, self.downloads = browser, downloads

    def open(self, folder: Path) -> None:
        self.browser.get((folder / PAGE_FILE).as_uri())

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    def text(self, name: str) -> str:
        return str(self.browser.find_element("id", name).text)

    def key_of(self, answer: str) -> str:
        """The key that the page shows for an answer."""
        for one in self.browser.find_elements("css selector", "#choices button, #rest button"):
            key, name = (
                part.get_property("textContent") for part in one.find_elements("xpath", "*")
            )
            if name == answer:
                return str(key)  # on a phone it is there and not shown
        raise AssertionError(f"no button {answer}")

    def click(self, x: float, y: float) -> None:
        """A place of the picture, as shares of its width and height."""
        self.browser.execute_script(
            "const [x, y] = arguments, one = document.getElementById('picture'),"
            " box = one.getBoundingClientRect();"
            "one.dispatchEvent(new MouseEvent('click', {bubbles: true,"
            " clientX: box.left + x * box.width, clientY: box.top + y * box.height}));",
            x, y,
        )  # fmt: skip

    def save(self) -> Path:
        before = set(self.downloads.glob("*.json"))
        self.browser.find_element("id", "save").click()
        return eventually(lambda: set(self.downloads.glob("*.json")) - before).pop()


@pytest.fixture(scope="module", params=SIZES)
def person(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    width, height = SIZES[request.param]
    downloads = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    for word in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage",
        f"window-size={width},{height}", f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(f"--{word}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    if request.param == "phone":
        metrics = {"width": width, "height": height, "pixelRatio": 2.0, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    options.binary_location = str(CHROMIUM)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield Person(driver, downloads)
    driver.quit()


def expected_of(request: AuditRequest) -> dict[str, str]:
    """What this person answers: of classes and yes or no in turns all that there is."""
    words = {
        "class": ("cat", "dog", NONE_OF_THESE, CANNOT_TELL, "cow"),
        "yes or no": ("yes", "no", CANNOT_TELL),
    }.get(request.question, ("",))
    return {q.id: words[n % len(words)] for n, q in enumerate(request.questions)}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_fifty_questions_take_one_key_or_one_touch_each(
    person: Person, tmp_path: Path, problem: str
) -> None:
    side = 512 if problem == "classification" else 64  # noise is the largest JPEG there is
    units = [PoolUnit(n, unit_of(problem, n % 20)) for n in range(50)]
    request = audit_of(tmp_path / "a", problem, count=50, total=500, side=side, units=units)
    assert (tmp_path / "a" / PAGE_FILE).stat().st_size < 10_000_000
    person.open(tmp_path / "a")
    expected = expected_of(request)
    for number, question in enumerate(request.questions):
        assert person.text("count").startswith(f"{number + 1} of 50 ")
        if request.question == "place":
            person.click(0.25 + number / 100, 0.5)
            frame = question.frame
            x, y = frame.in_image((0.25 + number / 100) * frame.shown_width, frame.shown_height / 2)
            expected[question.id] = f"{x:.2f},{y:.2f}"
        else:
            person.press(person.key_of(expected[question.id]))
    assert "All 50 questions are answered" in person.text("left-over")
    width = person.browser.execute_script(
        "return [document.scrollingElement.scrollWidth, innerWidth]"
    )
    assert width[0] <= width[1]
    taken = take_answers(tmp_path / "a", request, person.save())
    assert taken.fresh == 50
    answers = taken_answers(tmp_path / "a", request).answers
    if request.question == "place":  # a click is at a whole pixel of the screen
        for name, text in expected.items():
            pairs = zip(answers[name].split(","), text.split(","), strict=True)
            assert all(abs(float(a) - float(b)) < 0.4 for a, b in pairs)
    else:
        assert answers == expected
    assert [e for e in person.browser.get_log("browser") if e["level"] == "SEVERE"] == []


def test_answers_stay_in_the_browser_and_can_be_changed(person: Person, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    request = audit_of(tmp_path / "a", seed=7)
    person.open(tmp_path / "a")
    person.press("n", "c", "c")
    person.open(tmp_path / "a")
    assert person.text("count") == "4 of 6 · 3 answered"
    person.press(Keys.BACKSPACE, Keys.ARROW_LEFT)
    assert person.text("count") == "2 of 6 · 3 answered"
    chosen = person.browser.find_element("css selector", "button.chosen .name").text
    assert chosen == CANNOT_TELL
    person.press("n")
    answers = json.loads(person.save().read_text())
    ids = [q.id for q in request.questions]
    assert answers["answers"] == dict(
        zip(ids, (NONE_OF_THESE, NONE_OF_THESE, CANNOT_TELL), strict=False)
    )
    assert answers["audit"] == request.id


def test_another_audit_has_answers_of_its_own(person: Person, tmp_path: Path) -> None:
    for seed in (11, 12):
        audit_of(tmp_path / str(seed), seed=seed)
        person.open(tmp_path / str(seed))
        assert person.text("count") == "1 of 6 · 0 answered"
        person.press("n")


def test_it_works_in_a_browser_that_keeps_nothing_and_says_so(
    person: Person, tmp_path: Path
) -> None:
    audit_of(tmp_path / "a", seed=8)
    order = {"source": FORGETFUL}
    script = person.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", order)
    try:
        person.open(tmp_path / "a")
        assert "This browser keeps nothing" in person.text("memory")
        person.press("n", "c")
        assert len(json.loads(person.save().read_text())["answers"]) == 2
    finally:
        person.browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_letters_filter_many_classes(person: Person, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    request = audit_of(tmp_path / "a", seed=9, classes=MANY, count=4)
    person.open(tmp_path / "a")
    assert person.text("more") == "360 of 360 classes"
    person.press("l", "i", "o", "n", " ")
    assert person.text("more") == "90 of 360 classes"
    person.press(Keys.ENTER)
    person.press("/", "n", "a", "i")
    person.press("2")
    person.press("/", "z", "e", "b", Keys.ESCAPE)
    assert person.text("more") == "360 of 360 classes"
    person.press("1", "n")
    answers = json.loads(person.save().read_text())["answers"]
    first = request.questions[2].choices[0]
    assert list(answers.values()) == ["lion 0", "nail 1", first, NONE_OF_THESE]


def test_digits_stand_for_classes_that_are_called_so(person: Person, tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a", seed=10, classes=tuple("0123456789"), count=4)
    person.open(tmp_path / "a")
    person.press("7", "0", "c", "9")
    assert list(json.loads(person.save().read_text())["answers"].values()) == [
        "7", "0", CANNOT_TELL, "9",
    ]  # fmt: skip
    assert len(request.questions) == 4


def test_a_joint_is_placed_by_keyboard_alone(person: Person, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    request = audit_of(tmp_path / "a", "pose", seed=13, count=2)
    person.open(tmp_path / "a")
    person.press(Keys.ENTER)
    assert person.text("count").startswith("1 of 2"), "nothing is at a cross that is not shown"
    person.press(*[Keys.ARROW_RIGHT] * 4, *[Keys.ARROW_UP] * 2, "z", Keys.ENTER, "c")
    answers = json.loads(person.save().read_text())["answers"]
    frame = request.questions[0].frame
    x, y = frame.in_image(frame.shown_width / 2 + 24, frame.shown_height / 2 - 12)
    assert list(answers.values()) == [f"{x:.2f},{y:.2f}", CANNOT_TELL]


def test_zoom_shows_more_and_all(person: Person, tmp_path: Path) -> None:
    audit_of(tmp_path / "a", "segmentation", seed=14, side=400)
    person.open(tmp_path / "a")
    width: Callable[[], float] = lambda: person.browser.execute_script(  # noqa: E731
        "return document.getElementById('stage').offsetWidth"
    )
    before, source = width(), person.browser.find_element("id", "picture").get_property("src")
    person.press("z")
    assert width() > 2 * before
    person.press("z")
    assert person.browser.find_element("id", "picture").get_property("src") != source
    person.press("z")
    assert width() == before


def test_the_page_talks_to_nobody(person: Person, tmp_path: Path) -> None:
    """It asks for nothing; and what would run in it is refused, by its own policy."""
    audit_of(tmp_path / "a", seed=15)
    person.browser.get_log("performance")
    person.open(tmp_path / "a")
    person.press("n", "z", "c")
    person.save()
    asked = [
        json.loads(entry["message"])["message"]["params"]["request"]["url"]
        for entry in person.browser.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert person.browser.execute_async_script(ASK, url) == "refused"
        time.sleep(0.5)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    person.browser.get_log("browser")  # its refusals are no faults of the page
