"""The faults are seen where they are planted; an interrupt while modules are imported is a line."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.trial import ROOT, Case, Count, Undisturbed, digests, trial, undisturbed

IMPORTS = """
import sys
import flows.cli
class Interrupted:
    def find_spec(self, name, *more):
        if name == "flows.cli.app":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
flows.cli.main()
"""
VOC = """<annotation><filename>a.jpg</filename><object><name>cat</name><bndbox><xmin>2</xmin>
<ymin>3</ymin><xmax>9</xmax><ymax>12</ymax></bndbox></object></annotation>"""
CASE = Case("convert", lambda f: ["convert", "voc", f / "voc", "--out", f / "b.json"], digests)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    template = tmp_path / "template"
    (template / "voc").mkdir(parents=True)
    (template / "voc" / "a.xml").write_text(VOC)
    (tmp_path / "trial").mkdir()
    return template, tmp_path / "trial" / "work"


def faults(folders: tuple[Path, Path], known: Undisturbed, case: Case = CASE) -> list[str]:
    count = Count()
    trial(case, *folders, known, random.Random(3), count)
    assert count.trials == 1
    return count.faults


def test_a_planted_fault_is_seen(folders: tuple[Path, Path]) -> None:
    known = undisturbed(CASE, *folders)
    assert known.outcome.keys() == {"b.json", "voc/a.xml"}
    assert known.steps >= 3
    assert faults(folders, known) == []
    other = Undisturbed({"b.json": "other"}, known.seconds, known.steps)
    assert "other outcome: b.json: other" in faults(folders, other)[0]
    (folders[0] / ".a.part-1").mkdir()
    assert "half-written: .a.part-1" in faults(folders, known)[-1]
    wrong = Case("convert", lambda f: ["convert", "voc", f / "none", "--out", f / "b"], digests)
    assert any("started again it ends with 2" in one for one in faults(folders, known, wrong))


def test_an_interrupt_while_modules_are_imported_is_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, cwd=ROOT
    )
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "sfda: interrupted; nothing was begun\n"
