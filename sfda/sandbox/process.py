"""The adapting process: it gives up access to all but the target, its source model and its state.

It is a copy that the nursery makes, or a program that restricts itself before torch is imported; so
this module imports nothing heavy. What it has to say goes through a pipe, a JSON document a line:
the parent alone talks to servers.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import sfda
from sfda.errors import BadInput
from sfda.sandbox import forkserver as nursery
from sfda.sandbox.landlock import NETWORK_ABI, abi, restrict

if TYPE_CHECKING:
    from sfda.adaptation.run_folder import Point, Watch
    from sfda.adaptation.worker import Order
    from sfda.refs import Adaptation, Confinement

SWITCH = "SFDA_CONFINE"  # "off": adapt in this process, and say so
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc", "/proc", "/sys", "/opt/nvidia")
DEVICES = ("/dev", "~/.nv")  # with shared memory, and the compiled kernels of CUDA
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
log = logging.getLogger("sfda")


class ProcessDied(RuntimeError):
    """The adapting process ended without a word: it was killed."""


def why_not() -> str | None:
    """Why nothing can be enforced here, or None."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return f"{SWITCH}=off"
    if abi() < 1:
        return "this kernel offers no Landlock"
    return None


def prepare() -> None:
    """Make adaptations of this process begin at once. To be called before anything else is loaded;
    where it comes too late, or nothing can be enforced, it does nothing.
    """
    if why_not() is None:
        nursery.prepare(main)


