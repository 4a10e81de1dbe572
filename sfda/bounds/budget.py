"""What reading one file may cost, over all that lies in it."""

from __future__ import annotations

from sfda.bounds.files import Unreadable
from sfda.bounds.limits import PICKLE_STEPS

MADE_BEYOND = 64 * 2**20  # bytes that may be made besides as many as a file has


class Budget:
    """What reading a file may still cost: steps, and bytes that are made; of all pickles in it."""

    def __init__(self, size: int) -> None:
        self._steps, self._bytes, self.nested = PICKLE_STEPS.most, size + MADE_BEYOND, False

    def step(self, count: int = 1) -> None:
        """So many steps. Raises Unreadable beyond what any checkpoint takes."""
        self._steps -= count
        if self._steps < 0:
            raise Unreadable(f"its pickle has {PICKLE_STEPS.beyond}")

    def make(self, count: int) -> None:
        """So many bytes. Raises Unreadable where they are far more than the file's."""
        self._bytes -= count
        if self._bytes < 0:
            raise Unreadable("it makes far more than it holds")
