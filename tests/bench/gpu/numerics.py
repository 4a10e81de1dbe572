"""Same numbers in other ways: half precision, a parallel wrapper; and many classes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sfda.adaptation.schedule import make_optimizer
from sfda.building_blocks.covariance import ClassCovariances, augmented_loss
from sfda.building_blocks.precision import network_precision
from sfda.methods.sfda2 import class_affinity
from sfda.types import Clock, TargetBatch
from tests.bench.gpu.bare import seconds
from tests.bench.gpu.cases import Bench, Target
from tests.bench.gpu.epochs import STEPS


def precision(target: Target, until: float) -> dict[str, Any]:
    """Losses and parameters after a few steps in bfloat16, and in TF32, against float32."""
    config = target.config()
    method = target.method(config)
    loader = target.loader(config, workers=0)
    method.start_epoch(target.scan(), Clock(0, loader.steps(), 2))
    batches = [batch for batch, _ in zip(loader.epoch(0), range(STEPS), strict=False)]
    exact = trained(target.copy(method), batches, half=False, tf32=False)
    kinds = {"bf16": trained(target.copy(method), batches, half=True, tf32=True)}
    if target.device.type == "cuda":
        kinds["tf32"] = trained(target.copy(method), batches, half=False, tf32=True)
    return {name: _compared(kind, exact) for name, kind in kinds.items()}


class Trained(NamedTuple):
    """Losses of every step, and what became of the parameters."""

    losses: list[dict[str, float]]
    change: Tensor


def trained(method: Any, batches: list[TargetBatch], *, half: bool, tf32: bool) -> Trained:
    """A few steps of the method."""
    method.train()
    before = _flat(method)
    with matrix_precision(tf32):
        losses = [
            {name: float(term) for name, term in terms.items()}
            for terms in steps_of(method, batches, half=half)
        ]
    return Trained(losses, _flat(method) - before)


def _flat(method: Any) -> Tensor:
    parts = [p.detach().double().flatten() for p in method.student.parameters() if p.requires_grad]
    return torch.cat(parts)


@contextmanager
def matrix_precision(tf32: bool) -> Iterator[None]:
    """Inside, float32 products and convolutions are taken in TF32 or are exact."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def steps_of(
    method: Any,
    batches: list[TargetBatch],
    *,
    half: bool | None = None,
    losses_of: Callable[[TargetBatch, Clock], dict[str, Tensor]] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """The loop's step, written out: the losses of each."""
    schedule = method.config.schedule
    optimizer = make_optimizer(schedule, method.parameter_groups(schedule))
    assert optimizer is not None
    torch.manual_seed(1)
    for n, batch in enumerate(batches):
        clock = Clock(n, len(batches) + 1, 2)
        with network_precision(batch.weak.device, half=half):
            losses = (losses_of or method.losses)(batch, clock)
        optimizer.zero_grad(set_to_none=True)
        torch.stack([term.float() for term in losses.values()]).sum().backward()
        optimizer.step()
        method.after_step(clock)
        yield {name: term.detach() for name, term in losses.items()}


def _compared(one: Trained, exact: Trained) -> dict[str, Any]:
    differences = [
        sum(abs(ours.get(name, 0.0) - theirs.get(name, 0.0)) for name in ours | theirs)
        / max(1e-12, sum(abs(value) for value in theirs.values()))
        for ours, theirs in zip(one.losses, exact.losses, strict=True)
    ]
    cosine = F.cosine_similarity(one.change, exact.change, dim=0)
    return {"loss_difference": differences, "cosine": float(cosine)}


