"""Classifiers: cut where they should be, nothing changed by the cut, and their loss by hand."""

import copy
import math

import pytest
import torch
from library_networks import classifier, cut_classifier, native
from torch import nn
from torchvision import models

from sfda.errors import BadInput
from sfda.problems.classification.loss import loss, pseudo_labels
from sfda.problems.classification.network import (
    ClassOutput,
    build_from_spec,
    defaults,
    make_spec,
)
from sfda.types import UNSURE

# one of every family that torchvision has: small ones for real, the others by shape alone
REAL = {
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "googlenet": 64,
    "inception_v3": 80,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
}
SHAPES = (
    "alexnet",
    "efficientnet_v2_s",
    "maxvit_t",
    "vgg11",
    "vit_b_32",
    "vit_h_14",
    "resnext50_32x4d",
)
TIMM = ("resnet10t", "test_vit", "mobilenetv4_conv_small_035", "resnetv2_18", "sequencer2d_s")


class Fixed(nn.Module):
    """Says what it is given: a network whose logits are its images."""

    def forward(self, images: torch.Tensor) -> ClassOutput:
        return ClassOutput(images, images)


def logits_of_both(arch: str, side: int, depth: int = 3) -> tuple[torch.Tensor, ClassOutput, int]:
    torch.manual_seed(0)
    network = native("classification", arch, 5).eval()
    images = torch.randn(2, depth, side, side)
    with torch.no_grad():
        for parameter in network.parameters():  # some heads begin at zero, which hides a wrong cut
            if parameter.ndim == 2 and not parameter.any():
                nn.init.normal_(parameter)
        before = network(images)
        cut = cut_classifier(arch, network, 5).eval()
        return before, cut(images), cut.feature_dim


@pytest.mark.parametrize("name", REAL)
def test_torchvision_network_says_the_same_after_the_cut(name):
    before, after, width = logits_of_both(f"torchvision:{name}", REAL[name])
    assert torch.equal(before, after.logits)
    assert after.features.shape == (2, width)


@pytest.mark.parametrize("name", TIMM)
def test_timm_network_says_the_same_after_the_cut(name):
    side = 224 if name.startswith("sequencer") else 160
    before, after, width = logits_of_both(f"timm:{name}", side)
    torch.testing.assert_close(before, after.logits, rtol=1e-5, atol=1e-6)
    assert after.features.shape == (2, width)


def test_timm_convolution_as_last_layer_becomes_linear():
    before, after, width = logits_of_both("timm:dla46_c", 64)
    torch.testing.assert_close(before, after.logits, rtol=1e-4, atol=1e-6)
    assert after.features.shape == (2, width) == (2, 256)


@pytest.mark.parametrize("name", SHAPES)
def test_large_torchvision_networks_have_features_and_logits(name):
    spec, _ = defaults(f"torchvision:{name}")
    with torch.device("meta"):
        network = classifier(f"torchvision:{name}", 5, head="plain").eval()
        out = network(torch.zeros(2, 3, *spec.size))
    assert out.features.shape == (2, network.feature_dim)
    assert out.logits.shape == (2, 5)


def test_every_torchvision_family_is_tried():
    tried = {models.get_model_builder(name).__module__ for name in [*REAL, *SHAPES]}
    names = models.list_models(module=models)
    assert tried == {models.get_model_builder(name).__module__ for name in names}


@pytest.mark.parametrize(
    ("arch", "shape", "width"),
    [
        ("sfda:lenet", (1, 28, 28), 800),
        ("sfda:tiny", (1, 16, 16), 32),
        ("torchvision:squeezenet1_1", (3, 64, 64), 512),
    ],
)
@pytest.mark.parametrize("head", ["bottleneck", "plain"])
def test_own_networks_and_a_map_backbone(arch, shape, width, head):
    network = classifier(arch, 4, head=head, bottleneck_dim=24)
    images = torch.rand(3, *shape)
    out = network(images)
    assert out.features.shape == (3, 24 if head == "bottleneck" else width)
    assert out.features.shape[1] == network.feature_dim
    assert out.logits.shape == (3, 4)
    out.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_features_are_what_goes_into_the_head():
    network = classifier("sfda:tiny", 4, bottleneck_dim=8).eval()
    out = network(torch.rand(3, 1, 16, 16))
    torch.testing.assert_close(network.head(out.features), out.logits)
    squeeze = classifier("torchvision:squeezenet1_1", 4, head="plain").eval()
    images = torch.rand(2, 3, 64, 64)
    maps = squeeze.backbone(images)
    assert maps.ndim == 4
    torch.testing.assert_close(squeeze(images).features, maps.mean((2, 3)))


