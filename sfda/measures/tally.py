"""What the answers of a network to a batch add up to: all that a veto asks of them."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Tally(NamedTuple):
    """Sums over a batch, on the network's device.

    `mass` adds up the probabilities of each class (of boxes: their scores) and `answers` counts
    what is answered of it; both empty where nothing has a class. `units` is what the answers are a
    share of: images, pixels; of boxes their number.
    """

    images: int
    mass: Float[Tensor, " C"]
    answers: Float[Tensor, " C"]
    units: float
    boxes: float | None = None
