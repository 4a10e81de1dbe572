"""Where the masks of images lie: always somewhere, and no two at one place."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from sfda.problems.segmentation.inference import mask_names


@pytest.mark.parametrize(
    "names",
    [
        ["x.png", "x.png.png/y.png"],
        ["x", "x.png/a", "x.png/b/c"],
        ["a" * 254, "b/" + "c" * 252],
        ["é" * 125, "d/" + "é" * 120 + "/z.png"],
        ["same#1", "same:1"],
    ],
)
def test_every_mask_can_be_written(names: list[str], tmp_path: Path) -> None:
    made = mask_names(names, [f"{number:016x}" for number in range(len(names))])
    assert len(set(made)) == len(names)
    for name in made:
        assert not {"..", "/"} & set(PurePosixPath(name).parts)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert all((tmp_path / name).read_text() == name for name in made)


def test_usual_names_stay() -> None:
    assert mask_names(["day/0001.jpg", "b.png"], ["1", "2"]) == ["day/0001.jpg.png", "b.png.png"]
