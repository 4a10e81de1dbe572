"""What commands print: one JSON object, or text for a person."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from sfda.errors import for_terminal, listed

if TYPE_CHECKING:  # these import torch
    from flows.import_model import ImportResult
    from flows.outcome import AdaptResult
    from flows.train_prior import PriorResult
    from flows.train_source import TrainResult
    from sfda.refs import Report, Skeleton, Version
    from sfda.weights.rehearsals import Rehearsals
    from tasks.champion import ChampionMove
    from tasks.prefect_runtime.status import Status, TargetStatus
    from tasks.tracking import RegisteredModel, RunSummary


class Output:
    """What a command has to say; with `--json` stdout is kept free for one object."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.printed = self.failed = False
        if as_json:  # whatever libraries print goes to stderr, down to the file descriptor
            sys.stdout.flush()
            self.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
            os.dup2(2, 1)

    def show(self, result: dict[str, Any], text: str) -> None:
        """The result: the object with `--json`, else the text."""
        if self.as_json:
            self.stdout.write(json.dumps(result) + "\n")
            self.stdout.flush()
            self.printed = True
        else:
            print(for_terminal(text), flush=True)

    def fail(self, message: str, code: int = 2) -> NoReturn:
        """One message on stderr and an exit code; with `--json` also an object that holds it."""
        self.failed = True
        print(f"sfda: {for_terminal(message)}", file=sys.stderr, flush=True)
        if self.as_json and not self.printed:
            self.show({"error": message}, "")
        sys.exit(code)

    def close(self) -> None:
        """Give stdout back, for callers that live on."""
        if self.as_json:
            os.dup2(self.stdout.fileno(), 1)
            self.stdout.close()


class Registered(Protocol):
    """What ends with a version of a model."""

    @property
    def version(self) -> Version: ...


def registered_fields(result: Registered) -> dict[str, Any]:
    """Name, version and address of what was registered."""
    version = result.version
    return {"name": version.name, "version": version.version, "uri": version.uri}


def show_source(out: Output, trained: TrainResult, rehearsals: Rehearsals | None = None) -> None:
    """A source model that was trained or given a card, and what its rehearsals came to."""
    report = trained.report
    result = {
        **registered_fields(trained),
        "metrics": report.metrics,
        "flow_run_id": trained.flow_run_id,
        "mlflow_run_id": trained.mlflow_run_id,
    }
    metrics = ", ".join(f"{n.replace('_', ' ')} {v:.4f}" for n, v in report.metrics.items())
    text = f"{trained.version.uri} registered; on {report.split}: {metrics}"
    if rehearsals is not None:
        result["rehearsals"] = rehearsals.model_dump()
        text += f"\n{rehearsals.text}"
    out.show(result, text)


def show_import(out: Output, imported: ImportResult, bones: Skeleton | None) -> None:
    """A source model that was imported: what was taken of the file and what is assumed of images;
    of joints also which are left and right.
    """
    from sfda.authoring.left_right import pairs_text

    result: dict[str, Any] = {
        **registered_fields(imported),
        "sha256": imported.sha256,
        "taken": imported.taken,
        "preprocessing": imported.preprocessing,
        "mlflow_run_id": imported.mlflow_run_id,
    }
    text = (
        f"{imported.version.uri} registered, digest {imported.sha256[:16]}\nweights: "
        f"{imported.taken}\nimages: {imported.preprocessing}; --size, --resize, --mean, --std, "
        "--channels and --input say otherwise"
    )
    if bones is not None:
        result["pairs"] = [list(pair) for pair in bones.pairs]
        text += f"\n{pairs_text(bones.pairs)}"
    if imported.network:
        result["network"] = imported.network
        text += f"\n{imported.network}"
    out.show(result, text)


def show_prior(out: Output, trained: PriorResult) -> None:
    """A source model that was given a prior of poses."""
    report = trained.report
    text = (
        f"{trained.version.uri} registered with prior {trained.prior_sha256[:16]}; on "
        f"{report.poses} held-out poses: rank correlation {report.spearman:.3f}, real "
        f"{report.clean:.3f}, far {report.far:.3f}"
    )
    out.show({**registered_fields(trained), **trained.model_dump()}, text)


def show_champion(out: Output, moved: ChampionMove) -> None:
    """Which version is champion now, and which was."""
    out.show(moved.model_dump(), moved.text)


