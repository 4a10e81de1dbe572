"""Which samples a person should label next, and the request that asks for them."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from sfda.annotation.choose_rows import choose_rows, refuse_annotated
from sfda.annotation.make_request import guesses_for, make_request, refuse_full, write_request
from sfda.annotation.query_plan import QueryPlan
from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.formats.request import REQUEST_FILE, Request
from sfda.loading.opened import open_part
from sfda.loading.pool import learning_part
from sfda.refs import ManifestRef, ModelRef
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import open_model


@task(name="query of labels", **SERVERS)
def query_labels(
    model: ModelRef,
    target: ManifestRef,
    plan: QueryPlan,
    out: str,
    before: str | None = None,
    device: DeviceName = "auto",
) -> Request:
    """Choose rows, and write the request to the folder `out`, whole or not at all. What is held out
    for decisions is never asked about: methods learn from the answers.

    `before` is the folder of the last request, whose model's probabilities `lftl` contrasts. Where
    `out` holds just this request it stays. Raises BadInput where there is nothing left to ask, or
    `out` holds something else.
    """
    folder = Path(out)
    refuse_full(folder, REQUEST_FILE)
    network, spec = open_model(model)
    chosen = choose(device)
    opened = open_part(learning_part(target, plan.split, plan.test_split), spec)
    refuse_annotated(opened.split, target.path)
    to_device(network, chosen)
    earlier = Path(before) if before else None
    choice = choose_rows(network, spec, opened, plan, earlier, chosen)
    guesses = guesses_for(network, spec, opened, choice.rows, chosen)
    request, guesses = make_request(model, spec, target, opened.split, plan, choice, guesses)
    write_request(folder, request, guesses, opened.split, choice)
    return request
