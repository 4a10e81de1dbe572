"""The rows that a query asks people about, and what the model that asks says of all rows."""

from __future__ import annotations

import logging
import math
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from sfda import plugins
from sfda.annotation.query_plan import QueryPlan
from sfda.errors import BadInput
from sfda.formats.readers import BROKEN, npz_array, npz_header
from sfda.inference.summaries import keep_summaries
from sfda.loading.opened import Opened
from sfda.loading.scan import scan
from sfda.manifests.rows import Split
from sfda.problems.registry import PROBLEMS
from sfda.queries._base import Before, Pool, Query
from sfda.refs import ModelSpec
from sfda.state_folder import disk_errors, home

MOST_BEFORE = 16  # times as many images may an earlier request have been about
PROBABILITIES_BEFORE = 1 << 28  # numbers that its model said

log = logging.getLogger("sfda")
PROBABILITIES = "probabilities.npz"  # of the model that asked: the next query's contrast


class ChosenRows(NamedTuple):
    """Rows to be asked about, and the model's probabilities and margins of all rows."""

    rows: np.ndarray  # [b], the most informative first
    probs: np.ndarray  # [N, C]
    margin: np.ndarray  # [N]


def choose_rows(
    network: nn.Module,
    spec: ModelSpec,
    opened: Opened,
    plan: QueryPlan,
    before: Path | None,
    device: torch.device,
) -> ChosenRows:
    """Choose within the plan's budget, from one scan of the split with the network.

    `before` is the folder of the last request, whose model's probabilities `lftl` contrasts.
    Raises BadInput where it holds none.
    """
    split = opened.split
    done = _annotated(split)
    with tempfile.TemporaryDirectory(dir=home()) as scratch, disk_errors(f"summaries in {scratch}"):
        scan_split = scan(opened.images, spec.input, device=device)
        shards = keep_summaries(scan_split, network, spec.problem, Path(scratch), len(split))
        whole = PROBLEMS[spec.problem].whole_image
        pool = Pool(shards, done, _read_before(before, split), whole)
        if plan.by == "lftl" and len(done) and before is None:
            log.warning("lftl contrasts with the last request's model: give its folder as --before")
        kind: type[Query] = plugins.load("queries", plan.by)
        query = kind(kind.Config.from_settings(plan.config))
        return ChosenRows(
            rows=query.choose(pool, plan.budget, seed=plan.seed),
            probs=torch.cat([part for _, part in pool.passes("probs")]).numpy(),
            margin=pool.column("margin").numpy(),
        )


def refuse_annotated(split: Split, manifest: str) -> None:
    """Raise BadInput for a split of which nothing is left to ask."""
    if len(_annotated(split)) == len(split):
        raise BadInput(
            f"every image of {manifest}, split '{split.name}', that is not held out for decisions "
            "has an answer already"
        )


def _annotated(split: Split) -> np.ndarray:
    return split.annotations.rows if split.annotations else np.empty(0, np.int64)


def _read_before(folder: Path | None, split: Split) -> Before | None:
    """What the last request's model said, in the order of these rows."""
    if folder is None:
        return None
    file = folder / PROBABILITIES
    try:
        shapes = [npz_header(file, name)[0] for name in ("row_ids", "probs", "margin")]
        counts = {shape[0] for shape in shapes if shape}
        if [len(shape) for shape in shapes] != [1, 2, 1] or len(counts) != 1:
            raise ValueError("its arrays are of other shapes")
        if max(counts) > MOST_BEFORE * len(split) or math.prod(shapes[1]) > PROBABILITIES_BEFORE:
            raise ValueError("it is of far more images than this target")
        ids, probs, margin = (npz_array(file, name) for name in ("row_ids", "probs", "margin"))
    except (*BROKEN, KeyError, BadInput):
        raise BadInput(
            f"{folder} holds no probabilities of an earlier request ({PROBABILITIES} is missing or "
            "damaged); leave out --before"
        ) from None
    index_of = {name: i for i, name in enumerate(ids.tolist())}
    all_probs = np.full((len(split), probs.shape[1]), np.nan, np.float32)
    all_margin = np.full(len(split), np.nan, np.float32)
    for row, name in enumerate(split.row_ids):
        if (index := index_of.get(name)) is not None:
            all_probs[row], all_margin[row] = probs[index], margin[index]
    return Before(torch.from_numpy(all_probs), torch.from_numpy(all_margin))
