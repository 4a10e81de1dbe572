"""Weights -> source model -> adaptation -> audit -> champion: one graph, and one run that waits."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment, flow_run

from flows.adapt import run_adapt
from flows.addresses import registered_name, short_address
from flows.audit import WEEKS, wait_for_verdict
from flows.form import USUAL, takes_flat
from flows.import_model import ImportResult, import_model
from flows.outcome import AdaptResult
from sfda.annotation.waiting import forget, note_waiting
from sfda.config import Config
from sfda.errors import BadInput
from sfda.manifests.write import put
from sfda.settings import AdaptSettings, Duration, seconds_of
from sfda.state_folder import disk_errors, home
from tasks.audit import conclude, notify_of_audit, standing
from tasks.prefect_runtime.attempts import refuse_endless


class PipelineResult(Config):
    """What the whole line came to."""

    adapted: AdaptResult
    kind: str
    verdict: str
    promoted: bool
    next: tuple[str, ...]


settled = task(name="promotion", cache_policy=NO_CACHE)(conclude)


def _title() -> str:
    parameters = flow_run.parameters
    source = parameters.get("weights") or parameters["source"]
    return f"{short_address(source)} to {short_address(parameters['target'])}"


@takes_flat()
@flow(name="pipeline", flow_run_name=_title, persist_result=True, result_serializer="json")
def pipeline(
    source: str,
    target: str,
    weights: str | None = None,
    arch: str | None = None,
    classes: list[str] | None = None,
    patience: Duration = WEEKS,
    adaptation: AdaptSettings = USUAL,
) -> PipelineResult:
    """Import weights, adapt, ask a person where nobody can say, and promote what is better.

    A run of a deployment that is held suspends until answers come, by the page of the run or by
    `sfda audit`; any other ends there with what to type.

    Args:
        source: the model: models:/NAME@source; with `weights` the name that they are imported under
        target: a manifest, or a folder of images without labels
        weights: a checkpoint that is imported first; none: the source is there already
        arch: its architecture, as `sfda import-model` takes it
        classes: its classes, in order
        patience: the time after which a run that waits for answers fails
        adaptation: how it is adapted; `promote` is meant for the verdict of the answers, too
    """
    refuse_endless(flow_run)
    done = home() / "pipelines" / f"{flow_run.id}.json"
    if not done.is_file():  # a run that went on begins at its first line again
        model = _imported(source, weights, arch, classes)
        _note(done, run_adapt(model, target, adaptation))
    adapted = AdaptResult.model_validate_json(done.read_bytes())
    if adapted.audit is None or not deployment.id:
        return PipelineResult(
            adapted=adapted,
            kind=adapted.kind,
            verdict=adapted.verdict,
            promoted=adapted.promoted,
            next=adapted.next,
        )
    folder = Path(adapted.audit)
    if standing(folder).kind == "hold":
        count = len(standing(folder).request.questions)
        note_waiting(folder, count, target, "audit", str(flow_run.id))
    decided = wait_for_verdict(folder, seconds_of(patience) or 0.0)
    now = settled(decided, promote=adaptation.promote)
    forget(folder)
    notify_of_audit(adaptation.notify, now)
    return PipelineResult(
        adapted=adapted,
        kind=now.kind,
        verdict=now.sentence,
        promoted=now.promoted,
        next=now.next_commands,
    )


def _note(done: Path, adapted: AdaptResult) -> None:
    """Keep what the adaptation came to, for when the run goes on."""
    with disk_errors(str(done)):
        done.parent.mkdir(exist_ok=True)
        put({done: adapted.model_dump_json().encode()})


def _imported(source: str, weights: str | None, arch: str | None, classes: list[str] | None) -> str:
    """The address of the source model, imported first where weights are named."""
    if weights is None:
        return source
    if not arch or not classes:
        raise BadInput("weights are imported with their `arch` and `classes`; name both")
    made: ImportResult = import_model(weights, arch, tuple(classes), registered_name(source))
    return made.version.uri
