"""What a mean teacher hands to its student, and what watches over it, whatever the problem."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from sfda.types import Images


class Taught(NamedTuple):
    """The images that a student sees, and what its teacher says of them, in a form that `learn` of
    the problem takes; what is `doubtful` counts neither way.
    """

    images: Images
    targets: Any
    doubtful: Any = None


class Guard(nn.Module):
    """Watches pseudo-labels run away; this one sees nothing. Its buffers are part of the state."""

    def watch(self, taught: Taught) -> None:
        """Take in what a batch was taught."""

    def end_epoch(self) -> None:
        """Close the epoch's count."""

    def status(self) -> str:
        """What a person should know; '' for nothing."""
        return ""
