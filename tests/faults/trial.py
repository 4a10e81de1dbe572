"""One trial: a command is killed, once or more, started again, and what it left is compared."""

from __future__ import annotations

import atexit
import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)  # half of them SIGKILL
POLITE = (
    6.0  # seconds a command may take to end at SIGTERM or SIGINT: five, and one for a busy machine
)
GONE = 8.0  # seconds until what it has started is gone, too
PATIENCE = 240.0  # seconds of a command that nobody disturbs
PARTS = (".part-*", ".*.part-*", "*.tmp")  # files that are not whole


@dataclass(frozen=True)
class Case:
    """A command that writes: its words in a folder, and what it comes to there."""

    name: str
    words: Callable[[Path], Sequence[object]]
    outcome: Callable[[Path], Any]
    before: str = "plain"  # the folder that it starts from
    flow: bool = False  # it starts a server: in a process of its own


@dataclass
class Count:
    """What became of the trials of a case."""

    trials: int = 0
    signals: int = 0
    late: int = 0  # that came when the command had ended
    faults: list[str] = field(default_factory=list)


def environment(folder: Path) -> dict[str, str]:
    """That of a user whose home is in the folder."""
    ours = ("PREFECT_", "MLFLOW_", "SFDA_")
    clean = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    more = {"SFDA_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return clean | more | {"PYTHONDONTWRITEBYTECODE": "1"}


class Command:
    """A start of `sfda`, in a fork of this process or, where it needs a server, in a new one."""

    def __init__(self, case: Case, folder: Path, at: tuple[int, int] | None = None) -> None:
        """`at` is a signal, and the step on the disk before which it comes."""
        words = [str(word) for word in case.words(folder)]
        self.out, self.err = folder.parent / "out", folder.parent / "err"
        self.steps = folder.parent / "steps"
        fault = f"{at[0]}:{at[1]}" if at else f"0:{self.steps}"
        env = environment(folder) | {"SFDA_TEST_FAULT": fault}
        if case.flow:
            with self.out.open("wb") as out, self.err.open("wb") as err:
                program = [sys.executable, "-m", "tests.faults.command", *words]
                self.pid = subprocess.Popen(
                    program, env=env, cwd=folder, stdout=out, stderr=err, start_new_session=True
                ).pid
        else:
            self.pid = self._fork(words, env, folder)

    def _fork(self, words: list[str], env: Mapping[str, str], folder: Path) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            os.environ.clear()
            os.environ.update(env)
            os.chdir(folder)
            for number, path in ((1, self.out), (2, self.err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            from tests.faults.command import main

            sys.argv = ["sfda", *words]
            atexit._clear()  # what the command registers is called at its end, and no more
            main()
        except SystemExit:
            pass
        except BaseException:
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()
            os._exit(1)
        return 0

    def code(self, patience: float) -> int | None:
        """Its exit status, negative after a signal; None where it still runs."""
        end = time.monotonic() + patience
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                return None
            time.sleep(0.005)

    def words_of_end(self) -> str:
        return self.err.read_text(errors="replace")


def strays(folder: Path) -> list[psutil.Process]:
    """Processes with this home that still live."""
    mine, result = str(folder / "home"), []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("SFDA_HOME") == mine and process.pid != os.getpid()
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                result.append(process)
        except psutil.Error:
            continue
    return result


def end_strays(folder: Path) -> list[str]:
    """What has not ended by itself in good time; it is ended now."""
    end = time.monotonic() + GONE
    while (left := strays(folder)) and time.monotonic() < end:
        time.sleep(0.05)
    names = []
    for process in left:
        try:
            names.append(" ".join(process.cmdline())[:200])
            process.kill()
        except psutil.Error:
            continue
    return names


def half_written(folder: Path) -> list[str]:
    """Files and folders that no start will finish."""
    found = {path for pattern in PARTS for path in folder.rglob(pattern)}
    broken = [str(path.relative_to(folder)) for path in sorted(found)]
    for store in folder.glob("home/*.db"):
        with closing(sqlite3.connect(store)) as opened:
            if opened.execute("PRAGMA quick_check").fetchone() != ("ok",):
                broken.append(store.name)
    return broken


def digests(folder: Path, *skip: str) -> dict[str, str]:
    """Every file outside of the home, by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in ("home", *skip)
        and path.suffix != ".lock"
    }  # fmt: skip


def fresh(template: Path, folder: Path) -> None:
    """The folder as it was at first: always at one address, so that all paths are the same."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)


@dataclass
class Undisturbed:
    """A command that nobody killed."""

    outcome: Any
    seconds: float
    steps: int


def undisturbed(case: Case, template: Path, folder: Path) -> Undisturbed:
    """What a case comes to, in how many seconds and steps on the disk."""
    fresh(template, folder)
    begun = time.monotonic()
    command = Command(case, folder)
    code = command.code(PATIENCE)
    assert code == 0, f"{case.name}: {code}: {command.words_of_end()}"
    seconds = time.monotonic() - begun
    end_strays(folder)
    return Undisturbed(case.outcome(folder), seconds, int(command.steps.read_text()))


def trial(
    case: Case, template: Path, folder: Path, known: Undisturbed, rng: random.Random, count: Count
) -> None:
    """Disturb it one to four times, let it end, and count what is not as it must be."""
    fresh(template, folder)
    count.trials += 1
    what = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        number = rng.choice(SIGNALS)
        step = rng.randint(1, known.steps) if rng.random() < 0.6 else None
        delay = rng.uniform(0, known.seconds)
        what.append(f"{number.name} {f'at step {step}' if step else f'after {delay:.3f} s'}")
        ended = disturb(case, folder, number, step, delay, count)
        count.faults += [f"{case.name}: {what}: {fault}" for fault in ended]
    command = Command(case, folder)
    code = command.code(PATIENCE)
    faults = [f"left running: {name}" for name in end_strays(folder)]
    if code != 0:
        faults.append(f"started again it ends with {code}: {command.words_of_end()[-600:]}")
    else:
        outcome = case.outcome(folder)
        faults += [f"other outcome: {difference(known.outcome, outcome)}"] * (
            outcome != known.outcome
        )
    faults += [f"half-written: {name}" for name in half_written(folder)]
    count.faults += [f"{case.name}: {what}: {fault}" for fault in faults]


def disturb(
    case: Case, folder: Path, number: signal.Signals, step: int | None, delay: float, count: Count
) -> list[str]:
    """Start it and send a signal, at a step on the disk or after a time; what is wrong then."""
    begun = time.monotonic()
    command = Command(case, folder, (number, step) if step else None)
    if step is None:
        code = command.code(delay)
        if code is not None:
            count.late += 1
            return [f"left running: {name}" for name in end_strays(folder)]
        os.kill(command.pid, number)
    sent = time.monotonic()
    code = command.code(PATIENCE if step else POLITE)
    faults = []
    if code is None:
        faults.append(f"runs on {POLITE} s after {number.name}")
        os.killpg(command.pid, signal.SIGKILL)
        command.code(PATIENCE)
    elif code == 0:
        count.late += 1  # it was through, or has fewer steps than at first: most is done already
    else:
        count.signals += 1
        words = command.words_of_end()
        polite = number != signal.SIGKILL
        if polite and code != 130 and not (code == -number and time.monotonic() - begun < 3):
            faults.append(f"ends with {code} after {number.name}: {words[-300:]}")
        if polite and "Traceback" in words:
            faults.append(f"a traceback after {number.name}: {words[-600:]}")
    if not step and time.monotonic() - sent > POLITE:
        faults.append(f"took {time.monotonic() - sent:.1f} s to end")
    return faults + [f"left running: {name}" for name in end_strays(folder)]


def difference(expected: Any, outcome: Any) -> str:
    """Where two outcomes are not the same."""
    if isinstance(expected, dict) and isinstance(outcome, dict):
        keys = sorted(
            k for k in expected.keys() | outcome.keys() if expected.get(k) != outcome.get(k)
        )
        return "; ".join(
            f"{k}: {str(expected.get(k))[:150]} -> {str(outcome.get(k))[:150]}" for k in keys[:4]
        )
    return f"{str(expected)[:300]} -> {str(outcome)[:300]}"
