"""Runs parsers on damaged inputs, each in a copy of its folder, in a process that may die."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import NamedTuple

from sfda.errors import BadInput
from tests.fuzz.mutations import mutate
from tests.fuzz.parsers import Parser, restamp, sha256

SECONDS = 30  # of one input
GIGABYTE = 1 << 20  # kilobytes, that the memory of the process may grow by one input
LONGEST = 4000  # characters of a message


class Outcome(NamedTuple):
    """What came of one input: refused, accepted, or a fault and what it is."""

    parser: str
    number: int
    how: str  # the damage
    result: str
    fault: str = ""


class _Hang(BaseException):
    pass


def outcomes(
    parsers: Sequence[Parser], inputs: int, seed: int, seconds: int = SECONDS
) -> Iterator[Outcome]:
    """One after another: input n is one of parser n modulo their number."""
    with tempfile.TemporaryDirectory(prefix="sfda-fuzz-") as text:
        top = Path(text)
        used = parsers[:inputs]
        for number, parser in enumerate(used):
            (top / f"{number}").mkdir()
            parser.make(top / f"{number}")
        done = 0
        while done < inputs:
            for one in _from_process(used, done, inputs, seed, seconds, top):
                done = one.number + 1
                yield one


def _from_process(
    parsers: Sequence[Parser], start: int, inputs: int, seed: int, seconds: int, top: Path
) -> Iterator[Outcome]:
    """Outcomes of a new process until all are done, or it ends by what an input did."""
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_work, args=(theirs, parsers, start, inputs, seed, seconds, top)
    )
    process.start()
    theirs.close()
    number = start
    try:
        while number < inputs:
            parser = parsers[number % len(parsers)].name
            if not ours.poll(2 * seconds + 5):
                yield Outcome(parser, number, "?", "fault", "it hangs, and no signal ends it")
                return
            try:
                yield ours.recv()
            except EOFError:
                process.join(10)
                ended = f"the process ended with {process.exitcode}"
                yield Outcome(parser, number, "?", "fault", ended)
                return
            number += 1
    finally:
        process.kill()
        process.join()


def _work(
    line: Connection, parsers: Sequence[Parser], start: int, inputs: int, seed: int, seconds: int,
    top: Path,
) -> None:  # fmt: skip
    home, temporary = top / "home", top / "temporary"
    for folder in (home, temporary):
        folder.mkdir(exist_ok=True)
    os.environ.update(SFDA_HOME=str(home), SFDA_DATA=str(top / "none"), TMPDIR=str(temporary))
    tempfile.tempdir = None
    os.close(0)  # nothing may ask
    os.open(os.devnull, os.O_RDONLY)
    signal.signal(signal.SIGALRM, _hang)
    for number in range(start, inputs):
        at = number % len(parsers)
        line.send(one_outcome(parsers[at], number, seed, seconds, top / f"{at}", temporary))


def _hang(*_: object) -> None:
    raise _Hang


def one_outcome(
    parser: Parser, number: int, seed: int, seconds: int, valid: Path, temporary: Path
) -> Outcome:
    """Damage a copy of the valid input by the seed and read it."""
    rng = Random(f"{seed}/{parser.name}/{number}")
    with tempfile.TemporaryDirectory(dir=valid.parent, prefix="input-") as text:
        folder = Path(text) / "in"
        shutil.copytree(valid, folder)
        how = _damage(parser, folder, rng)
        before, memory = _listing(folder), _memory(anew=True)
        signal.alarm(seconds)
        try:
            parser.parse(folder)
            result, fault = "accepted", ""
        except BadInput as error:
            result, fault = "refused", _bad_message(str(error))
            if left := _listing(folder) ^ before:
                fault = fault or f"files are left or changed: {sorted(left)[:3]}"
        except _Hang:
            result, fault = "fault", f"it takes more than {seconds} s"
        except BaseException as error:
            result, fault = "fault", _described(error)
        finally:
            signal.alarm(0)
        if left := list(temporary.iterdir()):
            fault = fault or f"temporary files are left: {[p.name for p in left[:3]]}"
            shutil.rmtree(temporary)
            temporary.mkdir()
        grown = _memory() - memory
        if grown > GIGABYTE:
            fault = fault or f"it took {grown / GIGABYTE:.1f} GiB"
    return Outcome(parser.name, number, how, "fault" if fault else result, fault)


def _damage(parser: Parser, folder: Path, rng: Random) -> str:
    paths = sorted({path for pattern in parser.damaged for path in folder.glob(pattern)})
    path = rng.choice(paths)
    digest = sha256(path)
    how = mutate(path, rng)
    if path.is_file() and not path.is_symlink() and path.suffix != ".yaml":
        restamp(folder, digest, sha256(path))
    return f"{path.relative_to(folder)} {how}"


def _listing(folder: Path) -> set[tuple[str, int, int]]:
    """The files below a folder, with sizes and times of writing; nothing is followed. Locks stay:
    who deleted one would let two others in.
    """
    listing = set()
    for at, _, names in os.walk(folder):
        for name in (name for name in names if not name.endswith(".lock")):
            status = os.lstat(os.path.join(at, name))
            below = os.path.relpath(os.path.join(at, name), folder)
            listing.add((below, status.st_size, status.st_mtime_ns))
    return listing


def _memory(*, anew: bool = False) -> int:
    """The most that this process had, in kilobytes; counted anew from now on where that is said."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    words = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()
    return int(words[0])


def _bad_message(text: str) -> str:
    if "\n" in text:
        return f"its message has several lines: {text[:200]!r}"
    if "Traceback" in text:
        return f"its message holds a traceback: {text[:200]!r}"
    return f"its message has {len(text)} characters" if len(text) > LONGEST else ""


def _described(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    at = [f"{Path(f.filename).name}:{f.lineno}" for f in frames[-4:]]
    return f"{type(error).__name__} {str(error)[:160]!r} at {' '.join(at)}"


def table(parsers: Sequence[Parser], done: Sequence[Outcome]) -> str:
    """A row a parser: inputs, refused, accepted, faults; and a line for all."""
    counts = Counter((one.parser, one.result) for one in done)
    lines = [f"{'parser':26}{'inputs':>8}{'refused':>9}{'accepted':>10}{'faults':>8}"]
    for name in [*dict.fromkeys(parser.name for parser in parsers), "all"]:
        own = [
            sum(n for (parser, r), n in counts.items() if name in (parser, "all") and r == result)
            for result in ("refused", "accepted", "fault")
        ]
        lines.append(f"{name:26}{sum(own):>8}{own[0]:>9}{own[1]:>10}{own[2]:>8}")
    return "\n".join(lines)
