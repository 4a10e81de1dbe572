"""Model bundles: a folder with `weights.safetensors` and `spec.json`, known by its digest.

The digest covers the spec and every tensor, not the layout of the files: a network in memory and
its bundle have the same one. A `card.safetensors` beside them is carried along with a digest of its
own; anything else in the folder is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sfda.errors import BadInput
from sfda.refs import ModelSpec
from sfda.weights.bundle_files import check_files, read_small
from sfda.weights.checkpoints import check_finite
from sfda.weights.source_card import CARD_FILE

WEIGHTS, SPEC = "weights.safetensors", "spec.json"


def write_bundle(
    folder: Path, network: nn.Module, spec: ModelSpec, *, card: Path | None = None
) -> str:
    """Write a bundle and return its digest. It appears whole or not at all.

    A bundle that is already there is replaced; any other folder with something in it is refused.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SPEC).is_file():
        raise BadInput(f"{folder} holds something else than a model bundle")
    tensors = _tensors(network)
    check_finite(tensors, "the network to write")
    digest = _digest(tensors, spec)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            fresh = Path(scratch) / "new"
            fresh.mkdir()
            save_file(tensors, fresh / WEIGHTS, metadata={"format": "pt", "sha256": digest})
            (fresh / SPEC).write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")
            if card is not None:
                shutil.copyfile(card, fresh / CARD_FILE)
            _put(fresh, folder, aside=Path(scratch) / "old")
    except (OSError, SafetensorError) as error:
        raise BadInput(f"cannot write the model to {folder}: {error}") from error
    return digest


def read_verified(
    folder: Path, *, sha256: str | None = None
) -> tuple[dict[str, Tensor], ModelSpec]:
    """The weights of a bundle, and its spec.

    Raises BadInput where a file is missing, was edited, or is not the model named by `sha256`.
    """
    spec = read_spec(folder)
    tensors, stated = _read_tensors(folder)
    digest = _digest(tensors, spec)
    if digest != stated:
        raise BadInput(f"{folder} was changed after it was written: its digest is {digest[:12]}")
    if sha256 is not None and digest != sha256:
        raise BadInput(f"{folder} holds model {digest[:12]}, not {sha256[:12]}")
    check_finite(tensors, folder)
    return tensors, spec


def read_spec(folder: Path) -> ModelSpec:
    """The spec alone, unverified: cheap, for a look at a model."""
    check_files(folder)
    try:
        return ModelSpec.model_validate_json(read_small(folder / SPEC))
    except OSError as error:
        raise BadInput(f"{folder} is not a model bundle: no readable {SPEC}") from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        raise BadInput(f"{folder / SPEC} cannot be used: {faults}") from error


def bundle_digest(folder: Path) -> str:
    """Digest of what the files hold now, whatever they held when written."""
    tensors, _ = _read_tensors(folder)
    return _digest(tensors, read_spec(folder))


def network_digest(network: nn.Module, spec: ModelSpec) -> str:
    """Digest that a bundle of this network and spec would have."""
    return _digest(_tensors(network), spec)


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


def _digest(tensors: Mapping[str, Tensor], spec: ModelSpec) -> str:
    """sha256 over the spec and, by name, each tensor's name, type, shape and bytes."""
    # without defaults: a setting that specs gain later leaves the digests of old models alone
    total = hashlib.sha256(_canonical(spec.model_dump(mode="json", exclude_defaults=True)))
    for name in sorted(tensors):
        tensor = tensors[name]
        # a line of JSON ends where it ends: nothing can pass for the bytes after it
        total.update(_canonical([name, str(tensor.dtype), list(tensor.shape)]))
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _read_tensors(folder: Path) -> tuple[dict[str, Tensor], str]:
    """Weights, and the digest that they were written with."""
    check_files(folder)
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            stated = (file.metadata() or {}).get("sha256")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{folder} is not a whole model bundle: {path.name}: {error}") from error
    if stated is None:
        raise BadInput(f"{path} states no digest, so it is not of a model bundle")
    return tensors, stated
