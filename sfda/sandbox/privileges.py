"""Shared memory of its own, no capabilities and no core file, for the rest of a process's life."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SHARED_MEMORY = Path("/dev/shm")
# linux/sched.h, sys/mount.h
NEW_MOUNTS, NEW_IPC, NEW_USER = 0x00020000, 0x08000000, 0x10000000
PRIVATE, NO_SUID, NO_DEVICES, NO_EXEC = (1 << 14) | (1 << 18), 2, 4, 8
# linux/prctl.h, linux/capability.h
DROP_BOUND, AMBIENT, CLEAR_ALL, NO_NEW_PRIVILEGES, DUMPABLE = 24, 47, 4, 38, 4
CAPABILITY_VERSION, OVERRIDE_ACCESS, LAST = 0x20080522, 1, 63
_own_mounts: set[Path] = set()  # of this process, and of those that it forks


class Left(NamedTuple):
    """What of capabilities could not be given up."""

    foreign: Path | None  # a file that root reads by one of them alone: that one stays
    bounded: bool  # whether the bounding set is empty; a plain user's may not be


def has_own_memory() -> bool:
    """Whether /dev/shm is this process's own, so that nothing of it outlives the process."""
    return SHARED_MEMORY in _own_mounts


def own_shared_memory() -> str | None:
    """Mount memory of this process and its children alone as /dev/shm; or why that cannot be.

    Root does it at once; others in a user namespace of their own, where the machine allows that.
    """
    if not SHARED_MEMORY.is_dir():
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    try:
        try:
            _checked(libc.unshare(NEW_MOUNTS | NEW_IPC))
        except PermissionError:
            _checked(libc.unshare(NEW_USER | NEW_MOUNTS | NEW_IPC))
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _checked(libc.mount(b"none", b"/", None, ctypes.c_ulong(PRIVATE), None))
        flags = ctypes.c_ulong(NO_SUID | NO_DEVICES | NO_EXEC)
        target = os.fsencode(SHARED_MEMORY)
        _checked(libc.mount(b"tmpfs", target, b"tmpfs", flags, b"mode=1777"))
    except OSError as error:
        return f"no /dev/shm of its own: {error.strerror}"
    _own_mounts.add(SHARED_MEMORY)
    return None


def leave_no_core() -> None:
    """Let nothing be written of this process where it crashes. Raises OSError.

    What the kernel writes then it writes where the process could not, or hands to a program that
    keeps it, or sends it to somebody; and its content is what the process wants it to be.
    """
    _checked(ctypes.CDLL(None, use_errno=True).prctl(DUMPABLE, 0, 0, 0, 0))


def drop_capabilities(needed: Iterable[Path]) -> Left:
    """Give up all capabilities, and what could bring them back, and say what is left of them.

    Of `needed` files some may belong to others, so that root reads them by a capability alone: that
    one is kept then. Raises OSError where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    permitted = _capabilities(libc)
    _set_capabilities(libc, 0, permitted)
    foreign = next((path for path in needed if _is_denied(path)), None)
    left = permitted & (1 << OVERRIDE_ACCESS) if foreign else 0
    _set_capabilities(libc, left, permitted)
    if foreign and _is_denied(foreign):  # it does not help
        left = 0
    _set_capabilities(libc, permitted, permitted)
    bounded = True
    for number in range(LAST + 1):
        try:
            _checked(libc.prctl(DROP_BOUND, number, 0, 0, 0))
        except OSError as error:  # the kernel does not know it, or CAP_SETPCAP is not held
            bounded &= error.errno == errno.EINVAL
    with suppress(OSError):
        _checked(libc.prctl(AMBIENT, CLEAR_ALL, 0, 0, 0))
    _set_capabilities(libc, left, left)
    _checked(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    return Left(foreign if left else None, bounded)


def _is_denied(path: Path) -> bool:
    """Whether a file is there, as far as can be seen, and cannot be read."""
    try:
        os.stat(path)
    except OSError as error:  # a folder above it may be closed
        return error.errno in (errno.EACCES, errno.EPERM)
    return not os.access(path, os.R_OK, effective_ids=True)


def _header() -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION, 0), 8)


def _capabilities(libc: ctypes.CDLL) -> int:
    """Those that are permitted, a bit each."""
    data = ctypes.create_string_buffer(24)
    _checked(libc.capget(_header(), data))
    words = struct.unpack("=6I", data.raw)
    return int(words[1] | words[4] << 32)


def _set_capabilities(libc: ctypes.CDLL, effective: int, permitted: int) -> None:
    low, high = 0xFFFFFFFF, 32
    words = (effective & low, permitted & low, 0, effective >> high, permitted >> high, 0)
    data = ctypes.create_string_buffer(struct.pack("=6I", *words), 24)
    _checked(libc.capset(_header(), data))


def _checked(status: int) -> None:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
