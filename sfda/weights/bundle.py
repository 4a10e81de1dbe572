"""Model bundles: a folder with `weights.safetensors` and `spec.json`, known by its digest.

The digest covers the spec and every tensor, not the layout of the files: a network in memory and
its bundle have the same one. The spec states the digests of the `card.safetensors` and of the
`network.py` beside it, so that they are covered too; anything else in the folder is refused.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from sfda.bounds.files import machine_memory
from sfda.errors import BadInput, listed
from sfda.networks.foreign.code import source_of
from sfda.refs import ModelSpec
from sfda.state_folder import Stamp, stamp_of
from sfda.weights.bundle_files import (
    CARD_FILE,
    CODE_FILE,
    SPEC,
    WEIGHTS,
    check_code,
    check_files,
    file_sha256,
    opened,
    read_small,
    refuse_other_content,
)
from sfda.weights.checkpoints import check_finite
from sfda.weights.tensor_file import TensorFile, strict_json

# of specs, since version 0.1.0
NEW_FIELDS = ("card_sha256", "code", "arch_settings", "cut", "padding", "gaussian_head")

MOST_HELD = 1 << 29  # bytes of weights that a process holds on to, for each of two models


def write_bundle(
    folder: Path, network: nn.Module, spec: ModelSpec, *, card: Path | None = None
) -> str:
    """Write a bundle and return its digest. It appears whole or not at all.

    The spec then states the digest of `card`. Without one it stays as it is: an adapted model
    states its source's card, which joins it when it is registered. A bundle that is already there
    is replaced; any other folder with something in it is refused.
    """
    refuse_other_content(folder)
    if os.path.lexists(folder / SPEC) and not os.path.lexists(folder / WEIGHTS):
        read_spec(folder)  # raises for another file of that name
    tensors = _tensors(network)
    check_finite(tensors, "the network to write")
    try:
        content = card.read_bytes() if card else None
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            fresh = Path(scratch) / "new"
            fresh.mkdir()
            digest = write_model_files(fresh, tensors, spec, content)
            _put(fresh, folder, aside=Path(scratch) / "old")
    except (OSError, SafetensorError) as error:
        raise BadInput(f"cannot write the model to {folder}: {error}") from error
    return digest


def write_model_files(
    folder: Path, tensors: dict[str, Tensor], spec: ModelSpec, card: bytes | None = None
) -> str:
    """The files of a bundle into a folder, over those that are there, and the bundle's digest."""
    if card is not None:
        spec = spec.model_copy(update={"card_sha256": hashlib.sha256(card).hexdigest()})
        (folder / CARD_FILE).write_bytes(card)
    if spec.code and spec.code.kind == "file" and not (folder / CODE_FILE).exists():
        (folder / CODE_FILE).write_bytes(source_of(spec.code))
    digest = _digest(_parts(tensors), spec)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", "sha256": digest})
    # version 0.1.0 refuses names that it does not know
    new = {name for name in NEW_FIELDS if not getattr(spec, name)}
    text = spec.model_dump_json(indent=2, exclude=new)
    (folder / SPEC).write_text(text + "\n", encoding="utf-8")
    return digest


def read_verified(
    folder: Path, *, sha256: str | None = None
) -> tuple[dict[str, Tensor], ModelSpec]:
    """The weights of a bundle, and its spec.

    Raises BadInput where a file is missing, was edited, or is not the model named by `sha256`.
    """
    tensors, spec, digest, stated = _recent(folder) or _read(folder)
    if digest != stated:
        raise BadInput(f"{folder} was changed after it was written: its digest is {digest[:12]}")
    if sha256 is not None and digest != sha256:
        raise BadInput(f"{folder} holds model {digest[:12]}, not {sha256[:12]}")
    check_card(folder, spec)
    check_code(folder, spec.code)
    check_finite(tensors, folder)
    return dict(tensors), spec


class Contents(NamedTuple):
    """What a bundle's files hold, whatever its weights state of it."""

    tensors: Mapping[str, Tensor]
    spec: ModelSpec
    digest: str
    stated: str


def _read(folder: Path) -> Contents:
    spec = read_spec(folder)
    with _weights(folder) as file:
        if sum(entry.size for entry in file.entries.values()) > machine_memory():
            raise BadInput(f"{folder / WEIGHTS} is larger than this machine's memory")
        tensors = {name: file.tensor(name) for name in file.entries}
        return Contents(tensors, spec, _digest(_parts(tensors), spec), file.metadata["sha256"])


def _recent(folder: Path) -> Contents | None:
    """What was read of a bundle before, or is read now for all stages of a job that open it. None
    for large weights, and for files so young that another change would not show.
    """
    check_files(folder)
    try:
        stamps = tuple(stamp_of(folder / name) for name in (SPEC, WEIGHTS))
    except OSError:
        return None  # said where it is read
    if stamps[1].size > MOST_HELD or not all(stamp.settled for stamp in stamps):
        return None
    return _read_once(folder.absolute(), stamps)


