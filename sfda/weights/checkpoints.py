"""Weights from files of other people: safetensors, torch, pickles, numpy, or SHOT's three parts.

What a file holds decides how it is read, whatever its name ends in. Nothing in it is ever run:
objects beside the weights are inert, and a pickle that names what runs programs is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sfda.bounds.files import DAMAGED, Unreadable, open_regular, zip_opened
from sfda.bounds.limits import CHECKPOINT_TIMES
from sfda.errors import BadInput
from sfda.weights.inert_pickle import Inert, Refused
from sfda.weights.layouts import Checkpoint, weights_in
from sfda.weights.torch_files import number_tensor, read_object_array, read_pickled

UNREAD = (
    *DAMAGED,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    SyntaxError,
    TypeError,
    pickle.UnpicklingError,
)  # what readers raise on a file that is cut short, flipped, encrypted or of another kind
# a file that holds zeros alone may be packed so; what claims more is made to exhaust a machine
TIMES_SHARED, SPARE = 4, 64 * 2**20
RESAVE = "save the weights alone where they were made: torch.save(model.state_dict(), 'weights.pt')"
ULTRALYTICS = (
    "this is a file of ultralytics, which stores the whole network as Python objects, a program "
    "that would have to be run; where it can be trusted: torch.save(ultralytics.YOLO('FILE').model."
    "state_dict(), 'weights.pt'), and name the network's class by --arch package.module:Class"
)
# what begins a file of another kind, and what to say of it
FOREIGN_FILES = {
    b"\x89HDF\r\n": "a file of HDF5, as Keras writes it: weights of torch are read",
    b"\x1f\x8b": "packed by gzip: unpack it first",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: `git lfs pull` gets it",
    b"<!DOCTYPE": "a web page: the download has failed, get the file anew",
    b"<html": "a web page: the download has failed, get the file anew",
    b"GGUF": f"a language model's GGUF; {RESAVE}",
}


def read_weights(source: Path | str | Sequence[Path | str]) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a file, a folder with SHOT's triple, or its three paths.

    A triple's names begin with `F.`, `B.` and `C.` for backbone, bottleneck and classifier.
    """
    return read_checkpoint(source).weights


def read_checkpoint(
    source: Path | str | Sequence[Path | str], key: str | None = None
) -> Checkpoint:
    """The same with what was taken and what was left. Of several sets of weights in a file `key`
    says which. Raises BadInput.
    """
    if not isinstance(source, Path | str):
        return _read_triple([Path(path) for path in source])
    path = Path(source)
    if path.is_dir():
        return _read_triple(_find_triple(path))
    if not path.is_file():
        raise BadInput(f"no weights at {path}")
    _check_unpacked(path)
    content, packed = _read_file(path)
    try:
        read = weights_in(content, key)
    except BadInput:
        raise
    except UNREAD as error:
        raise BadInput(f"{path} is damaged ({type(error).__name__}); {RESAVE}") from None
    if read is None:
        raise BadInput(_no_weights(path, content))
    claimed = sum(value.nbytes for value in read.weights.values())
    _check_claim(path, claimed, CHECKPOINT_TIMES.most if packed else TIMES_SHARED)
    check_finite(read.weights, path)
    return read


def check_finite(weights: Mapping[str, Tensor], origin: Path | str) -> None:
    """BadInput that names the tensors of `origin` which hold NaN or infinity."""
    try:
        bad = [
            name
            for name, value in weights.items()
            if value.is_floating_point() and not torch.isfinite(value).all()
        ]
    except RuntimeError as error:  # of four bits, for example
        raise BadInput(f"{origin} holds numbers that cannot be computed with: {error}") from None
    if bad:
        raise BadInput(f"NaN or infinite weights in {origin}: {', '.join(bad)}")


def _check_unpacked(path: Path) -> None:
    """BadInput for an archive, as torch and numpy write them, that unpacks to far too much."""
    try:
        with zip_opened(path) as archive:
            total = sum(part.file_size for part in archive.infolist())
    except Unreadable as error:
        raise BadInput(f"{path} is no file of weights: {error}") from None
    except DAMAGED:  # its reader tells what is wrong
        return
    _check_claim(path, total, CHECKPOINT_TIMES.most)


def _check_claim(path: Path, claimed: int, times: int) -> None:
    size = path.stat().st_size
    if claimed > times * size + SPARE:
        raise BadInput(
            f"{path} has {size} bytes and claims to hold {claimed}, more than {times} times as "
            f"many ({CHECKPOINT_TIMES.variable} raises that limit): it is damaged, or made to "
            f"exhaust this machine; {RESAVE}"
        )


