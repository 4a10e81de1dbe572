"""What a mean teacher hands to its student, and what watches over it, whatever the problem."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

from torch import nn

from sfda.types import Images


class BoxSettings(Protocol):
    """How a student learns boxes: `BoxTeaching` of detection."""

    @property
    def empty(self) -> Literal["background", "skip"]: ...
    @property
    def doubt(self) -> float | None: ...
    @property
    def regression(self) -> bool: ...
    @property
    def append(self) -> bool: ...
    @property
    def side(self) -> float: ...
    @property
    def freeze_stem(self) -> bool: ...


class TeacherSettings(Protocol):
    """What problems ask of the settings of a mean teacher: those of `MeanTeacherConfig`."""

    @property
    def threshold(self) -> float: ...
    @property
    def buffers(self) -> Literal["own", "average", "copy", "keep"]: ...
    @property
    def labels(self) -> Literal["hard", "soft", "symmetric"]: ...
    @property
    def by_class(self) -> bool: ...
    @property
    def ensemble(self) -> tuple[float, ...]: ...
    @property
    def cut(self) -> float: ...
    @property
    def cut_share(self) -> float: ...
    @property
    def boxes(self) -> BoxSettings: ...
    @property
    def ratio(self) -> float: ...


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

    def left(self) -> float | None:
        """Pseudo-labels of the last epoch as a share of those of the first; None: not counted."""
        return None
