"""MMDetection 3.x behind our `Detector`: two-stage models with one box head, and one-stage ones."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfda.building_blocks.boxes import Boxes, spared
from sfda.building_blocks.precision import exact, full_precision
from sfda.errors import BadInput
from sfda.networks import mmcv_ops
from sfda.networks.detector import Detector, DetOutput, Features, Regions
from sfda.refs import InputSpec
from sfda.types import Images, Losses

NAMES = {
    "loss_rpn_cls": "objectness",
    "loss_rpn_bbox": "rpn_box",
    "loss_cls": "class",
    "loss_bbox": "box",
}
PROPOSALS = {"train": (12000, 2000), "test": (6000, 300)}  # before and after NMS, as in LPLD


class MMDetector(Detector):
    """The parts of an mmdet detector under their own names: backbone, neck, rpn_head, roi_head.

    Its data preprocessor is not among them: images come resized and standardised.
    """

    two_stage: ClassVar[bool] = False
    model: Any

    def __init__(self, model: Any, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.__dict__["model"] = model  # its parts are ours; it holds no weight itself
        for name, part in model.named_children():
            if name != "data_preprocessor":
                setattr(self, name, part)

    def features(self, images: Images) -> Features:
        """Maps by level, in float32 also under autocast, which acts no further."""
        return tuple(level.float() for level in self.model.extract_feat(images))

    @full_precision
    def forward(self, images: Images) -> DetOutput:
        """Boxes of every image, in eval mode."""
        samples = _samples(images)
        found = self.model.predict(images, samples, rescale=False)
        boxes = [_boxes(sample.pred_instances) for sample in found]
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
            proposals = [found.bboxes for found in results]
        boxes = list(proposals)
        head = model.roi_head.bbox_head
        embedded: list[Tensor] = []
        hook = head.fc_cls.register_forward_pre_hook(lambda _, given: embedded.append(given[0]))
        try:
            rois = bbox2roi(boxes)
            said = model.roi_head._bbox_forward(x, rois)
        finally:
            hook.remove()
        logits, deltas = said["cls_score"], said["bbox_pred"]
        found = _detections(head, model, logits, deltas, rois, boxes, images) if own else []
        refined = _refined(head, logits, deltas, torch.cat(boxes))
        return Regions(boxes, embedded[0].float(), logits.float(), refined, found)


def _detections(
    head: Any, model: Any, logits: Tensor, deltas: Tensor, rois: Tensor, boxes: list[Tensor],
    images: Images,
) -> list[Boxes]:  # fmt: skip
    """Threshold, NMS and the best of each image, by the head itself."""
    sizes = [len(part) for part in boxes]
    found = head.predict_by_feat(
        rois=rois.split(sizes),
        cls_scores=logits.split(sizes),
        bbox_preds=deltas.split(sizes),
        batch_img_metas=[sample.metainfo for sample in _samples(images)],
        rcnn_test_cfg=model.roi_head.test_cfg,
        rescale=False,
    )
    return [_boxes(part) for part in found]


def _refined(head: Any, logits: Tensor, deltas: Tensor, boxes: Tensor) -> Tensor:
    """Each row's box as its likeliest class would have it, not clipped."""
    classes = logits.shape[1] - 1
    best = logits.argmax(1)
    slots = deltas.view(len(deltas), -1, 4)
    place = torch.zeros_like(best) if slots.shape[1] == 1 else best.clamp(max=classes - 1)
    chosen = slots[torch.arange(len(best), device=best.device), place]
    moved = head.bbox_coder.decode(boxes, chosen, max_shape=None)
    return torch.where((best == classes)[:, None], boxes, moved).float()


def _samples(
    images: Images,
    boxes: Sequence[Boxes] | None = None,
    doubtful: Sequence[Boxes] | None = None,
) -> list[Any]:
    """New samples every time: mmdet writes its answers into those that it is given.

    What overlaps a doubtful box by an IoU of 0.5 is assigned to nothing, as `_own_modules` has it.
    """
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    size = (images.shape[-2], images.shape[-1])
    facts = {
        "img_shape": size, "ori_shape": size, "pad_shape": size, "batch_input_shape": size,
        "scale_factor": (1.0, 1.0),
    }  # fmt: skip
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


def _boxes(found: Any) -> Boxes:
    return Boxes(found.bboxes, found.labels, found.scores)


def _summed(losses: Mapping[str, Any]) -> Losses:
    """Levels added up; what is no loss, such as an accuracy, left out."""
    return {
        name: torch.stack(list(term)).sum() if isinstance(term, list | tuple) else term
        for name, term in losses.items()
        if "loss" in name
    }


def _named(losses: Losses) -> Losses:
    return {NAMES.get(name, name.removeprefix("loss_")): term for name, term in losses.items()}


def build(config: Mapping[str, Any], classes: int, depth: int = 3) -> MMDetector:
    """The detector of the `model` part of a configuration, with random weights. Raises BadInput."""
    if depth != 3:
        raise BadInput("mmdet's detectors take images of three channels: rgb or bgr")
    if not config:
        raise BadInput("this model's spec holds no mmdet configuration; import it again")
    compiled = mmcv_ops.ensure()
    given = _counted(copy.deepcopy(dict(config)), classes)
    for part in _parts(given):
        if part.get("type") == "MaxIoUAssigner":
            part["type"] = "SparingAssigner"
        if part.get("type") == "RoIAlign" and not compiled:
            part["use_torchvision"] = True
    _quiet()
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope

    register_all_modules(init_default_scope=False)
    _own_modules()
    init_default_scope("mmdet")
    try:
        model = MODELS.build(ConfigDict(given))
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise BadInput(f"mmdet cannot build this model: {_line(error)}") from error
    if not hasattr(model, "extract_feat"):
        raise BadInput(f"mmdet's {given.get('type')} is no detector of images")
    two = hasattr(model, "rpn_head") and hasattr(
        getattr(getattr(model, "roi_head", None), "bbox_head", None), "fc_cls"
    )
    return (MMTwoStage if two else MMDetector)(model, classes)


