"""Manifests as the stages use them: verified at the first look, classes mapped by name."""

import os

import numpy as np
import pytest
import small
import small_seg
import yaml
from PIL import Image

from sfda.adaptation import target as adaptation_target
from sfda.errors import BadInput
from sfda.loading import labels
from sfda.loading import opened as manifests
from sfda.manifests.class_matching import class_map, class_shift
from sfda.manifests.inspection import inspect_split
from sfda.manifests.opening import open_manifest

MODEL = ("bar", "post", "cross")


@pytest.fixture
def target(tmp_path):
    """A labelled target on disk."""
    return small.write(tmp_path, "target", small.target_arrays(), small.TARGET)


def test_another_order_is_mapped_by_name():
    assert class_map(("cross", "bar", "post"), MODEL, "m").tolist() == [2, 0, 1]
    assert class_map(MODEL, MODEL, "m").tolist() == [0, 1, 2]


def test_a_part_of_the_models_classes_is_allowed():
    assert class_map(("cross",), MODEL, "m").tolist() == [2]


def test_a_class_that_the_model_lacks_is_unknown():
    assert class_map(("bar", "ring", "star"), MODEL, "m").tolist() == [0, -1, -1]


def test_without_a_shared_class_the_manifest_is_another_problems():
    with pytest.raises(BadInput, match="m shares no class with the model: it names ring, star"):
        class_map(("ring", "star"), MODEL, "m")


@pytest.mark.parametrize(
    ("classes", "regime", "extra", "missing"),
    [
        (("cross", "bar", "post"), "closed", (), ()),
        (("bar", "post"), "partial", (), ("cross",)),
        (("bar", "post", "cross", "ring"), "open", ("ring",), ()),
        (("bar", "cros"), "open-partial", ("cros",), ("post", "cross")),
        (3, None, (), ()),
        (None, None, (), ()),
    ],
)
def test_the_list_of_classes_declares_the_regime(classes, regime, extra, missing):
    result = class_shift(classes, MODEL, "m")
    assert (result.regime, result.extra, result.missing) == (regime, extra, missing)


def test_a_shift_of_classes_is_told_by_name_and_a_slip_is_suspected():
    output = class_shift(("bar", "cros"), MODEL, "m").text()
    assert "lacks, counted as unknown: cros" in output
    assert "target lacks: post, cross" in output
    assert "if 'cros' is meant to be 'cross', correct the manifest" in output
    assert class_shift(MODEL, MODEL, "m").text() == ""


def test_foreign_samples_are_unknown_to_evaluation_and_refused_for_learning(home, tmp_path):
    path = small.write(
        tmp_path, "foreign", small.target_arrays(), small.TARGET, classes=["bar", "ring", "cross"]
    )
    opened = manifests.open_split(
        manifests.open_ref(manifests.manifest_ref(path)), "test", small.SPEC.input
    )
    inputs = small.target_arrays()
    truth = inputs["y"][inputs["split"] == 1]
    result = labels.labels_in(opened.split, MODEL, unknown=True).index
    assert result.tolist() == np.where(truth == 1, -1, truth).tolist()
    with pytest.raises(BadInput, match=r"classes that the model lacks.*: ring; the model has bar"):
        labels.labels_in(opened.split, MODEL)


@pytest.mark.parametrize("count", [2, 4])
def test_unnamed_classes_in_another_number_are_refused(count):
    with pytest.raises(BadInput, match=f"m has {count} unnamed classes, the model has 3"):
        class_map(count, MODEL, "m")


def test_unnamed_classes_in_the_same_number_stand_in_the_models_order():
    assert class_map(3, MODEL, "m").tolist() == [0, 1, 2]
    assert class_map(None, MODEL, "m").tolist() == [0, 1, 2]


def test_labels_come_in_the_models_order(home, target):
    opened = manifests.open_split(
        manifests.open_ref(manifests.manifest_ref(target)), "test", small.SPEC.input
    )
    inputs = small.target_arrays()
    truth = inputs["y"][inputs["split"] == 1]
    names = ("post", "cross", "bar")
    result = labels.labels_in(opened.split, names).index
    assert [names[i] for i in result] == [MODEL[i] for i in truth]
    assert opened.images.shape == (30, 16, 16, 1)
    assert np.array_equal(opened.images[..., 0], inputs["x"][inputs["split"] == 1])
    assert opened.info().size == 30


def test_labels_are_not_there_once_they_are_dropped(home, target):
    unlabelled = manifests.open_ref(manifests.manifest_ref(target)).unlabelled()
    opened = manifests.open_split(unlabelled, "test", small.SPEC.input)
    with pytest.raises(BadInput, match="has no labels in 'test'"):
        labels.labels_in(opened.split, MODEL)
    assert not manifests.has_labels(unlabelled, "test")
    assert manifests.has_labels(manifests.open_ref(manifests.manifest_ref(target)), "test")
    assert not manifests.has_labels(manifests.open_ref(manifests.manifest_ref(target)), "elsewhere")


