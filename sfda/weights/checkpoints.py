"""Weights from files of other people: safetensors, torch, numpy, or SHOT's three parts.

Nothing that a file holds is ever run: a pickle which asks for more than tensors is refused.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sfda.bounds.files import DAMAGED, Unreadable, zip_opened
from sfda.bounds.limits import CHECKPOINT_LEVELS, CHECKPOINT_TIMES
from sfda.errors import BadInput
from sfda.weights.layouts import beside_objects

UNREAD = (
    *DAMAGED,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    SyntaxError,
    TypeError,
)  # what readers raise on a file that is cut short, flipped, encrypted or of another kind
TORCH = (".pt", ".pth", ".bin", ".tar")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
# a file that holds zeros alone may be packed so; what claims more is made to exhaust a machine
TIMES_SHARED, SPARE = 4, 64 * 2**20
RESAVE = "save the weights alone where they were made: torch.save(model.state_dict(), 'weights.pt')"


def read_weights(source: Path | str | Sequence[Path | str]) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a file, a folder with SHOT's triple, or its three paths.

    A triple's names begin with `F.`, `B.` and `C.` for backbone, bottleneck and classifier.
    """
    if not isinstance(source, Path | str):
        return _read_triple([Path(path) for path in source])
    path = Path(source)
    if path.is_dir():
        return _read_triple(_find_triple(path))
    if not path.is_file():
        raise BadInput(f"no weights at {path}")
    _check_unpacked(path)
    weights = _strip(_read_file(path))
    claimed = sum(value.nbytes for value in weights.values())
    _check_claim(path, claimed, TIMES_SHARED if path.suffix != ".npz" else CHECKPOINT_TIMES.most)
    check_finite(weights, path)
    return weights


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


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in TORCH:
        return _unwrap(_read_torch(path), path)
    known = ", ".join((".safetensors", *TORCH, ".npz"))
    raise BadInput(f"cannot read weights from {path}: its name should end in one of {known}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}") from error


def _read_torch(path: Path) -> object:
    """What the file holds, if that is tensors in plain containers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickles that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error) and "lobal " not in str(error):
            raise BadInput(
                f"{path} is damaged or was not written by torch.save, and was not opened, since a "
                f"pickle could run code; {RESAVE}"
            ) from error
        asked = _asked_for(str(error))
        if (weights := beside_objects(path)) is not None:
            return weights
        raise BadInput(
            f"{path} holds pickled Python objects{asked}, which could run code, so it was not "
            f"opened; {RESAVE}"
        ) from error
    except UNREAD as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path} is damaged or not a torch file: {first}") from error


def _asked_for(message: str) -> str:
    """The object that torch refused, as it names it, or nothing."""
    _, _, rest = message.partition("GLOBAL ")
    return f" ({rest.split()[0]})" if rest else ""


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict itself, out of the dict that a training script put around it."""
    for _ in range(CHECKPOINT_LEVELS.most):  # one may hold itself
        if not isinstance(content, Mapping):
            break
        if content and all(_is_plain(value) for value in content.values()):
            return {str(name): value for name, value in content.items()}
        inside = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inside:
            break
        content = content[inside[0]]
    if isinstance(content, Mapping):
        what = "a dict of " + (", ".join(repr(str(key)) for key in list(content)[:5]) or "nothing")
    else:
        what = f"an object of type {type(content).__name__}"
    raise BadInput(f"{path} holds no state dict but {what}; {RESAVE}")


def _is_plain(value: object) -> bool:
    """Whether this is a tensor with numbers in it: dense, not quantised, not a mere shape."""
    if not isinstance(value, Tensor) or value.is_quantized or value.is_meta:
        return False
    return value.layout is torch.strided


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
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    raise BadInput(f"{name} in {path} is {array.dtype}: weights are numbers")


def _strip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what torch.compile and data parallel training put before them."""
    plain = {name.replace("_orig_mod.", ""): value for name, value in weights.items()}
    while plain and all(name.startswith("module.") for name in plain):
        plain = {name.removeprefix("module."): value for name, value in plain.items()}
    return plain


def _find_triple(folder: Path) -> list[Path]:
    """The files of SHOT's triple in a folder: backbone, bottleneck, classifier."""
    if (folder / "spec.json").exists():
        raise BadInput(f"{folder} is a model bundle already: use it as it is")
    files = []
    for part in "FBC":
        fits = sorted(folder.glob(f"*_{part}.pt"))
        if len(fits) != 1:
            names = ", ".join(p.name for p in fits) or "none"
            raise BadInput(f"{folder} should hold one file *_{part}.pt; found {names}")
        files.append(fits[0])
    return files


def _read_triple(paths: list[Path]) -> dict[str, Tensor]:
    if len(paths) != 3:
        raise BadInput(f"backbone, bottleneck and classifier are 3 files, not {len(paths)}")
    parts = zip("FBC", paths, strict=True)
    return {f"{p}.{name}": value for p, path in parts for name, value in read_weights(path).items()}
