"""Methods that learn from a few labels: LFTL, FT and LP-FT, against their authors' numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import small
import small_det
import small_seg
import torch
from golden_files import PassThrough, load
from torch import nn

from sfda import plugins
from sfda.adaptation.loop import adapt
from sfda.augment.geometric import WarpMaker
from sfda.augment.photometric import ViewMaker
from sfda.building_blocks.boxes import Boxes
from sfda.building_blocks.heatmaps import PoseTargets
from sfda.building_blocks.losses import diversity, entropy
from sfda.config import merged
from sfda.errors import BadInput
from sfda.loading.annotated_rows import (
    AnnotatedBatches,
    AnnotatedRows,
    BatchesWithAnnotated,
    with_annotated,
)
from sfda.loading.labelled_batches import LabelledLoader
from sfda.methods.ft import FineTuning
from sfda.methods.lftl import Lftl, LftlConfig, anchor_entropy
from sfda.methods.lp_ft import ProbingThenTuning
from sfda.methods.shot import Shot, ShotConfig
from sfda.problems._labels import ImageTargets
from sfda.problems.classification.network import Classifier
from sfda.problems.detection.labels import BoxTargets
from sfda.problems.detection.network import views_for
from sfda.problems.pose.labels import JointTargets
from sfda.problems.pose.network import VIEWS
from sfda.problems.registry import PROBLEMS
from sfda.problems.segmentation.labels import MaskTargets
from sfda.refs import InputSpec
from sfda.testing.toys import classification as toy
from sfda.testing.toys import detection as toydet
from sfda.testing.toys import multilabel as toymulti
from sfda.testing.toys import pose as toypose
from sfda.types import Clock, EpochEnd, Labelled, StepEnd, TargetBatch


def info(size: int, rows: Any) -> Any:
    return replace(toy.info(size), labelled=torch.as_tensor(rows))


def test_lftl_losses_are_those_of_the_released_code() -> None:
    g = load("lftl_vpa_im")
    network = Classifier(PassThrough(), nn.Identity(), nn.Identity(), feature_dim=8, num_classes=5)
    config = LftlConfig(lr_scale={}, momentum=float(g["momentum"]))
    method = Lftl(network, info(30, range(14)), config)
    method.memory.copy_(g["memory_before"])
    method._remember(torch.arange(14), g["emb_labeled_current"])
    torch.testing.assert_close(method.memory, g["memory_after"])
    features = g["emb_unlabeled"].clone().requires_grad_()
    result = anchor_entropy(features, method.memory)
    result.backward()
    assert float(result) == pytest.approx(float(g["vpa_loss"]), rel=1e-5)
    torch.testing.assert_close(features.grad, g["vpa_grad"], rtol=1e-4, atol=1e-7)
    logits = g["logits"].clone().requires_grad_()
    probs = logits.softmax(1)
    infomax = entropy(probs).mean() + diversity(probs)
    infomax.backward()
    assert float(infomax) == pytest.approx(float(g["im_loss"]), rel=1e-5)
    torch.testing.assert_close(logits.grad, g["im_grad"], rtol=1e-4, atol=1e-7)


def test_lftl_composes_and_writes_anchors_to_their_own_rows() -> None:
    g = load("lftl_vpa_im")
    network = Classifier(PassThrough(), nn.Identity(), nn.Identity(), feature_dim=5, num_classes=5)
    method = Lftl(network, info(40, [30, 7, 20]), LftlConfig(lr_scale={}, anchor_weight=2.0))
    labelled = Labelled(torch.tensor([20, 30]), g["logits"][:2], g["targets"][:2])
    losses = method.losses(TargetBatch(torch.arange(8), g["logits"][2:], labelled=labelled),
                           Clock(0, 1, 1))  # fmt: skip
    torch.testing.assert_close(method.memory[2], 0.9 * g["logits"][0])
    torch.testing.assert_close(method.memory[0], 0.9 * g["logits"][1])
    assert not method.memory[1].any()
    rest = g["logits"][2:]
    expected = {
        "class": nn.functional.cross_entropy(g["logits"][:2], g["targets"][:2]),
        "infomax": 0.9 * (entropy(rest.softmax(1)).mean() + diversity(rest.softmax(1))),
        "anchors": 2 * anchor_entropy(rest, method.memory),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_lftl_draws_so_many_unlabelled_as_balance_the_labelled() -> None:
    method = Lftl(toy.source(), info(120, range(10)),
                  LftlConfig(unlabelled="balanced", budget=30))  # fmt: skip
    rows = method.sample(0)
    assert len(rows) == 5 * 10, "ceil(2 * 30 / 10) - 1 times the labelled"
    assert rows.min() >= 10
    assert torch.equal(rows, method.sample(0))
    assert not torch.equal(rows, method.sample(1))
    torch.manual_seed(torch.initial_seed() + 1)
    assert not torch.equal(rows, method.sample(0)), "another run draws others"
    everything = Lftl(toy.source(), info(120, range(10)), LftlConfig())
    assert everything.sample(3).tolist() == list(range(10, 120))


def test_lftl_mixes_the_labelled_images_of_an_epoch_once() -> None:
    x, y = toy.images(0.5, seed=1)
    method = Lftl(toy.source(), info(120, range(10)), LftlConfig(mix_images=30))
    method.train()
    for _ in range(4):
        labelled = Labelled(torch.arange(10), x[:10], y[:10])
        method.losses(replace(toy.batch(x, range(10, 34)), labelled=labelled), Clock(0, 5, 3))
    mixes = list(method.end_epoch(Clock(4, 5, 3)))
    assert len(mixes) == 1, "30 of 40 images, in batches of 64"
    assert mixes[0]["mixed"].requires_grad
    assert list(method.end_epoch(Clock(4, 5, 3))) == []


def test_without_labels_nothing_is_learnt_from_them() -> None:
    for kind in (Lftl, FineTuning, ProbingThenTuning):
        with pytest.raises(BadInput, match="sfda query"):
            kind(toy.source(), toy.info(), kind.Config())


MODES = {"cls": "head", "BN": "norm", "clsBN": "head_norm", "feat": "features", "all": "all"}


@pytest.mark.parametrize("theirs", MODES)
def test_fine_tuning_trains_what_the_released_code_does(theirs: str) -> None:
    result = np.load(toy_golden("fewshot_modes"), allow_pickle=False)
    network = Classifier(
        nn.Sequential(
            nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        ),
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        feature_dim=2, num_classes=2,
    )  # fmt: skip
    method = FineTuning(network, info(4, [0]), FineTuning.Config(train=MODES[theirs]))
    method.train()

    def name(own: str) -> str:
        for ours, part in (("backbone", "netF"), ("bottleneck", "netB"), ("head", "netC"),
                           ("parametrizations.weight.original0", "weight_g"),
                           ("parametrizations.weight.original1", "weight_v")):  # fmt: skip
            own = own.replace(ours, part)
        return own

    training = {
        name(n) for n, m in method.student.named_modules()
        if n and m.training and "parametrizations" not in n
    }  # fmt: skip
    assert training == set(result[f"{theirs}_training"].tolist())
    trained = {name(n) for n, p in method.student.named_parameters() if p.requires_grad}
    assert trained == set(result[f"{theirs}_params"].tolist())


def toy_golden(name: str) -> Any:
    from golden_files import GOLDEN

    return GOLDEN / f"{name}.npz"


def small_rows(rows: Any, seed: int = 0) -> AnnotatedRows:
    inputs = small.target_arrays()
    return AnnotatedRows(
        inputs["x"][..., None], np.array(rows), ImageTargets(inputs["y"][rows]), small.SPEC.input,
        ViewMaker(small.SPEC.input, small.SPEC.views, seed=seed), seed=seed, device="cpu",
    )  # fmt: skip


def test_probing_comes_first_with_a_rate_and_an_optimiser_of_its_own() -> None:
    config = ProbingThenTuning.Config.from_settings(
        {"steps": 3, "head_epochs": 2, "schedule": {"epochs": 4, "batch_size": 6}}
    )
    rows = small_rows(range(9))
    method = ProbingThenTuning(
        small.source(), replace(small.info(48), labelled=torch.arange(9)), config
    )
    before = {n: p.clone() for n, p in method.student.state_dict().items()}
    look = small.look(small.target_arrays()["x"][:48])
    batches = with_annotated(small.batches(small.target_arrays()["x"][:48]), rows, method, 6)
    assert isinstance(batches, AnnotatedBatches)
    for event in adapt(method, batches, look, config.schedule):
        if isinstance(event, EpochEnd):
            epoch = event.clock.epoch
            groups = event.state.optimizer["param_groups"]
            for group in groups:
                assert group["lr"] == pytest.approx(1e-4 if epoch < 2 else 1e-5)
            for name, value in method.student.state_dict().items():
                changed = not torch.equal(value, before[name])
                assert changed <= (name.startswith("head") or epoch >= 2), name
            steps = {int(s["step"]) for s in event.state.optimizer["state"].values()}
            assert steps == {3 * (1 + epoch % 2)}, "Adam's moments begin anew"


def test_sharpness_takes_the_gradient_elsewhere() -> None:
    x, y = toy.images(0.5, seed=1)
    batch = TargetBatch(torch.arange(9), x[:9], labelled=Labelled(torch.arange(9), x[:9], y[:9]))
    losses = []
    for rho in (0.0, 0.05, 0.5):
        method = FineTuning(toy.source(), info(120, range(9)), FineTuning.Config(sharpness=rho))
        method.train()
        result = method.losses(batch, Clock(0, 1, 1))["class"]
        result.backward()
        assert all(p.grad is not None for p in method.student.parameters())
        losses.append(float(result))
    assert losses[0] < losses[1] < losses[2]


def test_labelled_batches_are_a_function_of_seed_and_epoch() -> None:
    target = small.batches(small.target_arrays()["x"][:48])
    loader = BatchesWithAnnotated(target, small_rows(range(5)), batch_size=4)
    assert loader.steps() == 6
    one, two, other = (list(loader.epoch(e)) for e in (0, 0, 1))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a.labelled.images, b.labelled.images, rtol=0, atol=0)
    assert [b.labelled.index.tolist() for b in one] != [b.labelled.index.tolist() for b in other]
    assert {len(b.labelled.index) for b in one} == {4, 2}, "a lone row is filled up"
    labels = small.target_arrays()["y"]
    for batch in one:
        assert batch.labelled.targets.tolist() == labels[batch.labelled.index].tolist()
    lone = next(BatchesWithAnnotated(target, small_rows([7]), batch_size=4).epoch(0))
    assert lone.labelled.index.tolist() == [7, 7]


def test_masks_move_with_their_images() -> None:
    images, masks = small_seg.shapes(8, seed=2)
    rows = AnnotatedRows(
        images, np.array([6, 2]), MaskTargets(masks[[6, 2]]), small_seg.SPEC.input,
        ViewMaker(small_seg.SPEC.input, small_seg.SPEC.views, seed=0), seed=0, device="cpu",
    )  # fmt: skip
    result = rows.make(np.array([0, 1, 0]), np.array([0, 0, 1]))
    assert result.index.tolist() == [6, 2, 6]
    assert result.targets.shape == (3, 32, 32)
    red = result.images[:, 0] - result.images[:, 2]
    assert float(red[result.targets == 1].min()) > float(red[result.targets == 2].max())


def test_boxes_move_with_their_images() -> None:
    pictures, result = small_det.images(8, seed=2)
    spec = InputSpec(size=(64, 64), mean=(0.0,) * 3, std=(1.0,) * 3)
    views = views_for(spec).model_copy(update={"flip": True, "jitter": 0.0, "blur": 0.0})
    boxes = [
        Boxes(
            torch.tensor([[x, y, x + w, y + h] for _, (x, y, w, h) in result[row]]).float(),
            torch.tensor([label for label, _ in result[row]]), torch.ones(len(result[row])),
        )
        for row in (6, 2)
    ]  # fmt: skip
    rows = AnnotatedRows(
        pictures, np.array([6, 2]), BoxTargets(boxes), spec, ViewMaker(spec, views, seed=0),
        seed=0, device="cpu",
    )  # fmt: skip
    inputs = rows.make(np.array([0, 1] * 8), np.repeat(np.arange(8), 2))
    moved = set()
    for image, own in zip(inputs.images, inputs.targets, strict=True):
        moved.add(tuple(own.boxes[0].tolist()))
        for (x1, y1, x2, y2), label in zip(own.boxes.long().tolist(), own.labels, strict=True):
            inside = image[:, y1:y2, x1:x2].mean((1, 2))
            assert int(inside[0] < inside[2]) == int(label), "red and blue"
    assert len(moved) == 4, "some views are mirrored"


def test_joints_move_with_their_images() -> None:
    spots = np.array([[[8.0, 10.0], [24.0, 20.0]], [[12.0, 22.0], [20.0, 8.0]]], np.float32)
    pictures = np.zeros((4, 32, 32, 3), np.uint8)
    for row, joints in zip((3, 1), spots.astype(int), strict=True):
        for channel, (x, y) in enumerate(joints):
            pictures[row, y - 1 : y + 2, x - 1 : x + 2, channel] = 255
    spec = InputSpec(size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    views = VIEWS.model_copy(update={"zoom": (0.8, 1.0), "jitter": 0.0})
    targets = JointTargets(
        PoseTargets(torch.from_numpy(spots), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    )
    maker = WarpMaker(spec, views, seed=0)
    rows = AnnotatedRows(pictures, np.array([3, 1]), targets, spec, maker, seed=0, device="cpu")
    inputs = rows.make(np.array([0, 1] * 8), np.repeat(np.arange(8), 2))
    assert inputs.targets.visible.tolist() == [[1, 1], [1, 0]] * 8
    seen = 0
    for image, joints in zip(inputs.images, inputs.targets.joints, strict=True):
        for channel, (x, y) in enumerate(joints.round().long().tolist()):
            if 2 < x < 29 and 2 < y < 29:
                seen += 1
                assert float(image[channel, y, x]) > 0.5
    assert seen > 16


def test_left_and_right_change_places_in_a_mirror() -> None:
    """A joint that is marked red in the picture is called left there, right in its mirror image."""
    spots = np.array([[[8.0, 10.0], [24.0, 20.0]]], np.float32)
    picture = np.zeros((1, 32, 32, 3), np.uint8)
    for channel, (x, y) in enumerate(spots[0].astype(int)):
        picture[0, y - 1 : y + 2, x - 1 : x + 2, channel] = 255
    spec = InputSpec(size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    still = {"rotate": 0.0, "shear": 0.0, "move": 0.0, "zoom": (1.0, 1.0), "jitter": 0.0}
    views = VIEWS.model_copy(update=still | {"flip": True})
    targets = PoseTargets(torch.from_numpy(spots), torch.tensor([[1.0, 0.0]]))
    made: dict[str, Any] = {"seed": 0, "device": "cpu"}
    one = JointTargets(targets, [(0, 1)])
    maker = WarpMaker(spec, views, seed=0)
    rows = AnnotatedRows(picture, np.array([0]), one, spec, maker, **made)
    alone = rows.make(np.zeros(16, np.int64), np.arange(16))
    twice = PoseTargets(*(torch.cat([part, part]) for part in targets))
    loader = LabelledLoader(
        np.repeat(picture, 2, 0), JointTargets(twice, [(0, 1)]), spec, views,
        problem=PROBLEMS["pose"], batch_size=2, **made,
    )  # fmt: skip
    batches = [next(iter(loader.epoch(epoch))).labelled for epoch in range(8)]
    for result in (alone, *batches):
        for image, joints, visible in zip(result.images, *result.targets, strict=True):
            first, second = joints.round().long().tolist()
            mirrored = first[0] != 8
            left, right = (second, first) if mirrored else (first, second)
            assert left == ([23, 10] if mirrored else [8, 10])
            assert float(image[0, left[1], left[0]]) > 0.9
            assert float(image[1, right[1], right[0]]) > 0.9
            assert visible.tolist() == ([0, 1] if mirrored else [1, 0])
    message = {tuple(joints.round().long().flatten().tolist()) for joints in alone.targets.joints}
    assert len(message) == 2


@pytest.mark.parametrize("toy_", [toydet, toypose, toymulti])
def test_labels_of_every_form_are_learnt_beside_a_method_and_alone(toy_: Any) -> None:
    """With each method the loss on what people said falls, and is the problem's own."""
    x, y = toy_.images(toy_.MILD, seed=1)
    few = torch.arange(4)
    for name, settings in (("mean_teacher", {}), ("ft", {"steps": 40})):
        kind = plugins.load("methods", name)
        inputs = merged(kind.defaults_for(toy_.PROBLEM), settings)
        config = kind.Config.from_settings(inputs)
        config = config.model_copy(update={"schedule": toy_.FAST})
        info = replace(toy_.info(), labelled=few)
        method = kind(toy_.source(), info, config)
        optimizer = torch.optim.Adam(method.student.parameters(), 1e-3)
        own = type(y)(*(part[:4] for part in y)) if isinstance(y, tuple) else y[:4]
        method.train()
        result = []
        for step in range(15):
            batch = TargetBatch(few, x[:4], x[:4], labelled=Labelled(few, x[:4], own))
            clock = Clock(step, 15, 1)
            if method.labelled_rows == "own":
                losses = method.losses(batch, clock)
            else:
                losses = method.labelled_losses(batch, clock)
                assert all(part.startswith("labelled_") for part in losses)
            optimizer.zero_grad()
            total = torch.stack(list(losses.values())).sum()
            total.backward()
            optimizer.step()
            result.append(float(total))
        assert len(losses) == (4 if toy_.PROBLEM == "detection" else 1)
        assert np.mean(result[-3:]) < 0.9 * np.mean(result[:3]), (name, result)


