"""The adaptation in a sandbox: it can reach the target, its source model and its own state alone.

What is here is outside: what the parent orders, and what it takes of what comes out, which is data
of somebody else. Numbers and names are checked one by one, addresses are made anew, and weights
must be of the source's network. What the process does is in `sfda.adaptation.worker`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, FiniteFloat, TypeAdapter

from sfda.config import Config
from sfda.errors import BadInput
from sfda.sandbox import process
from sfda.sandbox.attest import NETWORK
from sfda.sandbox.crossing import read_within
from sfda.sandbox.leftovers import remove_tree
from sfda.sandbox.messages import Message, Unacceptable, plain, refused, valid
from sfda.state_folder import disk_errors

if TYPE_CHECKING:
    from types import TracebackType

    from sfda.adaptation.training import Watch
    from sfda.adaptation.worker import Order
    from sfda.loading.progress import ProgressBar
    from sfda.refs import Adaptation, Attestation, ModelSpec
    from sfda.weights.shapes import Shapes

log = logging.getLogger("sfda")
MOST_LOG = 1 << 20  # characters of one run's log
MOST_CALLS = 64  # of a server, for each epoch
LINE = 1000  # characters of a line beside the bar


class _Outcome(Config):
    """What is taken of the adaptation's own words; the rest is read off its history."""

    history_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    peak_memory_mb: Annotated[FiniteFloat, Field(ge=0)]
    cut: str | None
    parts: Annotated[int, Field(ge=1, le=64)] = 1


def preload_worker() -> None:
    """Make adaptations of this process begin at once. To be called before anything is loaded.

    The first convolution that is made loads torch's compiler, in seconds: here for both processes.
    """
    process.start_forkserver("sfda.adaptation.worker", "torch._dynamo")


def adapt_in_sandbox(order: Order, watch: Watch) -> tuple[Adaptation, Attestation]:
    """The result, and what the process could reach that made it.

    Where the kernel cannot enforce anything the work is done here, and the second part says so.
    Raises BadInput as the work does, or where what comes out is not to be taken over; ProcessDied
    where the process is killed.
    """
    from sfda.adaptation.worker import work
    from sfda.plugin_sources import linked
    from sfda.refs import Attestation

    kernel = os.uname().release
    if reason := process.unenforceable():
        log.warning("access to files is not restricted: %s", reason)
        return work(order, watch), Attestation(
            enforced=False, says=f"not enforced: {reason}", kernel=kernel
        )
    (own, by_name), folder = _system(Path(order.bundle)), Path(order.folder)
    with ExitStack() as stack:
        sealed = stack.enter_context(_emptied(folder.with_suffix(".sealed")))
        modules = linked(by_name, sealed)
        read = [sealed, Path(order.bundle), Path(order.predictions.folder), *_seal(order, sealed)]
        read += [Path(order.guide.folder)] if order.guide else []
        inner = order.model_copy(update={"sealed": str(sealed)})
        job = process.SandboxJob(
            work="sfda.adaptation.worker:work_in_sandbox",
            order={"order": inner.model_dump(mode="json"), "shown": watch.shown()},
            folder=folder,
            read=[*own, *read],
            modules=modules,
        )
        ear = stack.enter_context(Ear(watch, order.title, _epochs(order)))
        done = process.run_job(job, ear.hear)
    level, ways = done.held
    return taken_over(done.result, order), Attestation(
        enforced=True,
        says=f"enforced (Landlock, ABI {level})",
        abi=level,
        network=any(not ways[name].startswith("refused") for name in NETWORK),
        read=tuple(str(path) for path in (*own, *read)),
        write=tuple(str(path) for path in (folder, *process.devices())),
        ways_out=ways,
        kernel=kernel,
    )


def _system(bundle: Path) -> tuple[list[Path], list[Path]]:
    """What every adaptation reads besides, plug-ins and the network's own package; and what of it
    is looked up by its name.
    """
    from sfda.networks.foreign.code import package_folders
    from sfda.plugin_sources import plugin_paths
    from sfda.weights.bundle import read_spec

    plug_ins, by_name = plugin_paths()
    network = package_folders(read_spec(bundle).code)
    return process.system_paths([*plug_ins, *network]), [*by_name, *network]


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """An empty folder beside the run's, where the process cannot write; nothing is left of it, nor
    of what a killed command has left there.
    """
    remove_tree(folder)
    with disk_errors(str(folder)):
        folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    finally:
        remove_tree(folder)


def _seal(order: Order, folder: Path) -> list[Path]:
    """Write what may be seen of the target to a folder; the files that hold its decoded images."""
    from sfda.loading.sealed import seal
    from sfda.weights.bundle import read_spec

    spec, answers = read_spec(Path(order.bundle)), order.plan.answers is not None
    with disk_errors(f"what an adaptation is handed of its target in {folder}"):
        return seal(order.target, order.stamps, spec, folder, answers=answers)


def _epochs(order: Order) -> int:
    """How many there can be."""
    return int(order.plan.config["schedule"]["epochs"])