def adapt_result(adapted: AdaptResult, seconds: float) -> dict[str, Any]:
    """The JSON of `sfda adapt`. Epochs count from 1."""
    sides = adapted.sides
    return {
        "flow_run_id": adapted.flow_run_id,
        "mlflow_run_id": adapted.mlflow_run_id,
        **registered_fields(adapted),
        "selected_epoch": adapted.selected_epoch + 1,
        "selected_by": adapted.selected_by,
        "scores": adapted.scores,
        "metrics": {
            "source": sides.source.metrics if sides.source else None,
            "adapted": sides.adapted.metrics if sides.adapted else None,
        },
        "picture": sides.picture,
        "panel": sides.panel,
        "promoted": adapted.promoted,
        "verdict": adapted.verdict,
        "kind": adapted.kind,
        "change": adapted.change.model_dump() if adapted.change else None,
        "rehearsed": adapted.rehearsed.stated if adapted.rehearsed else None,
        "champion": adapted.champion,
        "next": list(adapted.next),
        "audit": adapted.audit,
        "report": adapted.report,
        "cut": adapted.cut,
        "skipped": list(adapted.skipped),
        "profile": adapted.profile.model_dump() if adapted.profile else None,
        "seconds": seconds,
        "images_per_second": adapted.images_per_second,
        "peak_memory_mb": adapted.peak_memory_mb,
    }


def adapt_text(result: dict[str, Any]) -> str:
    """The same for a person."""
    metrics = result["metrics"]
    lines = [f"{'':<30}{'source':>10}{'adapted':>10}"] if metrics["source"] else []
    for name, value in (metrics["source"] or {}).items():
        lines.append(f"{name.replace('_', ' '):<30}{value:>10.4f}{metrics['adapted'][name]:>10.4f}")
    if result["selected_epoch"]:
        lines.append(f"epoch {result['selected_epoch']}, chosen by {result['selected_by']}")
    else:
        lines.append("no epoch was without a veto: the source itself is kept")
    lines += [result["cut"]] if result["cut"] else []
    lines += skipped_lines(result["skipped"])
    if (profile := result["profile"]) and profile["recommendation"]["kind"] != "adapt":
        lines += [f"the target's profile: {r}" for r in profile["recommendation"]["reasons"]]
    lines.append(f"registered as {result['uri']}")
    lines += [result["rehearsed"]["text"]] if result["rehearsed"] else []
    lines += [f"{name} {result[name]}" for name in ("picture", "panel", "report") if result[name]]
    return "\n".join([*lines, verdict_text(result)])


def skipped_lines(skipped: Sequence[str]) -> list[str]:
    """What was left out since it cannot be read: a line, or none."""
    many = f"{len(skipped)} images were" if len(skipped) > 1 else "1 image was"
    return [f"{many} left out: {listed(skipped, '; ')}"] if skipped else []


def verdict_text(result: dict[str, Any]) -> str:
    """The verdict, and under it what to type now."""
    return "\n".join([result["verdict"], *(f"  {command}" for command in result["next"])])


def evaluate_text(report: Report) -> str:
    """The metrics of a report, and one score by class."""
    from sfda.problems.report_metrics import score_of

    scored = score_of(report.metrics)
    unit, score = scored.unit, scored.score
    lines = [f"{name.replace('_', ' '):<30}{value:.4f}" for name, value in report.metrics.items()]
    lines += [report.note] if report.note else []
    lines += [
        f"{name:<30}{row[score]:.4f}  of {int(row[unit])}"
        if score in row
        else f"{name:<30}{'none':<6}  of {int(row[unit])}"
        for name, row in report.per_class.items()
    ]
    return "\n".join(lines)


def status_text(status: Status, now: float) -> str:
    """Where everything stands: a paragraph for each kind of thing that there is."""
    parts = [
        _paragraph("runs", [_run_line(run, now) for run in status.runs]),
        _paragraph("models", [_model_line(model) for model in status.models]),
        _paragraph("targets", [_target_line(target) for target in status.targets]),
        _paragraph(
            "labels wanted",
            [
                f"{waiting.count} by {waiting.by}, {_ago(now - waiting.asked)}: {waiting.folder}"
                for waiting in status.labels_wanted
            ],
        ),
    ]
    if status.jobs:
        counts = ", ".join(f"{n} {state.lower()}" for state, n in status.jobs.states.items())
        parts.append(_paragraph("jobs", [counts or "none", *status.jobs.failed]))
    return "\n".join(part for part in parts if part) or "nothing has run here yet"


def _paragraph(title: str, lines: list[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)]) if lines else ""


def _run_line(run: RunSummary, now: float) -> str:
    took = f", {run.seconds:.0f} s" if run.seconds is not None else ""
    verdict = f": {run.verdict}" if run.verdict else ""
    return f"{_ago(now - run.started):>8}  {run.status}{took}  {run.name}{verdict}"


def _model_line(model: RegisteredModel) -> str:
    line = f"{model.name}: champion {model.champion or 'none'} of {model.versions}"
    if model.candidate and model.candidate != model.champion:
        verdict = f" ({model.verdict})" if model.verdict else ""
        line += f", candidate {model.candidate}{verdict}"
    return line


def _target_line(target: TargetStatus) -> str:
    done = f"adapted to version {target.adapted}" if target.adapted else "not adapted to"
    return f"{target.name}: version {target.version}, {target.images} files, {done} ({target.path})"


def _ago(seconds: float) -> str:
    """
    >>> _ago(30), _ago(7300), _ago(200000)
    ('30 s ago', '2 h ago', '2 d ago')
    """
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"
