"""OSUDA's equations: docs/methods/segmentation.md, section J, point 5."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sfda import plugins
from sfda.building_blocks.norm import norms
from sfda.errors import BadInput
from sfda.methods.osuda import Osuda, OsudaConfig, scale_consistency, source_share, transferability
from sfda.problems.segmentation.network import Segmenter
from sfda.settings import Schedule
from sfda.testing.toys import segmentation as toyseg
from sfda.types import Clock

FAST = Schedule()


def started(**settings):
    method = Osuda(toyseg.source(), toyseg.info(), OsudaConfig.from_settings(settings))
    method.train()
    return method


def test_at_first_the_answer_is_the_source_models():
    x, _ = toyseg.images(0.5, seed=1)
    method = started()
    with torch.no_grad():
        expected = toyseg.source().eval()(x[:8]).logits
        result = method.student(x[:8]).logits
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_without_the_source_the_answer_is_that_of_batch_norm_in_train_mode():
    x, _ = toyseg.images(0.5, seed=1)
    method = started()
    for layer in norms(method.student):
        layer.source_weight = 0.0
    plain = toyseg.source().train()
    with torch.no_grad():
        torch.testing.assert_close(
            method.student(x[:2]).logits, plain(x[:2]).logits, rtol=1e-5, atol=1e-5
        )
    # two images: a biased variance in place of torch's unbiased one would show
    for ours, theirs in zip(norms(method.student), norms(plain), strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-5, atol=1e-6)


def test_nothing_is_inconsistent_at_first_and_transferability_is_one_on_average():
    x, _ = toyseg.images(0.5, seed=1)
    method = started()
    losses = method.losses(toyseg.batch(x, list(range(8))), Clock(0, 5, 2))
    assert losses["consistency"].item() == 0
    assert float(method.gap.max()) > 0.1  # the light has changed
    alpha = transferability(method.gap)
    assert float(alpha.mean()) == pytest.approx(1)
    assert float(alpha[method.gap.argmax()]) == pytest.approx(float(alpha.min()))


def test_the_consistency_by_hand():
    gap = torch.tensor([0.0, 1.0])
    alpha = [2 * 1 / 1.5, 2 * 0.5 / 1.5]
    affine = torch.tensor([[1.5, 1.0], [0.0, 0.25]])
    source = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    expected = (1 + alpha[0]) * 0.5 + (1 + alpha[1]) * 0.25
    assert float(scale_consistency(affine, source, gap)) == pytest.approx(expected)


def test_the_sources_part_decays_by_iteration_or_epoch():
    assert source_share(Clock(0, 4, 3), 1.0, "iteration") == 1
    assert source_share(Clock(5, 4, 3), 1.0, "iteration") == pytest.approx(math.exp(-5))
    assert source_share(Clock(5, 4, 3), 1.0, "epoch") == pytest.approx(math.exp(-1))


def test_entropy_fades_and_the_deployed_network_is_an_ordinary_one():
    x, _ = toyseg.images(0.5, seed=1)
    method = started()
    rows = toyseg.batch(x, list(range(8)))
    with torch.no_grad():
        early = method.losses(rows, Clock(0, 10, 1))["entropy"]
        probs = toyseg.source()(x[:8]).logits.softmax(1)
    expected = -10 * (probs * (probs + 1e-10).log()).sum(1).mean()
    assert float(early) == pytest.approx(float(expected), rel=1e-4)
    plain = toyseg.network()
    plain.load_state_dict(method.adapted.state_dict())  # every name fits
    method.adapted.eval()
    with torch.no_grad():
        assert torch.equal(plain.eval()(x[:4]).logits, method.adapted(x[:4]).logits)


def test_running_statistics_move_towards_the_mixed_ones():
    x, _ = toyseg.images(0.5, seed=1)
    method = started()
    (layer, *_) = norms(method.student)
    before = layer.running_mean.clone()
    method.losses(toyseg.batch(x, list(range(8))), Clock(3, 10, 1))
    mean, _ = layer.last
    share = math.exp(-3)
    mixed = share * layer.source_mean + (1 - share) * mean
    torch.testing.assert_close(layer.running_mean, 0.9 * before + 0.1 * mixed)


def test_all_parameters_learn_if_asked_for():
    affine, everything = started(), started(trained="all")
    assert all(p.requires_grad for p in everything.student.parameters())
    usual, slow = affine.parameter_groups(FAST), everything.parameter_groups(FAST)
    assert [group["scale"] for group in usual] == [1.0]
    assert {group["scale"] for group in slow} == {0.01}
    assert "nothing holds those outside batch norm" in everything.status()
    assert affine.status() == ""
    learning = [n for n, p in affine.student.named_parameters() if p.requires_grad]
    assert len(learning) == 4
    assert all(".1." in name for name in learning)


@pytest.mark.parametrize("name", ["osuda", "alpha_bn", "bn"])
def test_a_network_without_batch_norm_is_refused(name):
    bare = Segmenter(
        nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1), feature_dim=4, num_classes=2
    )
    kind = plugins.load("methods", name)
    with pytest.raises(BadInput, match=r"no batch.norm"):
        kind(bare, toyseg.info(), kind.Config())
