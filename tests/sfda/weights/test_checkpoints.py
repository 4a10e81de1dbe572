"""Weights of other people: read without running anything, fitted, or refused with every reason."""

import contextlib
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from library_networks import classifier
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from sfda.errors import BadInput
from sfda.problems.classification.network import Bottleneck, Classifier, make_head
from sfda.problems.classification.weights import from_shot, load_backbone, load_network
from sfda.refs import InputSpec
from sfda.weights.checkpoints import read_weights
from sfda.weights.load import load_exactly

GOLDEN = Path(__file__).parents[2] / "golden" / "shot_head.npz"
TINY = "sfda:tiny"
ABC = ("a", "b", "c")


def tiny_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(classifier(TINY, 3, bottleneck_dim=8).state_dict())


def save_shot_triple(folder: Path) -> nn.ModuleDict:
    """SHOT's digit network as its authors wrote and saved it."""
    torch.manual_seed(1)
    conv = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(20, 50, 5), nn.Dropout2d(0.5),
        nn.MaxPool2d(2), nn.ReLU(),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old way is the point
        head = nn.utils.weight_norm(nn.Linear(256, 10))
    parts = nn.ModuleDict(
        {
            "F": nn.ModuleDict({"conv_params": conv}),
            "B": nn.ModuleDict({"bn": nn.BatchNorm1d(256), "bottleneck": nn.Linear(800, 256)}),
            "C": nn.ModuleDict({"fc": head}),
        }
    )
    nn.init.normal_(parts["B"]["bn"].running_mean)
    with torch.no_grad():
        head.weight_g.mul_(3.0)
    for letter, part in parts.items():
        torch.save(part.state_dict(), folder / f"source_{letter}.pt")
    return parts.eval()


def test_bottleneck_and_head_equal_shots_recorded_ones():
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN).items()}
    network = Classifier(
        nn.Identity(), Bottleneck(20, 8), make_head(8, 5), feature_dim=8, num_classes=5
    )
    load_exactly(network, from_shot({k: v for k, v in golden.items() if k[:2] in ("B.", "C.")}))
    with torch.no_grad():
        out = network.eval()(golden["x"])
        torch.testing.assert_close(out.features, golden["feat_eval"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(out.logits, golden["logits_eval"], rtol=1e-5, atol=1e-6)
        out = network.train()(golden["x"])
    torch.testing.assert_close(out.features, golden["feat_train"], rtol=1e-5, atol=1e-6)
    bn = network.bottleneck.bn
    torch.testing.assert_close(bn.running_mean, golden["running_mean_after"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bn.running_var, golden["running_var_after"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("as_paths", [False, True])
def test_shots_three_files_become_one_classifier(tmp_path, as_paths):
    parts = save_shot_triple(tmp_path)
    source = [tmp_path / f"source_{p}.pt" for p in "FBC"] if as_paths else tmp_path
    digits = tuple("0123456789")
    network, spec = load_network(read_weights(source), arch="sfda:lenet", classes=digits)
    assert (spec.head, spec.bottleneck_dim, spec.bottleneck_dropout) == ("bottleneck", 256, 0.5)
    assert not network.training
    images = torch.rand(3, 1, 28, 28)
    z = parts["B"]["bn"](parts["B"]["bottleneck"](parts["F"]["conv_params"](images).flatten(1)))
    out = network(images)
    torch.testing.assert_close(out.features, z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.logits, parts["C"]["fc"](z), rtol=1e-5, atol=1e-5)


def test_shots_linear_head_and_new_weight_norm_names_fit(tmp_path):
    save_shot_triple(tmp_path)
    weights = read_weights(tmp_path)
    g, v = weights.pop("C.fc.weight_g"), weights.pop("C.fc.weight_v")
    weight = g * v / v.norm(dim=1, keepdim=True)
    digits = tuple("0123456789")
    linear, _ = load_network({**weights, "C.fc.weight": weight}, arch="sfda:lenet", classes=digits)
    torch.testing.assert_close(linear.head.weight, weight)
    renamed = {f"C.fc.parametrizations.weight.original{i}": t for i, t in enumerate((g, v))}
    normed, _ = load_network({**weights, **renamed}, arch="sfda:lenet", classes=digits)
    torch.testing.assert_close(normed.head.weight, weight)


def test_an_incomplete_triple_is_named(tmp_path):
    save_shot_triple(tmp_path)
    (tmp_path / "source_B.pt").unlink()
    with pytest.raises(BadInput, match=r"one file \*_B.pt; found none"):
        read_weights(tmp_path)
    with pytest.raises(BadInput, match="3 files, not 2"):
        read_weights([tmp_path / "source_F.pt", tmp_path / "source_C.pt"])


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_a_torchvision_checkpoint_says_the_same_here(tmp_path, name):
    torch.manual_seed(0)
    original = models.get_model(name, weights=None, num_classes=3).eval()
    torch.save({"epoch": 3, "state_dict": original.state_dict()}, tmp_path / "net.pth")
    weights = read_weights(tmp_path / "net.pth")
    network, spec = load_network(weights, arch=f"torchvision:{name}", classes=ABC)
    assert spec.head == "plain"
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images).logits, original(images))


def test_a_timm_checkpoint_says_the_same_here(tmp_path):
    torch.manual_seed(0)
    original = timm.create_model("resnet10t", num_classes=3).eval()
    save_file(original.state_dict(), tmp_path / "net.safetensors")
    weights = read_weights(tmp_path / "net.safetensors")
    network, spec = load_network(weights, arch="timm:resnet10t", classes=ABC)
    assert spec.input.keep_ratio
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images).logits, original(images))


def test_auxiliary_classifiers_of_googlenet_are_left_out():
    torch.manual_seed(0)
    original = models.googlenet(num_classes=3, aux_logits=True, init_weights=False).eval()
    weights = original.state_dict()
    assert any(name.startswith("aux1.") for name in weights)
    network, _ = load_network(weights, arch="torchvision:googlenet", classes=ABC)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images).logits, original(images))


