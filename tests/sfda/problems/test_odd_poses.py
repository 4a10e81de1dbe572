"""Poses under autocast, in a mirror, and of people with missing joints."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from sfda import plugins
from sfda.adaptation.prior import poses_in
from sfda.building_blocks.heatmaps import soft_argmax
from sfda.building_blocks.warps import features_back, inverted, maps_back, points_back
from sfda.errors import BadInput
from sfda.problems.pose.loss import cross_correlation, decorrelation
from sfda.problems.pose.prior import PosePrior, tree
from sfda.problems.pose.teaching import teacher_maps
from sfda.testing.toys import pose as toypose
from sfda.types import Clock, Warp


def test_geometry_and_losses_keep_their_digits_under_autocast():
    rng = torch.Generator().manual_seed(0)
    one, other = (torch.randn(16, 64, generator=rng) for _ in range(2))
    points = 256 * torch.rand(4, 5, 2, generator=rng)
    maps = torch.rand(4, 3, 16, 16, generator=rng)
    matrix = torch.tensor([[0.8, -0.6, 0.1], [0.6, 0.8, -0.05]]).expand(4, 2, 3)
    warp = Warp(matrix, torch.zeros(4, dtype=torch.bool))
    prior = PosePrior(*tree([(0, 1), (1, 2)], 3), hidden=(16,))
    model, (x, _) = toypose.source(), toypose.images(size=8)
    taught = toypose.batch(x, range(8))

    def everything():
        return (
            cross_correlation(one, other), decorrelation(one, other), inverted(matrix),
            points_back(points, warp, (256, 256)), maps_back(maps, warp, image=(64, 64)),
            features_back(maps, warp), prior.of_joints(points[:, :3]),
            *teacher_maps(model, taught, 0.5),
        )  # fmt: skip

    exact = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = everything()
    for a, b in zip(result, exact, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b)


def test_in_the_frame_of_the_image_a_mirrored_left_is_left_again():
    kind = plugins.load("methods", "post")
    config = kind.Config(prior_frame="canonical", prior_from=0, occlude=0.0)
    method = kind(toypose.source(), toypose.info(), config)
    seen = []

    class Prior(torch.nn.Module):
        def of_joints(self, joints):
            seen.append(joints.detach())
            return joints.sum((1, 2))

    method.student.eval()
    x, _ = toypose.images(size=8)
    other_way = x[:8].flip(-1)
    with torch.no_grad():
        shown = 4 * soft_argmax(method.student(other_way).heatmaps, config.sharpness)
    method.student.prior = Prior()
    method.student.pairs = ((0, 1),)
    mirror = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).expand(8, 2, 3)
    warp = Warp(mirror, torch.ones(8, dtype=torch.bool))
    batch = toypose.batch(x, range(8))
    method.losses(replace(batch, strong=other_way, strong_warp=warp), Clock(0, 1, 1))
    result = seen[-1]  # in eval mode the network itself asks the prior first
    expected = shown[:, [1, 0, 2]]
    expected[..., 0] = x.shape[-1] - 1 - expected[..., 0]
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=0.05)


def test_joints_on_no_bone_may_be_missing_from_poses(tmp_path):
    people = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 9, 9],
         "keypoints": [1, 1, 2, n, 5, 2, *((7, 8, 2) if n else (0, 0, 0)), 0, 0, 0]}
        for n in range(3)
    ]  # fmt: skip
    table = tmp_path / "poses.json"
    names = ["a", "b", "c", "pelvis"]
    table.write_text(
        json.dumps(
            {"images": [{"id": n, "file_name": f"{n}.png"} for n in range(3)],
             "categories": [{"id": 1, "name": "one", "keypoints": names}], "annotations": people}
        )
    )  # fmt: skip
    assert poses_in(table, None, tuple(names), [0, 1, 2]).shape == (2, 4, 2)
    assert poses_in(table, None, tuple(names), [0, 1]).shape == (3, 4, 2)
    with pytest.raises(BadInput, match="no person with all of the joints a, pelvis"):
        poses_in(table, None, tuple(names), [0, 3])
