"""Pseudo-labels of pixels: averaged over views, filtered by class, cut and mixed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sfda.building_blocks.pseudo_labels import averaged, cut_and_mix, sure
from sfda.problems.segmentation.network import SegOutput
from sfda.types import UNSURE


class Left(nn.Module):
    """Logits are the image, with more for class 0 on the left half of whatever it is shown."""

    def forward(self, images):
        extra = torch.zeros_like(images)
        extra[:, 0, :, : images.shape[-1] // 2] = 2.0
        return SegOutput(images, images + extra)


def test_a_mirrored_view_is_mirrored_back_before_averaging():
    images = torch.randn(1, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    result = averaged(Left(), images, (1.0,))
    straight = Left()(images).logits.softmax(1)
    mirrored = Left()(images.flip(-1)).logits.softmax(1).flip(-1)
    torch.testing.assert_close(result, (straight + mirrored) / 2)  # probabilities, not logits


def test_scales_are_undone_and_all_count_alike():
    images = torch.zeros(1, 2, 8, 8)
    images[:, 1] = 3.0
    result = averaged(nn.Sequential(_AsOutput()), images, (0.5, 1.0, 2.0))
    assert result.shape == (1, 2, 8, 8)
    torch.testing.assert_close(result, images.softmax(1))


class _AsOutput(nn.Module):
    def forward(self, images):
        return SegOutput(images, images)


def probs(*confidences, winner):
    """One row of pixels, each with this confidence for the winner of two classes."""
    top = torch.tensor(confidences)
    rows = [top, 1 - top] if winner == 0 else [1 - top, top]
    return torch.stack(rows).view(1, 2, 1, -1)


def test_by_class_the_better_half_is_labelled_and_all_that_reach_the_threshold():
    both = torch.cat(
        [probs(0.99, 0.95, 0.92, 0.91, winner=0), probs(0.8, 0.7, 0.6, winner=1)], dim=3
    )
    result = sure(both, 0.9, by_class=True)[0, 0].tolist()
    # class 0: its median lies above 0.9, so all four reach 0.9; class 1: median 0.7
    assert result == [0, 0, 0, 0, 1, 1, UNSURE]
    plain = sure(both, 0.9, by_class=False)[0, 0].tolist()
    assert plain == [0, 0, 0, 0, UNSURE, UNSURE, UNSURE]


def test_padding_is_never_labelled_and_moves_no_median():
    padded = probs(0.6, 0.7, 0.8, 0.89, 0.89, 0.89, winner=1)
    shown = torch.tensor([True] * 3 + [False] * 3).view(1, 1, 6)
    expected = [UNSURE, 1, 1, UNSURE, UNSURE, UNSURE]  # the median of what is shown is 0.7
    assert sure(padded, 0.9, by_class=True, shown=shown)[0, 0].tolist() == expected
    assert sure(padded, 0.65, by_class=False, shown=shown)[0, 0].tolist() == expected
    none = torch.zeros(1, 1, 6, dtype=torch.bool)
    assert (sure(padded, 0.0, by_class=True, shown=none) == UNSURE).all()


def test_images_and_labels_are_mixed_at_the_same_place():
    torch.manual_seed(0)
    labels = torch.arange(4).view(4, 1, 1).expand(4, 16, 16)
    images = labels[:, None].float().expand(4, 3, 16, 16)
    mixed, mixed_labels = cut_and_mix(images, labels, 0.25)
    assert (mixed == mixed_labels[:, None].float()).all()
    changed = mixed_labels != labels
    sizes = changed.flatten(1).sum(1)
    assert set(sizes.tolist()) <= {0, 64}  # 8 x 8 of 16 x 16, or an image drew itself
    assert (sizes == 64).any()
    assert (images == labels[:, None].float()).all()  # what came in is as it was
    assert mixed.sum() == pytest.approx(float(images.sum()))
