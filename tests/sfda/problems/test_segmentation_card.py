"""The card of a segmenter: pixels by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sfda.problems.registry import PROBLEMS
from sfda.problems.segmentation.card import MaskRatios, make_segmentation_card, some_pixels
from sfda.problems.segmentation.network import SegOutput
from sfda.types import UNSURE
from sfda.weights.source_card import missing

FACTS = {"source_sha256": "0" * 64, "manifest": "m", "manifest_sha256": "1" * 64, "split": "val"}


def test_pixels_that_do_not_count_have_no_part_in_any_ratio():
    masks = torch.tensor([[[0, 0], [0, 1]], [[0, 0], [UNSURE, UNSURE]]])
    ratios = MaskRatios(3)
    ratios.update(masks)
    assert ratios.overall().tolist() == pytest.approx([5 / 6, 1 / 6, 0])
    # class 0 fills 3/4 of one image and all that counts of the other; class 1 a quarter of one
    assert ratios.shown().tolist() == pytest.approx([(3 / 4 + 1) / 2, 1 / 4, 0])


def test_features_logits_and_labels_of_a_pixel_stay_together():
    places = torch.arange(16.0).view(1, 1, 4, 4)  # each pixel of the logits is its own place
    masks = torch.arange(16).view(1, 4, 4)
    masks[0, 3, 3] = UNSURE
    coarse = places[..., 1::2, 1::2]  # features at half the size, in the middle of each 2x2 block
    output = SegOutput(coarse.repeat(1, 5, 1, 1), places.repeat(1, 3, 1, 1))
    result, labels = some_pixels(output, masks)
    assert labels.tolist() == [5, 7, 13]  # the fourth does not count
    assert result.features[:, 4].tolist() == [5, 7, 13]
    assert result.logits[:, 2].tolist() == [5, 7, 13]


def test_no_more_pixels_than_asked_for_are_taken():
    output = SegOutput(torch.zeros(2, 4, 64, 48), torch.zeros(2, 3, 64, 48))
    _, labels = some_pixels(output, torch.zeros(2, 64, 48, dtype=torch.long), at_most=100)
    assert 2 * 40 < len(labels) <= 2 * 100


def test_a_card_is_complete_and_carries_the_metrics_it_was_given():
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 2, (3, 8, 8), generator=generator)
    logits = torch.stack([1.0 - masks, 1.0 * masks], 1) * 4
    output = SegOutput(torch.randn(3, 5, 8, 8, generator=generator), logits)
    card = make_segmentation_card(
        nn.BatchNorm2d(4), [(output, masks)], FACTS, ("a", "b"), {"mean_iou": 0.5}
    )
    assert missing(card, PROBLEMS["segmentation"].card_parts) == []
    assert card.facts.metrics == {"mean_iou": 0.5}
    assert card.facts.count == 3
    assert card.tensors["class_ratio"].tolist() == pytest.approx(
        [float((masks == c).float().mean()) for c in (0, 1)]
    )
    assert card.tensors["feature_mean"].shape == (5,)
    assert "class_ratio" in missing(None, PROBLEMS["segmentation"].card_parts)
    assert "class_ratio" not in missing(None, PROBLEMS["classification"].card_parts)
