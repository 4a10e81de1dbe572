"""Models for a notebook: a bundle by its address, or any `nn.Module`, cut before its head."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfda.errors import BadInput
from sfda.networks import probe
from sfda.networks.foreign.code import named_by_person
from sfda.notebook.addresses import folder_of
from sfda.problems._base import AnyProblem
from sfda.problems.registry import PROBLEMS, read_bundle
from sfda.problems.spec_checks import foreign_spec, refuse_doubles
from sfda.refs import InputSpec, ModelRef, ModelSpec, ProblemName
from sfda.weights.bundle import network_digest, write_bundle
from sfda.weights.bundle_files import CARD_FILE


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode and its spec, as all functions for a notebook take it.

    `network` is of the problem's own class and answers features with logits; `module` is what was
    handed in, with the same weights.
    """

    network: nn.Module
    spec: ModelSpec
    cut: tuple[str, ...] = ()  # where a module of somebody's own falls into parts; (): as it is
    folder: Path | None = None  # of the bundle that it, or its source, was read from
    can_be_made: bool = True  # again, from its spec alone

    @property
    def problem(self) -> AnyProblem:
        """What it is for."""
        return PROBLEMS[self.spec.problem]

    @property
    def sha256(self) -> str:
        """The digest that its bundle has, or would have."""
        return network_digest(self.network, self.spec)

    @property
    def card(self) -> Path | None:
        """The source card that lies beside its weights."""
        file = self.folder / CARD_FILE if self.folder else None
        return file if file and file.is_file() else None

    @property
    def module(self) -> nn.Module:
        """A copy of the network in the form in which it was handed in; one that falls into three
        parts stays in parts.
        """
        network: Any = copy.deepcopy(self.network)
        if len(self.cut) != 1:
            own: nn.Module = network
            return own
        whole: nn.Module = network.backbone
        whole.set_submodule(self.cut[0], network.head)
        return whole

    def with_network(self, network: nn.Module, spec: ModelSpec) -> LoadedModel:
        """The same kind of model with other weights."""
        return LoadedModel(network, spec, self.cut, self.folder, self.can_be_made)

    def save(self, folder: str | Path) -> str:
        """Write a bundle that `sfda` opens by its path; its digest. Raises BadInput.

        A module of somebody's own can be saved if its class can be imported and makes it anew.
        """
        if not self.can_be_made:
            raise BadInput(
                f"{self.spec.arch} cannot be made anew from its class alone, so a bundle of it "
                "could not be opened; hand sfda.load `arch` (a library's name, such as "
                "torchvision:resnet18) or `arch_settings`, or keep its state_dict()"
            )
        return write_bundle(Path(folder), self.network, self.spec, card=self.card)


ANY_CLASS = "package.module:Class"  # of somebody's own: no library states anything of it
ModelLike = nn.Module | LoadedModel | str | Path
"""A module, what `sfda.load` gives, the folder of a bundle, or an address in a registry."""


