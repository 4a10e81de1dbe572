"""The policy of promotion: how sure one must be, what is vetoed, and what happens unattended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from sfda.config import Config, read_yaml
from sfda.errors import BadInput

MOST_BUDGET = 10_000  # answers of people, of one audit


class VetoLimits(Config):
    """Figures past which a result is rejected, whatever its scores say (decide.md, section 5)."""

    effective_classes: float = Field(
        0.5,
        ge=0,
        le=1,
        description="least exp(entropy of the mean prediction), as share of C",
    )
    one_class: float = Field(
        0.8, gt=0, le=1, description="largest share of answers of one class ..."
    )
    one_class_before: float = Field(
        0.5, gt=0, le=1, description="... where the model before it had less than this of it"
    )
    boxes_factor: float = Field(3.0, gt=1, description="largest change of the boxes an image")
    unknown: float = Field(0.9, gt=0, le=1, description="largest share of answers 'unknown'")
    surest_agreement: float = Field(
        0.8, ge=0, le=1, description="least agreement where the model before is surest: a fifth"
    )
    pseudo_labels: float = Field(
        0.05, ge=0, lt=1, description="least pseudo-labels kept, as share of those of epoch 1"
    )


class DecisionPolicy(Config):
    """When a new version becomes champion (decide.md, section 6)."""

    alpha: float = Field(0.05, gt=0, le=0.2, description="largest share of wrong verdicts")
    margin: float = Field(
        0.0, ge=0, lt=1, description="gain that a new version must exceed: 0.01 is one point"
    )
    budget: PositiveInt = Field(40, le=MOST_BUDGET, description="answers that decide, of an audit")
    unchanged_share: float = Field(
        0.2, ge=0, le=0.5, description="of the questions, those that tell the level alone"
    )
    max_change: float = Field(
        0.1, ge=0, le=1, description="largest share of changed answers promoted unattended"
    )
    unattended: bool = Field(False, description="promote on evidence that needs no answer")
    ladder: bool = Field(
        False, description="try smaller steps from the source where a version is not promoted"
    )
    weekly: int = Field(5, ge=0, le=1000, description="questions a week after a promotion")
    vetoes: VetoLimits = VetoLimits()

    @property
    def most_questions(self) -> int:
        """Answers of changed units at most: twice those that decide."""
        return 2 * self.budget


def read_policy(path: Path) -> DecisionPolicy:
    """A policy of a YAML file. Raises BadInput that names the file and every wrong entry."""
    document: Any = read_yaml(path, "name a YAML file of policy, as alpha: 0.05")
    if not isinstance(document, dict):
        raise BadInput(f"{path} holds no policy; write names and values, as alpha: 0.05")
    return DecisionPolicy.from_settings(document, str(path))
