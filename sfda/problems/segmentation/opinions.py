"""What a segmenter says of images, kept to be compared with other models: some of their pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sfda.problems._opinions import ClassOpinions, PoolSize
from sfda.problems.segmentation.network import SegOutput

PIXELS = 256  # of an image that are kept, at most ...
VALUES = 2**22  # ... and probabilities of the whole pool


def opinions(output: SegOutput, rows: Sequence[int], pool: PoolSize) -> ClassOpinions:
    """Class distributions of some pixels of each image, which depend on its row alone, so that all
    models are asked about the same ones.
    """
    _, classes, height, width = output.logits.shape
    count = max(1, min(PIXELS, VALUES // (pool.images * classes)))
    kept = []
    for row, logits in zip(rows, output.logits, strict=True):
        places = np.random.Generator(np.random.Philox(key=row)).random((2, count))
        down, across = (
            torch.from_numpy((share * length).astype(np.int64)).to(logits.device)
            for share, length in zip(places, (height, width), strict=True)
        )
        kept.append(logits[:, down, across].T)
    return ClassOpinions.of_rows(torch.stack(kept))
