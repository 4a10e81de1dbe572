"""Our arithmetic against what the authors' own code returned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_files import PassThrough, load
from torch import nn

from sfda.adaptation.schedule import learning_rate
from sfda.methods.aad import AaD, AaDConfig
from sfda.methods.shot import Shot, ShotConfig, centroid_labels
from sfda.problems.classification import loss as classification_loss
from sfda.problems.classification import network as classification
from sfda.problems.classification.network import Classifier
from sfda.settings import Schedule
from sfda.testing.toys import classification as toy
from sfda.types import Clock, TargetBatch, TargetInfo


def info(size: int) -> TargetInfo:
    return toy.info(size)


def test_shot_centroid_labels() -> None:
    g = load("shot_obtain_label_uda")
    probs = g["logits"].softmax(1)
    assert torch.equal(probs.argmax(1), g["argmax"])
    got = centroid_labels(g["feat"], probs, min_count=int(g["threshold"]))
    assert torch.equal(got, g["pseudo"])
    assert not torch.equal(got, g["argmax"]), "the rounds must change something"


def identity_classifier(classes: int) -> Classifier:
    return Classifier(
        PassThrough(), nn.Identity(), nn.Identity(), feature_dim=classes, num_classes=classes
    )


@pytest.mark.parametrize(
    ("case", "settings", "epoch"),
    [
        ("shot", {}, 1),
        ("im", {"pseudo_weight": 0.0}, 1),
        ("pda", {"diversity": False}, 1),
        ("visda_first", {"first_epoch_pseudo": False}, 0),
    ],
)
def test_shot_loss(case: str, settings: dict[str, Any], epoch: int) -> None:
    g = load("shot_loss")
    config = ShotConfig.from_settings({"lr_scale": {"backbone": 1.0, "head": 1.0}, **settings})
    method = Shot(identity_classifier(6), info(40), config)
    method.labels.copy_(g["mem_label"])
    logits = g["logits"].clone().requires_grad_()
    losses = method.losses(TargetBatch(g["tar_idx"], logits), Clock(epoch * 10, 10, 15))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert float(total) == pytest.approx(float(g[f"{case}_total"]), rel=1e-5)
    im = sum(float(v) for k, v in losses.items() if k != "pseudo")
    assert im == pytest.approx(float(g[f"{case}_im"]), rel=1e-5)
    torch.testing.assert_close(logits.grad, g[f"{case}_grad"], rtol=1e-4, atol=1e-7)


def test_shot_first_interval_ends_as_the_first_epoch_does_its_last_step() -> None:
    g = load("shot_loss")
    config = ShotConfig.from_settings(
        {"lr_scale": {"backbone": 1.0, "head": 1.0}, "first_epoch_pseudo": False}
    )
    method = Shot(identity_classifier(6), info(40), config)
    batch = TargetBatch(g["tar_idx"], g["logits"])
    assert "pseudo" not in method.losses(batch, Clock(8, 10, 15))  # t = 9 < T / 15
    assert "pseudo" in method.losses(batch, Clock(9, 10, 15))


def test_aad_takes_fewer_neighbours_after_half_of_the_run() -> None:
    method = AaD(toy.source(), info(40), AaDConfig(neighbours=3, late_neighbours=2))
    assert [method.neighbours(Clock(step, 10, 2)) for step in (0, 9, 10, 19)] == [3, 3, 2, 2]
    assert AaD(toy.source(), info(3), AaDConfig()).neighbours(Clock(0, 10, 2)) == 2


def test_aad_step() -> None:
    g = load("aad_step")
    head = nn.Linear(8, 5, bias=False)
    head.weight.data.copy_(g["cls_w"])
    network = Classifier(PassThrough(), nn.Identity(), head, feature_dim=8, num_classes=5)
    config = AaDConfig(neighbours=int(g["K"]), push=float(g["alpha"]), fade=0.0, lr_scale={})
    method = AaD(network, info(40), config)
    method.bank.features.copy_(g["fea_bank0"])
    method.bank.probs.copy_(g["score_bank0"])
    features = g["features"].clone().requires_grad_()
    losses = method.losses(TargetBatch(g["tar_idx"], features), Clock(0, 1, 1))
    total = losses["attract"] + losses["disperse"]
    total.backward()
    assert float(losses["disperse"]) == pytest.approx(
        float(g["alpha"]) * float(g["neg_pred"]), rel=1e-5
    )
    assert float(total) == pytest.approx(float(g["loss_total"]), rel=1e-5)
    torch.testing.assert_close(features.grad, g["g_feat"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(method.bank.features, g["fea_bank1"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(method.bank.probs, g["score_bank1"], rtol=1e-5, atol=1e-6)
    near = method.bank.neighbours(g["tar_idx"], g["features"], int(g["K"]))
    assert torch.equal(near, g["idx_near"])


def test_smoothed_cross_entropy() -> None:
    g = load("common_smooth_ce_lr")

    class Logits(nn.Module):
        def forward(self, x: torch.Tensor) -> classification.ClassOutput:
            return classification.ClassOutput(x, x)

    got = classification_loss.loss(Logits(), g["logits"], g["target"], smoothing=float(g["eps"]))
    assert float(got["class"]) == pytest.approx(float(g["loss_logit_input"]), rel=1e-5)


def test_shot_schedule() -> None:
    g = load("common_smooth_ce_lr")
    steps = int(g["max_iter"])
    schedule = Schedule(lr=1.0, epochs=1)
    for step, expected in zip(g["iters"].tolist(), g["lr_mult"].tolist(), strict=True):
        if step:  # our clock counts from 0, theirs from 1
            assert learning_rate(schedule, Clock(int(step) - 1, steps, 1)) == pytest.approx(
                expected
            )
    assert (schedule.weight_decay, schedule.momentum, schedule.nesterov) == (
        pytest.approx(float(g["weight_decay"])),
        pytest.approx(float(g["momentum"])),
        bool(g["nesterov"]),
    )
