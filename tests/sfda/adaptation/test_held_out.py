"""An adaptation sees its part of a target alone, as if there were no other rows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import small_multi
import small_seg
import torch
import yaml
from PIL import Image

from sfda.adaptation.plan import AdaptPlan, make_plan
from sfda.adaptation.sandboxed import adapt_in_sandbox
from sfda.adaptation.worker import Order, work
from sfda.inference.over_split import infer_split
from sfda.inference.pseudo_labels import keep_pseudo_labels
from sfda.loading.opened import manifest_ref, open_part, open_unlabelled, stamps_of
from sfda.loading.parts import read_rows
from sfda.loading.pool import pool_of
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.problems.registry import read_bundle
from sfda.refs import Adaptation, ManifestRef, MetricPoint, ModelRef
from sfda.sandbox import process
from sfda.sandbox.landlock import abi
from sfda.settings import AdaptSettings

TOYS = {"classification": small, "multilabel": small_multi, "segmentation": small_seg}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SFDA_DATA", raising=False)
    return tmp_path / "home"


class Watching:
    """Hears how far a run is, and may end it after an epoch."""

    def __init__(self, killed_after: int | None = None) -> None:
        self.killed_after, self.begun = killed_after, list[float]()

    def shown(self) -> int:
        return -1

    def points(self, points: list[MetricPoint]) -> None:
        return

    def share(self, done: float) -> None:
        self.begun.append(done)
        if self.killed_after is not None and len(self.begun) > self.killed_after:
            raise KeyboardInterrupt


def target(problem: str, folder: Path, rows: int = 48) -> Path:
    """A target without a split for tests."""
    if problem == "classification":
        inputs = small.arrays({"adapt": rows}, seed=2, dull=True)
        return small.write(folder, "target", inputs, {"adapt": rows})
    if problem == "multilabel":
        return small_multi.write(folder, "target", {"adapt": rows}, seed=2)
    return small_seg.write(folder, "target", {"adapt": rows}, seed=2)


def alone(path: Path, rows: np.ndarray) -> Path:
    """A manifest of these rows, of the same images under the same names."""
    manifest, document = open_manifest(path), yaml.safe_load(path.read_text())
    names = read_split(manifest, "adapt").names
    keys = [names[row].rpartition(":")[2] for row in rows.tolist()]
    table = path.with_name("alone.csv")
    table.write_text("\n".join([manifest.key_column, *keys]) + "\n")
    entry = {"rows": table.name, "sha256": small.sha256(table), "count": len(keys)}
    for name in ("label", "mask", "split"):
        document.get("arrays", {}).pop(name, None)
    own = path.with_name("alone.yaml")
    own.write_text(yaml.safe_dump(document | {"splits": {"adapt": entry}}))
    return own


class Job:
    """What `sfda adapt` does up to the choice of an epoch, without its servers."""

    def __init__(self, problem: str, folder: Path, method: str | None, **settings: Any) -> None:
        self.source: ModelRef = TOYS[problem].bundle(folder / "model")
        self.folder, self.method, self.settings = folder, method, settings

    def plan(self, ref: ManifestRef, epochs: int = 2) -> AdaptPlan:
        asked = AdaptSettings(
            method=self.method, epochs=epochs, settings={"schedule": {"batch_size": 8}}
        )
        return make_plan(self.source, ref, asked, bundle=Path(self.source.uri))

    def order(self, path: Path, run: str, **changes: Any) -> Order:
        ref = manifest_ref(path)
        plan = self.plan(ref)
        part, bundle = plan.on(ref), Path(self.source.uri)
        network, spec = read_bundle(bundle)
        whole = open_unlabelled(ref, "adapt", spec, seen=part.seen)
        opened = open_part(part, spec)
        infer = partial(infer_split, opened=opened, spec=spec, device=CPU)
        predictions = keep_pseudo_labels(
            infer,
            network,
            spec,
            self.folder / f"{run}-predictions",
            size=len(opened.images),
            source_sha256=self.source.sha256,
        )
        order = Order(
            source=self.source,
            bundle=str(bundle),
            predictions=predictions,
            target=part,
            stamps=stamps_of(part, whole.split),
            plan=plan,
            keep="all",
            folder=str(self.folder / run),
            title=run,
            device="cpu",
            workers=0,
            budget=None,
            threads=1,
        )
        return order.model_copy(update=changes)

    def adapted(self, path: Path, run: str, **changes: Any) -> Adaptation:
        return work(self.order(path, run, **changes), Watching())


def weights(adaptation: Adaptation) -> list[tuple[str | None, dict[str, float]]]:
    """Digest and scores of every epoch."""
    return [(one.sha256, one.scores) for one in adaptation.candidates]


@pytest.mark.parametrize(
    ("problem", "method"),
    [
        ("classification", "shot"),
        ("classification", "aad"),
        ("multilabel", "mean_teacher"),
        ("segmentation", "mean_teacher"),
    ],
)
def test_a_part_is_adapted_to_as_a_target_of_its_own(problem, method, tmp_path):
    job, path = Job(problem, tmp_path, method), target(problem, tmp_path)
    order = job.order(path, "part")
    rows = read_rows(order.target.rows, 48)
    assert len(rows) == 24
    own = job.order(alone(path, rows), "alone")
    assert own.target.rows is None
    assert weights(work(order, Watching())) == weights(work(own, Watching()))


def test_pixels_of_the_pool_change_nothing(tmp_path):
    job, inputs = Job("classification", tmp_path, "aad"), small.arrays({"a": 48}, seed=2, dull=True)
    path = small.write(tmp_path, "target", inputs, {"adapt": 48})
    before = job.adapted(path, "before")
    ref = manifest_ref(path)
    held_out = read_rows(pool_of(ref, "adapt").part.rows, 48)
    inputs["x"][held_out] = np.random.default_rng(0).integers(0, 256, (24, 16, 16))
    path = small.write(tmp_path, "target", inputs, {"adapt": 48})
    assert np.array_equal(read_rows(pool_of(manifest_ref(path), "adapt").part.rows, 48), held_out)
    assert weights(job.adapted(path, "after")) == weights(before)
    # one pixel of a row that is learnt from does
    inputs["x"][np.setdiff1d(np.arange(48), held_out)[0]] ^= 255
    path = small.write(tmp_path, "target", inputs, {"adapt": 48})
    assert weights(job.adapted(path, "other")) != weights(before)


@pytest.mark.skipif(abi() < 1, reason="this kernel offers no Landlock")
@pytest.mark.parametrize("workers", [0, 1])
def test_the_process_in_its_sandbox_opens_the_part(tmp_path, monkeypatch, workers):
    job, path = Job("classification", tmp_path, "shot"), target("classification", tmp_path)
    expected = weights(job.adapted(path, "open"))
    monkeypatch.delenv("SFDA_CONFINE")
    order = job.order(path, "closed", workers=workers)
    adaptation, attestation = adapt_in_sandbox(order, Watching())
    assert attestation.enforced
    assert weights(adaptation) == expected


@pytest.mark.skipif(abi() < 1, reason="this kernel offers no Landlock")
def test_answers_to_rows_are_learnt_from_there_as_outside(tmp_path, monkeypatch):
    job, path = Job("classification", tmp_path, "shot"), target("classification", tmp_path)
    without = weights(job.adapted(path, "without"))
    document, table = yaml.safe_load(path.read_text()), tmp_path / "answers.csv"
    table.write_text(f"index,class\n3,{small.CLASSES[0]}\n40,{small.CLASSES[1]}\n")
    about = {"rows": table.name, "sha256": small.sha256(table), "count": 2}
    document["splits"]["adapt"]["answers"] = about | {"classes": list(small.CLASSES)}
    path.write_text(yaml.safe_dump(document))
    expected = weights(job.adapted(path, "open"))
    monkeypatch.delenv("SFDA_CONFINE")
    assert weights(adapt_in_sandbox(job.order(path, "closed"), Watching())[0]) == expected
    assert expected != without


PROBE = """
from pathlib import Path

