"""The report of a run: a page in a folder of its own, linked from MLflow and Prefect."""

from __future__ import annotations

import logging
import os
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

import sfda
from sfda.adaptation.plan import AdaptPlan
from sfda.adaptation.run_folder import read_history
from sfda.config import Config
from sfda.decision.ranking import Ranking
from sfda.errors import BadInput
from sfda.profiling.findings import TargetProfile
from sfda.refs import Adaptation, Candidate, ManifestRef, ModelRef, Report, SideBySide, Version
from sfda.report.comparison import EpochMetrics, counts_text
from sfda.report.comparison_page import ComparisonReport, comparison_page, comparison_plot
from sfda.report.folders import REPORT_FILE, new_report_folder, write_into
from sfda.report.model_card import model_card
from sfda.report.page import RunReport, VerdictPart, run_page
from sfda.report.reproduce import adapt_command, files_beside, setting_lines
from sfda.report.search_page import SearchReport, TrialLine, search_page, trials_text
from sfda.settings import AdaptSettings
from tasks import tracking
from tasks.decide import Decision
from tasks.prefect_runtime.retry import SERVERS
from tasks.prefect_runtime.tame_artifacts import create_link_artifact
from tasks.readable import list_skipped
from tasks.tune import SearchedModels

log = logging.getLogger("sfda")


class RunFacts(Config):
    """All that is known of one adaptation at its end."""

    title: str
    target: str  # its short address
    stated: tuple[str, str]  # source and target, as they were stated
    asked: AdaptSettings
    plan: AdaptPlan
    source: ModelRef
    manifest: ManifestRef
    profile: TargetProfile | None
    adaptation: Adaptation
    chosen: Candidate
    sides: SideBySide
    version: Version
    decision: Decision
    next: tuple[str, ...]
    run_id: str
    flow_run_id: str
    skipped: tuple[str, ...] = ()  # images that cannot be read
    guide: tuple[str, ...] = ()  # what is known of the guide


def report_run(facts: RunFacts) -> str | None:
    """The address of the page, written and linked; None where it cannot be written, which the log
    says in one message: the verdict stands without it.
    """
    list_skipped(facts.skipped, facts.run_id)
    now = datetime.now().astimezone()
    report = report_of(facts, now)
    page = write_page(facts.target, facts.plan.method, run_page(report), now)
    if page is not None:
        publish_report(page, facts.run_id, facts.title)
    describe(facts.version, model_card(report, facts.source))
    return page


class ComparisonFacts(Config):
    """All that is known of a comparison at its end."""

    target: str  # its short address
    source: ModelRef
    manifest: ManifestRef
    floor: Report  # of the source
    rows: list[dict[str, Any]]
    epochs: dict[str, tuple[EpochMetrics, ...]]  # of each method, one a seed
    command: str
    run_id: str
    flow_run_id: str


def report_comparison(facts: ComparisonFacts, table: str) -> str | None:
    """The address of the page, beside which its table and its plot lie; None as `report_run`."""
    now = datetime.now().astimezone()
    report = ComparisonReport(
        title=f"compare on {facts.target}: {', '.join(facts.epochs)}",
        made=_date(now),
        counts=counts_text(facts.floor),
        rows=facts.rows,
        source=facts.floor.metrics,
        runs=facts.epochs,
        lineage=_origin(facts),
        command=facts.command,
    )
    files = {"table.md": f"{table}\n".encode(), "plot.png": comparison_plot(report)}
    page = write_page(facts.target, "compare", comparison_page(report), now, files)
    if page is not None:
        publish_report(page, facts.run_id, report.title)
    return page


class SearchFacts(Config):
    """All that is known of a search at its end."""

    target: str  # its short address
    source: ModelRef
    manifest: ManifestRef
    state: str  # of the run, in a word
    kind: str  # of the verdict
    sentence: str
    next: tuple[str, ...]
    ranking: Ranking
    tried: SearchedModels
    chosen_by: dict[str, str]  # of each trial
    version: Version | None
    command: str
    files: dict[str, str]  # that it names, and what they hold
    run_id: str
    flow_run_id: str


def report_search(facts: SearchFacts) -> str | None:
    """The address of the page, beside which the table of the ranking lies; None as `report_run`."""
    now = datetime.now().astimezone()
    report = SearchReport(
        title=f"tune on {facts.target}",
        made=_date(now),
        state=facts.state,
        kind=facts.kind,
        sentence=facts.sentence,
        next=facts.next,
        ranking=facts.ranking,
        trials=[
            TrialLine(
                name=one.trial,
                chosen=one.chosen_epoch,
                chosen_by=facts.chosen_by[one.trial],
                vetoes=one.vetoes,
                seconds=one.adaptation.seconds,
                history=read_history(Path(one.adaptation.folder), one.adaptation.history_sha256),
            )
            for one in facts.tried.records
        ],
        left_out=facts.tried.left_out,
        lineage=_origin(facts) | ({"candidate": facts.version.uri} if facts.version else {}),
        command=facts.command,
        files=facts.files,
    )
    table = trials_text(facts.ranking, facts.tried.left_out)
    files = {"table.md": f"{table}\n".encode()}
    page = write_page(facts.target, "tune", search_page(report), now, files)
    if page is not None:
        publish_report(page, facts.run_id, report.title)
    return page


