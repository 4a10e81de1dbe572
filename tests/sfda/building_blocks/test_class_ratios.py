"""Class ratios, where they come from, and the guard against collapse: by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sfda import plugins
from sfda.adaptation.loop import adapt
from sfda.building_blocks.class_ratios import (
    CollapseGuard,
    RatioPrior,
    class_ratios,
    floored,
    inverse_sizes,
    ratio_divergence,
    weighted_entropy,
)
from sfda.config import merged
from sfda.errors import BadInput
from sfda.problems.segmentation.network import SegOutput
from sfda.settings import Schedule
from sfda.testing.toys import segmentation as toyseg
from sfda.types import Clock, Seen, TargetBatch, TargetInfo

NAMES = ("background", "organ", "lesion")


def info(**more):
    return TargetInfo(2, ("a", "b"), classes=NAMES, **more)


def test_uncertain_pixels_count_more_in_the_released_code():
    probs = torch.tensor([[1.0, 0.5], [0.0, 0.5]]).view(1, 2, 1, 2)
    assert class_ratios(probs, estimator="mean").tolist() == [[0.75, 0.25]]
    # the first pixel counts 1 for class 0, the second 1 for each: 2 to 1
    assert class_ratios(probs, estimator="code")[0].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_entropy_and_divergence_by_hand():
    probs = torch.full((1, 2, 2, 2), 0.5)
    weights = torch.tensor([0.1, 0.9])
    assert float(weighted_entropy(probs, weights)) == pytest.approx(0.5 * math.log(2))
    one, other = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.5, 0.5]])
    forward = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert float(ratio_divergence(one, other, reverse=False)) == pytest.approx(forward)
    assert float(ratio_divergence(other, one, reverse=True)) == pytest.approx(forward)
    assert float(ratio_divergence(one, one, reverse=True)) == pytest.approx(0, abs=1e-7)
    # an image that lacks a class: whatever is predicted of it costs up to 23 nats
    lacking = ratio_divergence(
        torch.tensor([[0.9, 0.1]]), torch.tensor([[1.0, 0.0]]), reverse=False
    )
    assert float(lacking) == pytest.approx(
        0.9 * math.log(0.9) + 0.1 * math.log(0.1 / 1e-10), rel=1e-4
    )


def test_weights_are_inverse_to_sizes_and_ratios_have_a_floor():
    assert inverse_sizes(torch.tensor([0.5, 0.25, 0.25])).tolist() == pytest.approx([0.2, 0.4, 0.4])
    low = floored(torch.tensor([1.0, 0.0]))
    assert float(low.sum()) == pytest.approx(1)
    assert 0.0009 < float(low[1]) < 0.0011


def test_the_users_ratios_come_first_and_a_background_is_the_rest():
    priors = torch.tensor([[0.5, 0.5, 0.0]] * 2)
    prior = RatioPrior(info(priors=priors), {"organ": 0.2, "lesion": 0.05}, 3)
    assert prior.known
    assert prior.mean().tolist() == pytest.approx([0.75, 0.2, 0.05])
    assert "from the settings: background 0.750" in prior.status(NAMES)


def test_priors_by_row_keep_the_zero_of_an_absent_class_and_are_renormalised():
    priors = torch.tensor([[148225.0 - 8000, 8000, 0], [1, 0, 0]])
    prior = RatioPrior(info(priors=priors), None, 3)
    first, second = prior.of(torch.tensor([0, 1]))
    assert first.tolist() == pytest.approx([1 - 8000 / 148225, 8000 / 148225, 0])
    assert second.tolist() == [1, 0, 0]
    with pytest.raises(BadInput, match="all 0 for some image"):
        RatioPrior(info(priors=torch.zeros(2, 3)), None, 3)


def test_the_cards_sizes_leave_the_rest_to_the_background():
    card = torch.tensor([0.99, 0.2, 0.1])  # each in the images that show it
    prior = RatioPrior(info(source_ratios=card), None, 3)
    assert prior.mean().tolist() == pytest.approx([0.7, 0.2, 0.1])
    assert "source card" in prior.origin


def test_an_estimate_is_of_the_images_that_the_network_is_surest_of():
    prior = RatioPrior(info(), None, 2)
    assert not prior.known
    sure = torch.tensor([9.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    unsure = torch.tensor([0.0, 0.4]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    outputs = [SegOutput(x, x) for x in (unsure, sure)]
    prior.estimate_(Seen(torch.tensor([n]), out) for n, out in enumerate(outputs))
    assert float(prior.mean()[0]) > 0.99


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"liver": 0.2}, "no class liver"),
        ({"organ": 1.2, "lesion": 0}, "must lie between 0 and 1"),
        ({"organ": 0.2}, "give a share of background, lesion"),
        ({"organ": 0.8, "lesion": 0.4}, "give a share of background"),
    ],
)
def test_ratios_that_make_no_sense_are_refused(given, said):
    with pytest.raises(BadInput, match=said):
        RatioPrior(info(), given, 3)


def test_class_weights_may_be_given_by_name():
    kind = plugins.load("methods", "adami")
    inputs = {"blue": 0.6, "ground": 0.1, "red": 0.3}
    result = {}
    for weights in (inputs, "equal", "prior"):
        ratios = {"ground": 0.8, "red": 0.1, "blue": 0.1}
        config = kind.Config.from_settings({"class_weights": weights, "ratios": ratios})
        method = kind(toyseg.source(), toyseg.info(), config)
        result[str(weights)] = method._weights().tolist()
    assert result[str(inputs)] == pytest.approx([0.1, 0.3, 0.6])
    assert result["equal"] == [1, 1, 1]
    assert result["prior"] == pytest.approx([1 / 17, 8 / 17, 8 / 17])


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"ground": 1.0}, "one for each of ground, red, blue"),
        ({"ground": 1.0, "red": 1.0, "blue": 1.0, "sky": 1.0}, "and for no other"),
        ({"ground": -1.0, "red": 1.0, "blue": 1.0}, "must not be negative"),
        ({"ground": 0.0, "red": 0.0, "blue": 0.0}, "nor all be 0"),
    ],
)
def test_class_weights_that_make_no_sense_are_refused(weights, said):
    kind = plugins.load("methods", "adami")
    with pytest.raises(BadInput, match=said):
        kind(toyseg.source(), toyseg.info(), kind.Config(class_weights=weights))


@pytest.mark.parametrize("name", ["adami", "adaent", "osuda"])
def test_dropout_rests_while_entropies_are_minimised(name):
    source = toyseg.source()
    source.decoder.append(torch.nn.Dropout2d(0.5))
    kind = plugins.load("methods", name)
    method = kind(source, toyseg.info(), kind.Config())
    x, _ = toyseg.images(0.5, seed=1)
    method.start_epoch(toyseg.scan(x), Clock(0, 6, 1))
    method.train()
    assert not method.student.decoder[-1].training
    rows = toyseg.batch(x, list(range(8)))
    one, other = (method.losses(rows, Clock(0, 6, 1))["entropy"] for _ in range(2))
    torch.testing.assert_close(one, other)
    assert method.student.decoder[1].training


def guard():
    student = torch.nn.Linear(1, 1)
    return student, CollapseGuard(student, torch.nn.Linear(1, 1), 2)


def test_the_guard_gives_back_the_last_good_state():
    prior = torch.tensor([0.5, 0.5])
    student, watch = guard()
    for share in (0.5, 0.75):
        watch.watch(torch.tensor([[share, 1 - share]]))
        student.weight.data.fill_(share)
        watch.end_epoch(student, prior)
        assert not watch.collapsed
    watch.watch(torch.tensor([[0.81, 0.19]]))
    student.weight.data.fill_(9)
    watch.end_epoch(student, prior)
    assert watch.collapsed
    assert float(student.weight.detach()) == 0.75


def test_a_class_that_vanishes_is_a_collapse_and_one_that_never_was_is_none():
    for first, gone in ((0.02, True), (0.0, False)):
        student, watch = guard()
        for share in (first, 0.0):
            watch.watch(torch.tensor([[1 - share, share]]))
            watch.end_epoch(student, torch.tensor([0.98, 0.02]))
        assert bool(watch.collapsed) == gone


def test_a_class_may_vanish_within_the_first_epoch_and_however_small_it_was():
    for shares in ((0.05, 0.0, 0.0, 0.0), (0.0009,)):
        student, watch = guard()
        prior = torch.tensor([0.9912, 0.0088])
        for share in (*shares, *[0.0] * 800):
            watch.watch(torch.tensor([[1 - share, share]]))
        watch.end_epoch(student, prior)
        assert watch.collapsed


def padded_halves(whole):
    """A network that is right: left half class 0, right half class 1, and padding class 0."""
    kind = plugins.load("methods", "adami")
    ratios = {"ground": 0.5, "red": 0.5, "blue": 0.0}
    method = kind(toyseg.source(), replace(toyseg.info(), whole=whole), kind.Config(ratios=ratios))
    logits = torch.zeros(2, 3, 4, 8)
    logits[:, 0] = 30.0
    logits[:, :, :, 2:4] = torch.tensor([0.0, 30.0, 0.0]).view(3, 1, 1)
    shown = torch.zeros(2, 4, 8, dtype=torch.bool)
    shown[:, :, :4] = True

    class Right(torch.nn.Module):
        def forward(self, images):
            return SegOutput(images, images)

    method.student = Right()
    return method, TargetBatch(torch.arange(2), logits, shown=shown)


def test_padding_counts_in_no_ratio_and_no_entropy():
    method, batch = padded_halves(whole=True)
    assert float(method.losses(batch, Clock(0, 1, 1))["prior"]) == pytest.approx(0, abs=2e-3)
    counted = method.losses(replace(batch, shown=None), Clock(0, 1, 1))["prior"]
    assert float(counted) > 0.1
    unsure = batch.weak.clone()
    unsure[:, :, :, 4:] = 0.0
    entropy = method.losses(replace(batch, weak=unsure), Clock(0, 1, 1))["entropy"]
    assert float(entropy) == pytest.approx(0, abs=1e-6)


def test_ratios_of_tiles_are_compared_as_means_over_the_batch():
    method, _ = padded_halves(whole=False)
    logits = torch.zeros(2, 3, 4, 8)
    logits[0, 0] = logits[1, 1] = 30.0  # one tile is all ground, the other all red
    tiles = TargetBatch(torch.arange(2), logits)
    assert float(method.losses(tiles, Clock(0, 1, 1))["prior"]) == pytest.approx(0, abs=2e-3)
    small = torch.ones(2, 4, 8, dtype=torch.bool)
    small[1, :, 1:] = False  # of the red one an eighth is shown: 8 to 1
    result = method.losses(replace(tiles, shown=small), Clock(0, 1, 1))["prior"]
    expected = 8 / 9 * math.log(16 / 9) + 1 / 9 * math.log(2 / 9)
    assert float(result) == pytest.approx(expected, abs=5e-3)


def run(settings, name="adami"):
    x, y = toyseg.images(0.9, seed=1)
    kind = plugins.load("methods", name)
    schedule = Schedule(optimizer="adam", lr=0.003, decay="none", epochs=12, batch_size=24)
    config = kind.Config.from_settings(merged({"schedule": schedule.model_dump()}, settings))
    method = kind(toyseg.source(), toyseg.info(), config)
    for _ in adapt(method, toyseg.Batches(x), toyseg.scan(x), schedule, seed=0):
        pass
    return method, toyseg.accuracy(method.adapted, x, y)


def test_a_run_that_leaves_its_prior_far_behind_is_stopped_and_undone():
    ratios = {"ground": 0.4, "red": 0.3, "blue": 0.3}  # three quarters of the pixels are ground
    method, _ = run({"prior_weight": 0, "ratios": ratios})
    assert bool(method.guard.collapsed)
    assert "collapsed: the last good epoch is kept" in method.status()
    source = toyseg.source().state_dict()
    assert all(torch.equal(v, source[k]) for k, v in method.student.state_dict().items())


def test_entropy_alone_is_said_to_be_no_result():
    method, _ = run({"prior_weight": 0, "ratios": {"ground": 0.72, "red": 0.12, "blue": 0.16}})
    assert "do not trust this run" in method.status()


@pytest.mark.parametrize("name", ["adami", "adaent"])
def test_a_good_prior_lifts_the_toy_above_its_source(name):
    x, y = toyseg.images(0.9, seed=1)
    before = toyseg.accuracy(toyseg.source(), x, y)
    method, after = run({"ratios": {"ground": 0.72, "red": 0.12, "blue": 0.16}}, name)
    assert after > before + 0.1
    assert "from the settings" in method.status()


def test_a_collapsed_run_learns_no_more():
    kind = plugins.load("methods", "adaent")
    method = kind(toyseg.source(), toyseg.info(), kind.Config())
    method.guard.collapsed.fill_(True)
    x, _ = toyseg.images()
    method.start_epoch(toyseg.scan(x), Clock(2, 2, 2))
    assert method.losses(toyseg.batch(x, [0, 1]), Clock(0, 2, 2)) == {}
