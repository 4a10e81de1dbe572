"""Nouns of methods: what a method sees, where the run is, and what the loop tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Images = Float[Tensor, "B C H W"]
Losses = dict[str, Tensor]  # named, already weighted scalars; the loop minimises their sum
UNSURE = -100  # pseudo-label below the threshold
UNKNOWN = -1  # a class the source never saw
Regime = Literal["closed", "partial", "open", "open-partial"]
"""How the classes of target and source compare. Partial: the target lacks some of the source's;
open: it has some that the source lacks; open-partial: both."""


class Warp(NamedTuple):
    """How a view was moved: the affine map from the view to the image, in unit coordinates."""

    matrix: Float[Tensor, "B 2 3"]
    flipped: Tensor  # bool, one an image


@dataclass(frozen=True)
class Labelled:
    """Rows of the target that a person has labelled; active adaptation alone."""

    index: Int[Tensor, " L"]
    images: Images
    targets: Any


@dataclass(frozen=True)
class TargetBatch:
    """What a method sees of the target. It has no place for ground truth, so no method can peek.

    Weak and strong share geometry unless a warp says otherwise; the strong view adds photometric
    change. A warp leads from its view to the canonical frame; None is the identity.
    """

    index: Int[Tensor, " B"]  # row in the target set: the key of every bank
    weak: Images
    strong: Images | None = None  # present if the method's `views` asks for it
    weak_warp: Warp | None = None
    strong_warp: Warp | None = None
    labelled: Labelled | None = None
    # segmentation: where the views show the image and not what it was padded with; None: all over
    shown: Bool[Tensor, "B H W"] | None = None


@dataclass(frozen=True)
class Guide:
    """What a frozen second model, or a table of answers, says of every row of the target: constant,
    and no network. Probabilities are softmax(logits), in the order of the model's classes.
    """

    digest: str  # of the table
    logits: Float[Tensor, "N C"]  # complete: where it does not name a class, the source's share
    answered: Bool[Tensor, " N"]  # false: it says nothing of this row
    features: Float[Tensor, "N G"] | None = None  # as its encoder gives them
    text: Float[Tensor, "C G"] | None = None  # unit rows of its text encoder
    derived: bool = False  # logits are nearest centroids of the source's predictions

    def on(self, device: torch.device) -> Guide:
        """The same, its tensors on a device."""
        features, text = (
            None if value is None else value.to(device) for value in (self.features, self.text)
        )
        logits, answered = self.logits.to(device), self.answered.to(device)
        return replace(self, logits=logits, answered=answered, features=features, text=text)


@dataclass(frozen=True)
class TargetInfo:
    """What a method may know of the target set beforehand.

    `row_ids` and `groups` are numbers as text: a name, or its digest, could tell the class.
    """

    size: int
    row_ids: tuple[str, ...]
    groups: tuple[str, ...] | None = None  # volumes, videos
    priors: Float[Tensor, "N C"] | None = None  # class ratios from the user, never from labels
    regime: Regime | None = None  # as the target's list of classes declares it; None: no such list
    classes: tuple[str, ...] | None = None  # the model's, in its order
    source_ratios: Float[Tensor, " C"] | None = None  # of pixels by class, from the source's card
    labelled: Int[Tensor, " L"] | None = None  # rows that a person has labelled, if any
    whole: bool = True  # a view shows its image as it is, and not a tile of it
    guide: Guide | None = None  # what a second model says of every row

    @property
    def may_be_unknown(self) -> bool:
        """Whether classes that the source never saw are declared, or not ruled out."""
        return self.regime not in ("closed", "partial")

    def __post_init__(self) -> None:
        if len(self.row_ids) != self.size:
            raise ValueError(f"{self.size} rows but {len(self.row_ids)} row ids")


@dataclass(frozen=True)
class Clock:
    """Where the run is; every schedule is a pure function of it. `step` counts from 0."""

    step: int
    steps_per_epoch: int
    epochs: int

    @property
    def steps(self) -> int:
        """T, the number of steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    @property
    def epoch(self) -> int:
        """The epoch this step lies in, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def fraction(self) -> float:
        """Part of the run that is done before this step, in [0, 1)."""
        return self.step / self.steps

    @property
    def ends_epoch(self) -> bool:
        """Whether this step is the last of its epoch."""
        return (self.step + 1) % self.steps_per_epoch == 0


class Seen(NamedTuple):
    """Rows of the target and what a network made of them."""

    rows: Int[Tensor, " B"]
    output: Any


class SeenViews(NamedTuple):
    """Rows of the target and what a network made of the image and of two views of it; `images` are
    as the network saw them, where they are asked for.
    """

    rows: Int[Tensor, " B"]
    output: Any
    weak: Any = None
    strong: Any = None
    images: Images | None = None


class Scan(Protocol):
    """Every target sample once, or `rows` alone: eval mode, no gradient, test transform; then the
    mode it was in.
    """

    def __call__(self, network: nn.Module, rows: Int[Tensor, " R"] | None = None) -> Iterator[Seen]:
        """What the network makes of each."""
        ...


class Batches(Protocol):
    """The target in shuffled batches: a pure function of seed and epoch."""

    def steps(self, rows: Int[Tensor, " R"] | None = None) -> int:
        """Batches that one epoch over `rows` (None: all) takes."""
        ...

    def epoch(self, epoch: int, rows: Int[Tensor, " R"] | None = None) -> Iterator[TargetBatch]:
        """The batches of one epoch."""
        ...


@dataclass(frozen=True)
class State:
    """All that a run needs to go on after an epoch: state dicts of tensors and plain numbers.

    No random states: the loop seeds every epoch anew from (seed, epoch), and sampling and views
    are functions of (seed, epoch, row).
    """

    next_epoch: int
    method: Mapping[str, Any]
    optimizer: Mapping[str, Any] | None


@dataclass(frozen=True)
class EpochStart:
    """The method has scanned the target; the epoch's batches begin."""

    clock: Clock


@dataclass(frozen=True)
class StepEnd:
    """One step is done. The losses are still device tensors: reading one waits for the device."""

    clock: Clock
    losses: Losses
    rate: float  # learning rate of an unscaled group at this step
    images: int


@dataclass(frozen=True)
class EpochEnd:
    """One epoch is done: the network to deploy, and what is needed to go on from here."""

    clock: Clock
    adapted: nn.Module
    state: State = field(repr=False)
