"""What a restricted process knows of its environment: names from a list, never a password.

A value that is taken out of the environment still lies in memory: where the program was started
with it, in what Python made of it, in pieces that were freed. A copy of a process has them all.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from sfda.sandbox.leftovers import facts_of

PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LANGUAGE", "LC_*", "TZ"),
    *("TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "MALLOC_*", "GLIBC_*", "PYTHON*", "VIRTUAL_ENV"),
    *("OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "NUMEXPR_*", "VECLIB_*", "BLIS_*"),
    *("CUDA_*", "CUBLAS_*", "CUDNN_*", "NVIDIA_*", "TORCH_*", "PYTORCH_*", "ATEN_*", "OPENCV_*"),
    *("SFDA_*", "NO_ALBUMENTATIONS_UPDATE", "HF_HUB_OFFLINE", "HF_HOME", "MPLCONFIGDIR", "XDG_*"),
    *("NO_COLOR", "COLUMNS", "COVERAGE_*"),
)
SECRET = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "AUTH", "_KEY", "_URI", "_URL")
MEMORY_AT_ONCE = 1 << 20  # bytes of memory
SHORTEST_SECRET = 8  # bytes; a shorter value stands everywhere in memory by chance


def is_passed(name: str) -> bool:
    """Whether a variable of this name goes to the process.

    >>> [is_passed(name) for name in ("OMP_NUM_THREADS", "MLFLOW_TRACKING_URI", "SFDA_TOKEN")]
    [True, False, False]
    """
    if any(word in name.upper() for word in SECRET):
        return False
    return any(fnmatchcase(name, pattern) for pattern in PASSED)


def passed(environment: Mapping[str, str]) -> dict[str, str]:
    """Of an environment what the process gets."""
    return {name: value for name, value in environment.items() if is_passed(name)}


def forget_others() -> None:
    """Remove from this process's environment, and from the memory that it came in, all the rest.

    Values that are secrets are gone from all of its memory afterwards.
    """
    secrets = [bytearray(text) for text in _secrets(os.environ)]
    for name in set(os.environ) - set(passed(os.environ)):
        del os.environ[name]
    start, end = _block()
    if 0 < start < end:
        _clear_block(start, end)
    if secrets:
        _wipe(secrets)


def _clear_block(start: int, end: int) -> None:
    at = start
    for entry in ctypes.string_at(start, end - start).split(b"\0"):
        name = entry.partition(b"=")[0].decode(errors="replace")
        if entry and not is_passed(name):
            ctypes.memset(at, 0, len(entry))
        at += len(entry) + 1


def _secrets(environment: Mapping[str, str]) -> Iterator[bytes]:
    """Of values that are not passed, those that nobody may learn: whole, or of an address and of
    `user:password` the password alone.
    """
    for name, value in environment.items():
        if is_passed(name) or not any(word in name.upper() for word in SECRET):
            continue
        for text in _parts_of(value):
            secret = os.fsencode(text)
            if len(secret) >= SHORTEST_SECRET and not text.startswith("/"):
                yield secret


def _parts_of(value: str) -> Iterator[str]:
    """Of an address who asks and how, and what it says after `?`; of `user:password` both; else all
    of it. As it is written, and as it is meant.
    """
    texts = [value]
    if "://" in value or "@" in value:
        rest = value.partition("://")[2] or value
        query = rest.partition("?")[2]
        texts = [rest.rpartition("@")[0], query, *(p.partition("=")[2] for p in query.split("&"))]
    texts += [text.partition(":")[2] for text in texts]
    for text in dict.fromkeys(texts):
        yield from {text, unquote(text)}


def _wipe(secrets: list[bytearray]) -> None:
    """Overwrite each copy of these bytes that this process may write to, and them.

    Memory is read as a file: what was freed since it was listed is an error there, not the end.
    """
    own = {ctypes.addressof(ctypes.c_char.from_buffer(secret)) for secret in secrets}
    more = max(map(len, secrets))
    buffer = bytearray(MEMORY_AT_ONCE + more)
    try:
        memory = os.open("/proc/self/mem", os.O_RDWR)
    except OSError:
        return
    for start, end in _own_memory():
        for at in range(start, end, MEMORY_AT_ONCE):
            try:
                size = os.preadv(memory, [memoryview(buffer)[: end - at]], at)
            except OSError:
                continue
            for secret in secrets:
                _overwrite(memory, at, buffer, size, secret, own)
    os.close(memory)
    for text in (buffer, *secrets):
        text[:] = bytes(len(text))


def _overwrite(
    memory: int, start: int, buffer: bytearray, size: int, secret: bytearray, own: set[int]
) -> None:
    """In memory from `start`, of which `buffer` has `size` bytes, each copy of a secret."""
    at = buffer.find(secret, 0, size)
    while at >= 0:
        if start + at not in own:
            os.pwrite(memory, bytes(len(secret)), start + at)
        at = buffer.find(secret, at + 1, size)


def _own_memory() -> list[tuple[int, int]]:
    """Where memory lies that is of no file, holds something, and can be written."""
    parts: list[tuple[int, int]] = []
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return parts
    writable = False
    for line in lines:
        words = line.split()
        if not words[0].endswith(":"):
            start, _, end = words[0].partition("-")
            part = int(start, 16), int(end, 16)
            writable = words[1].startswith("rw") and words[4] == "0"
        elif words[0] == "Rss:" and writable and words[1] != "0":
            parts.append(part)
    return parts


def _block() -> tuple[int, int]:
    """Where the environment lies that this program was started with."""
    facts = facts_of("self")
    return facts.environment if facts else (0, 0)
