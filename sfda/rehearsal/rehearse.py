"""Adapting a source model to synthetic targets as `sfda adapt` would, and what each truly gained.

The method sees images without labels, as it always does; labels measure the gain once it is done.
"""

from __future__ import annotations

import copy
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from sfda.adaptation.plan import AdaptPlan
from sfda.adaptation.run_folder import best_epoch, read_history
from sfda.adaptation.worker import Order, Unwatched, adapt_network
from sfda.building_blocks.device import to_device
from sfda.decision.change import scan_change
from sfda.decision.evidence import SOURCE_NAME, paired_scores
from sfda.decision.ranking import Contender, look_at_all
from sfda.decision.vetoes import Expected
from sfda.errors import BadInput
from sfda.inference.over_split import infer_split
from sfda.inference.pseudo_labels import keep_pseudo_labels
from sfda.loading.opened import Opened
from sfda.problems.registry import PROBLEMS
from sfda.refs import Adaptation, ManifestRef, ModelRef, ModelSpec, SplitRef
from sfda.rehearsal.likeness import leave_one_out
from sfda.rehearsal.plan import RehearsalPlan, method_digest
from sfda.rehearsal.shifts import (
    FEWEST_REHEARSED,
    SyntheticShift,
    SyntheticTarget,
    synthetic_shifts,
    synthetic_target,
)
from sfda.settings import DeviceName
from sfda.weights.bundle import network_digest, read_verified
from sfda.weights.load import load_exactly
from sfda.weights.rehearsals import Rehearsals, RehearsedPair

log = logging.getLogger("sfda")


def digest_without_card(network: nn.Module, spec: ModelSpec) -> str:
    """Digest that a model's bundle would have if it had no card: a card cannot hold its own."""
    return network_digest(network, spec.model_copy(update={"card_sha256": None}))


