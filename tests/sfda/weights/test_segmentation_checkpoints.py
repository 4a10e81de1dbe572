"""Checkpoints of segmentation networks: whose names they carry, and every way not to fit."""

from __future__ import annotations

import re

import pytest
import torch
from library_networks import native as native_network
from library_networks import segmenter
from safetensors.torch import save_file

from sfda.errors import BadInput
from sfda.problems.registry import read_bundle
from sfda.problems.segmentation import network as segmentation
from sfda.problems.segmentation.weights import load_backbone, load_network
from sfda.refs import InputSpec
from sfda.weights.bundle import write_bundle
from sfda.weights.checkpoints import read_weights

UNET = "smp:unet/resnet18"
INPUT = InputSpec(size=(64, 64), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CLASSES = ("sky", "road", "car")
IMAGES = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)


@pytest.fixture(scope="module")
def native():
    torch.manual_seed(0)
    return native_network("segmentation", UNET, 3).eval()


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "model.", "module.net."])
def test_a_librarys_checkpoint_is_taken_whatever_a_trainer_called_it(native, tmp_path, prefix):
    state = {prefix + name: value for name, value in native.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "weights.ckpt.pth")
    weights = read_weights(tmp_path / "weights.ckpt.pth")
    network, spec = load_network(weights, arch=UNET, classes=CLASSES, input=INPUT)
    assert torch.equal(network(IMAGES).logits, native(IMAGES))
    assert spec.problem == "segmentation"
    assert not network.training


@torch.no_grad()
def test_torchvisions_auxiliary_classifier_is_left_out():
    torch.manual_seed(0)
    arch = "torchvision:lraspp_mobilenet_v3_large"
    theirs = native_network("segmentation", arch, 3).eval()
    weights = theirs.state_dict() | {"aux_classifier.0.weight": torch.ones(1)}
    network, _ = load_network(weights, arch=arch, classes=CLASSES, input=INPUT)
    assert torch.allclose(network(IMAGES).logits, theirs(IMAGES)["out"], atol=1e-6)


@torch.no_grad()
def test_a_bundle_gives_back_the_network_it_was_written_from(tmp_path):
    torch.manual_seed(0)
    spec = segmentation.make_spec("sfda:tinyunet", CLASSES)
    network = segmentation.build_from_spec(spec).eval()
    digest = write_bundle(tmp_path / "bundle", network, spec)
    again, read = read_bundle(tmp_path / "bundle", sha256=digest)
    assert read == spec
    assert torch.equal(again(IMAGES).logits, network(IMAGES).logits)
    save_file(network.state_dict(), tmp_path / "ours.safetensors")
    ours, _ = load_network(
        read_weights(tmp_path / "ours.safetensors"), arch="sfda:tinyunet", classes=CLASSES
    )
    assert torch.equal(ours(IMAGES).logits, network(IMAGES).logits)


def test_one_output_for_two_classes_is_a_binary_head():
    weights = native_network("segmentation", UNET, 1).state_dict()
    network, spec = load_network(weights, arch=UNET, classes=("ground", "lesion"), input=INPUT)
    assert spec.binary_logit
    assert network(IMAGES).logits.shape == (1, 2, 64, 64)


@pytest.mark.parametrize(
    "arch", [UNET, "smp:segformer/mit_b0", "torchvision:lraspp_mobilenet_v3_large"]
)
def test_a_binary_head_is_known_under_our_names_too(arch):
    weights = segmenter(arch, 2, binary_logit=True).state_dict()
    _, spec = load_network(weights, arch=arch, classes=("ground", "lesion"), input=INPUT)
    assert spec.binary_logit


