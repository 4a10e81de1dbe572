"""Names and times that no disk, registry or calendar takes: one message, at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from flows.cli.parsing import class_names
from sfda.adaptation.target_versions import target_folder
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest, validated
from sfda.problems.registry import PROBLEMS
from sfda.settings import seconds_of
from sfda.weights.bundle import read_spec
from tasks.tracking import check_name

ODD = ("a\0b", "\ud800", "x" * 5000)


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_no_file_has_is_refused(name: str) -> None:
    for use in (open_manifest, read_spec):
        with pytest.raises(BadInput):
            use(Path(name))
    with pytest.raises(BadInput, match="cannot name a target"), target_folder(name):
        pass
    with pytest.raises(BadInput, match="cannot name a model"):
        check_name(name)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb"])
def test_a_name_that_moves_the_cursor_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="cannot name a target"), target_folder(name):
        pass
    with pytest.raises(BadInput, match="cannot name a model"):
        check_name(name)


@pytest.mark.parametrize("name", ["b\x1b[2J", "b\x07", "b\u202e", "a\tb", "b" * 257])
def test_no_class_or_joint_or_target_is_called_by_what_a_terminal_obeys(
    tmp_path: Path, name: str
) -> None:
    """Wherever the name comes from: it is printed, drawn and registered later on."""
    file = tmp_path / "classes"
    file.write_text(f"a\n{name}\n")
    about = {"name": "t", "problem": "pose", "origin": "", "root": ".", "classes": ["a"]}
    about |= {"splits": {"adapt": {"rows": "r.json", "sha256": "0" * 64, "count": 1}}}
    joints = {"classes": ["a", name], "skeleton": {"edges": [["a", name]]}}
    groups = {"skeleton": {"groups": {name: ["a"]}}}
    uses: list[Callable[[], object]] = [
        lambda: class_names(f"a,{name}"),
        lambda: class_names(None, file),
        lambda: PROBLEMS["classification"].make_spec("sfda:tiny", ("a", name)),
    ]
    odd = ({"classes": ["a", name]}, joints, groups, {"name": name})
    uses += [partial(validated, about | one, Path("m.yaml")) for one in odd]
    for use in uses:
        with pytest.raises(BadInput, match=r"U\+|257 characters|at most 256"):
            use()
    assert validated(about, Path("m.yaml")).classes == ("a",)


@pytest.mark.parametrize("text", ["1e300d", "9" * 400 + "d", "3651d", "1e18s"])
def test_a_time_beyond_ten_years_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"more than 3650 \(SFDA_LIMIT_DURATION_DAYS") as error:
        seconds_of(text)
    assert len(str(error.value)) < 200
