"""What every validator is: fed once over the target, it gives one number; higher is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast

from torch import nn

from sfda.config import Config, merged
from sfda.problems.classification.network import Classifier
from sfda.problems.registry import PROBLEMS, ProblemsOfNetworks
from sfda.problems.segmentation.network import Segmenter
from sfda.types import SeenViews
from sfda.weights.source_card import Card


class ValidatorConfig(Config):
    """Settings of all validators."""


class Validator:
    """A score of a model on the target without labels. One scan feeds all validators."""

    idea: ClassVar[str] = ""  # what it measures, in one clause, for tables
    Config: ClassVar[type[ValidatorConfig]] = ValidatorConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier, Segmenter)
    """Classes of networks that it can score."""
    problems: ClassVar[frozenset[str]] = cast("frozenset[str]", ProblemsOfNetworks())
    """Problems that it serves: by default those of `networks`."""
    needs_views: ClassVar[bool] = False  # also outputs on a weak and a strong view
    needs_source: ClassVar[bool] = False  # `refer` is called with what the source model says
    needs_network: ClassVar[bool] = False  # `take_network` is called; batches hold images
    needs_card: ClassVar[bool] = False  # `take_card` is called; left out without one
    chooses: ClassVar[bool] = True
    """Whether it may choose between models. Some tell how good one model is, and no more."""
    tells_level: ClassVar[bool] = False  # its value says something of one model by itself

    @classmethod
    def serves(cls, network: nn.Module) -> bool:
        """Whether it can score this network, which is one of `networks`."""
        return True

    @classmethod
    def costs_more(cls) -> bool:
        """Whether it needs more than the one scan that feeds all validators."""
        return cls.needs_views or cls.needs_network

    @classmethod
    def defaults_for(cls, problem: str) -> dict[str, Any]:
        """Settings that stand in for the defaults in a problem."""
        own = dict(PROBLEMS[problem].settings.get("validator", {}))
        return {name: value for name, value in own.items() if name in cls.Config.model_fields}

    @classmethod
    def with_settings(cls, problem: str, settings: Mapping[str, Any]) -> Self:
        """One with these settings above the defaults in a problem. Raises BadInput.

        A class without settings of its own need not take any.
        """
        config = cls.Config.from_settings(merged(cls.defaults_for(problem), dict(settings)))
        return cls() if cls.Config is ValidatorConfig else cls(config)

    def __init__(self, config: ValidatorConfig | None = None) -> None:
        self.config = self.Config() if config is None else config

    def refer(self, profile: Mapping[str, Any]) -> None:
        """Take the profile of the source model's predictions, where `needs_source`."""

    def take_network(self, network: nn.Module) -> None:
        """Take the network that is scored, where `needs_network`; it stays as it is."""

    def take_card(self, card: Card) -> None:
        """Take the source model's card, where `needs_card`. Raises BadInput for one that lacks
        what is needed.
        """

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of outputs."""
        raise NotImplementedError(f"{type(self).__name__} takes nothing in")

    def compute(self) -> float:
        """The score over all that was taken in; ValueError if that is nothing."""
        raise NotImplementedError(f"{type(self).__name__} computes nothing")
