"""Training of a source model, where the source data are, and its card."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from prefect import task
from torch import nn

from sfda.adaptation.run_folder import Training, best_epoch
from sfda.adaptation.supervised import Supervised, SupervisedConfig
from sfda.building_blocks.device import DeviceName, choose, place
from sfda.config import Config, merged
from sfda.decision.evaluation import Judged
from sfda.errors import BadInput
from sfda.loading import opened as manifests
from sfda.loading.labelled_sets import labelled_batches, labelled_boxes, labelled_outputs
from sfda.loading.scan import scan
from sfda.manifests.digests import file_digest, key_of
from sfda.networks.detector import Detector
from sfda.problems.classification.card import make_card
from sfda.problems.classification.weights import load_backbone
from sfda.problems.detection.card import make_detection_card
from sfda.problems.detection.weights import load_detector_backbone
from sfda.problems.pose.weights import load_pose_backbone
from sfda.problems.registry import PROBLEMS
from sfda.problems.segmentation.card import make_segmentation_card
from sfda.problems.segmentation.weights import load_encoder
from sfda.refs import Adaptation, FileRef, ManifestRef, ModelRef, ModelSpec, Report
from sfda.report.reports import make_reporter
from sfda.state_folder import disk_errors, home, one_at_a_time
from sfda.weights.bundle import read_spec
from sfda.weights.checkpoints import read_weights
from sfda.weights.load import try_input
from sfda.weights.source_card import Card, write_card
from tasks import tracking
from tasks.prefect_runtime.cache import SameWork, code_digest
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import locate, open_model
from tasks.tracking.watch import RunWatch, log_history

CHOSEN_BY = {
    "classification": "macro_accuracy",
    "segmentation": "mean_iou",
    "detection": "coco_ap50",
    "pose": "pck_at_0.1",
}
BACKBONES: Mapping[str, Callable[..., None]] = MappingProxyType(
    {
        "classification": load_backbone,
        "segmentation": load_encoder,
        "detection": load_detector_backbone,
        "pose": load_pose_backbone,
    }
)


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


def spec_for(data: ManifestRef, arch: str, **stated: Any) -> ModelSpec:
    """The spec of a network of `arch` for a manifest's problem and classes.

    Of what is `stated` (`head`, `bottleneck_dim`, `input`, `views`), None is the usual. Raises
    BadInput, also where the problem's networks have no such part.
    """
    problem = manifests.open_ref(data).problem
    given = {name: value for name, value in stated.items() if value is not None}
    if problem not in PROBLEMS:
        raise BadInput(f"{data.path} is for {problem}; there are {', '.join(PROBLEMS)}")
    if problem != "classification" and (odd := {"head", "bottleneck_dim"} & set(given)):
        raise BadInput(f"{' and '.join(sorted(odd))}: only classifiers have that, not {problem}")
    if problem == "pose":
        given["skeleton"] = manifests.open_ref(data).skeleton
    spec: ModelSpec = PROBLEMS[problem].make_spec(arch, manifests.class_names(data), **given)
    return spec


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
    usual = Supervised.usual.get(spec.problem, {})
    config = SupervisedConfig.from_settings(merged(usual, settings))
    if epochs is not None:
        schedule = config.schedule.model_copy(update={"epochs": epochs})
        config = config.model_copy(update={"schedule": schedule})
    for split in splits:
        manifests.check_learnable(data, split, spec.classes)
    if isinstance(start, str):
        if not Path(start).is_file():
            raise BadInput(f"no file {start} to start from")
        start_ref: ModelRef | FileRef | None = FileRef(
            path=str(Path(start).absolute()), sha256=file_digest(Path(start))
        )
    else:
        start_ref = start
    seen = tuple(manifests.seen_digest(data, split) for split in splits)
    return TrainPlan(
        seen=(seen[0], seen[1]),
        masks=(manifests.masks_digest(data, splits[0]), manifests.masks_digest(data, splits[1])),
        splits=splits,
        spec=spec,
        start=start_ref,
        config=config.model_dump(mode="json"),
        checkpoint=checkpoint,
        seed=seed,
    )


@task(
    name="training",
    cache_policy=SameWork(ignore=("run_id", "title", "workers")),
    persist_result=True,
    result_serializer="json",
    **SERVERS,
)
def train(
    data: ManifestRef,
    plan: TrainPlan,
    run_id: str,
    title: str,
    device: DeviceName = "auto",
    workers: int = 0,
) -> Adaptation:
    """Supervised training on the first split, scored after every epoch on the second."""
    chosen = choose(device)
    spec, seed = plan.spec, plan.seed
    settings = SupervisedConfig.from_settings(plan.config)
    torch.manual_seed(seed)
    network = _starting_network(spec, plan.start)
    manifest = manifests.open_ref(data)
    learn, check = (manifests.open_split(manifest, split, spec.input) for split in plan.splits)
    judged = make_reporter(check, spec, chosen, unknown=False)
    algorithm = Supervised(network, learn.info(), settings)
    place(algorithm, chosen)
    work = key_of(data=data.sha256, plan=plan, device=chosen.type, code=code_digest())
    training = Training(
        folder=home() / "runs" / work[:24],
        method=algorithm,
        spec=spec,
        batches=labelled_batches(
            learn, spec, settings.schedule.batch_size, seed=seed, device=chosen, workers=workers
        ),
        scan=scan(learn.images, spec.input, device=chosen),
        schedule=settings.schedule,
        seed=seed,
        judge=lambda network: Judged(judged(network, None).metrics, None),
        select_by="last" if plan.checkpoint == "last" else CHOSEN_BY[spec.problem],
        keep="best",
        watch=RunWatch(run_id, title),
        title=title,
    )
    with one_at_a_time(training.folder), tracking.system_metrics(run_id):
        return training.run()


def _starting_network(spec: ModelSpec, start: ModelRef | FileRef | None) -> nn.Module:
    if isinstance(start, ModelRef):
        opened: nn.Module = open_model(start)[0]
        return opened
    network: nn.Module = PROBLEMS[spec.problem].build_from_spec(spec).eval()
    try_input(network, spec)
    if start:
        BACKBONES[spec.problem](network, read_weights(Path(start.path)))
    elif isinstance(network, Detector):
        network.live_norms = True  # of nothing, batch norm would be no norm at all
    return network


def trained_model(found: Adaptation, plan: TrainPlan, run_id: str) -> ModelRef:
    """The epoch that the plan's checkpoint names: the best on the held-out split, or the last."""
    history = log_history(found, run_id)
    by = "last" if plan.checkpoint == "last" else CHOSEN_BY[plan.spec.problem]
    chosen = found.candidates[best_epoch(history, by)]
    return ModelRef(
        uri=str(chosen.weights),
        sha256=str(chosen.sha256),
        problem=plan.spec.problem,
        arch=plan.spec.arch,
        classes=plan.spec.classes,
    )


