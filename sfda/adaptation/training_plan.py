"""What a supervised training is to do, all choices made and checked before anything is loaded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from torch import nn

from sfda.adaptation.supervised import Supervised, SupervisedConfig
from sfda.config import Config, merged
from sfda.errors import BadInput
from sfda.loading.labels import check_learnable
from sfda.loading.opened import label_files_digest, manifest_classes, open_ref, seen_digest
from sfda.manifests.digests import file_digest
from sfda.problems.registry import PROBLEMS
from sfda.refs import FileRef, ManifestRef, ModelRef, ModelSpec
from sfda.weights.checkpoints import read_checkpoint
from sfda.weights.load import try_input

log = logging.getLogger("sfda")


class TrainPlan(Config):
    """What fixes the outcome of a training, besides data and code."""

    seen: tuple[str, str]  # digests of the images of both splits; labels are in the manifest's,
    masks: tuple[str | None, str | None] = (None, None)  # but for masks that are files
    splits: tuple[str, str]  # learnt from, scored on
    spec: ModelSpec
    start: ModelRef | FileRef | None  # a model to go on from, backbone weights, or nothing
    config: dict[str, Any]
    checkpoint: Literal["best", "last"]
    seed: int


def spec_for(data: ManifestRef, arch: str, **stated: object) -> ModelSpec:
    """The spec of a network of `arch` for a manifest's problem and classes.

    Of what is `stated` (`head`, `bottleneck_dim`, `input`, `views`), None is the usual. Raises
    BadInput, also where the problem's networks have no such part.
    """
    manifest = open_ref(data)
    problem = PROBLEMS[manifest.problem]
    parts = {name: value for name, value in stated.items() if value is not None}
    every = {option for one in PROBLEMS.values() for option in one.spec_options}
    if odd := sorted((every - problem.spec_options) & set(parts)):
        owners = [one.name for one in PROBLEMS.values() if odd[0] in one.spec_options]
        raise BadInput(f"{' and '.join(odd)}: for {', '.join(owners)}, not for {problem.name}")
    parts |= problem.manifest_options(manifest)
    return problem.make_spec(arch, manifest_classes(data), **parts)


def make_train_plan(
    data: ManifestRef,
    splits: tuple[str, str],
    spec: ModelSpec,
    settings: dict[str, Any],
    *,
    start: ModelRef | str | None = None,
    checkpoint: Literal["best", "last"] = "best",
    epochs: int | None = None,
    seed: int = 0,
) -> TrainPlan:
    """All choices made and checked, before anything is loaded. Raises BadInput."""
    config = SupervisedConfig.from_settings(merged(Supervised.defaults_for(spec.problem), settings))
    if epochs is not None:
        schedule = config.schedule.with_epochs(epochs)
        config = config.model_copy(update={"schedule": schedule})
    for split in splits:
        check_learnable(data, split, spec.classes)
    if isinstance(start, str):
        if not Path(start).is_file():
            raise BadInput(f"no file {start} to start from")
        start_ref: ModelRef | FileRef | None = FileRef(
            path=str(Path(start).absolute()), sha256=file_digest(Path(start))
        )
    else:
        start_ref = start
    seen = tuple(seen_digest(data, split) for split in splits)
    return TrainPlan(
        seen=(seen[0], seen[1]),
        masks=(label_files_digest(data, splits[0]), label_files_digest(data, splits[1])),
        splits=splits,
        spec=spec,
        start=start_ref,
        config=config.model_dump(mode="json"),
        checkpoint=checkpoint,
        seed=seed,
    )


def starting_network(spec: ModelSpec, weights: FileRef | None) -> nn.Module:
    """A new network of this spec, with the backbone weights of a file or with none. What was taken
    of the file is said in the log.
    """
    problem = PROBLEMS[spec.problem]
    network: nn.Module = problem.build_from_spec(spec).eval()
    try_input(network, spec)
    if weights:
        read = read_checkpoint(Path(weights.path))
        filled = problem.load_backbone(network, read.weights)
        rest = len(read.weights) - filled
        others = f", {rest} (of a last layer, say) are not used" if rest else ""
        log.info("%s: %s; %d of them fill the backbone%s", weights.path, read.text, filled, others)
    else:
        problem.start_from_nothing_(network)
    return network


def select_by(plan: TrainPlan) -> str:
    """What the plan's checkpoint is chosen by: the held-out split's main metric, or "last"."""
    return "last" if plan.checkpoint == "last" else PROBLEMS[plan.spec.problem].held_out_metric