def _read_file(path: Path) -> tuple[object, bool]:
    """What a file holds, and whether it may be packed."""
    with open_regular(path) as file:
        start = file.read(32)
    if start.startswith(b"PK") and _is_npz(path):
        return _read_npz(path), True
    whole = int.from_bytes(start[:8], "little") < path.stat().st_size
    if (start[8:9] == b"{" and whole) or path.suffix.lower() == ".safetensors":
        return _read_safetensors(path), False
    for begin, meaning in FOREIGN_FILES.items():
        if start.startswith(begin):
            raise BadInput(f"{path} is {meaning}")
    if path.suffix.lower() == ".onnx":
        raise BadInput(f"{path} is a graph of ONNX, whose weights have lost their names; {RESAVE}")
    return _read_pickled(path, array=start.startswith(b"\x93NUMPY")), False


def _is_npz(path: Path) -> bool:
    with suppress(*DAMAGED), zip_opened(path) as archive:
        names = archive.namelist()
        torches = any(n.rpartition("/")[2] == "data.pkl" for n in names)
        return not torches and (path.suffix == ".npz" or any(n[-4:] == ".npy" for n in names))
    return path.suffix == ".npz"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}") from error


def _read_pickled(path: Path, *, array: bool) -> object:
    """What the file holds, tensors in plain containers and inert objects."""
    try:
        return read_object_array(path) if array else read_pickled(path)
    except Refused as error:
        raise BadInput(
            f"{path} holds pickled Python objects ({error}), which could run code, so it was not "
            f"opened; {RESAVE}"
        ) from error
    except Unreadable as error:
        raise BadInput(f"{path} is no file of weights: {error}; {RESAVE}") from error
    except UNREAD as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadInput(
            f"{path} is damaged, or no file of safetensors, torch, numpy or Python's pickle "
            f"({first}); {RESAVE}"
        ) from error


def _no_weights(path: Path, content: object) -> str:
    """What to say of a file without a state dict: of the whole network that it may be."""
    names = _classes(content)
    if any(name.startswith(("ultralytics.", "models.yolo.", "models.common.")) for name in names):
        return f"{path}: {ULTRALYTICS}"
    if names:
        return (
            f"{path} holds no state dict but a whole network as Python objects ({names[0]}), which "
            f"could run code, so they were not made; {RESAVE}"
        )
    if isinstance(content, Mapping):
        what = "a dict of " + (", ".join(repr(str(key)) for key in list(content)[:5]) or "nothing")
    else:
        what = f"an object of type {type(content).__name__}"
    return f"{path} holds no state dict but {what}; {RESAVE}"


def _classes(content: object) -> list[str]:
    """Classes of the objects of networks: those that stand in a file where a state dict should."""
    inside = content.values() if isinstance(content, Mapping) else ()
    objects = [one for one in (content, *inside) if isinstance(one, Inert)]
    return [
        one.name
        for one in objects
        if isinstance(one.state, Mapping) and {"_modules", "_parameters"} & set(one.state)
    ]


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise BadInput(f"{path} is one array, not an archive of named arrays")
            return {name: _tensor(name, arrays[name], path) for name in arrays.files}
    except UNREAD as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path} is not an archive of plain arrays: {error}") from error


def _tensor(name: str, array: np.ndarray[Any, Any], path: Path) -> Tensor:
    tensor = number_tensor(array)
    if tensor is None:
        raise BadInput(f"{name} in {path} is {array.dtype}: weights are numbers")
    return tensor


def refuse_bundle(folder: Path) -> None:
    """Raise BadInput where these are no weights to import, but a bundle."""
    if (folder / "spec.json").exists():
        raise BadInput(f"{folder} is a model bundle already: use it as it is")


def _find_triple(folder: Path) -> list[Path]:
    """The files of SHOT's triple in a folder: backbone, bottleneck, classifier."""
    refuse_bundle(folder)
    files = []
    for part in "FBC":
        fits = sorted(folder.glob(f"*_{part}.pt"))
        if len(fits) != 1:
            names = ", ".join(p.name for p in fits) or "none"
            raise BadInput(f"{folder} should hold one file *_{part}.pt; found {names}")
        files.append(fits[0])
    return files


def _read_triple(paths: list[Path]) -> Checkpoint:
    if len(paths) != 3:
        raise BadInput(f"backbone, bottleneck and classifier are 3 files, not {len(paths)}")
    parts = zip("FBC", paths, strict=True)
    read = {f"{p}.{name}": value for p, path in parts for name, value in read_weights(path).items()}
    return Checkpoint(read)
