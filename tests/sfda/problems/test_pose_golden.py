"""Pose against what the authors' released code returned; origins in tests/golden/README.md."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from golden_files import load
from torchvision.transforms import functional as TF

from sfda.building_blocks.heatmaps import peaks, render, soft_argmax, target_maps
from sfda.building_blocks.warps import linear
from sfda.problems.pose.loss import (
    cross_correlation,
    decorrelation,
    heatmap_consistency,
    joints_mse,
    surer_part,
)
from sfda.problems.pose.prior import BODY, BODY_PARENTS, PosePrior, directions

NORMED = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}


def three_steps_back(
    maps: torch.Tensor, params: Sequence[Sequence[float]], *, stride: float
) -> torch.Tensor:
    """POST's own inverse, for conformance: three warps by the nearest pixel, one after the other.

    `params` are, by image, (angle, tx, ty, shear x, shear y, scale) of the inverse, the
    translation in pixels of the image. What an intermediate step pushes out is lost.
    """
    moved_back = []
    for image, (angle, tx, ty, sx, sy, scale) in zip(maps, params, strict=True):
        moved = TF.affine(image, 0.0, [tx / stride, ty / stride], 1.0, [0.0, 0.0])
        moved = TF.affine(moved, angle, [0, 0], scale, [0.0, 0.0])
        moved_back.append(TF.affine(moved, 0.0, [0, 0], 1.0, [sx, sy]))
    return torch.stack(moved_back)


@pytest.mark.parametrize(
    ("key", "image", "size", "sigma"),
    [("64", (256, 256), (64, 64), 2.0), ("8", (256, 256), (8, 8), 2.0),
     ("48x64_s3", (256, 192), (64, 48), 3.0)],
)  # fmt: skip
def test_targets_at_every_edge(key, image, size, sigma):
    case = load("heatmap_targets")
    visible = case["visible"][None, :, 0]
    maps, weight = target_maps(case["joints"][None], visible, image=image, size=size, sigma=sigma)
    torch.testing.assert_close(maps[0], case[f"target_{key}"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight[0], case[f"weight_{key}"][:, 0])


def test_losses_of_heatmaps():
    case = load("losses")
    output = case["output"].clone().requires_grad_()
    weight = case["weight"][..., 0]
    loss = joints_mse(output, case["target"], weight)
    assert float(loss.detach()) == pytest.approx(float(case["joints_mse"]), rel=1e-5)
    loss.backward()
    torch.testing.assert_close(output.grad, case["joints_mse_grad"], rtol=1e-4, atol=1e-8)
    plain = joints_mse(case["output"], case["target"], torch.ones_like(weight))
    assert float(plain) == pytest.approx(float(case["joints_mse_noweight"]), rel=1e-5)
    for mask, known in ((case["tea_mask"], "cons_masked"), (weight >= -9, "cons_nomask")):
        result = heatmap_consistency(case["output"], case["target"], mask)
        assert float(result) == pytest.approx(float(case[known]), rel=1e-5)


def test_the_affine_and_its_inverse_in_three_steps():
    case = load("affine_roundtrip")
    joints = case["keypoints"]
    for (angle, sx, sy, tx, ty, scale), forward in zip(
        case["cases"].tolist(), case["keypoints_forward"], strict=True
    ):
        matrix = torch.from_numpy(linear(angle, (sx, sy), scale))
        moved = (joints - 128) @ matrix.T + 128 + torch.tensor([tx, ty])
        torch.testing.assert_close(moved, forward, rtol=1e-6, atol=1e-6)
    params = case["aug_param"].tolist()
    ones = torch.ones(len(params), 16)
    maps, _ = target_maps(case["keypoints_forward"], ones, image=(256, 256), size=(64, 64))
    back = three_steps_back(maps, params, stride=4)
    torch.testing.assert_close(back, case["heat_inverse"], rtol=1e-5, atol=1e-6)
    folder, _ = peaks(back)
    assert folder.float().tolist() == case["argmax_after_inverse"].tolist()
    feature = case["feature"].expand(len(params), -1, -1, -1)
    back = three_steps_back(feature, params, stride=32)
    torch.testing.assert_close(back, case["feature_inverse"], rtol=1e-5, atol=1e-6)


def released_prior() -> tuple[PosePrior, dict[str, torch.Tensor]]:
    case = load("prior_net")
    prior = PosePrior(BODY, BODY_PARENTS, hidden=(16, 16, 16))
    weights = {}
    for name, value in case.items():
        part = name.split(".")
        if name.startswith("w.enc"):
            weights[f"encoders.{part[3]}.{part[5]}.{part[6]}"] = value
        elif name.startswith("w.dfnet"):
            number = part[2].removeprefix("lin")
            kind = NORMED.get(part[3], part[3])
            weights[f"layers.{number}.{kind}"] = value
    prior.load_state_dict(weights)
    return prior, case


def test_the_prior_and_its_gradient():
    prior, case = released_prior()
    result = directions(case["coords"], BODY)
    torch.testing.assert_close(result.float(), case["orientations"], rtol=1e-5, atol=1e-6)
    for number, layer in enumerate(prior.layers):
        torch.testing.assert_close(layer.weight, case[f"eff.lin{number}.weight"])
    maps = case["heatmaps"].clone().requires_grad_()
    vectors = directions(soft_argmax(maps, 500.0), BODY)
    torch.testing.assert_close(vectors, case["heatmap_orientations"], rtol=1e-4, atol=1e-5)
    score = prior(vectors)
    torch.testing.assert_close(score, case["score"][:, 0], rtol=1e-4, atol=1e-6)
    score.mean().backward()
    assert float(score.detach().mean()) == pytest.approx(float(case["loss_p"]), rel=1e-4)
    most = maps.grad.abs().flatten(2).amax(-1)
    torch.testing.assert_close(most, case["grad_heatmaps_max"], rtol=1e-2, atol=1e-9)


def test_one_step_before_the_prior_joins():
    case = load("post_step_before_prior")
    student = case["y_student"].clone().requires_grad_()
    feature = case["f_student"].clone().requires_grad_()
    own, other = (case[f"inv_aug_{side}"].tolist() for side in ("student", "teacher"))
    teacher = three_steps_back(case["y_teacher"], other, stride=4)
    output = three_steps_back(student, own, stride=4)
    torch.testing.assert_close(output.detach(), case["y_student_back"])
    folder, peak = peaks(teacher)
    torch.testing.assert_close(peak, case["teacher_peak"])
    mask = surer_part(peak, 0.5)
    assert mask.tolist() == case["mask"].tolist()
    pseudo = render(folder, size=(64, 64))
    torch.testing.assert_close(pseudo, case["pseudo_heatmap"], rtol=1e-5, atol=1e-6)
    loss_c = heatmap_consistency(output, pseudo, mask)
    assert float(loss_c.detach()) == pytest.approx(float(case["loss_c"]), rel=1e-5)
    one = three_steps_back(feature, own, stride=32)
    two = three_steps_back(case["f_teacher"], other, stride=32)
    torch.testing.assert_close(one.detach(), case["f_student_back"])
    torch.testing.assert_close(two, case["f_teacher_back"])
    pooled = one.mean((2, 3)), two.mean((2, 3))
    result = cross_correlation(*pooled).detach()
    off = ~torch.eye(len(result), dtype=torch.bool)
    torch.testing.assert_close(result[off], case["cross_correlation"][off], rtol=1e-4, atol=1e-5)
    loss_b = decorrelation(*pooled)
    assert float(loss_b.detach()) == pytest.approx(float(case["loss_b"]), rel=1e-4)
    total = loss_c + 0.5 * 1e-3 * loss_b
    assert float(total.detach()) == pytest.approx(float(case["loss_all"]), rel=1e-5)
    total.backward()
    torch.testing.assert_close(feature.grad, case["grad_f_student"], rtol=1e-3, atol=1e-10)
    torch.testing.assert_close(
        student.grad.sum((2, 3)), case["grad_y_student_sum"], rtol=1e-3, atol=1e-9
    )
