"""Checkpoints as people's scripts write them: one reader, nothing run, and it says what it took."""

import argparse
import datetime
import enum
import os
import pickle
from collections import OrderedDict, defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from library_networks import classifier
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sfda.errors import BadInput
from sfda.problems.classification.weights import load_network
from sfda.weights.checkpoints import read_checkpoint
from sfda.weights.layouts import Checkpoint

ABC = ("a", "b", "c")


class Colour(enum.Enum):
    """Pickled by the name of its class."""

    RED = 1


class Settings(dict):
    """A dict of somebody's own, as configurations are."""


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(classifier("sfda:tiny", 3, bottleneck_dim=8).state_dict())


def other(weights):
    return {k: v + 1 if v.is_floating_point() else v for k, v in weights.items()}


def prefixed(weights, *words):
    return {f"{word}{k}": v for word in words for k, v in weights.items()}


def numbers(weights):
    return {k: v.numpy() for k, v in weights.items()}


def same(read, weights) -> bool:
    load_network(read.weights, arch="sfda:tiny", classes=ABC)
    return set(read.weights) == set(weights) and all(
        torch.equal(read.weights[k].to(v.dtype), v) for k, v in weights.items()
    )


@pytest.mark.parametrize(
    "name",
    ["a.pth", "a.pt", "a.ckpt", "a.pkl", "a.th", "A.PTH", "a.bin", "weights", "a.npz", "a.b.model"],
)
@pytest.mark.parametrize("kind", ["zip", "old", "pickle", "arrays", "safetensors", "npz"])
def test_the_content_decides_and_not_the_name(tmp_path, weights, name, kind):
    path = tmp_path / name
    if kind in ("zip", "old"):
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "safetensors":
        save_file(weights, path)
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **numbers(weights))
    else:
        path.write_bytes(pickle.dumps(weights if kind == "pickle" else numbers(weights)))
    assert same(read_checkpoint(path), weights)


@pytest.mark.parametrize(
    "word",
    ["model.", "net.", "network.", "module.", "module.model.", "_orig_mod.", "model._orig_mod.",
     "_orig_mod.module.", "module._orig_mod.model.", "student.", "generator."],
)  # fmt: skip
def test_words_before_all_names_are_taken_away(tmp_path, weights, word):
    torch.save({"state_dict": prefixed(weights, word)}, tmp_path / "a.pth")
    assert same(read_checkpoint(tmp_path / "a.pth"), weights)


@pytest.mark.parametrize(
    "key",
    ["state_dict", "model", "net", "network", "module", "weights", "params", "params_ema", "ema",
     "model_ema", "state_dict_ema", "ema_state_dict", "teacher", "student", "Model", "my_net"],
)  # fmt: skip
def test_weights_lie_under_any_usual_key(tmp_path, weights, key):
    torch.save({"epoch": 3, "best": torch.tensor(0.5), key: weights}, tmp_path / "a.ckpt")
    read = read_checkpoint(tmp_path / "a.ckpt")
    assert same(read, weights)
    assert f"from `{key}`" in read.text
    assert "left out: epoch, best" in read.text


@pytest.mark.parametrize(
    ("taken", "beside"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("params", "params_ema"),
     ("model", "ema"), ("state_dict", "ema_state_dict"), ("teacher", "student"),
     ("model", "teacher"), ("mynet", "mynet_ema"), ("model", "swa_model")],
)  # fmt: skip
def test_of_two_sets_one_is_taken_and_the_other_named(tmp_path, weights, taken, beside):
    path = tmp_path / "a.pth"
    torch.save({beside: other(weights), taken: weights}, path)
    read = read_checkpoint(path)
    assert same(read, weights)
    assert f"from `{taken}`" in read.text
    assert f"not taken: {beside}," in read.text
    assert f"--weights-key {beside}" in read.text
    assert same(read_checkpoint(path, beside), other(weights))
    with pytest.raises(BadInput, match=f"no weights by the key 'none' .*{beside}"):
        read_checkpoint(path, "none")


