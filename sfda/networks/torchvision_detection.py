"""torchvision's Faster R-CNN behind our `Detector`: the background moved from first to last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision import models
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection import faster_rcnn as builders
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import (
    BackboneWithFPN,
    _resnet_fpn_extractor,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from sfda.building_blocks.boxes import Boxes, spared
from sfda.building_blocks.precision import exact, full_precision
from sfda.errors import BadInput
from sfda.networks.detector import Detector, DetOutput, Features, Regions
from sfda.networks.input_defaults import SQUEEZE
from sfda.networks.pooling import keep_cuda_pooling_
from sfda.types import Images, Losses

COUNTS = {  # proposals before and after their NMS, as in LPLD; torchvision's own are 1000 and 2000
    "rpn_pre_nms_top_n_test": 6000,
    "rpn_post_nms_top_n_test": 300,
    "rpn_pre_nms_top_n_train": 12000,
    "rpn_post_nms_top_n_train": 2000,
}
TwoLists = tuple[list[Tensor], list[Tensor]]  # labels of boxes and what these match, by image
TORCHVISION_LOSSES = {
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "class",
    "loss_box_reg": "box",
}
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class TorchvisionDetector(Detector):
    """The parts of a FasterRCNN under their own names: backbone, rpn, roi_heads.

    Its transform is not among them: images come resized and standardised.
    """

    def __init__(self, model: FasterRCNN, num_classes: int) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.rpn = model.rpn
        self.roi_heads = model.roi_heads
        self.num_classes = num_classes
        keep_cuda_pooling_(self)

    def features(self, images: Images) -> Features:
        """Maps by level, in float32 also under autocast, which acts no further: bfloat16 would
        round a box far from the origin to multiples of 4 or 8 pixels.
        """
        maps = self.backbone(images)
        levels = OrderedDict([("0", maps)]) if isinstance(maps, Tensor) else maps
        return OrderedDict((name, level.float()) for name, level in levels.items())

    def forward(self, images: Images) -> DetOutput:
        """Boxes of every image, in eval mode."""
        regions = self.regions(images)
        return DetOutput(regions.detections, regions.logits)

    def loss(
        self,
        images: Images,
        boxes: Sequence[Boxes],
        features: Features | None = None,
        *,
        append: bool = False,
        doubtful: Sequence[Boxes] | None = None,
    ) -> Losses:
        """torchvision's four losses: its RPN terms count the sampled anchors, and its box losses
        are smooth-L1 with beta 1/9 (RPN) and 1/9 (regions), where LPLD's code has L1.
        """
        framed = _framed(images)
        features = self.features(images) if features is None else features
        targets = [{"boxes": b.boxes.float(), "labels": b.labels + 1} for b in boxes]
        with exact(), _assigning(self.rpn, self.roi_heads, append, doubtful):
            proposals, first = self.rpn(framed, features, targets)
            _, second = self.roi_heads(features, proposals, framed.image_sizes, targets)
        return {TORCHVISION_LOSSES[name]: term for name, term in {**first, **second}.items()}

    def regions(
        self,
        images: Images,
        proposals: Sequence[Float[Tensor, "n 4"]] | None = None,
        features: Features | None = None,
    ) -> Regions:
        """The second stage on `proposals`; on the RPN's own, in eval mode, where None are given."""
        features = self.features(images) if features is None else features
        return self._regions(_framed(images), proposals, features)

    @full_precision
    def _regions(
        self,
        framed: ImageList,
        proposals: Sequence[Float[Tensor, "n 4"]] | None,
        features: Features,
    ) -> Regions:
        own = proposals is None
        if proposals is None:
            proposals, _ = self.rpn(framed, features)
        boxes = list(proposals)
        heads = self.roi_heads
        pooled = heads.box_roi_pool(features, boxes, framed.image_sizes)
        embedded = heads.box_head(pooled)
        logits, deltas = heads.box_predictor(embedded)
        detections: list[Boxes] = []
        if own:
            parts = heads.postprocess_detections(logits, deltas, boxes, framed.image_sizes)
            detections = [
                Boxes(b, labels - 1, scores) for b, scores, labels in zip(*parts, strict=True)
            ]
        last = torch.cat([logits[:, 1:], logits[:, :1]], 1).float()
        # slot 0 of the deltas is the background's: zeroed here, it gives the proposal itself
        slots = deltas.view(len(deltas), -1, 4).clone()
        slots[:, 0] = 0
        decoded = heads.box_coder.decode(slots.flatten(1), boxes)
        best = logits.argmax(1)
        refined = decoded.view(len(deltas), -1, 4)[torch.arange(len(best)), best]
        refined = torch.where((best == 0)[:, None], torch.cat(boxes), refined)
        return Regions(boxes, embedded.float(), last, refined.float(), detections)


