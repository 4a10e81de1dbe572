"""A champion is watched after its promotion: a few answers a week, and back if it does harm.

Every week is a pool of its own (docs/methods/decide.md, section 6, rule 7): its evidence of harm,
E of a null without any, multiplies with that of the weeks before. Where the product reaches
1 / alpha, at whatever moment one looks, the champion does harm with at most that chance of error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from sfda.config import Config
from sfda.decision.audit import AuditState
from sfda.refs import Digest


class Week(Config):
    """One week's questions: the folder of an audit of the champion against the one before it."""

    folder: str
    audit: str  # its id


class Monitor(Config):
    """What is watched: a champion, what it replaced, and the weeks so far."""

    name: str
    champion: str  # addresses, and digests
    champion_sha256: Digest
    before: str
    before_sha256: Digest
    alpha: float = Field(gt=0, lt=1)
    weeks: tuple[Week, ...] = ()


class MonitorState(Config):
    """What the answers of all weeks say."""

    weeks: int
    answered: int
    better: int
    worse: int
    product: float | str  # "inf" in JSON
    threshold: float
    fires: bool

    @property
    def text(self) -> str:
        """In one clause."""
        product = self.product if isinstance(self.product, str) else f"{self.product:.3g}"
        sign = ">=" if self.fires else "<"
        return (
            f"{self.answered} answers in {self.weeks} weeks: {self.better} better, {self.worse} "
            f"worse than before; evidence of harm {product} {sign} {self.threshold:g}"
        )


def monitor_state(alpha: float, weeks: Sequence[AuditState]) -> MonitorState:
    """The state after these weeks' answers, given the state of each week's audit. An audit's own
    evidence of harm counts as it is now, not as large as it ever was: only so may it multiply.

    >>> monitor_state(0.05, []).fires
    False
    """
    product = math.prod(_number(week.harm) for week in weeks)
    return MonitorState(
        weeks=len(weeks),
        answered=sum(week.answered for week in weeks),
        better=sum(week.better for week in weeks),
        worse=sum(week.worse for week in weeks),
        product=product if math.isfinite(product) else "inf",
        threshold=1 / alpha,
        fires=product >= 1 / alpha,
    )


def _number(value: float | str) -> float:
    return float(value)
