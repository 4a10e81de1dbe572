"""A stored mmdet configuration is data: no name in it runs, imports or fetches anything."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sfda.errors import BadInput
from sfda.networks.mmdet import mmdet_detector
from sfda.networks.mmdet_config import resolved
from sfda.problems.detection import network as detection
from sfda.problems.registry import read_bundle
from sfda.refs import InputSpec
from sfda.testing.toys import mmdet_detection as toymm
from sfda.weights import mmdet_allowed
from sfda.weights.bundle import write_bundle

SMALL = InputSpec(size=(64, 64), letterbox=True, mean=(0.5,) * 3, std=(0.5,) * 3)


class Nothing(nn.Module):
    """A network whose weights are none: what a hostile bundle needs."""


def popen(mark: Path) -> dict[str, Any]:
    """What ran in 0.1.0, in every command that opens a model."""
    return {"type": "subprocess.Popen", "args": ["/bin/sh", "-c", f"touch {mark}"]}


def bare(backbone: Any, **more: Any) -> dict[str, Any]:
    return {
        "type": "FasterRCNN", "backbone": backbone, "rpn_head": {}, "roi_head": None,
        "train_cfg": {}, "test_cfg": {}, **more,
    }  # fmt: skip


def deep(levels: int) -> dict[str, Any]:
    config: dict[str, Any] = {"type": "ResNet"}
    for _ in range(levels):
        config = {"type": "ResNet", "plugins": config}
    return config


def with_nms(kind: str) -> dict[str, Any]:
    config = toymm.config()
    config["test_cfg"]["rcnn"]["nms"] = {"type": kind, "iou_threshold": 0.5}
    return config


# what is in the configuration, by what makes it, given a file that must not appear
HOSTILE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "a dotted name": lambda mark: bare(popen(mark)),
    "at the top": popen,
    "in a list": lambda mark: bare({"type": "ResNet", "depth": 18, "plugins": [[popen(mark)]]}),
    "as a norm": lambda mark: bare({"type": "ResNet", "depth": 18, "norm_cfg": popen(mark)}),
    "as an initialiser of a part": lambda mark: bare({"type": "ResNet", "act_cfg": popen(mark)}),
    "os.system": lambda mark: bare({"type": "os.system", "command": f"touch {mark}"}),
    "a builtin": lambda mark: bare({"type": "builtins.exec", "source": f"open('{mark}', 'w')"}),
    "a bare builtin": lambda mark: bare({"type": "exec", "source": f"open('{mark}', 'w')"}),
    "a module": lambda _: bare({"type": "antigravity"}),
    "a scope": lambda mark: bare({**popen(mark), "_scope_": "mmengine"}),
    "a scope before the name": lambda _: bare({"type": "mmengine.BaseTTAModel"}),
    "mmdet as a scope": lambda _: bare({"type": "mmdet.ResNet", "depth": 18}),
    "a hook": lambda _: bare({"type": "CheckpointHook"}),
    "a runner": lambda _: bare({"type": "Runner", "model": {}, "work_dir": "x"}),
    "a data set": lambda _: bare({"type": "CocoDataset", "ann_file": "x"}),
    "a backend": lambda _: bare({"type": "LocalVisBackend", "save_dir": "x"}),
    "an evaluated argument": lambda mark: bare(
        {"type": "CameraMotionCompensation", "warp_mode": f"open('{mark}', 'w')"}
    ),
    "a teacher's program": lambda mark: {
        **bare({"type": "ResNet", "depth": 18}),
        "type": "KnowledgeDistillationSingleStageDetector", "teacher_config": str(mark),
    },
    "a fetched language model": lambda _: bare({"type": "BertModel", "name": "bert-base-uncased"}),
    "an evaluated NMS": lambda mark: with_nms(f"__import__('os').system('touch {mark}') or nms"),
    "an NMS by another name": lambda _: with_nms("batched_nms"),
    "imports of its own": lambda _: bare({}, custom_imports={"imports": ["antigravity"]}),
    "a base": lambda _: bare({}, _base_="x.py"),
    "a part of a base": lambda _: bare({"_delete_": True, "type": "ResNet", "depth": 18}),
    "a function": lambda _: bare({"type": "ResNet", "func": "os.system"}),
    "an address": lambda _: bare({"type": "ResNet", "style": "http://127.0.0.1/x"}),
    "a path": lambda _: bare({"type": "ResNet", "style": "/etc/passwd"}),
    "a list for a name": lambda _: bare({"type": ["ResNet"]}),
    "a number for a name": lambda _: bare({"type": 3}),
    "a word that becomes a name": lambda _: bare(
        {"type": "ResNet", "depth": 18, "norm_cfg": {"type": "BN", "padding_mode": "os.system"},
         "conv_cfg": {"type": "antigravity.x"}}
    ),
    "depth": lambda _: bare(deep(40)),
    "size": lambda _: bare({"type": "ResNet", "out_indices": [0] * 30_000}),
    "a long word": lambda _: bare({"type": "ResNet", "style": "x" * 1000}),
    "no dictionary": lambda _: bare("ResNet", rpn_head=[1], train_cfg=[1]),
    "nothing": lambda _: {"a": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_configuration_is_refused(name: str, tmp_path: Path) -> None:
    before = set(sys.modules)
    with pytest.raises(BadInput):
        mmdet_detector(HOSTILE[name](tmp_path / "mark"), 2)
    assert not (tmp_path / "mark").exists()
    assert not {"antigravity", "transformers", "detectron2"} & (set(sys.modules) - before)


def test_a_remedy_repeats_names_of_packages_alone() -> None:
    with pytest.raises(BadInput, match="say --trust-code PACKAGE "):
        mmdet_detector(bare({"type": "$(id).X"}), 2)


def test_opening_a_bundle_runs_no_command(tmp_path: Path) -> None:
    spec = detection.make_spec("sfda:tinyrcnn", ("a", "b"), input=SMALL).model_copy(
        update={"arch": "mmdet:x", "config": HOSTILE["a dotted name"](tmp_path / "mark")}
    )
    write_bundle(tmp_path / "bundle", Nothing(), spec)
    with pytest.raises(BadInput, match=r"backbone\.type .*subprocess\.Popen.*do not open it"):
        read_bundle(tmp_path / "bundle")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "init",
    [
        {"type": "Pretrained", "checkpoint": "http://127.0.0.1:9/x.pth"},
        [{"type": "Kaiming"}, {"type": "Pretrained", "checkpoint": "torchvision://resnet18"}],
        {"type": "subprocess.Popen", "args": ["touch", "x"]},
    ],
)
def test_what_would_load_other_weights_is_left_out(init: Any) -> None:
    config = toymm.config()
    config["backbone"]["init_cfg"] = init
    config["neck"] = None
    built = mmdet_detector(config, 2)
    assert not [m for m in built.modules() if "checkpoint" in str(getattr(m, "init_cfg", None))]
    assert not [m for m in built.modules() if "Popen" in str(getattr(m, "init_cfg", None))]
    config["backbone"] |= {"init_cfg": None, "pretrained": "torchvision://resnet18"}
    built = mmdet_detector(config, 2)
    assert "torchvision" not in str(getattr(built.backbone, "init_cfg", None))


@pytest.mark.parametrize(
    "name",
    [
        "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
        "retinanet/retinanet_r18_fpn_1x_coco.py",
        "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
        "yolox/yolox_tiny_8xb8-300e_coco.py",
        "rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
        "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py",
        "detr/detr_r50_8xb2-150e_coco.py",
        "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py",
    ],
)
def test_configurations_that_mmdet_ships_are_built(name: str) -> None:
    _, config = resolved(name, 2)
    assert mmdet_detector(config, 2).num_classes == 2


def test_while_mmdet_builds_nothing_else_is_imported() -> None:
    from mmdet.registry import MODELS
    from mmengine.registry import registry

    before = registry.get_object_from_string
    with mmdet_allowed.imports_closed():
        for name in ("subprocess.Popen", "antigravity", "mmpretrain.ResNet"):
            with pytest.raises(RuntimeError, match="Failed to get"):
                MODELS.get(name)
    assert registry.get_object_from_string is before
    assert "antigravity" not in sys.modules


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of somebody else's that registers a backbone."""
    (tmp_path / "otherlab.py").write_text(
        "from mmdet.registry import MODELS\n"
        "from mmdet.models.backbones import ResNet\n"
        "@MODELS.register_module()\n"
        "class OtherLabNet(ResNet):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    from mmdet.registry import MODELS

    sys.modules.pop("otherlab", types.ModuleType(""))
    MODELS.module_dict.pop("OtherLabNet", None)


def test_foreign_code_runs_only_where_it_is_trusted(
    foreign: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toymm.config()
    config["backbone"]["type"] = "OtherLabNet"
    with pytest.raises(BadInput, match=r"OtherLabNet.*--trust-code"):
        mmdet_detector(config, 2)
    assert "otherlab" not in sys.modules
    monkeypatch.setenv("SFDA_TRUST_CODE", "otherlab")
    built = mmdet_detector(config, 2)
    assert type(built.backbone).__name__ == "OtherLabNet"
    with torch.no_grad():
        built.eval()(torch.rand(1, 3, 64, 64))
    monkeypatch.delenv("SFDA_TRUST_CODE")  # registered now, and still not trusted
    with pytest.raises(BadInput, match=r"OtherLabNet of otherlab.*--trust-code otherlab"):
        mmdet_detector(config, 2)
    monkeypatch.setenv("SFDA_TRUST_CODE", "nobodys_package")
    with pytest.raises(BadInput, match="nobodys_package: it cannot be imported"):
        mmdet_detector(toymm.config(), 2)


def test_a_trusted_package_is_no_way_to_what_it_imports(
    foreign: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "marklab.py").write_text(
        "made = []\nclass Mark:\n    def __init__(self, **inputs):\n        made.append(inputs)\n"
    )
    (tmp_path / "otherlab.py").write_text(
        (tmp_path / "otherlab.py").read_text() + "import marklab\n"
    )
    monkeypatch.setenv("SFDA_TRUST_CODE", "otherlab")
    config = toymm.config()
    config["backbone"] = {"type": "otherlab.marklab.Mark"}
    with pytest.raises(BadInput, match=r"otherlab\.marklab\.Mark"):
        mmdet_detector(config, 2)
    assert not sys.modules.pop("marklab").made
    config["backbone"] = toymm.config()["backbone"] | {"type": "otherlab.OtherLabNet"}
    assert type(mmdet_detector(config, 2).backbone).__name__ == "OtherLabNet"
