"""Nearest soft centroids: what the neighbourhood in another feature space says of the classes.

Co-learn (ICCV 2023; arXiv:2405.02954); docs/methods/guided.md, section 2.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sfda.building_blocks.precision import full_precision

CENTROID_TEMPERATURE = 0.01
TEXT_TEMPERATURE = 0.05  # of cosines between images and texts


@full_precision
def with_one(features: Float[Tensor, "N G"]) -> Float[Tensor, "N G1"]:
    """Each row with a 1 after it, at unit length: short features do not explode, and a row of zeros
    is finite.
    """
    ones = torch.ones_like(features[:, :1])
    return F.normalize(torch.cat([features, ones], 1).float(), dim=1)


@full_precision
def soft_centroids(
    features: Float[Tensor, "N G"], shares: Float[Tensor, "N C"]
) -> Float[Tensor, "C G1"]:
    """Means of the with_one rows, each a member of classes by its shares; not of unit length."""
    shares = shares.float()
    return shares.T @ with_one(features) / (1e-5 + shares.sum(0))[:, None]


@full_precision
def centroid_cosines(
    features: Float[Tensor, "N G"], centroids: Float[Tensor, "C G1"]
) -> Float[Tensor, "N C"]:
    """Cosine of each with_one row to each centroid; 0 to one of zeros."""
    return with_one(features) @ F.normalize(centroids.float(), dim=1, eps=1e-8).T
