"""A prior of poses: how far the directions of bones are from those of real poses.

The network of POST (Raychaudhuri et al., ICCV 2023, arXiv:2308.13954), a two-dimensional relative
of Pose-NDF (Tiwari et al., ECCV 2022), for any skeleton.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfda.building_blocks.precision import full_precision
from sfda.errors import BadInput

CODE = 6  # numbers that a bone's encoder gives
BODY = (  # POST's bones of the 16 joints in MPII's order, each from joint to joint
    (8, 9),
    (2, 8),
    (3, 8),
    (12, 8),
    (13, 8),
    (1, 2),
    (0, 1),
    (4, 3),
    (5, 4),
    (11, 12),
    (10, 11),
    (14, 13),
    (15, 14),
)
BODY_PARENTS = (-1, 0, 0, 0, 0, 1, 5, 2, 7, 3, 9, 4, 11)

Bones = Sequence[tuple[int, int]]


def directions(joints: Float[Tensor, "B K 2"], bones: Bones) -> Float[Tensor, "B N 2"]:
    """Unit vectors along the bones; 0 for a bone without a length."""
    start, end = (torch.tensor(side, device=joints.device) for side in zip(*bones, strict=True))
    return F.normalize(joints[:, end] - joints[:, start], dim=-1, eps=1e-8)


def tree(edges: Bones, count: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Bones and their parents out of a skeleton's edges between `count` joints.

    The edges of a tree that spans the joints, breadth first from the joint with most edges; each
    bone points towards that joint, and its parent is the bone that goes on from there, -1 at the
    root. POST's own tree for MPII's joints (`BODY`) begins with a bone away from that joint and has
    its children in another order, so its released weights fit no prior made of edges. Raises
    BadInput where joints that have an edge hang together in no way.
    """
    near: dict[int, list[int]] = {}
    for a, b in edges:
        if not (0 <= a < count and 0 <= b < count) or a == b:
            raise BadInput(f"skeleton edge ({a}, {b}) joins no two of {count} joints")
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    if not near:
        raise BadInput("a skeleton without edges has no bones")
    root = max(near, key=lambda joint: (len(near[joint]), -joint))
    bones: list[tuple[int, int]] = []
    parents: list[int] = []
    leads: dict[int, int] = {root: -1}
    for joint in (queue := [root]):
        for other in near[joint]:
            if other not in leads:
                bones.append((other, joint))
                parents.append(leads[joint])
                leads[other] = len(bones) - 1
                queue.append(other)
    if len(leads) < len(near):
        apart = sorted(set(near) - set(leads))
        raise BadInput(f"the skeleton falls apart: no way leads from joint {root} to {apart}")
    return bones, parents


class PosePrior(nn.Module):
    """Distance of a pose from the plausible ones, at least 0: mean over bones of a chord's length.

    An encoder a bone sees its direction and its parent's code; the codes together go through
    layers with a weight norm and ReLU, the last one included.
    """

    def __init__(
        self, bones: Bones, parents: Sequence[int], *, hidden: Sequence[int] = (512,) * 5
    ) -> None:
        super().__init__()
        if len(bones) != len(parents) or any(p >= i for i, p in enumerate(parents)):
            raise BadInput("every bone of a prior needs a parent that comes before it, or -1")
        self.bones = tuple((int(a), int(b)) for a, b in bones)
        self.parents = tuple(int(p) for p in parents)
        self.encoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 + (CODE if p >= 0 else 0), 8), nn.ReLU(), nn.Linear(8, CODE), nn.ReLU()
            )
            for p in parents
        )
        widths = (CODE * len(bones), *hidden, 1)
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Linear(a, b)) for a, b in pairwise(widths)
        )

    @full_precision
    def forward(self, vectors: Float[Tensor, "B N 2"]) -> Float[Tensor, " B"]:
        """The distance of each pose, given by its bones' directions."""
        codes: list[Tensor] = []
        for bone, (encoder, parent) in enumerate(zip(self.encoders, self.parents, strict=True)):
            inputs = vectors[:, bone]
            if parent >= 0:
                inputs = torch.cat([inputs, codes[parent]], 1)
            codes.append(encoder(inputs))
        values = torch.cat(codes, 1)
        for layer in self.layers:
            values = F.relu(layer(values))
        score: Tensor = values[:, 0]
        return score

    def of_joints(self, joints: Float[Tensor, "B K 2"]) -> Float[Tensor, " B"]:
        """The distance of poses given by joints in any unit."""
        distance: Tensor = self(directions(joints.float(), self.bones))
        return distance
