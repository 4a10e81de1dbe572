"""Both libraries behind one `Detector`: regions, losses, what is frozen and what is not taught."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from convert_det import to_mmdet
from torch import nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_mobilenet_v3_large_320_fpn

from sfda.building_blocks.boxes import Boxes
from sfda.errors import BadInput
from sfda.networks import mmcv_ops
from sfda.networks.detector import Detector
from sfda.networks.mmdet_config import config_input
from sfda.problems.detection import loss as detection_loss
from sfda.problems.detection import network as detection
from sfda.problems.detection.weights import load_backbone, load_network
from sfda.problems.registry import read_bundle
from sfda.refs import InputSpec
from sfda.testing.toys import detection as toydet
from sfda.testing.toys import mmdet_detection as toymm
from sfda.weights.bundle import write_bundle
from sfda.weights.checkpoints import read_weights

KITS = pytest.mark.parametrize("kit", [toydet, toymm], ids=["torchvision", "mmdet"])
FASTER = "mmdet:faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
SMALL = InputSpec(size=(64, 96), letterbox=True, mean=(0.0,) * 3, std=(1.0,) * 3)


def squares() -> tuple[torch.Tensor, list[Boxes]]:
    return toydet.images(0.0, seed=5, size=4)


class Wrapped(nn.Module):
    """An mmdet backbone as torchvision wants one."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.out_channels = 8

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)[0]


@torch.no_grad()
def test_the_same_weights_give_the_same_regions_in_both_libraries() -> None:
    theirs = toymm.source()
    ours = toydet.from_body(Wrapped(copy.deepcopy(theirs.backbone))).eval()
    nn.init.normal_(ours.rpn.head.bbox_pred.weight, std=0.05)
    nn.init.normal_(ours.rpn.head.cls_logits.weight)  # scores far apart, so that none change places
    ours.rpn._pre_nms_top_n["testing"], ours.rpn._post_nms_top_n["testing"] = 6000, 300
    moved = {
        k.replace("backbone.body", "backbone"): v for k, v in to_mmdet(ours.state_dict()).items()
    }
    theirs.load_state_dict(moved)
    x, _ = squares()
    one, other = ours.regions(x), theirs.regions(x)
    for name in ("proposals", "features", "logits", "refined"):
        left, right = getattr(one, name), getattr(other, name)
        left = torch.cat(left) if isinstance(left, list) else left
        right = torch.cat(right) if isinstance(right, list) else right
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-3)
    for result, known in zip(one.detections, other.detections, strict=True):
        torch.testing.assert_close(result.boxes, known.boxes, rtol=1e-4, atol=1e-3)
        assert result.labels.tolist() == known.labels.tolist()
        torch.testing.assert_close(result.scores, known.scores, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_torchvisions_parts_together_are_its_own_answer() -> None:
    torch.manual_seed(0)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=96, max_size=96,
        image_mean=[0.0] * 3, image_std=[1.0] * 3, box_score_thresh=0.0,
        rpn_pre_nms_top_n_test=6000, rpn_post_nms_top_n_test=300, box_detections_per_img=100,
    ).eval()  # fmt: skip
    assert isinstance(model, FasterRCNN)
    arch = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"
    spec = InputSpec(size=(96, 96), mean=(0.0,) * 3, std=(1.0,) * 3)
    ours, _ = load_network(model.state_dict(), arch=arch, classes=("a", "b", "c"), input=spec)
    ours.roi_heads.score_thresh = 0.0
    ours.rpn.score_thresh = model.rpn.score_thresh
    x = torch.rand(2, 3, 96, 96)
    for result, known in zip(ours(x).boxes, model(list(x)), strict=True):
        torch.testing.assert_close(result.boxes, known["boxes"])
        torch.testing.assert_close(result.scores, known["scores"])
        assert (result.labels + 1).tolist() == known["labels"].tolist()


@KITS
@torch.no_grad()
def test_features_times_the_last_layer_are_the_logits(kit: Any) -> None:
    model, (x, _) = kit.source(), squares()
    result = model.regions(x)
    if kit is toydet:
        last = model.roi_heads.box_predictor.cls_score
        again = last(result.features)
        again = torch.cat([again[:, 1:], again[:, :1]], 1)
    else:
        again = model.roi_head.bbox_head.fc_cls(result.features)
    torch.testing.assert_close(again, result.logits, rtol=1e-5, atol=1e-5)
    # on given proposals the same rows come again, and no detections
    inputs = model.regions(x, result.proposals)
    torch.testing.assert_close(inputs.logits, result.logits)
    assert inputs.detections == []
    background = result.logits.argmax(1) == result.logits.shape[1] - 1
    assert background.any()
    torch.testing.assert_close(result.refined[background], torch.cat(result.proposals)[background])


