"""Whole images to masks: in tiles as in one piece, and scans that see every pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sfda.errors import BadInput
from sfda.images.store import Ragged, RaggedWriter
from sfda.inference import forward
from sfda.loading.scan import scan, scan_views
from sfda.loading.tiles import tiles
from sfda.problems.segmentation import segment as segmenting
from sfda.problems.segmentation.network import Segmenter, SegOutput
from sfda.problems.segmentation.segment import Band, enlarged, segment, segment_all
from sfda.refs import InputSpec, Views

TILED = InputSpec(size=(16, 24), tiled=True, mean=(0, 0, 0), std=(1, 1, 1))
WHOLE = TILED.model_copy(update={"tiled": False})
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


class ByColour(Segmenter):
    """Each pixel's class is its brightest channel; the more so, the brighter."""

    def __init__(self) -> None:
        same = nn.Identity()
        super().__init__(same, same, same, feature_dim=3, num_classes=3)
        self.seen: list[torch.Size] = []

    def forward(self, images):
        self.seen.append(images.shape)
        return SegOutput(images, 4 * images)


def picture(height, width, seed=0):
    classes = np.random.default_rng(seed).integers(0, 3, (height, width))
    return COLOURS[classes], classes


@pytest.mark.parametrize("size", [(16, 24), (64, 60), (33, 95), (10, 11), (200, 9)])
def test_an_answer_that_needs_no_neighbour_is_the_same_in_tiles(size):
    image, classes = picture(*size)
    result = segment(ByColour(), image, TILED, device="cpu", out_size=size)
    assert (result.mask == classes).all()
    sure = float(torch.tensor([4.0, 0, 0]).softmax(0)[0])
    assert (result.confidence == round(255 * sure)).all()


def test_tiles_of_a_network_with_neighbours_agree_away_from_the_borders():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 5, padding=2)
    network = Segmenter(nn.Identity(), conv, nn.Identity(), feature_dim=4, num_classes=4)
    image, _ = picture(70, 80)
    tiled = segment(network, image, TILED, device="cpu", out_size=(70, 80))
    whole = segment(network, image, WHOLE, device="cpu", out_size=(70, 80))
    same = tiled.mask == whole.mask
    hard = np.zeros((70, 80), np.uint8)  # tiles put side by side
    for folder in tiles(70, 80, (16, 24), overlap=(0, 0)):
        part = image[folder]
        hard[folder] = segment(network, part, WHOLE, device="cpu", out_size=(16, 24)).mask
    assert (~same).mean() < 0.7 * (hard != whole.mask).mean() < 0.1
    assert same[:12, :18].all()  # where one tile alone answers


def test_memory_is_that_of_one_row_of_tiles(monkeypatch):
    shapes = []
    made = Band.__init__

    def noted(self, *inputs):
        made(self, *inputs)
        shapes.append(tuple(self.sum.shape))

    monkeypatch.setattr(Band, "__init__", noted)
    monkeypatch.setattr(forward, "BATCH_PIXELS", 3 * 16 * 24)
    network = ByColour()
    image, classes = picture(400, 100)
    result = segment(network, image, TILED, device="cpu", out_size=(400, 100))
    assert (result.mask == classes).all()
    assert shapes == [(3, 16, 100)]
    assert max(shape[0] for shape in network.seen) == 3
    assert {tuple(shape[2:]) for shape in network.seen} == {(16, 24)}


def test_frames_are_resized_and_so_are_their_logits():
    image = np.repeat(np.repeat(picture(8, 12)[0], 2, 0), 2, 1)  # 16 x 24
    result = segment(ByColour(), image, WHOLE, device="cpu", out_size=(32, 48))
    assert result.mask.shape == (32, 48)
    small = segment(ByColour(), image, WHOLE, device="cpu", out_size=(16, 24))
    assert (result.mask[1::4, 1::4] == small.mask[::2, ::2]).all()


def test_a_set_is_answered_in_order_whatever_the_batches(monkeypatch):
    pictures = [picture(16, 24, seed) for seed in range(5)]
    images = np.stack([image for image, _ in pictures])
    monkeypatch.setattr(forward, "BATCH_PIXELS", 2 * 16 * 24)
    sizes = [(16, 24), (16, 24), (8, 12), (16, 24), (16, 24)]
    result = list(segment_all(ByColour(), images, WHOLE, device="cpu", sizes=sizes))
    assert [row for row, _, _ in result] == [0, 1, 2, 3, 4]
    assert result[2][1].shape == (8, 12)
    for row in (0, 1, 3, 4):
        assert (result[row][1] == pictures[row][1]).all()


@pytest.mark.parametrize("size", [(40, 50), (7, 5), (9, 200), (300, 9)])
@pytest.mark.parametrize("at_once", [1, 130, 2**24])
def test_logits_are_resized_as_torch_does_whatever_the_bands(size, at_once, monkeypatch):
    monkeypatch.setattr(segmenting, "ENLARGED", at_once)
    logits = torch.randn(3, 12, 9, generator=torch.Generator().manual_seed(0))
    got = torch.cat(list(enlarged(logits, size)), 1)
    whole = nn.functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(got, whole, rtol=1e-4, atol=1e-5)


