"""Which files are opened, by this process or by any."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

IN_OPEN, IN_CLOSE = 0x20, 0x08 | 0x10
LISTENING: list[Counter[str]] = []  # a hook of the interpreter stays for ever, so there is one


@contextmanager
def own_opens() -> Iterator[Counter[str]]:
    """How often this process opens each file meanwhile, by absolute path."""
    _hook()
    counter: Counter[str] = Counter()
    LISTENING.append(counter)
    try:
        yield counter
    finally:
        LISTENING.remove(counter)


@cache
def _hook() -> None:
    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if LISTENING and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            for counter in LISTENING:
                counter[path] += 1

    sys.addaudithook(hear)


@contextmanager
def all_opens(*folders: Path) -> Iterator[Counter[str]]:
    """How often any process opens each file that lies in these folders, once it is over."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_CLOEXEC)
    where = {
        libc.inotify_add_watch(handle, os.fsencode(folder), IN_OPEN | IN_CLOSE): folder
        for folder in folders
    }
    assert handle >= 0
    assert min(where) >= 0
    counter: Counter[str] = Counter()
    over = threading.Event()
    thread = threading.Thread(target=_drain, args=(handle, where, counter, over))
    thread.start()  # two equal events that wait become one
    try:
        yield counter
    finally:
        over.set()
        thread.join()
        os.close(handle)


def _drain(
    handle: int, where: dict[int, Path], counter: Counter[str], over: threading.Event
) -> None:
    while True:
        ready, _, _ = select.select([handle], [], [], 0.05)
        if not ready:
            if over.is_set():
                return
            continue
        data, start = os.read(handle, 1 << 16), 0
        while start < len(data):
            watch, mask, _, length = struct.unpack_from("iIII", data, start)
            name = data[start + 16 : start + 16 + length].rstrip(b"\0")
            start += 16 + length
            if mask & IN_OPEN and watch in where:
                counter[str(where[watch] / os.fsdecode(name))] += 1
