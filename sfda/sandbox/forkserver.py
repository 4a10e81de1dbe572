"""A copy of this process, made before it knows anything, from which adapting processes are made.

Importing torch takes seconds. The copy has done that once, together with this process, and has read
nothing yet; each adaptation is a copy of it that then restricts itself (`sfda.sandbox.process`).
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from sfda.sandbox.environment import forget_others
from sfda.sandbox.leftovers import end_group

DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
LONGEST_REQUEST = 4096  # bytes of a message on the line
Main = Callable[
    [int, int], None
]  # of the pipes that it reads its order from and writes its messages into


class Child:
    """An adapting process, and the way to learn how it ended."""

    def __init__(self, pid: int, ended: int, answer: Callable[[], int | None]) -> None:
        self.pid = pid
        self.ended = ended  # a descriptor that can be read once it has ended, with all of its group
        self._answer = answer
        self.code: int | None = None

    def wait(self) -> int:
        """Its exit code; that of a killed one where the copy is gone."""
        if self.code is None:
            answer = self._answer()
            self.code = -signal.SIGKILL if answer is None else answer
        return self.code


class OwnGroup:
    """A process that was made without a forkserver, and what it has started; once it has ended, all
    of it has.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid, self._process = process.pid, process
        self.ended, self._end = os.pipe()
        self._thread = threading.Thread(target=self._attend, name="sandbox-end", daemon=True)
        self._thread.start()

    def _attend(self) -> None:
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            end_group(self.pid)  # before its number can be another's
        os.write(self._end, b"x")

    def wait(self) -> int:
        """Its exit code."""
        self._thread.join()
        return self._process.wait()

    def close(self) -> None:
        """Kill all that still lives."""
        if self._process.returncode is None:
            end_group(self.pid)
            self.wait()
        os.close(self.ended)
        os.close(self._end)


class Forkserver:
    """The copy, and the line to it. One adaptation at a time."""

    def __init__(self, line: socket.socket, copy: int) -> None:
        self._line, self._copy, self._number = line, copy, 0
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
        try:
            self._number += 1
            pid = self._ask("pid", [order, messages, errors], scratch=scratch)
            if pid is None:
                yield None
                return
            child = Child(pid, self._line.fileno(), lambda: self._ask("code"))
            try:
                yield child
            finally:
                if child.code is None:
                    child.code = self._ask("code", [], kill=True)
        finally:
            self._lock.release()

    def _ask(self, name: str, files: Sequence[int] = (), **request: object) -> int | None:
        """What the copy says of the present process, asked for it or not; None where it is gone.

        After an exchange that was not carried through it is let go: what it says later would be
        taken for an answer to something else.
        """
        whole = False
        try:
            if request:
                words = json.dumps({"number": self._number, **request}).encode()
                socket.send_fds(self._line, [words], files)
            reply = json.loads(self._line.recv(LONGEST_REQUEST))
            answer = int(reply[name]) if reply["number"] == self._number else None
            whole = answer is not None
            return answer
        except (OSError, ValueError, KeyError, TypeError):
            return None
        finally:
            if not whole:
                self._let_go()

    def _let_go(self) -> None:
        """Cut the line: the copy ends what it has made, and itself."""
        if self in _servers:
            _servers.remove(self)
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        with suppress(ChildProcessError):
            os.waitpid(self._copy, 0)


_servers: list[Forkserver] = []


def current() -> Forkserver | None:
    """The forkserver of this process, if it has one."""
    return _servers[0] if _servers else None


def start(main: Main, *preload: str) -> None:
    """Make the forkserver, in a process that has neither threads nor anything loaded yet.

    The modules `preload` are loaded in both, once: this process needs them too.
    """
    early = not {"torch", "prefect", "mlflow"} & set(sys.modules)
    if not early or threading.active_count() > 1 or _servers or sys.platform != "linux":
        return
    if not _watches_processes():
        return
    for module in preload:
        importlib.import_module(module)

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    parent, copy = os.getpid(), os.fork()
    if copy == 0:
        ours.close()
        _attend(theirs, main, parent)
    theirs.close()
    _servers.append(Forkserver(ours, copy))


def _watches_processes() -> bool:
    """Whether the end of a process can be waited for together with other things."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


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
        forget_others()
        while True:
            words, files, _, _ = socket.recv_fds(line, LONGEST_REQUEST, 3)
            if not words:
                os._exit(0)
            request = json.loads(words)
            if "kill" in request:  # it has ended in the meantime
                continue
            pid = os.fork()
            if pid == 0:
                _begin(request, files, line, main)
            os.setpgid(pid, pid)  # with all that it starts, which cannot leave this group
            for file in files:
                os.close(file)
            _reply(line, number=request["number"], pid=pid)
            _wait(line, pid)
            end_group(pid)  # before its number can be another's
            _, status = os.waitpid(pid, 0)
            _reply(line, number=request["number"], code=os.waitstatus_to_exitcode(status))
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


def _wait(line: socket.socket, pid: int) -> None:
    """Until a process has ended, or the parent wants that, or has ended itself."""
    handle = os.pidfd_open(pid)
    poll = select.poll()
    for number in (handle, line.fileno()):
        poll.register(number, select.POLLIN)
    if handle not in dict(poll.poll()):
        line.recv(LONGEST_REQUEST)
    os.close(handle)


def _reply(line: socket.socket, **reply: int) -> None:
    line.sendall(json.dumps(reply).encode())
