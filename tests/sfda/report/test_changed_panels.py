"""The panel of what changed, of every problem, with labels and without."""

from __future__ import annotations

import io

import numpy as np
import pytest
from five_problems import two_models
from PIL import Image

from sfda.images.plotting import Figure
from sfda.loading.opened import split_ref
from sfda.problem_names import PROBLEM_NAMES
from sfda.problems.classification.panel import ClassSample, class_panel
from sfda.problems.detection.metrics import BoxesOf
from sfda.problems.detection.panel import BoxSample, box_panel
from sfda.problems.panel_frame import in_lines
from sfda.problems.pose.panel import PoseSample, pose_panel
from sfda.problems.registry import read_bundle
from sfda.report.panels import draw_panel

GREY = np.full((60, 60, 3), 120, np.uint8)


@pytest.fixture
def texts(monkeypatch):
    """All that is written on the figures that are made; what is drawn stays the same."""
    written: list[str] = []
    draw = Figure.draw

    def listen(self, *args, **options):
        from sfda.images.plotting import Text

        written.extend(text.get_text() for text in self.findobj(Text))
        return draw(self, *args, **options)

    monkeypatch.setattr(Figure, "draw", listen)
    return written


def drawn(models, split, *, labelled, adapted=None):
    from pathlib import Path

    source, _ = read_bundle(Path(models.source.uri))
    network, spec = read_bundle(Path((adapted or models.adapted).uri))
    part = split_ref(models.manifest, split)
    return draw_panel(source, network, spec, part, "adapt a to b", "cpu", labelled=labelled)


@pytest.mark.parametrize("problem", PROBLEM_NAMES)
def test_every_problem_has_pictures_with_and_without_labels(problem, home, tmp_path, texts):
    models = two_models(problem, tmp_path)
    for split, labelled in (("adapt", False), ("test", True)):
        texts.clear()
        png = drawn(models, split, labelled=labelled)
        assert png is not None
        Image.open(io.BytesIO(png)).verify()
        assert any("truth" in text for text in texts) == labelled
        assert any("adapted" in text for text in texts)


@pytest.mark.parametrize("problem", ["classification", "multilabel"])
def test_where_no_class_changed_there_is_no_panel(problem, home, tmp_path):
    models = two_models(problem, tmp_path)
    assert drawn(models, "adapt", labelled=False, adapted=models.source) is None


def test_both_answers_and_confidences_stand_above_an_image(texts):
    samples = [ClassSample("a.png", GREY, "cat 93 %", "dog 71 %", "dog")]
    class_panel(samples, title="run")
    assert "a.png\nsource: cat 93 %\nadapted: dog 71 %\ntruth: dog" in texts


def test_boxes_have_their_scores_and_joints_the_numbers_of_their_names(texts):
    box = BoxesOf(np.array([[5.0, 5, 30, 30]]), np.array([0]), np.array([0.875]))
    truth = BoxesOf(box.boxes, box.labels)
    box_panel([BoxSample("a.png", GREY, box, box, truth)], ("cat",), title="run")
    assert texts.count("0.88") == 2, "a person's box has no score"
    joints = np.array([[10.0, 10], [40, 40]])
    unseen = np.array([[10.0, 10], [np.nan, np.nan]])
    sample = PoseSample("b.png", GREY, joints, joints, unseen)
    texts.clear()
    pose_panel([sample], ("head", "left hand"), [(0, 1)], title="run")
    assert {"1 head", "2 left hand"} <= set(texts)
    assert (texts.count("1"), texts.count("2")) == (3, 2)


def test_a_long_title_stays_within_its_figure(texts):
    title = "adapt " + "a/very/long/name/of/a/target " * 6 + "with mean_teacher"
    png = class_panel([ClassSample("a.png", GREY, "cat 93 %", "dog 71 %")], title=title)
    shown = np.array(Image.open(io.BytesIO(png)).convert("L"))
    assert (shown[:, :2] == 255).all()
    assert (shown[:, -2:] == 255).all()
    assert in_lines("x" * 500, 3.0).count("\n") == 2


def test_a_name_that_turns_text_around_or_ends_the_line_is_drawn_tame(texts):
    class_panel([ClassSample("a\u202e\n.png", GREY, "c\nat", "d\u2066og")], title="r\nun")
    assert "a? .png\nsource: c at\nadapted: d?og" in texts
    assert "r un" in texts
