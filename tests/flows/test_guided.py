"""A guide through all stages: its table, its profile, "guide alone", and a method that needs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small
from conftest import flow_artifacts, sfda  # of this folder

from sfda.loading.opened import manifest_ref, open_part, split_ref

pytestmark = pytest.mark.flow
FAST = ("--epochs", "2", "--set", "schedule.lr=0.03", "--set", "schedule.batch_size=8")


@pytest.fixture(scope="module")
def answers(world: Any) -> Iterator[tuple[Path, Path]]:
    """A home with the toy model registered, its target, and a CSV that is right in nine of ten."""
    home = world.home("guided")
    inputs = small.target_arrays()
    target = small.write(world.folder, "guided", inputs, small.TARGET)
    weights = world.bundle / "weights.safetensors"
    lines = ["image,label"]
    with home.entered():
        names = ",".join(small.CLASSES)
        output = sfda("import-model", weights, "--arch", "sfda:tiny", "--name", "toy",
                    "--classes", names)  # fmt: skip
        assert output.code == 0, output.err
        for split in small.TARGET:
            rows = open_part(split_ref(manifest_ref(target), split), small.SPEC).split.names
            truth = inputs["y"][inputs["split"] == list(small.TARGET).index(split)]
            lines += [
                f"{name},{small.CLASSES[(int(y) + (n % 10 == 0)) % 3]}"
                for n, (name, y) in enumerate(zip(rows, truth, strict=True))
            ]
        file = world.folder / "answers.csv"
        file.write_text("\n".join(lines) + "\n")
        yield target, file


def test_a_comparison_has_the_guide_alone_as_a_row(answers: tuple[Path, Path]) -> None:
    target, file = answers
    words = ("--source", "models:/toy/1", "--target", target, *FAST, "--json")
    output = sfda("compare", *words, "--methods", "vilaad", "--guide", f"csv:{file}")
    result = output.json
    rows = {row["method"]: row for row in result["rows"] if row["metric"] == "overall_accuracy"}
    assert list(rows) == ["source", "guide alone", "vilaad", "gda"]
    assert rows["guide alone"]["selected"] == pytest.approx(0.9)
    assert rows["vilaad"]["selected"] > rows["source"]["selected"]
    assert 0 < rows["guide alone"]["changed"] <= 1
    shown = flow_artifacts(result["flow_run_id"])["guide"]
    assert "answers 100.0% of the images" in shown
    assert "kappa" in output.err
    page = Path(result["report"]).read_text()
    assert "guide alone" in page
    assert "--guide" in page


def test_a_guided_method_adapts_with_its_guide_and_not_without(answers: tuple[Path, Path]) -> None:
    target, file = answers
    words = ("--source", "models:/toy/1", "--target", target, *FAST, "--method", "prode", "--json")
    refused = sfda("adapt", *words)
    assert refused.code == 2
    assert "prode needs a guide; name one with --guide" in refused.err
    result = sfda("adapt", *words, "--guide", f"csv:{file}").json
    before, after = (result["metrics"][side]["overall_accuracy"] for side in ("source", "adapted"))
    assert after > before
    page = Path(result["report"]).read_text()
    assert "guide alone 90.00%" in page
    assert "kappa" in page
