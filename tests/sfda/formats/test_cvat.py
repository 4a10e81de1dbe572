"""CVAT's own XML: what of it is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small
import small_det
import small_seg
from asking import request_for

from sfda.annotation.take import take_annotations
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split


@pytest.fixture
def boxed(tmp_path: Path) -> Path:
    return small_det.write(tmp_path, "target", small_det.TARGET, seed=3)


def test_tags_and_masks_of_cvat(tmp_path: Path) -> None:
    target = small.write(tmp_path, "signs", small.target_arrays(), small.TARGET)
    request = request_for(target, [3, 10], tmp_path / "ask")
    images = "".join(
        f'<image id="{n}" name="{w.file}" width="16" height="16"><tag label="{label}"/></image>'
        for n, (w, label) in enumerate(zip(request.requested, ("cross", "bar"), strict=True))
    )
    export = tmp_path / "annotations.xml"
    export.write_text(f"<annotations>{images}</annotations>")
    result = take_annotations(tmp_path / "ask", export, target)
    assert read_split(
        open_manifest(result.manifest), "adapt"
    ).annotations.labels.index.tolist() == [2, 0]

    scenes = small_seg.write(tmp_path, "scenes", small_seg.TARGET, seed=3, dull=True)
    seen = request_for(scenes, [5], tmp_path / "paint")
    shapes = (
        '<polygon label="post" z_order="1" points="0.0,0.0;3.0,0.0;3.0,3.0;0.0,3.0"/>'
        '<mask label="bar" z_order="0" rle="0, 3, 2, 1" left="2" top="30" width="3" height="2"/>'
    )
    export.write_text(
        f'<annotations><image id="0" name="{seen.requested[0].file}" width="32" height="32">'
        f"{shapes}"
        "</image></annotations>"
    )
    names = open_manifest(scenes).classes
    assert isinstance(names, tuple)
    export.write_text(
        export.read_text().replace("post", names[1]).replace('"bar"', f'"{names[2]}"')
    )
    result = take_annotations(tmp_path / "paint", export, scenes)
    mask = read_split(open_manifest(result.manifest), "adapt").annotations.labels.mask(0)
    expected = np.full((32, 32), 255 if "background" not in names else names.index("background"))
    expected[:4, :4] = 1
    expected[30, 2:5] = 2
    expected[31, 4] = 2
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<annotations><track/></annotations>", "tracks of a video"),
        ("<html/>", "no export of CVAT: its root is <html>"),
        ("<annotations>", "cannot be read as XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "defines entities"),
        ('<annotations><image id="3"/></annotations>', "image 3 has no name"),
        (
            '<annotations><image name="005.png" width="64" height="64"><box label="red" xtl="1"/>'
            "</image></annotations>",
            "005.png: it cannot be read (it lacks 'ytl')",
        ),
        (
            '<annotations><image name="005.png" width="64" height="64"><cuboid label="red"/>'
            "</image></annotations>",
            "a cuboid is no answer to any request",
        ),
        (
            '<annotations><image name="005.png" width="64" height="64"><mask label="red" rle="1,2"'
            ' left="0" top="0" width="2" height="2"/></image></annotations>',
            "of 3 pixels, not 4",
        ),
    ],
)
def test_what_is_no_export_of_cvat(tmp_path: Path, boxed: Path, content: str, said: str) -> None:
    request_for(boxed, [5], tmp_path / "ask")
    export = tmp_path / "annotations.xml"
    export.write_text(content)
    with pytest.raises(BadInput) as error:
        take_annotations(tmp_path / "ask", export, boxed)
    assert said in str(error.value)