@dataclass(frozen=True)
class Rehearser:
    """A source model and its labelled split, ready to be rehearsed on."""

    network: nn.Module  # on the processor
    spec: ModelSpec
    ref: ModelRef
    opened: Opened  # the source's own rows, with labels
    plan: RehearsalPlan
    device: torch.device
    ratios: tuple[float, ...] | None = None  # of pixels by class, from the card
    budget: float | None = None  # seconds; None: as many as it takes
    now: Callable[[], float] = time.monotonic

    def run(self) -> Rehearsals:
        """Every rehearsal, or those that begin before the budget ends. Raises BadInput where the
        split is too small or has no labels, and where the method cannot do the first of them.
        """
        if len(self.opened.split) < FEWEST_REHEARSED:
            raise BadInput(
                f"{self.opened.split.manifest}, split '{self.opened.split.name}', has "
                f"{len(self.opened.split)} rows; rehearsals need {FEWEST_REHEARSED}: name another "
                "split by --split, or leave --rehearse out"
            )
        started = self.now()
        pairs: list[RehearsedPair] = []
        stopped = 0
        for shift in synthetic_shifts(self.spec, self.plan.count, self.plan.seed):
            if self.budget is not None and self.now() - started >= self.budget:
                break
            pair = self._pair_or_none(shift, bool(pairs or stopped))
            stopped += pair is None
            pairs += [] if pair is None else [pair]
            log.info("%s", _line(shift, pair))
        predicted, right = leave_one_out(pairs)
        return Rehearsals(
            problem=self.spec.problem,
            method=self.plan.method,
            settings_sha256=method_digest(self.plan.method, self.plan.config),
            model_sha256=digest_without_card(self.network, self.spec),
            epochs=self.plan.config["schedule"]["epochs"],
            planned=self.plan.count,
            stopped=stopped,
            predicted=predicted,
            right=right,
            seconds=round(self.now() - started, 1),
            pairs=tuple(pairs),
        )

    def _pair_or_none(self, shift: SyntheticShift, others_went: bool) -> RehearsedPair | None:
        """One rehearsal in a folder of its own; None where no epoch of it could be taken. What the
        first cannot do, none can: that is BadInput.
        """
        with tempfile.TemporaryDirectory(prefix="sfda-") as folder, torch.random.fork_rng():
            try:
                return self._pair(shift, Path(folder))
            except BadInput as error:
                if not others_went:
                    raise
                log.warning("rehearsal of %s: %s", shift.kind, error)
                return None

    def _pair(self, shift: SyntheticShift, folder: Path) -> RehearsedPair | None:
        target = synthetic_target(self.opened, self.spec, shift, folder)
        adapted = self._adapt(target.learnt, shift.seed, folder)
        history = read_history(Path(adapted.folder), adapted.history_sha256)
        best = best_epoch(history, self.plan.select_by)
        if best is None:
            return None
        # the chosen one, and as `sfda adapt` has them, other epochs that are still there
        order = [best, *(n for n in range(len(history)) if n != best and history[n].weights)]
        others = [self._network_of(str(history[n].weights)) for n in order]
        return self._measured(shift, target, _Model(self.network, self.spec), others)

    def _network_of(self, weights: str) -> _Model:
        tensors, spec = read_verified(Path(weights))
        network = PROBLEMS[spec.problem].in_form_of(copy.deepcopy(self.network), spec)
        load_exactly(network, tensors)
        return _Model(network.eval(), spec)

    def _adapt(self, learnt: Opened, seed: int, folder: Path) -> Adaptation:
        """The stages of `sfda adapt` from the source's look up to the last epoch."""
        network = to_device(copy.deepcopy(self.network), self.device)
        predictions = keep_pseudo_labels(
            lambda network: infer_split(network, learnt, self.spec, self.device),
            network,
            self.spec,
            folder / "predictions",
            size=len(learnt.split),
            source_sha256=self.ref.sha256,
        )
        target = SplitRef(manifest=ManifestRef(path="", sha256=""), split="", seen=learnt.seen)
        order = Order(
            source=self.ref,
            bundle=self.ref.uri,
            predictions=predictions,
            target=target,
            stamps="",
            plan=self._plan_of(learnt, seed),
            keep="best",
            folder=str(folder / "run"),
            title=f"rehearsal with {self.plan.method}",
            device=_device_name(self.device),
            workers=0,
            budget=None,
            threads=torch.get_num_threads(),
        )
        fresh = copy.deepcopy(self.network)
        return adapt_network(fresh, self.spec, learnt, order, Unwatched())

    def _plan_of(self, learnt: Opened, seed: int) -> AdaptPlan:
        classes = float(len(self.spec.classes))
        counts_classes = PROBLEMS[self.spec.problem].one_class_an_image
        return AdaptPlan(
            seen=learnt.seen,
            split=learnt.split.name,
            method=self.plan.method,
            config=self.plan.config,
            views=None,
            select_by=self.plan.select_by,
            regime="closed",
            source_ratios=self.ratios,
            expected=Expected(effective=classes) if counts_classes else Expected(),
            seed=seed,
        )

    def _measured(
        self, shift: SyntheticShift, target: SyntheticTarget, source: _Model, others: list[_Model]
    ) -> RehearsedPair | None:
        """What can be seen of the adapted model without labels, and then what it gained by them;
        None where its outputs are not finite.
        """
        named = {SOURCE_NAME: source, "candidate": others[0]}
        named |= {f"epoch {number}": model for number, model in enumerate(others[1:])}
        looked = look_at_all(self._contenders(named, target.judged), self.device)
        if not {SOURCE_NAME, "candidate"} <= looked.looks.keys():
            return None
        scores = paired_scores(looked.looks, SOURCE_NAME, "candidate")
        before, after = (self._on_device(model) for model in (source, others[0]))
        change = scan_change(
            before, after, target.judged, source.spec, others[0].spec, self.device
        ).report
        spec = source.spec.model_copy(update={"reject": others[0].spec.reject})
        gain = self._metric(after, others[0].spec, target) - self._metric(before, spec, target)
        if not math.isfinite(gain):
            return None
        return RehearsedPair(
            kind=shift.kind,
            severity=shift.severity,
            seed=shift.seed,
            rows=len(target.learnt.split),
            judged=len(target.judged.split),
            change=round(change.share, 6),
            before={name: round(one.value, 6) for name, (_, one, _) in scores.items()},
            after={name: round(one.value, 6) for name, (_, _, one) in scores.items()},
            gain=round(100 * gain, 4),
        )

    def _contenders(
        self, named: dict[str, _Model], judged: Opened
    ) -> Iterator[tuple[str, Contender]]:
        for name, model in named.items():
            yield name, Contender(self._on_device(model), model.spec, judged)

    def _on_device(self, model: _Model) -> nn.Module:
        return to_device(copy.deepcopy(model.network), self.device)

    def _metric(self, network: nn.Module, spec: ModelSpec, target: SyntheticTarget) -> float:
        """The problem's main metric on the rows whose labels hold."""
        outputs = infer_split(network, target.labelled, spec, self.device)
        measured = PROBLEMS[spec.problem].resampled(target.labelled, spec, outputs)
        return measured.of(np.ones(len(target.labelled.split), np.int64))


class _Model(NamedTuple):
    """A network on the processor, and its spec."""

    network: nn.Module
    spec: ModelSpec


def _device_name(device: torch.device) -> DeviceName:
    return "cuda" if device.type == "cuda" else "cpu"


def _line(shift: SyntheticShift, pair: RehearsedPair | None) -> str:
    name = f"rehearsal of {shift.kind} {shift.severity}"
    if pair is None:
        return f"{name}: no epoch could be taken"
    return f"{name}: {100 * pair.change:.1f} % of the answers change, gain {pair.gain:+.1f} points"
