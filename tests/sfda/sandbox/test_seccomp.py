"""The filter of system calls, as a program that is run here, and in processes that it holds."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys

import pytest

from sfda.sandbox import seccomp
from sfda.sandbox.seccomp import ALLOW, AUDIT, CALLS, ERRNO, KILL, program

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
    clone, clone3 = seccomp.CLONE[column], seccomp.CLONE3[column]
    assert answer(machine, clone, 0x3D0F00) == ALLOW, "a thread"
    assert answer(machine, clone, 0x10000000) == REFUSED, "a user namespace"
    assert answer(machine, clone3) == ERRNO | errno.ENOSYS
    ioctl, limits = seccomp.IOCTL[column], seccomp.LIMITS[column]
    assert answer(machine, ioctl, 0, 0x5401) == ALLOW
    assert [answer(machine, ioctl, 0, request) for request in seccomp.TERMINAL] == [REFUSED] * 2
    assert answer(machine, limits, 0) == ALLOW
    assert answer(machine, limits, 1234) == REFUSED, "limits of another process"


def test_calls_that_pass_by_the_numbers_of_x32_are_refused():
    assert answer("x86_64", 0x40000000 + 41) == REFUSED


def test_work_may_be_excepted():
    numbers = {name: struct.pack("=HBBI", seccomp.EQUAL, 0, 1, CALLS[name][0]) for name in CALLS}
    code = program("x86_64", allowed=frozenset({"execve"}))
    assert [name for name, part in numbers.items() if part not in code] == ["execve"]


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
