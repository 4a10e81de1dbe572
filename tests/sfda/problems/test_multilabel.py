"""Several labels an image: how labels are read, learnt, scored, asked for and served."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_multi
import torch
from PIL import Image
from sklearn.metrics import f1_score

from sfda import plugins
from sfda.adaptation.plan import settings_for
from sfda.annotation.choose_rows import choose_rows
from sfda.annotation.make_request import guesses_for, make_request
from sfda.annotation.query_plan import make_query_plan
from sfda.annotation.request_files import documents
from sfda.annotation.simulated import annotate_from_labels
from sfda.annotation.take import take_annotations
from sfda.authoring.from_folder import build_manifest
from sfda.decision.evaluation import make_evaluator
from sfda.errors import BadInput
from sfda.formats.request import Request, RequestedRow
from sfda.inference.over_split import infer_split
from sfda.inference.pseudo_labels import keep_pseudo_labels
from sfda.loading.opened import manifest_ref, open_split
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest
from sfda.problems.multilabel.labels import ClassSets
from sfda.problems.multilabel.loss import loss, sure_answers, sure_binary_cross_entropy
from sfda.problems.multilabel.metrics import MultilabelMetric
from sfda.problems.multilabel.network import MultilabelOutput
from sfda.problems.multilabel.served import Served
from sfda.problems.registry import PROBLEMS
from sfda.problems.report_metrics import main_metric, metrics_of, score_of
from sfda.refs import PredictionsRef, SideBySide
from sfda.report.pictures import side_by_side
from sfda.report.profile_text import profile_text
from sfda.report.report_text import report_text
from sfda.testing import check_network
from sfda.testing.toys import multilabel as toy
from sfda.types import UNSURE, SeenViews, TargetBatch

PROBLEM = PROBLEMS["multilabel"]
CLASSES = ("ant", "bee", "cow")
U = float(UNSURE)


def logits(probs: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probs).logit()


def output(probs: list[list[float]]) -> MultilabelOutput:
    return MultilabelOutput(torch.zeros(len(probs), 2), logits(probs))


# labels


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(12):
        Image.new("RGB", (4, 4), (i, 1, 2)).save(root / f"{i:02d}.png")
    return root


def table(path: Path, header: str, *lines: str) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def built(photos: Path, labels: Path | None, **more: Any) -> Any:
    out = build_manifest(
        photos, problem="multilabel", out=photos.parent / "m.yaml", labels_csv=labels, **more
    )
    return open_manifest(out)


SHOWN = {i: [c for n, c in enumerate(CLASSES) if i % 4 in ((1, 3), (2, 3), (3,))[n]]
         for i in range(12)}  # fmt: skip


def test_a_list_of_names_and_columns_of_0_and_1_say_the_same(photos: Path) -> None:
    names = table(photos.parent / "a.csv", "file,classes",
                  *(f"{i:02d}.png,{' ; '.join(own)}" for i, own in SHOWN.items()))  # fmt: skip
    columns = table(photos.parent / "b.csv", "file,label:ant,label:bee,label:cow",
                    *(f"{i:02d}.png," + ",".join(str(int(c in own)) for c in CLASSES)
                      for i, own in SHOWN.items()))  # fmt: skip
    flags = []
    for labels in (names, columns):
        manifest = built(photos, labels)
        assert manifest.classes == CLASSES
        assert set(manifest.splits) == {"adapt", "test", "train", "val"}
        assert verify_manifest(manifest.path).ok
        rows = {}
        for split in ("adapt", "test"):
            content = read_split(manifest, split)
            assert isinstance(content.labels, ClassSets)
            rows |= dict(zip(content.names, content.labels.flags.tolist(), strict=True))
            assert read_split(manifest.unlabelled(), split).labels is None
        flags.append(rows)
    expected = {f"{i:02d}.png": [int(c in own) for c in CLASSES] for i, own in SHOWN.items()}
    assert flags == [expected, expected]
    assert sum(map(sum, expected.values())) == 15, "some have several, some none"


def test_a_column_of_a_class_that_no_image_has_names_a_class(photos: Path) -> None:
    labels = table(photos.parent / "a.csv", "file,label:cow,label:ant",
                   *(f"{i:02d}.png,0,{i % 2}" for i in SHOWN))  # fmt: skip
    manifest = built(photos, labels)
    assert manifest.classes == ("ant", "cow")
    test = read_split(manifest, "test")
    assert isinstance(test.labels, ClassSets)
    assert (test.labels.flags[:, 1] == 0).all(), "no is said of it, not nothing"


def test_images_that_nobody_looked_at_are_no_images_of_nothing(photos: Path) -> None:
    labels = table(photos.parent / "a.csv", "file,classes", "00.png,", "01.png,ant", "02.png,?")
    manifest = built(photos, labels, classes=CLASSES)
    test = read_split(manifest, "test")
    assert test.names == ("00.png", "01.png")
    assert test.labels.flags.tolist() == [[0, 0, 0], [1, 0, 0]]  # type: ignore[union-attr]
    assert read_split(manifest, "adapt").labels is None


def test_a_folder_named_like_a_class_is_no_label(photos: Path) -> None:
    (photos / "ant").mkdir()
    Image.new("RGB", (4, 4)).save(photos / "ant" / "x.png")
    manifest = built(photos, None, classes=CLASSES)
    assert set(manifest.splits) == {"adapt"}
    assert read_split(manifest, "adapt").labels is None


def test_an_npz_of_rows_of_0_and_1(tmp_path: Path) -> None:
    truth = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]] * 5)
    np.savez(tmp_path / "a.npz", x=np.zeros((20, 4, 4), np.uint8), y=truth)
    out = build_manifest(
        tmp_path / "a.npz", problem="multilabel", out=tmp_path / "m.yaml", classes=CLASSES
    )
    manifest = open_manifest(out)
    rows = {}
    for split in ("adapt", "test"):
        content = read_split(manifest, split)
        rows |= dict(zip(content.names, content.labels.flags.tolist(), strict=True))  # type: ignore[union-attr]
    assert [rows[f"x:{i}"] for i in range(20)] == truth.tolist()
    with pytest.raises(BadInput, match="needs the names of its 3 columns"):
        build_manifest(tmp_path / "a.npz", problem="multilabel", out=tmp_path / "n.yaml", classes=3)
    np.savez(tmp_path / "b.npz", x=np.zeros((20, 4, 4), np.uint8), y=2 * truth)
    with pytest.raises(BadInput, match="holds 0 to 2, not 0 and 1"):
        build_manifest(
            tmp_path / "b.npz", problem="multilabel", out=tmp_path / "n.yaml", classes=CLASSES
        )
    assert not (tmp_path / "n.yaml").exists()
    with pytest.raises(BadInput, match="not one whole number a row"):
        build_manifest(
            tmp_path / "a.npz", problem="classification", out=tmp_path / "n.yaml", classes=CLASSES
        )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("file,classes", "00.png,ant;dog"), "not in the list of classes: dog"),
        (("file,label:ant", "00.png,2"), r"line 2, label:ant \(2\)"),
        (("file,label:ant,classes", "00.png,1,ant"), "keep one"),
        (("file,class", "00.png,ant"), "no column 'classes'"),
        (("classes", "ant"), "it needs file,classes"),
    ],
)
def test_labels_that_cannot_be_read_are_named(
    photos: Path, lines: tuple[str, ...], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        built(photos, table(photos.parent / "a.csv", *lines), classes=CLASSES)
    assert not (photos.parent / "m.yaml").exists()


def test_a_name_that_no_list_can_hold_is_refused(photos: Path) -> None:
    for name in ("salt;pepper", "?", " ant"):
        with pytest.raises(BadInput, match="cannot stand in a list"):
            built(photos, None, classes=("ant", name))
        with pytest.raises(BadInput, match="cannot stand in a list"):
            PROBLEM.make_spec("sfda:tiny", ("ant", name))


def test_classes_are_matched_by_name_and_what_is_not_said_does_not_count() -> None:
    labels = ClassSets(np.array([[1, 0], [0, 1]], np.int8))
    other = labels.in_classes(("bee", "ant"), ("ant", "cow", "bee"), "m")
    assert other.flags.tolist() == [[0, UNSURE, 1], [1, UNSURE, 0]]
    assert other.known.all()
    with pytest.raises(BadInput, match=r"classes that the model lacks.*ant"):
        labels.in_classes(("bee", "ant"), ("bee", "cow"), "m")
    less = labels.in_classes(("bee", "ant"), ("bee", "cow"), "m", unknown=True)
    assert less.flags.tolist() == [[1, UNSURE], [0, UNSURE]]


# learning


def test_binary_cross_entropy_counts_what_is_sure() -> None:
    scores, targets = logits([[0.9, 0.2], [0.6, 0.5]]), torch.tensor([[1.0, 0.0], [U, 1.0]])
    expected = -(math.log(0.9) + math.log(0.8) + math.log(0.5)) / 3
    assert float(sure_binary_cross_entropy(scores, targets)) == pytest.approx(expected)
    nothing = sure_binary_cross_entropy(scores.requires_grad_(), torch.full((2, 2), U))
    assert float(nothing.detach()) == 0.0
    nothing.backward()
    assert scores.grad is not None
    assert not scores.grad.any()


def test_smoothing_leaves_what_is_unsure_alone() -> None:
    network = SimpleNamespace
    model: Any = lambda images: network(logits=logits([[0.9, 0.3]]))  # noqa: E731
    (value,) = loss(model, torch.zeros(1), torch.tensor([[1.0, U]]), smoothing=0.2).values()
    assert float(value) == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)))


def test_sure_answers_are_yes_no_or_neither() -> None:
    probs = torch.tensor([[0.8, 0.79, 0.5, 0.21, 0.2, 1.0, 0.0]])
    assert sure_answers(probs, 0.8).tolist() == [[1, U, U, U, 0, 1, 0]]
    column = torch.tensor([[0.6], [0.7], [0.55], [0.1], [0.45], [0.4]])
    by_class = sure_answers(column, 0.95, by_class=True).flatten().tolist()
    assert by_class == [1, 1, U, 0, U, 0], "the surer half of yes, and of no"


@pytest.mark.parametrize("labels", ["hard", "soft", "symmetric"])
def test_the_mean_teacher_teaches_what_its_teacher_is_sure_of(labels: str) -> None:
    kind = plugins.load("methods", "mean_teacher")
    config = kind.Config.from_settings({"threshold": 0.7, "labels": labels, "buffers": "keep"})
    x, _ = toy.images(0.3, seed=1)
    method = kind(toy.source(), toy.info(), config)
    batch = TargetBatch(torch.arange(24), x[:24], strong=x[24:48])
    with torch.no_grad():
        teacher = method.teacher(batch.weak).logits.sigmoid().double()
        student = method.student.eval()(batch.strong).logits.sigmoid().double()
    sure = (teacher >= 0.7) | (teacher <= 0.3)
    assert 0 < int(sure.sum()) < sure.numel()
    q, p = teacher[sure], student[sure]

    def cross(a: torch.Tensor, b: torch.Tensor) -> float:
        b = b.clamp(1e-6, 1 - 1e-6)
        return float(-(a * b.log() + (1 - a) * (1 - b).log()).mean())

    expected = {
        "hard": cross((q >= 0.5).double(), p),
        "soft": cross(q, p),
        "symmetric": 0.5 * cross(q, p) + 0.5 * cross(p, q),
    }[labels]
    (value,) = PROBLEM.learn(
        method.student, batch, PROBLEM.teach(method.teacher, batch, config), config
    ).values()
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)


def test_the_network_keeps_the_contract() -> None:
    check_network(toy.source(), toy.images()[0][:8], "multilabel")


# scores


def test_the_validators_by_hand() -> None:
    entropy, agreement = (plugins.load("validators", n)() for n in ("entropy", "agreement"))
    weak = output([[0.9, 0.6, 0.1], [0.9, 0.1, 0.2], [0.4, 0.9, 0.3]])
    strong = output([[0.9, 0.4, 0.1], [0.2, 0.1, 0.2], [0.7, 0.9, 0.3]])
    for part in (slice(0, 2), slice(2, 3)):
        views = [MultilabelOutput(*(p[part] for p in out)) for out in (weak, weak, strong)]
        for validator in (entropy, agreement):
            validator.update(SeenViews(torch.arange(2), *views))
    p = weak.logits.sigmoid().double()
    h = -(p * p.log() + (1 - p) * (1 - p).log())
    assert entropy.compute() == pytest.approx(-float(h.mean()), abs=1e-6)
    # ant: both say yes once, 2 and 2 times in all; bee: once, 2 and 1; nobody says cow
    assert agreement.compute() == pytest.approx((2 * 1 / 4 + 2 * 1 / 3 + 0) / 3)


def test_the_summary_is_of_answers_that_are_independent() -> None:
    summary = PROBLEM.summarise(output([[0.9, 0.6], [0.5, 0.1]]))
    assert summary.margin.tolist() == pytest.approx([0.2, 0.0], abs=1e-6)
    assert summary.residual.flatten().tolist() == pytest.approx([-0.1, -0.4, -0.5, 0.1], abs=1e-6)
    h = [-(a * math.log(a) + (1 - a) * math.log(1 - a)) for a in (0.9, 0.6)]
    assert float(summary.entropy[0]) == pytest.approx(sum(h) / 2)
    assert PROBLEM.certainty(np.array([[0.9, 0.4]])).tolist() == pytest.approx([0.75])


def average_precision(scores: list[float], truth: list[int]) -> float:
    """The mean of the precision at the rank of each positive; scores without ties."""
    ranked = [t for _, t in sorted(zip(scores, truth, strict=True), reverse=True)]
    hits = [n for n, t in enumerate(ranked, start=1) if t]
    return sum(k / n for k, n in enumerate(hits, start=1)) / len(hits)


def test_metrics_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    probs, truth = rng.random((60, 4)), (rng.random((60, 4)) < 0.3).astype(int)
    truth[:, 3] = 0  # it never occurs, and is answered: an error of `micro_f1` alone
    metric = MultilabelMetric(("a", "b", "c", "d"))
    for part in (slice(0, 7), slice(7, 60)):
        metric.update(torch.from_numpy(probs[part]).logit(), torch.from_numpy(truth[part]))
    result, answers = metric.compute(), (probs >= 0.5).astype(int)
    by_class = f1_score(truth, answers, average=None, zero_division=0)
    assert result["macro_f1"] == pytest.approx(by_class[:3].mean())
    assert result["micro_f1"] == pytest.approx(f1_score(truth, answers, average="micro"))
    expected = [average_precision(probs[:, c].tolist(), truth[:, c].tolist()) for c in range(3)]
    assert result["mean_average_precision"] == pytest.approx(sum(expected) / 3)
    assert result["exact_match"] == pytest.approx((truth == answers).all(1).mean())
    right = np.where(truth == 1, probs, 1 - probs)
    assert result["log_loss"] == pytest.approx(-np.log(right).mean())
    rows = metric.per_class()
    assert rows["d"] == {"count": 0.0}
    assert rows["a"]["average_precision"] == pytest.approx(expected[0])
    assert main_metric(result) == "macro_f1"
    assert score_of(result).rows == "images"
    assert set(metrics_of(result)) <= set(result)


def test_metrics_leave_out_what_nobody_said_and_need_something() -> None:
    metric = MultilabelMetric(("a", "b"))
    with pytest.raises(ValueError, match="no samples"):
        metric.compute()
    metric.update(logits([[0.9, 0.9], [0.2, 0.9]]), torch.tensor([[1, UNSURE], [0, UNSURE]]))
    result = metric.compute()
    assert (result["macro_f1"], result["micro_f1"], result["exact_match"]) == (1.0, 1.0, 1.0)
    assert result["log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2)
    empty = MultilabelMetric(("a",))
    empty.update(logits([[0.9]]), torch.tensor([[0]]))
    with pytest.raises(BadInput, match="nothing to score"):
        empty.compute()


def test_no_two_problems_share_a_main_metric() -> None:
    names = [name for problem in PROBLEMS.values() for name in problem.main_metrics]
    assert len(set(names)) == len(names)
    for problem in PROBLEMS.values():
        for shown in problem.main_metrics.values():
            assert main_metric(dict.fromkeys(shown, 0.5)) in problem.main_metrics
        assert problem.held_out_metric in problem.main_metrics


# a split


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return small_multi.write(tmp_path, "target", small_multi.TARGET, seed=2)


def test_a_split_is_evaluated_and_shown(target: Path) -> None:
    opened = open_split(open_manifest(target), "test", small_multi.SPEC.input)
    cpu = torch.device("cpu")
    evaluate = make_evaluator(opened, small_multi.SPEC, cpu)
    report = evaluate(small_multi.source(), None)
    assert report.count == 30
    assert report.metrics["macro_f1"] > 0.9
    assert report.confusion == []
    assert [row["count"] for row in report.per_class.values()] == [15.0, 14.0]
    assert side_by_side(report, report, title="toy").startswith(b"\x89PNG")
    text = report_text(SideBySide(split="test", source=report, adapted=report), "toy")
    assert "Split `test`, 30 images." in text
    assert "| class | images | source f1 | adapted f1 |" in text


def test_predictions_are_kept_profiled_and_written(target: Path, tmp_path: Path) -> None:
    spec, network, cpu = small_multi.SPEC, small_multi.source(), torch.device("cpu")
    opened = open_split(open_manifest(target).unlabelled(), "adapt", spec.input)
    seen = list(infer_split(network, opened, spec, cpu))
    arrays = [PROBLEM.from_arrays(PROBLEM.to_arrays(one), cpu) for one in seen]
    assert torch.equal(arrays[0].output.logits, seen[0].output.logits)
    ref = keep_pseudo_labels(
        lambda net: infer_split(net, opened, spec, cpu), network, spec, tmp_path / "kept",
        size=48, source_sha256="0" * 64,
    )  # fmt: skip
    assert isinstance(ref, PredictionsRef)
    probs = torch.cat([one.output.logits for one in seen]).sigmoid().numpy()
    assert list(ref.profile["classes"].values()) == (probs >= 0.5).sum(0).tolist()
    assert ref.profile["mean_confidence"] == pytest.approx(float(abs(probs - 0.5).mean() + 0.5))
    share = ref.profile["classes"]["bar"] / 48
    assert f"{share:.1%}" in profile_text("toy", ref), "of images, which may have several"
    header, lines = PROBLEM.prediction_table(network, spec, opened, cpu, tmp_path)
    assert list(header) == ["file", "labels", "probability:bar", "probability:post"]
    for line, row in zip(lines, probs, strict=True):
        names = [c for c, p in zip(small_multi.CLASSES, row, strict=True) if p >= 0.5]
        assert line[1] == ";".join(names)
        assert [float(p) for p in line[2:]] == pytest.approx(row.tolist(), abs=1e-5)


def test_a_bundle_is_served(tmp_path: Path) -> None:
    small_multi.bundle(tmp_path / "model")
    inputs = small_multi.arrays(small_multi.SOURCE, seed=1)
    served = Served(tmp_path / "model")
    result = served.predict(inputs["x"][:70])
    assert result["probabilities"].shape == (70, 2)
    assert result["classes"].tolist() == list(small_multi.CLASSES)
    for names, row in zip(result["labels"], result["probabilities"], strict=True):
        assert names == [c for c, p in zip(small_multi.CLASSES, row, strict=True) if p >= 0.5]
    truth = [[c for c, y in zip(small_multi.CLASSES, row, strict=True) if y] for row in inputs["y"]]
    assert sum(a == b for a, b in zip(result["labels"], truth, strict=False)) > 60
    assert served.predict(inputs["x"][:0])["labels"] == []


# questions to people


@pytest.fixture
def asked(target: Path, tmp_path: Path) -> tuple[Path, Request]:
    """A request about rows 0 (neither), 1 (bar), 2 (post), 3 (both); the model says the truth."""
    split = read_split(open_manifest(target), "adapt")
    labelling = PROBLEM.labelling
    rows, guesses = [], {}
    for row in range(4):
        name = split.row_ids[row]
        rows.append(
            RequestedRow(
                row=name,
                key=str(row),
                file=f"images/{name}.png",
                height=16,
                width=16,
                confidence=0.5,
            )
        )
        flags = split.labels.flags[row]  # type: ignore[union-attr]
        seen = SimpleNamespace(output=output([[0.9 if yes else 0.2 for yes in flags]]))
        guesses[name] = labelling.guess(seen, np.array([0, 1]))
    request = Request.model_validate(
        {
            "problem": "multilabel",
            "manifest": "toy/target",
            "manifest_sha256": "0" * 64,
            "split": "adapt",
            "column": "index",
            "classes": small_multi.CLASSES,
            "by": "margin",
            "seed": 0,
            "model": "models:/toy/1",
            "model_sha256": "0" * 64,
            "copied": True,
            "wanted": tuple(rows),
        }
    )
    folder = tmp_path / "ask"
    folder.mkdir()
    for file, content in documents(request, guesses).items():
        (folder / file).write_bytes(content)
    return folder, request


def taken(folder: Path, answers: Path, target: Path, **more: Any) -> dict[int, list[int]]:
    """The flags of the rows that were answered."""
    result = take_annotations(
        folder, answers, target, out=target.parent / "out" / f"{answers.stem}.yaml", **more
    )
    manifest = open_manifest(result.manifest)
    assert verify_manifest(result.manifest).ok
    annotations = read_split(manifest.unlabelled(), "adapt").annotations
    assert annotations is not None
    assert isinstance(annotations.labels, ClassSets)
    flags = annotations.labels.in_classes(annotations.classes, small_multi.CLASSES, "m").flags
    return dict(zip(annotations.rows.tolist(), flags.tolist(), strict=True))


def test_label_studio_takes_several_choices_and_none(asked: Any, target: Path) -> None:
    folder, _ = asked
    assert 'choice="multiple"' in (folder / "label_studio.xml").read_text()
    tasks = json.loads((folder / "label_studio.json").read_text())
    for n, task in enumerate(tasks):
        (guess,) = task.pop("predictions")
        task["annotations"] = [{"id": n, "was_cancelled": False, "result": guess["result"]}]
    (folder / "export.json").write_text(json.dumps(tasks))
    whole = {0: [0, 0], 1: [1, 0], 2: [0, 1], 3: [1, 1]}
    assert taken(folder, folder / "export.json", target) == whole
    least = [{"row": task["data"]["row"], "annotation_id": n,
              **({"class": {"choices": ["post", "bar"]}} if n == 3 else {})}
             for n, task in enumerate(tasks)]  # fmt: skip
    (folder / "min.json").write_text(json.dumps(least[2:]))
    assert taken(folder, folder / "min.json", target) == {2: [0, 0], 3: [1, 1]}


def test_a_table_and_coco_say_the_same(asked: Any, target: Path) -> None:
    folder, request = asked
    with (folder / "request.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert [row["model_says"] for row in rows] == ["", "bar", "post", "bar;post"]
    filled = folder / "filled.csv"
    filled.write_text(
        "row,classes\n" + "\n".join(f"{row['row']},{row['model_says']}" for row in rows) + "\n"
    )
    some, whole = {1: [1, 0], 2: [0, 1], 3: [1, 1]}, {0: [0, 0], 1: [1, 0], 2: [0, 1], 3: [1, 1]}
    assert taken(folder, filled, target) == some, "an empty cell is no answer"
    (folder / "filled_empty.csv").write_text(filled.read_text())
    assert taken(folder, folder / "filled_empty.csv", target, empty=True) == whole
    exported = folder / "studio.csv"  # Label Studio's own, whose column is the tag's name
    exported.write_text(
        f'row,class\n{rows[3]["row"]},"{{""choices"": [""bar"", ""post""]}}"\n'
        f"{rows[1]['row']},bar\n"
    )
    assert taken(folder, exported, target) == {1: [1, 0], 3: [1, 1]}
    coco = json.loads((folder / "cvat_coco.json").read_text())
    assert len(coco["annotations"]) == 4
    (folder / "coco.json").write_text(json.dumps(coco))
    assert taken(folder, folder / "coco.json", target) == some
    odd = folder / "odd.csv"
    odd.write_text(f"row,classes\n{request.requested[1].row},bar;tree\n")
    with pytest.raises(BadInput, match=r"unknown class \(known: bar, post\): 1 \(tree\)"):
        taken(folder, odd, target)


def test_the_model_guesses_and_a_simulated_annotator_answers(target: Path, tmp_path: Path) -> None:
    spec, network, cpu = small_multi.SPEC, small_multi.source(), torch.device("cpu")
    opened = open_split(open_manifest(target), "adapt", spec.input)
    ref = manifest_ref(str(target))
    plan = make_query_plan("multilabel", "margin", 4, "adapt", {}, 0)
    chosen = choose_rows(network, spec, opened, plan, None, cpu)
    probs = torch.cat([out.logits for _, out in infer_split(network, opened, spec, cpu)]).sigmoid()
    doubt = (2 * probs - 1).abs().amin(1)
    assert chosen.rows.tolist() == doubt.sort(stable=True).indices[:4].tolist()
    outputs = guesses_for(network, spec, opened, chosen.rows, cpu)
    model = small_multi.bundle(tmp_path / "model")
    request, guesses = make_request(model, spec, ref, opened.split, plan, chosen, outputs)
    for row, sample in zip(chosen.rows.tolist(), request.requested, strict=True):
        own = probs[row].tolist()
        shown = [(n, p) for n, p in enumerate(own) if p >= 0.5]
        assert [n for n, _ in guesses[sample.row]] == [n for n, _ in shown]
        sure = sum(max(p, 1 - p) for p in own) / len(own)
        assert sample.confidence == pytest.approx(sure, abs=1e-5)
        assert sample.label is None
    folder = tmp_path / "asked"
    folder.mkdir()
    for file, content in documents(request, guesses).items():
        (folder / file).write_bytes(content)
    answers = annotate_from_labels(request, ref, folder)
    truth = opened.split.labels.flags  # type: ignore[union-attr]
    expected = {row: truth[row].tolist() for row in chosen.rows.tolist()}
    assert taken(folder, answers, target, empty=PROBLEM.labelling.empty) == expected


def test_weights_of_a_classifier_become_independent_outputs() -> None:
    torch.manual_seed(1)
    spec = PROBLEMS["classification"].make_spec("sfda:tiny", CLASSES, head="plain")
    other = PROBLEMS["classification"].build_from_spec(spec).eval()
    network, own = PROBLEM.load_network(other.state_dict(), arch="sfda:tiny", classes=CLASSES)
    assert (own.problem, own.head, own.classes) == ("multilabel", "plain", CLASSES)
    x = torch.randn(3, 1, 16, 16)
    assert torch.equal(network(x).logits, other(x).logits)
    assert network(x).problem == "multilabel"
    fresh = PROBLEM.build_from_spec(PROBLEM.make_spec("sfda:tiny", CLASSES)).eval()
    PROBLEM.load_backbone(fresh, other.state_dict())
    for name, value in other.backbone.state_dict().items():
        assert torch.equal(fresh.backbone.state_dict()[name], value)


@pytest.mark.parametrize("problem", ["multilabel", "segmentation"])
def test_rejection_is_refused_where_nothing_is_unknown(problem: str) -> None:
    with pytest.raises(BadInput, match=f"no prediction of {problem} is 'unknown'"):
        settings_for("mean_teacher", problem, {"reject": 0.5})
    assert settings_for("mean_teacher", problem, {"reject": "never"}).reject == "never"
    assert settings_for("mean_teacher", "classification", {"reject": 0.5}).reject == 0.5
