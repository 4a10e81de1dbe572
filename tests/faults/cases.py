"""The commands that write, on data of a test, and what each comes to."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import flows.cli.app  # noqa: F401  a fork need not import it again
from tests.faults.trial import ROOT, Case, Command, digests, end_strays

sys.path.insert(0, str(ROOT / "tests"))
import small
from asking import exported

VOC = """<annotation><filename>{name}.jpg</filename><size><width>32</width>
<height>32</height></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax>
<ymax>12</ymax></bndbox></object></annotation>"""
LENIENT = {"surest_agreement": 0, "effective_classes": 0, "one_class": 1}
TIMES = ("flow_run_id", "mlflow_run_id", "seconds", "report")  # of a start, not of its work
SETTINGS = [
    word
    for name, value in (small.FAST | {"epochs": 3, "lr": 1e-3}).items()
    for word in ("--set", f"schedule.{name}={value}")
]


def write_plain(folder: Path) -> None:
    """Images, tables, manifests and models, as a user has them; nothing is registered."""
    rng = np.random.default_rng(0)
    for number in range(12):
        kind = small.CLASSES[number % 3]
        (folder / "photos" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(
            folder / "photos" / kind / f"{number}.png"
        )
    (folder / "voc").mkdir()
    for number in range(4):
        (folder / "voc" / f"{number}.xml").write_text(VOC.format(name=number))
    small.write(folder, "target", small.target_arrays(), small.TARGET)
    small.write(folder, "train", small.source_arrays(), small.SOURCE)
    small.bundle(folder / "source")
    other = small.source()
    torch.manual_seed(1)
    for weight in other.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    from sfda.weights.bundle import write_bundle

    write_bundle(folder / "other", other, small.SPEC)
    torch.save(small.source().state_dict(), folder / "checkpoint.pt")
    (folder / "grid.yaml").write_text("aad: {schedule.lr: [0.003]}\n")
    (folder / "lenient.yaml").write_text(f"vetoes: {json.dumps(LENIENT)}\n")
    (folder / "home").mkdir(mode=0o700)


def run(folder: Path, *words: object) -> Any:
    """A command that nobody disturbs; its JSON."""
    command = Command(Case("setup", lambda _: [*words, "--json"], digests, flow=True), folder)
    code = command.code(300)
    end_strays(folder)
    assert code == 0, f"{words}: {command.words_of_end()}"
    return json.loads(command.out.read_text())


def write_asked(folder: Path) -> None:
    """A request that waits for its answers, an audit for its own, and two versions of a model."""
    run(folder, *query(folder))
    exported(folder / "ask").rename(folder / "answers.json")
    run(folder, *audit(folder))
    for name in ("toy", "moved"):
        run(folder, *card(folder), "--name", name)
        run(folder, *adapt(folder), "--name", name)
    run(folder, "promote", "moved", "2")
    from sfda.annotation.audit.page import ANSWERS_FORMAT
    from sfda.annotation.audit.questions import read_audit

    asked = read_audit(folder / "audit")
    answers = {one.id: small.CLASSES[n % 3] for n, one in enumerate(asked.questions)}
    document = {"format": ANSWERS_FORMAT, "audit": asked.id, "answers": answers}
    (folder / "judged.json").write_text(json.dumps(document))


def query(folder: Path) -> Sequence[object]:
    model = ["--model", folder / "source", "--target", folder / "target.yaml"]
    return ["query", *model, "--by", "margin", "--budget", "6", "--out", folder / "ask"]


def audit(folder: Path) -> Sequence[object]:
    models = ["--candidate", folder / "other", "--against", folder / "source"]
    return ["audit", *models, "--target", folder / "target.yaml", "--out", folder / "audit"]


def card(folder: Path) -> Sequence[object]:
    data = ["--model", folder / "source", "--data", folder / "train.yaml"]
    return ["card", *data]


def adapt(folder: Path) -> Sequence[object]:
    inputs = ["--source", folder / "source", "--target", folder / "target.yaml"]
    return ["adapt", *inputs, "--method", "aad", *SETTINGS]


def files(folder: Path) -> Any:
    """What lies beside the home, and what the home knows of requests and answers."""
    requests = [
        {k: v for k, v in json.loads(file.read_text()).items() if k != "asked"}
        for file in sorted(folder.glob("home/requests/*.json"))
    ]
    known = {file.name: file.read_text() for file in folder.glob("home/answers/*.json")}
    return digests(folder) | {"home/requests": requests, "home/answers": known}


def registered(folder: Path) -> Any:
    """The same, and every version with its weights and aliases, and every model's champions."""
    import mlflow

    client = mlflow.MlflowClient(*[f"sqlite:///{folder}/home/mlflow.db"] * 2)
    result = {}
    for model in client.search_registered_models():
        tags = {k: v for k, v in model.tags.items() if k == "sfda.champions"}
        for one in client.search_model_versions(f"name = '{model.name}'"):
            own = {k: one.tags.get(k) for k in ("sha256", "verdict", "verdict.kind")}
            result[f"{model.name}/{one.version}"] = own
        result[model.name] = tags | {"aliases": client.get_registered_model(model.name).aliases}
    runs = client.search_runs(["0", *(e.experiment_id for e in client.search_experiments())])
    result["unfinished runs"] = sorted(r.info.status for r in runs if r.info.status == "RUNNING")
    return files(folder) | result


def answered(folder: Path) -> Any:
    """What lies beside the home, and what it prints."""
    return files(folder) | printed(folder)


