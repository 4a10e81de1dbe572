"""Give up access to files for the rest of a process's life, through Linux's Landlock.

The kernel's interface: Documentation/userspace-api/landlock.rst. Three system calls, no privileges.
What is given up holds for all threads that start afterwards, all child processes, and root.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from enum import IntFlag
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
VERSION_FLAG, PATH_BENEATH, NO_NEW_PRIVS = 1, 1, 38
NETWORK_ABI = 4  # from here on TCP too
SCOPE_ABI, SCOPES = 6, 0b11  # from here on abstract UNIX sockets and signals to others too


class Access(IntFlag):
    """Rights of linux/landlock.h."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.READ_FILE | Access.READ_DIR  # a library is read; a program is never started
OF_FILES = Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV
# files and folders: no link, pipe, socket or device is made, on which others could stumble
WRITE = (
    READ
    | Access.WRITE_FILE
    | Access.REMOVE_DIR
    | Access.REMOVE_FILE
    | Access.MAKE_DIR
    | Access.MAKE_REG
    | Access.REFER
    | Access.TRUNCATE
)
DEVICE = OF_FILES | Access.READ_DIR
ADDED = {1: 13, 2: 14, 3: 15, 5: 16}  # ABI -> rights it knows, counted from the first


def abi() -> int:
    """The kernel's level of Landlock; 0 where there is none, or it is switched off."""
    if sys.platform != "linux":
        return 0
    level = ctypes.CDLL(None, use_errno=True).syscall(
        CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION_FLAG)
    )
    return max(int(level), 0)


def rights_at(level: int) -> Access:
    """All rights over files that this level can take away.

    >>> rights_at(1) == rights_at(1) & ~Access.REFER, Access.IOCTL_DEV in rights_at(7)
    (True, True)
    """
    count = max((n for from_, n in ADDED.items() if from_ <= level), default=0)
    return Access((1 << count) - 1)


def restrict(
    read: Iterable[Path],
    write: Iterable[Path],
    devices: Iterable[Path] = (),
) -> int:
    """From now on this process can read below `read` and read and write below `write` alone.

    `devices` are used as they are. Paths that do not exist are left out. Programs cannot be
    started. TCP, abstract UNIX sockets and signals to others are closed too, where the kernel can.
    Returns the ABI level. Raises OSError where the kernel refuses, and then nothing is given up.
    """
    level = abi()
    if level < 1:
        raise OSError("this kernel offers no Landlock")
    handled = rights_at(level)
    libc = ctypes.CDLL(None, use_errno=True)
    fields = 1 + (level >= NETWORK_ABI) + (level >= SCOPE_ABI)
    attributes = struct.pack("=QQQ", handled, 0b11, SCOPES)[: 8 * fields]
    ruleset = _checked(
        libc.syscall(
            CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)
        )
    )
    try:
        for paths, rights in (
            (read, READ),
            (write, WRITE),
            (devices, DEVICE),
        ):
            for path in paths:
                _allow(libc, ruleset, Path(path), rights & handled)
        _checked(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)
    return level


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: Access) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not path.is_dir():
            rights &= OF_FILES
        rule = struct.pack("=Qi", rights, handle)
        _checked(
            libc.syscall(ADD_RULE, ruleset, ctypes.c_int(PATH_BENEATH), rule, ctypes.c_uint32(0))
        )
    finally:
        os.close(handle)


def _checked(status: int) -> int:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return int(status)
