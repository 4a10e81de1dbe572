"""Guides: their answers, what becomes of them beside the source's, their tables, and refusals."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from torch import nn

from sfda.errors import BadInput
from sfda.guides.answers import csv_table
from sfda.guides.class_map import map_answers, name_answers, read_class_map
from sfda.guides.complete import complete_guide
from sfda.guides.encoder import gathered, load_guide_network
from sfda.guides.make import kept_table, table_folder
from sfda.guides.origin import guide_origin, refuse_lacking
from sfda.guides.profile import concerns, profile_guide
from sfda.guides.table import GuideTable, all_answered, read_table
from sfda.guides.texts import class_texts
from sfda.loading.opened import manifest_ref, open_part, split_ref
from sfda.loading.scan import scan
from sfda.refs import InputSpec, ModelRef
from sfda.settings import GuideSettings
from sfda.types import Guide
from sfda.weights.bundle import write_bundle

CLASSES = ("a", "b", "c")


def refuse(uri: str) -> Any:
    raise AssertionError(f"nobody asks for {uri}")


def origin_of(source: ModelRef, **settings: Any) -> Any:
    return guide_origin(GuideSettings(**settings), source, refuse)


def csv_file(folder: Path, text: str) -> Path:
    (folder / "guide.csv").write_text(text)
    return folder / "guide.csv"


def probs(guide: Guide) -> list[float]:
    return [round(value, 5) for value in guide.logits[0].softmax(0).tolist()]


def test_a_class_map_by_hand() -> None:
    said = torch.tensor([[0.5, 0.3, 0.1, 0.1]])
    mapped = map_answers(said, [[0, 1], [2]])
    assert mapped.logits.softmax(1)[0].tolist() == pytest.approx([0.8, 0.2])
    assert mapped.answered.tolist() == [True]
    mapped = map_answers(said, [[0, 1], [2], []])
    table = GuideTable(mapped.answered, mapped.covers, mapped.logits)
    source = torch.tensor([[0.2, 0.3, 0.5]]).log()
    assert probs(complete_guide(table, source, 1.0)) == [0.4, 0.1, 0.5]
    silent = map_answers(torch.tensor([[0.02, 0.02, 0.96]]), [[0], [1]])
    assert silent.answered.tolist() == [False]


def test_what_a_class_map_may_say(tmp_path: Path) -> None:
    file = tmp_path / "map.yaml"
    file.write_text("a: [151-153, dog]\nb: 3\nc: []\n")
    guide_classes = [str(n) for n in range(200)]
    guide_classes[7] = "dog"
    lists = read_class_map(file, CLASSES, guide_classes)
    assert lists == [[7, 151, 152, 153], [3], []]
    for text, word in (
        ("a: [dog]\nb: [7]\n", "class 7 of the guide is a and b"),
        ("a: [198-201]\n", "not within"),
        ("z: [1]\n", "the model lacks"),
        ("a: [cat]\n", "no class 'cat'"),
        ("a: []\n", "names no class"),
        ("- a\n", "names no classes"),
    ):
        file.write_text(text)
        with pytest.raises(BadInput, match=word):
            read_class_map(file, CLASSES, guide_classes)


def test_a_guide_of_the_same_classes_is_matched_by_name() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert name_answers(logits, ("c", "z", "a", "b"), CLASSES).tolist() == [[3.0, 4.0, 1.0]]
    with pytest.raises(BadInput, match=r"(?s)a, x.*a, b, c.*lacks b, c.*--guide-classes"):
        name_answers(logits[:, :2], ("a", "x"), CLASSES)


def test_match_by_hand() -> None:
    answered, covers = all_answered(1, 2)
    table = GuideTable(answered, covers, torch.tensor([[0.0, 50.0]]))
    source = torch.tensor([[0.0, 2.0]])
    assert complete_guide(table, source, "match").logits.tolist() == [[0.0, 2.0]]
    assert complete_guide(table, source, 25.0).logits.tolist() == [[0.0, 2.0]]


def test_an_encoder_answers_by_the_neighbourhood() -> None:
    features = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    source = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]).log()
    answered, covers = all_answered(3, 2)
    guide = complete_guide(GuideTable(answered, covers, None, features), source, 1.0)
    assert guide.derived
    assert guide.logits[:2].argmax(1).tolist() == [0, 1]
    assert guide.logits.isfinite().all(), "also of a row of zeros"


def test_csv_labels_probabilities_and_votes(tmp_path: Path) -> None:
    names, ids = ["x.png", "y.png", "z.png"], ["1", "2", "3"]

    def read(text: str, others: tuple[str, ...] = ()) -> GuideTable:
        return csv_table(csv_file(tmp_path, text), CLASSES, names, ids, others)

    table = read("image,label\ny.png,b\n3,unknown\n")
    assert table.answered.tolist() == [False, True, False]
    assert table.logits is not None
    assert table.logits[1].softmax(0).tolist() == pytest.approx([0.05, 0.9, 0.05])
    table = read("image,label,confidence\n1,c,0.6\n")
    assert table.logits is not None
    assert table.logits[0].softmax(0).tolist() == pytest.approx([0.2, 0.2, 0.6])
    table = read("image,a,b,c\nx.png,2,1,1\nz.png,,,\n")
    assert table.logits is not None
    assert table.logits[0].softmax(0).tolist() == pytest.approx([0.5, 0.25, 0.25])
    table = read("image,label_1,label_2,label_3\nx.png,a,a,b\n", others=("w.png",))
    assert table.logits is not None
    expected = [0.95 * share + 0.05 / 3 for share in (2 / 3, 1 / 3, 0)]
    assert table.logits[0].softmax(0).tolist() == pytest.approx(expected)
    assert not read("image,label\nw.png,a\n", others=("w.png",)).answered.any()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("image,label\nq.png,a\n", "line 2: no image 'q.png'"),
        ("image,label\nx.png,dog\n", "line 2: 'dog' is no class"),
        ("image,label\nx.png,a\n1,b\n", "line 3: '1' stands in line 2 too"),
        ("image,label,confidence\nx.png,a,1.5\n", r"line 2: the confidence 1.5"),
        ("image,a,b,c\nx.png,1,-1,1\n", "line 2: probabilities are negative"),
        ("image,a,b,c\nx.png,1,nan,1\n", "line 2: 'nan' is no finite number"),
        ("image,a,b\nx.png,1,1\n", "lacks c"),
        ("file,label\nx.png,a\n", "no column 'image'"),
    ],
)
def test_a_csv_that_cannot_be_used_names_file_and_line(
    tmp_path: Path, text: str, word: str
) -> None:
    with pytest.raises(BadInput, match=word) as refused:
        csv_table(csv_file(tmp_path, text), CLASSES, ["x.png"], ["1"])
    assert "guide.csv" in str(refused.value)


def test_numbers_that_are_not_finite_name_their_row() -> None:
    answered, covers = all_answered(2, 2)
    for odd in (
        GuideTable(answered, covers, torch.tensor([[0.0, 1.0], [0.0, torch.nan]])),
        GuideTable(answered, covers, None, torch.tensor([[0.0], [torch.inf]])),
    ):
        with pytest.raises(BadInput, match=r"second\.png are not finite"):
            odd.check(["first.png", "second.png"])


def guide_like(logits: torch.Tensor, answered: torch.Tensor | None = None) -> Guide:
    return Guide("g", logits, torch.ones(len(logits)).bool() if answered is None else answered)


def test_the_profile_and_what_speaks_against_a_guide() -> None:
    source = 4 * torch.eye(3)[[0, 0, 1, 1, 2, 2]]
    other = 4 * torch.eye(3)[[0, 1, 1, 1, 2, 2]]
    profile = profile_guide(guide_like(other), 3, source, CLASSES)
    assert profile.agreement == pytest.approx(5 / 6)
    assert profile.kappa == pytest.approx((5 / 6 - 1 / 3) / (2 / 3))
    assert profile.cells == (("a", "b", 1),)
    assert "a / b 1" in profile.lines()[-1]
    assert concerns(profile, 3) == []
    one = profile_guide(guide_like(9 * torch.eye(3)[[0] * 6]), 3, source, CLASSES)
    against = concerns(one, 3)
    assert "nearly everything into 1.0 classes" in against[0]
    assert "kappa 0.00" in against[1]
    assert concerns(one, 3, expected=1.0)[0].startswith("guide and source agree")
    few = torch.zeros(6, dtype=torch.bool)
    with pytest.raises(BadInput, match=r"answers 0\.0%"):
        profile_guide(guide_like(other, few), 3, source, CLASSES)


def test_texts_of_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert class_texts(GuideSettings(), ["polar_bear", "cat"]).names == ("polar bear", "cat")
    with pytest.raises(BadInput, match="the text polar bear"):
        class_texts(GuideSettings(), ["polar_bear", "polar bear"])
    with caplog.at_level(logging.WARNING, "sfda"):
        class_texts(GuideSettings(), ["cat", "class_3"])
    assert "class 3" in caplog.text
    assert "--guide-names" in caplog.text
    names, templates = tmp_path / "names.txt", tmp_path / "templates.txt"
    names.write_text("one\n\ntwo\n")
    templates.write_text("a {}.\nno {} {}.\n")
    with pytest.raises(BadInput, match="has 2 names, and the model 3"):
        class_texts(GuideSettings(names=str(names)), CLASSES)
    with pytest.raises(BadInput, match=r"'no \{\} \{\}\.'"):
        class_texts(GuideSettings(templates=str(templates)), CLASSES)
    templates.write_text("a {}.\n")
    stated = GuideSettings(names=str(names), templates=str(templates))
    assert class_texts(stated, ["0", "1"]) == (("one", "two"), ("a {}.",))


def test_what_is_no_guide_is_refused(tmp_path: Path) -> None:
    source = small.bundle(tmp_path / "source")
    for uri, word in (
        ("timm:resnet18", "names no file"),
        ("timm:resnet18@missing.pt", "no file missing.pt"),
        ("clip:ViT-B-32@laion2b", "nothing is downloaded"),
        ("csv:none.csv", "no file none.csv"),
        ("somewhere", "is no guide; write csv:FILE"),
    ):
        with pytest.raises(BadInput, match=word):
            origin_of(source, uri=uri)
    with pytest.raises(BadInput, match="no second opinion"):
        guide_origin(GuideSettings(uri=source.uri), source, lambda uri: (Path(source.uri), source))
    with pytest.raises(BadInput, match="--guide-classes is not for"):
        origin_of(source, uri="self", classes=str(csv_file(tmp_path, "")))
    with pytest.raises(BadInput, match="no file map"):
        origin_of(source, uri="self", classes="map.yaml")
    with pytest.raises(BadInput, match="a clip guide alone"):
        origin_of(source, uri="self", names="names.txt")
    csv = origin_of(source, uri=f"csv:{csv_file(tmp_path, 'image,label')}")
    refuse_lacking(frozenset({"logits"}), csv, "vilaad")
    with pytest.raises(BadInput, match="colearn needs features"):
        refuse_lacking(frozenset({"features"}), csv, "colearn")
    with pytest.raises(BadInput, match="colearn needs a guide"):
        refuse_lacking(frozenset({"features"}), None, "colearn")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A source, its target, and what it makes of that, with a home of its own."""
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    source = small.bundle(tmp_path / "source")
    path = small.write(tmp_path, "target", small.target_arrays(), small.TARGET)
    target = split_ref(manifest_ref(path), "adapt")
    opened = open_part(target, small.SPEC)
    network = small.source()

    class Job:
        folder, names = tmp_path, opened.split.names

        def __init__(self) -> None:
            self.source, self.target, self.network = source, target, network

        def look(self) -> Any:
            return scan(opened.images, small.SPEC.input, device="cpu")(network)

        def made(self, **settings: Any) -> tuple[Path, GuideTable]:
            resolve = settings.pop("resolve", refuse)
            origin = guide_origin(GuideSettings(**settings), source, resolve)
            device = torch.device("cpu")
            folder, digest = kept_table(
                origin, target, small.SPEC, source.sha256, self.look(), device
            )
            return folder, read_table(folder, digest)

    return Job()


