"""The runs of `bench decide`: which there are, and one adaptation with all that it leaves.

A run goes the way of `sfda adapt`, without servers: plan, pool, the source's predictions, the loop
with its scores and vetoes. All epochs are kept, and what each says of the pool, so that whatever is
decided later needs no further adaptation.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sfda.adaptation.plan import AdaptPlan, make_plan
from sfda.adaptation.run_folder import History, read_history
from sfda.adaptation.worker import Order, Unwatched, adapt_network
from sfda.building_blocks.rejection import predicted_labels
from sfda.decision.evidence import SOURCE_NAME
from sfda.errors import BadInput
from sfda.inference.over_split import infer_split
from sfda.inference.pseudo_labels import keep_pseudo_labels
from sfda.loading.opened import Opened, manifest_ref, open_part
from sfda.loading.pool import HeldOut, pool_of
from sfda.refs import ModelRef, ModelSpec
from sfda.settings import AdaptSettings
from sfda.state_folder import temporary_state
from sfda.weights.bundle import bundle_digest
from tests.bench.decisions.images import Labelled
from tests.bench.decisions.sources import as_input, read_network, source_bundle
from tests.bench.decisions.targets import KINDS, target_folder

CPU = torch.device("cpu")
EPOCHS = 3
SEEDS = 2
RATES = {"shot": 0.01, "aad": 1e-3, "nrc": 1e-3, "sfda2": 1e-3, "glc": 1e-3, "mean_teacher": 1e-3}
"""Of docs/results.md's comparisons on digits, all parts of a network alike."""
METHODS = (*RATES, "bn", "alpha_bn")


