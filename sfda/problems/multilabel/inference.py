"""What a multi-label classifier says of a set: answers, probabilities and features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfda.inference.forward import refuse_not_finite
from sfda.inference.predictions import ShardWriter
from sfda.inference.summaries import Summary
from sfda.loading.opened import Opened
from sfda.loading.scan import scan
from sfda.measures.tally import Tally
from sfda.problems.classification import inference as classification
from sfda.problems.multilabel.cells import cell_of
from sfda.problems.multilabel.network import MultilabelOutput
from sfda.refs import ModelSpec, Profile
from sfda.types import Seen

# rows are scanned and kept as a classifier's
infer_rows, at_once, to_arrays = (
    classification.infer_rows,
    classification.at_once,
    classification.to_arrays,
)


def from_arrays(arrays: dict[str, Any], device: torch.device) -> Seen:
    """What `to_arrays` made, back."""
    row, output = classification.from_arrays(arrays, device)
    return Seen(row, MultilabelOutput(*output))


def summarise_output(output: MultilabelOutput) -> Summary:
    """Entropies are means over classes. The margin is |2 p - 1| of the answer that is least sure
    (BinMin: Brinker, 2006). The residual, p less the likelier answer, times the features is the
    gradient of the head that BADGE asks for.
    """
    logits = output.logits.float()
    probs = logits.sigmoid()
    margin = (2 * probs - 1).abs().amin(1)
    residual = probs - (probs >= 0.5).float()
    return Summary(output.features.float(), probs, binary_entropies(logits), margin, residual)


def prediction_table(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device, out: Path
) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    """File, the names of what it shows (those of 0.5 and above), and a probability a class."""
    header = ("file", "labels", *(f"probability:{name}" for name in spec.classes))
    return header, _lines(network, spec, opened, device)


def _lines(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device
) -> Iterator[Sequence[Any]]:
    for index, output in scan(opened.images, spec.input, device=device)(network):
        refuse_not_finite(output.logits)
        for row, probs in zip(index.tolist(), output.logits.sigmoid().tolist(), strict=True):
            names = cell_of(n for n, p in zip(spec.classes, probs, strict=True) if p >= 0.5)
            yield opened.split.names[row], names, *(f"{p:.6f}" for p in probs)


def keep_outputs(outputs: Iterable[Seen], spec: ModelSpec, part: Path, size: int) -> Profile:
    """Rows in shards of 16,384: `features` [n, D], `logits` [n, C], `labels` [n, C] of 0 and 1. The
    profile counts the images of each class; an image's confidence is the mean over classes of the
    likelier answer's probability.
    """
    profile = classification.ClassProfile(spec.classes)
    writer = ShardWriter(part, size)
    for index, out in outputs:
        probs = out.logits.float().sigmoid().cpu().numpy()
        labels = (probs >= 0.5).astype(np.uint8)
        sure = np.maximum(probs, 1 - probs).mean(1)
        profile.update(labels.sum(0, dtype=np.int64), sure)
        writer.write(
            index.cpu().numpy(),
            features=out.features.float().cpu().numpy(),
            logits=out.logits.float().cpu().numpy(),
            labels=labels,
        )
    writer.close()
    # of the total each class is a share: an image may have several
    return {**profile.compute(), "total": profile.images}


def binary_entropies(logits: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """Mean over classes of the entropy of yes and no, in nats: log 2 when nothing is known.

    H(p) = log(1 + e^x) - p x for a logit x.
    """
    return (F.softplus(logits) - logits.sigmoid() * logits).mean(1)


def entropy_sum(output: MultilabelOutput) -> tuple[float, int]:
    """Sum over images of the mean entropy of their classes; how many images."""
    logits = output.logits.double()
    return float(binary_entropies(logits).sum()), len(logits)


def agreement_counts(
    weak: MultilabelOutput, strong: MultilabelOutput, classes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """By class: half the number of yes of both views, and of how many images both say yes."""
    one, other = (view.logits >= 0 for view in (weak, strong))
    yield (one.sum(0) + other.sum(0)).double() / 2, (one & other).sum(0).double()


def tally(output: MultilabelOutput) -> Tally:
    """By image: how probable each class is, and how often it is answered (0.5 and above)."""
    probs = output.logits.double().sigmoid()
    answers = (probs >= 0.5).double()
    return Tally(len(probs), probs.sum(0), answers.sum(0), float(answers.sum()))
