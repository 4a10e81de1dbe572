"""Guides that are networks: a library's with weights from a file, or another model of ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfda.errors import BadInput
from sfda.guides.class_map import map_answers, name_answers, read_class_map
from sfda.guides.origin import GuideOrigin
from sfda.guides.table import GuideTable, all_answered
from sfda.networks import registry
from sfda.problems._base import AnyProblem
from sfda.problems.registry import PROBLEMS, read_bundle
from sfda.refs import ModelSpec
from sfda.types import Scan, Seen
from sfda.weights.checkpoints import read_weights
from sfda.weights.load import with_prefix_of

LIBRARY_KINDS = ("timm", "torchvision")  # whose classes are others than ours
PLACEHOLDERS = 2  # classes of a network whose last layer the weights lack: it is not asked


class GuideNetwork(NamedTuple):
    """A frozen network in eval mode, and how it wants its images."""

    network: nn.Module
    spec: ModelSpec
    answers: bool  # its logits mean something: the last layer was in the file


def load_guide_network(origin: GuideOrigin, problem: str) -> GuideNetwork:
    """The network of a guide. Nothing of its file is executed. Raises BadInput."""
    if origin.kind == "model":
        network, spec = read_bundle(Path(origin.file), sha256=origin.sha256)
        return GuideNetwork(network, spec, True)
    arch, weights = f"{origin.kind}:{origin.arch}", read_weights(origin.file)
    own = PROBLEMS[problem]
    stated = {"input": origin.settings.input, "head": "plain"}
    first = own.make_spec(arch, _numbered(PLACEHOLDERS), **stated)
    with torch.random.fork_rng(devices=[]):
        native = registry.native_network(first, PLACEHOLDERS, "classes")
    head = registry.head_path(first, native, "classes")
    outputs = _outputs(with_prefix_of(weights, native.state_dict()), head)
    if outputs is None:
        return GuideNetwork(_backbone(own, first, weights), first, False)
    try:
        network, spec = own.load_network(
            weights, arch=arch, classes=_numbered(outputs), input=origin.settings.input
        )
    except BadInput as error:
        raise BadInput(f"the guide {origin.file}: {error}") from None
    return GuideNetwork(network.eval(), spec, True)


def _backbone(problem: AnyProblem, spec: ModelSpec, weights: Mapping[str, Tensor]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = problem.build_from_spec(spec)
    problem.load_backbone(network, weights)
    return network.eval()


def _outputs(weights: Mapping[str, Tensor], head: str) -> int | None:
    weight = weights.get(f"{head}.weight")
    return None if weight is None or weight.ndim < 2 else len(weight)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))


@torch.no_grad()
def look_with(
    guide: GuideNetwork, origin: GuideOrigin, scan: Scan, size: int, classes: tuple[str, ...]
) -> GuideTable:
    """The table of a network over all rows of a scan: its features, and what it says of our
    classes, where it has classes of its own. Raises BadInput.
    """
    lists = None
    if origin.class_file:
        if not guide.answers:
            raise BadInput(
                f"{origin.file} holds no last layer, so --guide-classes has nothing to map"
            )
        lists = read_class_map(Path(origin.class_file), classes, guide.spec.classes)
    features, logits = gathered(scan(guide.network), size)
    answered, covers = all_answered(size, len(classes))
    if lists is not None:
        answered, covers, mapped = map_answers(logits.softmax(1), lists)
        return GuideTable(answered, covers, mapped, features)
    named = guide.answers and origin.kind not in LIBRARY_KINDS
    own = name_answers(logits, guide.spec.classes, classes) if named else None
    return GuideTable(answered, covers, own, features, getattr(guide.network, "text", None))


def gathered(seen: Iterable[Seen], size: int) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N C"]]:
    """Features and logits of all rows of a look in their order, on the CPU in float32."""
    features, logits = torch.empty(0), torch.empty(0)
    for index, out in seen:
        if not len(features):
            features = torch.zeros(size, out.features.shape[1])
            logits = torch.zeros(size, out.logits.shape[1])
        features[index.cpu()] = out.features.float().cpu()
        logits[index.cpu()] = out.logits.float().cpu()
    return features, logits
