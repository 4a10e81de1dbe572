"""The contract that every method keeps, as functions that say what is broken."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import torch

from sfda import plugins
from sfda.adaptation.run_folder import loss_name_fault
from sfda.adaptation.schedule import make_optimizer
from sfda.methods._base import Learns, Method, MethodConfig
from sfda.settings import Schedule
from sfda.testing.toys import toys_of
from sfda.testing.trial import (
    MOMENT,
    TRIAL_ROWS,
    Trial,
    require,
    require_kind,
    require_refused,
    require_same,
    run_checks,
    trained_names,
)

PLAIN_SCHEDULE = Schedule(lr=0.02, epochs=3, batch_size=24)


def check_method(
    kind: type[Method],
    problem: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Try a method on the toy shifts of a problem, or of all that it serves.

    Takes seconds to a minute. `settings` stand above the method's defaults and its `brief` ones.
    Raises AssertionError that says what is broken, and BadInput for settings it does not know.
    """
    require_declared(kind)
    problems = sorted(kind.problems) if problem is None else [problem]
    for name in problems:
        require(name in kind.problems, f"{kind.__name__} is not for {name}: see its `problems`")
        require(bool(toys_of(name)), f"there is no toy shift of {name} to try it on")
        for toy in toys_of(name):
            trial = Trial(kind, toy, dict(settings or {}))
            run_checks(f"{kind.__name__} on {name}", METHOD_CHECKS, trial)


def require_declared(kind: type[Method]) -> None:
    """What a class says of itself is there and has a meaning."""
    name = require_kind(kind, Method, MethodConfig)
    require(kind.losses is not Method.losses, f"{name} defines no `losses`")
    require(kind.learns in get_args(Learns), f"{name}.learns is none of {get_args(Learns)}")
    unknown = sorted(kind.minimises - set(plugins.names("validators")))
    require(not unknown, f"{name}.minimises names no validator: {', '.join(unknown)}")


def losses_are_named_finite_scalars_on_the_graph(trial: Trial) -> None:
    """None, where nothing learns by gradient."""
    method, x = trial.begun()
    losses = method.losses(trial.batch(x, torch.arange(TRIAL_ROWS)), MOMENT)
    learns = trial.kind.learns
    require(bool(losses) == trial.learns, f"learns = '{learns}', and losses are {list(losses)}")
    require(not (fault := loss_name_fault(losses)), fault)
    for name, loss in losses.items():
        require(loss.shape == (), f"loss '{name}' has shape {tuple(loss.shape)}: it is no scalar")
        require(bool(loss.isfinite()), f"loss '{name}' is {loss.detach()}")
        require(loss.requires_grad, f"loss '{name}' is not on the graph")


def same_seed_gives_the_same_result(trial: Trial) -> None:
    """To the bit."""
    one, other = trial.whole.ends[-1].state.method, trial.run().ends[-1].state.method
    require_same(one, other, "two runs under one seed", 0.0)


def a_resumed_run_ends_as_the_undisturbed_one(trial: Trial) -> None:
    """What a method holds is in `state_dict()`, and nothing else moves it."""
    resumed = trial.run(resume=trial.whole.ends[0].state).ends
    epochs = [end.clock.epoch for end in resumed]
    require(epochs == [1, 2], f"resumed after epoch 0 it ran epochs {epochs}")
    what = "a run resumed after its first epoch and one that was not (is it all in state_dict()?)"
    require_same(resumed[-1].state.method, trial.whole.ends[-1].state.method, what, 0.0)


def only_the_student_learns_and_frozen_parts_stay(trial: Trial) -> None:
    """All that the optimiser has moves; nothing else does, nor takes gradient."""
    before = copy.deepcopy(trial.method().state_dict())
    run = trial.whole
    resting = {part for part, scale in run.method.config.lr_scale.items() if scale == 0}
    resting |= set(getattr(run.method.student, "frozen", ()))
    for name, parameter in run.method.named_parameters():
        student, moved = name.startswith("student."), not torch.equal(before[name], parameter)
        if not student:
            require(not parameter.requires_grad, f"{name} is no student's and takes gradient")
        elif name in run.trained:
            require(name.split(".")[1] not in resting, f"{name} is of a frozen part and is trained")
            require(moved, f"{name} is trained and did not move")
        else:
            require(not moved, f"{name} is not trained and moved")
    what = f"learns = '{trial.kind.learns}'"
    require(bool(run.trained) == trial.learns, f"{what}, and {len(run.trained)} parameters train")
    if trial.kind.learns == "nothing":
        require_same(before, run.method.state_dict(), "learns = 'nothing', before and after", 0.0)


