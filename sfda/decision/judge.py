"""What one look at two models on the pool tells: their change, figures, and gain where there are
labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sfda.decision.change import CLASSES_LISTED, Side, scan_change
from sfda.decision.gate import Evidence
from sfda.decision.vetoes import SUREST, Expected, FigureCounter, Figures, vetoes
from sfda.errors import NotFinite
from sfda.inference.forward import refuse_not_finite
from sfda.loading.scan import scan
from sfda.policy import VetoLimits
from sfda.problems.registry import PROBLEMS


def judge(
    before: Side,
    after: Side,
    device: torch.device,
    *,
    limits: VetoLimits,
    expected: Expected,
) -> Evidence:
    """The evidence without labels and without answers: what changes, and what speaks against it."""
    surest: dict[int, int] = {}
    figures_before = figures_over(before, device, collect=surest)
    try:
        figures_after = figures_over(after, device, surest=surest)
        change = scan_change(
            before.network,
            after.network,
            before.opened,
            before.spec,
            after.spec,
            device,
            opened_b=after.opened,
        ).report
    except NotFinite as error:
        same = scan_change(
            before.network, before.network, before.opened, before.spec, before.spec, device
        ).report
        lost = {"changed": same.answers, "share": 1.0, "images_changed": same.images}
        text = f"its outputs are not finite ({error})"
        return Evidence(change=same.model_copy(update=lost), vetoes=(text,))
    against = vetoes(figures_after, figures_before, limits, expected, before.spec.classes)
    return Evidence(
        change=change,
        vetoes=against,
        class_shares=class_shares(figures_before, figures_after, before.spec.classes),
    )


def class_shares(
    before: Figures, after: Figures, classes: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Each class's share of the answers of both models, the 1,000 that moved most, in the order of
    the classes; empty where nothing has a class.
    """
    one, other = before.answer_shares, after.answer_shares
    if not one or not other:
        return {}
    pairs = list(zip(classes, one, other, strict=False))  # boxes may have a class more
    moved = sorted(range(len(pairs)), key=lambda n: -abs(pairs[n][2] - pairs[n][1]))
    return {pairs[n][0]: pairs[n][1:] for n in sorted(moved[:CLASSES_LISTED])}


def figures_over(
    model: Side,
    device: torch.device,
    *,
    surest: dict[int, int] | None = None,
    collect: dict[int, int] | None = None,
) -> Figures:
    """Figures of a model's answers to the pool. `collect` is filled with row -> class of the fifth
    that it is surest of; `surest` is such a fifth of another model, which it should agree with.
    Raises NotFinite.
    """
    problem = PROBLEMS[model.spec.problem]
    counter = FigureCounter(surest)
    classes = problem.one_class_an_image
    rows: list[int] = []
    answers: list[int] = []
    sure: list[float] = []
    for index, output in scan(model.opened.images, model.spec.input, device=device)(model.network):
        refuse_not_finite(output.logits)
        counter.update(
            problem.tally(output),
            index.tolist() if classes else (),
            problem.answered_classes(output) if classes else (),
        )
        if classes and collect is not None:
            rows += index.tolist()
            answers += problem.answered_classes(output)
            sure += output.logits.float().softmax(1).amax(1).tolist()
    if collect is not None and sure:
        order = np.argsort(-np.array(sure), kind="stable")[: round(len(sure) * SUREST)]
        collect.update({rows[n]: answers[n] for n in order.tolist()})
    return counter.compute()
