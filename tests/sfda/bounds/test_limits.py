"""The table of limits: what sets one, what a message says, and that docs/formats.md shows all."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sfda.bounds.files import Unreadable, zip_opened
from sfda.bounds.limits import DEPTH, LIMITS, check_limits
from sfda.documents import parse_yaml
from sfda.errors import BadInput
from sfda.formats.readers import Zip, npz_count
from sfda.sandbox.environment import is_passed

ROOT = Path(__file__).parents[3]


def shown(number: int) -> str:
    """A number as a person reads it.

    >>> shown(4 << 20), shown(100_000)
    ('4 Mi', '100,000')
    """
    for power, letter in ((30, "Gi"), (20, "Mi")):
        if number >= 1 << power and number % (1 << power) == 0:
            return f"{number >> power} {letter}"
    return f"{number:,}"


def test_the_page_shows_every_limit() -> None:
    lines = [
        f"| `{one.variable}` | {shown(one.default)} {one.unit} | {one.meaning} |"
        for one in LIMITS.values()
    ]
    page = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `SFDA_LIMIT_.*$", page, re.M) == lines, "\n".join(lines)


def test_a_limit_is_told_and_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "[" * 61 + "]" * 61
    with pytest.raises(Unreadable, match=r"more than 60 levels .SFDA_LIMIT_DEPTH raises"):
        parse_yaml(deep)
    monkeypatch.setenv(DEPTH.variable, "70")
    assert parse_yaml(deep)


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "1e3", "9" * 30, "٣"])
def test_a_variable_that_holds_no_limit_is_one_message(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(DEPTH.variable, text)
    with pytest.raises(BadInput, match=r"SFDA_LIMIT_DEPTH=.* whole number of levels above 0"):
        _ = DEPTH.most
    with pytest.raises(BadInput, match="SFDA_LIMIT_DEPTH="):
        check_limits({DEPTH.variable: text})


def test_a_variable_of_no_limit_is_named() -> None:
    with pytest.raises(BadInput, match="SFDA_LIMIT_DEPHT; did you mean SFDA_LIMIT_DEPTH"):
        check_limits({"SFDA_LIMIT_DEPHT": "70"})
    check_limits({"SFDA_LIMIT_DEPTH": "70", "SFDA_HOME": "x"})


def test_a_command_says_what_is_no_limit(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli.app import main; main()", "check", "m.yaml"],
        cwd=ROOT,
        env={"SFDA_HOME": str(tmp_path), "PATH": "", "SFDA_LIMIT_DEPTH": "x"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert "SFDA_LIMIT_DEPTH=x is no limit" in done.stderr


def test_a_restricted_process_knows_the_limits() -> None:
    """None of their names sounds like a password's."""
    assert all(is_passed(limit.variable) for limit in LIMITS.values())


def test_images_of_no_pixels_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 0, 8, 3), np.uint8))
    with pytest.raises(BadInput, match="no pixels"):
        npz_count(tmp_path / "a.npz", "x")


@pytest.mark.parametrize("large", [False, True])
def test_a_zip_of_very_many_files_is_refused_by_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(100):
            archive.writestr(f"{number:04}.png", b"")
        if large:  # as zips of more than 65,535 files are
            monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)
    path = tmp_path / "a.zip"
    path.write_bytes(packed.getvalue())
    with zip_opened(path) as archive:
        assert len(archive.namelist()) == 100
    monkeypatch.setenv("SFDA_LIMIT_ZIP_DIRECTORY_BYTES", "5000")
    with pytest.raises(Unreadable, match=r"5400 bytes, more than 5000"):
        zip_opened(path)
    with pytest.raises(BadInput, match="SFDA_LIMIT_ZIP_DIRECTORY_BYTES"):
        Zip(path).read("0000.png")
