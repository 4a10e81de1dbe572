"""MMDetection 3.x behind our `Detector`: two-stage models with one box head, and one-stage ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sfda.building_blocks.boxes import Boxes
from sfda.building_blocks.precision import exact, full_precision
from sfda.errors import BadInput
from sfda.networks import mmcv_ops
from sfda.networks.detector import Detector, DetOutput, Features, Regions
from sfda.networks.mmdet_config import first_line, parts_of, quiet_, register_modules_, with_classes
from sfda.networks.pooling import keep_cuda_pooling_
from sfda.types import Images, Losses
from sfda.weights import mmdet_allowed

if TYPE_CHECKING:
    from mmdet.models import BaseDetector
    from mmdet.models.roi_heads.bbox_heads import BBoxHead
    from mmengine.structures import InstanceData

MMDET_LOSSES = {
    "loss_rpn_cls": "objectness",
    "loss_rpn_bbox": "rpn_box",
    "loss_cls": "class",
    "loss_bbox": "box",
}


class MMDetector(Detector):
    """The parts of an mmdet detector under their own names: backbone, neck, rpn_head, roi_head.

    Its data preprocessor is not among them: images come resized and standardised.
    """

    two_stage: ClassVar[bool] = False
    model: BaseDetector

    def __init__(self, model: BaseDetector, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.__dict__["model"] = model  # its parts are ours; it holds no weight itself
        for name, part in model.named_children():
            if name != "data_preprocessor":
                setattr(self, name, part)
        keep_cuda_pooling_(self)

    def features(self, images: Images) -> Features:
        """Maps by level, in float32 also under autocast, which acts no further."""
        return tuple(level.float() for level in self.model.extract_feat(images))

    @full_precision
    def forward(self, images: Images) -> DetOutput:
        """Boxes of every image, in eval mode."""
        samples = _samples(images)
        predicted = self.model.predict(images, samples, rescale=False)
        boxes = [_boxes(sample.pred_instances) for sample in predicted]
        return DetOutput(boxes, torch.cat([b.scores for b in boxes])[:, None])

    @full_precision
    def loss(
        self,
        images: Images,
        boxes: Sequence[Boxes],
        features: Features | None = None,
        *,
        append: bool = False,
        doubtful: Sequence[Boxes] | None = None,
    ) -> Losses:
        """mmdet's own losses by its own names, without `loss_`; what lies in levels is summed."""
        return _named(_summed(self.model.loss(images, _samples(images, boxes, doubtful))))


class MMTwoStage(MMDetector):
    """Those of its detectors with an RPN and one box head, whose regions LPLD can use."""

    two_stage: ClassVar[bool] = True

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
        """The four losses from one pass of the backbone; RPN terms count the sampled anchors."""
        model = self.model
        x = self.features(images) if features is None else features
        samples, bare = (_samples(images, boxes, doubtful) for _ in range(2))
        for sample in bare:
            sample.gt_instances.labels.zero_()  # to the RPN all are one class
        with exact():
            first, proposals = model.rpn_head.loss_and_predict(
                x, bare, proposal_cfg=model.train_cfg.rpn_proposal
            )
            model.roi_head.bbox_sampler.add_gt_as_proposals = append
            second = model.roi_head.loss(x, proposals, samples)
        return _named(_summed({**first, **second}))

    def regions(
        self,
        images: Images,
        proposals: Sequence[Float[Tensor, "n 4"]] | None = None,
        features: Features | None = None,
    ) -> Regions:
        """The second stage on `proposals`; on the RPN's own where None are given."""
        features = self.features(images) if features is None else features
        return self._regions(images, proposals, features)

    @full_precision
    def _regions(
        self, images: Images, proposals: Sequence[Float[Tensor, "n 4"]] | None, x: Features
    ) -> Regions:
        from mmdet.structures.bbox import bbox2roi

        model, samples = self.model, _samples(images)
        own = proposals is None
        if proposals is None:
            results = model.rpn_head.predict(x, samples, rescale=False)
            proposals = [result.bboxes for result in results]
        boxes = list(proposals)
        head = model.roi_head.bbox_head
        embedded: list[Tensor] = []
        hook = head.fc_cls.register_forward_pre_hook(lambda _, inputs: embedded.append(inputs[0]))
        try:
            rois = bbox2roi(boxes)
            heads = model.roi_head._bbox_forward(x, rois)
        finally:
            hook.remove()
        logits, deltas = heads["cls_score"], heads["bbox_pred"]
        detections = _detections(head, model, logits, deltas, rois, boxes, images) if own else []
        refined = _refined(head, logits, deltas, torch.cat(boxes))
        return Regions(boxes, embedded[0].float(), logits.float(), refined, detections)


