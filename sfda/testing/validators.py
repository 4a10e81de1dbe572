"""The contract that every validator keeps, as functions that say what is broken."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sfda.config import merged
from sfda.testing.toys import Toy, toys_of
from sfda.testing.trial import require, require_kind, require_refused, require_same, run_checks
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig
from sfda.weights.source_card import Card, CardFacts

SCORE_NOISE = 1e-4  # of two scores that are equal but for the order of a sum
CARD_BINS = 15  # of the calibration in a card


def check_validator(
    kind: type[Validator],
    problem: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Try a validator on the toy shifts of a problem, or of all that it serves; takes seconds.

    Raises AssertionError that says what is broken, and BadInput for settings it does not know.
    """
    require_validator(kind)
    problems = sorted(kind.problems) if problem is None else [problem]
    for name in problems:
        require(name in kind.problems, f"{kind.__name__} is not for {name}: see its `problems`")
        require(bool(toys_of(name)), f"there is no toy shift of {name} to try it on")
        for toy in toys_of(name):
            scoring = Scoring(kind, toy, settings or {})
            run_checks(f"{kind.__name__} on {name}", VALIDATOR_CHECKS, scoring)


def require_validator(kind: type[Validator]) -> None:
    """What a class says of itself is there and has a meaning."""
    name = require_kind(kind, Validator, ValidatorConfig)
    require(kind.update is not Validator.update, f"{name} defines no `update`")
    require(kind.compute is not Validator.compute, f"{name} defines no `compute`")
    for needs, method in (
        ("needs_source", "refer"),
        ("needs_network", "take_network"),
        ("needs_card", "take_card"),
    ):
        defined = getattr(kind, method) is not getattr(Validator, method)
        require(
            defined or not getattr(kind, needs),
            f"{name} says `{needs}` but defines no `{method}`",
        )


