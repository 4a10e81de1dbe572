"""What a person sees of long work: a bar on a terminal, lines in the log otherwise."""

from __future__ import annotations

import functools
import logging
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

EVERY = 10.0  # seconds between lines where there is no terminal
STEP = 5  # level of records that say how far the work is, for who shows a bar elsewhere

log = logging.getLogger("sfda")


class ProgressBar:
    """Counts steps of one piece of work, on stderr."""

    def __init__(self, title: str, total: int, *, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self.logged = time.monotonic()
        self.bar: Bar | None = None
        if sys.stderr.isatty():
            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[last]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self.task = self.bar.add_task(title, total=total, completed=done, last="")

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        self.to(self.done, self.total)
        return self

    def advance(self, steps: int = 1) -> None:
        """So many steps further."""
        self.to(self.done + steps, self.total)

    def to(self, done: int, total: int) -> None:
        """So far of so many."""
        self.done, self.total = done, total
        progress = {"progress": (self.title, done, total)}
        log.log(STEP, "%s: %d of %d", self.title, done, total, extra=progress)
        if self.bar:
            self.bar.update(self.task, completed=done, total=total)
        elif time.monotonic() - self.logged > EVERY:
            self.logged = time.monotonic()
            log.info("%s: %d of %d", self.title, done, total, extra=progress)

    def say(self, line: str) -> None:
        """A line in the log; on a terminal it stands beside the bar instead of below it."""
        if self.bar:
            self.bar.update(self.task, last=line)
        beside = {"on_bar": self.bar is not None, "beside": (self.title, line)}
        log.info("%s: %s", self.title, line, extra=beside)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()


@functools.cache
def warn_once(text: str) -> None:
    """Say a text in the log, once in a process; nothing for ''."""
    if text:
        log.warning("%s", text)
