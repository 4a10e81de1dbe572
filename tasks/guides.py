"""A guide in a job: where it comes from, its table of the target, and what it is worth alone."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from sfda.adaptation.plan import AdaptPlan
from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.config import Config
from sfda.decision.evaluation import make_evaluator
from sfda.errors import BadInput
from sfda.guides.centroids import soft_centroids
from sfda.guides.complete import complete_guide
from sfda.guides.encoder import gathered
from sfda.guides.make import kept_table
from sfda.guides.origin import GuideOrigin, guide_origin
from sfda.guides.profile import concerns, profile_guide
from sfda.guides.table import GuideRef, GuideTable, read_table
from sfda.loading.opened import open_labelled, open_part
from sfda.loading.scan import scan
from sfda.policy import DecisionPolicy
from sfda.problems.classification.network import ClassOutput
from sfda.problems.registry import PROBLEMS
from sfda.problems.report_metrics import main_metric
from sfda.refs import (
    LabelledSplit,
    ManifestRef,
    ModelRef,
    PredictionsRef,
    Report,
    SideBySide,
    SplitRef,
)
from sfda.settings import GuideSettings
from sfda.types import Seen
from tasks.prefect_runtime.retry import SERVERS
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.pseudo_label import pseudo_label
from tasks.tracking.models import locate, model_ref, open_model

log = logging.getLogger("sfda")


class GuideAlone(Config):
    """What a guide's own answers are worth on a labelled split."""

    report: Report
    change: float  # share of the answers that differ from the source's


class MadeGuide(Config):
    """The guide of a job: its table of what is learnt from, and all that it was made from."""

    source: ModelRef
    predictions: PredictionsRef
    target: SplitRef
    origin: GuideOrigin
    ref: GuideRef


def make_guide(
    origin: GuideOrigin | None,
    source: ModelRef,
    predictions: PredictionsRef,
    plan: AdaptPlan,
    manifest: ManifestRef,
    policy: DecisionPolicy,
    device: DeviceName,
) -> MadeGuide | None:
    """The guide of a job, where it has one. Raises BadInput as `guide_table`."""
    if origin is None:
        return None
    part, expected = plan.on(manifest), plan.expected.effective
    ref = guide_table(source, predictions, part, origin, expected, policy.unattended, device)
    return MadeGuide(source=source, predictions=predictions, target=part, origin=origin, ref=ref)


def guide_lines(
    guide: MadeGuide | None, split: LabelledSplit | None, sides: SideBySide, device: DeviceName
) -> tuple[str, ...]:
    """The profile of a job's guide, and where there are labels what it is worth alone, beside the
    source and what was adapted.
    """
    if guide is None:
        return ()
    if split is None or sides.source is None or sides.adapted is None:
        return guide.ref.text
    source, target = guide.source, guide.target
    alone = evaluate_guide(
        source, guide.predictions, target, target.manifest, split, guide.origin, guide.ref, device
    )
    if alone is None:
        return guide.ref.text
    name = main_metric(sides.source.metrics)
    before, own, after = (
        report.metrics[name] for report in (sides.source, alone.report, sides.adapted)
    )
    line = (
        f"{name.replace('_', ' ')} on {split.name}: source {before:.2%}, guide alone {own:.2%}, "
        f"adapted {after:.2%}"
    )
    if after <= own:
        line += "; the guide by itself answers better, the adapted model is the smaller one"
    log.info("%s", line)
    return (*guide.ref.text, line)


def asked_guide(settings: GuideSettings | None, source: ModelRef) -> GuideOrigin | None:
    """The origin of the guide that is asked for, if one is. Raises BadInput."""
    if settings is None:
        return None
    return guide_origin(settings, source, lambda uri: (locate(uri), model_ref(uri)))