@contextmanager
def _assigning(
    rpn: RegionProposalNetwork, heads: RoIHeads, append: bool, doubtful: Sequence[Boxes] | None
) -> Iterator[None]:
    """Inside, targets join the proposals or not, and doubtful boxes are no background.

    What is set lies on the modules themselves and is gone afterwards, so that copies have none.
    """
    if not append:
        heads.add_gt_proposals = lambda proposals, _: proposals
    if doubtful is not None:
        doubt = [part.boxes for part in doubtful]
        to_anchors, to_proposals = rpn.assign_targets_to_anchors, heads.assign_targets_to_proposals

        def anchors(boxes: list[Tensor], targets: list[Mapping[str, Tensor]]) -> TwoLists:
            labels, matched = to_anchors(boxes, targets)
            return [spared(*one) for one in zip(labels, boxes, doubt, strict=True)], matched

        def proposals(boxes: list[Tensor], *targets: list[Tensor]) -> TwoLists:
            matched, labels = to_proposals(boxes, *targets)
            return matched, [spared(*one) for one in zip(labels, boxes, doubt, strict=True)]

        rpn.assign_targets_to_anchors = anchors
        heads.assign_targets_to_proposals = proposals
    try:
        yield
    finally:
        for module in (rpn, heads):
            for name in (
                "add_gt_proposals",
                "assign_targets_to_anchors",
                "assign_targets_to_proposals",
            ):
                module.__dict__.pop(name, None)


def _framed(images: Images) -> ImageList:
    size = (images.shape[-2], images.shape[-1])
    return ImageList(images, [size] * len(images))


def faster_rcnn(name: str, classes: int, depth: int = 3) -> TorchvisionDetector:
    """A Faster R-CNN of torchvision with random weights.

    Besides torchvision's builders `fasterrcnn_resnetN_fpn` for every N, and
    `fasterrcnn_squeezenet1_1_fpn`, a small one on strides 8, 16 and 32.
    """
    if depth != 3:
        raise BadInput("torchvision's detectors take images of three channels: rgb or bgr")
    if name == SQUEEZE:
        return TorchvisionDetector(_squeezed(classes), classes)
    body = name.removeprefix("fasterrcnn_").removesuffix("_fpn")
    if name == f"fasterrcnn_{body}_fpn" and body in RESNETS and body != "resnet50":
        network = models.get_model(body, weights=None)
        backbone = _resnet_fpn_extractor(network, 5)
        return TorchvisionDetector(FasterRCNN(backbone, classes + 1, **COUNTS), classes)
    known = [n for n in models.list_models(module=models.detection) if n.startswith("fasterrcnn")]
    if name not in known:
        more = [f"fasterrcnn_{r}_fpn" for r in RESNETS] + [SQUEEZE]
        raise BadInput(f"no detector torchvision:{name}; there are {', '.join({*known, *more})}")
    make = getattr(builders, name)
    made = make(weights=None, weights_backbone=None, num_classes=classes + 1, **COUNTS)
    return TorchvisionDetector(made, classes)


def _squeezed(classes: int) -> FasterRCNN:
    """SqueezeNet 1.1 with a pyramid of 128 channels on strides 8, 16 and 32, made for CPUs: regions
    are 5 x 5, and 128 of them are sampled an image.
    """
    network = models.squeezenet1_1(weights=None).features
    backbone = BackboneWithFPN(
        network, {"7": "0", "12": "1"}, [256, 512], 128, extra_blocks=LastLevelMaxPool()
    )
    anchors = AnchorGenerator(((16, 32), (48, 80), (128, 192)), ((0.5, 1.0, 2.0),) * 3)
    return FasterRCNN(
        backbone,
        None,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], output_size=5, sampling_ratio=2),
        box_head=builders.TwoMLPHead(128 * 25, 256),
        box_predictor=builders.FastRCNNPredictor(256, classes + 1),
        box_batch_size_per_image=128,
        **COUNTS | {"rpn_post_nms_top_n_train": 500},
    )
