"""What version 0.1.0 wrote, later versions open, by the command and by MLflow; see README.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import surface
import torch
from surface import sfda
from unpack import HERE, unpack

EXPECTED = json.loads(Path(__file__).with_name("expected-0.1.0.json").read_text())
MODELS = EXPECTED["models"]
NEAR = 2e-3  # of numbers: processors differ


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder, for tests that change nothing in it."""
    surface.command()  # before MLflow puts a version's own copy of the code in front
    folder = unpack(tmp_path_factory.mktemp("opened"))
    with surface.entered(folder):
        yield folder


@pytest.fixture
def own(tmp_path: Path, prefect_api: None) -> Iterator[Path]:
    """The folder, for a test that goes on from what is there."""
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    folder = unpack(tmp_path)
    with (
        surface.entered(folder),
        temporary_settings({PREFECT_LOCAL_STORAGE_PATH: folder / "results"}),
    ):
        yield folder


def here(words: list[str], folder: Path) -> list[str]:
    """A command that 0.1.0 was given, where its folder lies now."""
    return [word.replace(HERE, str(folder)) for word in words]


def same(inputs: Any, expected: Any) -> bool:
    """Whether two JSON documents say the same, but for the last digits of numbers."""
    if isinstance(expected, dict):
        return inputs.keys() == expected.keys() and all(
            same(inputs[name], part) for name, part in expected.items()
        )
    if isinstance(expected, list):
        return len(inputs) == len(expected) and all(map(same, inputs, expected))
    if isinstance(expected, float):
        return bool(inputs == pytest.approx(expected, abs=NEAR, rel=NEAR))
    return bool(inputs == expected)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("manifest", EXPECTED["manifests"])
def test_a_manifest_is_read_as_it_was(opened, manifest):
    assert surface.manifest_facts(opened / manifest) == EXPECTED["manifests"][manifest]


def test_versions_keep_aliases_digests_and_reports(opened):
    facts = {uri: {"aliases": m["aliases"], "tags": m["tags"]} for uri, m in MODELS.items()}
    assert surface.versions() == facts


@pytest.mark.parametrize(
    "uri", [uri for uri, m in MODELS.items() if {"source", "candidate"} & {*m["aliases"]}]
)
def test_mlflow_loads_a_version_with_the_code_of_today(opened, uri):
    inputs = surface.answers(opened, uri)
    assert same(inputs, MODELS[uri]["answers"]), inputs
    ours = [m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] == "sfda"]
    assert not any(file and Path(file).is_relative_to(opened) for file in ours)


ALONE = """
import json, sys
from pathlib import Path
import surface
folder, *uris = sys.argv[1:]
with surface.entered(Path(folder)):
    said = {uri: surface.answers(Path(folder), uri) for uri in uris}
print(json.dumps({"said": said, "code": sys.modules["sfda"].__file__}))
"""


def test_mlflow_loads_versions_with_the_code_that_they_brought(opened):
    uris = [f"models:/{name}@source" for name in ("toy", "shapes", "squares", "figures")]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(opened), *uris],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone = json.loads(done.stdout)
    assert Path(alone["code"]).is_relative_to(opened)
    for uri, m in MODELS.items():
        if "source" in m["aliases"]:
            assert same(alone["said"].pop(f"models:/{surface.name_of(uri)}@source"), m["answers"])
    assert not alone["said"]


@pytest.mark.parametrize("uri", MODELS)
def test_a_version_is_as_good_as_it_was(opened, uri):
    inputs = surface.metrics(opened, uri)
    assert same(inputs, MODELS[uri]["metrics"]), inputs


@pytest.mark.parametrize("bundle", EXPECTED["bundles"])
def test_a_bundle_predicts_what_it_did(opened, bundle, tmp_path):
    inputs = surface.predictions(opened, bundle, tmp_path)
    assert same(inputs, EXPECTED["bundles"][bundle]), inputs


def test_status_tells_all_that_is_there(opened):
    inputs = surface.status()
    shape, expected = inputs.pop("shape"), dict(EXPECTED["status"])
    for kind, keys in expected.pop("shape").items():
        assert keys.items() <= shape[kind].items()
    assert inputs == expected


def test_the_state_of_a_run_needs_no_code(opened):
    state = torch.load(opened / EXPECTED["unfinished"]["folder"] / "state.pt", weights_only=True)
    assert state["next_epoch"] == EXPECTED["unfinished"]["done"]
    assert len(json.loads(state["history"])) == EXPECTED["unfinished"]["done"]


@pytest.mark.flow
def test_an_unfinished_run_goes_on_or_begins_anew(own):
    unfinished = EXPECTED["unfinished"]
    folder = own / unfinished["folder"]
    before = files(folder)
    done = sfda(*here(unfinished["words"], own))
    output = done.json
    run = mlflow.get_run(output["mlflow_run_id"])
    attested = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/attestation.json")
    epochs = re.findall(r"epoch (\d+)/(\d+):", done.err)
    first = 1
    if attested["code_sha256"] == EXPECTED["code_sha256"]:
        first += unfinished["done"]
    else:
        assert files(folder) == before
    last = unfinished["epochs"]
    assert epochs == [(str(n), str(last)) for n in range(first, last + 1)], done.err
    assert output["uri"] == "models:/toy/4"
    lent = Path(mlflow.artifacts.download_artifacts(output["uri"]))
    assert len(list(lent.rglob("card.safetensors"))) == 1  # the source's card goes with it
    assert surface.versions()["models:/toy/4"]["aliases"] == ["candidate"]


@pytest.mark.flow
def test_a_growing_target_is_known_and_grows_on(own):
    look = here(EXPECTED["look"], own)
    known = sfda(*look).json
    assert (known["outcome"], known["version"]) == ("waiting", 2)
    for i in range(3):
        shutil.copy(own / "site" / f"0{i}.png", own / "site" / f"3{i}.png")
        os.utime(own / "site" / f"3{i}.png", (1, 1))
    grown = sfda(*look).json
    assert (grown["outcome"], grown["version"]) == ("adapted", 3)
    assert len(grown["change"]["added"]) == 4
    assert grown["adapted"]["uri"] == "models:/site/2"


@pytest.mark.flow
def test_people_and_champions_go_on(own):
    ask, target = own / "requests" / "waiting", own / "data" / "toy" / "target.v2.yaml"
    taken = sfda("answer", ask, ask / "export.json", "--target", target, "--json").json
    assert (taken["answered"], taken["total"]) == (3, 7)
    assert sfda("check", taken["manifest"], "--json").json["ok"]
    sfda("rollback", "toy", "--json")
    assert "champion" in surface.versions()["models:/toy/1"]["aliases"]


@pytest.mark.flow
def test_a_source_lends_its_prior(own):
    output = sfda(
        "adapt", "--source", "models:/figures@source", "--target", own / surface.TARGETS["figures"],
        "--set", "schedule.epochs=1", "--set", "schedule.batch_size=4", "--json",
    ).json  # fmt: skip
    assert "plausible" in output["scores"]  # which the prior judges
