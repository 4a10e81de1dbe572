"""The panel of a classification, as PNG bytes: images whose class changed, with both answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from sfda.building_blocks.rejection import UNKNOWN_NAME, predicted_labels
from sfda.images.plotting import Axes
from sfda.inference.forward import refuse_not_finite
from sfda.loading.labels import labels_in
from sfda.loading.opened import Opened
from sfda.loading.scan import scan
from sfda.problems.changed_images import most_changed, rgb, sampled_rows
from sfda.problems.panel_frame import ending, png, sheet, shortened, small
from sfda.refs import ModelSpec

COMPARED = 256  # images that are compared, evenly spread over the split
SHOWN, ACROSS = 12, 4


@dataclass(frozen=True)
class ClassSample:
    """One image, and what both models and a person say of it, in words."""

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    source: str
    adapted: str
    truth: str | None = None


def class_panel(samples: Sequence[ClassSample], *, title: str) -> bytes:
    """Images in rows of four, under each what both models say, and the truth where there is one."""
    across = min(ACROSS, len(samples))
    rows = -(-len(samples) // across)
    lines = 3 + any(sample.truth is not None for sample in samples)
    tall = max(min(1.4, s.image.shape[0] / s.image.shape[1]) for s in samples)
    size = (max(3.0, 2.7 * across), (2.5 * tall + 0.2 * lines) * rows + 0.5)
    figure, grid = sheet(rows, across, size=size, title=title)
    for axis, sample in zip(grid.flat, samples, strict=False):
        _draw(axis, sample)
    return png(figure)


def _draw(axis: Axes, sample: ClassSample) -> None:
    axis.imshow(small(sample.image))
    lines = [
        ending(sample.name, 30),
        f"source: {shortened(sample.source, 32)}",
        f"adapted: {shortened(sample.adapted, 32)}",
    ]
    if sample.truth is not None:
        lines.append(f"truth: {shortened(sample.truth, 32)}")
    axis.set_title("\n".join(lines), fontsize=8, loc="left")


def draw_changed(
    source: nn.Module, adapted: nn.Module, opened: Opened, spec: ModelSpec, title: str
) -> bytes | None:
    """A PNG of images whose class changed, those first that both models are surest of; None where
    none of at most 256 did. Both answer "unknown" above the spec's threshold.
    """
    split, rows = opened.split, sampled_rows(len(opened.images), COMPARED)
    one, other = (
        logits_of(network, opened, spec, rows).softmax(1) for network in (source, adapted)
    )
    first, second = (predicted_labels(probs, spec.reject) for probs in (one, other))
    sure = one.amax(1) + other.amax(1)
    changed = (first != second).nonzero().flatten().tolist()
    chosen = most_changed(((float(sure[n]), n) for n in changed), SHOWN)
    names = (*spec.classes, UNKNOWN_NAME)  # UNKNOWN is -1, the last
    truth = labels_in(split, spec.classes, unknown=True).index if split.labels else None
    samples = [
        ClassSample(
            name=split.names[rows[n]],
            image=rgb(split.image(rows[n], spec.input.window)),
            source=with_confidence(names[int(first[n])], float(one[n].max())),
            adapted=with_confidence(names[int(second[n])], float(other[n].max())),
            truth=None if truth is None else names[int(truth[rows[n]])],
        )
        for n in chosen
    ]
    return class_panel(samples, title=title) if samples else None


def logits_of(
    network: nn.Module, opened: Opened, spec: ModelSpec, rows: Sequence[int]
) -> Float[Tensor, "R C"]:
    """What a network says of some rows, which are in order, in double precision. Raises
    NotFinite.
    """
    device = next(network.parameters()).device
    look = scan(opened.images, spec.input, device=device)
    logits = torch.cat([out.logits.double().cpu() for _, out in look(network, torch.tensor(rows))])
    refuse_not_finite(logits)
    return logits


def with_confidence(name: str, share: float) -> str:
    """A class and how sure a model is of it; of a long name the beginning.

    >>> with_confidence("cat", 0.934)
    'cat 93 %'
    """
    return f"{shortened(name, 24)} {100 * share:.0f} %"
