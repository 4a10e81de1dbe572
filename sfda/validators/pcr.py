"""Prediction consistency and reliability of boxes (Yoo et al., ICCV 2025, arXiv:2508.12082)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from sfda.building_blocks.boxes import box_iou
from sfda.building_blocks.precision import network_precision
from sfda.inference.forward import evaluating
from sfda.networks.detector import Detector, Regions
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig


class PcrConfig(ValidatorConfig):
    """The paper's values."""

    confidence: float = Field(0.5, gt=0, lt=1)  # c
    slope_consistency: float = -60.0  # k_C
    slope_reliability: float = 10.0  # k_R
    floor: float = Field(0.2, ge=0, le=1)  # alpha
    least_score: float = Field(0.05, ge=0, lt=1)  # of a candidate
    overlap: float = Field(0.5, gt=0, lt=1)  # IoU above which one suppresses another


class Pcr(Validator):
    """S_R - S_C, at most 1: what a detector's suppressed candidates say of the boxes that it keeps.

    Reliability S_R is the share, weighed by sigmoid(k_R (h - c)) above a floor of alpha, of the
    suppressed candidates with confidence h that belong to boxes surer than c. Consistency S_C is
    the mean over the kept boxes of sigmoid(k_C (h - c)) (IoU + closeness) / 2 between the box and
    the hull of what it suppresses; closeness is 1 less the distance of the centres in halves of the
    box's diagonal. Both are means over the images in which something is suppressed; without such
    an image the score is 0. High consistency of boxes that are not sure tells of failure, so it
    is taken off: the paper fits the weights of both to labelled data with corruptions, and there
    are none here. Candidates suppress each other by class, and each belongs to one box.

    It assumes boxes that are suppressed at the end. Of two-stage detectors, whose candidates are
    the refined regions; where the likeliest class is the ground, the proposal itself.
    """

    idea = "what suppressed boxes say of those that are kept, of two-stage detectors"
    Config = PcrConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Detector,)
    needs_network: ClassVar[bool] = True
    tells_level: ClassVar[bool] = True
    config: PcrConfig

    def __init__(self, config: PcrConfig | None = None) -> None:
        super().__init__(config)
        self.network: Detector | None = None
        self.reliable, self.consistent = 0.0, 0.0
        self.counted, self.images = 0, 0

    @classmethod
    def serves(cls, network: nn.Module) -> bool:
        """Two-stage detectors."""
        return bool(getattr(network, "two_stage", False))

    def take_network(self, network: nn.Module) -> None:
        """Its regions are its candidates."""
        self.network = cast("Detector", network)

    @torch.no_grad()
    def update(self, seen: SeenViews) -> None:
        """Take in one batch."""
        if self.network is None or seen.images is None:
            raise ValueError("pcr needs the network and the images")
        with evaluating(self.network), network_precision(seen.images.device):
            regions = self.network.regions(seen.images)
        for candidates in candidates_of(regions):
            self._add(candidates.where(candidates.scores > self.config.least_score))

    def compute(self) -> float:
        """Mean reliability less mean consistency."""
        if not self.images:
            raise ValueError("candidates of no images")
        return (self.reliable - self.consistent) / max(1, self.counted)

    def _add(self, candidates: Candidates) -> None:
        self.images += 1
        owner = suppressed_by(candidates, self.config.overlap)
        lost = owner >= 0
        if not lost.any():
            return
        self.counted += 1
        scores, c = candidates.scores.double(), self.config
        weight = c.floor + (1 - c.floor) * (c.slope_reliability * (scores - c.confidence)).sigmoid()
        sure = lost & (scores[owner.clamp(min=0)] > c.confidence)
        self.reliable += float(weight[sure].sum() / weight[lost].sum())
        unsure = (c.slope_consistency * (scores - c.confidence)).sigmoid()
        remaining = (~lost).nonzero().flatten().tolist()
        agreed = sum(
            float(unsure[box]) * likeness(candidates.boxes[box], candidates.boxes[owner == box])
            for box in remaining
            if bool((owner == box).any())
        )
        self.consistent += agreed / len(remaining)


class Candidates(NamedTuple):
    """Boxes of one image before any is suppressed, with their likeliest class and its score."""

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]

    def where(self, chosen: Tensor) -> Candidates:
        """Those that are chosen."""
        return Candidates(*(part[chosen] for part in self))


def candidates_of(regions: Regions) -> list[Candidates]:
    """Image by image."""
    scores, labels = regions.logits.softmax(1)[:, :-1].max(1)
    sizes = [len(part) for part in regions.proposals]
    columns = (part.split(sizes) for part in (regions.refined, labels, scores))
    return [Candidates(*one) for one in zip(*columns, strict=True)]


def suppressed_by(candidates: Candidates, overlap: float) -> Int[Tensor, " n"]:
    """Which candidate suppresses each, -1 for none: the surest first, of its own class."""
    owner = torch.full_like(candidates.labels, -1)
    iou = box_iou(candidates.boxes.float(), candidates.boxes.float())
    iou[candidates.labels[:, None] != candidates.labels[None]] = 0
    free = torch.ones_like(owner, dtype=torch.bool)
    for box in candidates.scores.argsort(descending=True, stable=True).tolist():
        if not free[box]:
            continue
        free[box] = False
        taken = free & (iou[box] > overlap)
        owner[taken] = box
        free &= ~taken
    return owner


def likeness(box: Float[Tensor, " 4"], others: Float[Tensor, "k 4"]) -> float:
    """(IoU + closeness) / 2 of a box and the hull of some others."""
    hull = torch.cat([others[:, :2].amin(0), others[:, 2:].amax(0)])
    iou = float(box_iou(box[None].double(), hull[None].double()))
    centres = [(corners[:2] + corners[2:]).double() / 2 for corners in (box, hull)]
    half = float((box[2:] - box[:2]).double().norm()) / 2
    far = float((centres[0] - centres[1]).norm())
    return (iou + 1 - far / half) / 2 if half else 0.0


EXPORT = Pcr