def test_a_table_is_made_once(job: Any) -> None:
    file = csv_file(job.folder, f"image,label\n{job.names[3]},post\n")
    folder, table = job.made(uri=f"csv:{file}")
    assert table.answered.nonzero().flatten().tolist() == [3]
    before = (folder / "table.safetensors").stat().st_mtime_ns
    moved = file.rename(job.folder / "moved.csv")
    again, _ = job.made(uri=f"csv:{moved}")
    assert (again, (folder / "table.safetensors").stat().st_mtime_ns) == (folder, before)
    moved.write_text(f"image,label\n{job.names[3]},bar\n")
    other, table = job.made(uri=f"csv:{moved}")
    assert other != folder
    assert table.logits is not None
    assert int(table.logits[3].argmax()) == 0
    (folder / "table.safetensors").write_bytes(b"else")
    with pytest.raises(BadInput, match="was altered"):
        job.made(uri=f"csv:{csv_file(job.folder, file_text(job))}")


def file_text(job: Any) -> str:
    return f"image,label\n{job.names[3]},post\n"


def test_a_csv_may_speak_of_the_test_split(job: Any) -> None:
    test = open_part(split_ref(job.target.manifest, "test"), small.SPEC).split.names[0]
    text = f"image,label\n{job.names[0]},bar\n{test},post\n"
    _, table = job.made(uri=f"csv:{csv_file(job.folder, text)}")
    assert table.answered.sum() == 1
    with pytest.raises(BadInput, match="no image 'nobody'"):
        job.made(uri=f"csv:{csv_file(job.folder, text + 'nobody,bar')}")


