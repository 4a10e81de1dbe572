"""The work of the adapting stage, with all that it needs in hand: it asks no server.

What it has to say while it works in a sandbox goes to the parent (`sfda.adaptation.sandboxed`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sfda import plugins
from sfda.adaptation.plan import AdaptPlan, settings_for
from sfda.adaptation.scoring import Watched, make_scorer
from sfda.adaptation.training import Training, Watch
from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.config import Config
from sfda.decision.vetoes import SUREST, Expected, figures_of
from sfda.guides.complete import complete_guide
from sfda.guides.encoder import gathered
from sfda.guides.table import GuideRef, read_table
from sfda.inference.pieces import halving
from sfda.inference.predictions import verify_predictions
from sfda.loading.annotated_rows import (
    FramedRows,
    annotated_rows,
    framed_rows,
    with_annotated,
)
from sfda.loading.batches import EqualEpochs, TargetLoader
from sfda.loading.opened import Opened, open_stamped
from sfda.loading.progress import STEP
from sfda.loading.scan import scan, scan_views
from sfda.loading.sealed import open_sealed
from sfda.methods._base import Method
from sfda.problems.registry import PROBLEMS, read_bundle
from sfda.refs import (
    Adaptation,
    MetricPoint,
    ModelRef,
    ModelSpec,
    PredictionsRef,
    SplitRef,
)
from sfda.sandbox.process import Send
from sfda.sandbox.tensor_files import share_by_files
from sfda.types import Scan, TargetInfo

log = logging.getLogger("sfda")
_EVERY = 0.1  # seconds between two words on how far it is


class Order(Config):
    """All that fixes one adaptation, by value or by local path."""

    source: ModelRef
    bundle: str  # the source's folder
    predictions: PredictionsRef
    target: SplitRef
    stamps: str  # of the target's images, as the parent has seen them
    plan: AdaptPlan
    keep: Literal["best", "all"]
    folder: str  # for state, history and weights
    title: str
    device: DeviceName
    workers: int
    budget: float | None
    threads: int  # of torch on the processor
    guide: GuideRef | None = None  # the table of the plan's guide
    sealed: str | None = None  # the folder that a restricted process has its target from


def work(order: Order, watch: Watch) -> Adaptation:
    """Adapt, one candidate an epoch, each scored without labels. Raises BadInput."""
    torch.set_num_threads(order.threads)
    network, spec = read_bundle(Path(order.bundle), sha256=order.source.sha256)
    verify_predictions(order.predictions)
    if order.sealed:
        opened, framed = open_sealed(Path(order.sealed), spec)
    else:
        opened, framed = open_stamped(order.target, order.stamps, spec.input), None
    return adapt_network(network, spec, opened, order, watch, framed)


def adapt_network(
    network: nn.Module,
    spec: ModelSpec,
    opened: Opened,
    order: Order,
    watch: Watch,
    framed: FramedRows | None = None,
) -> Adaptation:
    """The same with source model and target in hand, and with annotated rows in the network's
    frame where somebody has brought them there. Where memory does not hold a batch the work goes on
    from its last epoch, with batches in parts.
    """
    schedule = settings_for(order.plan.method, order.source.problem, order.plan.config).schedule
    return halving(
        lambda parts: _training(network, spec, opened, order, watch, framed, parts).run(),
        order.title,
        schedule.batch_size,
    )


def _training(
    network: nn.Module,
    spec: ModelSpec,
    opened: Opened,
    order: Order,
    watch: Watch,
    framed: FramedRows | None,
    parts: int,
) -> Training:
    plan, problem, folder = order.plan, PROBLEMS[order.source.problem], Path(order.folder)
    chosen = choose(order.device)
    settings = settings_for(plan.method, problem.name, plan.config)
    views = plan.views or spec.views
    kind: type[Method] = plugins.load("methods", plan.method)
    torch.manual_seed(plan.seed)
    info = opened.info(plan.regime, order.source, plan.source_ratios, whole=not spec.input.tiled)
    annotated = None
    if plan.answers:
        framed = framed or framed_rows(opened.split, spec, folder / "answers")
    if plan.answers and framed:
        annotated = annotated_rows(
            framed, opened.images, spec, views, seed=plan.seed, device=chosen
        )
        info = replace(info, labelled=torch.from_numpy(annotated.rows).to(chosen))
    look = problem.replaying(
        scan(opened.images, spec.input, device=chosen), order.predictions, spec
    )
    info = _with_guide(info, order, look, network, chosen)
    algorithm = kind(network, info, settings)
    to_device(algorithm, chosen)
    if not kind.moves_views:
        algorithm.flips, views = views.flip, views.unmoved()
    if kind.views != "none":
        algorithm.pairs = scan_views(
            opened.images, spec.input, views, seed=plan.seed, device=chosen
        )
    return Training(
        folder=folder,
        method=algorithm,
        spec=spec,
        batches=with_annotated(
            EqualEpochs(
                TargetLoader(
                    opened.images,
                    spec.input,
                    views,
                    strong=kind.views != "none",
                    batch_size=settings.schedule.batch_size,
                    drop_last=settings.schedule.drop_last,
                    seed=plan.seed,
                    device=chosen,
                    workers=order.workers,
                    smallest=problem.smallest_batch,
                    geometric=problem.geometric and kind.views != "none",
                    shown=problem.shows_padding,
                ),
                settings.schedule,
            ),
            annotated,
            algorithm,
            settings.schedule.batch_size,
        ),
        scan=look,
        schedule=settings.schedule,
        seed=plan.seed,
        scorer=make_scorer(
            opened,
            spec.input,
            views,
            plan.select_by,
            algorithm,
            problem.name,
            chosen,
            order.predictions.profile,
            plan.validators,
            watched_for(order),
        ),
        select_by=plan.select_by,
        keep=order.keep,
        watch=watch,
        title=order.title,
        budget=order.budget,
        falls_back=True,
        parts=parts,
    )


def _with_guide(
    info: TargetInfo, order: Order, look: Scan, network: nn.Module, device: torch.device
) -> TargetInfo:
    """With the guide's table, completed by what the source model says. Raises BadInput."""
    ref = order.guide
    if ref is None or order.plan.guide is None:
        return info
    table = read_table(Path(ref.folder), ref.sha256)
    logits = gathered(look(to_device(network, device)), info.size)[1]
    guide = complete_guide(table, logits, ref.temperature, ref.sha256)
    return replace(info, guide=guide.on(device))