def test_what_is_seen_has_no_label_in_it(home, tmp_path):
    inputs = small.target_arrays()
    shuffled = inputs | {"y": np.random.default_rng(0).permutation(inputs["y"])}
    bare = {name: array for name, array in inputs.items() if name != "y"}
    other = inputs | {"x": inputs["x"] ^ 1}
    seen = [
        manifests.seen_digest(
            manifests.manifest_ref(small.write(tmp_path / str(i), "t", arrays, small.TARGET)),
            "adapt",
        )
        for i, arrays in enumerate((inputs, shuffled, bare, other))
    ]
    assert seen[0] == seen[1] == seen[2] != seen[3]


def test_a_manifest_that_changes_while_the_job_runs_is_refused(home, target):
    ref = manifests.manifest_ref(target)
    document = yaml.safe_load(target.read_text())
    target.write_text(yaml.safe_dump(document | {"version": 2}))
    with pytest.raises(BadInput, match=r"target\.yaml has changed while the job ran"):
        manifests.open_ref(ref)


def test_an_archive_that_is_not_the_manifests_is_refused_at_the_first_look(home, target):
    inputs = small.target_arrays()
    np.savez(target.with_suffix(".npz"), **(inputs | {"y": inputs["y"][::-1]}))
    with pytest.raises(
        BadInput, match=r"target\.npz is not the file that .*target\.yaml was made for"
    ):
        manifests.manifest_ref(target)
    os.unlink(target.with_suffix(".npz"))
    with pytest.raises(BadInput, match=r"target\.npz is missing: the manifest names"):
        manifests.manifest_ref(target)


def test_classes_without_names_are_named_by_number(home, tmp_path):
    inputs = small.source_arrays()
    numbered = small.write(tmp_path, "n", inputs, small.SOURCE, classes=3)
    assert manifests.manifest_classes(manifests.manifest_ref(numbered)) == ("0", "1", "2")
    bare = {name: array for name, array in inputs.items() if name != "y"}
    nameless = small.write(tmp_path, "b", bare, small.SOURCE, classes=None)
    with pytest.raises(BadInput, match="names no classes, and training needs them"):
        manifests.manifest_classes(manifests.manifest_ref(nameless))


@pytest.mark.parametrize("split", ["test", "train"])
def test_other_masks_in_the_same_files_are_other_labels(home, tmp_path, split):
    path = small_seg.write(tmp_path, "target", small_seg.TARGET, seed=3)
    ref = manifests.manifest_ref(path)
    result = open_manifest(path)
    split = split if split in result.splits else "test"
    before = manifests.label_files_digest(ref, split)
    assert before == manifests.label_files_digest(ref, split)
    assert manifests.evaluation_split(ref, split).masks == before
    inspected = inspect_split(result, split)
    file = result.location / inspected.label_files[0]
    Image.fromarray(2 - np.asarray(Image.open(file)).clip(0, 2)).save(file)
    assert manifests.manifest_ref(path) == ref, "the manifest does not tell"
    assert manifests.label_files_digest(ref, split) != before


def test_labels_that_are_no_files_need_no_digest(home, target):
    ref = manifests.manifest_ref(target)
    assert manifests.label_files_digest(ref, "test") is None


def test_a_job_keeps_the_manifest_that_it_began_with(home, tmp_path):
    """Another look at the folder, for another problem or with more images, makes another."""
    folder = tmp_path / "site"
    folder.mkdir()
    for n in range(3):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(folder / f"{n}.png")
    first = adaptation_target.as_manifest(str(folder), lambda: "classification")
    ref = manifests.manifest_ref(first)
    assert adaptation_target.as_manifest(str(folder), lambda: "classification") == first
    other = adaptation_target.as_manifest(str(folder), lambda: "detection")
    Image.new("RGB", (8, 8)).save(folder / "3.png")
    more = adaptation_target.as_manifest(str(folder), lambda: "classification")
    assert len({first, other, more}) == 3
    assert manifests.open_ref(ref).problem == "classification"
    assert [open_manifest(path).splits["adapt"].count for path in (first, other, more)] == [3, 3, 4]
    rows = manifests.open_ref(ref).rows_path(open_manifest(first).splits["adapt"])
    rows.write_text("file\n")  # what was spoilt is made anew
    (folder / "3.png").unlink()
    assert adaptation_target.as_manifest(str(folder), lambda: "classification") == first
    assert rows.read_text() != "file\n"
    assert not list((home / "manifests").glob(".making*"))
