"""A part of a split is opened as a split of its own, over the images that were decoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small
import small_seg
import torch
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.loading.batches import TargetLoader
from sfda.loading.opened import (
    Opened,
    manifest_ref,
    open_part,
    open_split,
    open_stamped,
    open_unlabelled,
    split_ref,
    stamps_of,
)
from sfda.loading.parts import keep_rows, rows_file
from sfda.loading.scan import scan
from sfda.manifests.opening import open_manifest
from sfda.refs import InputSpec, SplitRef
from sfda.state_folder import decoded_folder

ROWS = np.array([1, 2, 5, 11])
TILED = InputSpec(size=(8, 8), tiled=True, channels="gray", mean=(0,), std=(1,))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SFDA_DATA", raising=False)
    return tmp_path / "home"


@pytest.fixture
def target(tmp_path: Path) -> SplitRef:
    path = small.write(tmp_path, "target", small.target_arrays(), small.TARGET)
    return split_ref(manifest_ref(path), "adapt")


def part_of(target: SplitRef, rows: np.ndarray = ROWS) -> SplitRef:
    return target.model_copy(update={"rows": keep_rows(rows)})


def test_a_part_has_its_rows_and_their_images_decoded_with_all_others(target):
    whole = open_unlabelled(target.manifest, "adapt", small.SPEC, seen=target.seen)
    part = open_part(part_of(target), small.SPEC)
    assert part.split.row_ids == tuple(whole.split.row_ids[row] for row in ROWS)
    assert part.info().size == part.images.shape[0] == len(ROWS)
    for place, row in enumerate(ROWS):
        np.testing.assert_array_equal(part.images[place], whole.images[row])
    np.testing.assert_array_equal(part.part(1, 3)[:], whole.images[[2, 5]])
    assert len(list(decoded_folder().iterdir())) == 1
    assert part.ref(target.manifest) == part_of(target)
    labelled = open_part(part_of(target), small.SPEC, labelled=True)
    assert part.split.labels is None
    assert labelled.split.labels.index.tolist() == (ROWS % 3).tolist()


def test_a_part_is_told_of_by_what_its_rows_are(target, tmp_path, monkeypatch):
    part = part_of(target)
    assert part != part_of(target, ROWS[::-1])
    assert part.rows == part_of(target, ROWS.astype(np.int32)).rows
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "other"))
    assert part_of(target) == part  # whatever home it lies in


@pytest.mark.parametrize("fault", ["missing", "damaged", "other", "too many"])
def test_rows_that_are_not_as_they_were_kept_are_refused(target, fault):
    part = part_of(target, np.array([47, 48]) if fault == "too many" else ROWS)
    file = rows_file(part.rows)
    if fault == "missing":
        file.unlink()
    elif fault == "damaged":
        file.write_bytes(file.read_bytes()[:-8])
    elif fault == "other":
        np.save(file, ROWS + 1)
    with pytest.raises(BadInput, match=r"the rows of a part, .*\.npy, cannot be read"):
        open_part(part, small.SPEC)


def test_the_adapting_process_opens_a_part_by_the_stamps_of_all(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(12):
        Image.fromarray(np.full((8, 8), 10 * n, np.uint8)).save(folder / f"{n:02d}.png")
    path = build_manifest(folder, problem="classification", out=tmp_path / "m.yaml")
    part = part_of(split_ref(manifest_ref(path), "adapt"))
    spec = small.SPEC.input
    whole = open_split(open_manifest(path).unlabelled(), "adapt", spec, seen=part.seen)
    stamps = stamps_of(part, whole.split)
    opened = open_stamped(part, stamps, spec)
    assert [int(image[0, 0, 0]) for image in opened.images] == (10 * ROWS).tolist()
    (folder / "00.png").write_bytes((folder / "01.png").read_bytes())  # none of its rows
    with pytest.raises(BadInput, match="have changed while the job ran"):
        open_stamped(part, stamps, spec)


def batches_of(opened: Opened, spec: InputSpec, workers: int) -> list[torch.Tensor]:
    views = small.SPEC.views
    loader = TargetLoader(
        opened.images, spec, views, strong=False, batch_size=2, seed=3, device="cpu",
        workers=workers,
    )  # fmt: skip
    return [batch.weak for batch in loader.epoch(0)]


@pytest.mark.parametrize("tiled", [False, True])
def test_batches_of_a_part_are_those_of_its_rows_alone_whoever_loads_them(tmp_path, tiled):
    """Rows are counted in the part, so that views do not depend on what is left out."""
    inputs, spec = small.target_arrays(), TILED if tiled else small.SPEC.input
    own = {name: values[ROWS] for name, values in inputs.items()}
    whole = small.write(tmp_path, "target", inputs, small.TARGET)
    alone = small.write(tmp_path, "alone", own, {"adapt": len(ROWS)})
    stamped = []
    for path, rows in ((whole, ROWS), (alone, np.arange(len(ROWS)))):
        target = part_of(split_ref(manifest_ref(path), "adapt"), rows)
        opened = open_split(open_manifest(path).unlabelled(), "adapt", spec, seen=target.seen)
        stamped.append(opened.only(target.rows))
    part, expected = stamped
    for workers in (0, 1):
        made = zip(batches_of(part, spec, workers), batches_of(expected, spec, 0), strict=True)
        assert all(torch.equal(one, other) for one, other in made)


def test_a_scan_of_a_part_counts_its_own_rows(target):
    part = open_part(part_of(target), small.SPEC)
    network = small.source()
    rows, outputs = zip(
        *scan(part.images, small.SPEC.input, device="cpu", batch_size=3)(network), strict=True
    )
    assert [own.tolist() for own in rows] == [[0, 1, 2], [3]]
    logits = torch.cat([output.logits for output in outputs])
    few = scan(part.images, small.SPEC.input, device="cpu")(network, torch.tensor([3, 1]))
    assert torch.allclose(next(iter(few)).output.logits, logits[[3, 1]], atol=1e-6)


def test_groups_and_shares_of_classes_are_those_of_the_part(tmp_path):
    path = small_seg.write(tmp_path, "t", {"adapt": 12, "test": 2}, seed=1)
    target = split_ref(manifest_ref(path), "adapt")
    part = open_part(part_of(target), small_seg.SPEC)
    whole = open_unlabelled(target.manifest, "adapt", small_seg.SPEC, seen=target.seen)
    groups = whole.split.groups
    assert part.split.groups == (None if groups is None else tuple(groups[row] for row in ROWS))
    assert [part.split.reader.size(n) for n in range(4)] == [
        whole.split.reader.size(int(row)) for row in ROWS
    ]