def watched_for(order: Order) -> Watched:
    """What the answers of an epoch are held against: those of the source model."""
    ref, plan = order.predictions, order.plan
    expected = plan.expected
    if expected.effective is not None:  # so few images cannot show more classes
        expected = Expected(effective=min(expected.effective, float(ref.count)))
    return Watched(
        figures_of(ref.profile, ref.count),
        plan.limits,
        expected,
        PROBLEMS[order.source.problem].surest_rows(ref, SUREST),
        order.source.classes,
    )


def work_in_sandbox(document: dict[str, Any], send: Send) -> dict[str, Any]:
    """Carry out an order inside the process; the adaptation as JSON."""
    share_by_files()
    log.handlers[:] = [_ToParent(send)]
    log.setLevel(STEP)
    log.propagate = False
    order = Order.model_validate(document["order"])
    return work(order, _Relay(send, document["shown"])).model_dump(mode="json")


class _Relay:
    """The watch of the process: what it gets goes to the parent."""

    def __init__(self, send: Send, shown: int) -> None:
        self.send = send
        self._shown = shown

    def shown(self) -> int:
        return self._shown

    def points(self, points: list[MetricPoint]) -> None:
        self.send(points=points)

    def share(self, done: float) -> None:
        self.send(share=done)


class Unwatched:
    """The watch of a run that nobody follows."""

    def shown(self) -> int:
        """No epoch."""
        return -1

    def points(self, points: list[MetricPoint]) -> None:
        """Nothing is shown."""

    def share(self, done: float) -> None:
        """Nothing is shown."""


class _ToParent(logging.Handler):
    """Lines of the log and steps of bars as messages: the parent alone has a terminal."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self.send = send
        self._last = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if progress := getattr(record, "progress", None):
            _, done, total = progress
            if done == total or time.monotonic() - self._last > _EVERY:
                self._last = time.monotonic()
                self.send(progress=progress)
        elif beside := getattr(record, "beside", None):
            self.send(beside=beside)
        else:
            self.send(log=record.getMessage(), level=record.levelno)
