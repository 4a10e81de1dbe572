"""What is known of a target before it is adapted to: findings, and what they speak for."""

from __future__ import annotations

from typing import Literal

from pydantic import FiniteFloat

from sfda.config import Config

Standing = Literal["fine", "notice", "against", "not known"]
"""What a finding means for an adaptation: nothing, something to see to, that it should not be done
like this, or that nothing can be told."""

NOT_ADAPTED = "source"  # the method that `auto` takes where nothing should be adapted


class ProfileFinding(Config):
    """One thing that was looked at: its figure, the limit it is held against, and a sentence."""

    name: str
    standing: Standing
    sentence: str
    figure: FiniteFloat | None = None
    limit: FiniteFloat | None = None
    labels_help: bool = False  # what speaks against it would be settled by people's labels
    remedy: str = ""  # what to do about it; '' where nothing is to be done


class Recommendation(Config):
    """What to do with a target, and why. `method` is what `--method auto` takes."""

    kind: Literal["adapt", "leave", "ask"]
    method: str
    reasons: tuple[str, ...]

    @property
    def text(self) -> str:
        """In a word: a method's name, "do not adapt", "ask for labels"."""
        words = {"adapt": self.method, "leave": "do not adapt", "ask": "ask for labels"}
        return words[self.kind]


class TargetProfile(Config):
    """What can be seen of a target with its source model, before anything is adapted."""

    images: int  # of the target that an adaptation would learn from
    looked_at: int  # of these, drawn at random
    findings: tuple[ProfileFinding, ...]
    recommendation: Recommendation

    @property
    def against(self) -> tuple[str, ...]:
        """Names of the findings that speak against an adaptation."""
        return tuple(one.name for one in self.findings if one.standing == "against")