def test_a_large_answer_of_a_frame_is_made_in_bands(monkeypatch):
    sizes = []
    monkeypatch.setattr(segmenting, "ENLARGED", 3 * 96 * 5)
    made = segmenting._predicted
    monkeypatch.setattr(segmenting, "_predicted", lambda p: sizes.append(tuple(p.shape)) or made(p))
    image, _ = picture(16, 24)
    in_bands = segment(ByColour(), image, WHOLE, device="cpu", out_size=(64, 96))
    assert {size[1] for size in sizes} == {5, 4}  # 64 = 12 * 5 + 4
    monkeypatch.undo()
    whole = segment(ByColour(), image, WHOLE, device="cpu", out_size=(64, 96))
    assert in_bands.mask.shape == (64, 96)
    assert (in_bands.mask == whole.mask).all()
    assert (in_bands.confidence == whole.confidence).all()


def test_confidence_is_the_probability_of_the_answer():
    image = np.full((16, 24, 3), (255, 0, 0), np.uint8)
    image[:8] = (100, 90, 80)
    result = segment(ByColour(), image, WHOLE, device="cpu", out_size=(16, 24))
    for row, colour in ((2, (100, 90, 80)), (12, (255, 0, 0))):
        powers = np.exp(4 * np.array(colour) / 255)
        assert result.confidence[row, 3] == round(255 * powers[0] / powers.sum())
    assert (result.mask == 0).all()


def test_an_input_that_cuts_sides_off_is_refused():
    spec = WHOLE.model_copy(update={"keep_ratio": True})
    with pytest.raises(BadInput, match="set keep_ratio to false"):
        segment(ByColour(), picture(16, 24)[0], spec, device="cpu", out_size=(16, 24))
    with pytest.raises(BadInput, match="set keep_ratio to false"):
        next(segment_all(ByColour(), np.zeros((1, 16, 24, 3)), spec, device="cpu", sizes=[(9, 9)]))


@pytest.fixture
def ragged(tmp_path):
    path = tmp_path / "some.ragged"
    with path.open("wb") as handle:
        writer = RaggedWriter(handle)
        for size in ((40, 30), (16, 24), (7, 50)):
            writer.write(picture(*size)[0])
        writer.finish()
    return Ragged(path)


def test_a_scan_of_large_images_sees_every_pixel(ragged):
    seen = list(scan(ragged, TILED, device="cpu", batch_size=4)(ByColour()))
    rows = torch.cat([s.rows for s in seen]).tolist()
    assert rows == [0] * 6 + [1] + [2] * 3  # 3 x 2 tiles, one, and 1 x 3 of a padded image
    assert all(s.output.logits.shape[2:] == (16, 24) for s in seen)
    first = torch.cat([s.output.logits for s in seen])[:6].argmax(1).numpy()
    rebuilt = np.full((40, 30), -1)
    for folder, tile in zip(tiles(40, 30, (16, 24), overlap=(0, 0)), first, strict=True):
        rebuilt[folder] = tile
    assert (rebuilt == picture(40, 30)[1]).all()


def test_views_of_large_images_are_one_crop_each(ragged):
    look = scan_views(ragged, TILED, Views(crop=True, erase=0), seed=0, device="cpu")
    (seen,) = look(ByColour())
    assert seen.rows.tolist() == [0, 1, 2]
    assert seen.weak.logits.shape == seen.strong.logits.shape == (3, 3, 16, 24)
    assert torch.equal(seen.output.logits, seen.weak.logits)


def test_a_scan_of_frames_with_a_segmenter_is_bounded_by_pixels(monkeypatch):
    monkeypatch.setattr(forward, "BATCH_PIXELS", 3 * 16 * 24)
    images = np.stack([picture(16, 24, seed)[0] for seed in range(7)])
    network = ByColour()
    seen = list(scan(images, WHOLE, device="cpu")(network))
    assert [len(s.rows) for s in seen] == [3, 3, 1]
    assert torch.cat([s.rows for s in seen]).tolist() == list(range(7))
    wide = scan(images, WHOLE, device="cpu", batch_size=256)
    other = nn.Sequential(nn.Identity())
    other.problem = "classification"
    (all_at_once,) = wide(other)
    assert len(all_at_once.rows) == 7


def test_a_segmenter_sees_whole_frames_and_not_their_middle():
    spec = WHOLE.model_copy(update={"size": (8, 8), "resize": (16, 24)})
    images = np.stack([picture(16, 24)[0]])
    (seen,) = scan(images, spec, device="cpu")(ByColour())
    assert seen.output.logits.shape[2:] == (16, 24)
    assert (seen.output.logits.argmax(1)[0].numpy() == picture(16, 24)[1]).all()
