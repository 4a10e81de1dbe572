"""Where two classifiers differ: an image of another class, or known to one of them alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sfda.building_blocks.rejection import UNKNOWN_NAME, predicted_labels
from sfda.inference.forward import refuse_not_finite
from sfda.measures.change import NONE_OF_THESE, Claim, ImageUnits, Unit, class_gain
from sfda.measures.opinions import ClassOpinions, PoolSize
from sfda.problems.classification.network import ClassOutput
from sfda.refs import ModelSpec
from sfda.types import UNKNOWN, Seen

CLAIM = Claim("class", "images", "accuracy", "more of these images are classified rightly")


def answers(output: Seen, spec: ModelSpec) -> Iterator[tuple[int, int]]:
    """(row, class) of a batch; UNKNOWN above the spec's threshold of rejection. Raises
    NotFinite.
    """
    rows, out = output
    refuse_not_finite(out.logits)
    labels = predicted_labels(out.logits.softmax(1), spec.reject)
    yield from zip(rows.tolist(), labels.tolist(), strict=True)


def image_units(one: int, other: int, spec: ModelSpec, reach: float) -> ImageUnits:
    """The image, if its class differs."""
    before, after = (
        UNKNOWN_NAME if label == UNKNOWN else spec.classes[label] for label in (one, other)
    )
    changed = int(one != other)

    def unit(number: int) -> Unit:
        return Unit((), "", before, after)

    return ImageUnits(1, changed, {before: (1, changed)}, unit, unit)


def x_of(unit: Unit, answer: str) -> tuple[float, ...] | None:
    """+1 where B is right and A wrong, -1 the reverse, else 0; None for no answer. "None of these"
    is what a model that rejects calls "unknown".
    """
    return class_gain(unit, UNKNOWN_NAME if answer == NONE_OF_THESE else answer)


def opinions(output: ClassOutput, rows: Sequence[int], pool: PoolSize) -> ClassOpinions:
    """The class distribution of each image."""
    return ClassOpinions.of_rows(output.logits[:, None])