@task(name="guide's table of the target", cache_policy=NO_CACHE, **SERVERS)
def guide_table(
    source: ModelRef,
    predictions: PredictionsRef,
    target: SplitRef,
    origin: GuideOrigin,
    expected: float | None = None,
    unattended: bool = False,
    device: DeviceName = "auto",
) -> GuideRef:
    """The table, made once, and its profile, which is said before anything is learnt from it.

    `expected` is how many classes the target should show. Raises BadInput for a guide that cannot
    be used; where nobody attends, also for one that puts nearly everything into few classes.
    """
    folder, sha256, logits = _table(source, predictions, target, origin, device)
    table = read_table(folder, sha256)
    guide = complete_guide(table, logits, origin.temperature, sha256)
    classes = source.classes
    profile = profile_guide(guide, int(table.covers.sum()), logits, classes)
    lines = (f"guide {origin.settings.uri}, table {sha256[:12]}", *profile.lines())
    lines += _remarks(origin, guide.derived)
    against = concerns(profile, len(classes), expected)
    if against and unattended and "nearly everything" in against[0]:
        raise BadInput(f"{against[0]}: look at it with a person attending, or leave --guide out")
    for line in lines:
        log.info("%s", line)
    for line in against:
        log.warning("%s", line)
    text = "\n".join(f"- {line}" for line in (*lines, *against))
    create_markdown_artifact(f"### Guide\n\n{text}", key="guide")
    return GuideRef(
        folder=str(folder),
        sha256=sha256,
        kind=origin.kind,
        temperature=origin.temperature,
        text=(*lines, *against),
    )


def _remarks(origin: GuideOrigin, derived: bool) -> tuple[str, ...]:
    if origin.kind == "csv":
        return (f"answers made elsewhere, of the file {origin.sha256[:12]}",)
    return (
        ("its answers are nearest centroids of the source's predictions: it knows no names",)
        if derived
        else ()
    )


def _table(
    source: ModelRef,
    predictions: PredictionsRef,
    target: SplitRef,
    origin: GuideOrigin,
    device: DeviceName,
) -> tuple[Path, str, torch.Tensor]:
    """Folder and digest of a guide's table, and the source's logits of the same rows."""
    network, spec = open_model(source)
    chosen = choose(device)
    opened = open_part(target, spec)
    look = PROBLEMS[spec.problem].replaying(
        scan(opened.images, spec.input, device=chosen), predictions, spec
    )
    seen = list(look(to_device(network, chosen)))
    logits = gathered(seen, len(opened.split))[1]
    return *kept_table(origin, target, spec, source.sha256, seen, chosen), logits


@task(name="evaluation of the guide", cache_policy=NO_CACHE, **SERVERS)
def evaluate_guide(
    source: ModelRef,
    predictions: PredictionsRef,
    target: SplitRef,
    manifest: ManifestRef,
    split: LabelledSplit,
    origin: GuideOrigin,
    ref: GuideRef,
    device: DeviceName = "auto",
) -> GuideAlone | None:
    """The guide's own answers on the labelled split, of which labels decide nothing. None for a CSV
    that does not speak of all its rows.

    Where it answers by nearest centroids these are of `target`, what is learnt from.
    """
    part = SplitRef(manifest=manifest, split=split.name, seen=split.seen)
    scored = pseudo_label(source, part, device)
    folder, sha256, logits = _table(source, scored, part, origin, device)
    table = read_table(folder, sha256)
    if not table.answered.all() and origin.kind == "csv":
        return None
    centroids = None
    if table.logits is None:
        learnt = _table(source, predictions, target, origin, device)[2]
        centroids = _centroids(read_table(Path(ref.folder), ref.sha256), learnt)
    guide = complete_guide(table, logits, origin.temperature, sha256, centroids)
    network, spec = open_model(source)
    chosen = choose(device)
    rows = torch.arange(len(logits))
    answers = ClassOutput(logits.to(chosen), guide.logits.to(chosen))
    opened = open_labelled(manifest, split.name, spec)
    evaluate = make_evaluator(opened, spec, chosen, infer=lambda _: iter([Seen(rows, answers)]))
    changed = (guide.logits.argmax(1) != logits.argmax(1)).double().mean()
    return GuideAlone(report=evaluate(network, None), change=float(changed))


def _centroids(table: GuideTable, source: torch.Tensor) -> torch.Tensor | None:
    return None if table.features is None else soft_centroids(table.features, source.softmax(1))
