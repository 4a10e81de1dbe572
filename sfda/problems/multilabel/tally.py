"""What a multi-label classifier's answers add up to."""

from __future__ import annotations

from sfda.problems._tally import Tally
from sfda.problems.multilabel.network import MultilabelOutput


def tally(output: MultilabelOutput) -> Tally:
    """By image: how probable each class is, and how often it is answered (0.5 and above)."""
    probs = output.logits.double().sigmoid()
    answers = (probs >= 0.5).double()
    return Tally(len(probs), probs.sum(0), answers.sum(0), float(answers.sum()))