@KITS
def test_one_pass_of_the_backbone_serves_loss_and_regions(kit: Any) -> None:
    model, (x, y) = kit.source(), squares()
    model.train()
    calls = []
    hook = model.backbone.register_forward_hook(lambda *_: calls.append(1))
    features = model.features(x)
    losses = detection_loss.loss(model, x, y, features=features)
    model.regions(x, [b.boxes for b in y], features)
    hook.remove()
    assert len(calls) == 1
    assert set(losses) == {"objectness", "rpn_box", "class", "box"}
    again = detection_loss.loss(model, x, y)
    for name in losses:
        torch.testing.assert_close(losses[name], again[name], rtol=1e-5, atol=1e-6)


@KITS
def test_boxes_are_no_half_numbers_under_autocast(kit: Any) -> None:
    """bfloat16 has 8 bits: beyond 512 it knows multiples of 4 alone."""
    model, (x, y) = kit.source().eval(), squares()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.features(x)
        result = model.regions(x, None, features)
        losses = detection_loss.loss(model.train(), x, y, features=features)
        model.eval()
    exact = model.regions(x, None, features)
    assert len(torch.cat(result.proposals))
    for one, other in (
        (torch.cat(result.proposals), torch.cat(exact.proposals)),
        (result.refined, exact.refined),
        (result.logits, exact.logits),
        (torch.cat([b.boxes for b in result.detections]),
         torch.cat([b.boxes for b in exact.detections])),
    ):  # fmt: skip
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other)
    assert all(term.dtype == torch.float32 for term in losses.values())


@KITS
def test_images_without_boxes_are_background_or_count_nothing(kit: Any) -> None:
    model, (x, y) = kit.source(), squares()
    model.train()
    empty = [toydet.no_boxes() for _ in y]
    losses = detection_loss.loss(model, x, empty)
    assert float(losses["class"].detach()) > 0
    assert float(losses["box"].detach()) == float(losses["rpn_box"].detach()) == 0
    assert detection_loss.loss(model, x, empty, empty="skip") == {}  # no step is taken
    half = [y[0], toydet.no_boxes(), y[2], toydet.no_boxes()]
    remaining = detection_loss.loss(model, x, half, empty="skip", features=model.features(x))
    alone = detection_loss.loss(model, x[[0, 2]], [y[0], y[2]])
    for name in alone:
        torch.testing.assert_close(remaining[name], alone[name], rtol=1e-5, atol=1e-6)
    plain = detection_loss.loss(model, x, y, regression=False)
    assert set(plain) == {"objectness", "class"}


@KITS
def test_doubtful_boxes_are_not_taught_to_be_background(kit: Any) -> None:
    """With every box of the image in doubt, nothing pushes against it; without, much does."""
    model, (x, y) = kit.source(), squares()
    model.train()
    empty = [toydet.no_boxes() for _ in y]
    against = detection_loss.loss(model, x, empty)["class"]
    spared = detection_loss.loss(model, x, empty, doubtful=y)["class"]
    assert float(spared.detach()) < 0.8 * float(against.detach())
    held = [vars(m) for m in model.modules()]
    assert not any("assign_targets_to_anchors" in v or "add_gt_proposals" in v for v in held)


@KITS
def test_training_moves_no_statistics_and_a_copy_is_whole(kit: Any, tmp_path: Any) -> None:
    model = kit.source()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    x, _ = squares()
    assert not torch.equal(model(x).logits[:1], other(x).logits[:1])
    assert {id(p) for p in model.parameters()}.isdisjoint({id(p) for p in other.parameters()})


def test_batch_norm_stays_in_eval_mode_unless_the_network_is_new() -> None:
    spec = detection.make_spec("torchvision:fasterrcnn_resnet18_fpn", ("a", "b"), input=SMALL)
    model = detection.build_from_spec(spec)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    model.train()
    assert norms
    assert not any(m.training for m in norms)
    assert model.rpn.training
    model.live_norms = True
    model.train()
    assert all(m.training for m in norms)


@pytest.mark.parametrize("kit", [toydet, toymm], ids=["torchvision", "mmdet"])
def test_a_bundle_needs_no_other_file(kit: Any, tmp_path: Any) -> None:
    if kit is toydet:
        spec = detection.make_spec("sfda:tinyrcnn", ("a", "b"))
    else:
        config = tmp_path / "small.py"
        config.write_text(f"model = {toymm.config()!r}\n")
        spec = detection.make_spec(f"mmdet:{config}", ("red", "blue"), input=SMALL)
        assert spec.arch == "mmdet:small"
        config.unlink()
    model = detection.build_from_spec(spec).eval()
    write_bundle(tmp_path / "bundle", model, spec)
    again, _ = read_bundle(tmp_path / "bundle")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(x).logits, model(x).logits)


class HistoryBuffer:
    """What mmengine keeps of a loss; in its place where a checkpoint is written."""


