"""The loop: one for every method. A generator without IO, which yields what happened."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor, nn, optim

from sfda.adaptation.schedule import learning_rate, make_optimizer
from sfda.building_blocks.precision import network_precision
from sfda.errors import BadInput
from sfda.inference.pieces import in_parts
from sfda.methods._base import Method
from sfda.settings import Schedule
from sfda.types import Batches, Clock, EpochEnd, EpochStart, Losses, Scan, State, StepEnd


def adapt(
    method: Method,
    batches: Batches,
    scan: Scan,
    schedule: Schedule,
    *,
    seed: int = 0,
    resume: State | None = None,
    parts: int = 1,
) -> Generator[EpochStart | StepEnd | EpochEnd, None, None]:
    """Minimise what `method` names on the target's batches, epoch after epoch.

    Every epoch seeds torch anew from (seed, epoch), so that a run resumed from the `State` of an
    `EpochEnd` goes on exactly as the undisturbed one. A batch without losses takes no optimiser
    step, but the clock advances. Networks that learn by gradient take a batch in so many `parts`,
    for want of memory; its losses stay those of the whole. Raises BadInput for a target too small
    for one batch.
    """
    per_epoch = batches.steps(method.sample(0))
    if per_epoch == 0:
        raise BadInput("the target holds fewer images than one batch needs (2); add images")
    first = resume.next_epoch if resume else 0
    optimizer = _optimizer(method, schedule, first)
    if resume:
        _restore(resume, method, optimizer)
    networks = _dividing(method)
    for epoch in range(first, schedule.epochs):
        if epoch > first and method.phase(epoch) != method.phase(epoch - 1):
            optimizer = _optimizer(method, schedule, epoch)
        torch.manual_seed(epoch_seed(seed, epoch))
        clock = Clock(epoch * per_epoch, per_epoch, schedule.epochs)
        method.start_epoch(scan, clock)
        method.train()
        yield EpochStart(clock)
        for n, batch in enumerate(batches.epoch(epoch, method.sample(epoch))):
            clock = Clock(epoch * per_epoch + n, per_epoch, schedule.epochs)
            rate = learning_rate(schedule, clock)
            with network_precision(batch.weak.device), in_parts(networks, parts):
                losses = method.losses(batch, clock) | method.labelled_losses(batch, clock)
            _minimise(losses, method, optimizer, rate, schedule.clip_norm)
            method.after_step(clock)
            terms = {name: term.detach() for name, term in losses.items()}
            yield StepEnd(clock, terms, rate, len(batch.index))
        for losses in method.end_epoch(clock):
            _minimise(losses, method, optimizer, learning_rate(schedule, clock), schedule.clip_norm)
        yield EpochEnd(clock, method.adapted, _state(epoch + 1, method, optimizer))


def _dividing(method: Method) -> list[nn.Module]:
    """The networks of a method that may take a batch in parts: none where the statistics of the
    whole batch are what it learns."""
    kind = type(method.student)
    divide = method.learns == "network"
    return [part for part in method.children() if divide and isinstance(part, kind)]


def epoch_seed(seed: int, epoch: int) -> int:
    """One seed a pair, so that neighbouring runs and epochs do not share their numbers."""
    return (seed * 1_000_003 + epoch * 7_919 + 17) % 2**63


def _minimise(
    losses: Losses,
    method: Method,
    optimizer: optim.Optimizer | None,
    rate: float,
    clip_norm: float | None,
) -> None:
    if not losses or optimizer is None:
        return
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    optimizer.zero_grad(set_to_none=True)
    total: Tensor = torch.stack([term.float() for term in losses.values()]).sum()
    total.backward()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(method.student.parameters(), clip_norm)
    optimizer.step()


def _optimizer(method: Method, schedule: Schedule, epoch: int) -> optim.Optimizer | None:
    method.enter_phase(method.phase(epoch))
    return make_optimizer(schedule, method.parameter_groups(schedule))


def _state(next_epoch: int, method: Method, optimizer: optim.Optimizer | None) -> State:
    return State(next_epoch, method.state_dict(), optimizer.state_dict() if optimizer else None)


def _restore(state: State, method: Method, optimizer: optim.Optimizer | None) -> None:
    method.load_state_dict(state.method)
    going_on = method.phase(state.next_epoch) == method.phase(state.next_epoch - 1)
    if optimizer is not None and state.optimizer is not None and going_on:
        optimizer.load_state_dict(dict(state.optimizer))
