"""Batch-norm statistics of a detector from its target: what is counted, and of which layers."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from sfda import plugins
from sfda.errors import BadInput
from sfda.methods._norm_statistics import detector_norms, renew_statistics_
from sfda.networks.detector import Detector
from sfda.testing.methods import METHOD_CHECKS
from sfda.testing.toys import detection as toy
from sfda.testing.trial import Trial


def body() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
    )


def network() -> Detector:
    torch.manual_seed(0)
    made = toy.from_body(body())
    made.live_norms = True
    return made


@cache
def trained() -> Detector:
    return toy.trained(network())


def source() -> Detector:
    made = network()
    made.load_state_dict(trained().state_dict())
    made.live_norms = False
    return made.eval()


def with_norms() -> Any:
    """The toy of detection, with batch norm in its backbone."""
    own = {"network": network, "source": source, "norm": lambda model: detector_norms(model)[0]}
    return types.SimpleNamespace(**{**vars(toy), **own})


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.__name__)
def test_bn_of_a_detector_keeps_the_contract(check: Callable[[Trial], None]) -> None:
    check(Trial(plugins.load("methods", "bn"), with_norms()))


def test_a_detector_without_batch_norm_is_refused() -> None:
    with pytest.raises(BadInput, match="no batch-norm statistics"):
        Trial(plugins.load("methods", "bn"), toy).method()


class OneNorm(Detector):
    """The images themselves, normalised, as maps."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.head = norm, nn.BatchNorm2d(1)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(images)

    def forward(self, images: torch.Tensor) -> Any:
        return self.head(self.features(images))


def looks(*images: torch.Tensor) -> Any:
    """A scan of these images, one after the other."""
    return lambda model: [model(image[None]) for image in images]


def constant(value: float, pixels: int) -> torch.Tensor:
    return torch.full((1, 1, pixels), value)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, FrozenBatchNorm2d])
@pytest.mark.parametrize(("pixels", "mean", "var"), [((4, 4), 2.0, 1.0), ((2, 6), 2.5, 0.75)])
def test_every_pixel_counts_once(kind, pixels, mean, var):
    made = OneNorm(kind(1)).eval()
    target = looks(constant(1.0, pixels[0]), constant(3.0, pixels[1]))
    assert renew_statistics_(made, target) == 1  # of the head's none
    assert made.norm.running_mean.item() == pytest.approx(mean)
    assert made.norm.running_var.item() == pytest.approx(var)
    assert made.head.running_mean.item() == 0.0
    assert renew_statistics_(made, target, parts="all") == 2


def test_a_share_of_the_source_stays_and_one_value_tells_nothing():
    made = OneNorm(nn.BatchNorm2d(1)).eval()
    assert renew_statistics_(made, looks(constant(5.0, 1))) == 0
    target = looks(constant(1.0, 4), constant(3.0, 4))
    renew_statistics_(made, target, source_weight=0.75)
    assert made.norm.running_mean.item() == pytest.approx(0.25 * 2)
    assert made.norm.running_var.item() == pytest.approx(0.75 + 0.25 * 1)


def test_the_order_of_images_and_their_batches_have_no_part_in_the_first_layer():
    x, _ = toy.images(0.4, seed=1)
    one, other = source(), source()
    renew_statistics_(one, lambda model: [model(part) for part in x.split(4)])
    renew_statistics_(other, lambda model: [model(part) for part in x.flip(0).split(3)])
    first, again = (detector_norms(model)[0] for model in (one, other))
    torch.testing.assert_close(first.running_mean, again.running_mean)
    torch.testing.assert_close(first.running_var, again.running_var)
    with torch.no_grad():
        seen = one.backbone[0](x)
    torch.testing.assert_close(first.running_mean, seen.mean([0, 2, 3]))
    torch.testing.assert_close(first.running_var, seen.var([0, 2, 3], correction=0))


def test_statistics_of_a_shifted_target_help():
    x, y = toy.images(0.6, seed=1)
    model = source()
    before = toy.accuracy(model, x, y)
    renew_statistics_(model, toy.scan(x))
    assert toy.accuracy(model, x, y) > before + 0.05
