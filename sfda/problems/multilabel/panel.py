"""The panel of a multi-label classification: images with the classes of which one model says yes
and the other no.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sfda.loading.labels import labels_in
from sfda.loading.opened import Opened
from sfda.problems.changed_images import most_changed, rgb, sampled_rows
from sfda.problems.classification.panel import (
    COMPARED,
    SHOWN,
    ClassSample,
    class_panel,
    logits_of,
    with_confidence,
)
from sfda.refs import ModelSpec

NAMED = 2  # classes of one answer


def draw_changed(
    source: nn.Module, adapted: nn.Module, opened: Opened, spec: ModelSpec, title: str
) -> bytes | None:
    """A PNG of images whose answers changed, most of them first: of the classes that changed, those
    that each model sees, and those that are there. None where no answer of at most 256 images did.
    """
    split, rows = opened.split, sampled_rows(len(opened.images), COMPARED)
    one, other = (logits_of(network, opened, spec, rows).sigmoid() for network in (source, adapted))
    differ = (one >= 0.5) != (other >= 0.5)
    counts = differ.sum(1).tolist()
    chosen = most_changed(((count, n) for n, count in enumerate(counts) if count), SHOWN)
    flags = labels_in(split, spec.classes, unknown=True).flags if split.labels else None
    samples = []
    for n in chosen:
        asked = differ[n].numpy()
        there = None if flags is None else _named(asked & (flags[rows[n]] == 1), spec.classes)
        samples.append(
            ClassSample(
                name=split.names[rows[n]],
                image=rgb(split.image(rows[n], spec.input.window)),
                source=_answer(one[n], asked, spec.classes),
                adapted=_answer(other[n], asked, spec.classes),
                truth=there,
            )
        )
    return class_panel(samples, title=title) if samples else None


def _answer(
    probs: Float[Tensor, " C"], asked: Bool[np.ndarray, " C"], classes: Sequence[str]
) -> str:
    """The classes among those asked for that are seen, with their probabilities."""
    seen = np.flatnonzero(asked & (probs >= 0.5).numpy()).tolist()
    return _listed([with_confidence(classes[label], float(probs[label])) for label in seen])


def _named(seen: Bool[np.ndarray, " C"], classes: Sequence[str]) -> str:
    return _listed([classes[label] for label in np.flatnonzero(seen).tolist()])


def _listed(names: Sequence[str]) -> str:
    more = f" +{len(names) - NAMED}" if len(names) > NAMED else ""
    return (", ".join(names[:NAMED]) + more) or "none of these"
