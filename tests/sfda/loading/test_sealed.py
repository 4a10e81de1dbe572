"""What an adapting process is handed of its target is all that it needs, and no label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from five_problems import two_models

from sfda.errors import BadInput
from sfda.loading import sealed
from sfda.loading.annotated_rows import annotated_rows, framed_rows
from sfda.loading.opened import Opened, open_stamped, open_unlabelled, split_ref, stamps_of
from sfda.loading.sealed import open_sealed, seal
from sfda.manifests.annotations import Annotations
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.problems.registry import read_bundle

PROBLEMS = ["classification", "multilabel", "segmentation", "detection", "pose"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_target_and_the_answers_to_its_rows_are_the_same_there(problem, tmp_path, monkeypatch):
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    models = two_models(problem, tmp_path)
    _, spec = read_bundle(Path(models.source.uri))
    target = split_ref(models.manifest, "adapt")
    whole = open_unlabelled(models.manifest, "adapt", spec)
    stamps = stamps_of(target, whole.split)
    truth = read_split(open_manifest(models.path), "adapt")
    rows = np.array([5, 2])
    said = Annotations(rows, truth.classes, "", truth.labels.take(rows))

    def answered(*where: object) -> Opened:
        opened = open_stamped(*where)
        return replace(opened, split=replace(opened.split, annotations=said))

    monkeypatch.setattr(sealed, "open_stamped", answered)  # as a manifest with answers is opened
    folder = tmp_path / "sealed"
    folder.mkdir()
    files = seal(target, stamps, spec, folder, answers=True)
    opened, framed = open_sealed(folder, spec)
    assert np.array_equal(np.asarray(opened.images), np.asarray(whole.images))
    assert opened.info() == whole.info()
    assert opened.info().row_ids == opened.split.names == tuple(map(str, range(len(truth))))
    assert not set(opened.split.row_ids) & {*truth.row_ids, *truth.names}
    assert opened.split.labels is None
    assert [file.parent for file in files] == [tmp_path / "home" / "decoded"]
    before = framed_rows(replace(truth, annotations=said), spec, tmp_path / "masks")
    drawn = [
        annotated_rows(
            one, whole.images, spec, spec.views, seed=0, device=torch.device("cpu")
        ).make(np.array([1, 0]), np.array([3, 4]))
        for one in (before, framed)
    ]
    assert repr(drawn[0]) == repr(drawn[1])
    assert drawn[0].index.tolist() == [2, 5]
    with pytest.raises(BadInput, match="decoded images alone"):
        opened.split.image(0)
    files[0].unlink()
    with pytest.raises(BadInput, match="were removed while the job ran; start the job again"):
        open_sealed(folder, spec)
