"""The toy shift of detection with a two-stage network of mmdet."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch

from sfda.networks.detector import Detector
from sfda.networks.mmdet import mmdet_detector
from sfda.testing.toys import detection as squares

PROBLEM, NAMES, SIZE, SIDE = squares.PROBLEM, squares.NAMES, squares.SIZE, squares.SIDE
FAST, MILD = squares.FAST, squares.MILD
SLACK = 0.1  # one box is 0.05 to 0.1 of AP50, and a processor's rounding decides which are found
ROUNDING = squares.ROUNDING

Batches = squares.Batches
accuracy, batch, images, info = squares.accuracy, squares.batch, squares.images, squares.info
norm, scan = squares.norm, squares.scan

CODER = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4}
ASSIGNER = {"type": "MaxIoUAssigner", "ignore_iof_thr": -1}
SAMPLER = {
    "type": "RandomSampler",
    "num": 512,
    "neg_pos_ub": -1,
    "add_gt_as_proposals": False,
}
NMS = {"type": "nms"}
BACKBONE: dict[str, Any] = {
    "type": "ResNet",
    "depth": 18,
    "stem_channels": 8,
    "base_channels": 8,
    "num_stages": 1,
    "strides": [1],
    "dilations": [1],
    "out_indices": [0],
    "norm_cfg": {"type": "GN", "num_groups": 2},
}
RPN_HEAD: dict[str, Any] = {
    "type": "RPNHead",
    "in_channels": 8,
    "feat_channels": 8,
    "anchor_generator": {
        "type": "AnchorGenerator",
        "scales": [2],
        "ratios": [1.0],
        "strides": [4],
    },
    "bbox_coder": {**CODER, "target_stds": [1.0] * 4},
    "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
    "loss_bbox": {"type": "L1Loss"},
}
ROI_HEAD: dict[str, Any] = {
    "type": "StandardRoIHead",
    "bbox_roi_extractor": {
        "type": "SingleRoIExtractor",
        "out_channels": 8,
        "featmap_strides": [4],
        "roi_layer": {
            "type": "RoIAlign",
            "output_size": 3,
            "sampling_ratio": 2,
            "aligned": False,
        },
    },
    "bbox_head": {
        "type": "Shared2FCBBoxHead",
        "in_channels": 8,
        "fc_out_channels": 32,
        "roi_feat_size": 3,
        "num_classes": 2,
        "bbox_coder": {**CODER, "target_stds": [0.1, 0.1, 0.2, 0.2]},
        "loss_cls": {"type": "CrossEntropyLoss"},
        "loss_bbox": {"type": "L1Loss"},
    },
}
TRAIN_CFG: dict[str, Any] = {
    "rpn": {
        "assigner": {
            **ASSIGNER,
            "pos_iou_thr": 0.7,
            "neg_iou_thr": 0.3,
            "min_pos_iou": 0.3,
        },
        "sampler": {**SAMPLER, "pos_fraction": 0.5},
        "allowed_border": -1,
        "pos_weight": -1,
    },
    "rpn_proposal": {
        "nms_pre": 64,
        "max_per_img": 30,
        "nms": {**NMS, "iou_threshold": 0.7},
        "min_bbox_size": 0,
    },
    "rcnn": {
        "assigner": {
            **ASSIGNER,
            "pos_iou_thr": 0.5,
            "neg_iou_thr": 0.5,
            "min_pos_iou": 0.5,
            "match_low_quality": False,
        },
        "sampler": {**SAMPLER, "pos_fraction": 0.25},
        "pos_weight": -1,
    },
}
TEST_CFG: dict[str, Any] = {
    "rpn": {
        "nms_pre": 64,
        "max_per_img": 20,
        "nms": {**NMS, "iou_threshold": 0.7},
        "min_bbox_size": 0,
    },
    "rcnn": {"score_thr": 0.05, "nms": {**NMS, "iou_threshold": 0.5}, "max_per_img": 100},
}


def config() -> dict[str, Any]:
    """A Faster R-CNN on maps of stride 4 with eight channels; like that of torchvision beside it
    but for its body.
    """
    parts = {
        "type": "FasterRCNN",
        "backbone": BACKBONE,
        "rpn_head": RPN_HEAD,
        "roi_head": ROI_HEAD,
        "train_cfg": TRAIN_CFG,
        "test_cfg": TEST_CFG,
    }
    return copy.deepcopy(parts)


def network() -> Detector:
    """A detector with all parts that a real one has."""
    torch.manual_seed(0)
    return mmdet_detector(config(), len(NAMES))


@cache
def _trained() -> Detector:
    return squares.trained(network(), 120)


def source() -> Detector:
    """A fresh copy of the trained source model."""
    model = network()
    model.load_state_dict(_trained().state_dict())
    return model.eval()