def test_old_names_of_torchvision_are_known():
    weights = models.densenet121(num_classes=3).state_dict()
    key = "features.denseblock1.denselayer1.norm1.weight"
    old = OrderedDict((k.replace("layer1.norm1.", "layer1.norm.1."), v) for k, v in weights.items())
    assert key not in old
    load_network(old, arch="torchvision:densenet121", classes=ABC)


def test_mnasnet_takes_weights_that_do_not_state_their_layout():
    arch = "torchvision:mnasnet0_5"
    native = dict(models.mnasnet0_5(num_classes=3).state_dict())
    network, _ = load_network(native, arch=arch, classes=ABC)
    load_network(dict(network.state_dict()), arch=arch, classes=ABC)
    load_backbone(classifier(arch, 3), native)


def test_our_own_weights_come_back_from_every_kind_of_file(tmp_path):
    weights = tiny_weights()
    torch.save({"model": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "a.pt")
    torch.save({f"_orig_mod.{k}": v for k, v in weights.items()}, tmp_path / "b.tar")
    save_file(weights, tmp_path / "c.safetensors")
    np.savez(tmp_path / "d.npz", **{k: v.numpy() for k, v in weights.items()})
    for name in ("a.pt", "b.tar", "c.safetensors", "d.npz"):
        network, spec = load_network(read_weights(tmp_path / name), arch=TINY, classes=ABC)
        assert (spec.head, spec.bottleneck_dim) == ("bottleneck", 8)
        state = network.state_dict()
        assert all(torch.equal(state[key], value) for key, value in weights.items()), name


def test_loading_leaves_the_random_numbers_alone():
    weights = tiny_weights()
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    load_network(weights, arch=TINY, classes=ABC)
    assert torch.equal(torch.rand(3), want)


class Touch:
    """Unpickled, it runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_not_run(tmp_path, kind):
    mark, path = tmp_path / "ran", tmp_path / "net.pt"
    held = {"weight": torch.ones(2), "extra": Touch(mark)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(held))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(BadInput, match=r"torch.save\(model.state_dict\(\)") as caught:
        read_weights(path)
    assert "code" in str(caught.value)
    assert not mark.exists()
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert mark.exists()  # it would have


def test_a_whole_pickled_module_is_refused_by_name(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "net.pt")
    with pytest.raises(BadInput, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_weights(tmp_path / "net.pt")


def test_an_array_of_objects_is_refused(tmp_path):
    mark = tmp_path / "ran"
    np.savez(tmp_path / "net.npz", a=np.array([Touch(mark)], dtype=object))
    with pytest.raises(BadInput, match="not an archive of plain arrays"):
        read_weights(tmp_path / "net.npz")
    np.savez(tmp_path / "text.npz", a=np.array(["x"]))
    with pytest.raises(BadInput, match="weights are numbers"):
        read_weights(tmp_path / "text.npz")
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".npz"])
def test_a_truncated_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(tiny_weights(), path)
    elif suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in tiny_weights().items()})
    else:
        old = suffix == ".pth"
        torch.save(tiny_weights(), path, _use_new_zipfile_serialization=not old)
    whole = path.read_bytes()
    for size in (0, 20, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInput, match=path.name):
            read_weights(path)


def test_damage_anywhere_is_told(tmp_path):
    """An old torch file cut short, an archive with a password, a member that is no array."""
    path = tmp_path / "net.pth"
    torch.save(tiny_weights(), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for size in (*range(1, 160, 3), *range(160, len(whole), 997)):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInput, match=r"net\.pth"):
            read_weights(path)
    for folder in range(0, 400, 7):
        path.write_bytes(whole[:folder] + bytes([whole[folder] ^ 0xFF]) + whole[folder + 1 :])
        with contextlib.suppress(BadInput):  # where nothing but a number changed it is read
            read_weights(path)
    arrays = tmp_path / "net.npz"
    np.savez(arrays, a=np.zeros(3))
    raw = bytearray(arrays.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    arrays.write_bytes(raw)
    with pytest.raises(BadInput, match=r"net\.npz"):
        read_weights(arrays)
    with zipfile.ZipFile(arrays, "w") as archive:
        archive.writestr("a.txt", "no array")
    with pytest.raises(BadInput, match=r"net\.npz"):
        read_weights(arrays)


def test_weights_of_another_kind_of_number_are_told():
    for dtype in (torch.complex64, torch.int8, torch.bool):
        weights = {k: v.to(dtype) if "weight" in k else v for k, v in tiny_weights().items()}
        with pytest.raises(BadInput, match=r"no floating-point numbers: .*weight is of"):
            load_network(weights, arch=TINY, classes=ABC)


def test_weights_whose_answers_are_no_numbers_are_told():
    weights = {k: -v - 1 if k.endswith("running_var") else v for k, v in tiny_weights().items()}
    with pytest.raises(BadInput, match="answers NaN or infinity to a black image"):
        load_network(weights, arch=TINY, classes=ABC)


def test_what_is_no_state_dict_is_said(tmp_path):
    path = tmp_path / "net.pt"
    for held, output in (
        (5, "type int"),
        ({"epoch": 1}, "'epoch'"),
        ([torch.ones(1)], "type list"),
    ):
        torch.save(held, path)
        with pytest.raises(BadInput, match=f"no state dict but .*{output}"):
            read_weights(path)
    with pytest.raises(BadInput, match="no weights at"):
        read_weights(tmp_path / "absent.pt")
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"is a graph of ONNX"):
        read_weights(tmp_path / "net.onnx")


def test_nan_and_infinity_are_named(tmp_path):
    weights = tiny_weights()
    weights["head.bias"][1] = float("nan")
    weights["bottleneck.linear.weight"][0, 0] = float("inf")
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(BadInput, match=r"bottleneck\.linear\.weight, head\.bias"):
        read_weights(tmp_path / "net.pt")


def test_a_wrong_count_of_classes_is_one_plain_sentence():
    sentence = "the checkpoint's head has 3 outputs but 2 classes were named"
    with pytest.raises(BadInput, match=sentence) as caught:
        load_network(tiny_weights(), arch=TINY, classes=("a", "b"))
    assert str(caught.value) == f"the weights do not fit: {sentence}"
    resnet = models.resnet18(num_classes=3).state_dict()
    with pytest.raises(BadInput, match=sentence):
        load_network(resnet, arch="torchvision:resnet18", classes=("a", "b"))


def test_every_mismatch_is_named():
    weights = tiny_weights()
    del weights["backbone.body.0.weight"], weights["head.bias"]
    weights["backbone.body.4.weight"] = torch.zeros(16, 8, 5, 5)
    weights["backbone.surplus"] = torch.zeros(1)
    with pytest.raises(BadInput) as caught:
        load_network(weights, arch=TINY, classes=ABC)
    message = str(caught.value)
    assert "2 missing: backbone.body.0.weight, head.bias" in message
    assert "1 unexpected: backbone.surplus" in message
    assert "backbone.body.4.weight is (16, 8, 5, 5) where the network has (16, 8, 3, 3)" in message


def test_another_head_than_the_weights_hold_is_refused():
    with pytest.raises(BadInput, match="have a bottleneck head, not a plain one"):
        load_network(tiny_weights(), arch=TINY, classes=ABC, head="plain")


def test_an_input_that_the_network_cannot_take_is_refused():
    colour = InputSpec(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(BadInput, match=r"sfda:tiny cannot take rgb images of 16x16"):
        load_network(tiny_weights(), arch=TINY, classes=ABC, input=colour)


def test_a_backbone_alone_fills_the_backbone_alone(tmp_path):
    original = models.squeezenet1_1(num_classes=7)
    backbone = {f"features.{k}": v for k, v in original.features.state_dict().items()}
    np.savez(tmp_path / "backbone.npz", **{k: v.detach().numpy() for k, v in backbone.items()})
    for weights in (read_weights(tmp_path / "backbone.npz"), original.state_dict()):
        network = classifier("torchvision:squeezenet1_1", 3, bottleneck_dim=8)
        before = {k: v.clone() for k, v in network.state_dict().items()}
        load_backbone(network, weights)
        for key, value in network.state_dict().items():
            inside = key.startswith("backbone.")
            want = backbone[key.removeprefix("backbone.")] if inside else before[key]
            assert torch.equal(value, want), key


def test_a_backbone_is_taken_from_a_resnet_checkpoint_and_from_ours():
    resnet = models.resnet18(num_classes=7).state_dict()
    network = classifier("torchvision:resnet18", 3)
    load_backbone(network, resnet)
    assert torch.equal(network.backbone.conv1.weight, resnet["conv1.weight"])
    again = classifier("torchvision:resnet18", 9, head="plain")
    load_backbone(again, network.state_dict())
    assert torch.equal(again.backbone.conv1.weight, resnet["conv1.weight"])


def test_a_backbone_that_does_not_fit_is_named():
    weights = models.resnet18(num_classes=7).state_dict()
    del weights["bn1.weight"]
    with pytest.raises(BadInput, match=r"1 missing: bn1\.weight"):
        load_backbone(classifier("torchvision:resnet18", 3), weights)


def holding_itself(path):
    content = {}
    content["state_dict"] = content
    torch.save(content, path / "x.pt")


def expanded(path):
    torch.save({"a": torch.zeros(1).expand(10**5, 10**5)}, path / "x.pt")


def packed_zeros(path):
    np.savez_compressed(path / "x.npz", a=np.zeros(10**8, np.uint8))


def packed_storage(path):
    torch.save({"a": torch.zeros(25 * 10**6)}, path / "whole.pt")
    kind = zipfile.ZIP_DEFLATED
    with (
        zipfile.ZipFile(path / "whole.pt") as whole,
        zipfile.ZipFile(path / "x.pt", "w", kind) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (holding_itself, "holds no state dict"),
        (expanded, "claims to hold 40000000000"),
        (packed_zeros, "claims to hold 100000"),
        (packed_storage, "claims to hold 100000"),
    ],
)
def test_a_small_file_that_claims_much_is_refused(tmp_path, make, message):
    make(tmp_path)
    (file,) = tmp_path.glob("x.*")
    with pytest.raises(BadInput, match=message):
        read_weights(file)
