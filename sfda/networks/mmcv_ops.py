"""What mmdet needs of mmcv's compiled operations, where mmcv came without them.

`mmcv-lite` installs without a compiler but lacks the module `mmcv._ext`, which mmdet's imports ask
for. In its place stands one whose `nms` is torchvision's and whose focal loss is written in torch;
whatever else it is asked for says at the call that a compiled mmcv is needed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

NAME = "mmcv._ext"


def ensure() -> bool:
    """Make mmdet importable; True where mmcv's own compiled operations are there."""
    found = sys.modules.get(NAME)
    if found is None:
        try:
            importlib.import_module(NAME)
        except ImportError:
            sys.modules[NAME] = _StandIn(NAME)
            return False
        return True
    return not isinstance(found, _StandIn)


class _StandIn(ModuleType):
    """The module that mmcv's wrappers look operations up in."""

    nms = staticmethod(lambda boxes, scores, iou_threshold, offset=0: _nms(
        boxes, scores, iou_threshold, offset
    ))  # fmt: skip

    @staticmethod
    def sigmoid_focal_loss_forward(
        input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
    ) -> None:
        """Focal loss of every logit (arXiv:1708.02002, eq. 5), into `output`."""
        output.copy_(_focal(input, target, weight, gamma, alpha))

    @staticmethod
    def sigmoid_focal_loss_backward(
        input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float,
        alpha: float,
    ) -> None:  # fmt: skip
        """Its gradient, into `grad_input`."""
        with torch.enable_grad():
            given = input.detach().requires_grad_()
            _focal(given, target, weight, gamma, alpha).sum().backward()
        assert given.grad is not None
        grad_input.copy_(given.grad)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def lacking(*_: Any, **__: Any) -> Any:
            raise NotImplementedError(
                f"this model needs mmcv's compiled operation '{name}': install the `mmcv` that was "
                "built for this torch in place of mmcv-lite"
            )

        return lacking


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    if offset:  # sides counted as x2 - x1 + 1
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
    found: Tensor = nms(boxes, scores, iou_threshold)
    return found


def _focal(input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    classes = input.shape[1]
    wanted = F.one_hot(target, classes + 1)[:, :classes].to(input.dtype)
    p = input.sigmoid()
    miss = (1 - p) * wanted + p * (1 - wanted)
    side = alpha * wanted + (1 - alpha) * (1 - wanted)
    found = F.binary_cross_entropy_with_logits(input, wanted, reduction="none")
    found = found * side * miss.pow(gamma)
    if weight is not None and weight.numel():
        found = found * weight.to(found)[target.clamp(max=classes - 1)].unsqueeze(1)
    return found
