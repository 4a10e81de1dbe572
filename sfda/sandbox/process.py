"""A process that gives up access to all but what its work needs, before it loads anything heavy.

It is a copy that the forkserver makes, or a Python of its own; so this module imports nothing
heavy, and knows nothing of the work but the name of its function. What the process has to say goes
through a pipe, a JSON document a line: the parent alone talks to servers.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, cast

import sfda
from sfda.errors import BadInput
from sfda.sandbox import forkserver
from sfda.sandbox.baits import baits
from sfda.sandbox.confine import Held, Limits, confine
from sfda.sandbox.environment import passed
from sfda.sandbox.forkserver import DEATH_SIGNAL
from sfda.sandbox.landlock import abi
from sfda.sandbox.leftovers import drop_identities, end_earlier, note_group, remove_tree
from sfda.sandbox.messages import (
    LONGEST_TEXT,
    Message,
    Unacceptable,
    lines_of,
    read_message,
    refused,
)
from sfda.sandbox.terminal import relayed

SWITCH = "SFDA_CONFINE"  # "off": do the work in the calling process, and say so
OWN_FACTS = (  # of /proc/self; not `net` and `task`, which show the machine's connections
    *("auxv", "cgroup", "cmdline", "comm", "exe", "fd", "fdinfo", "limits", "maps", "mountinfo"),
    *("mounts", "oom_score_adj", "smaps", "stat", "statm", "status"),
)
SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sys", "/opt/nvidia"),
    # of the process itself and of the machine, nothing of other processes or the network
    *(f"/proc/self/{name}" for name in OWN_FACTS),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/sys"),
    *("/proc/filesystems", "/proc/devices", "/proc/driver/nvidia", "/proc/uptime", "/proc/loadavg"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/timezone", "/etc/nsswitch.conf", "/etc/passwd"),
    *("/etc/group", "/etc/os-release", "/etc/mime.types", "/etc/OpenCL", "/etc/nvidia"),
)
DEVICES = (
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
    *("/dev/nvidia*", "/dev/dri", "/dev/dxg"),
)
KERNELS = "CUDA_CACHE_PATH"  # else below ~/.nv, from where later programs would load them

Send = Callable[..., None]  # one message, its parts by keyword
Work = Callable[[Message, Send], Message]  # from an order to its result


class ProcessDied(RuntimeError):
    """The process ended without a word: it was killed."""


class WorkFailed(RuntimeError):
    """The work raised something else than BadInput; the message holds its traceback."""


@dataclass(frozen=True)
class SandboxJob:
    """One piece of work, and what its process may reach."""

    work: str  # "module:function", a Work
    order: Message
    folder: Path  # which it may write to, like `devices`
    read: Sequence[Path]  # files and folders, besides those of the system
    modules: Sequence[Path] = ()  # readable folders in which modules are looked for too


class Done(NamedTuple):
    """What the work came to, and what held its process meanwhile."""

    result: Message
    held: Held


def unenforceable() -> str | None:
    """Why nothing can be enforced here, or None."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return f"{SWITCH}=off"
    if abi() < 1:
        return "this kernel offers no Landlock"
    return None


def start_forkserver(*preload: str) -> None:
    """Make jobs of this process begin at once, with the modules `preload` loaded.

    To be called before anything else is loaded; where it comes too late, or nothing can be
    enforced, it does nothing.
    """
    if unenforceable() is None:
        forkserver.start(main, *preload)


def system_paths(own: Sequence[Path] = ()) -> list[Path]:
    """The machine's libraries, Python, its packages, our own code, and folders of `own` code."""
    here = Path(sfda.__file__).parent
    folders = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
    installed = sorted(Path(folder) for folder in folders if Path(folder).is_dir())
    return [*map(Path, SYSTEM), *installed, here, *own]


def devices() -> list[Path]:
    """The devices that may be used, as far as they are there."""
    root = Path("/dev")
    return sorted(path for name in DEVICES for path in root.glob(name.removeprefix("/dev/")))


