"""Bad input: exit code 2, one message with the remedy, nothing half-registered."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import socket
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from conftest import CommandResult, Home, World, sfda
from library_networks import native
from PIL import Image
from safetensors.torch import save_file

from sfda.authoring.from_folder import build_manifest
from tasks import tracking

pytestmark = pytest.mark.flow


@dataclass(frozen=True)
class Shop:
    """A home where the source model is registered as `toy`, and a folder for spoilt things."""

    home: Home
    world: World
    folder: Path

    def held(self) -> dict[str, Any]:
        """All that must be as before after bad input."""
        client = tracking.client()
        models = client.search_registered_models()
        running = client.search_runs([tracking.experiment()], "attributes.status = 'RUNNING'")
        return {
            "versions": sorted(
                (v.name, v.version) for m in models for v in tracking.versions(m.name)
            ),
            "aliases": {m.name: dict(client.get_registered_model(m.name).aliases) for m in models},
            "running": [run.info.run_id for run in running],
        }

    def adapt(self, target: object, *more: object) -> list[object]:
        """A quick adaptation of `toy`."""
        return [
            "adapt",
            "--source",
            "models:/toy@champion",
            "--target",
            target,
            "--epochs",
            1,
            *more,
        ]


@pytest.fixture(scope="module")
def shop(world: World) -> Iterator[Shop]:
    home, folder = world.home("shop"), world.folder / "spoilt"
    folder.mkdir()
    weights = folder / "toy.safetensors"
    save_file({name: t.contiguous() for name, t in small.source().state_dict().items()}, weights)
    with home.entered():
        output = sfda("import-model", weights, "--arch", "sfda:tiny", "--classes",
                    ",".join(small.CLASSES), "--name", "toy", "--json").json  # fmt: skip
        assert output["uri"] == "models:/toy/1"
        yield Shop(home, world, folder)


def refused(shop: Shop, words: list[object], output: str) -> CommandResult:
    """The call was refused with a message that says this, and left no trace in the registry."""
    before = shop.held()
    ended = sfda(*words)
    assert ended.code == 2, ended.out + ended.err
    assert "Traceback" not in ended.err + ended.out
    lines = [line for line in ended.err.splitlines() if line.startswith("sfda: ")]
    assert len(lines) == 1, ended.err
    assert re.search(output, lines[0]), lines[0]
    assert len(lines[0]) < 1000
    assert ended.out == ""
    assert shop.held() == before
    assert before["running"] == []
    return ended


def rows_altered_afterwards(shop: Shop, split: str = "adapt") -> Path:
    """Each split has a row file of its own; the one of `split` was edited later."""
    folder, entries = shop.folder / f"rows-{split}", {}
    folder.mkdir()
    for name, rows in (("adapt", range(48)), ("test", range(48, 78))):
        file = folder / f"{name}.csv"
        file.write_text("index,class\n" + "".join(f"{i},bar\n" for i in rows))
        digest, count = small.sha256(file), len(rows)
        entries[name] = {"rows": file.name, "sha256": digest, "count": count}
    inputs = {"x": small.target_arrays()["x"]}
    made = small.write(folder, "target", inputs, small.TARGET, splits=entries)
    edited = folder / f"{split}.csv"
    edited.write_text(edited.read_text().replace("bar", "post"))
    return made


def changed(shop: Shop, name: str, labels: bool = True, **changes: object) -> Path:
    """The target with some entries of its manifest changed."""
    inputs = small.target_arrays()
    if not labels:
        del inputs["y"]
    return small.write(shop.folder / name, "target", inputs, small.TARGET, **changes)


def empty_split(shop: Shop) -> Path:
    inputs = small.target_arrays()
    inputs["split"] = np.ones_like(inputs["split"])
    return small.write(shop.folder / "empty", "target", inputs, {"adapt": 0, "test": 78})


def zip_with_corrupt_images(shop: Shop) -> Path:
    path = shop.folder / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i, image in enumerate(small.target_arrays()["x"][:9]):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            content = file.getvalue()
            archive.writestr(f"{i}.png", content[: len(content) // 2] if i >= 4 else content)
    return build_manifest(path, problem="classification", out=shop.folder / "zip.yaml")


def altered_archive(shop: Shop) -> Path:
    made = changed(shop, "archive")
    inputs = small.target_arrays()
    np.savez(made.with_suffix(".npz"), **(inputs | {"y": inputs["y"][::-1]}))
    return made


def nan_weights(shop: Shop) -> Path:
    state = small.source().state_dict()
    state["bottleneck.linear.weight"] = state["bottleneck.linear.weight"].clone()
    state["bottleneck.linear.weight"][3, 4] = float("nan")
    torch.save(state, shop.folder / "nan.pt")
    return shop.folder / "nan.pt"


class Touches:
    """Unpickled without care it leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, (f"touch {self.file}",)