def load_model(
    model: ModelLike,
    *,
    head: str | None = None,
    classes: Sequence[str] | None = None,
    input: InputSpec | None = None,
    problem: ProblemName | None = None,
    arch: str | None = None,
    arch_settings: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """A model with what is needed to adapt it.

    Of a bundle all is stated. Of a module, which is copied, `head` names the layer that gives the
    logits, where a probe pass cannot tell; `classes` are its outputs in order, by default "0",
    "1" ...; `input` is how it wants its images. `problem` is what it is for, by default
    classification; `arch` is its name in a library of networks, and `arch_settings` are what its
    class is made with: with either a bundle of it can be opened elsewhere. Raises BadInput.
    """
    if not isinstance(model, nn.Module):
        stated: dict[str, object] = {"head": head, "classes": classes, "input": input}
        stated |= {"problem": problem, "arch": arch, "arch_settings": arch_settings}
        if odd := [name for name, value in stated.items() if value is not None]:
            raise BadInput(f"{', '.join(odd)}: of a bare module; this model states its own")
        return model if isinstance(model, LoadedModel) else _of_bundle(folder_of(model))
    if getattr(model, "problem", None) in PROBLEMS:
        raise BadInput(
            f"a {type(model).__name__} does not say what it takes; hand over what sfda.load gave, "
            "or the `model` of a result"
        )
    usual = next(one for one in PROBLEMS.values() if one.whole_image)
    served = PROBLEMS[problem] if problem else usual
    if arch is not None:
        return _of_library(model, arch, classes, input, served)
    if input is None:
        raise BadInput(
            f"{type(model).__name__} does not say how it wants its images: hand sfda.load "
            "input=sfda.InputSpec(size=(height, width), mean=(...), std=(...))"
        )
    named = tuple(classes) if classes is not None else None
    return _of_stranger(model, head, named, input, served, arch_settings)


def bundle_ref(source: LoadedModel, folder: Path) -> ModelRef:
    """A model as a bundle: its own one, or one that is written to `folder`."""
    if source.folder is None:
        sha256 = write_bundle(folder, source.network, source.spec)
    else:
        folder, sha256 = source.folder, source.sha256
    return ModelRef(
        uri=str(folder),
        sha256=sha256,
        problem=source.spec.problem,
        arch=source.spec.arch,
        classes=source.spec.classes,
    )


def _of_bundle(folder: Path) -> LoadedModel:
    """The network of a bundle and all that is stated of it."""
    network, spec = read_bundle(folder)
    return LoadedModel(network, spec, folder=folder)


def _of_library(
    module: nn.Module,
    arch: str,
    classes: Sequence[str] | None,
    input: InputSpec | None,
    problem: AnyProblem,
) -> LoadedModel:
    """A module that a library of networks makes, as the network of ours with its weights."""
    if classes is None:
        raise BadInput(f"name the classes of {arch}, in order: classes=[...]")
    weights = {name: value.detach().cpu() for name, value in module.state_dict().items()}
    network, spec = problem.load_network(weights, arch=arch, classes=tuple(classes), input=input)
    return LoadedModel(network.eval(), spec)


def _of_stranger(
    module: nn.Module,
    head: str | None,
    classes: tuple[str, ...] | None,
    input: InputSpec,
    problem: AnyProblem,
    arch_settings: Mapping[str, Any] | None,
) -> LoadedModel:
    """A copy of any module, cut before its head."""
    arch = f"{type(module).__module__}:{type(module).__qualname__}"
    whole = copy.deepcopy(module).cpu().eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        images = torch.rand(2, input.depth, *input.size)
        answer = _answer(whole, images, arch)
        names = classes or tuple(str(number) for number in range(answer.shape[1]))
        refuse_doubles(names)
        maps = answer.ndim == 4
        probed = copy.deepcopy(whole)  # the pass leaves random weights behind
        cut = probe.find_cut(probed, images, arch, len(names), maps=maps, layer=head)
    spec = ModelSpec(
        problem=problem.name,
        arch=arch[-256:],
        classes=names,
        input=input,
        views=problem.defaults(ANY_CLASS)[1],
        head="plain",
    )
    network = _assembled(problem, whole, cut, len(names), maps=maps)
    made = _spec_with_code(problem, spec, cut, arch_settings, network)
    return LoadedModel(network, made or spec, cut, can_be_made=made is not None)


def _answer(network: nn.Module, images: torch.Tensor, arch: str) -> torch.Tensor:
    """What a module answers. Raises BadInput where that is no tensor of classes."""
    try:
        answer = network(images)
    except Exception as error:  # somebody else's code: it may raise anything
        size = "x".join(map(str, images.shape[1:]))
        raise BadInput(
            f"{arch} does not take images of {size} ({' '.join(str(error).split())[:200]}); state "
            "another size or channels by `input`"
        ) from error
    if not isinstance(answer, torch.Tensor) or answer.ndim not in (2, 4):
        kind = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise BadInput(
            f"{arch} answers {kind}, where logits [images, classes] or [images, classes, height, "
            "width] are needed; wrap it in a module that gives these, or hand a bundle"
        )
    return answer


def _assembled(
    problem: AnyProblem, whole: nn.Module, cut: tuple[str, ...], classes: int, *, maps: bool
) -> nn.Module:
    """The parts of a module as a network of the problem's own class."""
    kind: Any = problem.network
    try:
        if maps:
            pieces = probe.map_parts(whole, cut)
            network: nn.Module = kind(
                pieces.backbone,
                pieces.decoder,
                pieces.head,
                feature_dim=pieces.width,
                num_classes=classes,
                multiple=pieces.multiple,
            )
            return network.eval()
        parts = probe.cut_layer(whole, cut[0])
        network = kind(
            parts.backbone,
            nn.Identity(),
            parts.head,
            feature_dim=parts.width,
            num_classes=classes,
        )
    except TypeError as error:
        raise BadInput(
            f"a bare module with such an answer cannot serve {problem.name}; make a bundle of it "
            "with `sfda import-model`, and hand that"
        ) from error
    return network.eval()


def _spec_with_code(
    problem: AnyProblem,
    spec: ModelSpec,
    cut: tuple[str, ...],
    arch_settings: Mapping[str, Any] | None,
    network: nn.Module,
) -> ModelSpec | None:
    """The spec by which the module's class is imported and makes it anew; None if it does not.

    The code runs in this process already, so whoever handed the module in has named it.
    """
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    try:
        made = foreign_spec(spec, len(spec.classes), arch_settings, cut[-1])
        if made.code is None:
            return None
        with torch.random.fork_rng(devices=[]), named_by_person(made.code):
            anew = problem.build_from_spec(made).state_dict()
    except BadInput:
        return None
    return made if shapes == {name: value.shape for name, value in anew.items()} else None
