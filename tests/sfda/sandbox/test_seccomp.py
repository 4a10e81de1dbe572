"""The filter of system calls, as a program that is run here, and in processes that it holds."""

from __future__ import annotations

import errno
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from sfda.sandbox import seccomp
from sfda.sandbox.seccomp import ALLOW, AUDIT, BY_ARGUMENT, CALLS, ERRNO, KILL, program

needs = pytest.mark.skipif(not seccomp.available(), reason="this kernel filters no system calls")
REFUSED = ERRNO | errno.EPERM


def answer(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """What the filter says to a call: classic BPF, as far as it is used."""
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, audit or AUDIT[machine], 0, *words)
    code = list(struct.iter_unpack("=HBBI", program(machine)))
    at, held = 0, 0
    while True:
        kind, yes, no, value = code[at]
        at += 1
        match kind:
            case seccomp.LOAD:
                (held,) = struct.unpack_from("=I", data, value)
            case seccomp.EQUAL:
                at += yes if held == value else no
            case seccomp.AND:
                held &= value
            case seccomp.BITS:
                at += yes if held & value else no
            case seccomp.RETURN:
                return int(value)


@pytest.mark.parametrize("machine", list(AUDIT))
def test_every_call_of_the_list_is_refused_and_what_work_needs_is_not(machine):
    column = list(AUDIT).index(machine)
    for name, numbers in CALLS.items():
        if numbers[column] is not None:
            assert answer(machine, numbers[column]) == REFUSED, name
    for name, numbers in {"read": (0, 63), "openat": (257, 56), "futex": (202, 98)}.items():
        assert answer(machine, numbers[column]) == ALLOW, name
    assert answer(machine, 0, audit=0x40000003) == KILL, "calls of 32-bit programs"
    clone = seccomp.CLONE[column]
    assert answer(machine, clone, 0x3D0F00) == ALLOW, "a thread"
    assert answer(machine, clone, 0x10000000) == REFUSED, "a user namespace"
    for name, unseen in seccomp.IN_MEMORY.items():
        assert answer(machine, unseen[column]) == ERRNO | errno.ENOSYS, name


@pytest.mark.parametrize("machine", list(AUDIT))
def test_no_file_is_made_that_runs_as_another_user(machine):
    for name, (numbers, word) in seccomp.MODES.items():
        number = numbers[list(AUDIT).index(machine)]
        for mode in (0o4755, 0o2600, 0o6777, 0o600, 0o1777):
            arguments = [0x41] * (word // 2) + [mode]
            refused = number is not None and mode & 0o6000
            expected = REFUSED if refused else ALLOW
            if number is not None:
                assert answer(machine, number, *arguments) == expected, (name, oct(mode))


# of ioctl, by linux/fs.h, linux/fsverity.h, linux/fscrypt.h, linux/msdos_fs.h, asm/ioctls.h
REQUESTS = {
    **{"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C, "FIOSETOWN": 0x8901, "SIOCSPGRP": 0x8902},
    **{"FS_IOC_SETFLAGS": 0x40086602, "FS_IOC32_SETFLAGS": 0x40046602},
    **{"FS_IOC_FSSETXATTR": 0x401C5820, "FS_IOC_SETVERSION": 0x40087602},
    **{"EXT4_IOC_SETVERSION": 0x40086604, "FS_IOC_ENABLE_VERITY": 0x40806685},
    **{"FS_IOC_SET_ENCRYPTION_POLICY": 0x800C6613, "FAT_IOCTL_SET_ATTRIBUTES": 0x40047211},
    "BTRFS_IOC_SUBVOL_CREATE": 0x5000940E,
}
USED = {"TCGETS": 0x5401, "FIONREAD": 0x541B, "FICLONE": 0x40049409, "of a GPU": 0xC00846D6}


@pytest.mark.parametrize("machine", list(AUDIT))
def test_requests_that_change_files_or_type_are_refused_and_those_that_work_needs_are_not(machine):
    ioctl = seccomp.IOCTL[list(AUDIT).index(machine)]
    for name, request in REQUESTS.items():
        assert answer(machine, ioctl, 0, request) == REFUSED, name
        assert answer(machine, ioctl, 0, 1 << 32 | request) == REFUSED, f"{name}, upper half"
    for name, request in USED.items():
        assert answer(machine, ioctl, 0, request) == ALLOW, name


@pytest.mark.parametrize("machine", list(AUDIT))
@pytest.mark.parametrize(
    ("name", "refused", "allowed"),
    [
        ("prctl", (1, 0), (15,)),
        ("prctl", (4, 1), (15,)),
        ("fcntl", (3, 1026, 0), (3, 3)),
        ("sendto", (3, 0, 1, 0, 0x7F0000001000, 16), (3, 0, 1, 0, 0, 0)),
        ("sendto", (3, 0, 1, 0, 0x7F0000000000, 16), (3, 0, 1, 0, 0, 0)),
        ("prlimit64", (1234,), (0,)),
        ("sched_setscheduler", (1234,), (0,)),
        ("sched_setattr", (1234,), (0,)),
        ("setpriority", (0, 1234), (0, 0)),
        ("setpriority", (2, 0), (0, 0)),
        ("ioprio_set", (1, 1234), (1, 0)),
        ("ioprio_set", (3, 0), (1, 0)),
    ],
)
def test_some_calls_are_refused_by_an_argument(machine, name, refused, allowed):
    number = BY_ARGUMENT[name].numbers[list(AUDIT).index(machine)]
    assert answer(machine, number, *refused) == REFUSED
    assert answer(machine, number, *allowed) == ALLOW


HEADERS = {  # the machine's own, and those of 64-bit Arm, which every machine may have
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), r"__NR_(\w+)\s+(\d+)"),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"), r"__NR(?:3264)?_(\w+)\s+(\d+)"),
}


