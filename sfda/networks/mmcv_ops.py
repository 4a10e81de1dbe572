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
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

MMCV_EXT = "mmcv._ext"


def ensure() -> bool:
    """Make mmdet importable; True where mmcv's own compiled operations are there."""
    module = sys.modules.get(MMCV_EXT)
    if module is None:
        try:
            importlib.import_module(MMCV_EXT)
        except ImportError:
            sys.modules[MMCV_EXT] = _StandIn(MMCV_EXT)
            return False
        return True
    return not isinstance(module, _StandIn)


class _StandIn(ModuleType):
    """The module that mmcv's wrappers look operations up in."""

    @staticmethod
    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
        """Rows that stay, the surest first; `offset` 1 counts sides as x2 - x1 + 1."""
        if offset:
            boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
        rows: Tensor = nms(boxes, scores, iou_threshold)
        return rows

    @staticmethod
    def sigmoid_focal_loss_forward(
        input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
    ) -> None:
        """Focal loss of every logit (arXiv:1708.02002, eq. 5), into `output`."""
        output.copy_(_focal(input, target, weight, gamma, alpha))

    @staticmethod
    def sigmoid_focal_loss_backward(
        input: Tensor,
        target: Tensor,
        weight: Tensor,
        grad_input: Tensor,
        gamma: float,
        alpha: float,
    ) -> None:
        """Its gradient, into `grad_input`."""
        with torch.enable_grad():
            logits = input.detach().requires_grad_()
            _focal(logits, target, weight, gamma, alpha).sum().backward()
        assert logits.grad is not None
        grad_input.copy_(logits.grad)

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def lacking(*_: object, **__: object) -> NoReturn:
            raise NotImplementedError(
                f"this model needs mmcv's compiled operation '{name}': install the `mmcv` that was "
                "built for this torch in place of mmcv-lite"
            )

        return lacking


def _focal(input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    classes = input.shape[1]
    one_hot = F.one_hot(target, classes + 1)[:, :classes].to(input.dtype)
    p = input.sigmoid()
    miss = (1 - p) * one_hot + p * (1 - one_hot)
    side = alpha * one_hot + (1 - alpha) * (1 - one_hot)
    loss = F.binary_cross_entropy_with_logits(input, one_hot, reduction="none")
    loss = loss * side * miss.pow(gamma)
    if weight is not None and weight.numel():
        loss = loss * weight.to(loss)[target.clamp(max=classes - 1)].unsqueeze(1)
    return loss
