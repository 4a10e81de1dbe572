"""What a model is worth on a labelled split, whatever the problem: a report from one scan of it."""

from __future__ import annotations

from functools import partial

import torch

from sfda.inference.over_split import infer_split
from sfda.loading.opened import Opened
from sfda.problems._outputs import Evaluator, SplitInference
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelSpec


def make_evaluator(
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    *,
    unknown: bool = True,
    infer: SplitInference | None = None,
) -> Evaluator:
    """How to evaluate networks of this spec on an opened split, given the threshold of rejection.

    `infer` gives the outputs for all images in another way than by inference here. Samples of
    `unknown` classes have a meaning where models may reject. Raises BadInput where the split has no
    labels, or they do not fit the model's classes.
    """
    here = partial(infer_split, opened=opened, spec=spec, device=device)
    return PROBLEMS[spec.problem].make_evaluator(
        opened, spec, device, infer or here, unknown=unknown
    )
