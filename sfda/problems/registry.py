"""The folder of problems as a registry, whose a network is, and the network of a bundle."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from sfda.errors import BadInput
from sfda.networks.foreign.code import check_trusted, import_source
from sfda.problem_names import PROBLEM_NAMES
from sfda.problems._base import AnyProblem
from sfda.refs import ModelSpec, NetworkCode
from sfda.types import Images, Losses
from sfda.weights.bundle import read_verified
from sfda.weights.bundle_files import CODE_FILE, read_small
from sfda.weights.load import load_exactly
from sfda.weights.size_limits import bounded_build


class _Folder(Mapping[str, AnyProblem]):
    """Problems by the name of their folder, each imported when it is asked for."""

    def __getitem__(self, name: str) -> AnyProblem:
        if name not in PROBLEM_NAMES:
            raise KeyError(name)
        return _exported(name)

    def __iter__(self) -> Iterator[str]:
        return iter(PROBLEM_NAMES)

    def __len__(self) -> int:
        return len(PROBLEM_NAMES)


@cache
def _exported(name: str) -> AnyProblem:
    problem: AnyProblem = importlib.import_module(f"sfda.problems.{name}").EXPORT()
    return problem


PROBLEMS: Mapping[str, AnyProblem] = _Folder()


def problem_of(network: object) -> AnyProblem:
    """The problem that a network, or a network's output, is for; TypeError for a foreign one."""
    name = getattr(network, "problem", None)
    if name not in PROBLEM_NAMES:
        kind = type(network).__name__
        raise TypeError(f"{kind} is the network of no problem in {sorted(PROBLEM_NAMES)}")
    return PROBLEMS[str(name)]


def problems_with(networks: tuple[type[nn.Module], ...]) -> frozenset[str]:
    """The problems whose networks are of one of these classes."""
    if nn.Module in networks:
        return frozenset(PROBLEM_NAMES)
    return frozenset(name for name in PROBLEM_NAMES if issubclass(PROBLEMS[name].network, networks))


class HasNetworks(Protocol):
    """A class that says which networks it serves."""

    networks: ClassVar[tuple[type[nn.Module], ...]]


class ProblemsOfNetworks:
    """A class attribute: the problems whose networks are of the classes in `networks`."""

    def __get__(self, instance: object, owner: type[HasNetworks]) -> frozenset[str]:
        return problems_with(owner.networks)


def read_bundle(folder: Path, *, sha256: str | None = None) -> tuple[Any, ModelSpec]:
    """The network of a bundle in eval mode, and its spec.

    Raises BadInput where a file is missing, was edited, or is not the model named by `sha256`, and
    where the spec asks for more than its weights can fill, or for code that nobody trusts.
    """
    tensors, spec = read_verified(folder, sha256=sha256)
    if spec.code is not None:
        _import_code(folder, spec.code, spec.arch)
    # a random start that is overwritten at once
    with torch.random.fork_rng(devices=[]), bounded_build(tensors, spec.arch):
        network = PROBLEMS[spec.problem].build_from_spec(spec)
    load_exactly(network, tensors)
    return network.eval(), spec


def _import_code(folder: Path, code: NetworkCode, arch: str) -> None:
    """Make a network of somebody's own ready to be built. Raises BadInput unless it is trusted."""
    check_trusted(code, arch)
    if code.kind == "file":
        try:
            source = read_small(folder / CODE_FILE)
        except OSError as error:
            raise BadInput(f"{folder / CODE_FILE} cannot be read: {error.strerror}") from error
        import_source(code, source)


def annotated_loss(network: nn.Module, images: Images, annotations: object) -> Losses:
    """The problem's supervised loss on what people annotated of single rows."""
    return problem_of(network).annotated_loss(network, images, annotations)
