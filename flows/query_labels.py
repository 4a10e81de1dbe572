"""Model + target -> a request for labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.addresses import short_address
from flows.form import QueryName
from sfda.adaptation import target as adaptation_target
from sfda.annotation.make_request import request_text
from sfda.annotation.query_plan import make_query_plan, read_budget
from sfda.annotation.waiting import note_request
from sfda.building_blocks.device import DeviceName, resolve
from sfda.errors import BadInput
from sfda.formats.request import Request
from sfda.loading import opened as manifests
from sfda.refs import ModelRef
from sfda.settings import Seed, SkippedShare
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.query_labels import query_labels
from tasks.readable import list_skipped, readable_splits
from tasks.tracking.models import model_ref


def _title() -> str:
    parameters = flow_run.parameters
    return f"query {short_address(parameters['target'])} by {parameters['by']}"


@flow(name="query-labels", flow_run_name=_title)
def query(
    model: str,
    target: str,
    by: QueryName,
    budget: str,
    out: str,
    before: str | None = None,
    settings: dict[str, Any] | None = None,
    split: str = "adapt",
    copy_images: bool = False,
    seed: Seed = 0,
    device: DeviceName = "auto",
    skip_unreadable: SkippedShare | None = None,
) -> Request:
    """Write a request for `budget` labels (a number, or a share such as 1%) to the folder `out`.

    The flow ends there: nothing waits for a person. An artifact says what is wanted.
    """
    ref = model_ref(model)
    manifest = adaptation_target.as_manifest(target, lambda: ref.problem)
    return ask_people(
        ref,
        manifest,
        by,
        budget,
        Path(out),
        split,
        settings or {},
        seed,
        resolve(device),
        before=before,
        copy_images=copy_images,
        skip_unreadable=skip_unreadable,
        stated=target,
    )


def ask_people(
    model: ModelRef,
    target: str,
    by: str,
    budget: str,
    folder: Path,
    split: str,
    settings: dict[str, Any],
    seed: int,
    device: DeviceName,
    *,
    before: str | None = None,
    copy_images: bool = False,
    waits: str | None = None,
    skip_unreadable: float | None = None,
    stated: str | None = None,
) -> Request:
    """Write a request, keep that it waits, and say on the run's page what is wanted.

    `waits` is the flow run that goes on from the answers, `stated` the target as a person named
    it. Raises BadInput.
    """
    manifest = manifests.manifest_ref(target)
    splits = manifests.open_ref(manifest).splits
    if split not in splits:
        raise BadInput(f"{target} has no split '{split}'; there are {', '.join(splits)}")
    manifest, skipped = readable_splits(
        model, manifest, [split, "test"], skip_unreadable, stated or target
    )
    opened = manifests.open_ref(manifest)
    number = read_budget(budget, opened.splits[split].count)
    plan = make_query_plan(model.problem, by, number, split, settings, seed, copy_images)
    request: Request = query_labels(model, manifest, plan, str(folder), before, device)
    note_request(folder, request, target, by, waits)
    create_markdown_artifact(request_text(request, str(folder)), key="labels-wanted")
    list_skipped(skipped)
    return request
