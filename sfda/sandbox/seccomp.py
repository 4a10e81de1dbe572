"""A filter of system calls for the rest of a process's life, through Linux's seccomp.

What Landlock does not cover is refused here with EPERM: sockets of every family, new programs,
other processes' memory, metadata of files, mounts and namespaces, and the kernel's less used doors.
The filter is a program of classic BPF, handed over with `prctl`; what starts later inherits it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from sfda.sandbox.leftovers import AS_ANOTHER

# linux/prctl.h, linux/seccomp.h
NO_NEW_PRIVILEGES, GET_SECCOMP, SET_SECCOMP, MODE_FILTER = 38, 21, 22, 2
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
# linux/bpf_common.h: load a word of seccomp_data, jump if equal / if bits are set, return, and
LOAD, EQUAL, BITS, RETURN, AND = 0x20, 0x15, 0x45, 0x06, 0x54
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
X32 = 0x40000000  # calls of the x32 ABI, which would pass by other numbers
NAMESPACES = 0x7E020080  # CLONE_NEW*: time, mount, cgroup, uts, ipc, user, pid, net

AUDIT = MappingProxyType({"x86_64": 0xC000003E, "aarch64": 0xC00000B7})
# asm/unistd_64.h of x86-64 and asm-generic/unistd.h of 64-bit Arm; None where a call is not there
CALLS: Mapping[str, tuple[int | None, int | None]] = MappingProxyType(
    {
        # the network; a pair of connected sockets stays, for loaders: no descriptor passes it
        "socket": (41, 198),
        "connect": (42, 203),
        "bind": (49, 200),
        "listen": (50, 201),
        "accept": (43, 202),
        "accept4": (288, 242),
        "sendmsg": (46, 211),
        "sendmmsg": (307, 269),
        "recvmsg": (47, 212),
        "recvmmsg": (299, 243),
        # other programs, and other processes
        "execve": (59, 221),
        "execveat": (322, 281),
        "ptrace": (101, 117),
        "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271),
        "process_madvise": (440, 440),
        "pidfd_getfd": (438, 438),
        "process_mrelease": (448, 448),
        "kcmp": (312, 272),
        "setpgid": (109, 154),  # what it starts stays in its group, and ends with it
        "setsid": (112, 157),
        # metadata of files, which Landlock leaves alone
        "chmod": (90, None),
        "fchmod": (91, 52),
        "fchmodat": (268, 53),
        "fchmodat2": (452, 452),
        "chown": (92, None),
        "fchown": (93, 55),
        "lchown": (94, None),
        "fchownat": (260, 54),
        "umask": (95, 166),  # of what it leaves
        "utime": (132, None),
        "utimes": (235, None),
        "futimesat": (261, None),
        "utimensat": (280, 88),
        "setxattr": (188, 5),
        "lsetxattr": (189, 6),
        "fsetxattr": (190, 7),
        "setxattrat": (463, 463),
        "removexattr": (197, 14),
        "lremovexattr": (198, 15),
        "fremovexattr": (199, 16),
        "removexattrat": (466, 466),
        "file_setattr": (469, 469),
        "getxattr": (191, 8),  # and what was noted there, which may be secret
        "lgetxattr": (192, 9),
        "fgetxattr": (193, 10),
        "getxattrat": (464, 464),
        "listxattr": (194, 11),
        "llistxattr": (195, 12),
        "flistxattr": (196, 13),
        "listxattrat": (465, 465),
        "file_getattr": (468, 468),
        "truncate": (76, 45),  # by path; Landlock knows it from ABI 3 on
        # who opens what where
        "inotify_init": (253, None),
        "inotify_init1": (294, 26),
        "inotify_add_watch": (254, 27),
        # mounts, roots and namespaces
        "mount": (165, 40),
        "umount2": (166, 39),
        "pivot_root": (155, 41),
        "chroot": (161, 51),
        "unshare": (272, 97),
        "setns": (308, 268),
        "fsopen": (430, 430),
        "fsconfig": (431, 431),
        "fsmount": (432, 432),
        "fspick": (433, 433),
        "move_mount": (429, 429),
        "open_tree": (428, 428),
        "open_tree_attr": (467, 467),
        "mount_setattr": (442, 442),
        "listmount": (458, 458),
        "statmount": (457, 457),
        "open_by_handle_at": (304, 265),
        "name_to_handle_at": (303, 264),
        "mknod": (133, None),
        "mknodat": (259, 33),
        # the kernel itself
        "bpf": (321, 280),
        "io_uring_setup": (425, 425),
        "io_uring_enter": (426, 426),
        "io_uring_register": (427, 427),
        "perf_event_open": (298, 241),
        "userfaultfd": (323, 282),
        "fanotify_init": (300, 262),
        "add_key": (248, 217),
        "request_key": (249, 218),
        "keyctl": (250, 219),
        "init_module": (175, 105),
        "finit_module": (313, 273),
        "delete_module": (176, 106),
        "kexec_load": (246, 104),
        "kexec_file_load": (320, 294),
        "swapon": (167, 224),
        "swapoff": (168, 225),
        "reboot": (169, 142),
        "sethostname": (170, 161),
        "setdomainname": (171, 162),
        "settimeofday": (164, 170),
        "clock_settime": (227, 112),
        "adjtimex": (159, 171),
        "clock_adjtime": (305, 266),
        "iopl": (172, None),
        "ioperm": (173, None),
        "acct": (163, 89),
        "quotactl": (179, 60),
        "quotactl_fd": (443, 443),
        "syslog": (103, 116),
        "personality": (135, 92),
        "lsm_set_self_attr": (460, 460),
        **{"vhangup": (153, 58), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42)},
        **{"modify_ldt": (154, None), "sysfs": (139, None), "uselib": (134, None)},
        "ustat": (136, None),
        # memory and queues that strangers can reach by a number or a name
        "shmget": (29, 194),
        "shmat": (30, 196),
        "shmctl": (31, 195),
        "semget": (64, 190),
        "semop": (65, 193),
        "semtimedop": (220, 192),
        "semctl": (66, 191),
        "msgget": (68, 186),
        "msgsnd": (69, 189),
        "msgrcv": (70, 188),
        "msgctl": (71, 187),
        "mq_open": (240, 180),
        "mq_unlink": (241, 181),
    }
)
CLONE, IOCTL = (56, 220), (16, 29)
# their arguments lie in memory, where no filter sees them: libraries take an older call instead
IN_MEMORY = MappingProxyType({"clone3": (435, 435), "openat2": (437, 437)})
# calls that make files, and which half argument is the mode: none runs as its owner or group
MODES = MappingProxyType(
    {"open": ((2, None), 4), "creat": ((85, None), 2), "openat": ((257, 56), 6)}
)
TERMINAL = (0x5412, 0x541C)  # TIOCSTI types into a terminal's shell, TIOCLINUX pastes there
OWNERS = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP: who gets a socket's signals
# families of requests that change files through a descriptor for reading: flags and versions
# (FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, FS_IOC_SETVERSION), verity, encryption; of FAT and btrfs too
FILE_FAMILIES = (0x6600, 0x5800, 0x7600, 0x7200, 0x9400)
CLONES = (0x40049409, 0x4020940D)  # FICLONE, FICLONERANGE: they need a descriptor for writing


class Argument(NamedTuple):
    """A call that is refused by one of its arguments."""

    numbers: tuple[int, int]  # as in CALLS
    word: int  # of 32 bits, two an argument, the lower half first
    values: tuple[int, ...]
    allowed: bool  # whether these values are allowed, and no others; else they are refused


# the calls whose first argument is a process are for the one that asks alone, which is 0
BY_ARGUMENT: Mapping[str, Argument] = MappingProxyType(
    {
        "prctl": Argument((157, 167), 0, (1, 4), False),  # PR_SET_PDEATHSIG, PR_SET_DUMPABLE
        # F_SETLEASE, F_NOTIFY, F_SETOWN, F_SETSIG, F_SETOWN_EX: signals, also to others
        "fcntl": Argument((72, 25), 2, (1024, 1026, 8, 10, 15), False),
        "renameat2": Argument((316, 276), 8, (0, 1, 2), True),  # RENAME_WHITEOUT leaves a device
        # of a pair of sockets to its other end alone: no address
        "sendto": Argument((44, 206), 8, (0,), True),
        "sendto, upper half": Argument((44, 206), 9, (0,), True),
        "prlimit64": Argument((302, 261), 0, (0,), True),
        "sched_setparam": Argument((142, 118), 0, (0,), True),
        "sched_setscheduler": Argument((144, 119), 0, (0,), True),
        "sched_setattr": Argument((314, 274), 0, (0,), True),
        "migrate_pages": Argument((256, 238), 0, (0,), True),
        "move_pages": Argument((279, 239), 0, (0,), True),
        "setpriority": Argument((141, 140), 2, (0,), True),
        "setpriority, of a user": Argument((141, 140), 0, (2,), False),  # of all its processes
        "ioprio_set": Argument((251, 30), 2, (0,), True),
        "ioprio_set, of a user": Argument((251, 30), 0, (3,), False),
    }
)
Code = list[tuple[int, int, int, int]]
REFUSE = (RETURN, 0, 0, ERRNO | errno.EPERM)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def available() -> bool:
    """Whether this kernel filters system calls and this module knows the machine's."""
    if sys.platform != "linux" or os.uname().machine not in AUDIT:
        return False
    return int(ctypes.CDLL(None, use_errno=True).prctl(GET_SECCOMP, 0, 0, 0, 0)) >= 0