def test_an_mmdet_checkpoint_is_read_without_making_its_objects(tmp_path: Any) -> None:
    config = tmp_path / "small.py"
    config.write_text(f"model = {toymm.config()!r}\n")
    model = toymm.source()
    from mmengine.logging import HistoryBuffer as Theirs

    path = tmp_path / "epoch_1.pth"
    log = {"loss": Theirs([1.0, 2.0], [1, 1])}
    torch.save({"meta": {"epoch": 1}, "state_dict": model.state_dict(), "message_hub": log}, path)
    result, _ = load_network(
        read_weights(path), arch=f"mmdet:{config}", classes=("red", "blue"), input=SMALL
    )
    x, _ = squares()
    with torch.no_grad():
        torch.testing.assert_close(result(x).logits, model(x).logits)
    held = {"meta": {}, "state_dict": {"a": torch.ones(1)}, "object": HistoryBuffer()}
    torch.save(held, path)
    assert set(read_weights(path)) == {"a"}  # whatever the object is, it is not made


def test_what_does_not_fit_is_named() -> None:
    spec = detection.make_spec("sfda:tinyrcnn", ("a", "b"))
    weights = detection.build_from_spec(spec).state_dict()
    with pytest.raises(BadInput, match="tells 2 classes and the background apart, but 3 classes"):
        load_network(weights, arch="sfda:tinyrcnn", classes=("a", "b", "c"))
    with pytest.raises(BadInput, match="1 missing: backbone"):
        load_network(
            {k: v for k, v in weights.items() if k != "backbone.0.weight"},
            arch="sfda:tinyrcnn", classes=("a", "b"),
        )  # fmt: skip
    with pytest.raises(BadInput, match="no detector torchvision:fasterrcnn_vgg"):
        detection.build_from_spec(spec.model_copy(update={"arch": "torchvision:fasterrcnn_vgg"}))
    with pytest.raises(BadInput, match=r"it is written .*torchvision:"):
        detection.make_spec("resnet50", ("a",))
    with pytest.raises(BadInput, match="no configuration nothing"):
        detection.make_spec("mmdet:nothing.py", ("a",), input=SMALL)
    tiled = InputSpec(size=(64, 64), tiled=True, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(BadInput, match="sees whole images"):
        detection.make_spec("sfda:tinyrcnn", ("a",), input=tiled)


def test_a_configuration_says_how_it_wants_its_images() -> None:
    result = config_input("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    assert result is not None
    assert (result.size, result.channels, result.scale) == ((800, 1344), "rgb", 1.0)
    assert result.mean == (123.675, 116.28, 103.53)
    spec = detection.make_spec(FASTER, ("a", "b"), input=SMALL)
    assert spec.config is not None
    assert spec.config["roi_head"]["bbox_head"]["num_classes"] == 2
    assert spec.config["backbone"]["init_cfg"] is None  # nothing is fetched
    assert spec.config["test_cfg"]["rpn"]["max_per_img"] == 300


def test_a_one_stage_detector_predicts_and_learns_but_has_no_regions() -> None:
    spec = detection.make_spec(
        "mmdet:retinanet/retinanet_r18_fpn_1x_coco.py", ("a", "b"), input=SMALL
    )
    model = detection.build_from_spec(spec)
    assert not model.two_stage
    x = torch.randn(1, 3, 64, 96)
    assert len(model.eval()(x).boxes) == 1
    boxes = [Boxes(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([1]), torch.ones(1))]
    model.train()
    losses = detection_loss.loss(model, x, boxes, doubtful=[toydet.no_boxes()])
    assert all(bool(term.isfinite()) for term in losses.values())
    with pytest.raises(BadInput, match="no two-stage detector"):
        model.regions(x)


def test_a_backbone_is_filled_from_a_classifiers_weights() -> None:
    from torchvision.models import squeezenet1_1

    inputs = squeezenet1_1(weights=None).state_dict()
    spec = detection.make_spec("torchvision:fasterrcnn_squeezenet1_1_fpn", ("a",), input=SMALL)
    model: Detector = detection.build_from_spec(spec)
    load_backbone(model, inputs)
    held = model.state_dict()
    torch.testing.assert_close(held["backbone.body.0.weight"], inputs["features.0.weight"])
    with pytest.raises(BadInput, match="missing"):
        load_backbone(model, {k: v for k, v in inputs.items() if "features.0" not in k})


def test_what_stands_in_for_compiled_operations() -> None:
    if mmcv_ops.ensure():
        pytest.skip("mmcv is compiled here")
    from mmcv.ops import nms, sigmoid_focal_loss

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    remaining, index = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    assert index.tolist() == [0, 2]
    assert remaining.shape == (2, 5)
    logits = torch.randn(6, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 3, 0])  # 3 is the background
    loss = sigmoid_focal_loss(logits, labels, 2.0, 0.25, None, "sum")
    loss.backward()
    expected = nn.functional.one_hot(labels, 4)[:, :3].float()
    again = logits.detach().clone().requires_grad_()
    p = again.sigmoid()
    known = -(
        0.25 * expected * (1 - p) ** 2 * p.log() + 0.75 * (1 - expected) * p**2 * (1 - p).log()
    ).sum()
    known.backward()
    assert float(loss.detach()) == pytest.approx(float(known.detach()), rel=1e-5)
    torch.testing.assert_close(logits.grad, again.grad, rtol=1e-4, atol=1e-6)
    from mmcv._ext import softnms

    with pytest.raises(NotImplementedError, match="compiled operation 'softnms'"):
        softnms()