def look(order, send):
    opened = []
    for file in order["target"]:
        try:
            opened += [file] if Path(file).read_bytes() else []
        except PermissionError:
            continue
    there = [p for top in order["read"] for p in (Path(top), *Path(top).rglob("*")) if p.is_file()]
    spelt = [str(p) for p in there if order["label"].encode() in p.read_bytes()]
    return {"opened": opened, "read": len(there), "spelt": spelt}
"""


@pytest.mark.skipif(abi() < 1, reason="this kernel offers no Landlock")
@pytest.mark.parametrize("problem", ["classification", "segmentation", "rows of both splits"])
def test_no_file_of_the_target_can_be_opened_there_nor_a_label_read(tmp_path, monkeypatch, problem):
    """A row file has the classes of all splits, an archive has labels, a path may spell one."""
    kind, folder = problem if problem in TOYS else "classification", tmp_path / "data"
    job, path = Job(kind, tmp_path, "shot" if kind == "classification" else None), folder
    path = target(kind, folder) if problem in TOYS else in_folders(folder)
    order = job.order(path, "probed")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "probe.py").write_text(PROBE)
    monkeypatch.delenv("SFDA_CONFINE")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    run_job, seen = process.run_job, {}

    def probing(sandbox: process.SandboxJob, hear: Any) -> process.Done:
        system = {*process.system_paths(), tmp_path / "code"}
        asked = {
            "target": [str(file) for file in folder.rglob("*") if file.is_file()],
            "read": [str(one) for one in sandbox.read if one not in system],
            "label": "secretly",
        }
        job = replace(sandbox, work="probe:look", order=asked)
        seen.update(run_job(replace(job, read=[*job.read, tmp_path / "code"]), hear).result)
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "run_job", probing)
    with pytest.raises(KeyboardInterrupt):
        adapt_in_sandbox(order, Watching())
    assert seen["opened"] == seen["spelt"] == []
    assert not Path(order.folder).with_suffix(".sealed").exists()
    assert seen["read"] > 5  # decoded images, model, predictions, what is known of the rows


def in_folders(folder: Path) -> Path:
    """A target of image files in folders of their classes, and a row file that says them again."""
    lines = ["file,class,split"]
    for row, picture in enumerate(small.arrays({"a": 48}, seed=2, dull=True)["x"]):
        name = f"secretly {row % 3}/{row}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name)
        lines.append(f"{name},{small.CLASSES[row % 3]},{'test' if row < 8 else 'adapt'}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    entry = {"rows": "rows.csv", "sha256": small.sha256(folder / "rows.csv")}
    splits = {"adapt": entry | {"where": "adapt", "count": 40}}
    splits["test"] = entry | {"where": "test", "count": 8}
    about = {"name": "target", "problem": "classification", "origin": "drawn", "root": "."}
    (folder / "t.yaml").write_text(
        yaml.safe_dump(about | {"classes": list(small.CLASSES), "splits": splits})
    )
    return folder / "t.yaml"


def test_a_run_that_was_killed_goes_on_with_the_same_part(tmp_path):
    job, path = Job("classification", tmp_path, "aad"), target("classification", tmp_path)
    expected = weights(job.adapted(path, "whole"))
    with pytest.raises(KeyboardInterrupt):
        work(job.order(path, "killed"), Watching(killed_after=1))
    again, watch = job.order(path, "killed"), Watching()
    assert again.plan == job.plan(manifest_ref(path))
    assert weights(work(again, watch)) == expected
    assert watch.begun[0] == 0.5  # of two epochs one was done


def test_a_plan_depends_on_the_rows_and_on_no_path(tmp_path, monkeypatch):
    job, path = Job("classification", tmp_path, "shot"), target("classification", tmp_path)
    plan = job.plan(manifest_ref(path))
    assert plan.rows
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "other"))
    assert job.plan(manifest_ref(path)) == plan
    few = target("classification", tmp_path / "few", rows=39)
    assert job.plan(manifest_ref(few)).rows is None
