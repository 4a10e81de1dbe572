"""The contract that every method keeps, on the toy shifts; found by being in the folder."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from sfda import plugins
from sfda.adaptation.loop import adapt
from sfda.errors import BadInput
from sfda.methods._base import Method
from sfda.settings import Schedule
from sfda.testing.methods import (
    METHOD_CHECKS,
    another_order_leaves_the_same_state,
    require_declared,
)
from sfda.testing.toys import Toy, toys
from sfda.testing.toys import classification as toy
from sfda.testing.trial import Trial
from sfda.types import Clock, StepEnd

METHODS = plugins.names("methods")


def label(tried: Any) -> str:
    return str(tried.__name__).rpartition(".")[2]


# whose toy has group norm alone: tried in test_detector_statistics
WITHOUT_NORMS = {("detection", "bn"), ("mmdet_detection", "bn")}
CASES = [
    pytest.param(case, name, id=f"{label(case)}-{name}")
    for case in toys()
    for name in METHODS
    if case.PROBLEM in plugins.load("methods", name).problems
    and (label(case), name) not in WITHOUT_NORMS
]
FAST = Schedule(lr=0.02, epochs=3, batch_size=24)


@cache
def trial(case: Toy, name: str) -> Trial:
    return Trial(plugins.load("methods", name), case)


def make(name: str, case: Toy = toy, **settings: Any) -> Method:
    return trial(case, name).method(**settings)


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=label)
@pytest.mark.parametrize(("case", "name"), CASES)
def test_every_method_keeps_the_contract(
    case: Toy, name: str, check: Callable[[Trial], None]
) -> None:
    check(trial(case, name))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name: str) -> None:
    require_declared(plugins.load("methods", name))


UNMIXED = {"mean_teacher": {"cut": 0.0}, "post": {"occlude": 0.0}}  # nothing is drawn by batch


@pytest.mark.parametrize(("case", "name"), [case for case in CASES if case.values[1] in UNMIXED])
def test_what_draws_by_batch_minds_no_order_without_it(case: Toy, name: str) -> None:
    kind = plugins.load("methods", name)
    assert kind.mixes_batch
    another_order_leaves_the_same_state(Trial(kind, case, UNMIXED[name]))


@pytest.mark.parametrize("name", ["source", "alpha_bn", "lp_ft"])
def test_these_leave_the_norms_at_rest(name: str) -> None:
    method = make(name)
    method.train()
    assert not toy.norm(method.student).training
    other = make("shot")
    other.train()
    assert toy.norm(other.student).training


def test_no_confident_label_gives_zero_on_the_graph() -> None:
    x, _ = toy.images(0.5)
    method = make("mean_teacher", threshold=1.0)
    method.teacher.head.weight.data.zero_()  # so that every class is equally likely
    losses = method.losses(toy.batch(x, torch.arange(24)), Clock(0, 5, 3))
    assert losses["class"].item() == 0.0
    losses["class"].backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in method.student.parameters())


def test_the_mean_teacher_normalises_with_what_it_labels() -> None:
    x, _ = toy.images(0.5, seed=1)
    rows = torch.arange(24)
    means = {}
    for buffers in ("own", "keep", "average", "copy"):
        method = make("mean_teacher", buffers=buffers)
        method.train()
        before = method.teacher.bottleneck[1].running_mean.clone()
        method.losses(toy.batch(x, rows), Clock(0, 5, 3))
        assert not method.teacher.bottleneck[1].training
        method.after_step(Clock(0, 5, 3))
        means[buffers] = method.teacher.bottleneck[1].running_mean
        source = toy.source()
        with torch.no_grad():
            z = source.bottleneck[0](source.backbone(x[rows]))
    torch.testing.assert_close(means["keep"], before)
    torch.testing.assert_close(means["own"], 0.9 * before + 0.1 * z.mean(0))
    assert not torch.equal(means["average"], means["copy"])
    torch.testing.assert_close(means["average"], 0.99 * before + 0.01 * means["copy"])


@pytest.mark.parametrize("name", METHODS)
def test_the_file_names_its_paper(name: str) -> None:
    module = inspect.getmodule(plugins.load("methods", name))
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", module.__doc__)


def test_a_batch_without_losses_takes_no_step_but_time_goes_on() -> None:
    class Idle(Method):
        steps = 0

        def losses(self, batch: Any, clock: Clock) -> dict[str, torch.Tensor]:
            return {}

        def after_step(self, clock: Clock) -> None:
            assert clock.step == self.steps
            self.steps += 1

    x, _ = toy.images()
    method = Idle(toy.source(), toy.info(), plugins.load("methods", "shot").Config())
    before = copy.deepcopy(method.state_dict())
    events = list(adapt(method, toy.Batches(x), toy.scan(x), FAST))
    assert [e.losses for e in events if isinstance(e, StepEnd)] == [{}] * 15
    assert method.steps == 15
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name])


def test_losses_after_an_epoch_are_minimised_and_not_counted() -> None:
    class Late(Method):
        def losses(self, batch: Any, clock: Clock) -> dict[str, torch.Tensor]:
            return {}

        def end_epoch(self, clock: Clock) -> Any:
            yield {"weight": self.student.head.weight.square().sum()}

    x, _ = toy.images()
    config = plugins.load("methods", "aad").Config()
    method = Late(toy.source(), toy.info(), config)
    before = float(method.student.head.weight.norm())
    clocks = [e.clock.step for e in adapt(method, toy.Batches(x), toy.scan(x), FAST)
              if isinstance(e, StepEnd)]  # fmt: skip
    assert clocks == list(range(15))
    assert float(method.student.head.weight.norm()) < before


def test_a_target_of_no_batch_is_refused() -> None:
    class Empty(toy.Batches):
        def steps(self, rows: Any = None) -> int:
            return 0

    x, _ = toy.images()
    with pytest.raises(BadInput, match="fewer images"):
        next(adapt(make("shot"), Empty(x), toy.scan(x), FAST))


def test_a_frozen_child_of_the_network_never_trains() -> None:
    network = toy.source()
    network.frozen = frozenset({"backbone"})
    kind = plugins.load("methods", "aad")
    method = kind(network, toy.info(), kind.Config())
    assert {g["name"] for g in method.parameter_groups(FAST)} == {"bottleneck", "head"}