def program(machine: str) -> bytes:
    """The filter for "x86_64" or "aarch64" as instructions of 8 bytes.

    A call of another architecture ends the process. `clone3` and `openat2`, whose arguments no
    filter can see, are answered with ENOSYS: `clone` is refused for new namespaces, `openat` for
    files that run as another user. `ioctl` may not type into the terminal, nor change files that
    are open for reading; of a process nothing can be asked but by itself.
    """
    column = list(AUDIT).index(machine)
    code: Code = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, AUDIT[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
    ]
    code += [(BITS, 0, 1, X32), REFUSE]
    for numbers in CALLS.values():
        if (number := numbers[column]) is not None:
            code += [(EQUAL, 0, 1, number), REFUSE]
    for unseen in IN_MEMORY.values():
        code += [(EQUAL, 0, 1, unseen[column]), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    for numbers, word in MODES.values():
        code += _where(numbers[column], word, [(BITS, 0, 1, AS_ANOTHER), REFUSE])
    code += _where(CLONE[column], 0, [(BITS, 0, 1, NAMESPACES), REFUSE])
    code += _where(IOCTL[column], 2, _requests())
    for argument in BY_ARGUMENT.values():
        code += _where(argument.numbers[column], argument.word, _values(argument))
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _where(number: int | None, word: int, test: Code) -> Code:
    """Test half an argument of one call, if there is that; what the test lets pass goes on."""
    body = [(LOAD, 0, 0, ARGUMENTS + 4 * word), *test, (LOAD, 0, 0, NUMBER)]
    return [] if number is None else [(EQUAL, 0, len(body), number), *body]


def _values(argument: Argument) -> Code:
    """Refuse by what an argument is, or is not."""
    if argument.allowed:
        count = len(argument.values)
        return [(EQUAL, count - n, 0, value) for n, value in enumerate(argument.values)] + [REFUSE]
    return _refused(argument.values)


def _refused(values: tuple[int, ...]) -> Code:
    return [part for value in values for part in ((EQUAL, 0, 1, value), REFUSE)]


def _requests() -> Code:
    """Refuse requests of `ioctl`."""
    families = [(AND, 0, 0, 0xFF00), *_refused(FILE_FAMILIES)]
    jump = len(families) + len(CLONES) - 1  # over the families
    clones = [(EQUAL, jump - n, 0, value) for n, value in enumerate(CLONES)]
    return [*_refused((*TERMINAL, *OWNERS)), *clones, *families]


def refuse_calls() -> None:
    """Refuse the calls above for the rest of this process's life, and of all that it starts.

    Raises OSError where the kernel does not take the filter.
    """
    code = program(os.uname().machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (NO_NEW_PRIVILEGES, 1, 0, 0, 0),
        (SET_SECCOMP, MODE_FILTER, ctypes.byref(filter_), 0, 0),
    ):
        if libc.prctl(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, f"no filter of system calls: {os.strerror(number)}")
