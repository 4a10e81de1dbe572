"""Templates of benchmarks: names and numbers as published, no rows and no digests."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.schema import Manifest
from sfda.manifests.subset import read_regimes, side_of, write_subset

FOLDER = Path(__file__).parents[3] / "data_manifests"
CLASSES = {"office31": 31, "officehome": 65, "visda": 12, "domainnet": 345, "domainnet126": 126}
TOTALS = {
    "office31/amazon": 2817,
    "office31/dslr": 498,
    "office31/webcam": 795,
    "officehome/art": 2427,
    "officehome/clipart": 4365,
    "officehome/product": 4439,
    "officehome/realworld": 4357,
    "visda/train": 152_397,
    "visda/validation": 55_388,
    "domainnet/painting": 75_759,
    "domainnet/real": 175_327,
    "domainnet/sketch": 70_386,
    "domainnet126/real": None,  # two lists of different length are about; neither was counted
    "domainnet126/clipart": None,
    "domainnet126/painting": None,
    "domainnet126/sketch": None,
}
SPLITS = {  # shared, source-private and target-private classes; GLC's table
    "office31": {"partial": (10, 21, 0), "open": (10, 0, 11), "open-partial": (10, 10, 11)},
    "officehome": {"partial": (25, 40, 0), "open": (25, 0, 40), "open-partial": (10, 5, 50)},
    "visda": {"partial": (6, 6, 0), "open": (6, 0, 6), "open-partial": (6, 3, 3)},
    "domainnet": {"open-partial": (150, 50, 145)},
}
every_template = pytest.mark.parametrize("name", TOTALS)


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.yaml"


def raw(name: str) -> dict[str, Any]:
    return yaml.safe_load(path_of(name).read_text(encoding="utf-8"))


def test_no_other_templates_than_these():
    there = {f"{p.parent.name}/{p.stem}" for s in CLASSES for p in (FOLDER / s).glob("*.yaml")}
    assert there - {f"{benchmark}/regimes" for benchmark in SPLITS} == set(TOTALS)


@pytest.mark.parametrize("benchmark", SPLITS)
def test_regimes_are_the_published_splits_in_the_order_of_the_templates(benchmark):
    classes = next(raw(name) for name in TOTALS if name.split("/")[0] == benchmark)["classes"]
    expected = {"closed": (classes, classes)} if benchmark != "domainnet" else {}
    for regime, (shared, source, target) in SPLITS[benchmark].items():
        first = shared + source
        if (benchmark, regime) == ("office31", "open"):
            first += 10  # GLC passes over classes 10 to 19
        own = classes[first : first + target]
        expected[regime] = (classes[: shared + source], classes[:shared] + own)
        assert len(own) == target
    result = read_regimes(FOLDER / benchmark / "regimes.yaml")
    assert {k: (list(v.source), list(v.target)) for k, v in result.items()} == expected


def test_no_class_of_the_regimes_is_out_of_place():
    office31 = read_regimes(FOLDER / "office31" / "regimes.yaml")
    assert office31["open"].target[9:12] == ("projector", "pen", "phone")
    assert office31["open-partial"].source[-1] == "paper_notebook"
    domainnet = read_regimes(FOLDER / "domainnet" / "regimes.yaml")["open-partial"]
    assert (domainnet.source[0], domainnet.source[-1]) == ("The_Eiffel_Tower", "nail")
    assert (domainnet.target[150], domainnet.target[-1]) == ("necklace", "zigzag")


@every_template
def test_says_all_that_a_reader_needs(name):
    output = raw(name)
    assert output["name"] == name
    assert output["problem"] == "classification"
    assert output["version"] == 1
    assert output["template"] is True
    assert all(output[key].strip() for key in ("origin", "licence", "layout"))
    assert output["root"].split("/")[0] == name.split("/")[0]


@every_template
def test_holds_no_rows_and_no_digest(name):
    text = path_of(name).read_text(encoding="utf-8")
    assert not {"splits", "archive", "arrays"} & set(raw(name))
    assert not re.search(r"sha256|md5|[0-9a-f]{16,}", text, re.IGNORECASE)


@every_template
def test_is_a_manifest_that_cannot_be_run(name):
    manifest = Manifest.model_validate(raw(name))
    assert manifest.num_classes == CLASSES[name.split("/")[0]]
    with pytest.raises(BadInput, match="is a template"):
        open_manifest(path_of(name))


@every_template
def test_classes_are_distinct_text_and_the_same_in_all_domains(name):
    classes = raw(name)["classes"]
    assert all(isinstance(c, str) and c == c.strip() and "/" not in c for c in classes)
    assert len(set(classes)) == len(classes) == CLASSES[name.split("/")[0]]
    for other in TOTALS:
        if other.split("/")[0] == name.split("/")[0]:
            assert raw(other)["classes"] == classes


@every_template
def test_counts_are_the_published_ones(name):
    counts = raw(name).get("counts")
    if isinstance(counts, dict):
        assert list(counts) == raw(name)["classes"]
        assert all(type(count) is int and count > 0 for count in counts.values())
        counts = sum(counts.values())
    assert counts == TOTALS[name]


def test_visda_validation_counts_by_class():
    counts = raw("visda/validation")["counts"]
    assert sum(counts.values()) == 55_388
    assert (counts["aeroplane"], counts["car"], counts["truck"]) == (3646, 10_401, 5548)


def test_orders_of_classes():
    office31 = raw("office31/amazon")["classes"]
    assert office31[:10] == [
        "back_pack",
        "bike",
        "calculator",
        "headphones",
        "keyboard",
        "laptop_computer",
        "monitor",
        "mouse",
        "mug",
        "projector",
    ]
    assert office31[10:] == sorted(office31[10:])
    for name in ("officehome/art", "visda/train", "domainnet/real"):
        assert raw(name)["classes"] == sorted(raw(name)["classes"])
    domainnet = raw("domainnet126/real")["classes"]
    index = {c: i for i, c in enumerate(domainnet)}  # as in the published list of categories
    assert [index[c] for c in ("aircraft_carrier", "cello", "cell_phone")] == [0, 30, 31]
    assert [index[c] for c in ("teddy-bear", "The_Eiffel_Tower", "tiger")] == [113, 115, 117]
    assert index["zebra"] == 125


def lay_out(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(1, count + 1):
            (folder / name / f"frame_{i:04}.jpg").write_bytes(f"{name} {i}".encode())
    return folder


def test_a_copy_with_the_published_counts_is_taken(tmp_path):
    copy = lay_out(tmp_path / "images", raw("office31/dslr")["counts"])
    made = build_manifest(
        copy,
        problem="classification",
        out=tmp_path / "dslr.yaml",
        template=path_of("office31/dslr"),
    )
    manifest = open_manifest(made)
    assert manifest.classes == tuple(raw("office31/dslr")["classes"])
    assert manifest.splits["adapt"].count + manifest.splits["test"].count == 498


@pytest.mark.parametrize("regime", ["closed", "partial", "open", "open-partial"])
def test_a_copy_is_cut_to_the_sides_of_a_regime(tmp_path, regime):
    counts = raw("office31/dslr")["counts"]
    whole = build_manifest(
        lay_out(tmp_path / "images", counts),
        problem="classification",
        out=tmp_path / "dslr.yaml",
        template=path_of("office31/dslr"),
    )
    for side in ("source", "target"):
        classes = side_of(FOLDER / "office31" / "regimes.yaml", regime, side)
        made = open_manifest(write_subset(whole, classes=classes, out=tmp_path / f"{side}.yaml"))
        size = made.splits["adapt"].count + made.splits["test"].count
        assert size == sum(counts[name] for name in classes)
        assert made.classes == classes


def test_a_copy_that_lacks_images_is_refused(tmp_path):
    counts = raw("office31/dslr")["counts"] | {"mug": 7}
    with pytest.raises(BadInput, match="class mug: 7 images, officially 8"):
        build_manifest(
            lay_out(tmp_path / "images", counts),
            problem="classification",
            out=tmp_path / "dslr.yaml",
            template=path_of("office31/dslr"),
        )
