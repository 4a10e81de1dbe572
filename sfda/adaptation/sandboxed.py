"""The adaptation in a sandbox: it can reach the target, its source model and its own state alone.

Both ends are here: what the parent orders and reads, and what the process does with an order.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sfda
from sfda.sandbox import process
from sfda.sandbox.attest import NETWORK

if TYPE_CHECKING:
    from sfda.adaptation.training import Watch
    from sfda.adaptation.worker import Order
    from sfda.refs import Adaptation, Attestation, MetricPoint

log = logging.getLogger("sfda")


def preload_worker() -> None:
    """Make adaptations of this process begin at once. To be called before anything is loaded."""
    process.start_forkserver("sfda.adaptation.worker")


def adapt_in_sandbox(order: Order, watch: Watch) -> tuple[Adaptation, Attestation]:
    """The result, and what the process could reach that made it.

    Where the kernel cannot enforce anything the work is done here, and the second part says so.
    Raises BadInput as the work does, ProcessDied where the process is killed.
    """
    from sfda.adaptation.worker import work
    from sfda.refs import Adaptation, Attestation

    kernel = os.uname().release
    if reason := process.unenforceable():
        log.warning("access to files is not restricted: %s", reason)
        return work(order, watch), Attestation(
            enforced=False, says=f"not enforced: {reason}", kernel=kernel
        )
    read, images, location = _readable(order)
    own, folder = _system(), Path(order.folder)
    job = process.SandboxJob(
        work=f"{__name__}:work_in_sandbox",
        order={"order": order.model_dump(mode="json"), "shown": watch.shown()},
        folder=folder,
        read=[*own, *read, *images],
        listed=[Path(sfda.__file__).parents[1], location],  # modules are looked for in the first
    )
    done = process.run_job(job, lambda message: _hear(message, watch))
    level, ways = done.held
    adaptation = _addressed(Adaptation.model_validate(done.result), folder)
    return adaptation, Attestation(
        enforced=True,
        says=f"enforced (Landlock, ABI {level})",
        abi=level,
        network=any(not ways[name].startswith("refused") for name in NETWORK),
        read=tuple(str(path) for path in (*own, *read)),
        write=tuple(str(path) for path in (folder, process.kernels(), *process.devices())),
        ways_out=ways,
        images=len(images),
        location=str(location),
        kernel=kernel,
    )


def _addressed(adaptation: Adaptation, folder: Path) -> Adaptation:
    """The same, with addresses that are known here: none is taken from inside."""
    from sfda.adaptation.run_folder import epoch_folder

    candidates = tuple(
        candidate.model_copy(update={"weights": str(epoch_folder(folder, candidate.epoch))})
        if candidate.weights
        else candidate
        for candidate in adaptation.candidates
    )
    return adaptation.model_copy(update={"folder": str(folder), "candidates": candidates})


def _system() -> list[Path]:
    from sfda.plugins import foreign_files

    return process.system_paths([file.parent for file in foreign_files()])


def _readable(order: Order) -> tuple[list[Path], list[Path], Path]:
    """Files of the manifest, the model and its decoded images; the images; and where those lie."""
    from sfda.loading.opened import decode_key, open_ref
    from sfda.manifests.rows import seen_files
    from sfda.state_folder import decoded_folder
    from sfda.weights.bundle import read_spec

    manifest = open_ref(order.target).unlabelled()
    own, images = seen_files(manifest, order.plan.split)
    key = decode_key(manifest, order.plan.split, read_spec(Path(order.bundle)).input)
    decoded = sorted(decoded_folder().glob(f"{key}.*"))
    more = [Path(order.bundle), Path(order.predictions.folder)]
    return [*own, *more, *decoded], images, manifest.location


def _hear(message: dict[str, Any], watch: Watch) -> None:
    """Hand one message of the process on."""
    match message:
        case {"points": points}:
            watch.points([tuple(point) for point in points])
        case {"share": share}:
            watch.share(share)
        case {"log": text, "level": level, "on_bar": on_bar}:
            log.log(level, "%s", _plain(text), extra={"on_bar": on_bar})


def _plain(text: str) -> str:
    """Without what a terminal would take for a command."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "?" for sign in text)


class _Relay:
    """The watch of the process: what it gets goes to the parent."""

    def __init__(self, send: process.Send, shown: int) -> None:
        self.send = send
        self._shown = shown

    def shown(self) -> int:
        return self._shown

    def points(self, points: list[MetricPoint]) -> None:
        self.send(points=points)

    def share(self, done: float) -> None:
        self.send(share=done)


class _ToParent(logging.Handler):
    def __init__(self, send: process.Send) -> None:
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        self.send(
            log=record.getMessage(), level=record.levelno, on_bar=getattr(record, "on_bar", False)
        )


def work_in_sandbox(document: dict[str, Any], send: process.Send) -> dict[str, Any]:
    """Carry out an order inside the process; the adaptation as JSON."""
    from sfda.adaptation.worker import Order, work
    from sfda.sandbox.tensor_files import share_by_files

    share_by_files()
    log.handlers[:] = [_ToParent(send)]
    log.setLevel(logging.INFO)
    log.propagate = False
    order = Order.model_validate(document["order"])
    return work(order, _Relay(send, document["shown"])).model_dump(mode="json")