def hostile(shop: Shop) -> Path:
    torch.save({"weight": Touches(shop.folder / "ran")}, shop.folder / "hostile.pt")
    return shop.folder / "hostile.pt"


def plain_pickle(shop: Shop) -> Path:
    (shop.folder / "plain.pth").write_bytes(pickle.dumps(Touches(shop.folder / "ran")))
    return shop.folder / "plain.pth"


def without_a_key(shop: Shop) -> Path:
    state = native("classification", "sfda:tiny", 3).state_dict()
    del state["body.5.running_var"]
    save_file(state | {"stranger": torch.zeros(1)}, shop.folder / "keys.safetensors")
    return shop.folder / "keys.safetensors"


def imported(weights: object, *more: object) -> list[object]:
    names = () if "--classes" in more else ("--classes", ",".join(small.CLASSES))
    return ["import-model", weights, "--arch", "sfda:tiny", "--name", "new", *names, *more]


TARGETS: dict[str, tuple[Callable[[Shop], object], str]] = {
    "missing manifest": (lambda s: s.folder / "nowhere.yaml", "no manifest at .*nowhere.yaml"),
    "digest of the row file": (rows_altered_afterwards, r"adapt\.csv is not the one.*other sha256"),
    "digest of the test split's row file": (
        lambda s: rows_altered_afterwards(s, "test"), r"test\.csv is not the one.*other sha256"
    ),
    "digest of the archive": (altered_archive, r"target\.npz is not the file.*digest differs"),
    "class count": (
        lambda s: changed(s, "count", classes=4),
        r"toy/target has 4 unnamed classes, the model has 3 \(bar, post, cross",
    ),
    "foreign class names": (
        lambda s: changed(s, "foreign", classes=["ring", "star", "disc"]),
        "toy/target shares no class with the model: it names ring, star, disc, the model has bar",
    ),
    "empty split": (empty_split, "split 'adapt': it has no rows"),
    "corrupt images, more than half": (
        zip_with_corrupt_images, r"5 images cannot be read, of 9 .*: image 4\.png in .*images\.zip"
    ),
    "another problem": (
        lambda s: changed(s, "pose", problem="pose"), "is for pose, the model for classification"
    ),
    "unknown key": (lambda s: changed(s, "key", klasses=[]), "unknown key 'klasses'"),
    "not YAML": (
        lambda s: (s.folder / "bad.yaml").write_text("a: [") and s.folder / "bad.yaml",
        "not valid YAML",
    ),
    "folder without images": (lambda s: s.world.bundle, "holds no images"),
}  # fmt: skip


@pytest.mark.parametrize("what", TARGETS)
def test_a_target_that_cannot_be_used_is_refused(shop, what):
    make, output = TARGETS[what]
    refused(shop, shop.adapt(make(shop)), output)