def test_a_detector_is_tuned_as_a_whole() -> None:
    kind = plugins.load("methods", "ft")
    info = replace(toydet.info(), labelled=torch.arange(2))
    for settings in ({"train": "head"}, {"sharpness": 0.05}):
        with pytest.raises(BadInput, match="tuned as a whole"):
            kind(toydet.source(), info, kind.Config.from_settings(settings))
    assert "detection" not in plugins.load("methods", "lp_ft").problems


def test_shot_with_labels_learns_what_it_is_told() -> None:
    inputs = small.target_arrays()
    x, y = inputs["x"][:48], inputs["y"][:48]
    config = ShotConfig.from_settings({"schedule": small.FAST | {"epochs": 6}})
    rows = list(range(12))
    losses: dict[str, list[float]] = {}
    for message in (False, True):
        method = Shot(small.source(), small.info(48), config)
        batches = with_annotated(small.batches(x), small_rows(rows) if message else None, method, 8)
        for event in adapt(method, batches, small.look(x), config.schedule):
            if isinstance(event, StepEnd) and message:
                for name, value in event.losses.items():
                    losses.setdefault(name, []).append(float(value))
        with torch.no_grad():
            out = torch.cat([s.output.logits for s in small.look(x)(method.student)])
        right = float((out.argmax(1).numpy() == y)[rows].mean())
    assert {"entropy", "diversity", "pseudo", "labelled_class"} == set(losses)
    assert np.mean(losses["labelled_class"][-6:]) < np.mean(losses["labelled_class"][:6])
    assert right > 0.9