def test_a_key_that_is_no_word_to_a_shell_is_quoted():
    assert "`--weights-key '$(id)'`" in Checkpoint({}, others=("$(id)",)).text


def test_two_sets_by_the_words_before_their_names(tmp_path, weights):
    state = {**prefixed(weights, "model."), **prefixed(other(weights), "ema_model.module.")}
    path = tmp_path / "lit.ckpt"
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 0.1}}, path)
    read = read_checkpoint(path)
    assert same(read, weights)
    assert "not taken: state_dict.ema_model," in read.text
    for key in ("ema_model", "state_dict.ema_model"):
        assert same(read_checkpoint(path, key), other(weights))


def test_what_serves_training_is_left_out_and_named(tmp_path, weights):
    extra = {"criterion.weight": torch.ones(3), "val_acc.tp": torch.zeros(1)}
    for name, state in (
        ("bare", {**weights, **extra}),
        ("model.", {**prefixed(weights, "model."), **extra}),
        ("swa", AveragedModel(nn.ModuleDict({"x": nn.Linear(1, 1)})).state_dict()),
    ):
        if name == "swa":
            assert "n_averaged" in state
            state = {"n_averaged": state["n_averaged"], **prefixed(weights, "module.")}
        torch.save({"state_dict": state, "optimizer": {"state": {0: extra}}}, tmp_path / "a.pth")
        read = read_checkpoint(tmp_path / "a.pth")
        assert same(read, weights)
        assert "optimizer" in read.text
        assert ("criterion" if name != "swa" else "n_averaged") in read.text


def test_harmless_objects_beside_weights_are_inert(tmp_path, weights):
    held = {
        "args": argparse.Namespace(lr=0.1, out=Path("x")),
        "best": np.float64(0.5),
        "kinds": [np.dtype("f4"), np.arange(3), Colour.RED, {1, 2}, frozenset({3})],
        "path": Path("a/b"),
        "when": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
        "log": defaultdict(list, {"loss": [1.0]}),
        "own": Settings(a=1),
        "device": torch.device("cpu"),
        "part": partial(int, "3"),
    }
    for kind, state in (
        ("zip", OrderedDict(weights)),
        ("old", defaultdict(int, weights)),
        ("pickle", Settings(weights)),
    ):
        path = tmp_path / kind
        content = {**held, "model": state}
        if kind == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
        read = read_checkpoint(path)
        assert same(read, weights)
        assert "left out: args, best, kinds" in read.text