class Ear:
    """Hands messages of the process on to who shows them; as a context, the bar's life."""

    def __init__(self, watch: Watch, title: str, epochs: int) -> None:
        self._watch, self._title = watch, title
        self._calls, self._log = MOST_CALLS * (epochs + 1), MOST_LOG
        self._bar: ProgressBar | None = None

    def __enter__(self) -> Ear:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.__exit__(kind, error, trace)

    def hear(self, message: Message) -> None:
        """Show one message. Raises Unacceptable for one that the work never sends."""
        match message:
            case {"points": list(points)}:
                self._count_call()
                from sfda.adaptation.run_folder import METRIC_POINTS

                self._watch.points(valid(METRIC_POINTS, points, "points of curves"))
            case {"share": float() | int() as share} if 0 <= share <= 1:
                self._count_call()
                self._watch.share(float(share))
            case {"progress": [title, int(done), int(total)]} if 0 <= done <= total < 2**53:
                if title == plain(self._title):
                    self._bar_of(total).to(done, total)
            case {"beside": [str(title), str(line)]} if title == plain(self._title):
                if self._may_log(line):
                    self._bar_of(1).say(line[:LINE])
            case {"log": str(text), "level": int(level)} if 0 <= level <= logging.CRITICAL:
                if self._may_log(text):
                    log.log(level, "%s", text)
            case _:
                raise Unacceptable("a message of an unknown kind")

    def _bar_of(self, total: int) -> ProgressBar:
        if self._bar is None:
            from sfda.loading.progress import ProgressBar

            self._bar = ProgressBar(self._title, total)
            self._bar.__enter__()
        return self._bar

    def _count_call(self) -> None:
        self._calls -= 1
        if self._calls < 0:
            raise Unacceptable("more curves than its epochs can have")

    def _may_log(self, text: str) -> bool:
        before, self._log = self._log, self._log - len(text) - 1
        if before > 0 >= self._log:
            log.warning("%s: the log is longer than %d characters and ends", self._title, MOST_LOG)
        return self._log > 0


def taken_over(result: Message, order: Order) -> Adaptation:
    """What the process says it has made, if what it has left bears that out.

    Raises BadInput where it does not: nothing of it is used then.
    """
    from sfda.adaptation.run_folder import checked_history, epoch_folder, history_size
    from sfda.manifests.digests import bytes_digest
    from sfda.refs import Adaptation, Candidate

    folder = Path(order.folder)
    try:
        outcome = valid(
            TypeAdapter(_Outcome),
            {name: result[name] for name in _Outcome.model_fields if name in result},
            "a result",
        )
        content = read_within(folder, "history.json", limit=history_size(_epochs(order)))
        if bytes_digest(content) != outcome.history_sha256:
            raise Unacceptable("another history than the one in its folder")
        history = checked_history(
            content, epochs=_epochs(order), by=order.plan.select_by, keep=order.keep
        )
        for epoch in history:
            if epoch.weights:
                _check_weights(epoch_folder(folder, epoch.epoch), order)
    except Unacceptable as error:
        raise refused(error, folder) from None
    seconds, shown = sum(epoch.seconds for epoch in history), order.keep == "best"
    return Adaptation(
        folder=str(folder),
        history_sha256=outcome.history_sha256,
        candidates=tuple(
            Candidate(
                epoch=epoch.epoch,
                scores=epoch.scores,
                weights=str(epoch_folder(folder, epoch.epoch)) if shown and epoch.weights else None,
                sha256=epoch.sha256,
            )
            for epoch in history
        ),
        seconds=seconds,
        images_per_second=sum(epoch.images for epoch in history) / seconds,
        peak_memory_mb=outcome.peak_memory_mb,
        cut=outcome.cut and " ".join(plain(outcome.cut, LINE).split()),
        parts=outcome.parts,
    )


def _check_weights(bundle: Path, order: Order) -> None:
    """Whether a candidate is the source's network with other numbers. Raises BadInput."""
    from sfda.adaptation.plan import kind_of
    from sfda.weights.bundle import read_spec
    from sfda.weights.bundle_files import CODE_FILE, SPEC, WEIGHTS, check_code, is_of_system
    from sfda.weights.shapes import bundle_shapes

    source, own = Path(order.bundle), bundle_shapes(bundle.parent, bundle.name)
    # a card would be taken along
    names = {name for name in os.listdir(bundle) if not is_of_system(name)}
    if more := sorted(names - {SPEC, WEIGHTS, CODE_FILE}):
        raise Unacceptable(f"{len(more)} more files beside a candidate's: {plain(more[0], 100)}")
    try:
        spec = read_spec(bundle)
        check_code(bundle, spec.code)
    except BadInput as error:
        raise Unacceptable(f"a model that cannot be used ({error})") from None
    form, tensors = _expected(source, kind_of(order.plan.method).adapted_spec(read_spec(source)))
    if _fixed(spec) != _fixed(form):
        raise Unacceptable(f"another kind of network than the source's ({bundle})")
    if own != tensors:
        raise Unacceptable(f"tensors of other names or shapes than the source's ({bundle})")


def _expected(source: Path, form: ModelSpec) -> tuple[ModelSpec, Shapes]:
    """Spec and tensors of what a method makes of a source, whose spec it has put in this form."""
    from sfda.problems.registry import PROBLEMS, read_bundle
    from sfda.weights.bundle import read_spec
    from sfda.weights.shapes import bundle_shapes, network_shapes

    if form == read_spec(source):
        return form, bundle_shapes(source.resolve(), ".")
    network, _ = read_bundle(source)
    return form, network_shapes(PROBLEMS[form.problem].in_form_of(network, form))


def _fixed(spec: ModelSpec) -> dict[str, Any]:
    """What an adaptation leaves as it is: all but the threshold of rejection."""
    return spec.model_dump(exclude={"reject"})