def _detections(
    head: BBoxHead,
    model: BaseDetector,
    logits: Tensor,
    deltas: Tensor,
    rois: Tensor,
    boxes: list[Tensor],
    images: Images,
) -> list[Boxes]:
    """Threshold, NMS and the best of each image, by the head itself."""
    sizes = [len(part) for part in boxes]
    predicted = head.predict_by_feat(
        rois=rois.split(sizes),
        cls_scores=logits.split(sizes),
        bbox_preds=deltas.split(sizes),
        batch_img_metas=[sample.metainfo for sample in _samples(images)],
        rcnn_test_cfg=model.roi_head.test_cfg,
        rescale=False,
    )
    return [_boxes(part) for part in predicted]


def _refined(head: BBoxHead, logits: Tensor, deltas: Tensor, boxes: Tensor) -> Tensor:
    """Each row's box as its likeliest class would have it, not clipped."""
    classes = logits.shape[1] - 1
    best = logits.argmax(1)
    slots = deltas.view(len(deltas), -1, 4)
    slot = torch.zeros_like(best) if slots.shape[1] == 1 else best.clamp(max=classes - 1)
    chosen = slots[torch.arange(len(best), device=best.device), slot]
    moved = head.bbox_coder.decode(boxes, chosen, max_shape=None)
    return torch.where((best == classes)[:, None], boxes, moved).float()


def _samples(
    images: Images,
    boxes: Sequence[Boxes] | None = None,
    doubtful: Sequence[Boxes] | None = None,
) -> list[Any]:
    """New samples every time: mmdet writes its predictions into those that it gets.

    What overlaps a doubtful box by an IoU of 0.5 is assigned to nothing: see `register_modules_`.
    """
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    size = (images.shape[-2], images.shape[-1])
    facts = {
        "img_shape": size,
        "ori_shape": size,
        "pad_shape": size,
        "batch_input_shape": size,
        "scale_factor": (1.0, 1.0),
    }
    samples = []
    for i in range(len(images)):
        sample = DetDataSample(metainfo={**facts, "img_id": i})
        if boxes is not None:
            sample.gt_instances = InstanceData(
                bboxes=boxes[i].boxes.float(), labels=boxes[i].labels.clone()
            )
        if doubtful is not None:
            sample.ignored_instances = InstanceData(bboxes=doubtful[i].boxes.float())
        samples.append(sample)
    return samples


def _boxes(instances: InstanceData) -> Boxes:
    return Boxes(instances.bboxes, instances.labels, instances.scores)


def _summed(losses: Mapping[str, Any]) -> Losses:
    """Levels added up; what is no loss, such as an accuracy, left out."""
    return {
        name: torch.stack(list(term)).sum() if isinstance(term, list | tuple) else term
        for name, term in losses.items()
        if "loss" in name
    }


def _named(losses: Losses) -> Losses:
    return {
        MMDET_LOSSES.get(name, name.removeprefix("loss_")): term for name, term in losses.items()
    }


def mmdet_detector(config: Mapping[str, Any], classes: int, depth: int = 3) -> MMDetector:
    """The detector of the `model` part of a configuration, with random weights. Raises BadInput."""
    if depth != 3:
        raise BadInput("mmdet's detectors take images of three channels: rgb or bgr")
    if not config:
        raise BadInput("this model's spec holds no mmdet configuration; import it again")
    mmdet_allowed.check_size(config)
    compiled = mmcv_ops.ensure()
    settings = with_classes(mmdet_allowed.without_other_weights(config), classes)
    quiet_()
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope

    register_all_modules(init_default_scope=False)
    register_modules_()
    mmdet_allowed.import_trusted_()
    mmdet_allowed.check_names(settings, registered=mmdet_allowed.registered_classes())
    for part in parts_of(settings):
        if part.get("type") == "MaxIoUAssigner":
            part["type"] = "SparingAssigner"
        if part.get("type") == "RoIAlign" and not compiled:
            part["use_torchvision"] = True
    init_default_scope("mmdet")
    try:
        with mmdet_allowed.imports_closed():
            model = MODELS.build(ConfigDict(settings))
    except (RuntimeError, KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise BadInput(f"mmdet cannot build this model: {first_line(error)}") from error
    if not hasattr(model, "extract_feat"):
        raise BadInput(f"mmdet's {settings.get('type')} is no detector of images")
    two = hasattr(model, "rpn_head") and hasattr(
        getattr(getattr(model, "roi_head", None), "bbox_head", None), "fc_cls"
    )
    return (MMTwoStage if two else MMDetector)(model, classes)