def every_parameter_is_in_one_group_or_frozen(trial: Trial) -> None:
    """What takes gradient is in exactly one group of `parameter_groups`."""
    method = trial.method()
    groups = method.parameter_groups(trial.toy.FAST)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    require(len(set(ids)) == len(ids), "a parameter is in two groups of `parameter_groups`")
    learning = {n for n, p in method.named_parameters() if p.requires_grad and trial.learns}
    left_out = sorted(learning - trained_names(method, groups))
    require(not left_out, f"takes gradient and is in no group: {', '.join(left_out[:3])}")
    optimizer = make_optimizer(PLAIN_SCHEDULE, method.parameter_groups(PLAIN_SCHEDULE))
    require((optimizer is None) != trial.learns, f"learns = '{trial.kind.learns}' has an optimiser")


def a_batch_in_another_order_leaves_the_same_state(trial: Trial) -> None:
    """But where the class says that it draws by batch (`mixes_batch`)."""
    if not trial.kind.mixes_batch:
        another_order_leaves_the_same_state(trial)


def another_order_leaves_the_same_state(trial: Trial) -> None:
    """The same whatever the class says: for settings with which it does not draw by batch."""
    states = []
    for rows in (torch.arange(TRIAL_ROWS), torch.arange(TRIAL_ROWS).flip(0)):
        method, x = trial.begun()
        optimizer = make_optimizer(PLAIN_SCHEDULE, method.parameter_groups(PLAIN_SCHEDULE))
        losses = method.losses(trial.batch(x, rows), MOMENT)
        if optimizer:
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
        method.after_step(MOMENT)
        states.append(method.state_dict())
    what = "one batch in two orders (rows belong to `batch.index`, not to their position)"
    require_same(states[0], states[1], what, trial.toy.ROUNDING)


def a_mild_shift_is_not_made_worse(trial: Trial) -> None:
    """Measured with the toy's labels, which no method sees."""
    x, y = trial.toy.images(trial.toy.MILD, seed=1)
    before = trial.toy.accuracy(trial.toy.source(), x, y)
    require(0.5 < before < 0.97, f"the toy's shift must cost something: {before:.3f}")
    after = trial.toy.accuracy(trial.run(shift=trial.toy.MILD).ends[-1].adapted, x, y)
    worse = f"a mild shift is made worse: {before:.3f} before, {after:.3f} after"
    require(after >= before - trial.toy.SLACK, worse)


def train_mode_reaches_the_student_alone(trial: Trial) -> None:
    """Teachers and guides stay in eval mode."""
    method = trial.method()
    method.train()
    for name, module in method.named_modules():
        own = list(module.parameters(recurse=False))
        if own and module.training and not name.startswith("student"):
            raise AssertionError(f"{name} is put into train mode by `train()`")
    if trial.kind.learns == "nothing":
        require(not trial.toy.norm(method.student).training, "learns = 'nothing', in train mode")


def unknown_settings_and_parts_are_refused(trial: Trial) -> None:
    """A typo is an error at the first line."""
    for settings, word in (({"thresold": 0.5}, "thresold"), ({"lr_scale": {"tail": 0.1}}, "tail")):
        require_refused(trial.method, settings, word)


def labelled_rows_add_their_loss_and_leave_statistics_alone(trial: Trial) -> None:
    """As `labelled_rows` of the class says; what trains nothing has no use for them."""
    method, x = trial.begun()
    batch = trial.toy.batch(x, torch.arange(min(TRIAL_ROWS, trial.toy.SIZE)))
    before = {n: b.clone() for n, b in method.student.named_buffers() if "running" in n}
    added, way = method.labelled_losses(trial.annotated(batch), MOMENT), trial.kind.labelled_rows
    require(bool(added) == (way == "added"), f"labelled_rows = '{way}' adds {list(added)}")
    require(not method.labelled_losses(replace(batch, labelled=None), MOMENT), "losses of no rows")
    require(not (fault := loss_name_fault(added)), fault)
    for name, loss in added.items():
        require(name.startswith("labelled_"), f"'{name}' does not begin with labelled_")
        require(bool(loss.isfinite()) and loss.requires_grad, f"'{name}' is {loss}")
    for name, value in method.student.named_buffers():
        if name in before:
            require(torch.equal(value, before[name]), f"labelled rows moved {name}")
    what = f"learns = '{trial.kind.learns}' and labelled_rows = '{way}'"
    require(not trial.learns or way != "none", f"{what}: 'none' is for what trains nothing")
    require(trial.learns or way != "added", f"{what}: 'added' is for what trains")


METHOD_CHECKS: tuple[Callable[[Trial], None], ...] = (
    losses_are_named_finite_scalars_on_the_graph,
    same_seed_gives_the_same_result,
    a_resumed_run_ends_as_the_undisturbed_one,
    only_the_student_learns_and_frozen_parts_stay,
    every_parameter_is_in_one_group_or_frozen,
    a_batch_in_another_order_leaves_the_same_state,
    a_mild_shift_is_not_made_worse,
    train_mode_reaches_the_student_alone,
    unknown_settings_and_parts_are_refused,
    labelled_rows_add_their_loss_and_leave_statistics_alone,
)
