"""What a segmenter's answers add up to."""

from __future__ import annotations

from sfda.building_blocks.losses import ClassLogits
from sfda.problems._tally import Tally
from sfda.problems.class_outputs import tally_classes


def tally(output: ClassLogits) -> Tally:
    """By pixel; of large maps a regular grid counts."""
    return tally_classes(output)