@pytest.mark.parametrize("machine", list(AUDIT))
def test_numbers_are_those_of_the_machines_headers(machine):
    header, pattern = HEADERS[machine]
    if not header.is_file():
        pytest.skip(f"no {header}")
    known = {name: int(number) for name, number in re.findall(pattern, header.read_text())}
    column = list(AUDIT).index(machine)
    ours = {name: numbers[column] for name, numbers in CALLS.items()}
    ours |= {name.partition(",")[0]: rule.numbers[column] for name, rule in BY_ARGUMENT.items()}
    ours |= {"clone": seccomp.CLONE[column], "ioctl": seccomp.IOCTL[column]}
    ours |= {name: numbers[column] for name, numbers in seccomp.IN_MEMORY.items()}
    ours |= {name: numbers[column] for name, (numbers, _) in seccomp.MODES.items()}
    assert {name for name in ours if name in known} >= {"socket", "execveat", "prctl", "ioctl"}
    newest = max(known.values())  # headers may be older than the list
    for name, number in ours.items():
        assert known.get(name) == number or (name not in known and (number or 999) > newest), name


def test_calls_that_pass_by_the_numbers_of_x32_are_refused():
    assert answer("x86_64", 0x40000000 + 41) == REFUSED


@needs
@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_UNIX)",
        "os.execv('/bin/true', ['true'])",
        "import subprocess; subprocess.run(['/bin/true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.chmod(sys.argv[1], 0o600)",
        "os.utime(sys.argv[1])",
        "os.setxattr(sys.argv[1], 'user.x', b'x')",
        "os.open(sys.argv[1] + '.other', os.O_CREAT | os.O_WRONLY, 0o6777)",
        "os.chroot('/')",
        "os.mkfifo(sys.argv[1] + '.pipe')",
        "import resource; resource.prlimit(os.getppid(), resource.RLIMIT_CORE)",
    ],
)
@pytest.mark.parametrize("where", ["here", "in a child", "in a thread"])
def test_what_is_refused_fails_there_and_in_what_it_starts(tmp_path, code, where):
    file = tmp_path / "file"
    file.touch()
    body = f"import os, sys\ntry:\n  {code}\n  print('open')\n"
    body += "except PermissionError:\n  print('refused')"
    outer = {
        "here": "exec(body)",
        "in a child": "os.fork() or (exec(body), sys.stdout.flush(), os._exit(0)); os.wait()",
        "in a thread": "import threading; t = threading.Thread(target=exec, args=(body,)); "
        "t.start(); t.join()",
    }[where]
    script = "import os, sys\nfrom sfda.sandbox import seccomp\nseccomp.refuse_calls()\n"
    script += f"body = {body!r}\n{outer}"
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "refused\n", done.stderr


@needs
def test_processes_threads_and_pairs_of_sockets_stay():
    code = """
import multiprocessing, socket, threading
from sfda.sandbox import seccomp
seccomp.refuse_calls()
socket.socketpair()
queue = multiprocessing.get_context("fork").Queue()
process = multiprocessing.get_context("fork").Process(target=queue.put, args=("x" * 100000,))
process.start(); print(len(queue.get())); process.join()
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "100000\nthread\n", done.stderr