@functools.lru_cache(maxsize=2)  # a source and what was adapted from it
def _read_once(folder: Path, stamps: tuple[Stamp, ...]) -> Contents:
    return _read(folder)


def read_spec(folder: Path) -> ModelSpec:
    """The spec alone, unverified: cheap, for a look at a model."""
    check_files(folder)
    try:
        text = read_small(folder / SPEC)
        strict_json(text)
        spec = ModelSpec.model_validate_json(text)
        spec.model_dump(mode="json")  # what is nested too deeply has no digest
        return spec
    except OSError as error:
        raise BadInput(f"{folder} is not a model bundle: no readable {SPEC}") from error
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part)[:80] for part in fault['loc'][:8])}: {fault['msg'][:300]}"
            for fault in error.errors(include_url=False, include_input=False)
        ]
        raise BadInput(f"{folder / SPEC} cannot be used: {listed(faults, '; ')}") from error
    except ValueError as error:
        raise BadInput(f"{folder / SPEC} cannot be used: {error}") from error


def check_card(folder: Path, spec: ModelSpec) -> None:
    """Raise BadInput where a bundle's card is not the one that its spec states.

    Specs of version 0.1.0 state none, and an adapted model's card lies with its source until it is
    registered.
    """
    file = folder / CARD_FILE
    if spec.card_sha256 is None or not os.path.lexists(file):
        return
    try:
        digest = file_sha256(file)
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from error
    if digest != spec.card_sha256:
        raise other_card(file)


def other_card(file: Path) -> BadInput:
    """The card beside a model is another one than its spec states."""
    return BadInput(
        f"{file} was changed or exchanged after the model was written; take the whole bundle from "
        "where it was made again, or make the card anew with `sfda card`"
    )


def bundle_digest(folder: Path) -> str:
    """Digest of what the files hold now, whatever they held when written.

    Raises BadInput where they are no bundle's, or the card is not the one that the spec states.
    """
    spec = read_spec(folder)
    check_card(folder, spec)
    check_code(folder, spec.code)
    with _weights(folder) as file:
        parts = (
            (name, entry.kind, entry.shape, file.pieces(name))
            for name, entry in sorted(file.entries.items())
        )
        return _digest(parts, spec)


def opened_digest(folder: Path) -> str:
    """`bundle_digest` of a model that is opened next: its weights are not read again for that."""
    if inside := _recent(folder):
        check_card(folder, inside.spec)
        check_code(folder, inside.spec.code)
        return inside.digest
    return bundle_digest(folder)


def network_digest(network: nn.Module, spec: ModelSpec) -> str:
    """Digest that a bundle of this network and spec would have."""
    return _digest(_parts(_tensors(network)), spec)


def _put(fresh: Path, folder: Path, *, aside: Path) -> None:
    """Rename `fresh` to `folder`; what is there goes aside, and comes back if that fails."""
    replaces = folder.exists()
    if replaces:
        folder.rename(aside)
    try:
        fresh.rename(folder)
    except OSError:
        if replaces:
            aside.rename(folder)
        raise


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Everything the network is made of: on the CPU, in one piece, no two in the same memory."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in network.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        out[name] = tensor.clone() if memory in seen else tensor  # the format refuses tied weights
        seen.add(memory)
    return out


TensorPart = tuple[str, torch.dtype, tuple[int, ...], Iterable[bytes | memoryview]]


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[TensorPart]:
    """Name, type, shape and bytes of tensors in the order of their names."""
    for name in sorted(tensors):
        tensor = tensors[name]
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
        yield name, tensor.dtype, tuple(tensor.shape), (content,)


def _digest(parts: Iterable[TensorPart], spec: ModelSpec) -> str:
    """sha256 over the spec and, by name, each tensor's name, type, shape and bytes."""
    # without defaults: a setting that specs gain later leaves the digests of old models alone
    total = hashlib.sha256(_canonical(spec.model_dump(mode="json", exclude_defaults=True)))
    for name, kind, shape, content in parts:
        # a line of JSON ends where it ends: nothing can pass for the bytes after it
        total.update(_canonical([name, str(kind), list(shape)]))
        for piece in content:
            total.update(piece)
    return total.hexdigest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


@contextmanager
def _weights(folder: Path) -> Iterator[TensorFile]:
    """The weights of a bundle, opened once. Raises BadInput, also for what is wrong inside."""
    check_files(folder)
    path = folder / WEIGHTS
    try:
        with opened(path) as handle:
            file = TensorFile(handle)
            if "sha256" not in file.metadata:
                raise BadInput(f"{path} states no digest, so it is not of a model bundle")
            yield file
    except BadInput:
        raise
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        raise BadInput(f"{folder} is not a whole model bundle: {path.name}: {error}") from error
