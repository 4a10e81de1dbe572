"""The contract that every method keeps, on the toy shift; found by being in the folder."""

from __future__ import annotations

import copy
import inspect
import io
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import toy
import toydet
import toymm
import toypose
import toyseg

from sfda import plugins
from sfda.adaptation.loop import adapt
from sfda.adaptation.schedule import make_optimizer
from sfda.config import merged
from sfda.errors import BadInput
from sfda.methods._base import Method
from sfda.problems.detection.teaching import STEM
from sfda.settings import Schedule
from sfda.types import Clock, EpochEnd, Labelled, State, StepEnd, TargetBatch

METHODS = plugins.names("methods")
KITS = (toy, toyseg, toydet, toymm, toypose)
CASES = [
    pytest.param(kit, name, id=f"{kit.__name__}-{name}")
    for kit in KITS
    for name in METHODS
    if kit.PROBLEM in plugins.load("methods", name).problems
]
IDLE = ("alpha_bn", "bn", "source")  # they train no parameter
GIVEN = torch.arange(0, 24, 2)  # rows that a person has labelled
MILD = 0.9  # radians; the border between two classes lies at 1.05
MILDER = {"glc": 0.8}  # at 0.9 nearly all of the toy is doubtful to it, so it labels nothing
FAST = Schedule(lr=0.02, epochs=3, batch_size=24)


def fast(kit: Any) -> Schedule:
    return getattr(kit, "FAST", FAST)


def make(name: str, kit: Any = toy, **settings: Any) -> Method:
    kind = plugins.load("methods", name)
    inputs = merged(
        kind.defaults_for(kit.PROBLEM),
        {"schedule": fast(kit).model_dump(), **settings},
    )
    if name == "lp_ft":
        inputs["head_epochs"] = 1
    info = replace(kit.info(), labelled=GIVEN) if kind.labelled_rows == "own" else kit.info()
    return kind(kit.source(), info, kind.Config.from_settings(inputs))


def taught(batch: TargetBatch, kit: Any, *, shift: float = 0.5) -> TargetBatch:
    """The batch with labelled rows beside it."""
    x, y = kit.images(shift, seed=1)
    rows = GIVEN[len(x) > GIVEN]
    if isinstance(y, list):
        targets: Any = [y[i] for i in rows.tolist()]
    else:
        targets = type(y)(*(part[rows] for part in y)) if isinstance(y, tuple) else y[rows]
    return replace(batch, labelled=Labelled(rows, x[rows], targets))


def batch_of(kit: Any, name: str, x: torch.Tensor, rows: Any) -> TargetBatch:
    """A batch as the method is given one."""
    batch: TargetBatch = kit.batch(x, rows)
    return taught(batch, kit) if plugins.load("methods", name).labelled_rows == "own" else batch


class Taught:
    """Batches with labelled rows beside them."""

    def __init__(self, batches: Any, kit: Any, shift: float) -> None:
        self.batches, self.kit, self.shift = batches, kit, shift
        self.steps = batches.steps

    def epoch(self, epoch: int, rows: Any = None) -> Any:
        for batch in self.batches.epoch(epoch, rows):
            yield taught(batch, self.kit, shift=self.shift)


def run(
    method: Method, kit: Any = toy, *, shift: float = 0.5, resume: State | None = None
) -> list[EpochEnd]:
    x, _ = kit.images(shift, seed=1)
    ends = []
    batches = kit.Batches(x)
    if method.labelled_rows == "own":
        batches = Taught(batches, kit, shift)
    for event in adapt(method, batches, kit.scan(x), fast(kit), seed=3, resume=resume):
        if isinstance(event, EpochEnd):
            remaining = io.BytesIO()
            torch.save({"m": dict(event.state.method), "o": event.state.optimizer}, remaining)
            remaining.seek(0)
            loaded = torch.load(remaining, weights_only=True)
            state = State(event.state.next_epoch, loaded["m"], loaded["o"])
            ends.append(EpochEnd(event.clock, event.adapted, state))
    return ends


def same(one: Any, other: Any, **tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **(tolerance or {"rtol": 0, "atol": 0}))


def unmixed(kit: Any, name: str) -> dict[str, Any]:
    """Settings without what is drawn by batch and not by row."""
    if name == "post":
        return {"occlude": 0.0}
    return {"cut": 0.0} if kit is toyseg and name == "mean_teacher" else {}


def started(name: str, kit: Any = toy, **settings: Any) -> tuple[Method, torch.Tensor]:
    x, _ = kit.images(0.5, seed=1)
    method = make(name, kit, **settings)
    method.start_epoch(kit.scan(x), Clock(0, 5, 3))
    method.train()
    return method, x


@pytest.mark.parametrize(("kit", "name"), CASES)
def test_losses_are_named_finite_scalars_on_the_graph(kit: Any, name: str) -> None:
    method, x = started(name, kit)
    losses = method.losses(batch_of(kit, name, x, torch.arange(24)), Clock(0, 5, 3))
    assert bool(losses) == (name not in IDLE)
    for loss in losses.values():
        assert loss.shape == ()
        assert loss.isfinite()
        assert loss.requires_grad


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


@pytest.mark.parametrize(("kit", "name"), CASES)
def test_same_seed_same_result(kit: Any, name: str) -> None:
    one, other = run(make(name, kit), kit)[-1], run(make(name, kit), kit)[-1]
    same(one.state.method, other.state.method)