@task(name="source card", **SERVERS)
def add_card(
    model: ModelRef, data: ManifestRef, split: str, device: DeviceName = "auto"
) -> tuple[ModelRef, Report]:
    """A copy of the model with the card of its own data, and its report on them."""
    network, spec = open_model(model)
    manifest = manifests.open_ref(data)
    opened = manifests.open_split(manifest, split, spec.input)
    chosen = choose(device)
    found = make_reporter(opened, spec, chosen, unknown=False)(place(network, chosen), None)
    facts = {
        "source_sha256": model.sha256,
        "manifest": manifest.name,
        "manifest_sha256": data.sha256,
        "split": split,
    }
    if spec.problem == "detection":
        pairs = labelled_boxes(network, opened, spec, chosen)
        card = make_detection_card(network, pairs, facts, spec.classes, found.metrics)
        return _with_card(model, card), found
    if spec.problem == "pose":  # what a source of poses ships is its prior: `sfda train-prior`
        return model, found
    outputs = labelled_outputs(network, opened, spec, chosen)
    if spec.problem == "segmentation":
        card = make_segmentation_card(network, outputs, facts, spec.classes, found.metrics)
    else:
        card = make_card(network, outputs, facts, spec.classes)
    return _with_card(model, card), found


def _with_card(model: ModelRef, card: Card) -> ModelRef:
    """A copy of the model's bundle with this card, in a place named by both."""
    facts = key_of(model=model.sha256, facts=card.facts)
    folder = home() / "cards" / facts[:24]
    with (
        disk_errors(f"the card in {folder}"),
        one_at_a_time(folder),
        tempfile.TemporaryDirectory(dir=folder.parent) as scratch,
    ):
        fresh = Path(scratch, "bundle")
        shutil.copytree(locate(model.uri), fresh)
        write_card(fresh, card)
        if not folder.is_dir():
            fresh.rename(folder)
    return model.model_copy(update={"uri": str(folder)})


def spec_of(model: ModelRef) -> ModelSpec:
    """The spec of a model."""
    return read_spec(locate(model.uri))
