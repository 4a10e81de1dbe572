"""What models say of the images of a pool, kept to be compared with each other, without labels.

The consensus of several models is their common answer, and a score of each is how far it agrees
with that (Hu et al., NeurIPS 2024, docs/methods/decide.md, section 4). What a model says differs by
problem: here is what is common, and what holds wherever images or pixels have one class each.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 4096  # rows at once, so that memory does not grow with the pool
Halves = Float[np.ndarray, "N S C"]  # float16: of many models several are in memory
MemberWeights = Sequence[float]


class PoolSize(NamedTuple):
    """How many images there are to be answered, and of how many classes or joints."""

    images: int
    classes: int


class Counts(NamedTuple):
    """Image by image and kind by kind: how much there is, and how much of that is the same."""

    seen: Float[np.ndarray, "N K"]
    same: Float[np.ndarray, "N K"]


def mean_share(
    seen: Float[np.ndarray, "*R K"], same: Float[np.ndarray, "*R K"]
) -> Float[np.ndarray, "*R"]:
    """Mean over the last axis of same / seen; 0 where nothing was seen.

    >>> float(mean_share(np.array([2.0, 0.0]), np.array([1.0, 0.0])))
    0.25
    """
    shares = np.divide(same, seen, out=np.zeros(seen.shape, np.float64), where=seen > 0)
    return np.asarray(shares.mean(-1))


class Dispersion(NamedTuple):
    """||P||_* / sqrt(R min(R, C)) of all R rows, and what each image's rows add to half of it.

    To first order, of a resample in which image i counts w_i times and which has as many rows, it
    is score / 2 + sum_i w_i parts_i.
    """

    score: float
    parts: Float[np.ndarray, " N"]


class Backing(NamedTuple):
    """Of what differs between two models, image by image: how much a third says like each."""

    first: Float[np.ndarray, " N"]
    second: Float[np.ndarray, " N"]


class Opinions(ABC):
    """What one model says of all images of a pool, in order."""

    @classmethod
    @abstractmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of successive batches as one."""

    @abstractmethod
    def common(self, others: Sequence[Self], weights: MemberWeights) -> Any:
        """The consensus of this model and some others, which weigh `weights`, its own the first."""

    @abstractmethod
    def matched(self, common: Any) -> Counts:
        """How far it agrees with a consensus."""

    @abstractmethod
    def backed(self, other: Self, third: Self) -> Backing:
        """Where it differs from another model, and like which of them a third one answers."""

    def information(self) -> float | None:
        """H(mean p) - mean H(p) in nats, by which members of an ensemble are weighed; None where
        there is no such number, so that all weigh the same.
        """
        return None

    def dispersion(self) -> Dispersion | None:
        """The nuclear norm; None where predictions are no distributions over classes."""
        return None

    @abstractmethod
    def same_as(self, other: Self) -> bool:
        """Whether another model says just the same, and so is no further member."""


@dataclass(frozen=True, eq=False)
class ClassOpinions(Opinions):
    """Class distributions of images (S = 1), or of S pixels of each image.

    The consensus is the likeliest class of the weighted mean distribution, and the agreement with
    it the share of the images, or pixels, that are answered so.
    """

    probs: Halves

    @classmethod
    def of_rows(cls, logits: Float[Tensor, "B S C"]) -> ClassOpinions:
        """From logits."""
        return cls(logits.float().softmax(2).cpu().numpy().astype(np.float16))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Along the images."""
        return cls(np.concatenate([part.probs for part in parts]))

    @property
    def answers(self) -> Int[np.ndarray, "N S"]:
        """The likeliest class."""
        return np.asarray(self.probs.argmax(2))

    def chunks(self) -> Iterator[Float[np.ndarray, "R C"]]:
        """Rows of some images after the other, in float64."""
        step = max(1, CHUNK // self.probs.shape[1])
        for first in range(0, len(self.probs), step):
            part = self.probs[first : first + step].astype(np.float64)
            yield part.reshape(-1, self.probs.shape[2])

    def common(self, others: Sequence[Self], weights: MemberWeights) -> Int[np.ndarray, "N S"]:
        """The likeliest class of the weighted mean."""
        total = weights[0] * self.probs.astype(np.float32)
        for other, weight in zip(others, weights[1:], strict=True):
            total += weight * other.probs.astype(np.float32)
        return np.asarray(total.argmax(2))

    def matched(self, common: Int[np.ndarray, "N S"]) -> Counts:
        """Of each image its pixels, and how many are answered as the consensus does."""
        same = (self.answers == common).sum(1, keepdims=True).astype(np.float64)
        return Counts(np.full_like(same, common.shape[1]), same)

    def backed(self, other: Self, third: Self) -> Backing:
        """By the class that each answers."""
        own, theirs, judge = self.answers, other.answers, third.answers
        return Backing(
            ((judge == own) & (own != theirs)).sum(1).astype(np.float64),
            ((judge == theirs) & (own != theirs)).sum(1).astype(np.float64),
        )

    def information(self) -> float:
        """Mutual information of prediction and row."""
        mean, inside, rows = np.zeros(self.probs.shape[2]), 0.0, 0
        for probs in self.chunks():
            mean += probs.sum(0)
            inside += entropy_of(probs)
            rows += len(probs)
        return entropy_of(mean / rows) - inside / rows

    def dispersion(self) -> Dispersion:
        """By P^T P: memory is C x C. Of G = P^T P the norm is the trace of its root, whose
        derivative is half the inverse root, so that a row p adds p^T G^(-1/2) p / 2.
        """
        images, pixels, classes = self.probs.shape
        gram = np.zeros((classes, classes))
        for probs in self.chunks():
            gram += probs.T @ probs
        values, vectors = np.linalg.eigh(gram)
        roots = np.sqrt(values.clip(min=0))
        there = roots > 1e-6 * roots.max()
        inverse = vectors[:, there] / np.sqrt(roots[there])  # its square is G^(-1/2)
        largest = math.sqrt(images * pixels * min(images * pixels, classes))
        parts = np.concatenate(
            [((probs @ inverse) ** 2).sum(1).reshape(-1, pixels).sum(1) for probs in self.chunks()]
        )
        return Dispersion(float(roots[there].sum()) / largest, parts / (2 * largest))

    def same_as(self, other: Self) -> bool:
        """Whether all distributions are the same."""
        return self.probs.shape == other.probs.shape and bool((self.probs == other.probs).all())


def entropy_of(probs: Float[np.ndarray, "*R C"]) -> float:
    """Sum of the entropies of distributions, in nats.

    >>> round(entropy_of(np.array([0.5, 0.5])), 4)
    0.6931
    """
    logs = np.log(probs, out=np.zeros_like(probs), where=probs > 0)
    return float(-(probs * logs).sum())
