"""A copy of this process, made before it knows anything, from which adapting processes are made.

Importing torch takes seconds. The copy has done that once, together with this process, and has read
nothing yet; each adaptation is a copy of it that then restricts itself (`sfda.sandbox.process`).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, NoReturn

DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
Main = Callable[[int, int], None]  # of the pipes that it reads its order from and answers into


class Child(NamedTuple):
    """An adapting process, and the way to learn how it ended."""

    pid: int
    wait: Callable[[], int]


class Nursery:
    """The copy, and the line to it. One adaptation at a time."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._words = line.makefile("r")
        self._lock = threading.Lock()

    @contextmanager
    def child(self, order: int, words: int, scratch: str) -> Iterator[Child | None]:
        """A process that reads from one pipe and writes to the other; None where it cannot be had.

        It is killed at the end if it still lives.
        """
        if not self._lock.acquire(blocking=False):
            yield None
            return
        pid, ended = 0, False

        def wait() -> int:
            nonlocal ended
            ended = True
            said = self._words.readline()
            return int(json.loads(said)["code"]) if said else -signal.SIGKILL  # the copy is gone

        try:
            try:
                told = json.dumps({"scratch": scratch}).encode()
                socket.send_fds(self._line, [told], [order, words])
                pid = int(json.loads(self._words.readline())["pid"])
            except (OSError, ValueError):  # the copy is gone
                yield None
                return
            try:
                yield Child(pid, wait)
            finally:
                if not ended:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    wait()
        finally:
            self._lock.release()


_made: list[Nursery] = []


def found() -> Nursery | None:
    """The nursery of this process, if it has one."""
    return _made[0] if _made else None


def prepare(main: Main) -> None:
    """Make the nursery, in a process that has neither threads nor anything loaded yet."""
    early = not {"torch", "prefect", "mlflow"} & set(sys.modules)
    if not early or threading.active_count() > 1 or _made or sys.platform != "linux":
        return
    import sfda.adaptation.worker  # noqa: F401  both processes need it

    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        ours.close()
        _attend(theirs, main, os.getppid())
    theirs.close()
    _made.append(Nursery(ours))


def _attend(line: socket.socket, main: Main, parent: int) -> NoReturn:
    """Make a process for each order until the line is cut."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
        for sign in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
        os.dup2(2, 1)
        os.closerange(3, line.fileno())
        os.closerange(line.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        while True:
            told, files, _, _ = socket.recv_fds(line, 4096, 2)
            if not told:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                _begin(json.loads(told), files, line, main)
            for file in files:
                os.close(file)
            _say(line, pid=pid)
            _, status = os.waitpid(pid, 0)
            _say(line, code=os.waitstatus_to_exitcode(status))
    except BaseException:
        os._exit(1)


def _begin(told: dict[str, Any], files: list[int], line: socket.socket, main: Main) -> NoReturn:
    """The adapting process."""
    try:
        line.close()
        os.environ["TMPDIR"] = told["scratch"]
        tempfile.tempdir = None  # it was looked up before
        sys.path[:] = [place for place in sys.path if place]  # no module of the working directory
        main(files[0], files[1])
    except BaseException:
        os._exit(1)
    os._exit(0)


def _say(line: socket.socket, **told: int) -> None:
    line.sendall(json.dumps(told).encode() + b"\n")
