"""What users of sfda hold in hand and keep between versions: its command, and MLflow's versions.

Nothing of sfda is imported by name: where the command is, the installed package says.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib
import importlib.metadata
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import yaml

TARGETS = {  # of the registered models: on what each is evaluated
    "toy": "data/toy/target.yaml",
    "site": "data/toy/target.yaml",
    "shapes": "data/seg/target.yaml",
    "squares": "data/det/target.yaml",
    "figures": "data/pose/target.yaml",
}
BUNDLES = {  # of the plain folders: for which images each is asked
    "adapted": "data/toy/target.yaml",
    "lenet": "home/demo/digits_target.yaml",
    "squeezenet": "home/demo/digits_target.yaml",
    "timm": "home/demo/digits_target.yaml",
    "mmdet": "data/det/target.yaml",
}
TAGS = ("sha256", "prior_sha256", "source.sha256", "method", "manifest", "report", "verdict")


@dataclass(frozen=True)
class CommandResult:
    """What one call of `sfda` left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def command() -> Any:
    """The installed command, to be called with its words; it ends in SystemExit."""
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="sfda")
    return importlib.import_module(f"{entry.module}.app").app


def sfda(*words: object) -> CommandResult:
    """Call the command in this process; what it prints, also by file descriptor, is caught."""
    run, environment, code = command(), dict(os.environ), 0
    with _caught() as texts:
        try:
            run([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            logging.getLogger("sfda").handlers.clear()  # they write to this call's stderr
            os.environ.clear()
            os.environ.update(environment)
    return CommandResult(code, *texts)


@contextlib.contextmanager
def _caught() -> Iterator[list[str]]:
    texts: list[str] = []
    remaining = [(number, os.dup(number)) for number in (1, 2)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            with (
                open(1, "w", closefd=False) as stdout,
                open(2, "w", closefd=False) as stderr,
                contextlib.redirect_stdout(stdout),
                contextlib.redirect_stderr(stderr),
            ):
                yield texts
        finally:
            for number, old in remaining:
                os.dup2(old, number)
                os.close(old)
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())


@contextlib.contextmanager
def entered(folder: Path) -> Iterator[None]:
    """The home below `folder` is ours: its MLflow store, its state."""
    names = ("SFDA_HOME", "MLFLOW_TRACKING_URI", "SFDA_DATA")
    before = {name: os.environ.get(name) for name in names}
    uris, path = (mlflow.get_tracking_uri(), mlflow.get_registry_uri()), list(sys.path)
    store = f"sqlite:///{folder / 'home' / 'mlflow.db'}"
    os.environ.update(SFDA_HOME=str(folder / "home"), MLFLOW_TRACKING_URI=store)
    os.environ.pop("SFDA_DATA", None)
    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        mlflow.set_tracking_uri(uris[0])
        mlflow.set_registry_uri(uris[1])
        sys.path[:] = path  # a version's own code was put first


def versions() -> dict[str, dict[str, Any]]:
    """Aliases and tags of all registered versions by address."""
    client = mlflow.MlflowClient()
    known = {}
    for model in client.search_registered_models():
        for version in client.search_model_versions(f"name = '{model.name}'"):
            held = [a for a, number in model.aliases.items() if str(number) == str(version.version)]
            known[f"models:/{model.name}/{version.version}"] = {
                "aliases": sorted(held),
                "tags": {name: version.tags[name] for name in TAGS if name in version.tags},
            }
    return dict(sorted(known.items()))


def answers(folder: Path, uri: str) -> Any:
    """What a version says of two images, loaded as MLflow loads it."""
    images = np.load(folder / "two" / f"{name_of(uri)}.npy")
    return plain(mlflow.pyfunc.load_model(uri).predict(images))


def name_of(uri: str) -> str:
    """The model's name in `models:/NAME/1` or `models:/NAME@source`."""
    return re.split("[/@]", uri.removeprefix("models:/"))[0]


def metrics(folder: Path, uri: str) -> dict[str, float]:
    """What `sfda evaluate` says of a version on its target's test split."""
    data = folder / TARGETS[name_of(uri)]
    output = sfda("evaluate", "--model", uri, "--data", data, "--device", "cpu", "--json").json
    return {name: round(value, 6) for name, value in output["metrics"].items()}


def predictions(folder: Path, bundle: str, out: Path) -> list[dict[str, Any]]:
    """The first five rows that `sfda predict` writes for a bundle."""
    output = sfda(
        "predict", "--model", folder / "bundles" / bundle, "--data", folder / BUNDLES[bundle],
        "--split", "test", "--out", out, "--device", "cpu", "--json",
    ).json  # fmt: skip
    with Path(output["file"]).open(newline="") as opened:
        rows = [dict(row) for row in csv.DictReader(opened)][:5]
    return [{key: _number(cell) for key, cell in row.items()} for row in rows]


def manifest_facts(file: Path) -> dict[str, Any]:
    """What `sfda check` says of a manifest, and what it says of itself."""
    document = yaml.safe_load(file.read_text())
    output = sfda("check", file, "--json").json
    splits = document["splits"]
    return {
        "ok": output["ok"],
        "count": output["count"],
        "classes": output["classes"],
        "problem": document["problem"],
        "version": document.get("version", 1),
        "splits": {name: split["count"] for name, split in splits.items()},
        "rows": {name: split["sha256"] for name, split in splits.items() if "sha256" in split},
        "answers": {name: s["answers"]["sha256"] for name, s in splits.items() if "answers" in s},
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest()
        if document["root"].startswith(".")  # else it names the folder that it lies in
        else None,
    }


def status() -> dict[str, Any]:
    """What `sfda status` says, without times and addresses; and the names and kinds of it all."""
    output = sfda("status", "--limit", 100, "--json").json
    keys = {
        "runs": ("name", "status", "verdict"),
        "models": ("name", "versions", "champion", "candidate", "verdict"),
        "targets": ("name", "version", "adapted", "images"),
        "labels_wanted": ("count", "by"),
    }
    facts: dict[str, Any] = {
        kind: [{key: one[key] for key in names} for one in output[kind]]
        for kind, names in keys.items()
    }
    facts["shape"] = {
        kind: {k: type(v).__name__ for k, v in output[kind][0].items()} for kind in keys
    }
    return facts


def plain(value: Any) -> Any:
    """Arrays as lists, numbers of six digits, masks as a text a row."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8:
            return ["".join(map(str, row)) for row in value.reshape(-1, value.shape[-1])]
        return plain(value.tolist())
    return round(value, 6) if isinstance(value, float) else value


def _number(cell: str) -> Any:
    try:
        return round(float(cell), 6)
    except ValueError:
        return cell
