"""What an adaptation comes to, for whoever called it."""

from __future__ import annotations

from sfda.config import Config
from sfda.decision.change import ChangeReport
from sfda.decision.gate import Kind
from sfda.profiling.findings import TargetProfile
from sfda.refs import SideBySide, Version
from sfda.rehearsal.likeness import Likeness


class AdaptResult(Config):
    """What `adapt` tells at its end."""

    flow_run_id: str
    mlflow_run_id: str
    version: Version
    selected_epoch: int
    selected_by: str
    scores: dict[str, float]
    sides: SideBySide
    promoted: bool
    verdict: str  # what became of it, in one sentence
    kind: Kind
    change: ChangeReport | None  # against the champion; None: it was that already
    rehearsed: Likeness | None = None  # among the source's rehearsals, where its card has some
    champion: str  # address of the model that it was held against
    next: tuple[str, ...]  # what to type now
    audit: str | None = None  # folder of the questions to a person, where it is held
    report: str | None = None  # path of the page; None: it could not be written
    cut: str | None = None  # what the budget of time left out, or a veto
    skipped: tuple[str, ...] = ()  # images that cannot be read and were left out, each with why
    profile: TargetProfile | None = None  # of the target, before; None: of an earlier version
    images_per_second: float
    peak_memory_mb: float
