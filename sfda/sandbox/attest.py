"""The ways out of a restricted process, each tried by that very process.

A probe does what an attacker would, harmlessly: where the kernel refuses, it raises. Nothing is
concluded from what was asked of the kernel; only from what it answered.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sfda.sandbox.environment import is_passed
from sfda.sandbox.seccomp import AUDIT, CALLS, TERMINAL

REFUSED, OPEN, NOT_HERE = "refused", "open: ", "not enforceable here: "
NO_WAY = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
Baits = Mapping[str, Any]


class Way(NamedTuple):
    """A way out, and what closes it."""

    attempt: Callable[[Baits], object]  # raises OSError where it is closed
    by: str  # "files", "calls", "signals", "memory", "capabilities" or "bounding set"
    network: bool = False


class _Unknown(Exception):
    """The number of a call is not known for this machine, so it was not tried."""


def ways_out(baits: Baits, missing: Mapping[str, str]) -> dict[str, str]:
    """Of every way whether it was refused, is open, or cannot be closed on this machine.

    `missing` says why a kind of protection, named as `Way.by`, is not to be had here.
    """
    return {name: _tried(way, baits, missing) for name, way in WAYS.items()}


def still_open(ways: Mapping[str, str]) -> list[str]:
    """Those ways that should have been closed and are not."""
    return [
        f"{name} ({answer.removeprefix(OPEN)})"
        for name, answer in ways.items()
        if answer.startswith(OPEN)
    ]


def _tried(way: Way, baits: Baits, missing: Mapping[str, str]) -> str:
    try:
        answer = way.attempt(baits)
    except _Unknown as error:
        return f"{NOT_HERE}{error}"
    except OSError as error:
        if error.errno in NO_WAY:
            return REFUSED
        answer = error
    if way.by in missing:
        return NOT_HERE + missing[way.by]
    return OPEN + (str(answer) if answer else "it was not refused")


def _call(name: str, *arguments: int | ctypes.Array[ctypes.c_size_t]) -> None:
    """A system call by its number. One that this machine lacks counts as refused.

    Raises OSError, _Unknown where its number is not known.
    """
    machine = os.uname().machine
    if machine not in AUDIT:
        raise _Unknown(f"the number of {name} is not known on {machine}")
    number = CALLS[name][list(AUDIT).index(machine)]
    if number is None:
        raise OSError(errno.ENOSYS, name)
    libc = ctypes.CDLL(None, use_errno=True)
    words = (ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)
    if libc.syscall(ctypes.c_long(number), *words) < 0:
        raise OSError(ctypes.get_errno(), name)


def _link(baits: Baits) -> None:
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "link")
        link.symlink_to(baits["file"])
        link.read_bytes()


def _of_process(name: str) -> Callable[[Baits], None]:
    def look(baits: Baits) -> None:
        Path(f"/proc/{baits['process']}/{name}").read_bytes()

    return look


def _root_of_process(baits: Baits) -> None:
    Path(f"/proc/{baits['process']}/root", str(baits["file"]).lstrip("/")).read_bytes()


def _connect(family: int, kind: int, protocol: int, address: str) -> Callable[[Baits], None]:
    def connect(baits: Baits) -> None:
        to = ("127.0.0.1", baits["port"]) if address == "port" else baits[address]
        with socket.socket(family, kind, protocol) as line:
            line.settimeout(1)
            line.connect(to)

    return connect


def _fast_open(baits: Baits) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as line:
        line.settimeout(1)
        line.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", baits["port"]))


def _datagram(baits: Baits) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.sendto(b"x", ("127.0.0.1", baits["port"]))


def _socket(family: int, kind: int, protocol: int = 0) -> Callable[[Baits], None]:
    return lambda _: socket.socket(family, kind, protocol).close()


def _memory(baits: Baits) -> None:
    if baits["memory"] is None:
        raise OSError(errno.EACCES, "the parent cannot write there either")
    try:
        Path(baits["memory"]).read_bytes()
    except FileNotFoundError:
        raise OSError(errno.EACCES, "another folder lies there") from None


def _metadata(change: Callable[[str], object]) -> Callable[[Baits], None]:
    def attempt(_: Baits) -> None:
        with tempfile.NamedTemporaryFile() as file:
            change(file.name)

    return attempt


def _umask(_: Baits) -> None:
    """By its number: the C library believes that this call never fails."""
    now = Path("/proc/self/status").read_text().partition("Umask:\t")[2].split()[0]
    _call("umask", int(now, 8))


def _program(_: Baits) -> None:
    child = os.fork()
    if child == 0:
        try:
            os.execv(sys.executable, [sys.executable, "-S", "-c", ""])
        except OSError as error:
            os._exit(error.errno or 255)
        finally:
            os._exit(255)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, sys.executable)


def _other_memory(baits: Baits) -> None:
    buffer = ctypes.create_string_buffer(8)
    part = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    _call("process_vm_readv", baits["process"], part, 1, part, 1, 0)


def _environment(_: Baits) -> str:
    entries: list[bytes] = []
    with suppress(PermissionError):  # then it holds nothing that could be read
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    names = {entry.partition(b"=")[0].decode(errors="replace") for entry in entries}
    others = sorted(name for name in {*names, *os.environ} if name and not is_passed(name))
    if not others:
        raise OSError(errno.EACCES, "nothing there")
    return f"it holds {', '.join(others)}"


def _capability_sets() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split(":\t") for line in lines if line.startswith("Cap"))
    return {name: int(value, 16) for name, value in pairs}


def _capabilities(_: Baits) -> str:
    held = [f"{name} {value:x}" for name, value in _capability_sets().items() if value]
    if not [entry for entry in held if not entry.startswith("CapBnd")]:
        raise OSError(errno.EACCES, "none")
    return ", ".join(held)


def _bounding_set(_: Baits) -> str:
    """What root would get back with a new program; a plain user may not drop it, and gets none."""
    if os.geteuid() or not (held := _capability_sets()["CapBnd"]):
        raise OSError(errno.EACCES, "none")
    return f"CapBnd {held:x}"


def _file_flags(_: Baits) -> None:
    """Through a descriptor that is for reading alone."""
    with tempfile.NamedTemporaryFile() as file:
        handle = os.open(file.name, os.O_RDONLY)
        try:
            flags = fcntl.ioctl(handle, GET_FLAGS, bytes(8))
            fcntl.ioctl(handle, SET_FLAGS, flags)
        finally:
            os.close(handle)


def _notices(_: Baits) -> None:
    handle = os.open(tempfile.gettempdir(), os.O_RDONLY)
    try:
        fcntl.fcntl(handle, fcntl.F_NOTIFY, 0)
    finally:
        os.close(handle)


def _priority(baits: Baits) -> None:
    now = os.getpriority(os.PRIO_PROCESS, baits["process"])
    os.setpriority(os.PRIO_PROCESS, baits["process"], now)


def _death_signal(_: Baits) -> None:
    libc, now = ctypes.CDLL(None, use_errno=True), ctypes.c_int()
    libc.prctl(GET_DEATH_SIGNAL, ctypes.byref(now), 0, 0, 0)
    if libc.prctl(SET_DEATH_SIGNAL, now.value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _core_file(_: Baits) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if not libc.prctl(GET_DUMPABLE, 0, 0, 0, 0) and libc.prctl(SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    return "what it holds is written to a file, or handed to a program, where it crashes"


SEIZE, NEW_NAMES, SESSION = 0x4206, 0x04000000, -3
GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS and its fellow
OWNED = os.O_WRONLY | os.O_CREAT
GET_DEATH_SIGNAL, SET_DEATH_SIGNAL, GET_DUMPABLE, SET_DUMPABLE = 2, 1, 3, 4  # linux/prctl.h
INET, UNIX, STREAM, MPTCP = socket.AF_INET, socket.AF_UNIX, socket.SOCK_STREAM, 262
WAYS: Mapping[str, Way] = {
    "read of a file outside": Way(lambda baits: Path(baits["file"]).read_bytes(), "files"),
    "write outside": Way(lambda baits: Path(f"{baits['file']}.new").write_bytes(b""), "files"),
    "link to a file outside": Way(_link, "files"),
    "truncation outside": Way(lambda baits: os.truncate(baits["file"], 0), "calls"),
    "watching of files": Way(lambda _: _call("inotify_init1", 0), "calls"),
    "environment of the parent": Way(_of_process("environ"), "files"),
    "command line of the parent": Way(_of_process("cmdline"), "files"),
    "root folder of the parent": Way(_root_of_process, "files"),
    "TCP connection": Way(_connect(INET, STREAM, 0, "port"), "calls", network=True),
    "TCP Fast Open": Way(_fast_open, "calls", network=True),
    "MPTCP connection": Way(_connect(INET, STREAM, MPTCP, "port"), "calls", network=True),
    "UDP datagram": Way(_datagram, "calls", network=True),
    "UNIX socket by path": Way(_connect(UNIX, STREAM, 0, "path"), "calls", network=True),
    "abstract UNIX socket": Way(_connect(UNIX, STREAM, 0, "abstract"), "calls", network=True),
    "netlink socket": Way(_socket(16, socket.SOCK_RAW), "calls", network=True),
    "raw socket": Way(_socket(INET, socket.SOCK_RAW, 1), "calls", network=True),
    "packet socket": Way(_socket(17, socket.SOCK_RAW), "calls", network=True),
    "shared memory of others": Way(_memory, "memory"),
    "System V shared memory": Way(lambda _: _call("shmget", 0, 4096, 0o600), "calls"),
    "chmod": Way(_metadata(lambda path: Path(path).chmod(0o600)), "calls"),
    "set-user-ID file": Way(
        _metadata(lambda path: os.close(os.open(path, OWNED, 0o4600))), "calls"
    ),
    "umask": Way(_umask, "calls"),
    "utime": Way(_metadata(os.utime), "calls"),
    "setxattr": Way(_metadata(lambda path: os.setxattr(path, "user.sfda", b"x")), "calls"),
    "another program": Way(_program, "files"),
    "signal to the parent": Way(lambda baits: os.kill(baits["process"], 0), "signals"),
    "leaving its group": Way(lambda _: os.setpgid(0, 0), "calls"),
    "ptrace of the parent": Way(
        lambda baits: _call("ptrace", SEIZE, baits["process"], 0, 0), "calls"
    ),
    "memory of the parent": Way(_other_memory, "calls"),
    "typing into the terminal": Way(lambda _: fcntl.ioctl(0, TERMINAL[0], b"\0"), "calls"),
    "flags of a file": Way(_file_flags, "calls"),
    "notices of a folder": Way(_notices, "calls"),
    "core file": Way(_core_file, "calls"),
    "another death signal": Way(_death_signal, "calls"),
    "priority of the parent": Way(_priority, "calls"),
    "mount": Way(lambda _: _call("mount", 0, 0, 0, 0, 0), "calls"),
    "chroot": Way(lambda _: os.chroot("/"), "calls"),
    "new namespace": Way(lambda _: _call("unshare", NEW_NAMES), "calls"),
    "bpf": Way(lambda _: _call("bpf", 0, 0, 0), "calls"),
    "io_uring": Way(lambda _: _call("io_uring_setup", 1, 0), "calls"),
    "keys of the kernel": Way(lambda _: _call("keyctl", 0, SESSION, 0), "calls"),
    "variables of the environment": Way(_environment, "environment"),
    "capabilities": Way(_capabilities, "capabilities"),
    "bounding set": Way(_bounding_set, "bounding set"),
}
NETWORK = tuple(name for name, way in WAYS.items() if way.network)
