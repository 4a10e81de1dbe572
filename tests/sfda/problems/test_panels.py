"""Panels and pictures of masks: what is drawn, where and in which colour."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sfda.images.plotting import Figure, FigureCanvasAgg
from sfda.problems.panel_frame import COLOURS, IGNORED, palette, png, small
from sfda.problems.segmentation.evaluation import MaskPair, segmentation_report
from sfda.problems.segmentation.panel import Sample, coloured, panel
from sfda.refs import Report
from sfda.report import pictures
from sfda.report.pictures import side_by_side

CLASSES = tuple(f"class {c}" for c in range(5))


def pixels(png):
    return np.array(Image.open(io.BytesIO(png)).convert("RGB"))


def share(picture, colour):
    return float((picture == np.array(colour)).all(-1).mean())


def rgb(c):
    return [int(COLOURS[c][i : i + 2], 16) for i in (1, 3, 5)]


def sample(truth=True):
    source, adapted = np.full((40, 60), 1, np.uint8), np.full((40, 60), 2, np.uint8)
    adapted[:, :15] = 1
    answer = np.full((40, 60), 3, np.uint8)
    answer[:10] = 255
    image = np.full((40, 60, 3), (9, 99, 199), np.uint8)
    return Sample("a/long/name/of/an/image/that/does/not/fit.png", image, source, adapted,
                  answer if truth else None)  # fmt: skip


def test_a_mask_has_its_classes_colours_and_grey_where_it_does_not_count():
    result = coloured(np.array([[0, 3, 255]], np.uint8))
    assert result[0].tolist() == [rgb(0), rgb(3), list(IGNORED)]


def test_every_class_has_a_colour_of_its_own():
    assert palette()[:20].tolist() == [rgb(c) for c in range(20)]
    assert len(np.unique(palette(), axis=0)) == 256
    apart = np.abs(palette()[:40, None].astype(int) - palette()[None, :40]).sum(-1)
    assert apart[~np.eye(40, dtype=bool)].min() > 40


def test_the_share_that_changed():
    assert sample().changed == pytest.approx(0.75)


def test_a_panel_shows_image_answers_and_truth_side_by_side():
    shown = pixels(panel([sample(), sample()], CLASSES, title="run"))
    tile = share(shown, (9, 99, 199))  # of the two images, each in one of four columns
    assert 0.05 < tile < 0.25
    assert share(shown, rgb(1)) == pytest.approx(1.25 * tile, rel=0.15)
    assert share(shown, rgb(2)) == pytest.approx(0.75 * tile, rel=0.15)
    assert share(shown, rgb(3)) == pytest.approx(0.75 * tile, rel=0.15)
    assert share(shown, IGNORED) == pytest.approx(0.25 * tile, rel=0.2)


def test_without_truth_there_is_no_column_for_it():
    with_truth = pixels(panel([sample()], CLASSES, title="run"))
    without = pixels(panel([sample(truth=False)], CLASSES, title="run"))
    assert without.shape[1] == pytest.approx(with_truth.shape[1] * 3 / 4, abs=3)
    assert share(without, rgb(3)) == 0


def test_the_legend_of_many_long_names_stays_within_the_picture():
    many = np.arange(30, dtype=np.uint8).repeat(80).reshape(40, 60)
    image = np.zeros((40, 60, 3), np.uint8)
    names = [f"a class with a name that is rather long {c}" for c in range(30)]
    shown = pixels(panel([Sample("x.png", image, many, many)], names, title="run"))
    assert (shown[:, :2] == 255).all(), "nothing at the left edge"
    assert (shown[:, -2:] == 255).all()
    legend = shown[-200:]  # the masks are above it
    assert all(share(legend, rgb(c)) > 0 for c in range(20))


def test_large_images_are_drawn_small_and_masks_keep_their_values():
    mask = np.zeros((2000, 1000), np.uint8)
    mask[:, 500:] = 4
    result = small(mask)
    assert result.shape == (480, 240)
    assert set(np.unique(result)) == {0, 4}
    assert small(np.zeros((2000, 1000, 3), np.uint8)).shape == (480, 240, 3)
    assert small(mask[:100, :100]).shape == (100, 100)


def test_the_comparison_of_masks_draws_iou_and_pixel_shares():
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    before = segmentation_report([MaskPair(1 - truth, truth)], ("a", "b"), split="test")
    after = segmentation_report([MaskPair(truth, truth)], ("a", "b"), split="test")
    shown = pixels(side_by_side(before, after, title="run"))
    blue, grey = (31, 119, 180), (154, 165, 177)
    assert share(shown, blue) > 0.05  # bars of 100 % IoU
    assert share(shown, grey) < share(shown, blue) / 5  # bars of 0 %: the legend alone


def test_of_many_classes_those_with_most_errors_are_named_and_the_others_are_one_row(monkeypatch):
    size = 345
    truth = np.repeat(np.arange(size), 4)
    answers = truth.copy()
    answers[truth >= 300] = (truth[truth >= 300] + 1) % size  # 45 classes are always wrong
    counts = np.zeros((size, size), int)
    np.add.at(counts, (truth, answers), 1)
    names = [f"class {n}" for n in range(size)]
    report = Report(
        split="test",
        count=len(truth),
        metrics={"overall_accuracy": 0.9, "macro_accuracy": 0.9},
        per_class={
            name: {"accuracy": float(n < 300), "count": 4.0} for n, name in enumerate(names)
        },
        confusion=counts.tolist(),
    )
    figures = []
    monkeypatch.setattr(pictures, "png", lambda figure: figures.append(figure) or b"")
    side_by_side(report, report, title="run")
    bars, left, _ = figures[0].axes
    assert len(bars.get_xticks()) == 40
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels[-1] == "all others"
    assert {int(label.split()[1]) for label in labels[:-1]} <= {0, *range(300, size)}
    shown = np.array(left.images[0].get_array())
    assert shown.shape == (41, 41)
    assert shown.sum(1) == pytest.approx(1), "every row is whole"


def test_a_name_is_no_formula():
    """Names of classes and files are somebody else's: they are drawn as they are."""
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title("$\\frac{$")
    axes.set_xticks([0, 1], ["$x$", "$\\nothing$"])
    axes.bar([0, 1], [1, 1], label="$\\frac$ of $\\a$")
    axes.legend()
    assert png(figure).startswith(b"\x89PNG")