@pytest.mark.parametrize(("kit", "name"), CASES)
def test_a_resumed_run_ends_as_the_undisturbed_one(kit: Any, name: str) -> None:
    whole = run(make(name, kit), kit)
    resumed = run(make(name, kit), kit, resume=whole[0].state)
    assert [end.clock.epoch for end in resumed] == [1, 2]
    same(resumed[-1].state.method, whole[-1].state.method)


@pytest.mark.parametrize(("kit", "name"), CASES)
def test_only_the_student_learns_and_frozen_parts_stay(kit: Any, name: str) -> None:
    method = make(name, kit)
    before = copy.deepcopy(dict(method.named_parameters()))
    run(method, kit)
    for part, parameter in method.named_parameters():
        frozen = name in IDLE or method.config.lr_scale.get(part.split(".")[1], 1) == 0
        frozen |= name == "osuda" and ".1." not in part  # batch norm alone learns
        frozen |= part.split(".")[1] in getattr(method.student, "frozen", ())
        teaches = name != "ft"  # a teacher leaves a ResNet's first layers alone
        frozen |= kit is toymm and teaches and part.split(".")[2] in STEM
        changed = not torch.equal(before[part], parameter)
        if part.startswith("student.") and frozen:
            assert not changed, f"{part} is frozen"
        elif part.startswith("student."):
            assert changed, f"{part} did not learn"
        else:
            assert not parameter.requires_grad, f"{part} is no student's and takes gradient"


@pytest.mark.parametrize(("kit", "name"), CASES)
def test_every_parameter_is_in_one_group_or_frozen(kit: Any, name: str) -> None:
    method = make(name, kit)
    grouped = [p for group in method.parameter_groups(fast(kit)) for p in group["params"]]
    assert len({id(p) for p in grouped}) == len(grouped)
    trained = [p for p in method.parameters() if p.requires_grad and name not in IDLE]
    assert {id(p) for p in grouped} == {id(p) for p in trained}
    assert (make_optimizer(FAST, method.parameter_groups(FAST)) is None) == (name in IDLE)


@pytest.mark.parametrize(("kit", "name"), CASES)
def test_a_batch_in_another_order_leaves_the_same_state(kit: Any, name: str) -> None:
    states = []
    for rows in (list(range(24)), list(range(23, -1, -1))):
        method, x = started(name, kit, **unmixed(kit, name))
        optimizer = make_optimizer(FAST, method.parameter_groups(FAST))
        losses = method.losses(batch_of(kit, name, x, rows), Clock(0, 5, 3))
        if optimizer:
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
        method.after_step(Clock(0, 5, 3))
        states.append(method.state_dict())
    # Adam's first step is the gradient's sign, and so not smooth where that is nearly 0
    same(*states, rtol=1e-4, atol=1e-4 if kit is toypose else 1e-5)


@pytest.mark.parametrize(("kit", "name"), CASES)
def test_a_mild_shift_is_not_made_worse(kit: Any, name: str) -> None:
    shift = getattr(kit, "MILD", MILDER.get(name, MILD))
    x, y = kit.images(shift, seed=1)
    before = kit.accuracy(kit.source(), x, y)
    assert 0.5 < before < 0.97, "the shift must cost something"
    slack = 0.02 if kit.PROBLEM == "detection" else 0.0  # of AP50, a step function of few boxes
    after = kit.accuracy(run(make(name, kit), kit, shift=shift)[-1].adapted, x, y)
    assert after >= before - slack


@pytest.mark.parametrize(("kit", "name"), CASES)
def test_train_mode_reaches_the_student_alone(kit: Any, name: str) -> None:
    method = make(name, kit)
    method.train()
    assert kit.norm(method.student).training == (name not in ("source", "alpha_bn", "lp_ft"))
    for part, module in method.named_children():
        if part not in ("student", "problem"):
            assert not any(
                m.training for m in module.modules() if list(m.parameters(recurse=False))
            )


@pytest.mark.parametrize(("kit", "name"), CASES)
def test_unknown_settings_and_parts_are_refused(kit: Any, name: str) -> None:
    with pytest.raises(BadInput, match="there is no 'thresold'"):
        make(name, kit, thresold=0.5)
    with pytest.raises(BadInput, match="lr_scale names tail"):
        make(name, kit, lr_scale={"tail": 0.1})


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
    same(before, method.state_dict())


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


@pytest.mark.parametrize(("kit", "name"), CASES)
def test_labelled_rows_add_their_loss_and_leave_the_statistics_alone(kit: Any, name: str) -> None:
    method, x = started(name, kit)
    rows = torch.arange(min(24, kit.SIZE))
    batch = taught(kit.batch(x, rows), kit)
    before = {n: b.clone() for n, b in method.student.named_buffers() if "running" in n}
    result = method.labelled_losses(batch, Clock(0, 5, 3))
    assert bool(result) == (plugins.load("methods", name).labelled_rows == "added")
    assert method.labelled_losses(kit.batch(x, rows), Clock(0, 5, 3)) == {}
    for loss_name, loss in result.items():
        assert loss_name.startswith("labelled_")
        assert loss.isfinite()
        assert loss.requires_grad
    for buffer, value in method.student.named_buffers():
        if buffer in before:
            assert torch.equal(value, before[buffer])
    assert (name in IDLE) == (method.labelled_rows == "none")