class _Losses(nn.Module):
    """A method's losses as a forward pass, which is all that DistributedDataParallel wraps."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: TargetBatch, clock: Clock) -> dict[str, Tensor]:
        """The losses."""
        losses: dict[str, Tensor] = self.method.losses(batch, clock)
        return losses


def ddp(target: Target, until: float) -> dict[str, Any]:
    """Steps with and without DistributedDataParallel in a group of one process, in turns."""
    cuda = target.device.type == "cuda"
    config = target.config()
    method = target.method(config)
    loader = target.loader(config, workers=0)
    method.start_epoch(target.scan(), Clock(0, loader.steps(), 2))
    batches = [batch for batch, _ in zip(loader.epoch(0), range(STEPS), strict=False)]
    with one_process_group("nccl" if cuda else "gloo"):
        plain, wrapped = target.copy(method), target.copy(method)
        parallel = DistributedDataParallel(
            _Losses(wrapped),
            device_ids=[0] if cuda else None,
            broadcast_buffers=False,
            find_unused_parameters=target.case.problem == "detection",
        )
        plain.train()
        wrapped.train()
        without = [_floats(step) for step in steps_of(plain, batches)]
        within = [_floats(step) for step in steps_of(wrapped, batches, losses_of=parallel)]
        spans: dict[str, list[float]] = {"plain_ms": [], "ddp_ms": []}
        while len(spans["ddp_ms"]) < target.repeats and not (
            spans["ddp_ms"] and time.monotonic() > until
        ):
            for name, one, call in (("plain_ms", plain, None), ("ddp_ms", wrapped, parallel)):
                started = seconds(target.device)
                for _ in steps_of(one, batches, losses_of=call):
                    pass
                spans[name].append(1000 * (seconds(target.device) - started) / len(batches))
        del parallel
    differences = [
        abs(ours[name] - theirs[name]) / max(1e-12, abs(theirs[name]))
        for ours, theirs in zip(within, without, strict=True)
        for name in theirs
    ]
    if max(differences) > 1e-4:
        raise AssertionError(f"losses differ by {max(differences):.2g} with one process of DDP")
    overhead = [d / p - 1 for p, d in zip(spans["plain_ms"], spans["ddp_ms"], strict=True)]
    return {"loss_difference": max(differences), "overhead": overhead, **spans}


def _floats(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(term) for name, term in losses.items()}


@contextmanager
def one_process_group(backend: str) -> Iterator[None]:
    """A process group of this process alone, met in memory."""
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def many_classes(bench: Bench, tiny: bool, until: float) -> dict[str, Any]:
    """SF(DA)^2's covariances and its two losses on them, forward and backward, at C = 345."""
    device = bench.device
    classes, dim, count = (12, 16, 8) if tiny else (345, 256, 64)
    generator = torch.Generator().manual_seed(0)
    statistics_ = ClassCovariances(classes, dim).to(device)
    head = torch.randn(classes, dim, generator=generator).div_(dim**0.5).to(device)
    head.requires_grad_()
    features = torch.randn(count, dim, generator=generator).to(device).requires_grad_()
    sums = torch.rand(classes, classes, generator=generator).double().to(device)
    counts = torch.full((classes,), 30, device=device)

    def step() -> None:
        features.grad = head.grad = None
        logits = features @ head.T
        present = statistics_.update(features, logits.detach().argmax(1))
        augmented = augmented_loss(logits, head, present, strength=2.5).mean()
        apart = statistics_.disentanglement(present, class_affinity(sums, counts))
        (1e-4 * augmented + 10 * apart).backward()

    memory = None
    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        memory = (torch.cuda.max_memory_allocated() - before) / 1e6
    rounds: list[float] = []
    calls = 2 if tiny else 20
    while len(rounds) < bench.repeats and not (rounds and time.monotonic() > until):
        started = seconds(device)
        for _ in range(calls):
            step()
        rounds.append(1000 * (seconds(device) - started) / calls)
    held = sum(buffer.nbytes for buffer in statistics_.buffers()) / 1e6
    return {
        "classes": classes, "dim": dim, "batch": count, "step_ms": rounds,
        "held_mb": held, "step_mb": memory,
    }  # fmt: skip
