"""Training of the pose prior: real poses are at distance 0, disturbed ones as far as they are.

As in POST (Raychaudhuri et al., ICCV 2023, arXiv:2308.13954) and its code, in a hundredth of its
steps: a field over a handful of bones needs no more, which the figures it ends with tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from scipy.stats import spearmanr
from torch import Tensor, nn

from sfda.config import Config
from sfda.errors import BadInput
from sfda.problems.pose.prior import Bones, PosePrior, directions

FEWEST = 50  # poses
MOST_REAL_POSES = 20_000  # of which distances are taken
NEAREST = 5  # poses that a distance is the mean over
FAR, NEAR = 0.5, 0.3  # distances that the two sets of disturbed poses begin at


class PriorConfig(Config):
    """POST's values, but for a smaller network (theirs is 512, five times), fewer steps, and true
    rotations as disturbance.
    """

    hidden: tuple[PositiveInt, ...] = (256,) * 3
    steps: tuple[PositiveInt, PositiveInt, PositiveInt] = (750, 1000, 2000)  # of the three stages
    lr: PositiveFloat = 3e-4
    batch_size: PositiveInt = 512  # 1024 in POST
    kappas: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)  # of the von Mises noise
    noise: Literal["rotation", "release"] = "rotation"
    held_out: float = Field(0.1, gt=0, lt=1)


class PriorReport(Config):
    """What a prior is worth on poses that it did not learn from."""

    poses: int
    spearman: float  # of score and true distance over disturbed poses
    clean: float  # mean score of real poses
    far: float  # mean score of those at a distance of at least 0.5

    @property
    def faults(self) -> list[str]:
        """Where it falls short of what a prior should be."""
        return [
            fault
            for bad, fault in (
                (self.spearman <= 0.9, f"rank correlation {self.spearman:.2f}, not above 0.9"),
                (self.clean >= 0.05, f"real poses score {self.clean:.3f}, not below 0.05"),
                (self.far <= 0.45, f"far poses score {self.far:.2f}, not above 0.45"),
            )
            if bad
        ]


class _Sets(NamedTuple):
    clean: Float[Tensor, "P N 2"]
    poses: Float[Tensor, "M N 2"]  # disturbed
    labels: Float[Tensor, " M"]


def learn_prior(
    joints: Float[Tensor, "P K 2"],
    bones: Bones,
    parents: Sequence[int],
    config: PriorConfig,
    *,
    seed: int = 0,
) -> tuple[PosePrior, PriorReport]:
    """A prior of the poses `joints`, in any unit, and what it is worth on held-out ones.

    Raises BadInput for fewer than 50 poses.
    """
    if len(joints) < FEWEST:
        raise BadInput(f"{len(joints)} poses are too few for a prior; at least {FEWEST} are needed")
    rng = np.random.default_rng(seed)
    order = torch.from_numpy(rng.permutation(len(joints)))
    vectors = directions(joints.float()[order], bones)
    held = max(10, round(config.held_out * len(vectors)))
    learn, check = vectors[held:], vectors[:held]
    sets = disturbed(learn, learn, config, rng)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = PosePrior(bones, parents, hidden=config.hidden)
        # the last layer ends in ReLU: begun at the labels' mean, it cannot be dead from the start
        nn.init.constant_(prior.layers[-1].bias, float(sets.labels.mean()))  # type: ignore[arg-type]
        _fit(prior, sets, config, rng)
    return prior.eval(), report_on(prior, disturbed(check, learn, config, rng))


def disturbed(
    poses: Float[Tensor, "P N 2"],
    real: Float[Tensor, "Q N 2"],
    config: PriorConfig,
    rng: np.random.Generator,
) -> _Sets:
    """The poses, and each of them with noise of every strength and its distance from `real`."""
    parts = []
    for kappa in config.kappas:
        angle = torch.from_numpy(rng.vonmises(0.0, kappa, poses.shape[:2])).float()
        parts.append(turned(poses, angle, config.noise))
    moved = torch.cat(parts)
    return _Sets(poses, moved, pose_distance(moved, real))


def turned(
    vectors: Float[Tensor, "P N 2"],
    angle: Float[Tensor, "P N"],
    noise: Literal["rotation", "release"] = "rotation",
) -> Float[Tensor, "P N 2"]:
    """Every direction turned by its angle. The release's formula, (cos(acos x + a), sin(asin y +
    a)), is a rotation for directions of the first quadrant alone.
    """
    x, y = vectors.unbind(-1)
    if noise == "rotation":
        c, s = angle.cos(), angle.sin()
        return torch.stack([c * x - s * y, s * x + c * y], -1)
    across = (x.clamp(-1, 1).acos() + angle).cos()
    down = (y.clamp(-1, 1).asin() + angle).sin()
    return F.normalize(torch.stack([across, down], -1), dim=-1)


def pose_distance(
    poses: Float[Tensor, "M N 2"], real: Float[Tensor, "Q N 2"]
) -> Float[Tensor, " M"]:
    """Mean over the five nearest real poses of the mean length of the bones' differences."""
    real = real[:MOST_REAL_POSES]
    parts = []
    for part in poses.split(1024):
        total = sum(torch.cdist(part[:, bone], real[:, bone]) for bone in range(real.shape[1]))
        assert isinstance(total, Tensor)
        near = (total / real.shape[1]).topk(min(NEAREST, len(real)), dim=1, largest=False)
        parts.append(near.values.mean(1))
    return torch.cat(parts)


def _fit(prior: PosePrior, sets: _Sets, config: PriorConfig, rng: np.random.Generator) -> None:
    """Three stages, a step of the optimiser for each set in turn: far; nearer, far; all."""
    optimizer = torch.optim.Adam(prior.parameters(), lr=config.lr)
    far, near = sets.labels >= FAR, (sets.labels > NEAR) & (sets.labels < FAR)
    zeros = torch.zeros(len(sets.clean))
    parts = {
        "far": (sets.poses[far], sets.labels[far]),
        "near": (sets.poses[near], sets.labels[near]),
        "clean": (sets.clean, zeros),
    }
    prior.train()
    for steps, names in zip(
        config.steps, (("far",), ("near", "far"), ("clean", "near", "far")), strict=True
    ):
        for _ in range(steps):
            for poses, labels in (parts[name] for name in names):
                if not len(poses):
                    continue
                rows = torch.from_numpy(rng.integers(0, len(poses), config.batch_size))
                loss = F.mse_loss(prior(poses[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


@torch.no_grad()
def report_on(prior: PosePrior, sets: _Sets) -> PriorReport:
    """What the prior says of poses that it has not seen."""
    prior.eval()
    score = prior(sets.poses)
    far = sets.labels >= FAR
    constant = bool((score == score[0]).all())  # of a dead network, which ranks nothing
    return PriorReport(
        poses=len(sets.clean),
        spearman=0.0 if constant else spearmanr(score.numpy(), sets.labels.numpy()).statistic,
        clean=float(prior(sets.clean).mean()),
        far=float(score[far].mean()) if far.any() else 0.0,
    )
