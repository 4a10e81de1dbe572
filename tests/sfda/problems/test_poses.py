"""Heatmaps, warps, crops, metrics and the prior, against values by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small_pose
import torch
from PIL import Image

from sfda import plugins
from sfda.augment.geometric import Moved, WarpMaker, joints_in_view
from sfda.building_blocks.heatmaps import joints_from_maps, peaks, render, soft_argmax, target_maps
from sfda.building_blocks.warps import features_back, maps_back, points_back
from sfda.config import merged
from sfda.errors import BadInput
from sfda.formats.keypoints import Person
from sfda.images.crops import Crop, cut, from_crop_frame, square, to_crop_frame
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.manifests.verify import verify_manifest
from sfda.problems.pose import network as pose
from sfda.problems.pose.loss import decorrelation, surer_part
from sfda.problems.pose.metrics import PoseMetric
from sfda.problems.pose.network import PoseOutput
from sfda.problems.pose.panel import PoseSample, pose_panel
from sfda.problems.pose.prior import PosePrior, directions, tree
from sfda.problems.pose.prior_training import PriorConfig, learn_prior, pose_distance, turned
from sfda.problems.pose.teaching import occluded, teacher_maps
from sfda.refs import InputSpec, Skeleton
from sfda.testing.toys import pose as toypose
from sfda.types import Clock, SeenViews, Warp

SPEC = InputSpec(size=(256, 256), mean=(0.0,) * 3, std=(1.0,) * 3)
STILL = pose.VIEWS.model_copy(update={"jitter": 0.0})


def warp_of(moved: Moved) -> Warp:
    return Warp(torch.from_numpy(moved.matrices), torch.from_numpy(moved.flipped))


def test_a_thousand_warps_and_back_miss_by_less_than_half_a_pixel_of_the_map():
    count = 1000
    joints = np.random.default_rng(0).uniform(96, 160, (count, 4, 2))
    maker = WarpMaker(SPEC, STILL, seed=0)
    moved = maker.moved(np.zeros((count, 256, 256, 3), np.uint8), 0, np.arange(count), 0)
    there = torch.from_numpy(joints_in_view(joints, moved, (256, 256)))
    back = points_back(there.float(), warp_of(moved), (256, 256))
    assert float((back - torch.from_numpy(joints)).abs().max()) < 1e-3  # of the image
    # Gaussians that are not rounded to pixels, so that nothing but the warp is measured
    axis = torch.arange(64.0)
    across = (axis - there[..., :1] / 4) ** 2
    down = (axis - there[..., 1:] / 4) ** 2
    maps = torch.exp(-(down[..., :, None] + across[..., None, :]) / 8).float()
    result = soft_argmax(maps_back(maps, warp_of(moved), image=(256, 256)), 20.0)
    inside = ((there > 8) & (there < 248)).all(-1)
    miss = (result - torch.from_numpy(joints) / 4).norm(dim=-1)[inside]
    assert inside.float().mean() > 0.99
    assert float(miss.max()) < 0.5
    assert float(miss.mean()) < 0.1


def test_an_image_moves_as_its_joints_do():
    images = np.zeros((6, 256, 256, 3), np.uint8)
    joints = np.random.default_rng(1).integers(100, 156, (6, 1, 2)).astype(float)
    for image, (x, y) in zip(images, joints[:, 0].astype(int), strict=True):
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    views = STILL.model_copy(update={"flip": True})
    moved = WarpMaker(SPEC, views, seed=0).moved(images, 0, np.arange(6), 1)
    rows, columns = np.mgrid[:256, :256]
    for view, joint in zip(moved.views, joints_in_view(joints, moved, (256, 256)), strict=True):
        weight = view[..., 0].astype(float)
        centre = (columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()
        assert centre == pytest.approx(tuple(joint[0]), abs=0.2)
    assert 0 < moved.flipped.sum() < 6
    # alone, in another order, in another batch: a row's view is the same
    again = WarpMaker(SPEC, views, seed=0).moved(images[[3, 1]], 0, np.array([3, 1]), 1)
    assert (again.views == moved.views[[3, 1]]).all()
    assert (again.matrices == moved.matrices[[3, 1]]).all()


def test_mirrored_maps_come_back_with_left_and_right_changed():
    flip = Warp(torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]]), torch.tensor([True]))
    maps = render(torch.tensor([[[10, 20], [40, 30]]]), size=(64, 64))
    back = maps_back(maps, flip, image=(256, 256), pairs=[(0, 1)])
    folder, _ = peaks(back)
    # pixel i stands for the image's pixel 4 i, whose mirror 255 - 4 i lies at 63.75 - i
    assert folder[0, 1].tolist() in ([54, 20], [53, 20])
    assert folder[0, 0].tolist() in ([24, 30], [23, 30])
    assert maps_back(maps, None, image=(256, 256)) is maps
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    torch.testing.assert_close(features_back(ramp, flip), ramp.flip(-1))


def test_reading_a_map_at_its_edges():
    maps = torch.zeros(1, 3, 8, 8)
    maps[0, 0, 2, 5] = 1.0
    maps[0, 0, 2, 6] = 0.5  # a quarter towards it
    maps[0, 1, 7, 7] = 0.4
    joints, peak = joints_from_maps(maps, image=(32, 32))
    assert joints[0, 0].tolist() == [(5 + 0.25) * 4, 8.0]
    assert joints[0, 1].tolist() == [28.0, 28.0]
    assert joints[0, 2].tolist() == [0.0, 0.0]  # nothing is above 0
    assert peak[0].tolist() == pytest.approx([1.0, 0.4, 0.0])
    drawn, weight = target_maps(
        torch.tensor([[[10.0, 6.0]]]), torch.ones(1, 1), image=(32, 32), size=(8, 8)
    )
    assert peaks(drawn)[0].tolist() == [[[3, 2]]]
    assert weight.tolist() == [[1.0]]


def test_the_surer_half_and_a_batch_of_one():
    assert surer_part(torch.tensor([[0.1, 0.4], [0.3, 0.2]]), 0.5).tolist() == [
        [False, True], [True, False]
    ]  # fmt: skip
    assert surer_part(torch.ones(1, 2), 0.0).all()
    one = torch.randn(1, 4, requires_grad=True)
    assert float(decorrelation(one, one).detach()) == 0.0
    dead = torch.cat([torch.randn(8, 3), torch.zeros(8, 1)], 1)
    assert bool(decorrelation(dead, dead).isfinite())


def test_crops_hold_the_person_and_lead_back():
    crop = square((10, 20, 30, 60), 1.25)
    assert crop == Crop(-12, 12, 75)
    image = np.arange(100 * 80, dtype=np.uint16).reshape(100, 80)
    part = cut(image, crop)
    assert part.shape == (75, 75)
    assert part[0, 12] == image[12, 0]
    assert (part[:, :12] == 0).all()
    joints = np.array([[10.0, 20.0], [39.0, 79.0]])
    there = to_crop_frame(joints, crop, (150, 150))
    np.testing.assert_allclose(there[0], ((10 + 12 + 0.5) * 2 - 0.5, (20 - 12 + 0.5) * 2 - 0.5))
    np.testing.assert_allclose(from_crop_frame(there, crop, (150, 150)), joints)


def test_persons_are_rows_and_their_joints_go_by_name(tmp_path: Path):
    path = small_pose.write(tmp_path, "target", {"test": 3})
    manifest = open_manifest(path)
    split = read_split(manifest, "test")
    assert split.names == ("000.png@1", "001.png@1", "002.png@1")
    assert split.labels is not None
    assert split.image(0).shape == (66, 66, 3)  # 60 pixels, 1.1 times
    assert verify_manifest(path).ok
    seen = read_split(manifest.unlabelled(), "test")
    assert seen.labels is None
    assert seen.image(0).shape == (66, 66, 3)  # where a person is, is no label
    before = unlabelled_digest(manifest, "test")
    table = tmp_path / "target.json"
    document = json.loads(table.read_text())
    for entry in document["annotations"]:
        entry["keypoints"] = entry["keypoints"][3:] + entry["keypoints"][:3]
    again = small_pose.write(tmp_path, "target", {"test": 3}, annotations=document["annotations"])
    assert unlabelled_digest(open_manifest(again), "test") == before
    document["annotations"][0]["keypoints"] = [1, 2]
    broken = small_pose.write(tmp_path, "target", {"test": 3}, annotations=document["annotations"])
    with pytest.raises(BadInput, match="keypoints are not x, y, v of each joint: 0"):
        read_split(open_manifest(broken), "test")
    changed = small_pose.write(tmp_path, "target", {"test": 3}, classes=["head", "tail"])
    with pytest.raises(BadInput, match="`skeleton` names what is no joint"):
        open_manifest(changed)


def person(*joints: tuple[float, float, int]) -> Person:
    table = np.array(joints, np.float32)
    return Person(table[:, :2], (table[:, 2] > 0).astype(np.float32), (0, 0, 40, 20), 400.0)


def test_pck_by_hand():
    skeleton = Skeleton(unit=("a", "b"), groups={"both": ("a", "b")})
    metric = PoseMetric(("a", "b", "c"), skeleton)
    truth = person((0, 0, 2), (20, 0, 2), (5, 5, 0))  # the unit is 20 pixels; c is not labelled
    metric.update(np.array([[0.9, 0], [23, 0], [90, 90]]), np.ones(3), truth)
    result = metric.compute()
    assert result["pck_at_0.05"] == 0.5
    assert result["pck_at_0.1"] == 0.5
    assert result["pck_at_0.2"] == 1.0
    assert result["mean_distance"] == pytest.approx((0.9 + 3) / 2 / 20)
    assert metric.per_class()["c"] == {"count": 0.0}
    assert metric.per_class()["group both"] == {"count": 2.0, "pck": 0.5, "pck_at_0.2": 1.0}
    assert "distance between a and b" in metric.note()
    lost = PoseMetric(("a", "b", "c"), skeleton)
    lost.update(np.zeros((3, 2)), np.ones(3), person((0, 0, 2), (9, 9, 0), (1, 1, 2)))
    assert lost.compute()["pck_at_0.1"] == 0.0  # without b there is no unit
    box = PoseMetric(("a", "b", "c"), Skeleton())
    box.update(np.array([[3.9, 0], [20, 0], [0, 0]]), np.ones(3), truth)
    assert box.compute()["pck_at_0.1"] == 1.0  # the box's longer side is 40
    with pytest.raises(ValueError, match="no persons"):
        PoseMetric(("a",), Skeleton()).compute()


def test_oks_by_hand():
    """exp(-d^2 / (2 area (2 sigma)^2)): with sigma 0.05 and area 400, d = 2.4 gives 0.6977."""
    truth = person((0, 0, 2), (20, 0, 2), (5, 5, 2))
    metric = PoseMetric(("a", "b", "c"), Skeleton())
    metric.update(truth.joints + np.array([2.4, 0]), np.ones(3), truth)
    similarity = np.exp(-(2.4**2) / (2 * 400 * 0.1**2))
    thresholds = np.arange(0.5, 1.0, 0.05)
    assert metric.compute()["oks_ap"] == pytest.approx((similarity >= thresholds).mean())
    sure = PoseMetric(("a", "b", "c"), Skeleton(sigmas={"a": 1.0, "b": 1.0, "c": 1.0}))
    sure.update(truth.joints + 2.4, np.ones(3), truth)
    assert sure.compute()["oks_ap"] == pytest.approx(1.0)


def test_a_tree_out_of_any_skeleton():
    bones, parents = tree([(0, 1), (1, 2), (2, 3), (1, 4), (3, 0)], 5)
    assert bones[:3] == [(0, 1), (2, 1), (4, 1)]
    assert parents[:3] == [-1, -1, -1]
    assert len(bones) == 4  # a circle is cut
    assert parents[3] in (0, 1)
    with pytest.raises(BadInput, match="falls apart"):
        tree([(0, 1), (2, 3)], 4)
    with pytest.raises(BadInput, match="joins no two"):
        tree([(0, 9)], 3)
    with pytest.raises(BadInput, match="parent that comes before it"):
        PosePrior([(0, 1)], [0])


@pytest.mark.slow  # 18 s of training
def test_a_prior_tells_real_poses_from_others_and_can_be_followed():
    rng = np.random.default_rng(0)
    angle = torch.from_numpy(rng.normal(0, 0.15, (400, 3))).float()
    steps = torch.stack([angle.sin(), angle.cos()], -1)
    joints = torch.cat([torch.zeros(400, 1, 2), steps.cumsum(1)], 1)  # nearly straight chains
    bones, parents = tree([(0, 1), (1, 2), (2, 3)], 4)
    config = PriorConfig(hidden=(32, 32), steps=(150, 150, 300), batch_size=128, lr=3e-3)
    prior, report = learn_prior(joints, bones, parents, config)
    assert report.faults == []
    bent = joints.clone()[:5]
    bent[:, 3] = bent[:, 2] + torch.tensor([0.0, -1.0])  # the last bone points back
    bent.requires_grad_()
    score = prior.of_joints(bent)
    assert float(score.detach().min()) > float(prior.of_joints(joints).detach().mean()) + 0.2
    score.sum().backward()
    assert bent.grad is not None
    assert bool(bent.grad.isfinite().all())
    same, _ = learn_prior(joints, bones, parents, config)
    torch.testing.assert_close(same.of_joints(joints), prior.of_joints(joints))
    with pytest.raises(BadInput, match="too few for a prior"):
        learn_prior(joints[:20], bones, parents, config)
    lone = torch.zeros(1, 4, 2, requires_grad=True)  # all joints on one pixel
    directions(lone, bones).sum().backward()
    assert bool(lone.grad.isfinite().all())


def test_disturbed_poses_and_their_distance():
    vectors = torch.tensor([[[1.0, 0.0], [0.0, -1.0]]])
    turn = torch.tensor([[np.pi / 2, np.pi]]).float()
    moved = turned(vectors, turn)
    torch.testing.assert_close(moved, torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), atol=1e-6, rtol=0)
    real = vectors.expand(7, 2, 2)
    far = (np.sqrt(2) + 2) / 2
    torch.testing.assert_close(pose_distance(moved, real), torch.tensor([far]).float())
    one, angle = torch.tensor([[[0.6, 0.8]]]), torch.tensor([[0.2]])
    torch.testing.assert_close(turned(one, angle, "release"), turned(one, angle))


def test_an_occluded_image_loses_a_joint_where_it_lies_in_the_view():
    x, _ = toypose.images(seed=3, size=8)
    model = toypose.source()
    still = torch.eye(3)[:2].expand(8, 2, 3).clone()
    still[:, 0, 2] = 0.25  # view to image: four pixels to the right
    warp = Warp(still, torch.zeros(8, dtype=torch.bool))
    batch = toypose.batch(x, list(range(8)))
    taught = teacher_maps(model, batch, 0.5)
    torch.manual_seed(0)
    result = occluded(x, taught, warp, rate=1.0, above=0.2, half=3 / 32)
    changed = (result != x).any(1)
    assert changed.flatten(1).any(1).all()
    for i in range(8):
        rows, columns = changed[i].nonzero().unbind(1)
        middle = torch.tensor([columns.float().mean(), rows.float().mean()])
        near = (taught.positions[i] * 4 - torch.tensor([4.0, 0.0]) - middle).norm(dim=1).min()
        assert float(near) < 4
    assert occluded(x, taught, warp, rate=1.0, above=9.0, half=0.1).equal(x)


def made(**settings: object) -> object:
    kind = plugins.load("methods", "post")
    config = kind.Config.from_settings(merged({"occlude": 0.0}, dict(settings)))
    method = kind(toypose.source(), toypose.info(), config)
    method.train()
    return method


def test_the_prior_joins_at_its_epoch_and_each_part_can_be_left_out():
    x, _ = toypose.images(0.3, seed=1)
    batch = toypose.batch(x, list(range(8)))
    early, late = Clock(0, 4, 9), Clock(28, 4, 9)
    method = made()
    first = method.losses(batch, early)
    assert set(first) == {"prediction", "feature"}
    method = made()
    then = method.losses(batch, late)
    assert set(then) == {"prediction", "feature", "prior"}
    torch.testing.assert_close(then["feature"], 2 * first["feature"], rtol=1e-4, atol=1e-9)
    bare = made(feature=0.0, prior=0.0).losses(batch, late)
    assert float(bare["feature"].detach()) == 0.0
    assert "prior" not in bare
    teacher = plugins.load("methods", "mean_teacher")
    inputs = merged(teacher.defaults_for("pose"), {})
    plain = teacher(toypose.source(), toypose.info(), teacher.Config.from_settings(inputs))
    plain.train()
    alone = plain.losses(batch, late)
    torch.testing.assert_close(alone["prediction"], bare["prediction"], rtol=1e-4, atol=1e-8)


def score(name: str, weak: torch.Tensor, strong: torch.Tensor | None = None) -> float:
    validator = plugins.load("validators", name)()
    one, other = (
        PoseOutput(m, m, torch.tensor([0.5])) for m in (weak, weak if strong is None else strong)
    )
    validator.refer({"classes": {}})
    validator.update(SeenViews(torch.arange(len(weak)), one, one, other))
    return validator.compute()


def test_choices_without_labels():
    sharp = render(torch.tensor([[[10, 10], [20, 20]]]), size=(32, 32), sigma=1.0)
    wide = render(torch.tensor([[[10, 10], [20, 20]]]), size=(32, 32), sigma=3.0)
    assert score("entropy", sharp) > score("entropy", wide)
    moved = render(torch.tensor([[[11, 10], [28, 20]]]), size=(32, 32))
    assert score("agreement", sharp, moved) == 0.5  # one of the joints is elsewhere
    assert score("agreement", sharp) == 1.0
    assert score("plausible", sharp) == -0.5


def test_a_panel_of_poses(tmp_path: Path):
    image = np.full((40, 40, 3), 120, np.uint8)
    one, other = np.array([[5.0, 5], [30, 30]]), np.array([[5.0, 9], [30, 26]])
    sample = PoseSample("a.png@1", image, one, other, np.array([[5.0, 5], [np.nan, np.nan]]))
    assert sample.moved == pytest.approx(0.1)
    (tmp_path / "panel.png").write_bytes(pose_panel([sample], ["a", "b"], [(0, 1)], title="t"))
    assert len(np.unique(np.array(Image.open(tmp_path / "panel.png")).reshape(-1, 4), axis=0)) > 20
