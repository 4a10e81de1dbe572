"""alpha-BN: statistics of a whole target, folded into ordinary layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sfda.building_blocks.norm import (
    AlphaBN,
    Moments,
    alpha_statistics,
    measures,
    mix_norms_,
    norms,
    plain_norms_,
)
from sfda.methods.alpha_bn import CHOICES, AlphaBn, AlphaBnConfig, mean_prediction
from sfda.problems.segmentation.network import SegOutput
from sfda.testing.toys import segmentation as toyseg
from sfda.types import Clock, Seen


def adapted(x, **settings):
    method = AlphaBn(toyseg.source(), toyseg.info(), AlphaBnConfig.from_settings(settings))
    method.start_epoch(toyseg.scan(x), Clock(0, 2, 1))
    return method


def test_merged_moments_are_those_of_all_samples():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
    moments = Moments(3, x.device)
    for part in x.split([7, 30, 13]):
        var, mean = torch.var_mean(part, 0)
        moments.add(mean, var, len(part))
    torch.testing.assert_close(moments.mean.float(), x.mean(0))
    torch.testing.assert_close(moments.variance.float(), x.var(0))


@pytest.mark.parametrize("weight", [1.0, 0.9, 0.3, 0.0])
def test_the_first_layer_has_the_mixed_statistics_of_the_whole_target(weight):
    x, _ = toyseg.images(0.8, seed=1)
    source = toyseg.source()
    result = adapted(x, source_weight=weight).adapted.backbone[1]
    with torch.no_grad():
        z = source.backbone[0](x)
    var, mean = torch.var_mean(z, (0, 2, 3))
    old = source.backbone[1]
    torch.testing.assert_close(result.running_mean, weight * old.running_mean + (1 - weight) * mean)
    torch.testing.assert_close(
        result.running_var, weight * old.running_var + (1 - weight) * var, rtol=1e-4, atol=1e-5
    )
    assert type(result) is nn.BatchNorm2d
    assert torch.equal(result.weight, old.weight)


def test_the_source_alone_is_the_source():
    x, _ = toyseg.images(0.8, seed=1)
    network = adapted(x, source_weight=1.0).adapted
    with torch.no_grad():
        torch.testing.assert_close(network(x).logits, toyseg.source()(x).logits)


def test_auto_chooses_without_labels_what_is_certain_and_fits_the_ratios():
    x, y = toyseg.images(0.9, seed=1)
    method = adapted(x, source_weight="auto")
    assert float(method.chosen) in [pytest.approx(c) for c in CHOICES]
    assert float(method.chosen) < 1
    assert "chosen without labels" in method.status()
    before = toyseg.accuracy(toyseg.source(), x, y)
    assert toyseg.accuracy(method.adapted, x, y) > before
    assert not measures(method.adapted)


def test_what_auto_keeps_is_what_its_weight_alone_would_give():
    x, _ = toyseg.images(0.9, seed=1)
    auto = adapted(x, source_weight="auto")
    alone = adapted(x, source_weight=float(auto.chosen))
    for name, tensor in alone.student.state_dict().items():
        torch.testing.assert_close(auto.student.state_dict()[name], tensor)


@pytest.mark.parametrize("weight", [0.5, "auto"])
def test_statistics_are_folded_once_however_long_the_run(weight):
    x, _ = toyseg.images(0.9, seed=1)
    method = adapted(x, source_weight=weight)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.start_epoch(toyseg.scan(x), Clock(2, 2, 2))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_auto_judges_class_ratios_by_the_users_where_they_are_known():
    x, _ = toyseg.images(0.9, seed=1)
    priors = torch.tensor([[0.8, 0.1, 0.1]]).expand(toyseg.SIZE, -1)
    method = AlphaBn(toyseg.source(), toyseg.info(priors=priors), AlphaBnConfig())
    assert method._expected(toyseg.scan(x)).tolist() == pytest.approx([0.8, 0.1, 0.1])
    method = AlphaBn(toyseg.source(), toyseg.info(), AlphaBnConfig())
    with torch.no_grad():
        shares = toyseg.source()(x).logits.softmax(1).mean((0, 2, 3))
    assert method._expected(toyseg.scan(x)).tolist() == pytest.approx(shares.tolist(), rel=1e-3)


def test_a_layer_that_measures_must_truly_be_run():
    network = toyseg.source()
    assert not measures(network)
    mix_norms_(network, source_weight=0.5)
    assert measures(network)
    plain_norms_(network)
    assert not measures(network)


def test_layers_of_any_dimension_come_back_as_they_were():
    network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4, momentum=0.3))
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))

    def scan(model):
        yield model(x)

    alpha_statistics(network, scan, source_weight=0.0)
    assert type(network[1]) is nn.BatchNorm1d
    assert network[1].momentum == 0.3
    torch.testing.assert_close(network[1].running_mean, network[0](x).mean(0))


def test_one_value_a_channel_uses_the_running_statistics():
    layer = AlphaBN(nn.BatchNorm2d(3), source_weight=0.0, online=True)
    x = torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1)
    torch.testing.assert_close(layer(x), x / (1 + 1e-5) ** 0.5)


def test_the_mean_prediction_is_of_all_pixels():
    certain = torch.tensor([50.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    even = torch.zeros(1, 2, 1, 1)
    outputs = (SegOutput(z, z) for z in (certain, even))
    entropy, ratios = mean_prediction(Seen(torch.tensor([0]), out) for out in outputs)
    assert entropy == pytest.approx(torch.tensor(2.0).log().item() / 4)
    assert ratios.tolist() == pytest.approx([3.5 / 4, 0.5 / 4])
    assert len(norms(toyseg.source())) == 2
