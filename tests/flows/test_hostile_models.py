"""What a hostile model does in every command that opens one: nothing. It is named, and that is all.

The commands are those of the app: a new one that takes a model is tried unasked.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_det
import torch
from conftest import CommandResult, sfda
from torch import nn

from flows.cli.app import app
from flows.cli.trust import OPENS_MODELS
from flows.deployments import FORMS
from sfda.errors import BadInput
from sfda.inference.served import _load_pyfunc
from sfda.problems.classification import network as classification
from sfda.problems.detection import network as detection
from sfda.weights.bundle import write_bundle
from tasks import tracking

pytestmark = pytest.mark.flow

COMMANDS = {
    (command.name or command.callback.__name__).replace("_", "-"): inspect.signature(
        command.callback
    ).parameters
    for command in app.registered_commands
}
# serve runs flows, of which each is a command's; a name alone opens nothing
OPENING = sorted(
    name for name, taken in COMMANDS.items() if OPENS_MODELS & set(taken) and name != "serve"
)
OPENS_NO_NETWORK = {"manifest"}  # it reads the names of the classes


@pytest.fixture(scope="module")
def hostile(world, tmp_path_factory):
    """A home, a target of detection, and a bundle that would run a shell, as folder and version."""
    folder = tmp_path_factory.mktemp("hostile")
    mark = folder / "mark"
    popen = {"type": "subprocess.Popen", "args": ["/bin/sh", "-c", f"touch {mark}"]}
    config = {
        "type": "FasterRCNN", "rpn_head": {}, "roi_head": None, "train_cfg": {}, "test_cfg": {},
        "backbone": popen,
    }  # fmt: skip
    spec = detection.make_spec("sfda:tinyrcnn", small_det.CLASSES)
    write_bundle(
        folder / "bundle",
        nn.Module(),
        spec.model_copy(update={"arch": "mmdet:x", "config": config}),
    )
    write_bundle(  # of another digest
        folder / "before",
        nn.Linear(1, 1),
        spec.model_copy(update={"arch": "mmdet:x", "config": config}),
    )
    target = small_det.write(
        folder, "target", {"adapt": 4, "test": 4, "train": 2, "val": 2}, seed=0
    )
    home = world.home("hostile")
    with home.entered():
        with tracking.run("x", key="hostile", tags={}, params={}) as run_id:
            version = tracking.register_bundle(
                run_id, folder / "bundle", "stranger", depth=3, tags={"sha256": "0" * 64}
            )
        tracking.set_alias(version, "source")
        yield SimpleNamespace(folder=folder, mark=mark, target=target, version=version)


def words_for(command: str, model: object, hostile: Any, folder: Path) -> list[object]:
    """A call of the command on a model, with a value for each parameter that it demands."""
    values: dict[str, object] = {
        "arch": "sfda:tinyrcnn", "candidate": model, "budget": "2", "budgets": "1,2",
        "by": "random",
        "data": hostile.target, "methods": "source", "model": model, "name": "mine",
        "out": folder / "out.yaml", "path": hostile.target.parent / "target",
        "poses": hostile.target, "queries": "random", "source": model, "target": hostile.target,
        "weights": model,
    }  # fmt: skip
    # what is not demanded, and is stated all the same
    more = {"init": Path(str(model), "weights.safetensors"), "looks": 1, "model": model}
    more |= {"classes": "a,b"} if command == "import-model" else {}
    if command in ("audit", "shadow"):
        more |= dict.fromkeys(("against", "champion"), hostile.folder / "before")
        more |= {name: values[name] for name in ("candidate", "target", "out")}
    words: list[object] = [command]
    for name, parameter in COMMANDS[command].items():
        demanded = parameter.default is inspect.Parameter.empty
        if not demanded and name not in more:
            continue
        value = (values if demanded else more).get(name)
        assert value is not None, f"say what `{name}` of `sfda {command}` is in this test"
        is_option = "OptionInfo" in str(getattr(parameter.annotation, "__metadata__", ""))
        words += [f"--{name.replace('_', '-')}", value] if is_option else [value]
    return words


def assert_refused(ended: CommandResult, hostile: Any, word: str) -> None:
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.out + ended.err
    messages = [line for line in ended.err.splitlines() if line.startswith("sfda: ")]
    assert len(messages) == 1
    assert word in messages[0]
    assert not hostile.mark.exists()


@pytest.mark.parametrize("command", OPENING)
def test_a_hostile_bundle_does_nothing_in_any_command(command, hostile, tmp_path):
    ended = sfda(*words_for(command, hostile.folder / "bundle", hostile, tmp_path))
    if command in OPENS_NO_NETWORK:
        assert ended.code == 0, ended.err
        assert not hostile.mark.exists()
        return
    word = {"import-model": "is a model bundle already", "train-source": "weights"}.get(command)
    assert_refused(ended, hostile, word or "subprocess.Popen")
    assert not (tmp_path / "out.yaml").exists()
    assert not tracking.versions("mine")


def test_a_hostile_version_does_nothing(hostile, tmp_path):
    for command, model in (
        ("predict", "models:/stranger@source"),
        ("adapt", "models:/stranger/1"),
    ):
        assert_refused(
            sfda(*words_for(command, model, hostile, tmp_path)), hostile, "subprocess.Popen"
        )
    assert len(tracking.versions("stranger")) == 1
    with pytest.raises(BadInput, match=r"subprocess\.Popen"):
        _load_pyfunc(str(hostile.folder / "bundle"))
    assert not hostile.mark.exists()


def test_what_takes_an_address_of_a_model_is_tried():
    for command, taken in COMMANDS.items():
        named = {
            name
            for name, parameter in taken.items()
            for option in getattr(parameter.annotation, "__metadata__", ())
            if "models:/" in (option.help or "")
        }
        assert named <= OPENS_MODELS, command
    assert len(OPENING) > 10


def test_what_is_served_is_a_command_too():
    """`sfda serve` runs these flows: all but the one that asks and adapts are commands above."""
    assert {name for _, name in FORMS} - set(COMMANDS) == {"ask", "pipeline"}  # they adapt


LIKE = classification.make_spec("sfda:tiny", ("a", "b"))
# what a spec says, by a word of the message that it is refused with
OTHER_KINDS: dict[str, dict[str, Any]] = {
    "local-dir": {"arch": "timm:local-dir:/etc"},
    "hf-hub": {"arch": "timm:hf-hub:somebody/something"},
    "244140 MiB and more": {"bottleneck_dim": 10**9},
    "MiB and more": {
        "classes": tuple(str(n) for n in range(90_000)), "head": "plain", "arch": "sfda:lenet"
    },
    "U+001B": {"classes": ("\x1b]0;mine\x07\x1b[2J", "b")},
    "U+202E": {"classes": ("a\u202eb", "b")},  # what follows is shown from right to left
    "U+000A": {"classes": ("a\nsfda: all is well", "b")},
    "no joint": {"skeleton": {"edges": [["x", "y"]]}},
    "[2J": {"\x1b[2J": 1},
    "is no number": {"input": LIKE.input.model_dump() | {"scale": float("nan")}},
}  # fmt: skip


@pytest.mark.parametrize("word", OTHER_KINDS)
def test_every_other_kind_ends_with_one_message(word, hostile, tmp_path):
    folder, parts = tmp_path / "bundle", OTHER_KINDS[word]
    network = nn.Module()
    network.weight = nn.Parameter(torch.zeros(4))
    odd = {"classes", "skeleton", "input"} & set(parts) or not set(parts) <= set(dict(LIKE))
    whole = LIKE if odd and "arch" not in parts else LIKE.model_validate({**dict(LIKE), **parts})
    write_bundle(folder, network, whole)
    spec = folder / "spec.json"
    spec.write_text(json.dumps(json.loads(spec.read_text()) | parts))
    ended = sfda(*words_for("predict", folder, hostile, tmp_path))
    assert_refused(ended, hostile, word)
    assert ended.err.replace("\n", "").isprintable()