def adapt_confined(order: Order, watch: Watch) -> tuple[Adaptation, Confinement]:
    """The result, and what the process could reach that found it.

    Where the kernel cannot enforce anything the work is done here, and the second part says so.
    Raises BadInput as the work does, ProcessDied where the process is killed.
    """
    from sfda.adaptation.worker import work
    from sfda.refs import Adaptation, Confinement

    kernel = os.uname().release
    if reason := why_not():
        log.warning("access to files is not restricted: %s", reason)
        return work(order, watch), Confinement(
            enforced=False, says=f"not enforced: {reason}", kernel=kernel
        )
    read, images, location = _readable(order)
    folder = Path(order.folder)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix="tmp."))
    outside = Path(tempfile.mkdtemp(prefix="sfda."), "outside")
    try:
        outside.write_text("no process of an adaptation may read this")
        devices = [Path(name).expanduser() for name in DEVICES]
        told = {
            "order": order.model_dump(mode="json"),
            "read": [str(path) for path in (*_system(), *read, *images)],
            "write": [str(path) for path in (folder, *devices)],
            "listed": [str(path) for path in _listed(location)],
            "probe": str(outside),
        }
        answer = _run(told, scratch, watch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(outside.parent, ignore_errors=True)
    level = int(answer["abi"])
    return Adaptation.model_validate(answer["result"]), Confinement(
        enforced=True,
        says=f"enforced (Landlock, ABI {level})",
        abi=level,
        network=level < NETWORK_ABI,
        read=tuple(str(path) for path in (*_system(), *read)),
        write=tuple(told["write"]),
        images=len(images),
        location=str(location),
        kernel=kernel,
    )


def _readable(order: Order) -> tuple[list[Path], list[Path], Path]:
    """Files of the manifest, the model and what was kept; images; and where those lie."""
    from sfda.images.decode import decode_key
    from sfda.loading import opened as manifests
    from sfda.manifests.rows import seen_files
    from sfda.weights.bundle import read_spec
    from tasks.prefect_runtime.home import decoded_folder

    manifest = manifests.open_ref(order.target).unlabelled()
    own, images = seen_files(manifest, order.plan.split)
    key = decode_key(manifest, order.plan.split, read_spec(Path(order.bundle)).input)
    kept = sorted(decoded_folder().glob(f"{key}.*"))
    more = [Path(order.bundle), Path(order.predictions.folder)]
    return [*own, *more, *kept], images, manifest.location


def _system() -> list[Path]:
    """The machine's libraries, Python, its packages, and our own code."""
    from sfda.plugins import foreign_files

    here = Path(sfda.__file__).parent
    places = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
    ours = [here, here.parent / "tasks", *(file.parent for file in foreign_files())]
    return [*map(Path, SYSTEM), *sorted(Path(p) for p in places if Path(p).is_dir()), *ours]


def _listed(location: Path) -> list[Path]:
    """Folders whose names alone can be seen: where modules are looked for, and where images lie."""
    return [Path(sfda.__file__).parents[1], location]


def _run(told: dict[str, Any], scratch: Path, watch: Watch) -> dict[str, Any]:
    """Start the process, hand its words on, and give what it found."""
    told["shown"] = watch.shown()
    order, words = os.pipe(), os.pipe()
    ours: dict[str, Any] = {}
    with _process(order[0], words[1], scratch) as process:
        os.close(order[0])
        os.close(words[1])
        with os.fdopen(words[0]) as lines:
            try:
                with os.fdopen(order[1], "w") as file:
                    json.dump(told, file)
            except BrokenPipeError:
                pass  # it is gone; what it said is read below
            for line in lines:
                ours = _heard(json.loads(line), watch) or ours
        code = process.wait()
    if ours:
        return ours
    raise ProcessDied(
        f"the adapting process ended without a word (exit {code}); if the machine was short of "
        "memory, use a smaller batch: --set schedule.batch_size=..."
    )


class _Waits(Protocol):
    def wait(self) -> int: ...


@contextmanager
def _process(order: int, words: int, scratch: Path) -> Iterator[_Waits]:
    """A process for one adaptation: from the nursery if there is one, else a Python of its own.

    It is killed at the end if it still lives.
    """
    made = nursery.found()
    with made.child(order, words, str(scratch)) if made else nullcontext() as child:
        if child:
            yield child
            return
        code = str(Path(sfda.__file__).parents[1])
        paths = [code, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sfda.sandbox.process", str(order), str(words)],
            stdin=subprocess.DEVNULL, pass_fds=[order, words],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(scratch)},
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _heard(message: dict[str, Any], watch: Watch) -> dict[str, Any] | None:
    """Hand on one message; the answer, if it was that. Raises what the process had to raise."""
    match message:
        case {"points": points}:
            watch.points([tuple(point) for point in points])
        case {"share": share}:
            watch.share(share)
        case {"log": text, "level": level, "on_bar": on_bar}:
            log.log(level, "%s", text, extra={"on_bar": on_bar})
        case {"bad_input": text}:
            raise BadInput(text)
        case {"error": trace}:
            raise RuntimeError(f"the adapting process failed:\n{trace}")
        case _:
            return message
    return None


class _Relay:
    """What the work says, as messages to the parent."""

    def __init__(self, number: int, shown: int) -> None:
        self._file = os.fdopen(number, "w")
        self._shown = shown

    def send(self, **message: Any) -> None:
        self._file.write(json.dumps(message) + "\n")
        self._file.flush()

    def shown(self) -> int:
        return self._shown

    def points(self, points: list[Point]) -> None:
        self.send(points=points)

    def share(self, done: float) -> None:
        self.send(share=done)


class _ToParent(logging.Handler):
    def __init__(self, relay: _Relay) -> None:
        super().__init__()
        self.relay = relay

    def emit(self, record: logging.LogRecord) -> None:
        self.relay.send(
            log=record.getMessage(), level=record.levelno, on_bar=getattr(record, "on_bar", False)
        )


def main(order: int, words: int) -> None:
    """Restrict this process, see that it holds, and work: an order from one pipe, answers into the
    other.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    with os.fdopen(order) as file:
        told = json.load(file)
    relay = _Relay(words, told["shown"])
    try:
        level = restrict(
            *([Path(p) for p in told[name]] for name in ("read", "write", "listed")), network=False
        )
        _see_that_it_holds(Path(told["probe"]))
        from sfda.adaptation.worker import Order, work

        log.handlers[:] = [_ToParent(relay)]
        log.setLevel(logging.INFO)
        log.propagate = False
        found = work(Order.model_validate(told["order"]), relay)
        relay.send(abi=level, result=found.model_dump(mode="json"))
    except BadInput as error:
        relay.send(bad_input=str(error))
    except Exception:
        relay.send(error=traceback.format_exc())


def _see_that_it_holds(probe: Path) -> None:
    try:
        probe.read_text()
    except PermissionError:
        return
    raise RuntimeError(f"access was given up and {probe} can still be read")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