class Run(NamedTuple):
    """One adaptation."""

    kind: str  # of target
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and its line."""
        return f"{self.kind}, {self.method}, {self.seed}"


def all_runs() -> list[Run]:
    """All, those of each seed in one block and the methods of a target side by side."""
    return [
        Run(kind, method, seed)
        for seed in range(SEEDS)
        for kind in KINDS
        for method in METHODS
        if KINDS[kind].faster == 1 or method in RATES
    ]


def some_runs(count: int) -> list[Run]:
    """So many of all, drawn once and for ever."""
    runs = all_runs()
    drawn = np.random.default_rng(0).permutation(len(runs))[:count]
    return [runs[n] for n in sorted(drawn.tolist())]


def settings_of(run: Run) -> AdaptSettings:
    """What `sfda adapt` would be told."""
    own: dict[str, Any] = {}
    if run.method in RATES:
        rate = min(1.0, RATES[run.method] * KINDS[run.kind].faster)
        own = {"lr_scale": {"backbone": 1.0}, "schedule": {"lr": rate, "epochs": EPOCHS}}
    if run.method == "shot":
        own["pseudo_weight"] = 0.1
    return AdaptSettings.from_settings(
        {"method": run.method, "settings": own, "seed": run.seed, "device": "cpu"}, "options"
    )


def adapt_run(run: Run, folder: Path) -> dict[str, Any]:
    """Adapt, keep, and tell in short. A run that fails in its first epoch has no candidates."""
    torch.set_num_threads(1)
    logging.getLogger("sfda").setLevel(logging.ERROR)
    started, used = time.perf_counter(), time.process_time()
    with temporary_state(), torch.random.fork_rng():
        row = _adapted(run, folder)
    return row | {
        "seconds": time.perf_counter() - started,
        "processor": time.process_time() - used,
    }


def run_folder(run: Run, folder: Path) -> Path:
    """Where a run leaves what it made."""
    return folder / "runs" / run.name.replace(" ", "_").replace("%", "").replace(",", "")


def _adapted(run: Run, folder: Path) -> dict[str, Any]:
    bundle = source_bundle(KINDS[run.kind].source, run.seed % 2, folder)
    network, spec = read_network(bundle)
    target = target_folder(run.kind, run.seed, folder)
    manifest = manifest_ref(target / "target.yaml")
    source = ModelRef(
        uri=str(bundle),
        sha256=bundle_digest(bundle),
        problem=spec.problem,
        arch=spec.arch,
        classes=spec.classes,
    )
    asked = settings_of(run)
    plan = make_plan(source, manifest, asked, bundle=bundle)
    pool = pool_of(manifest, plan.split)
    own = run_folder(run, folder)
    own.mkdir(parents=True, exist_ok=True)
    row: dict[str, Any] = {
        "run": run._asdict(),
        "source": str(bundle),
        "target": str(target),
        "select_by": plan.select_by,
        "expected": plan.expected.effective,
        "pool": {"kind": pool.kind, "count": pool.count, "says": pool.says},
    }
    try:
        history, seconds = _history(network, spec, source, plan, manifest, own)
    except BadInput as error:
        return row | {"failed": str(error)[:300], "epochs": []}
    np.savez_compressed(own / "kept.npz", **_kept(network, spec, history, pool, target))
    row["adaptation_s"] = seconds
    row["epochs"] = [
        {"epoch": one.epoch, "scores": one.scores, "vetoes": one.vetoes, "weights": one.weights}
        for one in history
    ]
    return row


def _history(
    network: nn.Module,
    spec: ModelSpec,
    source: ModelRef,
    plan: AdaptPlan,
    manifest: Any,
    own: Path,
) -> tuple[History, float]:
    """The epochs, the weights of each kept, and the seconds that all took."""
    started = time.perf_counter()
    part = plan.on(manifest)
    opened = open_part(part, spec)
    predictions = keep_pseudo_labels(
        lambda one: infer_split(one, opened, spec, CPU),
        network,
        spec,
        own / "predictions",
        size=len(opened.images),
        source_sha256=source.sha256,
    )
    order = Order(
        source=source,
        bundle=source.uri,
        predictions=predictions,
        target=part,
        stamps="",
        plan=plan,
        keep="all",
        folder=str(own / "adapted"),
        title=plan.method,
        device="cpu",
        workers=0,
        budget=None,
        threads=1,
    )
    result = adapt_network(network, spec, opened, order, Unwatched())
    history = read_history(Path(result.folder), result.history_sha256)
    (own / "adapted" / "state.pt").unlink(missing_ok=True)
    return history, time.perf_counter() - started


def _kept(
    network: nn.Module, spec: ModelSpec, history: History, pool: HeldOut, target: Path
) -> dict[str, Any]:
    """What the source and each epoch say of the pool, and answer to the rows for the truth."""
    opened = open_part(pool.part, spec)
    with np.load(target / "truth_rows.npz") as arrays:
        truth = Labelled(arrays["x"], arrays["y"])
    kept: dict[str, Any] = {"pool_rows": _rows_of(opened)}
    models = [(SOURCE_NAME, network, spec)]
    models += [(str(one.epoch), *read_network(Path(str(one.weights)))) for one in history]
    for name, model, own in models:
        logits = np.concatenate(
            [out.logits.numpy() for _, out in infer_split(model, opened, own, CPU)]
        )
        answers = _answers(model, own, truth)
        kept |= {
            f"{name}/logits": logits,
            f"{name}/truth": answers.astype(np.int8),
            f"{name}/reject": np.array(np.nan if own.reject is None else own.reject),
        }
    return kept


def _rows_of(opened: Opened) -> Any:
    """Which rows of the target these are: names end in the number of the row."""
    return np.array([int(name.rpartition(":")[2]) for name in opened.split.names])


@torch.inference_mode()
def _answers(network: nn.Module, spec: ModelSpec, data: Labelled) -> Any:
    """The class that is answered to each image; -1 is "unknown"."""
    parts = as_input(spec, data).split(512)
    logits = torch.cat([network(part).logits for part in parts])
    return predicted_labels(logits.softmax(1), spec.reject).numpy()
