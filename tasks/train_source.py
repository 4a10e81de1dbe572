"""Training of a source model, where the source data are, and its card."""

from __future__ import annotations

import torch
from prefect import task

from sfda.adaptation.run_folder import best_epoch
from sfda.adaptation.scoring import EpochScores
from sfda.adaptation.source_card import copy_with_card
from sfda.adaptation.supervised import Supervised, SupervisedConfig
from sfda.adaptation.training import Training
from sfda.adaptation.training_plan import TrainPlan, select_by, starting_network
from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.decision.evaluation import make_evaluator
from sfda.inference.pieces import halving
from sfda.loading.batches import EqualEpochs
from sfda.loading.labelled_batches import labelled_batches
from sfda.loading.opened import open_ref, open_split
from sfda.loading.scan import scan
from sfda.manifests.digests import key_of
from sfda.problems.registry import PROBLEMS
from sfda.refs import Adaptation, ManifestRef, ModelRef, ModelSpec, Report, candidate_model
from sfda.state_folder import home, one_at_a_time
from sfda.weights.bundle import read_spec
from tasks import tracking
from tasks.prefect_runtime.cache import SameWork, code_digest
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import locate, open_model
from tasks.tracking.watch import RunWatch, log_history


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
    start = plan.start
    network = open_model(start)[0] if isinstance(start, ModelRef) else starting_network(spec, start)
    manifest = open_ref(data)
    learn, check = (open_split(manifest, split, spec.input) for split in plan.splits)
    report_of = make_evaluator(check, spec, chosen, unknown=False)
    work = key_of(data=data.sha256, plan=plan, device=chosen.type, code=code_digest())
    folder, batch_size = home() / "runs" / work[:24], settings.schedule.batch_size

    def train_in(parts: int) -> Adaptation:
        algorithm = Supervised(network, learn.info(), settings)
        to_device(algorithm, chosen)
        batches = labelled_batches(
            learn, spec, batch_size, seed=seed, device=chosen, workers=workers
        )
        return Training(
            folder=folder,
            method=algorithm,
            spec=spec,
            batches=EqualEpochs(batches, settings.schedule),
            scan=scan(learn.images, spec.input, device=chosen),
            schedule=settings.schedule,
            seed=seed,
            scorer=lambda network: EpochScores(report_of(network, None).metrics, None),
            select_by=select_by(plan),
            keep="best",
            watch=RunWatch(run_id, title),
            title=title,
            parts=parts,
        ).run()

    with one_at_a_time(folder), tracking.system_metrics(run_id):
        return halving(train_in, title, batch_size)


def trained_model(adaptation: Adaptation, plan: TrainPlan, run_id: str) -> ModelRef:
    """The epoch that the plan's checkpoint names: the best on the held-out split, or the last."""
    history = log_history(adaptation, run_id)
    best = best_epoch(history, select_by(plan))
    assert best is not None  # vetoes are of adaptations
    return candidate_model(adaptation.candidates[best], plan.spec)


@task(name="card of the source", **SERVERS)
def add_card(
    model: ModelRef, data: ManifestRef, split: str, device: DeviceName = "auto"
) -> tuple[ModelRef, Report]:
    """A copy of the model with the card of its own data, and its report on them."""
    network, spec = open_model(model)
    manifest = open_ref(data)
    opened = open_split(manifest, split, spec.input)
    chosen = choose(device)
    to_device(network, chosen)
    report = make_evaluator(opened, spec, chosen, unknown=False)(network, None)
    facts = {
        "source_sha256": model.sha256,
        "manifest": manifest.name,
        "manifest_sha256": data.sha256,
        "split": split,
    }
    card = PROBLEMS[spec.problem].make_card(network, opened, spec, facts, report, chosen)
    if card is None:
        return model, report
    folder = home() / "cards" / key_of(model=model.sha256, facts=card.facts)[:24]
    digest = copy_with_card(locate(model.uri), card, folder)
    return model.model_copy(update={"uri": str(folder), "sha256": digest}), report


def spec_of(model: ModelRef) -> ModelSpec:
    """The spec of a model."""
    return read_spec(locate(model.uri))
