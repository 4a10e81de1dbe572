"""What torch's and Python's pickled files hold, read by our own inert reader of pickles.

A file of `torch.save` (a zip, or the older kind), an archive of TorchScript, whose code is not run,
a pickle of arrays or tensors (detectron2's `.pkl`), and an array of numpy's that holds a dict.
"""

from __future__ import annotations

import io
import mmap
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfda.bounds.budget import Budget
from sfda.bounds.files import Unreadable, open_regular, zip_opened
from sfda.weights.inert_pickle import (
    MADE_OF_BYTES,
    Inert,
    InertUnpickler,
    Readable,
    Word,
)

OLD_TORCH = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that the older kind begins with
)
SCRIPT = "__torch__."  # begins the classes of a network that is stored as a program
STORED = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
NAME_LENGTH = 400  # characters of a tensor's name
NUMBERS = re.compile(r"[<>|=]?[fiub][1248]")
MADE = re.compile(r"numpy\.(_?core)\.(multiarray\._reconstruct|numeric\._frombuffer)")


def read_pickled(path: Path) -> object:
    """What a file of these kinds holds; inert objects where it holds others than tensors and plain
    containers. Raises `Refused`, `Unreadable`, and what Python raises for damaged files.
    """
    with open_regular(path) as file:
        start = file.read(len(OLD_TORCH))
        if start.startswith(b"PK"):
            return _zipped(path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            budget = Budget(len(content))
            if start == OLD_TORCH:
                return _old_torch(content, len(content), budget)
            return InertUnpickler(content, budget).load()


def read_object_array(path: Path) -> object:
    """What numpy's array of one object holds, such as a dict of arrays. Raises as `read_pickled`"""
    with open_regular(path) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
        shape, _, dtype = (header or np.lib.format.read_array_header_2_0)(file)
        if dtype.kind != "O" or shape != ():
            raise Unreadable(f"it is one array of {dtype}, not a dict of named arrays")
        rest = file.read()
        array = InertUnpickler(io.BytesIO(rest), Budget(len(rest))).load()
    held = array.state[4] if isinstance(array, Inert) and isinstance(array.state, tuple) else None
    return held[0] if isinstance(held, list) and held else None


def is_script(archive: zipfile.ZipFile) -> bool:
    """Whether a torch file is a network with its program."""
    names = archive.namelist()
    return any(n.endswith("/constants.pkl") or n == "constants.pkl" for n in names)


def script_state(content: object) -> dict[str, object]:
    """Tensors by their names in the network that an archive of TorchScript holds."""
    state: dict[str, object] = {}
    waiting = [("", content)]
    seen: set[int] = set()
    while waiting:
        prefix, part = waiting.pop()
        if isinstance(part, Tensor):
            state[prefix] = part
        elif isinstance(part, Inert) and part.name.startswith(SCRIPT) and id(part) not in seen:
            seen.add(id(part))
            inside: dict[Any, Any] = part.state if isinstance(part.state, dict) else {}
            names = [(f"{prefix}.{str(k)[:NAME_LENGTH]}".lstrip("."), v) for k, v in inside.items()]
            waiting += [(name, v) for name, v in names if len(name) <= NAME_LENGTH]
    return dict(sorted(state.items()))


def as_tensor(value: object) -> Tensor | None:
    """The tensor that a value is, or that an array of numpy's in a pickle is; None for others."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, Inert) or not MADE.fullmatch(value.name):
        return None
    try:
        return _from_numpy(value)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError):
        return None


def _from_numpy(value: Inert) -> Tensor | None:
    if value.name.endswith("_frombuffer"):
        raw, dtype, shape, order = value.args
    else:
        _, shape, dtype, fortran, raw = value.state
        order = "F" if fortran else "C"
    end = dtype.state[1] if isinstance(dtype.state, tuple) else "="
    kind = f"{end}{dtype.args[0]}"
    if not NUMBERS.fullmatch(kind):
        return None
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return number_tensor(np.frombuffer(raw, np.dtype(kind)).reshape(shape, order=order))


def number_tensor(array: np.ndarray[Any, Any]) -> Tensor | None:
    """An array as a tensor of 32 bits, or of whole numbers; None for one of other things."""
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch computes with few of these
        return torch.from_numpy(array.astype(np.int32 if array.dtype.itemsize == 2 else np.int64))
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    return None


def _zipped(path: Path) -> object:
    with zip_opened(path) as archive:
        names = archive.namelist()
        # zipped folders of other systems have no such member
        pickled = [n for n in names if n.rpartition("/")[2] == "data.pkl" and n.count("/") <= 1]
        if len(pickled) != 1:
            raise Unreadable("it is a zip, but none of torch's or numpy's")
        root = pickled[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise Unreadable("its numbers are stored big end first")
        buffers: dict[str, Tensor] = {}

        def storage(pid: tuple[Any, ...]) -> Tensor:
            _, kind, key, *_ = pid
            if not isinstance(key, str):
                raise Unreadable("it points to what is not in it")
            if key not in buffers:
                raw = bytearray(archive.read(f"{root}data/{key}"))
                dtype = _dtype(kind)
                buffers[key] = torch.frombuffer(raw, dtype=dtype) if raw else _none(dtype)
            return buffers[key]

        raw = archive.read(pickled[0])
        content = InertUnpickler(io.BytesIO(raw), Budget(len(raw)), storage).load()
        return script_state(content) if is_script(archive) else content


def _old_torch(content: Readable, size: int, budget: Budget) -> object:
    """The older kind: a few pickles, then the buffers."""
    buffers: dict[str | int, Tensor] = {}
    total = 0

    def storage(pid: tuple[Any, ...]) -> Tensor:
        nonlocal total
        _, kind, key, _, count, *view = pid
        if not isinstance(key, str | int):
            raise Unreadable("it points to what is not in it")
        dtype = _dtype(kind)
        if any(part is not None for part in view):
            raise Unreadable("it is of a version of torch before 0.4")
        if not isinstance(count, int) or not 0 <= count * dtype.itemsize <= size:
            raise Unreadable("it is cut short, or damaged")
        if key not in buffers:
            total += count * dtype.itemsize
            if total > size:
                raise Unreadable("it is cut short, or damaged")
            buffers[key] = torch.empty(count, dtype=dtype)
        return buffers[key]

    for _ in range(3):  # a number, a version, and the system's
        InertUnpickler(content, budget).load()
    made = InertUnpickler(content, budget, storage).load()
    for key in InertUnpickler(content, budget).load():
        buffer = buffers[key]
        (count,) = struct.unpack("<q", content.read(8))
        raw = bytearray(content.read(buffer.nbytes))
        if count != len(buffer) or len(raw) != buffer.nbytes:
            raise Unreadable("it is cut short, or damaged")
        if raw:
            buffer.copy_(torch.frombuffer(raw, dtype=buffer.dtype))
        del buffers[key]
    if buffers:
        raise Unreadable("it is cut short, or damaged")
    return made


def _dtype(kind: object) -> torch.dtype:
    name = kind.name.rpartition(".")[2] if isinstance(kind, Word) else ""
    if name not in STORED:
        raise Unreadable(f"it holds numbers of a kind that is not read ({name[:40]})")
    return STORED[name]


def _none(dtype: torch.dtype) -> Tensor:
    return torch.empty(0, dtype=dtype)


def _from_bytes(budget: Budget, raw: object = None, *_: object) -> object:
    """The buffer of a tensor that Python's own pickle wrote: a torch file in the pickle, but none
    in that.
    """
    if budget.nested or not isinstance(raw, bytes) or not raw.startswith(OLD_TORCH):
        raise pickle.UnpicklingError("a buffer is none of torch's")
    budget.make(len(raw))
    budget.nested = True
    try:
        return _old_torch(io.BytesIO(raw), len(raw), budget)
    finally:
        budget.nested = False


MADE_OF_BYTES["torch.storage._load_from_bytes"] = _from_bytes
