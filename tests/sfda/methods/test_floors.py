"""The floors of every comparison: nothing adapted, and batch-norm statistics alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sfda.adaptation.loop import adapt
from sfda.errors import BadInput
from sfda.methods.bn import Bn, BnConfig
from sfda.methods.source import SourceConfig, Unadapted
from sfda.problems.classification.network import Classifier
from sfda.settings import Schedule
from sfda.testing.toys import classification as toy
from sfda.types import EpochEnd


def adapted(method, x: torch.Tensor, size: int = 24) -> nn.Module:
    schedule = Schedule(epochs=1, batch_size=size)
    events = list(adapt(method, toy.Batches(x, size), toy.scan(x), schedule))
    assert isinstance(events[-1], EpochEnd)
    return events[-1].adapted


def test_source_changes_nothing():
    x, _ = toy.images(0.5)
    before = copy.deepcopy(toy.source().state_dict())
    after = adapted(Unadapted(toy.source(), toy.info(), SourceConfig()), x).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bn_puts_the_targets_statistics_in_place_of_the_sources():
    x, _ = toy.images(0.5)
    network = adapted(Bn(toy.source(), toy.info(), BnConfig()), x)
    source = toy.source()
    with torch.no_grad():
        z = source.bottleneck[0](source.backbone(x))
    norm = network.bottleneck[1]
    torch.testing.assert_close(norm.running_mean, z.mean(0), rtol=1e-4, atol=1e-5)
    orders = torch.randperm(120, generator=torch.Generator().manual_seed(0)).split(24)
    variance = torch.stack([z[rows].var(0) for rows in orders]).mean(0)  # of the loop's batches
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, source.get_parameter(name)), f"{name} was trained"


def test_dropout_does_not_disturb_the_statistics():
    x, _ = toy.images(0.5)
    network = toy.source()
    network.bottleneck.insert(0, nn.Dropout(0.9))
    plain = adapted(Bn(toy.source(), toy.info(), BnConfig()), x)
    dropped = adapted(Bn(network, toy.info(), BnConfig()), x)
    torch.testing.assert_close(dropped.bottleneck[2].running_var, plain.bottleneck[1].running_var)


def test_a_network_without_batch_norm_is_refused():
    network = Classifier(nn.Flatten(), nn.Identity(), nn.Linear(2, 3), feature_dim=2, num_classes=3)
    with pytest.raises(BadInput, match="no batch-norm statistics"):
        Bn(network, toy.info(), BnConfig())