def _counted(config: dict[str, Any], classes: int) -> dict[str, Any]:
    """With this many classes, without weights to be fetched, and proposals counted as LPLD does."""
    config["init_cfg"] = None
    for part in _parts(config):
        for name in ("init_cfg", "pretrained"):
            if isinstance(part.get(name), str | dict) and "checkpoint" in str(part[name]):
                part[name] = None
        if "num_classes" in part:
            part["num_classes"] = classes
    if "rpn_head" in config:
        config["rpn_head"].pop("num_classes", None)
        for when, key in (("train", "rpn_proposal"), ("test", "rpn")):
            side = config.get(f"{when}_cfg") or {}
            if isinstance(side.get(key), dict):
                before, after = PROPOSALS[when]
                side[key] = {**side[key], "nms_pre": before, "max_per_img": after}
    config.pop("data_preprocessor", None)
    return config


def _parts(config: Any) -> list[dict[str, Any]]:
    """Every dictionary in a configuration, itself first."""
    if isinstance(config, list | tuple):
        return [part for item in config for part in _parts(item)]
    if not isinstance(config, dict):
        return []
    return [config, *(part for item in config.values() for part in _parts(item))]


def resolved(name: str, classes: int) -> tuple[str, dict[str, Any]]:
    """A configuration file's arch, and its `model` part with everything it builds on.

    `name` is a file, or one of those that mmdet ships, such as
    `faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py`. A .py file is a program and is run: give only one
    you trust. Raises BadInput.
    """
    config = _file(name)
    model = config.get("model")
    if not isinstance(model, dict) or "type" not in model:
        raise BadInput(f"{name} says nothing of a `model`, so it is no configuration of mmdet's")
    plain = _plain(model.to_dict() if hasattr(model, "to_dict") else model)
    plain.pop("data_preprocessor", None)
    return f"mmdet:{Path(name).stem}", _counted(plain, classes)


def usual_input(name: str) -> InputSpec | None:
    """Size, colours and standardisation that a configuration states; None where it does not."""
    config = _file(name)
    facts = (config.get("model") or {}).get("data_preprocessor") or {}
    scale = next(
        (
            part["scale"]
            for part in _parts(_plain(config.get("test_pipeline") or []))
            if str(part.get("type", "")).endswith("Resize") and "scale" in part
        ),
        None,
    )
    if scale is None or not facts.get("mean"):
        return None
    long, short = max(scale), min(scale)
    multiple = int(facts.get("pad_size_divisor") or 1)
    size = tuple(-(-side // multiple) * multiple for side in (short, long))
    return InputSpec(
        size=(size[0], size[1]),
        letterbox=True,
        channels="rgb" if facts.get("bgr_to_rgb") else "bgr",
        scale=1.0,
        mean=tuple(map(float, facts["mean"])),
        std=tuple(map(float, facts["std"])),
    )


@cache
def _file(name: str) -> Any:
    mmcv_ops.ensure()
    _quiet()
    import mmdet
    from mmengine.config import Config

    shipped = Path(mmdet.__file__).parent / ".mim" / "configs"
    path = next((p for p in (Path(name), shipped / name) if p.is_file()), None)
    if path is None:
        raise BadInput(
            f"no configuration {name}: name a file, or one of those below {shipped}, such as "
            "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
        )
    try:
        return Config.fromfile(path)
    except Exception as error:  # a configuration is a program: it may raise anything
        raise BadInput(f"{path} cannot be read as a configuration: {_line(error)}") from error


def _plain(config: Any) -> Any:
    """The same of dictionaries, lists and plain values alone."""
    if isinstance(config, Mapping):
        return {str(k): _plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [_plain(v) for v in config]
    return config if config is None or isinstance(config, str | int | float | bool) else str(config)


@cache
def _own_modules() -> None:
    """Modules of ours by name: a backbone that a configuration may ask for, and the assigner that
    stands in for mmdet's.
    """
    from mmdet.models.task_modules import MaxIoUAssigner
    from mmdet.registry import MODELS, TASK_UTILS
    from torchvision import models

    @MODELS.register_module(name="SqueezeNet1_1")
    class SqueezeNet(nn.Module):
        """torchvision's SqueezeNet 1.1 on strides 8 and 16: 256 and 512 channels."""

        def __init__(self, init_cfg: Any = None) -> None:
            super().__init__()
            self.body = models.squeezenet1_1(weights=None).features

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            maps = []
            for place, layer in enumerate(self.body):
                images = layer(images)
                if place in (7, 12):
                    maps.append(images)
            return tuple(maps)

    @TASK_UTILS.register_module(name="SparingAssigner")
    class SparingAssigner(MaxIoUAssigner):  # type: ignore[misc]
        """mmdet's own assigner; background (0) near a doubtful box is nothing (-1).

        mmdet's rule for ignored boxes does not hold where an image has no other.
        """

        def assign(
            self,
            pred_instances: Any,
            gt_instances: Any,
            gt_instances_ignore: Any = None,
            **more: Any,
        ) -> Any:
            found = super().assign(pred_instances, gt_instances, **more)
            if gt_instances_ignore is not None:
                doubtful = gt_instances_ignore.bboxes
                found.gt_inds = spared(found.gt_inds, pred_instances.priors, doubtful)
            return found


@cache
def _quiet() -> None:
    """mmengine's talk of what it registers says nothing to the user."""
    logging.getLogger("mmengine").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(mmengine|mmdet|mmcv)\b")


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
