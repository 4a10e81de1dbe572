"""Manifests as the stages use them: verified at the first look, classes mapped by name."""

import os

import numpy as np
import pytest
import small
import yaml

from sfda.errors import BadInput
from sfda.refs import ModelRef
from tasks import manifests
from tasks.manifests import class_map

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


def test_a_class_that_the_model_lacks_is_named():
    with pytest.raises(BadInput, match="m names classes that the model lacks: ring, star; the mod"):
        class_map(("bar", "ring", "star"), MODEL, "m")


@pytest.mark.parametrize("count", [2, 4])
def test_unnamed_classes_in_another_number_are_refused(count):
    with pytest.raises(BadInput, match=f"m has {count} unnamed classes, the model has 3"):
        class_map(count, MODEL, "m")


def test_unnamed_classes_in_the_same_number_stand_in_the_models_order():
    assert class_map(3, MODEL, "m").tolist() == [0, 1, 2]
    assert class_map(None, MODEL, "m").tolist() == [0, 1, 2]


def test_labels_come_in_the_models_order(home, target):
    opened = manifests.open_split(
        manifests.open_ref(manifests.refer(target)), "test", small.SPEC.input
    )
    given = small.target_arrays()
    truth = given["y"][given["split"] == 1]
    names = ("post", "cross", "bar")
    model = ModelRef(uri="", sha256="", problem="classification", arch="a", classes=names)
    found = manifests.labels_for(opened.split, model)
    assert [names[i] for i in found] == [MODEL[i] for i in truth]
    assert opened.images.shape == (30, 16, 16, 1)
    assert np.array_equal(opened.images[..., 0], given["x"][given["split"] == 1])
    assert opened.info.size == 30


def test_labels_are_not_there_once_they_are_dropped(home, target):
    unlabelled = manifests.open_ref(manifests.refer(target)).unlabelled()
    opened = manifests.open_split(unlabelled, "test", small.SPEC.input)
    model = ModelRef(uri="", sha256="", problem="classification", arch="a", classes=MODEL)
    with pytest.raises(BadInput, match="has no labels in 'test'"):
        manifests.labels_for(opened.split, model)
    assert not manifests.has_labels(unlabelled, "test")
    assert manifests.has_labels(manifests.open_ref(manifests.refer(target)), "test")
    assert not manifests.has_labels(manifests.open_ref(manifests.refer(target)), "elsewhere")


def test_what_is_seen_has_no_label_in_it(home, tmp_path):
    given = small.target_arrays()
    shuffled = given | {"y": np.random.default_rng(0).permutation(given["y"])}
    bare = {name: array for name, array in given.items() if name != "y"}
    other = given | {"x": given["x"] ^ 1}
    seen = [
        manifests.seen_digest(
            manifests.refer(small.write(tmp_path / str(i), "t", arrays, small.TARGET)), "adapt"
        )
        for i, arrays in enumerate((given, shuffled, bare, other))
    ]
    assert seen[0] == seen[1] == seen[2] != seen[3]


def test_a_manifest_that_changes_while_the_job_runs_is_refused(home, target):
    ref = manifests.refer(target)
    document = yaml.safe_load(target.read_text())
    target.write_text(yaml.safe_dump(document | {"version": 2}))
    with pytest.raises(BadInput, match=r"target\.yaml has changed while the job ran"):
        manifests.open_ref(ref)


def test_an_archive_that_is_not_the_manifests_is_refused_at_the_first_look(home, target):
    given = small.target_arrays()
    np.savez(target.with_suffix(".npz"), **(given | {"y": given["y"][::-1]}))
    with pytest.raises(
        BadInput, match=r"target\.npz is not the file that .*target\.yaml was made for"
    ):
        manifests.refer(target)
    os.unlink(target.with_suffix(".npz"))
    with pytest.raises(BadInput, match=r"target\.npz, the archive of .*, is missing; set SFDA"):
        manifests.refer(target)


def test_classes_without_names_are_named_by_number(home, tmp_path):
    given = small.source_arrays()
    numbered = small.write(tmp_path, "n", given, small.SOURCE, classes=3)
    assert manifests.class_names(manifests.refer(numbered)) == ("0", "1", "2")
    bare = {name: array for name, array in given.items() if name != "y"}
    nameless = small.write(tmp_path, "b", bare, small.SOURCE, classes=None)
    with pytest.raises(BadInput, match="names no classes, and training needs them"):
        manifests.class_names(manifests.refer(nameless))
