"""AdaEnt (Bateson et al., MICCAI 2020, arXiv:2005.03697).

Entropy minimisation held by KL(known || predicted class ratios): AdaMI with the divergence the
other way round, whose pull is stronger where a class that should be there is not predicted.
"""

from __future__ import annotations

from typing import ClassVar

from sfda.methods._ratio_entropy import RatioEntropy


class AdaEnt(RatioEntropy):
    """Entropy and class ratios for segmentation."""

    idea = "as `adami`, with the divergence the other way round"
    reverse: ClassVar[bool] = True


EXPORT = AdaEnt
