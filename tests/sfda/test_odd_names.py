"""Names and times that no disk, registry or calendar takes: one message, at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfda.adaptation.target_versions import target_folder
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
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


@pytest.mark.parametrize("text", ["1e300d", "9" * 400 + "d", "3651d", "1e18s"])
def test_a_time_beyond_ten_years_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="at most 3650d") as error:
        seconds_of(text)
    assert len(str(error.value)) < 200
