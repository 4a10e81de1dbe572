"""What a source card keeps of rehearsals: a few numbers each, of adaptations to synthetic shifts of
the source's own data. No image, no label and no answer of any row is among them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, FiniteFloat, model_validator

from sfda.bounds.limits import CARD_REHEARSALS
from sfda.config import Config
from sfda.refs import Digest, Name, ProblemName

ShiftKind = Literal[
    "noise",
    "blur",
    "brightness",
    "contrast",
    "gamma",
    "fog",
    "jpeg",
    "colour",
    "scale",
    "turn",
    "negative",  # light and dark change places
    "imbalance",  # one class is most of the images
    "few_classes",  # some classes are missing
    "strange",  # some images are of nothing: shuffled patches
]
ScoreName = Literal["ensv", "nuclear_norm", "agreement"]  # of decisions without labels
_Score = Annotated[float, Field(ge=-1, le=2)]  # scores lie in [0, 1], but for rounding


def _few(count: int) -> int:
    if count > CARD_REHEARSALS.most:
        raise ValueError(f"there are {CARD_REHEARSALS.refusal(count)}")
    return count


_Count = Annotated[int, Field(ge=0), AfterValidator(_few)]
_Rows = Annotated[int, Field(ge=1, le=10**6)]


class RehearsedPair(Config):
    """One rehearsal: what can be seen of it without labels, and what it truly gained."""

    kind: ShiftKind
    severity: Annotated[int, Field(ge=1, le=3)]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    rows: _Rows  # adapted to
    judged: _Rows  # other ones, that the figures are of
    change: Annotated[float, Field(ge=0, le=1)]  # share of the answers that changed
    before: dict[ScoreName, _Score]  # of the source model, without labels
    after: dict[ScoreName, _Score]  # of the adapted one
    gain: Annotated[float, Field(ge=-100, le=100)]  # points of the main metric, by labels

    @model_validator(mode="after")
    def _same_scores(self) -> RehearsedPair:
        if self.before.keys() != self.after.keys():
            raise ValueError("source and adapted model have different scores")
        return self


class Rehearsals(Config):
    """The rehearsals of a model by one method, and how far their likeness tells their gain."""

    problem: ProblemName
    method: Name
    settings_sha256: Digest  # of the method's settings but for the epochs
    model_sha256: Digest  # of the source model, whatever its card
    epochs: Annotated[int, Field(ge=1, le=10**6)]
    planned: _Count
    stopped: _Count  # of these: every epoch met a veto, or was not finite
    predicted: _Count  # left out one by one: those whose sign the others tell
    right: _Count  # of these: rightly
    seconds: Annotated[FiniteFloat, Field(ge=0)]  # that it took
    pairs: tuple[RehearsedPair, ...]  # at most as many as were planned

    @model_validator(mode="after")
    def _adds_up(self) -> Rehearsals:
        if len(self.pairs) + self.stopped > self.planned:
            raise ValueError(f"{len(self.pairs)} rehearsals of {self.planned}")
        if not self.right <= self.predicted <= len(self.pairs):
            raise ValueError(f"{self.right} of {self.predicted} told right of {len(self.pairs)}")
        return self

    @property
    def unfinished(self) -> int:
        """Those that a budget of time left out."""
        return self.planned - self.stopped - len(self.pairs)

    @property
    def text(self) -> str:
        """What came of them, in a sentence."""
        gained = sum(pair.gain > 0 for pair in self.pairs)
        text = (
            f"{len(self.pairs)} of {self.planned} rehearsals with {self.method} in "
            f"{self.seconds:.0f} s: {gained} gained; left out one by one, {self.right} of "
            f"{self.predicted} are told right by those like them"
        )
        if self.stopped:
            text += f"; {self.stopped} were stopped: no epoch of them could be taken"
        if self.unfinished:
            text += f"; the budget left out {self.unfinished}"
        return text
