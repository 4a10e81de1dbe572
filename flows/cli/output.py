"""What commands take apart and what they answer: settings of views, results as JSON and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

USUAL = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def show_source(out: Any, found: Any) -> None:
    """A trained or carded source model."""
    result = {
        **version_of(found), "metrics": found.report.metrics, "flow_run_id": found.flow_run_id,
        "mlflow_run_id": found.mlflow_run_id,
    }  # fmt: skip
    metrics = ", ".join(f"{n.replace('_', ' ')} {v:.4f}" for n, v in found.report.metrics.items())
    out.show(result, f"{found.version.uri} registered; on {found.report.split}: {metrics}")


def show_move(out: Any, found: Any) -> None:
    """Who reigns now."""
    before = f", version {found.previous} before" if found.previous else ""
    out.show(found.model_dump(), f"{found.name}: champion is version {found.version}{before}")


def version_of(found: Any) -> dict[str, Any]:
    """Name, version and address of what was registered."""
    return {"name": found.version.name, "version": found.version.version, "uri": found.version.uri}


def adapt_result(found: Any, seconds: float) -> dict[str, Any]:
    """The JSON of `sfda adapt`. Epochs count from 1."""
    sides = found.sides
    return {
        "flow_run_id": found.flow_run_id,
        "mlflow_run_id": found.mlflow_run_id,
        **version_of(found),
        "selected_epoch": found.selected_epoch + 1,
        "selected_by": found.selected_by,
        "scores": found.scores,
        "metrics": {
            "source": sides.source.metrics if sides.source else None,
            "adapted": sides.adapted.metrics if sides.adapted else None,
        },
        "picture": sides.picture,
        "panel": sides.panel,
        "promoted": found.promoted,
        "cut": found.cut,
        "seconds": seconds,
        "images_per_second": found.images_per_second,
        "peak_memory_mb": found.peak_memory_mb,
    }


def adapt_text(result: dict[str, Any]) -> str:
    """The same for a person."""
    metrics = result["metrics"]
    lines = [f"{'':<30}{'source':>10}{'adapted':>10}"] if metrics["source"] else []
    for name, value in (metrics["source"] or {}).items():
        lines.append(f"{name.replace('_', ' '):<30}{value:>10.4f}{metrics['adapted'][name]:>10.4f}")
    lines.append(f"epoch {result['selected_epoch']}, chosen by {result['selected_by']}")
    lines += [result["cut"]] if result["cut"] else []
    lines.append(f"registered as {result['uri']}" + (", promoted" if result["promoted"] else ""))
    lines += [f"{name} {result[name]}" for name in ("picture", "panel") if result[name]]
    return "\n".join(lines)


def taken(given: dict[str, Any], name: str) -> dict[str, Any]:
    """A group of settings, taken out of the others. Raises BadInput for a value in its place."""
    from sfda.errors import BadInput

    found = given.pop(name, {})
    if not isinstance(found, dict):
        raise BadInput(f"{name} is a group of settings: give one of them, e.g. {name}.NAME=VALUE")
    return found


def usual_views(arch: str, problem: str, given: dict[str, Any]) -> dict[str, Any]:
    """An architecture's views with some of them given."""
    from flows.form import problem_module

    return {**problem_module(problem).defaults(arch)[1].model_dump(), **given}


def problem_of_manifest(path: Path) -> str:
    """The problem that a manifest is for. Raises BadInput."""
    from sfda.manifests.schema import parse_manifest

    return parse_manifest(path).problem


def problem_of_model(uri: str) -> str:
    """The problem that a model is for. Raises BadInput."""
    from sfda.weights.bundle import read_spec
    from tasks.tracking.models import locate
    from tasks.tracking.registry import canonical

    return read_spec(locate(canonical(uri))).problem


def model_views(source: str, given: dict[str, Any]) -> Any:
    """A model's own views with some of them given; None if none is."""
    if not given:
        return None
    from sfda.refs import Views
    from sfda.weights.bundle import read_spec
    from tasks.tracking.models import locate
    from tasks.tracking.registry import canonical

    own = read_spec(locate(canonical(source))).views
    return Views.from_settings({**own.model_dump(), **given}, "views")


def stated_input(
    arch: str, problem: str, *, file: Path | None = None, new: bool = False, **given: Any
) -> Any:
    """What is stated of a network's input, over what its architecture states, or None.

    Of a `new` network mean and std need not be stated: there is nothing that they must fit.
    """
    from flows.form import read_input

    given = {k: v for k, v in given.items() if v is not None}
    return read_input(arch, file, given, problem, usual=USUAL if new else {})


def evaluate_text(found: Any) -> str:
    """The metrics of a report, and one score by class."""
    from sfda.problems.classification.metrics import score_of

    unit, score = score_of(found.metrics)
    lines = [f"{name.replace('_', ' '):<30}{value:.4f}" for name, value in found.metrics.items()]
    lines += [found.note] if found.note else []
    lines += [
        f"{name:<30}{row[score]:.4f}  of {int(row[unit])}"
        if score in row
        else f"{name:<30}{'none':<6}  of {int(row[unit])}"
        for name, row in found.per_class.items()
    ]
    return "\n".join(lines)
