"""Segmentation networks: those of libraries unchanged, ours, and what all of them promise."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from library_networks import cut_segmenter, native, segmenter

from sfda.building_blocks.norm import norms, spare_lone_values
from sfda.errors import BadInput
from sfda.networks.smp import smp_networks
from sfda.problems.segmentation import loss as segmentation_loss
from sfda.problems.segmentation import network as segmentation
from sfda.problems.segmentation.network import SegOutput
from sfda.refs import InputSpec
from sfda.types import UNSURE

ENCODERS = {"segformer": "mit_b0", "dpt": "tu-vit_tiny_patch16_224"}
SMP = [
    f"smp:{name}/{ENCODERS.get(name, 'resnet18')}"
    for name in (
        "deeplabv3", "deeplabv3plus", "dpt", "fpn", "linknet", "manet", "pan", "pspnet",
        "segformer", "unet", "unetplusplus", "upernet",
    )
]  # fmt: skip
ENCODED = ["smp:unet/tu-resnet18", "smp:fpn/timm-regnetx_002"]  # from timm, one by its former name
TORCHVISION = [
    "torchvision:fcn_resnet50", "torchvision:deeplabv3_mobilenet_v3_large",
    "torchvision:lraspp_mobilenet_v3_large",
]  # fmt: skip
POOLED = ["smp:deeplabv3/resnet18", "smp:deeplabv3plus/resnet18", "smp:pan/resnet18",
          "smp:upernet/resnet18", "torchvision:deeplabv3_mobilenet_v3_large"]  # fmt: skip
HALF = (0.5, 0.5, 0.5)


def test_every_architecture_of_smp_is_here():
    assert {arch.split(":")[1].split("/")[0] for arch in SMP} == set(smp_networks())


@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated")
@pytest.mark.parametrize("arch", [*SMP, *ENCODED, *TORCHVISION])
@torch.no_grad()
def test_a_librarys_network_answers_as_before_with_the_same_parameters(arch):
    torch.manual_seed(0)
    whole = native("segmentation", arch, 5).eval()
    wrapped = cut_segmenter(arch, copy.deepcopy(whole), 5).eval()
    images = torch.randn(1, 3, 224, 224) if "dpt" in arch else torch.randn(1, 3, 128, 160)
    expected = whole(images)
    expected = expected["out"] if isinstance(expected, dict) else expected
    result = wrapped(images)
    assert torch.allclose(result.logits, expected, atol=1e-5)
    assert result.features.shape[1] == wrapped.feature_dim
    assert sum(p.numel() for p in wrapped.parameters()) == sum(
        p.numel() for p in whole.parameters()
    )
    assert {name for name, _ in wrapped.named_children()} == {"backbone", "decoder", "head"}


@pytest.mark.parametrize("arch", ["sfda:unet", "sfda:tinyunet", "smp:fpn/resnet18"])
def test_logits_have_the_images_size_and_padding_is_seen_by_nobody(arch):
    torch.manual_seed(0)
    network = segmenter(arch, 4).eval()
    images = torch.randn(2, 3, 45, 51)
    result = network(images)
    assert result.logits.shape == (2, 4, 45, 51)
    assert result.logits.dtype == torch.float32
    # what is padded repeats the border: the same image, already padded so, answers the same
    below, right = -45 % network.multiple, -51 % network.multiple
    whole = network(F.pad(images, (0, right, 0, below), mode="replicate"))
    assert torch.equal(whole.logits[..., :45, :51], result.logits)


@pytest.mark.parametrize("arch", POOLED)
def test_a_batch_of_one_trains_where_maps_are_pooled_to_one_pixel(arch):
    torch.manual_seed(0)
    network = segmenter(arch, 3).train()
    twin = copy.deepcopy(network)
    means = [layer.running_mean.clone() for layer in norms(network)]
    twin(torch.randn(1, 3, 128, 128)).logits.square().mean().backward()
    assert all(p.grad is not None for p in twin.decoder.parameters())
    assert all(layer.training for layer in norms(twin))
    moved = [not torch.equal(a.running_mean, b) for a, b in zip(norms(twin), means, strict=True)]
    assert 0 < moved.count(False) < len(moved)  # the pooled layers rest, all others learn
    assert twin.state_dict().keys() == network.state_dict().keys()


def test_a_lone_value_is_normalised_with_what_ran_before_and_a_pair_is_not():
    layer = torch.nn.BatchNorm2d(2)
    layer.running_mean.copy_(torch.tensor([1.0, -1.0]))
    layer.running_var.fill_(4.0)
    spare_lone_values(layer)
    result = layer(torch.tensor([3.0, 3.0]).view(1, 2, 1, 1)).flatten()
    assert result.tolist() == pytest.approx([1.0, 2.0], abs=1e-4)  # (3 - mean) / 2
    pair = layer(torch.tensor([[3.0, 3.0], [5.0, 7.0]]).view(2, 2, 1, 1))
    assert pair[:, 0].flatten().tolist() == pytest.approx([-1.0, 1.0], abs=1e-4)
    assert layer.running_mean[0].item() == pytest.approx(0.9 * 1 + 0.1 * 4)
    with pytest.raises(RuntimeError):
        layer(torch.zeros(1, 3, 1, 1))
    assert layer.training  # a failed forward leaves the mode as it was


def test_the_tiny_network_learns_a_shape_at_once():
    torch.manual_seed(0)
    network = segmenter("sfda:tinyunet", 2).train()
    assert sum(p.numel() for p in network.parameters()) < 6000
    targets = torch.zeros(4, 16, 16, dtype=torch.long)
    targets[:, 4:12, 4:12] = 1
    images = targets[:, None].float().expand(-1, 3, -1, -1) + 0.1 * torch.randn(4, 3, 16, 16)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        segmentation_loss.loss(network, images, targets)["class"].backward()
        optimizer.step()
    labels = segmentation_loss.pseudo_labels(network.eval(), images, 0.0)
    assert (labels == targets).float().mean() > 0.95


def test_one_output_becomes_two_logits():
    torch.manual_seed(0)
    network = segmenter("sfda:tinyunet", 2, binary_logit=True).eval()
    result = network(torch.randn(1, 3, 8, 8))
    assert result.logits.shape == (1, 2, 8, 8)
    assert (result.logits[:, 0] == 0).all()
    raw = network.head(result.features)[:, 0]
    assert torch.allclose(result.logits.softmax(1)[:, 1], raw.sigmoid(), atol=1e-6)
    with pytest.raises(BadInput, match="two classes"):
        segmenter("sfda:tinyunet", 3, binary_logit=True)


def test_gray_images_need_a_network_of_one_channel():
    spec = segmentation.make_spec(
        "smp:unet/resnet18", ("a", "b"),
        input=InputSpec(size=(64, 64), channels="gray", mean=(0.5,), std=(0.5,)),
    )  # fmt: skip
    network = segmentation.build_from_spec(spec).eval()
    assert network(torch.zeros(1, 1, 64, 64)).logits.shape == (1, 2, 64, 64)
    with pytest.raises(BadInput, match="colour images alone"):
        segmenter("torchvision:fcn_resnet50", 2, channels=1)


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("smp:unett/resnet18", "smp:unet/resnet18"),
        ("smp:unet/resnet81", "smp:unet/resnet18"),
        ("torchvision:fcn_resnet5", "torchvision:fcn_resnet50"),
        ("smp:unet", "smp:unet/resnet18"),
        ("smp:unet/tu-nothing", "did you mean smp:unet/"),
        ("unet", "sfda:unet"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(arch, hint):
    with pytest.raises(BadInput, match=hint):
        segmenter(arch, 2)


@pytest.mark.parametrize(
    "arch", ["smp:dpt/resnet18", "smp:linknet/mit_b0", "smp:unet/tu-nest_tiny"]
)
def test_an_encoder_that_does_not_fit_is_refused(arch):
    with pytest.raises(BadInput, match=f"cannot build {arch}"):
        segmenter(arch, 2)


@pytest.mark.parametrize("classes", [1, 256])
def test_a_count_of_classes_that_no_mask_can_hold_is_refused(classes):
    with pytest.raises(BadInput, match="2 to 255 classes"):
        segmenter("sfda:tinyunet", classes)


def test_smp_states_no_input_and_the_others_do():
    assert segmentation.defaults("smp:unet/resnet18")[0] is None
    with pytest.raises(BadInput, match="does not state its input"):
        segmentation.make_spec("smp:unet/resnet18", ("a", "b"))
    spec = segmentation.make_spec("torchvision:fcn_resnet50", ("a", "b"))
    assert spec.input.size == (520, 520)
    assert spec.input.mean == pytest.approx((0.485, 0.456, 0.406))
    assert segmentation.make_spec("sfda:unet", ("a", "b")).views.erase == 0


class Fixed(torch.nn.Module):
    """A network whose logits are its images."""

    def forward(self, images):
        return SegOutput(images, images)


def test_the_loss_counts_sure_pixels_alone_and_is_zero_on_the_graph_without_any():
    logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]], requires_grad=True)  # [1, 2, 1, 2]
    targets = torch.tensor([[[0, UNSURE]]])
    result = segmentation_loss.loss(Fixed(), logits, targets)["class"]
    assert result.item() == pytest.approx(-F.log_softmax(torch.tensor([2.0, 0.0]), 0)[0].item())
    both = segmentation_loss.loss(Fixed(), logits, torch.tensor([[[0, 1]]]))["class"]
    second = -F.log_softmax(torch.tensor([0.0, 1.0]), 0)[1].item()
    assert both.item() == pytest.approx((result.item() + second) / 2)
    weights = torch.tensor([1.0, 3.0])
    weighted = segmentation_loss.loss(Fixed(), logits, torch.tensor([[[0, 1]]]), weights=weights)
    assert weighted["class"].item() == pytest.approx((result.item() + 3 * second) / 2)
    nothing = segmentation_loss.loss(Fixed(), logits, torch.full((1, 1, 2), UNSURE))["class"]
    assert nothing.item() == 0
    nothing.backward()
    assert (logits.grad == 0).all()


def test_pseudo_labels_are_of_sure_pixels():
    logits = torch.tensor([[[[3.0, 0.1, 0.0]], [[0.0, 0.0, 2.0]]]])
    label = partial(segmentation_loss.pseudo_labels, Fixed(), logits)
    assert label(0.0).tolist() == [[[0, 0, 1]]]
    assert label(0.8).tolist() == [[[0, UNSURE, 1]]]
    assert label(0.9).tolist() == [[[0, UNSURE, UNSURE]]]