def test_lenet_is_shots():
    network = classifier("sfda:lenet", 10)
    kinds = [type(module).__name__ for module in network.backbone.conv_params]
    assert kinds == ["Conv2d", "MaxPool2d", "ReLU", "Conv2d", "Dropout2d", "MaxPool2d", "ReLU"]
    counts = {key: tuple(value.shape) for key, value in network.backbone.state_dict().items()}
    assert counts["conv_params.0.weight"] == (20, 1, 5, 5)
    assert counts["conv_params.3.weight"] == (50, 20, 5, 5)
    assert network.bottleneck.dropout.p == 0.5
    assert classifier("sfda:tiny", 10).bottleneck.dropout.p == 0.0
    assert classifier("sfda:lenet", 10, bottleneck_dropout=0.0).bottleneck.dropout.p == 0.0


def test_dropout_comes_after_the_batch_norm():
    torch.manual_seed(0)
    features = classifier("sfda:lenet", 10)(torch.rand(64, 1, 28, 28)).features
    gone = features == 0.0
    assert 0.45 < float(gone.float().mean()) < 0.55
    remaining = features.detach()[~gone]
    assert float(remaining.square().mean()) == pytest.approx(4.0, rel=0.1)  # unit variance, doubled


def test_tiny_is_tiny():
    network = classifier("sfda:tiny", 3, bottleneck_dim=16)
    assert sum(parameter.numel() for parameter in network.parameters()) < 5000


def test_initialisation_is_the_effective_one_of_shot():
    torch.manual_seed(0)
    network = classifier("sfda:lenet", 200)
    network.requires_grad_(False)
    bottleneck, head = network.bottleneck.linear, network.head
    assert not bottleneck.bias.any()
    assert float(bottleneck.weight.std()) == pytest.approx(math.sqrt(2 / (800 + 256)), rel=0.02)
    assert not head.bias.any()
    assert 0.99 / 16 < float(head.weight.abs().max()) <= 1 / 16  # uniform within 1/sqrt(256)
    lengths = head.parametrizations.weight.original0
    directions = head.parametrizations.weight.original1
    torch.testing.assert_close(lengths, directions.norm(dim=1, keepdim=True))