def measured(folder: Path) -> Any:
    """What is registered, and what it prints."""
    return registered(folder) | printed(folder)


def printed(folder: Path) -> Any:
    """What it prints, but for ids and times."""
    return {"printed": without_times(json.loads((folder.parent / "out").read_text()))}


def without_times(value: Any) -> Any:
    """The same document without what differs from start to start."""
    if isinstance(value, dict):
        return {name: without_times(one) for name, one in value.items() if name not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def refreshed(folder: Path) -> Any:
    """What is registered, and every version of a target that grows."""
    versions = {
        str(file.relative_to(folder)): file.read_text()
        for file in folder.glob("home/targets/*/v*.yaml")
    }
    return registered(folder) | versions


def cleaned(folder: Path) -> Any:
    """What is registered, and every file of the home that a run or a model may need."""
    kinds = ("runs", "predictions", "reports", "mlartifacts", "decoded", "requests", "cards")
    left = {
        kind: sum(file.suffix != ".lock" for file in folder.glob(f"home/{kind}/**/*.*"))
        for kind in kinds
    }
    return registered(folder) | {"left": left}


def predict(data: str) -> Case:
    """Predictions for a manifest, or for a folder, whose manifest is made on the way."""
    return Case(
        f"predict {data}",
        lambda f: ["predict", "--model", f / "source", "--data", f / data, "--out", f / "p"],
        files,
    )


def shadow(folder: Path) -> Sequence[object]:
    models = ["--candidate", folder / "other", "--champion", folder / "source"]
    return ["shadow", *models, "--data", folder / "target.yaml", "--out", folder / "p"]


def profile(folder: Path) -> Sequence[object]:
    inputs = ["--source", folder / "source", "--target", folder / "target.yaml"]
    return ["profile", *inputs, "--json"]


def answer(folder: Path) -> Sequence[object]:
    return ["answer", folder / "ask", folder / "answers.json", "--target", folder / "target.yaml"]


def take(folder: Path, *more: str) -> Sequence[object]:
    return ["audit", folder / "audit", folder / "judged.json", *more]


def subset(folder: Path) -> Sequence[object]:
    return ["subset", folder / "train.yaml", "--classes", "bar,post", "--out", folder / "s.yaml"]


def import_model(folder: Path) -> Sequence[object]:
    network = ["--arch", "sfda:tiny", "--classes", ",".join(small.CLASSES)]
    return ["import-model", folder / "checkpoint.pt", *network, "--name", "imported"]


def train_source(folder: Path) -> Sequence[object]:
    inputs = ["--data", folder / "train.yaml", "--arch", "sfda:tiny", "--name", "trained"]
    return ["train-source", *inputs, *SETTINGS]


def compare(folder: Path) -> Sequence[object]:
    inputs = ["--source", folder / "source", "--target", folder / "target.yaml"]
    return ["compare", *inputs, "--methods", "source,bn", "--json"]


def evaluate(folder: Path) -> Sequence[object]:
    return ["evaluate", "--model", folder / "source", "--data", folder / "target.yaml", "--json"]


def tune(folder: Path) -> Sequence[object]:
    inputs = ["--source", folder / "source", "--target", folder / "target.yaml"]
    trials = ["--methods", "bn,aad", "--grid", folder / "grid.yaml", "--epochs", "1"]
    decision = ["--budget", "10m", "--decision", folder / "lenient.yaml"]
    return ["tune", *inputs, *trials, *decision, "--name", "tuned", "--json"]


def rounds(folder: Path) -> Sequence[object]:
    inputs = ["--source", folder / "source", "--target", folder / "target.yaml"]
    asked = ["--queries", "margin", "--methods", "lp_ft", "--budgets", "3,6"]
    return ["rounds", *inputs, *asked, "--set", "schedule.epochs=1", "--json"]


def refresh(folder: Path) -> Sequence[object]:
    policy = ["--policy", "settle=0", "--method", "aad", *SETTINGS]
    return ["refresh", folder / "photos", "--source", folder / "source", *policy]


def clean(_: Path) -> Sequence[object]:
    return ["clean", "--older-than", "1s", "--keep", "0"]


CASES = (
    Case("manifest", lambda f: ["manifest", f / "photos", "--out", f / "m.yaml"], files),
    Case("subset", subset, files),
    Case("convert", lambda f: ["convert", "voc", f / "voc", "--out", f / "boxes.json"], files),
    predict("target.yaml"),
    predict("photos"),
    Case("shadow", shadow, files),
    Case("profile", profile, answered),
    Case("evaluate", evaluate, answered),
    Case("audit", audit, files),
    Case("answer", answer, files, "asked"),
    Case("audit taken", take, files, "asked"),
    Case("audit as labels", lambda f: take(f, "--write-manifest"), files, "asked"),
    Case("query", query, files, flow=True),
    Case("import-model", import_model, registered, flow=True),
    Case("train-source", train_source, registered, flow=True),
    Case("card", lambda f: [*card(f), "--name", "carded"], registered, flow=True),
    Case("adapt", lambda f: [*adapt(f), "--name", "new"], registered, flow=True),
    Case("promote", lambda f: ["promote", "toy", "2"], registered, "asked", flow=True),
    Case("rollback", lambda f: ["rollback", "moved"], registered, "asked", flow=True),
    Case("compare", compare, measured, flow=True),
    Case("rounds", rounds, measured, flow=True),
    Case("tune", tune, measured, flow=True),
    Case("refresh", refresh, refreshed, flow=True),
    Case("clean", clean, cleaned, "asked", flow=True),
)
