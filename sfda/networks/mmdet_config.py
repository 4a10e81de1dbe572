"""mmdet's configurations: looked up by name, made plain for a model's spec, and what they state.

Also the modules of ours that a configuration may name.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor, nn

from sfda.building_blocks.boxes import spared
from sfda.errors import BadInput
from sfda.networks import mmcv_ops
from sfda.refs import InputSpec

if TYPE_CHECKING:
    from mmdet.models.task_modules import AssignResult
    from mmengine.config import Config
    from mmengine.structures import InstanceData

log = logging.getLogger("sfda")
PROPOSALS = {"train": (12000, 2000), "test": (6000, 300)}  # before and after NMS, as in LPLD


def with_classes(config: dict[str, Any], classes: int) -> dict[str, Any]:
    """With this many classes, without weights to be fetched, and proposals counted as LPLD does."""
    config["init_cfg"] = None
    for part in parts_of(config):
        for name in ("init_cfg", "pretrained"):
            if isinstance(part.get(name), str | dict) and "checkpoint" in str(part[name]):
                part[name] = None
        if "num_classes" in part:
            part["num_classes"] = classes
    if isinstance(config.get("rpn_head"), dict):
        config["rpn_head"].pop("num_classes", None)
        for when, key in (("train", "rpn_proposal"), ("test", "rpn")):
            side = config.get(f"{when}_cfg")
            if isinstance(side, dict) and isinstance(side.get(key), dict):
                before, after = PROPOSALS[when]
                side[key] = {**side[key], "nms_pre": before, "max_per_img": after}
    config.pop("data_preprocessor", None)
    return config


def parts_of(config: object) -> list[dict[str, Any]]:
    """Every dictionary in a configuration, itself first."""
    if isinstance(config, list | tuple):
        return [part for item in config for part in parts_of(item)]
    if not isinstance(config, dict):
        return []
    return [config, *(part for item in config.values() for part in parts_of(item))]


def resolved(name: str, classes: int) -> tuple[str, dict[str, Any]]:
    """A configuration file's arch, and its `model` part with everything it builds on.

    `name` is one of those that mmdet ships, such as `faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py`,
    or a file. A .py file is a program and is run: give only one you trust. Raises BadInput.
    """
    config = _file(name)
    model = config.get("model")
    if not isinstance(model, dict) or "type" not in model:
        raise BadInput(f"{name} says nothing of a `model`, so it is no configuration of mmdet's")
    plain = _plain(model.to_dict() if hasattr(model, "to_dict") else model)
    plain.pop("data_preprocessor", None)
    return f"mmdet:{Path(name).stem}", with_classes(plain, classes)


def config_input(name: str) -> InputSpec | None:
    """Size, colours and standardisation that a configuration states; None where it does not."""
    config = _file(name)
    facts = (config.get("model") or {}).get("data_preprocessor") or {}
    scale = next(
        (
            part["scale"]
            for part in parts_of(_plain(config.get("test_pipeline") or []))
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
def _file(name: str) -> Config:
    mmcv_ops.ensure()
    quiet_()
    import mmdet
    from mmengine.config import Config

    shipped = Path(mmdet.__file__).parent / ".mim" / "configs"
    # a file of the current folder may be anybody's: it does not come before one that mmdet ships
    named = name.startswith((".", "/"))
    paths = (Path(name),) if named else (shipped / name, Path(name))
    path = next((p for p in paths if p.is_file()), None)
    if path == shipped / name and Path(name).is_file() and not named:
        log.warning("%s is the one that mmdet ships; for the file here write ./%s", name, name)
    if path is None:
        raise BadInput(
            f"no configuration {name}: name a file, or one of those below {shipped}, such as "
            "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
        )
    try:
        return Config.fromfile(path)
    except Exception as error:  # a configuration is a program: it may raise anything
        raise BadInput(f"{path} cannot be read as a configuration: {first_line(error)}") from error


@overload
def _plain(config: Mapping[str, Any]) -> dict[str, Any]: ...
@overload
def _plain(config: object) -> object: ...
def _plain(config: object) -> object:
    """The same of dictionaries, lists and plain values alone."""
    if isinstance(config, Mapping):
        return {str(k): _plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [_plain(v) for v in config]
    return config if config is None or isinstance(config, str | int | float | bool) else str(config)


@cache
def register_modules_() -> None:
    """Modules of ours by name: a backbone that a configuration may ask for, and the assigner that
    stands in for mmdet's.
    """
    from mmdet.models.task_modules import MaxIoUAssigner
    from mmdet.registry import MODELS, TASK_UTILS
    from torchvision import models

    @MODELS.register_module(name="SqueezeNet1_1")
    class SqueezeNet(nn.Module):
        """torchvision's SqueezeNet 1.1 on strides 8 and 16: 256 and 512 channels."""

        def __init__(self, init_cfg: object = None) -> None:
            super().__init__()
            self.body = models.squeezenet1_1(weights=None).features

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            maps = []
            for number, layer in enumerate(self.body):
                images = layer(images)
                if number in (7, 12):
                    maps.append(images)
            return tuple(maps)

    @TASK_UTILS.register_module(name="SparingAssigner")
    class SparingAssigner(MaxIoUAssigner):  # type: ignore[misc]
        """mmdet's own assigner; background (0) near a doubtful box is nothing (-1).

        mmdet's rule for ignored boxes does not hold where an image has no other.
        """

        def assign(
            self,
            pred_instances: InstanceData,
            gt_instances: InstanceData,
            gt_instances_ignore: InstanceData | None = None,
            **more: object,
        ) -> AssignResult:
            assigned = super().assign(pred_instances, gt_instances, **more)
            if gt_instances_ignore is not None:
                doubtful = gt_instances_ignore.bboxes
                assigned.gt_inds = spared(assigned.gt_inds, pred_instances.priors, doubtful)
            return assigned


@cache
def quiet_() -> None:
    """mmengine's talk of what it registers says nothing to the user."""
    logging.getLogger("mmengine").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(mmengine|mmdet|mmcv)\b")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