@dataclass(frozen=True)
class Scoring:
    """A validator, and what it is fed: what the source model of a toy says of its target."""

    kind: type[Validator]
    toy: Toy
    settings: Mapping[str, Any]

    def validator(self, network: nn.Module | None = None, **settings: object) -> Validator:
        """A fresh one for a network (None: the source), which knows what it asks for: the source's
        profile, the network, the source's card. Raises BadInput.
        """
        inputs = merged(dict(self.settings), settings)
        validator = self.kind.with_settings(self.toy.PROBLEM, inputs)
        if self.kind.needs_source:
            validator.refer(self.profile)
        if self.kind.needs_network:
            validator.take_network(self.toy.source() if network is None else network)
        if self.kind.needs_card:
            validator.take_card(self.card)
        return validator

    def score(self, batches: Sequence[SeenViews], network: nn.Module | None = None) -> float:
        """That of a fresh validator over these batches, which are of a network."""
        validator = self.validator(network)
        for seen in batches:
            validator.update(seen)
        return validator.compute()

    @cached_property
    def target(self) -> Tensor:
        """Images a mild shift away."""
        images, _ = self.toy.images(self.toy.MILD, seed=1)
        return images

    def seen(self, network: nn.Module, rows: Sequence[int]) -> SeenViews:
        """What a network makes of some rows; of views too where the validator asks for them."""
        index = torch.tensor(rows)
        batch = self.toy.batch(self.target, index)
        shown = self.target[index] if self.kind.needs_network else None
        network.eval()
        with torch.no_grad():
            output = network(self.target[index])
            if not self.kind.needs_views:
                return SeenViews(index, output, images=shown)
            return SeenViews(index, output, network(batch.weak), network(batch.strong), shown)

    @cached_property
    def batches(self) -> tuple[SeenViews, ...]:
        """What the source says of all rows, in three batches of unequal size."""
        size, network = len(self.target), self.toy.source()
        cuts = (0, size // 2, size - 3, size)
        return tuple(self.seen(network, range(*cut)) for cut in pairwise(cuts))

    @cached_property
    def profile(self) -> dict[str, Any]:
        """What the source model said of the target: how often each class, and how sure."""
        with torch.no_grad():
            output = self.toy.source()(self.target)
        boxes = getattr(output, "boxes", None)
        if isinstance(boxes, list):
            labels = torch.cat([part.labels for part in boxes])
            sure = torch.cat([part.scores for part in boxes])
            classes = len(self.toy.info().classes or ())
        else:
            sure, labels = output.logits.softmax(1).max(1)
            classes = output.logits.shape[1]
        counts = labels.flatten().bincount(minlength=classes).tolist()
        return {
            "classes": {f"class-{label}": count for label, count in enumerate(counts)},
            "mean_confidence": float(sure.mean()) if sure.numel() else 0.0,
        }

    @cached_property
    def card(self) -> Card:
        """What the source model said of its own images, where each has or shows one class each."""
        images, labels = self.toy.images()
        with torch.no_grad():
            sure, answers = self.toy.source()(images).logits.softmax(1).max(1)
        assert isinstance(labels, Tensor)
        hits = (answers == labels).flatten().float()
        bin_of = (sure.flatten() * CARD_BINS).long().clamp(max=CARD_BINS - 1)
        sums = torch.stack([torch.ones_like(hits), sure.flatten(), hits])
        facts = CardFacts(
            classes=tuple(self.profile["classes"]),
            source_sha256="0" * 64,
            manifest="toy",
            manifest_sha256="0" * 64,
            split="val",
            count=len(images),
            metrics={},
            temperature=1.0,
        )
        tensors = {
            "calibration": torch.zeros(3, CARD_BINS).index_add_(1, bin_of, sums),
            "confidence_histogram": sure.histc(20, 0, 1),
        }
        return Card(facts, tensors)


def the_score_is_a_finite_number(scoring: Scoring) -> None:
    """And the same of two validators: nothing is shared between them."""
    score = scoring.score(scoring.batches)
    require(isinstance(score, float), f"`compute` gives {type(score).__name__}, not float")
    require(math.isfinite(score), f"the score is {score}")
    again = scoring.score(scoring.batches)
    require(
        score == again, f"a second validator scores the same {again}, not {score}: shared state"
    )


def order_and_batching_do_not_count(scoring: Scoring) -> None:
    """The score is of the target, whatever came first and in whatever parts."""
    score = scoring.score(scoring.batches)
    turned = scoring.score(scoring.batches[::-1])
    close = math.isclose(score, turned, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE)
    require(close, f"batches in another order score {turned}, not {score}")
    whole = scoring.score([scoring.seen(scoring.toy.source(), range(len(scoring.target)))])
    close = math.isclose(score, whole, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE)
    require(close, f"one batch of all rows scores {whole}, three parts {score}")


def of_nothing_there_is_no_score(scoring: Scoring) -> None:
    """A ValueError, and no number that could win."""
    validator = scoring.validator()
    try:
        score = validator.compute()
    except ValueError:
        return
    raise AssertionError(f"of no predictions the score is {score}; raise ValueError")


def outputs_are_left_as_they_are(scoring: Scoring) -> None:
    """One scan feeds all validators: none may change what the next one sees."""
    seen = scoring.batches[0]
    before = copy.deepcopy(seen)
    scoring.validator().update(seen)
    for part in ("output", "weak", "strong"):
        one, other = getattr(before, part), getattr(seen, part)
        if one is None:
            continue
        names = [name for name in one._fields if isinstance(getattr(one, name), Tensor)]
        old, new = ({n: getattr(out, n) for n in names} for out in (one, other))
        require_same(old, new, f"`update` changed the {part}", 0.0)


def it_tells_models_apart(scoring: Scoring) -> None:
    """A network with random weights has another score than the source model."""
    network, rows = scoring.toy.network().eval(), range(len(scoring.target))
    one = scoring.score(scoring.batches)
    other = scoring.score([scoring.seen(network, rows)], network)
    require(one != other, f"the source model and an untrained network both score {one}")


def unknown_settings_are_refused(scoring: Scoring) -> None:
    """A typo is an error at the first line."""
    require_refused(scoring.validator, {"thresold": 0.5}, "thresold")


VALIDATOR_CHECKS: tuple[Callable[[Scoring], None], ...] = (
    outputs_are_left_as_they_are,
    the_score_is_a_finite_number,
    order_and_batching_do_not_count,
    of_nothing_there_is_no_score,
    it_tells_models_apart,
    unknown_settings_are_refused,
)
