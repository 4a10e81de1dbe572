"""Pose: a heatmap for every joint of one person. The network, its spec, the spec's defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfda.building_blocks.heatmaps import joints_from_maps
from sfda.errors import BadInput
from sfda.networks import registry
from sfda.networks.grammar import parse
from sfda.networks.probe import SegParts
from sfda.problems.pose.prior import PosePrior, tree
from sfda.problems.spec_checks import chosen_input, foreign_spec
from sfda.refs import InputSpec, ModelSpec, Skeleton, Views
from sfda.types import Images

STRIDE = 4  # of the heatmaps
VIEWS = Views(  # POST's, for bodies
    crop=False,
    flip=False,
    rotate=60.0,
    shear=30.0,
    move=0.05,
    zoom=(0.6, 1.3),
    jitter=0.25,
    hue=0.0,
    grayscale=0.0,
    blur=0.0,
    erase=0.0,
)


class PoseOutput(NamedTuple):
    """What a pose network says of a batch. The features are the backbone's maps."""

    features: Float[Tensor, "B D h w"]
    heatmaps: Float[Tensor, "B K H W"]
    distance: Float[Tensor, " B"] | None = None  # from plausible poses, by the prior

    @property
    def logits(self) -> Float[Tensor, "B K H W"]:
        """The heatmaps, by the name that every output has."""
        return self.heatmaps

    @property
    def problem(self) -> str:
        """The problem that this is an output of."""
        return PoseNet.problem


class PoseNet(nn.Module):
    """SimpleBaseline (Xiao et al., ECCV 2018, arXiv:1804.06208): backbone, deconvolutions, 1 x 1.

    Its parts are `backbone`, `neck` and `head`; the head is linear.
    """

    problem: ClassVar[str] = "pose"

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: nn.Module,
        *,
        feature_dim: int,
        num_classes: int,
        pairs: Sequence[tuple[int, int]] = (),
        prior: PosePrior | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.feature_dim = feature_dim
        self.num_classes = num_classes
        self.pairs = tuple(pairs)  # left and right joints
        self.prior = prior  # of poses; it came with the source model and never trains here
        self.frozen: frozenset[str] = frozenset({"prior"} if prior else ())

    def forward(self, images: Images) -> PoseOutput:
        """Features and heatmaps, in float32 also under autocast; in eval mode also how far from
        plausible the pose is, if there is a prior.
        """
        features = self.backbone(images)
        maps = self.head(self.neck(features)).float()
        distance = None
        if self.prior is not None and not self.training:
            distance = self.prior.of_joints(joints_from_maps(maps, image=(1, 1))[0])
        return PoseOutput(features.float(), maps, distance)


def neck_and_head(
    width: int, stride: float, joints: int, inner: int
) -> tuple[nn.Module, nn.Module]:
    """Deconvolutions that halve the stride down to about 4, and the layer of the heatmaps."""
    steps = round(math.log2(stride / STRIDE))
    if steps < 0:
        raise BadInput(f"a backbone of stride {stride:g} is finer than heatmaps of {STRIDE} pixels")
    layers: list[nn.Module] = []
    for _ in range(steps):
        layers += [
            nn.ConvTranspose2d(width, inner, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
        ]
        width = inner
    head = nn.Conv2d(width, joints, 1)
    for layer in (*layers, head):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers), head


def build(
    arch: str,
    joints: int,
    *,
    pairs: Sequence[tuple[int, int]] = (),
    prior: PosePrior | None = None,
) -> PoseNet:
    """A network of a library with random weights. Raises BadInput."""
    backbone = registry.pose_backbone(arch)
    if backbone is None:
        return from_parts(registry.heatmap_parts(arch, joints), joints, pairs, prior)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        seen = backbone.eval()(torch.zeros(1, 3, 128, 128))
    if seen.ndim != 4:
        raise BadInput(f"{arch} gives no map of features, so no heatmap can be made of it")
    width, stride = int(seen.shape[1]), 128 / int(seen.shape[2])
    inner = 64 if parse(arch, "joints").library == "sfda" else 256
    neck, head = neck_and_head(width, stride, joints, inner)
    return from_parts(SegParts(backbone.train(), neck, head, width, 1), joints, pairs, prior)


def from_parts(
    parts: SegParts, joints: int, pairs: Sequence[tuple[int, int]], prior: PosePrior | None
) -> PoseNet:
    """The parts of a network that gives heatmaps: its own modules, nothing added but a prior."""
    return PoseNet(
        parts.backbone,
        parts.decoder,
        parts.head,
        feature_dim=parts.width,
        num_classes=joints,
        pairs=pairs,
        prior=prior,
    )


def build_from_spec(spec: ModelSpec) -> PoseNet:
    """The network that a bundle's weights fit, with random weights."""
    skeleton = spec.skeleton or Skeleton()
    prior = None
    if spec.prior_hidden is not None:
        edges = skeleton.index_pairs(skeleton.edges, spec.classes)
        prior = PosePrior(*tree(edges, len(spec.classes)), hidden=spec.prior_hidden)
    joints = len(spec.classes)
    if spec.code is None:
        return build(spec.arch, joints, pairs=spec.joint_pairs, prior=prior)
    parts = registry.cut_map(spec, registry.native_network(spec, joints, "joints"))
    return from_parts(parts, joints, spec.joint_pairs, prior)


def defaults(arch: str) -> tuple[InputSpec | None, Views]:
    """Input and usual random views of an architecture."""
    return registry.network_input(arch, "joints"), VIEWS


def make_spec(
    arch: str,
    classes: tuple[str, ...],
    *,
    input: InputSpec | None = None,
    views: Views | None = None,
    skeleton: Skeleton | None = None,
    padding: float | None = None,
    arch_settings: Mapping[str, Any] | None = None,
    head_layer: str | None = None,
) -> ModelSpec:
    """A spec with what the architecture states filled in. Raises BadInput.

    `padding` is a crop's side by the longer side of its box, as in manifests.
    `arch_settings` and `head_layer` are of somebody's own class, see `foreign_spec`.
    """
    stated, usual = defaults(arch)
    chosen = chosen_input(arch, input, stated)
    if chosen.tiled or chosen.keep_ratio or chosen.letterbox or chosen.depth != 3:
        raise BadInput("a pose network sees square crops of persons in colour: give --size alone")
    if chosen.size[0] != chosen.size[1]:
        raise BadInput(f"crops of persons are square, so the size {chosen.size} must be too")
    if len(set(classes)) != len(classes) or not classes:
        raise BadInput("joints must be named, each once")
    skeleton = skeleton or Skeleton()
    if odd := skeleton.faults(classes):
        raise BadInput(f"the skeleton names what is no joint: {', '.join(odd)}")
    chosen_views = views or usual
    if chosen_views.flip and not skeleton.pairs:
        raise BadInput("views.flip needs the left-right `pairs` of the skeleton")
    spec = ModelSpec(
        problem="pose",
        arch=arch,
        classes=classes,
        input=chosen,
        views=chosen_views,
        head="plain",
        skeleton=skeleton,
        padding=padding,
    )
    return foreign_spec(spec, len(classes), arch_settings, head_layer)
