"""A copy of this process, made before it knows anything, from which adapting processes are made.

Importing torch takes seconds. The copy has done that once, together with this process, and has read
nothing yet; each adaptation is a copy of it that then restricts itself (`sfda.sandbox.process`).
"""

from __future__ import annotations

import ctypes
import importlib
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
Main = Callable[
    [int, int], None
]  # of the pipes that it reads its order from and writes its messages into


class Child(NamedTuple):
    """An adapting process, and the way to learn how it ended."""

    pid: int
    wait: Callable[[], int]


class Forkserver:
    """The copy, and the line to it. One adaptation at a time."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._replies = line.makefile("r")
        self._lock = threading.Lock()

    @contextmanager
    def child(self, order: int, messages: int, errors: int, scratch: str) -> Iterator[Child | None]:
        """A process that reads from the first pipe and writes to the others, of which the last is
        its stdout and stderr; None where it cannot be had.

        It is killed at the end if it still lives, and what it has started with it.
        """
        if not self._lock.acquire(blocking=False):
            yield None
            return
        pid, ended = 0, False

        def wait() -> int:
            nonlocal ended
            ended = True
            reply = self._replies.readline()
            return int(json.loads(reply)["code"]) if reply else -signal.SIGKILL  # the copy is gone

        try:
            try:
                request = json.dumps({"scratch": scratch}).encode()
                socket.send_fds(self._line, [request], [order, messages, errors])
                pid = int(json.loads(self._replies.readline())["pid"])
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


_servers: list[Forkserver] = []


def current() -> Forkserver | None:
    """The forkserver of this process, if it has one."""
    return _servers[0] if _servers else None


def start(main: Main, preload: str) -> None:
    """Make the forkserver, in a process that has neither threads nor anything loaded yet.

    The module `preload` is loaded in both: this process needs it too.
    """
    early = not {"torch", "prefect", "mlflow"} & set(sys.modules)
    if not early or threading.active_count() > 1 or _servers or sys.platform != "linux":
        return
    importlib.import_module(preload)

    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        ours.close()
        _attend(theirs, main, os.getppid())
    theirs.close()
    _servers.append(Forkserver(ours))


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
            request, files, _, _ = socket.recv_fds(line, 4096, 3)
            if not request:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                _begin(json.loads(request), files, line, main)
            os.setpgid(pid, pid)  # with all that it starts, which cannot leave this group
            for file in files:
                os.close(file)
            _reply(line, pid=pid)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            end_group(pid)  # before its number can be another's
            _, status = os.waitpid(pid, 0)
            _reply(line, code=os.waitstatus_to_exitcode(status))
    except BaseException:
        os._exit(1)


def _begin(request: dict[str, Any], files: list[int], line: socket.socket, main: Main) -> NoReturn:
    """The adapting process."""
    try:
        line.close()
        os.setpgid(0, 0)  # whoever comes first
        for stream in (1, 2):
            os.dup2(files[2], stream)
        os.close(files[2])
        os.environ["TMPDIR"] = request["scratch"]
        tempfile.tempdir = None  # it was looked up before
        sys.path[:] = filter(None, sys.path)  # no module of the working directory
        main(files[0], files[1])
    except BaseException:
        os._exit(1)
    os._exit(0)


def end_group(pid: int) -> None:
    """Kill a process and all that it has started, which stays in the group of its number."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _reply(line: socket.socket, **reply: int) -> None:
    line.sendall(json.dumps(reply).encode() + b"\n")
