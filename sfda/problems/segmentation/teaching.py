"""What mean teacher needs of a segmenter."""

from __future__ import annotations

from sfda.problems.class_outputs import learn_classes as learn
from sfda.problems.class_outputs import teach_classes as teach

__all__ = ["learn", "teach"]