def _origin(facts: ComparisonFacts | SearchFacts) -> dict[str, str]:
    """Where what was held against each other comes from."""
    return {
        "source": facts.source.uri,
        "source, SHA-256": facts.source.sha256,
        "target's manifest, SHA-256": facts.manifest.sha256,
        "MLflow run": facts.run_id,
        "Prefect flow run": facts.flow_run_id,
        **machine(),
    }


def _date(now: datetime) -> str:
    return f"{now:%d %B %Y, %H:%M} ({now.tzname()})"


def write_page(
    target: str, what: str, page: str, now: datetime, more: dict[str, bytes] | None = None
) -> str | None:
    """The path of a page in a new folder, with `more` files beside it; None with a message in the
    log where the disk is full or read-only.
    """
    try:
        folder = new_report_folder(target, what, now)
        write_into(folder, {**(more or {}), REPORT_FILE: page.encode()})
    except BadInput as error:
        log.error("no report was written: %s", error)
        return None
    return str(folder / REPORT_FILE)


@task(name="report", cache_policy=NO_CACHE, **SERVERS)
def publish_report(page: str, run_id: str, title: str) -> None:
    """Keep the page with the MLflow run, and link it from the page of the flow run."""
    tracking.log_file(run_id, Path(page), "report")
    link = tracking.artifacts_page(run_id) or Path(page).as_uri()
    create_link_artifact(link, link_text=f"report of {title}", key="report", description=page)


@task(name="model card", cache_policy=NO_CACHE, **SERVERS)
def describe(version: Version, card: str) -> None:
    """The model card as what the registered version says of itself."""
    tracking.describe_version(version, card)


def report_of(facts: RunFacts, now: datetime) -> RunReport:
    """What the page of a run shows; its history and pictures are read."""
    decision, adaptation, sides = facts.decision, facts.adaptation, facts.sides
    return RunReport(
        title=facts.title,
        made=_date(now),
        outcome=VerdictPart(
            state=decision.state_name,
            kind="promote" if decision.promoted else decision.verdict.kind,
            level=decision.verdict.level,
            sentence=decision.text,
            next=facts.next,
            version=facts.version.uri,
            champion=decision.champion,
            evidence=decision.evidence,
        ),
        sides=sides,
        picture=Path(sides.picture).read_bytes() if sides.picture else None,
        panel=Path(sides.panel).read_bytes() if sides.panel else None,
        history=read_history(Path(adaptation.folder), adaptation.history_sha256),
        chosen=facts.chosen.epoch,
        chosen_by=facts.plan.select_by,
        cut=adaptation.warning,
        skipped=facts.skipped,
        guide=facts.guide,
        confinement=adaptation.confinement,
        profile=facts.profile,
        lineage=_lineage(facts),
        settings=dict(setting_lines(_settings(facts))),
        command=adapt_command(facts.source.uri, facts.stated[1], facts.plan, facts.asked),
        files=files_beside(facts.asked),
    )


def _settings(facts: RunFacts) -> dict[str, object]:
    plan = facts.plan.model_dump(mode="json", include={"method", "config", "views", "select_by"})
    own = plan.pop("config")
    return {**plan, **own, "seed": facts.plan.seed, "decision": facts.asked.decision.model_dump()}


def _lineage(facts: RunFacts) -> dict[str, str]:
    """Where it all comes from: digests, runs, versions and the machine."""
    adaptation, confinement = facts.adaptation, facts.adaptation.confinement
    lineage = {
        "source": facts.source.uri,
        "source, SHA-256": facts.source.sha256,
        "target": facts.stated[1],
        "target's manifest, SHA-256": facts.manifest.sha256,
        "split adapted to": facts.plan.split,
        "test split": facts.sides.split or "none",
        "candidate": facts.version.uri,
        "chosen epoch, SHA-256": facts.chosen.sha256 or "",
        "code, SHA-256": (confinement.code_sha256 if confinement else None) or "",
        "confined": confinement.says if confinement else "",
        "MLflow run": facts.run_id,
        "Prefect flow run": facts.flow_run_id,
        "time of the epochs": f"{adaptation.seconds:.1f} s",
        "speed": f"{adaptation.images_per_second:.1f} images a second",
        "peak memory": f"{adaptation.peak_memory_mb:.0f} MB",
        **machine(),
    }
    return {name: value for name, value in lineage.items() if value}


def machine() -> dict[str, str]:
    """Versions, and what it was computed on; no name of the machine or of its user."""
    return {
        "versions": f"sfda {sfda.__version__}, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