def test_detectrons_pickles_and_numpys_dicts_are_read(tmp_path, weights):
    content = {"model": numbers(weights), "__author__": "somebody", "matching_heuristics": True}
    for protocol in (0, 2, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        assert same(read_checkpoint(tmp_path / "a.pkl"), weights)
    np.save(tmp_path / "a.npy", np.array(numbers(weights), dtype=object), allow_pickle=True)
    assert same(read_checkpoint(tmp_path / "a.npy"), weights)


class Net(nn.Module):
    """A network with a part in a part, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).mean((2, 3)))


@pytest.mark.filterwarnings("ignore")
def test_tensors_of_a_torchscript_archive_come_out_and_its_code_does_not_run(tmp_path):
    net = Net().eval()
    torch.jit.script(net).save(tmp_path / "a.pt")
    torch.jit.trace(net, torch.rand(1, 3, 8, 8)).save(tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        read = read_checkpoint(tmp_path / name).weights
        assert set(read) == set(net.state_dict())
        assert all(torch.equal(read[k], v) for k, v in net.state_dict().items())


def test_a_whole_network_is_refused_with_the_way(tmp_path):
    torch.save({"model": Net(), "epoch": 1}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match=r"test_layouts\.Net.*model\.state_dict\(\)"):
        read_checkpoint(tmp_path / "a.pt")
    state = b"cultralytics.nn.tasks\nDetectionModel\n)\x81}X\x08\x00\x00\x00_modules}sb"
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"model": 1}, 2).replace(b"K\x01", state))
    with pytest.raises(BadInput, match=r"file of ultralytics.*a program.*state_dict\(\)"):
        read_checkpoint(tmp_path / "b.pt")


@pytest.mark.parametrize(
    ("content", "remedy"),
    [(b"\x89HDF\r\n\x1a\n", "Keras"), (b"\x1f\x8b\x08", "unpack"), (b"<!DOCTYPE html>", "download"),
     (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull")],
)  # fmt: skip
def test_files_of_other_kinds_are_told(tmp_path, content, remedy):
    (tmp_path / "a.pth").write_bytes(content + b"0" * 40)
    with pytest.raises(BadInput, match=remedy):
        read_checkpoint(tmp_path / "a.pth")


def calls(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls a function."""
    return f"c{module}\n{name}\n(S'{argument}'\ntR.".encode()


def test_hostile_pickles_do_nothing(tmp_path, weights):
    path, mark = tmp_path / "a.pkl", tmp_path / "ran"
    for module, name in (("os", "system"), ("posix", "system"), ("__builtin__", "eval"),
                         ("subprocess", "call"), ("builtins", "exec"), ("shutil", "rmtree"),
                         ("torch.hub", "load")):  # fmt: skip
        path.write_bytes(calls(module, name, f"touch {mark}"))
        with pytest.raises(BadInput, match=f"{name}.*could run code"):
            read_checkpoint(path)
    for hostile in (
        calls("builtins", "getattr", "x")[:-1] + b"(S'touch'\ntR.",  # calls what came out of a call
        b"\x80\x02}(" + b"t" * 50 + b".",
        b"\x80\x02)" + b"\x86" * 3 + b".",
        b"\x80\x02}q\x00(h\x00h\x00u.",  # a dict in itself
        b"\x80\x04)" + b"\x94h\x00\x86" * 60 + b"K\x01s.",
        b"\x80\x02" + b"}" * 100,
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # an array of all memory
        b"\x80\x02\x82\x01.",  # out of this process's registry
    ):
        path.write_bytes(hostile)
        with pytest.raises(BadInput, match=r"a\.pkl"):
            read_checkpoint(path)
    torch.save({"model": weights, "x": Evil(mark)}, path)
    with pytest.raises(BadInput, match="could run code"):
        read_checkpoint(path)
    assert not mark.exists()


def test_keys_that_take_for_ever_to_look_up_do_not(tmp_path):
    pairs = b"K\x00\x85" + b"q\x00h\x00\x86" * 40  # pairs of pairs of pairs
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02}" + pairs + b"K\x01s.")
    with pytest.raises(BadInput, match="no state dict"):
        read_checkpoint(tmp_path / "a.pkl")


def test_a_pickle_of_endless_steps_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SFDA_LIMIT_PICKLE_STEPS", "1000")
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + b"}" * 2000 + b".")
    with pytest.raises(BadInput, match="SFDA_LIMIT_PICKLE_STEPS"):
        read_checkpoint(tmp_path / "a.pkl")


class Evil:
    """Unpickled, it runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_wrong_backbone_gives_few_names(tmp_path):
    from torchvision import models

    small = models.resnet18(num_classes=3).state_dict()
    with pytest.raises(BadInput) as caught:
        load_network(small, arch="torchvision:resnet50", classes=ABC)
    message = str(caught.value)
    assert len(message) < 1000
    assert "is this the architecture that was trained?" in message


def test_names_of_a_network_inside_another_fit_both_ways():
    from torchvision import models

    names = models.squeezenet1_1(num_classes=3).state_dict()
    for word in ("backbone.", "cnn.", "classifier_net."):
        network, _ = load_network(
            prefixed(names, word), arch="torchvision:squeezenet1_1", classes=ABC
        )
        held = network.backbone.state_dict()
        assert torch.equal(held["features.0.weight"], names["features.0.weight"])
