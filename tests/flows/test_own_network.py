"""A network in a stranger's own file, from weights to a registered version that MLflow loads."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import own_networks
import pytest
import small
import torch
import torch.nn.functional as F
from conftest import Home, World, sfda

from sfda.networks.foreign.code import trust_word
from sfda.networks.foreign.trusted import TRUST_CODE
from sfda.sandbox.landlock import abi
from sfda.weights.bundle import read_spec
from sfda.weights.bundle_files import CODE_FILE
from tasks import tracking
from tasks.tracking.models import locate

pytestmark = pytest.mark.flow
LAB = "lab_of_flows"  # the same networks in a package


@dataclass(frozen=True)
class Imported:
    """A user's ResNet-20, trained by a loop of the user's own, and the version that it became."""

    home: Home
    file: Path
    weights: Path
    answer: Any
    word: str  # by which its code is trusted
    accuracy: float  # on the target's test split, by the user's own code


def trained(file: Path) -> Any:
    """The user's network after a few epochs on the source, as the user would train it."""
    arrays = small.source_arrays()
    images = torch.from_numpy(arrays["x"]).float()[:, None] / 127.5 - 1
    labels = torch.from_numpy(arrays["y"])
    torch.manual_seed(0)
    network = own_networks.as_user(file).resnet20(num_classes=3, in_channels=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(6):
        for rows in torch.randperm(len(images)).split(15):
            optimizer.zero_grad()
            F.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    return network.eval()


@torch.no_grad()
def accuracy_of(network: Any) -> float:
    """Mean of the classes' accuracies on the target's test split."""
    arrays = small.target_arrays()
    test = arrays["split"] == 1
    images = torch.from_numpy(arrays["x"][test]).float()[:, None] / 127.5 - 1
    right = network(images).argmax(1).numpy() == arrays["y"][test]
    return float(np.mean([right[arrays["y"][test] == c].mean() for c in range(3)]))


def bring(home: Home, weights: Path, arch: str) -> Any:
    """Import the weights as `cifar`."""
    with home.entered():
        return sfda(
            "import-model", weights, "--arch", arch, "--name", "cifar", "--classes",
            ",".join(small.CLASSES), "--size", "16", "--mean", "0.5", "--std", "0.5",
            "--channels", "gray", "--json",
        ).json  # fmt: skip


@pytest.fixture(scope="module")
def imported(world: World, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    folder = tmp_path_factory.mktemp("stranger")
    file = own_networks.write(folder, "resnet_cifar.py", own_networks.RESNET)
    network = trained(file)
    weights = folder / "resnet20.pth"
    torch.save({"epoch": 6, "state_dict": network.state_dict()}, weights)
    home = world.home("own-network")
    answer = bring(home, weights, f"{file}:resnet20")
    with home.entered():
        spec = read_spec(locate("models:/cifar/1"))
    assert spec.code is not None
    return Imported(home, file, weights, answer, trust_word(spec.code), accuracy_of(network))


def adapted(home: Home, world: World, *words: object) -> Any:
    fast = [w for k, v in small.FAST.items() for w in ("--set", f"schedule.{k}={v}")]
    with home.entered():
        return sfda(
            "adapt", "--source", "models:/cifar@source", "--target", world.target, "--method",
            "bn", "--epochs", 1, "--device", "cpu", *fast, "--json", *words,
        )  # fmt: skip


def test_what_the_probe_pass_sees_is_shown(imported: Imported) -> None:
    assert imported.answer["network"] == (
        "network resnet_cifar.py:resnet20: head linear: 64 features before it, 3 outputs, input "
        f"gray 16x16, code {imported.word}"
    )


def test_a_stranger_s_network_is_evaluated_adapted_registered_and_loaded(
    imported: Imported, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the word of trust each of these ends with one message and changes nothing."""
    home, word = imported.home, imported.word
    refused = adapted(home, world)
    assert refused.code == 2
    message = [line for line in refused.err.splitlines() if line.startswith("sfda: ")]
    assert len(message) == 1
    assert f"--trust-code {word}" in message[0]
    assert "Traceback" not in refused.err
    with home.entered():
        asked = ["evaluate", "--model", "models:/cifar/1", "--data", world.target, "--json"]
        assert f"--trust-code {word}" in sfda(*asked).err
        own = sfda(*asked, "--trust-code", word).json["metrics"]["macro_accuracy"]
    assert own == pytest.approx(imported.accuracy)
    output = adapted(home, world, "--trust-code", word).json
    assert output["uri"] == "models:/cifar/2"
    before = output["metrics"]["source"]["macro_accuracy"]
    assert before == pytest.approx(imported.accuracy)
    assert output["metrics"]["adapted"]["macro_accuracy"] > before, output["cut"]
    with home.entered():
        import mlflow

        bundle = locate("models:/cifar/2")
        assert (bundle / CODE_FILE).read_bytes() == imported.file.read_bytes()
        for name in [n for n in sys.modules if n.startswith("sfda_network_")]:
            del sys.modules[name]
        with pytest.raises(Exception, match=f"--trust-code {word}"):
            mlflow.pyfunc.load_model("models:/cifar/2")
        monkeypatch.setenv(TRUST_CODE, word)
        model = mlflow.pyfunc.load_model("models:/cifar/2")
        images = small.target_arrays()["x"][:5, ..., None]
        answer = model.predict(images)
        assert answer["probabilities"].shape == (5, 3)
        assert set(answer["label"]) <= set(small.CLASSES)


@pytest.mark.slow  # a training: 10 s
def test_a_source_is_trained_of_a_file_without_a_word(imported: Imported, world: World) -> None:
    """Whoever trains a class has named its code; SHOT's bottleneck stands before its features."""
    home = world.home("own-trained")
    with home.entered():
        output = sfda(
            "train-source", "--data", world.source, "--arch", f"{imported.file}:resnet20",
            "--arch-set", "depth=8", "--size", "16", "--channels", "gray", "--name", "own",
            "--epochs", 4, "--set", "schedule.lr=0.05", "--set", "schedule.batch_size=8", "--set",
            "schedule.decay=none", "--set", "lr_scale.backbone=1", "--device", "cpu", "--json",
        ).json  # fmt: skip
        spec = read_spec(locate(output["uri"]))
    assert output["metrics"]["macro_accuracy"] > 0.8
    assert (spec.head, spec.cut, spec.arch_settings) == ("bottleneck", ("linear",), {"depth": 8})


@pytest.mark.slow  # a process of its own that imports everything: 10 s
@pytest.mark.skipif(abi() < 1, reason="this kernel offers no Landlock")
@pytest.mark.parametrize("kind", ["file", "package"])
def test_it_is_adapted_in_the_sandbox_as_outside(
    imported: Imported, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """The word is handed on, the bundle's source or the package's folder can be read, and the
    outcome is the same.
    """
    home, word, arch = world.home(f"own-{kind}"), imported.word, f"{imported.file}:resnet20"
    if kind == "package":
        (tmp_path / LAB).mkdir()
        (tmp_path / LAB / "__init__.py").write_text("")
        (tmp_path / LAB / "models.py").write_text(imported.file.read_text())
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        word, arch = LAB, f"{LAB}.models:resnet20"
    bring(home, imported.weights, arch)
    outside = adapted(home, world, "--trust-code", word).json
    monkeypatch.delenv("SFDA_CONFINE")
    home = world.home(f"own-{kind}-inside")
    bring(home, imported.weights, arch)
    inside = adapted(home, world, "--trust-code", word).json
    assert inside["scores"] == outside["scores"]
    assert inside["metrics"] == outside["metrics"]
    with home.entered():
        run = tracking.client().get_run(inside["mlflow_run_id"])
        file = tracking.client().download_artifacts(run.info.run_id, "attestation.json")
        assert json.loads(Path(file).read_text())["enforced"]
