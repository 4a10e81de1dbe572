"""Weights of a torchvision Faster R-CNN under mmdet's names, background moved to the last place."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

RPN = {"conv.0.0": "rpn_conv", "cls_logits": "rpn_cls", "bbox_pred": "rpn_reg"}
HEAD = {"box_head.fc6": "shared_fcs.0", "box_head.fc7": "shared_fcs.1"}


def to_mmdet(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All but the backbone's body, whose names are its own; a pyramid becomes a neck."""
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        if part == "backbone":
            result[_backbone(name)] = value
        elif part == "rpn":
            layer, _, kind = rest.removeprefix("head.").rpartition(".")
            result[f"rpn_head.{RPN[layer]}.{kind}"] = value
        else:
            layer, _, kind = rest.rpartition(".")
            if layer in HEAD:
                result[f"roi_head.bbox_head.{HEAD[layer]}.{kind}"] = value
            elif layer.endswith("cls_score"):
                moved = torch.cat([value[1:], value[:1]])
                result[f"roi_head.bbox_head.fc_cls.{kind}"] = moved
            else:
                result[f"roi_head.bbox_head.fc_reg.{kind}"] = value[4:]  # none for the background
    return result


def _backbone(name: str) -> str:
    pyramid = re.match(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.0\.(\w+)", name)
    if pyramid is None:
        return name
    kind = {"inner": "lateral_convs", "layer": "fpn_convs"}[pyramid[1]]
    return f"neck.{kind}.{pyramid[2]}.conv.{pyramid[3]}"
