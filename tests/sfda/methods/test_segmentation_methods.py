"""What segmentation asks of the mean teacher, of its losses and of schedules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import optim

from sfda import plugins
from sfda.adaptation.loop import adapt
from sfda.adaptation.schedule import learning_rate, make_optimizer
from sfda.building_blocks.losses import soft_cross_entropy, sure_cross_entropy
from sfda.building_blocks.pseudo_labels import cut_and_mix
from sfda.config import merged
from sfda.methods.mean_teacher import MeanTeacher
from sfda.problems.registry import PROBLEMS
from sfda.settings import Schedule
from sfda.testing.toys import segmentation as toyseg
from sfda.types import Clock, TargetBatch

CLOCK = Clock(0, 6, 1)


def teacher(**settings):
    usual = MeanTeacher.defaults_for("segmentation")
    config = MeanTeacher.Config.from_settings(merged(dict(usual), settings))
    return MeanTeacher(toyseg.source(), toyseg.info(), config)


def test_soft_cross_entropy_by_hand():
    logits = torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log()
    targets = torch.tensor([[0.6, 0.4], [1.0, 0.0]])
    one = -(0.6 * math.log(0.8) + 0.4 * math.log(0.2))
    other = math.log(2)
    assert float(soft_cross_entropy(logits, targets)) == pytest.approx((one + other) / 2)
    back = -(0.8 * math.log(0.6) + 0.2 * math.log(0.4))
    both = soft_cross_entropy(logits[:1], targets[:1], symmetric=True)
    assert float(both) == pytest.approx(0.5 * one + 0.5 * back)


@pytest.mark.parametrize("symmetric", [False, True])
def test_soft_cross_entropy_of_pixels_with_its_gradient(symmetric):
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.double, requires_grad=True)
    theirs = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.double)
    p, q = ours.softmax(1), theirs.softmax(1)
    expected = -(q * ours.log_softmax(1)).sum(1)
    if symmetric:
        expected = 0.5 * expected - 0.5 * (p * theirs.log_softmax(1)).sum(1)
    result = soft_cross_entropy(ours, q, symmetric=symmetric)
    torch.testing.assert_close(result, expected.mean())
    torch.testing.assert_close(
        torch.autograd.grad(result, ours), torch.autograd.grad(expected.mean(), ours)
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_pixels_without_a_target_do_not_count(symmetric):
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.zeros(1, 3, 2, 2)
    targets[0, :, 0, 0] = torch.tensor([0.2, 0.3, 0.5])
    alone = soft_cross_entropy(logits[..., :1, :1], targets[..., :1, :1], symmetric=symmetric)
    torch.testing.assert_close(soft_cross_entropy(logits, targets, symmetric=symmetric), alone)


def test_a_certain_target_gives_the_hard_loss():
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    onehot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    torch.testing.assert_close(
        soft_cross_entropy(logits, onehot), sure_cross_entropy(logits, labels)
    )


@pytest.mark.parametrize("labels", ["hard", "soft", "symmetric"])
def test_no_sure_pixel_gives_zero_on_the_graph(labels):
    method = teacher(labels=labels, by_class=False, threshold=1.0)
    method.teacher.head.weight.data.zero_()
    method.train()
    x, _ = toyseg.images(0.5, seed=1)
    (loss,) = method.losses(toyseg.batch(x, list(range(8))), CLOCK).values()
    assert loss.item() == 0
    loss.backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in method.student.parameters())


def test_soft_labels_are_the_teachers_probabilities_where_it_is_sure():
    x, _ = toyseg.images(0.5, seed=1)
    soft, hard = teacher(labels="soft"), teacher()
    batch = TargetBatch(torch.arange(len(x)), x, x)
    problem = PROBLEMS["segmentation"]
    result, classes = (
        problem.teach(one.teacher, batch, one.config.model_copy(update={"cut": 0.0})).targets
        for one in (soft, hard)
    )
    remaining = classes >= 0
    assert 0.4 < remaining.float().mean() < 1
    assert torch.equal(result.sum(1) > 0, remaining)
    assert torch.equal(result.argmax(1)[remaining], classes[remaining])
    torch.testing.assert_close(result.sum(1)[remaining], torch.ones(int(remaining.sum())))


def test_distributions_are_mixed_as_classes_are():
    labels = torch.arange(4).view(4, 1, 1).expand(4, 8, 8)
    onehot = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).float()
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mixed = []
    for inputs in (labels, onehot):
        torch.manual_seed(2)
        mixed.append(cut_and_mix(images, inputs, 0.25))
    assert torch.equal(mixed[0][0], mixed[1][0])
    assert torch.equal(mixed[0][1], mixed[1][1].argmax(1))
    assert not torch.equal(mixed[0][1], labels)


@pytest.mark.parametrize("settings", [{"labels": "soft"}, {"labels": "symmetric"}])
def test_soft_labels_do_not_make_a_mild_shift_worse(settings):
    x, y = toyseg.images(0.9, seed=1)
    schedule = Schedule(lr=0.02, epochs=3, batch_size=24)
    method = teacher(**settings, ensemble=(0.75, 1.0), decay=0.99)
    for _ in adapt(method, toyseg.Batches(x), toyseg.scan(x), schedule, seed=0):
        pass
    before = toyseg.accuracy(toyseg.source(), x, y)
    assert toyseg.accuracy(method.adapted, x, y) > before + 0.05


def test_frozen_statistics_stay_those_of_the_source():
    x, _ = toyseg.images(0.9, seed=1)
    method = teacher(student_norms="freeze", buffers="keep")
    schedule = Schedule(lr=0.02, epochs=1, batch_size=24)
    for _ in adapt(method, toyseg.Batches(x), toyseg.scan(x), schedule):
        pass
    source = dict(toyseg.source().named_buffers())
    for network in (method.student, method.teacher):
        assert all(torch.equal(b, source[name]) for name, b in network.named_buffers())


def test_the_teacher_of_segmentation_has_the_specified_rates():
    config = teacher().config
    groups = teacher().parameter_groups(config.schedule)
    rates = {g["name"]: config.schedule.lr * g["scale"] for g in groups}
    assert rates == pytest.approx({"backbone": 1e-5, "decoder": 1e-4, "head": 1e-4})
    optimizer = make_optimizer(config.schedule, groups)
    assert type(optimizer) is optim.AdamW
    assert config.decay == 0.999
    assert (config.threshold, config.by_class, config.cut) == (0.9, True, 0.5)
    assert (config.schedule.epochs, config.schedule.batch_size) == (20, 8)


def test_rates_fall_as_named():
    poly = Schedule(decay="poly", lr=2.0)
    assert learning_rate(poly, Clock(0, 5, 2)) == 2
    assert learning_rate(poly, Clock(5, 5, 2)) == pytest.approx(2 * 0.5**0.9)
    assert learning_rate(poly, Clock(9, 5, 2)) > 0
    adami = plugins.load("methods", "adami").Config().schedule
    assert (adami.lr, type(make_optimizer(adami, teacher().parameter_groups(adami)))) == (
        1e-6,
        optim.Adam,
    )
    rates = [
        learning_rate(adami, Clock(epoch * 3 + 2, 3, 100)) for epoch in (0, 20, 21, 40, 41, 99)
    ]  # after epochs 20, 40 ..., counted from 0
    assert rates == pytest.approx([1e-6 * 0.9**n for n in (0, 0, 1, 1, 2, 4)])