def test_the_source_s_own_features(job: Any) -> None:
    _, table = job.made(uri="self")
    features, logits = gathered(job.look(), 48)
    assert table.features is not None
    torch.testing.assert_close(table.features, features)
    guide = complete_guide(table, logits, "match")
    assert guide.derived
    assert guide.logits.isfinite().all()


def test_another_model_with_its_classes_in_another_order(job: Any) -> None:
    spec = small.SPEC.model_copy(update={"classes": ("cross", "bar", "post")})
    network = small.source()
    sha256 = write_bundle(job.folder / "other", network, spec)
    ref = job.source.model_copy(update={"sha256": sha256, "uri": str(job.folder / "other")})
    folder = job.folder / "other"
    _, table = job.made(uri=str(folder), resolve=lambda uri: (folder, ref))
    logits = gathered(job.look(), 48)[1]
    assert table.logits is not None
    torch.testing.assert_close(table.logits, logits[:, [1, 2, 0]], rtol=1e-5, atol=1e-5)


def test_an_encoder_with_and_without_its_last_layer(job: Any) -> None:
    import timm

    torch.manual_seed(0)
    whole = timm.create_model("resnet10t", num_classes=4)
    named = whole.state_dict()
    torch.save(named, job.folder / "whole.pt")
    body = {k: v for k, v in named.items() if not k.startswith("fc.")}
    torch.save(body, job.folder / "body.pt")
    tiny = InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    file = job.folder / "map.yaml"
    file.write_text("bar: [0, 1]\npost: 2\ncross: []\n")
    stated = {"uri": f"timm:resnet10t@{job.folder / 'whole.pt'}", "input": tiny}
    _, mapped = job.made(**stated, classes=str(file))
    assert mapped.covers.tolist() == [True, True, False]
    _, plain = job.made(**stated)
    assert plain.logits is None
    _, bare = job.made(**(stated | {"uri": f"timm:resnet10t@{job.folder / 'body.pt'}"}))
    assert plain.features is not None
    assert bare.features is not None
    torch.testing.assert_close(plain.features, bare.features)
    assert plain.features.shape == (48, whole.num_features)
    with pytest.raises(BadInput, match="nothing to map"):
        job.made(
            **(stated | {"uri": f"timm:resnet10t@{job.folder / 'body.pt'}"}), classes=str(file)
        )
    guide = load_guide_network(origin_of(job.source, **stated), "classification")
    assert not guide.network.training
    assert isinstance(guide.network, nn.Module)


def test_a_guide_s_key_is_what_it_is_and_not_where(job: Any) -> None:
    one = origin_of(job.source, uri="self")
    assert origin_of(job.source, uri="self", temperature=2.0).digest != one.digest
    where = table_folder(one, job.target, small.SPEC, job.source.sha256)
    assert table_folder(one, job.target, small.SPEC, "0" * 64) != where
    test = split_ref(job.target.manifest, "test")
    assert table_folder(one, test, small.SPEC, job.source.sha256) != where