def test_outputs_are_float32_under_autocast():
    for head in ("bottleneck", "plain"):
        network = classifier("sfda:tiny", 3, head=head, bottleneck_dim=8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = network(torch.rand(4, 1, 16, 16))
        assert out.features.dtype == out.logits.dtype == torch.float32


def test_a_deep_copy_is_the_same_and_its_own():
    network = classifier("sfda:tiny", 3, bottleneck_dim=8)
    twin = copy.deepcopy(network).eval()
    images = torch.rand(4, 1, 16, 16)
    want = network.eval()(images).logits
    assert torch.equal(twin(images).logits, want)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert torch.equal(twin(images).logits, want)
    network.load_state_dict(twin.state_dict())
    assert torch.equal(network(images).logits, want)
    assert twin.frozen == frozenset()


def test_default_inputs():
    lenet, views = defaults("sfda:lenet")
    assert (lenet.size, lenet.resize, lenet.channels) == ((28, 28), None, "gray")
    assert (lenet.mean, lenet.std) == ((0.5,), (0.5,))
    assert (views.crop, views.flip, views.rotate) == (False, False, 0.0)
    resnet, views = defaults("torchvision:resnet50")
    assert (resnet.size, resnet.resize, resnet.keep_ratio) == ((224, 224), (256, 256), False)
    assert resnet.mean == (0.485, 0.456, 0.406)
    assert (views.crop, views.flip) == (True, True)
    vit, _ = defaults("timm:vit_tiny_patch16_224")
    assert (vit.size, vit.resize, vit.keep_ratio) == ((224, 224), (248, 248), True)
    assert (vit.mean, vit.interpolation) == ((0.5, 0.5, 0.5), "bicubic")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_inception_inputs_are_what_the_released_weights_want(name):
    with torch.device("meta"):
        reference = models.get_model(
            name, transform_input=True, aux_logits=False, init_weights=False
        )
    image = torch.rand(1, 3, 8, 8)

    def standardised(mean, std):
        return (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    spec, _ = defaults(f"torchvision:{name}")
    resnet, _ = defaults("torchvision:resnet18")
    want = reference._transform_input(standardised(resnet.mean, resnet.std))
    torch.testing.assert_close(standardised(spec.mean, spec.std), want)


@pytest.mark.parametrize(
    ("arch", "near"),
    [
        ("resnet18", "torchvision:resnet18"),
        ("torchvision:resnet5", "torchvision:resnet50"),
        ("timm:resnt18", "timm:resnet18"),
        ("sfda:lenett", "sfda:lenet"),
        ("timm:hf-hub:timm/resnet18", "timm:"),
        ("zzzz", "torchvision:<name>"),
    ],
)
def test_an_unknown_architecture_is_told_with_what_is_near(arch, near):
    with pytest.raises(BadInput, match="no architecture") as caught:
        classifier(arch, 3)
    assert near in str(caught.value)


@pytest.mark.parametrize(
    "arch",
    [
        "timm:deit_tiny_distilled_patch16_224",
        "timm:volo_d1_224",
        "timm:resnet18.nothing",
    ],
)
def test_what_timm_cannot_give_as_a_classifier_is_refused(arch):
    with pytest.raises(BadInput):
        classifier(arch, 3)


def test_senseless_sizes_are_refused():
    with pytest.raises(BadInput, match="at least 2 classes"):
        classifier("sfda:tiny", 1)
    with pytest.raises(BadInput, match="bottleneck_dim"):
        classifier("sfda:tiny", 3, bottleneck_dim=0)


def test_spec_says_all_that_building_needs():
    spec = make_spec("sfda:lenet", ("a", "b", "c"))
    assert spec.bottleneck_dropout == 0.5
    network = build_from_spec(spec)
    assert (network.num_classes, network.feature_dim) == (3, 256)
    assert network.bottleneck.dropout.p == 0.5
    with pytest.raises(BadInput, match="named twice: b"):
        make_spec("sfda:lenet", ("a", "b", "b"))


def test_loss_is_smoothed_cross_entropy_over_the_sure_images():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [1.0, 3.0, 0.0]])
    targets = torch.tensor([0, UNSURE, 2])
    plain = smooth = 0.0
    for row, target in ((0, 0), (2, 2)):
        log_p = [float(x) for x in logits[row] - logits[row].exp().sum().log()]
        plain -= log_p[target] / 2
        smooth -= sum((0.9 * (c == target) + 0.1 / 3) * log_p[c] for c in range(3)) / 2
    assert float(loss(Fixed(), logits, targets)["class"]) == pytest.approx(plain)
    got = loss(Fixed(), logits, targets, smoothing=0.1)
    assert list(got) == ["class"]
    assert float(got["class"]) == pytest.approx(smooth)


def test_loss_weights_count_a_class_more():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    targets = torch.tensor([0, 0])
    one, two = (float(loss(Fixed(), logits[i : i + 1], targets[:1])["class"]) for i in (0, 1))
    targets = torch.tensor([0, 1])
    three = float(loss(Fixed(), logits[1:], targets[1:])["class"])
    got = loss(Fixed(), logits, targets, weights=torch.tensor([0.2, 0.6]))
    assert float(got["class"]) == pytest.approx((0.2 * one + 0.6 * three) / 2)
    assert two != pytest.approx(three)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0])])
def test_loss_of_unsure_images_alone_is_zero_on_the_graph(weights):
    logits = torch.randn(3, 2, requires_grad=True)
    got = loss(Fixed(), logits, torch.full((3,), UNSURE), smoothing=0.1, weights=weights)["class"]
    assert float(got.detach()) == 0.0
    got.backward()
    assert torch.equal(logits.grad, torch.zeros(3, 2))


def test_pseudo_labels_are_unsure_below_the_threshold():
    probs = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.5, 0.5]])
    images = probs.log().requires_grad_()
    got = pseudo_labels(Fixed(), images, 0.7)
    assert got.tolist() == [0, UNSURE, 1, UNSURE]
    assert got.dtype == torch.int64
    assert pseudo_labels(Fixed(), torch.zeros(1, 2), 0.5).tolist() == [0]  # reached is enough
