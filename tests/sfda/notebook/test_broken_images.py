"""In a notebook, too, a few images that cannot be read are left out, named, and end nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
from PIL import Image

import sfda
from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput

ARRAYS = small.arrays({"adapt": 12}, seed=2, dull=True)
QUICK = {"method": "bn", "epochs": 1}


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "no-home"))
    small.bundle(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, of which the first is cut short."""
    for number, (image, label) in enumerate(zip(ARRAYS["x"], ARRAYS["y"], strict=True)):
        file = tmp_path / "in" / small.CLASSES[label] / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    first = tmp_path / "in/bar/000.png"
    first.write_bytes(first.read_bytes()[:60])
    return tmp_path / "in"


def test_an_adaptation_is_that_of_the_others(bundle: Path, folder: Path) -> None:
    result = sfda.adapt(bundle, folder, **QUICK)
    assert ["000.png" in message for message in result.skipped] == [True]
    (folder / "bar/000.png").unlink()
    whole = sfda.adapt(bundle, folder, **QUICK)
    assert (whole.model.sha256, whole.skipped) == (result.model.sha256, ())
    (both,) = sfda.compare(bundle, folder, ["bn"], epochs=1).values()
    assert both.model.sha256 == whole.model.sha256


def test_a_profile_and_an_evaluation_are_of_the_others(bundle: Path, folder: Path) -> None:
    findings = sfda.profile(bundle, folder).findings
    assert any("11 different images" in finding.sentence for finding in findings)
    manifest = build_manifest(
        folder, problem="classification", classes=small.CLASSES, out=folder.parent / "m.yaml"
    )
    reports = [sfda.evaluate(bundle, manifest, split=split) for split in ("adapt", "test")]
    assert sum(report.count for report in reports) == 11


def test_none_is_left_out_where_that_is_asked_or_answers_stand_in_order(
    bundle: Path, folder: Path
) -> None:
    with pytest.raises(BadInput, match=r"skip_unreadable=0\.09") as refused:
        sfda.adapt(bundle, folder, **QUICK, skip_unreadable=0)
    assert "run the same again" in str(refused.value)
    assert "--skip" not in str(refused.value)
    with pytest.raises(BadInput, match=r"000\.png"):
        sfda.predict(bundle, folder)