@torch.no_grad()
@pytest.mark.parametrize(
    ("arch", "former"),
    [
        ("smp:deeplabv3/resnet18", {"decoder.aspp.": "decoder.0.", "decoder.bn.": "decoder.2."}),
        ("smp:unet/tu-regnetx_002", {"encoder.model.": "encoder."}),
        ("smp:unet/tu-gernet_s",
         {"encoder.model.": "encoder.", "encoder.stages_": "encoder.stages."}),
    ],
)  # fmt: skip
def test_names_that_smp_gave_in_former_versions_are_known(arch, former):
    torch.manual_seed(0)
    theirs = native_network("segmentation", arch, 3).eval()
    weights = theirs.state_dict()
    for now, once in former.items():
        assert any(k.startswith(now) for k in weights)
        weights = {re.sub(f"^{re.escape(now)}", once, k): v for k, v in weights.items()}
    network, _ = load_network(weights, arch=arch, classes=CLASSES, input=INPUT)
    assert torch.equal(network(IMAGES).logits, theirs(IMAGES))


def test_what_a_trainer_keeps_beside_the_network_is_named(native):
    weights = {f"model.{k}": v for k, v in native.state_dict().items()}
    weights |= {"mean": torch.zeros(3), "loss_fn.weight": torch.ones(3)}
    with pytest.raises(BadInput, match=r"do not fit: 2 unexpected: loss_fn\.weight, mean$"):
        load_network(weights, arch=UNET, classes=CLASSES, input=INPUT)


def test_every_key_that_does_not_fit_is_named(native):
    weights = dict(native.state_dict())
    del weights["encoder.conv1.weight"]
    weights["encoder.extra.weight"] = torch.ones(1)
    weights["decoder.blocks.0.conv1.0.weight"] = torch.ones(2, 2)
    with pytest.raises(BadInput) as refused:
        load_network(weights, arch=UNET, classes=CLASSES, input=INPUT)
    output = str(refused.value)
    assert "1 missing: encoder.conv1.weight" in output
    assert "1 unexpected: encoder.extra.weight" in output
    assert "decoder.blocks.0.conv1.0.weight is (2, 2)" in output


@pytest.mark.parametrize(
    ("arch", "classes"),
    [(UNET, 4), ("torchvision:fcn_resnet50", 4), ("sfda:tinyunet", 4), ("smp:fpn/resnet18", 1)],
)
def test_a_wrong_count_of_classes_gets_a_sentence_of_its_own(arch, classes):
    if arch.startswith("sfda"):
        weights = segmenter(arch, classes).state_dict()
    else:
        weights = native_network("segmentation", arch, classes).state_dict()
    with pytest.raises(BadInput, match=f"head has {classes} outputs but 3 classes were named"):
        load_network(weights, arch=arch, classes=CLASSES, input=INPUT)


def test_an_input_that_the_network_cannot_take_is_refused():
    weights = native_network("segmentation", "smp:pan/resnet18", 3).state_dict()
    with pytest.raises(BadInput, match="cannot take rgb images of 64x64"):
        load_network(weights, arch="smp:pan/resnet18", classes=CLASSES, input=INPUT)


def test_an_encoders_weights_fill_the_backbone_alone(native):
    network = segmenter(UNET, 5)
    head = network.head[0].weight.clone()
    load_backbone(network, native.state_dict())
    theirs = native.encoder.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in network.backbone.state_dict().items())
    assert torch.equal(network.head[0].weight, head)
    load_backbone(network, dict(theirs) | {"fc.weight": torch.ones(1000, 512)})
    with pytest.raises(BadInput, match="missing"):
        load_backbone(network, {"conv1.weight": theirs["conv1.weight"]})


def test_weights_of_timms_own_fill_an_encoder_that_smp_took_from_timm():
    network = segmenter("smp:unet/tu-resnet18", 5)
    theirs = {k.removeprefix("model."): v + 1 for k, v in network.backbone.state_dict().items()}
    load_backbone(network, theirs | {"fc.weight": torch.ones(1000, 512)})
    result = network.backbone.state_dict()
    assert all(torch.equal(v, theirs[k.removeprefix("model.")]) for k, v in result.items())
    load_backbone(network, result)