def run_job(job: SandboxJob, hear: Callable[[Message], None]) -> Done:
    """Do the work in a process of its own.

    `hear` gets each message that the work sends meanwhile. Raises BadInput as the work does,
    WorkFailed where it raises anything else, ProcessDied where the process is killed.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    if end_earlier(job.folder):
        for left in job.folder.glob("tmp.*"):
            remove_tree(left)
    scratch = Path(tempfile.mkdtemp(dir=job.folder, prefix="tmp."))
    limits = Limits(
        read=[str(path) for path in job.read],
        write=[str(job.folder)],
        devices=[str(path) for path in devices()],
    )
    try:
        with baits() as laid:
            document = {"work": job.work, "order": job.order, "limits": limits, "baits": laid}
            document["modules"] = [str(path) for path in job.modules]
            return _run(document, job.folder, scratch, hear)
    except Unacceptable as error:
        raise refused(error, job.folder) from None
    finally:
        end_earlier(job.folder)
        remove_tree(scratch)
        drop_identities(job.folder)


def _run(document: Message, folder: Path, scratch: Path, hear: Callable[[Message], None]) -> Done:
    """Start the process, hand its messages on, and return its result.

    Neither it nor anything that it has started lives on afterwards.
    """
    with ExitStack() as stack:
        (theirs, order), (messages, sent) = _pipe(stack), _pipe(stack)
        relay = stack.enter_context(relayed())
        ends = (theirs.fileno(), sent.fileno(), relay.writer)
        process = stack.enter_context(_process(*ends, scratch))
        theirs.close()
        sent.close()
        relay.close_writer()
        note_group(folder, process.pid)
        with suppress(BrokenPipeError), order:  # it is gone; what it sent is read below
            order.write(json.dumps(document).encode())
        if done := _listen(lines_of(messages.fileno(), process.ended), hear):
            return done
        code = process.wait()
    raise ProcessDied(
        f"the adapting process ended without a word (exit {code}); if the machine was short of "
        "memory, use a smaller batch: --set schedule.batch_size=..."
    )


def _pipe(stack: ExitStack) -> tuple[BinaryIO, BinaryIO]:
    """Its ends to read from and to write to, which are closed with the stack."""
    ends = [os.fdopen(end, mode) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True)]
    reader, writer = (stack.enter_context(closing(end)) for end in ends)
    return cast(BinaryIO, reader), cast(BinaryIO, writer)


def _listen(lines: Iterable[bytes], hear: Callable[[Message], None]) -> Done | None:
    """Read messages until the result; None where there is none. Raises as `run_job`.

    What held the process is its first message, of before its work: later it could say anything.
    """
    held: Held | None = None
    for line in lines:
        match read_message(line):
            case {"bad_input": str(text)}:
                raise BadInput(text)
            case {"error": str(trace)}:
                raise WorkFailed(f"the adapting process failed:\n{trace}")
            case {"held": [int(level), dict(ways)]} if held is None:
                held = Held(level, ways)
            case {"result": dict(result)} if held is not None:
                return Done(result, held)
            case {"result": _} | {"held": _}:
                raise Unacceptable("a message out of turn")
            case message if held is not None:
                hear(message)
            case _:
                raise Unacceptable("a message before it was restricted")
    return None


class _Running(Protocol):
    """A process of one job. `ended` can be read once it and all that it has started have ended."""

    pid: int
    ended: int

    def wait(self) -> int: ...


@contextmanager
def _process(order: int, messages: int, errors: int, scratch: Path) -> Iterator[_Running]:
    """A process for one job: from the forkserver if there is one, else a Python of its own.

    It and what it has started are killed at the end if they still live.
    """
    server = forkserver.current()
    child = server.child(order, messages, errors, str(scratch)) if server else nullcontext()
    with child as copy:
        if copy:
            yield copy
            return
        code = str(Path(sfda.__file__).parents[1])
        paths = [code, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sfda.sandbox.process", str(order), str(messages)],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            pass_fds=[order, messages],
            process_group=0,  # with all that it starts, which cannot leave it
            env=passed(os.environ) | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(scratch)},
        )
        with closing(forkserver.OwnGroup(process)) as group:
            yield group


class _Pipe:
    """Messages to the parent."""

    def __init__(self, number: int) -> None:
        self._file = os.fdopen(number, "w")

    def send(self, **message: object) -> None:
        self._file.write(json.dumps(message) + "\n")
        self._file.flush()


def main(order: int, messages: int) -> None:
    """Restrict this process, see that it holds, and work: an order from one pipe, messages into
    the other.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    with os.fdopen(order) as file:
        document = json.load(file)
    pipe = _Pipe(messages)
    try:
        limits = Limits(*document["limits"])
        os.environ[KERNELS] = str(Path(limits.write[0], "kernels"))
        held = confine(limits, document["baits"])
        pipe.send(held=held)
        sys.path.extend(document["modules"])
        module, _, name = document["work"].partition(":")
        work: Work = getattr(importlib.import_module(module), name)
        pipe.send(result=work(document["order"], pipe.send))
    except BadInput as error:
        pipe.send(bad_input=str(error))
    except Exception:
        pipe.send(error=traceback.format_exc()[-LONGEST_TEXT:])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
