"""Somebody's own class as `--arch`: how it is cut, what travels, and whose code never runs."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import own_networks
import pytest
import torch

from flows.cli.model_input import stated_input
from sfda.errors import BadInput
from sfda.networks.foreign import code as codes
from sfda.networks.foreign.build import usable_input
from sfda.networks.foreign.code import check_trusted, named_by_person, package_here, trust_word
from sfda.networks.foreign.trusted import TRUST_CODE
from sfda.problems.classification import weights as classification
from sfda.problems.pose import weights as pose
from sfda.problems.registry import PROBLEMS, read_bundle
from sfda.problems.segmentation import weights as segmentation
from sfda.refs import InputSpec, ModelSpec, NetworkCode, Skeleton
from sfda.weights.bundle import bundle_digest, read_spec, write_bundle
from sfda.weights.bundle_files import CODE_FILE, SPEC, copy_files
from sfda.weights.checkpoints import read_weights

CLASSES = ("plane", "car", "bird")
HALF = (0.5, 0.5, 0.5)
INPUT = InputSpec(size=(32, 32), mean=HALF, std=HALF)


@pytest.fixture(autouse=True)
def _nothing_trusted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(TRUST_CODE, raising=False)
    yield
    for name in [n for n in sys.modules if n.startswith(("sfda_network_", "lab_of_tests"))]:
        del sys.modules[name]


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    return own_networks.write(tmp_path, "resnet_cifar.py", own_networks.RESNET)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package with the same networks, in a module below it."""
    folder = tmp_path / "site" / "lab_of_tests"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "models.py").write_text(own_networks.RESNET + "\nfrom os import system\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def loaded(arch: str, weights: Any, **more: Any) -> tuple[Any, ModelSpec]:
    return classification.load_network(weights, arch=arch, classes=CLASSES, input=INPUT, **more)


def users_own(file: Path, **settings: Any) -> Any:
    torch.manual_seed(1)
    network = own_networks.as_user(file).resnet20(num_classes=3, **settings)
    network(torch.rand(8, settings.get("in_channels", 3), 32, 32))  # running statistics move
    return network.eval()


def stored(resnet: Path, folder: Path) -> tuple[Any, ModelSpec]:
    """A user's ResNet-20 and the spec of the bundle that it became at `folder`."""
    own = users_own(resnet)
    network, spec = loaded(f"{resnet}:resnet20", own.state_dict())
    write_bundle(folder, network, spec)
    return own, spec


def test_a_file_becomes_a_bundle_that_answers_as_the_users_own(
    resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, spec = stored(resnet, tmp_path / "model")
    assert spec.code is not None
    assert (spec.arch, spec.cut, spec.code.name) == (
        "resnet_cifar.py:resnet20", ("linear",), "resnet_cifar.py"
    )  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "model" / SPEC).read_text()
    assert (tmp_path / "model" / CODE_FILE).read_bytes() == resnet.read_bytes()
    resnet.unlink()  # the bundle is all that there is
    for name in [n for n in sys.modules if n.startswith("sfda_network_")]:
        del sys.modules[name]
    monkeypatch.setenv(TRUST_CODE, trust_word(spec.code))
    network, again = read_bundle(tmp_path / "model")
    assert again == spec
    assert network.feature_dim == 64
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        out = network(images)
        assert torch.allclose(out.logits, own(images), atol=1e-6)
        assert torch.allclose(network.head(out.features), out.logits)


def test_nobody_s_code_runs_unasked(
    resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the word, with another digest, or with the file's name alone, nothing is imported."""
    mark = tmp_path / "ran"
    resnet.write_text(f"open({str(mark)!r}, 'w').close()\n{own_networks.RESNET}")
    _, spec = stored(resnet, tmp_path / "model")
    code = spec.code
    assert code is not None
    for name in [n for n in sys.modules if n.startswith("sfda_network_")]:
        del sys.modules[name]
    mark.unlink()
    for word in ("", "resnet_cifar.py", f"resnet_cifar.py@{'0' * 32}", trust_word(code)[:-1]):
        monkeypatch.setenv(TRUST_CODE, word)
        with pytest.raises(BadInput) as caught:
            read_bundle(tmp_path / "model")
        for part in ("resnet_cifar.py", code.sha256[:32], f"--trust-code {trust_word(code)}"):
            assert part in str(caught.value)
        assert not mark.exists()
    monkeypatch.setenv(TRUST_CODE, f"other,{trust_word(code)}")
    read_bundle(tmp_path / "model")
    assert mark.exists()
    monkeypatch.delenv(TRUST_CODE)  # imported now, and still not trusted
    with pytest.raises(BadInput, match="--trust-code"):
        read_bundle(tmp_path / "model")


def test_the_digest_covers_the_source(
    resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, spec = stored(resnet, tmp_path / "model")
    assert spec.code is not None
    monkeypatch.setenv(TRUST_CODE, trust_word(spec.code))
    first = bundle_digest(tmp_path / "model")
    copy_files(tmp_path / "model", tmp_path / "copy")
    assert bundle_digest(tmp_path / "copy") == first
    for change in ("edited", "gone", "added"):
        folder = tmp_path / change
        shutil.copytree(tmp_path / "model", folder)
        if change == "edited":
            with (folder / CODE_FILE).open("a") as file:
                file.write("# a word more\n")
        elif change == "gone":
            (folder / CODE_FILE).unlink()
        else:
            document = json.loads((folder / SPEC).read_text())
            document.pop("code")
            (folder / SPEC).write_text(json.dumps(document))
        for look in (bundle_digest, read_bundle):
            with pytest.raises(
                BadInput, match=r"network\.py is not the source|changed after it was written"
            ):
                look(folder)
    resnet.write_text(resnet.read_text() + "\n# another file\n")
    _, other = loaded(f"{resnet}:resnet20", users_own(resnet).state_dict())
    assert other.code is not None
    assert other.code.sha256 != spec.code.sha256


def test_a_source_has_a_size(resnet: Path, tmp_path: Path) -> None:
    stored(resnet, tmp_path / "model")
    (tmp_path / "model" / CODE_FILE).write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(BadInput, match=r"more than 1048576 \(SFDA_LIMIT_CODE_BYTES"):
        read_spec(tmp_path / "model")
    resnet.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(BadInput, match="has 1048577 bytes, more than 1048576 "):
        loaded(f"{resnet}:resnet20", {})


def test_a_package_is_stated_by_version_and_digest_and_trusted_by_name(
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = users_own(package / "models.py", depth=14)
    arch = "lab_of_tests.models:resnet20"
    network, spec = loaded(arch, own.state_dict(), arch_settings={"depth": 14})
    write_bundle(tmp_path / "model", network, spec)
    assert spec.code == NetworkCode(
        kind="package", name="lab_of_tests", sha256=str(package_here(arch))
    )
    assert not (tmp_path / "model" / CODE_FILE).exists()
    with pytest.raises(BadInput, match=r"of the package lab_of_tests.*--trust-code lab_of_tests"):
        read_bundle(tmp_path / "model")
    monkeypatch.setenv(TRUST_CODE, "lab_of_tests")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(read_bundle(tmp_path / "model")[0](images).logits, own(images))
    assert not caplog.records
    (package / "more.py").write_text("nothing = 0\n")
    codes.package_files.cache_clear()
    codes._compare.cache_clear()
    assert package_here(arch) != spec.code.sha256  # so results made with the old one are not reused
    with caplog.at_level(logging.WARNING, "sfda"):
        read_bundle(tmp_path / "model")
        read_bundle(tmp_path / "model")
    assert len([r for r in caplog.records if "lab_of_tests here" in r.getMessage()]) == 1
    assert codes.package_folders(spec.code) == [package]


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("os:system", "states the code of lab_of_tests"),
        ("lab_of_tests.models:system", "is no class of networks of lab_of_tests"),
        ("lab_of_tests.models:F", "is no class of networks of lab_of_tests"),
        ("torchvision:resnet18", "states the code of lab_of_tests"),
    ],
)
def test_trust_in_a_package_is_no_trust_in_what_it_imports(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, says: str
) -> None:
    own = users_own(package / "models.py")
    network, spec = loaded("lab_of_tests.models:resnet20", own.state_dict())
    settings = {"command": f"touch {tmp_path / 'ran'}"}
    changed = spec.model_copy(update={"arch": arch, "arch_settings": settings})
    write_bundle(tmp_path / "model", network, changed)
    monkeypatch.setenv(TRUST_CODE, "lab_of_tests")
    with pytest.raises(BadInput, match=says):
        read_bundle(tmp_path / "model")
    assert not (tmp_path / "ran").exists()


def test_python_itself_is_no_package_of_networks() -> None:
    for arch in ("os:system", "subprocess:Popen", "importlib.util:find_spec"):
        with pytest.raises(BadInput, match="is part of Python"):
            loaded(arch, {})


@pytest.mark.parametrize(
    ("arch", "settings", "head", "says"),
    [
        ("Net", {"num_classes": 3, "ends": "softmax"}, None, "cannot be cut before its last"),
        ("Net", {"ends": "pair"}, None, "answers a tuple.*adapter"),
        ("Net", {"num_classes": 7}, None, "has 7 outputs but 3 were named.*--arch-set"),
        ("Net", {"depth": 3}, None, "--arch-set depth: .* has no such parameter.*ends"),
        ("Net", {}, "scores", r"--head scores: .*no such layer.*score\.1"),
        ("Net", {}, "other", "cannot be cut before other"),
        ("Absent", {}, None, "is no class of networks.*Net"),
        ("a_number", {}, None, "makes a int"),
        ("FixedSize", {}, None, "cannot take images of 3x32x32"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, arch: str, settings: Any, head: str | None, says: str
) -> None:
    file = own_networks.write(tmp_path, "odd.py", own_networks.ODD)
    with pytest.raises(BadInput, match=says):
        loaded(f"{file}:{arch}", {}, arch_settings=settings, head_layer=head)


@pytest.mark.parametrize("head", [None, "score", "score.1"])
@pytest.mark.parametrize("ends", ["logits", "two"])
def test_the_head_is_seen_or_named(tmp_path: Path, head: str | None, ends: str) -> None:
    """Also where another layer runs after it."""
    file = own_networks.write(tmp_path, "odd.py", own_networks.ODD)
    own = own_networks.as_user(file).Net(3).eval()
    network, spec = loaded(
        f"{file}:Net", own.state_dict(), arch_settings={"ends": ends}, head_layer=head
    )
    assert spec.cut == (head or "score.1",)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        out = network(images)
        assert torch.allclose(out.logits, own(images))
    assert out.features.shape == (2, 8)


def test_a_segmenter_that_enlarges_its_logits_is_cut(tmp_path: Path) -> None:
    file = own_networks.write(tmp_path, "odd.py", own_networks.ODD)
    own = own_networks.as_user(file).Masks(2).eval()
    network, spec = segmentation.load_network(
        own.state_dict(), arch=f"{file}:Masks", classes=("sky", "road"), input=INPUT
    )
    assert spec.cut == ("classify",)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        out = network(images)
        assert torch.allclose(out.logits, own(images), atol=1e-6)
    assert out.features.shape == (2, 8, 32, 32)


def test_an_adapter_of_poses_shows_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = own_networks.write(tmp_path, "odd.py", own_networks.ODD)
    own = own_networks.as_user(file).Heatmaps(5).eval()
    joints = ("head", "left", "right", "foot", "hand")
    network, spec = pose.load_network(
        own.state_dict(),
        arch=f"{file}:Heatmaps",
        classes=joints,
        input=INPUT,
        skeleton=Skeleton(edges=(("head", "foot"),)),
    )
    assert spec.cut == ("backbone", "neck", "head")
    assert spec.code is not None
    write_bundle(tmp_path / "model", network, spec)
    monkeypatch.setenv(TRUST_CODE, trust_word(spec.code))
    again, _ = read_bundle(tmp_path / "model")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        out = again(images)
        assert torch.allclose(out.heatmaps, own(images))
        assert torch.allclose(out.features, own.backbone(images))


@pytest.mark.parametrize("head", ["bottleneck", "plain"])
def test_a_new_network_of_a_file_has_either_head(resnet: Path, tmp_path: Path, head: str) -> None:
    """Gray images reach the parameter that is called `in_channels`."""
    gray = InputSpec(size=(16, 16), channels="gray", mean=(0.5,), std=(0.5,))
    spec = PROBLEMS["classification"].make_spec(
        f"{resnet}:resnet20", CLASSES, input=gray, head=head, arch_settings={"depth": 8}
    )
    with named_by_person(spec.code):
        network = PROBLEMS["classification"].build_from_spec(spec).eval()
    out = network(torch.rand(2, 1, 16, 16))
    assert out.logits.shape == (2, 3)
    assert out.features.shape == (2, 256 if head == "bottleneck" else 64)


def test_senseless_sizes_of_a_file_s_network_are_refused(resnet: Path) -> None:
    arch, settings = f"{resnet}:resnet20", {"depth": 8}
    make = PROBLEMS["classification"].make_spec
    gray = InputSpec(size=(16, 16), channels="gray", mean=(0.5,), std=(0.5,))
    spec = make(arch, CLASSES, input=gray, arch_settings=settings)
    empty = spec.model_copy(update={"head": "bottleneck", "bottleneck_dim": 0})
    single = spec.model_copy(update={"classes": CLASSES[:1]})
    with named_by_person(spec.code):
        with pytest.raises(BadInput, match="bottleneck_dim must be at least 1"):
            PROBLEMS["classification"].build_from_spec(empty)
        with pytest.raises(BadInput, match="at least 2 classes"):
            PROBLEMS["classification"].build_from_spec(single)


def test_what_a_file_may_not_do_is_told(tmp_path: Path) -> None:
    file = own_networks.write(tmp_path, "net.py", "from beside_it import Net\n")
    with pytest.raises(BadInput, match=r"net\.py cannot be imported \(ModuleNotFoundError.*alone"):
        loaded(f"{file}:Net", {})
    with pytest.raises(BadInput, match="the file cannot be read"):
        loaded(f"{tmp_path / 'absent.py'}:Net", {})
    with pytest.raises(BadInput, match="neither a library of networks nor an installed package"):
        loaded("torchvison:resnet18", {})
    with pytest.raises(BadInput, match="--head LAYER is for classes of your own"):
        loaded("torchvision:resnet18", {}, head_layer="fc")


def test_a_probe_pass_tells_what_it_can_of_the_input(tmp_path: Path) -> None:
    file = own_networks.write(tmp_path, "odd.py", own_networks.ODD)
    for name, facts in (
        ("FixedSize", {"channels": "gray", "size": (28, 28)}),
        ("Net", {"channels": "rgb"}),
    ):
        arch, code = codes.code_of(f"{file}:{name}")
        with named_by_person(code):
            assert usable_input(arch, code, "classes", {}) == facts
    # mean and deviation nobody can see; of a new network there are none to fit
    with pytest.raises(BadInput, match=r"give --size, --mean and --std .*tells: channels rgb"):
        stated_input(f"{file}:Net", "classification", mean="0.5,0.5,0.5", std="0.5,0.5,0.5")
    seen = stated_input(f"{file}:FixedSize", "classification", mean="0.5", std="0.5")
    assert seen == InputSpec(size=(28, 28), channels="gray", mean=(0.5,), std=(0.5,))
    new = stated_input(f"{file}:Net", "classification", new=True, size="40")
    assert new == InputSpec(size=(40, 40), mean=HALF, std=HALF)


def test_a_word_of_trust_is_for_one_call() -> None:
    code = NetworkCode(kind="package", name="lab", sha256="0" * 64)
    with named_by_person(code):
        check_trusted(code, "lab:Net")
        with named_by_person(None):
            check_trusted(code, "lab:Net")
    with pytest.raises(BadInput, match="lab:Net"):
        check_trusted(code, "lab:Net")


def test_a_class_that_holds_its_network_by_a_trainers_word_gets_its_weights(tmp_path: Path) -> None:
    source = own_networks.RESNET + (
        "\n\nclass Lit(nn.Module):\n    def __init__(self, num_classes=3):\n"
        "        super().__init__()\n        self.model = resnet20(num_classes=num_classes)\n\n"
        "    def forward(self, x):\n        return self.model(x)\n"
    )
    file = own_networks.write(tmp_path, "lit.py", source)
    own = own_networks.as_user(file).Lit().eval()
    for state in (own.state_dict(), {f"module.{k}": v for k, v in own.state_dict().items()}):
        torch.save({"state_dict": state}, tmp_path / "lit.ckpt")
        network, _ = loaded(f"{file}:Lit", read_weights(tmp_path / "lit.ckpt"))
        images = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            assert torch.allclose(network.eval()(images).logits, own(images), atol=1e-6)