SETTINGS: dict[str, tuple[tuple[object, ...], str]] = {
    "unknown method": (("--method", "shoot"), "no 'shoot' in sfda.methods.*did you mean 'shot'"),
    "unknown setting": (
        ("--set", "pseudo_wieght=1"), "there is no 'pseudo_wieght'; did you mean 'pseudo_weight'"
    ),
    "unknown nested setting": (
        ("--set", "schedule.lrr=1"), r"there is no 'schedule\.lrr'; did you mean 'lr'"
    ),
    "refused value": (("--set", "schedule.lr=-1"), r"schedule\.lr = -1.* is refused: .*greater"),
    "text for a number": (("--set", "schedule.lr=fast"), r"schedule\.lr = 'fast' is refused"),
    "unknown part": (("--set", "lr_scale.hed=0"), "lr_scale names hed; the network's parts are"),
    "--set without a value": (("--set", "schedule.lr"), "--set schedule.lr: write name=value"),
    "--set twice, once nested": (
        ("--set", "schedule=1", "--set", "schedule.lr=1"), "'schedule' was given a value of its own"
    ),
    "unknown view": (("--set", "views.flipp=true"), "there is no 'flipp'; did you mean 'flip'"),
    "unknown preset": (
        ("--preset", "digits-shto"), "no preset and no file 'digits-shto'; did you mean digits-shot"
    ),
    "unknown validator": (("--select-by", "infomx"), "no 'infomx' in sfda.validators"),
    "unknown split": (("--split", "adpt"), "has no split 'adpt'; there are adapt, test"),
    "unknown test split": (("--test-split", "tset"), "has no labelled split 'tset'"),
    "bad name": (("--name", "a/b"), "'a/b' cannot name a model"),
    "diverging": (
        ("--set", "schedule.lr=1e30", "--set", "schedule.batch_size=8"), "lower the learning rate"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SETTINGS)
def test_a_setting_that_cannot_be_used_is_refused(shop, what):
    words, output = SETTINGS[what]
    refused(shop, shop.adapt(shop.world.target, *words), output)


SOURCES: dict[str, tuple[Callable[[Shop], object], str]] = {
    "not registered": (lambda s: "models:/yot@champion", "no model at models:/yot.*there are toy"),
    "no such alias": (
        lambda s: "models:/toy@best", "no model at models:/toy@best: its aliases are champion, sou"
    ),
    "no such version": (lambda s: "models:/toy/7", "no version 7; there are 1"),
    "no such run": (lambda s: "runs:/0123456789abcdef/model", "no model at runs:/0123456789abcdef"),
    "no such folder": (lambda s: s.folder / "nothing", "no model at .*nothing; say models:/NAME@"),
    "bare weights": (
        lambda s: s.folder / "toy.safetensors",
        r"toy\.safetensors holds bare weights; register them first with `sfda import-model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SOURCES)
def test_a_source_that_is_not_there_is_refused(shop, what):
    make, output = SOURCES[what]
    words = ["adapt", "--source", make(shop), "--target", shop.world.target]
    refused(shop, words, output)


IMPORTS: dict[str, tuple[Callable[[Shop], list[object]], str]] = {
    "NaN": (
        lambda s: imported(nan_weights(s)), r"NaN or infinite .*nan\.pt: bottleneck\.linear\.weight"
    ),
    "a pickle in a torch file": (
        lambda s: imported(hostile(s)), r"hostile\.pt holds pickled Python objects.*could run code"
    ),
    "a bare pickle": (lambda s: imported(plain_pickle(s)), r"plain\.pth .*could run code"),
    "other keys": (
        lambda s: imported(without_a_key(s)), r"1 missing: body\.5\.running_var; 1 unexp.*stranger"
    ),
    "a class too many": (
        lambda s: imported(s.folder / "toy.safetensors", "--classes", "a,b,c,d"),
        "3 outputs but 4 classes were named",
   
    ),
    "no weights": (lambda s: imported(s.folder / "none.pt"), r"no weights at .*none\.pt"),
    "unknown architecture": (
        lambda s: imported(s.folder / "toy.safetensors", "--arch", "sfda:tinyy"),
        "no architecture 'sfda:tinyy'.*did you mean sfda:tiny",
    ),
    "no class names": (
        lambda s: ["import-model", s.folder / "toy.safetensors", "--arch", "sfda:tiny", "--name",
                   "new"],
        "give the class names once",
    ),
    "another problem": (
        lambda s: imported(s.folder / "toy.safetensors", "--problem", "pose", "--arch",
                           "sfda:lenet"),
        "no architecture 'sfda:lenet' for joints",
    ),
    "a network of masks without --problem": (
        lambda s: imported(s.folder / "toy.safetensors", "--arch", "smp:unet/resnet18"),
        "'smp:unet/resnet18' for classes .*: add --problem segmentation",
    ),
    "a key that there is not": (
        lambda s: imported(s.folder / "toy.safetensors", "--weights-key", "ema"),
        "no weights by the key 'ema' in this file; it has one set without a key",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", IMPORTS)
def test_weights_that_cannot_be_imported_are_refused_and_never_run(shop, what):
    make, output = IMPORTS[what]
    refused(shop, make(shop), output)
    assert not (shop.folder / "ran").exists()


OTHERS: dict[str, tuple[Callable[[Shop], list[object]], str]] = {
    "evaluate without labels": (
        lambda s: ["evaluate", "--model", "models:/toy/1", "--data",
                   changed(s, "evaluate", labels=False)],
        "toy/target has no labels in 'test'",
    ),
    "compare without labels": (
        lambda s: ["compare", "--source", "models:/toy/1", "--target",
                   changed(s, "compare", labels=False), "--methods", "shot"],
        "has no label.*'test'",
    ),
    "compare an unknown method": (
        lambda s: ["compare", "--source", "models:/toy/1", "--target", s.world.target, "--methods",
                   "shot,add"],
        "no 'add' in sfda.methods.*did you mean 'aad'",
    ),
    "compare with odd seeds": (
        lambda s: ["compare", "--source", "models:/toy/1", "--target", s.world.target, "--methods",
                   "shot", "--seeds", "0;1"],
        "--seeds 0;1: write whole numbers",
    ),
    "train without labels": (
        lambda s: ["train-source", "--data", changed(s, "train", labels=False), "--arch",
                   "sfda:tiny", "--name", "new", "--split", "adapt", "--val-split", "test"],
        "has no labels in 'adapt'",
    ),
    "train an unknown architecture": (
        lambda s: ["train-source", "--data", s.world.source, "--arch", "resnet51", "--name", "new"],
        "no architecture 'resnet51'",
    ),
    "promote what is not there": (lambda s: ["promote", "toy", "9"], "no version 9; there are 1"),
    "promote nobody": (lambda s: ["promote", "yot", "1"], "no model 'yot'.*there are toy"),
    "roll back to nobody": (lambda s: ["rollback", "toy"], "'toy' has had no champion before"),
    "roll back nobody": (lambda s: ["rollback", "yot"], "no model 'yot'.*there are toy"),
    "predict for nothing": (
        lambda s: ["predict", "--model", "models:/toy/1", "--data", s.folder / "no.yaml", "--out",
                   s.folder / "out"],
        "no manifest at",
    ),
    "a card without labels": (
        lambda s: ["card", "--model", "models:/toy/1", "--data",
                   changed(s, "card", labels=False), "--split", "test"],
        "has no labels in 'test'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_other_commands_refuse_as_clearly(shop, what):
    make, output = OTHERS[what]
    refused(shop, make(shop), output)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(shop):
    words = shop.adapt(shop.world.target, "--device", "cuda")
    refused(shop, words, "no CUDA device is visible; use --device cpu")


@pytest.mark.parametrize("below", ["file", "file/home"])
def test_a_home_that_cannot_be_written_to_is_refused(shop, monkeypatch, below):
    (shop.folder / "file").write_text("not a folder")
    with monkeypatch.context() as patch:
        patch.setenv("SFDA_HOME", str(shop.folder / below))
        ended = sfda(*shop.adapt(shop.world.target))
    assert ended.code == 2
    assert ended.err.startswith("sfda: cannot write to SFDA_HOME")
    assert "set SFDA_HOME to a folder you may write to" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_store_at_which_nobody_answers_is_refused(shop, monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:Secret-Pass@127.0.0.1:{port}")
    result = sfda("status")
    assert result.code == 2
    assert f"nobody answers at MLFLOW_TRACKING_URI=http://***@127.0.0.1:{port}" in result.err
    assert "Secret-Pass" not in result.err + result.out


def test_with_json_the_message_is_also_the_one_object_on_stdout(shop):
    before = shop.held()
    ended = sfda(*shop.adapt(shop.folder / "nowhere.yaml"), "--json")
    assert ended.code == 2
    message = json.loads(ended.out)["error"]
    assert message.startswith("no manifest at")
    assert f"sfda: {message}" in ended.err.splitlines()
    assert shop.held() == before


def test_check_names_every_fault_and_ends_with_2(shop):
    made = changed(shop, "check", splits={"adapt": {"equals": 0, "count": 7},
                                          "test": {"equals": 1, "count": 8}})  # fmt: skip
    ended = sfda("check", made, "--json")
    assert ended.code == 2
    result = json.loads(ended.out)
    assert not result["ok"]
    assert len(result["faults"]) == 2
    assert "48 rows, but the manifest counts 7" in result["faults"][0]
    assert "30 rows, but the manifest counts 8" in result["faults"][1]


def test_classes_in_another_order_are_mapped_by_name(shop):
    """The one of the issue's list that must work: the same target under another class order."""
    order = ["cross", "bar", "post"]
    inputs = small.target_arrays()
    inputs["y"] = np.array([order.index(small.CLASSES[y]) for y in inputs["y"]])
    turned = small.write(shop.folder / "order", "target", inputs, small.TARGET, classes=order)

    def call(command: str, *more: object) -> Any:
        return [
            sfda(command, *more, "--data" if command == "evaluate" else "--target", target,
                 "--json").json["metrics"]
            for target in (shop.world.target, turned)
        ]  # fmt: skip

    own, same = call("evaluate", "--model", "models:/toy/1")
    assert own == same
    own, same = call("adapt", "--source", "models:/toy/1", "--method", "shot", "--epochs", 1,
                     "--set", "schedule.batch_size=8", "--name", "order")  # fmt: skip
    assert own == same
    assert own["source"] != own["adapted"]
