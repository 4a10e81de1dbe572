"""AdaMI (Bateson et al., Medical Image Analysis 2022, arXiv:2108.03152).

Entropy minimisation held by KL(predicted || known class ratios). Together they are, up to
constants, the negative mutual information of image and label, with the known ratios as marginal.
"""

from __future__ import annotations

from typing import ClassVar

from sfda.methods._ratio_entropy import RatioEntropy


class AdaMI(RatioEntropy):
    """Entropy and class ratios for segmentation."""

    idea = "certain pixels, held by known class ratios"
    reverse: ClassVar[bool] = False


EXPORT = AdaMI
