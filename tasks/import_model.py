"""Import of a model: from the registry for a job, or from a checkpoint trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from safetensors import safe_open

from sfda.config import Config
from sfda.errors import BadInput
from sfda.manifests.digests import key_of
from sfda.networks.foreign.code import trust_word
from sfda.problems.registry import PROBLEMS
from sfda.refs import InputSpec, ModelRef, ProblemName, Skeleton
from sfda.state_folder import disk_errors, home
from sfda.weights.bundle import read_spec, write_bundle
from sfda.weights.bundle_files import WEIGHTS
from sfda.weights.checkpoints import read_checkpoint
from sfda.weights.source_card import missing, read_card
from tasks.prefect_runtime.retry import SERVERS
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.tracking import models


@task(name="import of the source model", **SERVERS)
def import_source(uri: str) -> ModelRef:
    """The model at an address, digested and verified; what its card lacks stands on the page."""
    model = models.model_ref(uri)
    card = read_card(models.locate(model.uri))
    lacking = missing(card, PROBLEMS[model.problem].card_parts)
    completeness = (
        "complete" if not lacking else f"without {', '.join(lacking)} (`sfda card` makes them)"
    )
    text = (
        f"### Source model {model.uri}\n\n{model.arch}, {len(model.classes)} classes, "
        f"digest `{model.sha256[:16]}`\n\nSource card: {completeness}"
    )
    create_markdown_artifact(text, key="source-model")
    return model


class ImportedCheckpoint(Config):
    """A checkpoint's bundle, what was taken out of the file, and how its images are prepared."""

    model: ModelRef
    taken: str
    preprocessing: str


@task(name="import of a checkpoint", **SERVERS)
def import_checkpoint(
    weights: str,
    problem: ProblemName,
    arch: str,
    classes: tuple[str, ...],
    input_spec: InputSpec | None,
    skeleton: Skeleton | None = None,
    arch_settings: dict[str, Any] | None = None,
    head_layer: str | None = None,
    weights_key: str | None = None,
    padding: float | None = None,
) -> ImportedCheckpoint:
    """A checkpoint as a bundle below home, its code not run and every key accounted for.

    Where `arch` is a class of somebody's own, that class is imported: a person has named it.
    """
    stated = {
        "padding": padding,
        "skeleton": skeleton,
        "arch_settings": arch_settings,
        "head_layer": head_layer,
    }
    more = {name: value for name, value in stated.items() if value}
    read = read_checkpoint(Path(weights), weights_key)
    try:
        network, spec = PROBLEMS[problem].load_network(
            read.weights, arch=arch, classes=classes, input=input_spec, **more
        )
    except BadInput as error:
        raise BadInput(f"{error} (of the file: {read.text})") from error
    which = {"weights_key": weights_key} if weights_key else {}
    key = key_of(weights=str(Path(weights).absolute()), spec=spec, **which)
    folder = home() / "imported" / key[:24]
    with disk_errors(str(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        digest = write_bundle(folder, network, spec)
    model = ModelRef(
        uri=str(folder), sha256=digest, problem=spec.problem, arch=spec.arch, classes=spec.classes
    )
    origin = "as stated" if input_spec else f"as is usual for {arch}"
    return ImportedCheckpoint(
        model=model, taken=read.text, preprocessing=f"{spec.input.text} ({origin})"
    )


def seen_by_probe(model: ModelRef) -> str:
    """What a probe pass has found in a network of somebody's own, on a line; '' of a library's."""
    folder = Path(model.uri)
    spec = read_spec(folder)
    if spec.code is None:
        return ""
    sides = "x".join(str(side) for side in spec.input.size)
    facts = [f"input {spec.input.channels} {sides}", f"code {trust_word(spec.code)}"]
    if spec.cut:
        with safe_open(folder / WEIGHTS, "pt") as file:
            names = sorted(file.keys())
            heads = [k for k in names if k.startswith("head.") and k.endswith("weight")]
            shape = file.get_slice(heads[-1]).get_shape() if heads else [len(spec.classes), "new"]
        facts.insert(0, f"head {spec.cut[-1]}: {shape[1]} features before it, {shape[0]} outputs")
    return f"network {spec.arch}: {', '.join(facts)}"
