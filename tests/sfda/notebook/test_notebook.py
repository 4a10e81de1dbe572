"""A notebook's functions: any module and any images, no home, no peeking, the flow's numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, IterableDataset

import sfda
from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.loading.opened import manifest_ref
from sfda.loading.parts import read_rows
from sfda.loading.pool import pool_of
from sfda.state_folder import temporary_state
from sfda.weights.bundle import bundle_digest

FAST = {"schedule": small.FAST}
FEW = {"adapt": 39, "test": 30}  # so few that none are held out
ARRAYS = small.arrays(FEW, seed=2, dull=True)
ADAPT, TEST = ARRAYS["split"] == 0, ARRAYS["split"] == 1
IMAGES = torch.from_numpy(ARRAYS["x"][ADAPT])[:, None]
QUICK = {"method": "shot", "epochs": 2, "settings": FAST, "select_by": "infomax"}


class Net(nn.Module):
    """Somebody's own network, which ends in logits."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.norm(self.conv(images))).mean((2, 3)))


@pytest.fixture(autouse=True)
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither a home nor the folder that one stands in gets a file."""
    here, home = tmp_path / "here", tmp_path / "no-home"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("SFDA_HOME", str(home))
    yield
    assert not home.exists()
    assert not list(here.iterdir())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    small.bundle(tmp_path / "toy")
    return tmp_path / "toy"


class Poison:
    """A label that nobody may look at."""

    def _touched(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a label was looked at")

    __int__ = __index__ = __float__ = __eq__ = __hash__ = __len__ = __iter__ = _touched
    __array__ = __bool__ = __str__ = __repr__ = __reduce_ex__ = _touched  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return self._touched()


class Labelled(Dataset):
    """Images as PIL's, each with a label."""

    def __init__(self, images: np.ndarray, labels: list[Any]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        return Image.fromarray(self.images[number]), self.labels[number]


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from IMAGES


def test_a_bare_module_comes_back_as_what_it_was(monkeypatch):
    torch.manual_seed(0)
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    result = sfda.adapt(net, IMAGES, **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert type(result.network) is Net
    assert not torch.equal(result.network.conv.weight, net.conv.weight)
    assert torch.equal(result.network.fc.weight, net.fc.weight)  # shot freezes the head
    predicted = sfda.predict(result.model, IMAGES)
    logits = result.network.eval()(IMAGES / 255)
    assert predicted["probabilities"] == pytest.approx(logits.softmax(1).detach().numpy(), abs=1e-5)
    assert [epoch.epoch for epoch in result.history] == [0, 1]
    assert result.scores == result.history[result.epoch - 1].scores
    assert all(len(epoch.losses) >= 2 for epoch in result.history)


def test_change_is_the_share_of_other_answers(bundle):
    result = sfda.adapt(bundle, IMAGES, **QUICK)
    before, after = sfda.predict(bundle, IMAGES), sfda.predict(result.model, IMAGES)
    assert result.change == float((before["label"] != after["label"]).mean()) > 0
    assert sfda.adapt(bundle, IMAGES, method="source").change == 0.0
    assert result.pool == "all 39 images, which adaptation has seen"


def test_of_40_images_half_are_held_out_and_the_change_is_theirs(bundle, tmp_path):
    inputs = small.arrays({"adapt": 48}, seed=2, dull=True)
    path = small.write(tmp_path / "data", "target", inputs, {"adapt": 48})
    with temporary_state():
        rows = read_rows(pool_of(manifest_ref(path), "adapt").part.rows, 48)
    images = torch.from_numpy(inputs["x"])[:, None]
    result = sfda.adapt(bundle, images, **QUICK)
    assert result.pool == ""
    assert {epoch.images for epoch in result.history} == {24}
    before, after = (sfda.predict(m, images[rows])["label"] for m in (bundle, result.model))
    assert result.change == float((before != after).mean()) > 0
    again = sfda.adapt(bundle, path, **QUICK)
    assert (again.model.sha256, again.change) == (result.model.sha256, result.change)
    learnt = torch.from_numpy(np.delete(inputs["x"], rows, axis=0))[:, None]
    assert sfda.adapt(bundle, learnt, **QUICK).model.sha256 == result.model.sha256


def test_the_change_is_of_the_split_for_tests_where_there_is_one(bundle, tmp_path):
    manifest = small.write(tmp_path / "data", "target", ARRAYS, FEW)
    result = sfda.adapt(bundle, manifest, **QUICK)
    tests = torch.from_numpy(ARRAYS["x"][TEST])[:, None]
    before, after = (sfda.predict(m, tests)["label"] for m in (bundle, result.model))
    assert result.change == float((before != after).mean()) > 0
    assert result.pool == ""


def test_what_is_held_out_at_home_is_not_learnt_from(bundle, tmp_path, monkeypatch):
    """The home is read, and not written to."""
    folder, home = tmp_path / "images", tmp_path / "home"
    folder.mkdir()
    inputs = small.arrays({"adapt": 60}, seed=2, dull=True)["x"]
    for number, image in enumerate(inputs):
        if number < 45:
            Image.fromarray(image).save(folder / f"{number:03d}.png")
    anew = sfda.adapt(bundle, folder, **QUICK)
    monkeypatch.setenv("SFDA_HOME", str(home))
    manifest = build_manifest(folder, problem="classification", out=tmp_path / "m.yaml")
    assert pool_of(manifest_ref(manifest), "adapt").count == 22
    assert sfda.adapt(bundle, folder, **QUICK).model.sha256 == anew.model.sha256
    for number, image in enumerate(inputs):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    files = {file: file.stat().st_mtime_ns for file in home.rglob("*")}
    grown = sfda.adapt(bundle, folder, **QUICK)
    assert {file: file.stat().st_mtime_ns for file in home.rglob("*")} == files
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "no-home"))
    assert sfda.adapt(bundle, folder, **QUICK).model.sha256 != grown.model.sha256


def test_all_kinds_of_images_give_the_same_numbers(bundle, tmp_path):
    once = QUICK | {"epochs": 1}
    digest = sfda.adapt(bundle, IMAGES, **once).model.sha256
    assert digest != sfda.adapt(bundle, IMAGES, **once, seed=1).model.sha256
    manifest = small.write(tmp_path / "data", "target", ARRAYS, FEW)
    pixels = ARRAYS["x"][ADAPT]
    kinds = {
        "float": IMAGES / 255,
        "array": IMAGES.numpy(),
        "data set": Labelled(pixels, [Poison()] * len(pixels)),
        "stream": Stream(),
        "manifest": manifest,
    }
    for kind, images in kinds.items():
        assert sfda.adapt(bundle, images, **once).model.sha256 == digest, kind


def test_a_folder_is_adapted_to(bundle, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(ARRAYS["x"][ADAPT]):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    files = sorted(folder.iterdir())
    result = sfda.adapt(bundle, folder, **QUICK)
    assert result.model.sha256 == sfda.adapt(bundle, IMAGES, **QUICK).model.sha256
    assert sorted(folder.iterdir()) == files
    with pytest.raises(BadInput, match="does not say how it wants its images"):
        sfda.adapt(Net(), folder)


def test_images_of_several_sizes_are_taken(bundle):
    images = [Image.fromarray(image) for image in ARRAYS["x"][ADAPT]]
    images[3] = images[3].resize((20, 24))

    class Several(Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, number: int) -> Any:
            return images[number]

    result = sfda.adapt(bundle, Several(), **QUICK)
    assert result.model.sha256 != sfda.adapt(bundle, IMAGES, **QUICK).model.sha256


def test_a_result_is_saved_as_a_bundle(bundle, tmp_path):
    result = sfda.adapt(bundle, IMAGES, **QUICK)
    out = tmp_path / "out"
    assert result.save(out) == result.model.sha256 == bundle_digest(out)
    tests, labels = torch.from_numpy(ARRAYS["x"][TEST])[:, None], ARRAYS["y"][TEST]
    again = sfda.evaluate(out, tests, labels)
    assert again.metrics == sfda.evaluate(result.model, tests, labels).metrics
    manifest = small.write(tmp_path / "data", "target", ARRAYS, FEW)
    assert again.metrics == sfda.evaluate(out, manifest).metrics
    assert again.count == len(tests)
    before = sfda.evaluate(bundle, tests, labels).metrics["macro_accuracy"]
    assert again.metrics["macro_accuracy"] > before


def test_a_module_of_an_importable_class_is_saved_with_its_code(tmp_path, monkeypatch):
    package = tmp_path / "somebodys_nets"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Own(nn.Module):\n"
        "    def __init__(self, width=4, num_classes=3):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(1, width, 3, 2, 1)\n"
        "        self.fc = nn.Linear(width, num_classes)\n\n    def forward(self, images):\n"
        "        return self.fc(torch.relu(self.conv(images)).mean((2, 3)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from somebodys_nets import Own

    own = sfda.InputSpec(size=(16, 16), channels="gray", mean=(0.5,), std=(0.5,))
    model = sfda.load(Own(width=6), input=own, arch_settings={"width": 6}, classes=small.CLASSES)
    result = sfda.adapt(model, IMAGES, method="source")
    result.save(tmp_path / "out")
    with pytest.raises(BadInput, match="--trust-code somebodys_nets"):
        sfda.load(tmp_path / "out")
    monkeypatch.setenv("SFDA_TRUST_CODE", "somebodys_nets")
    assert sfda.load(tmp_path / "out").sha256 == result.model.sha256
    with pytest.raises(BadInput, match="cannot be made anew"):  # the width was not stated
        sfda.load(Own(width=6), input=own).save(tmp_path / "other")


def test_a_module_of_a_library_is_taken_under_its_name(tmp_path):
    import torchvision

    module = torchvision.models.squeezenet1_1(num_classes=3)
    names = ["a", "b", "c"]
    model = sfda.load(module, arch="torchvision:squeezenet1_1", classes=names)
    model.save(tmp_path / "out")
    assert sfda.load(tmp_path / "out").spec.classes == ("a", "b", "c")
    with pytest.raises(BadInput, match="name the classes"):
        sfda.load(module, arch="torchvision:squeezenet1_1")


def test_maps_are_segmented(tmp_path):
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.last = nn.Conv2d(6, 2, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.norm(self.conv(images))))

    torch.manual_seed(0)
    images = torch.rand(6, 3, 16, 16)
    own = sfda.InputSpec(size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
    model = sfda.load(Maps(), input=own, problem="segmentation")
    result = sfda.adapt(model, images, method="bn")
    assert result.network(images).shape == (6, 2, 16, 16)
    before, after = (np.stack(sfda.predict(m, images)["mask"]) for m in (model, result.model))
    assert after.shape == (6, 16, 16)
    assert result.change == float((before != after).mean()) > 0, "of the pixels"


def test_the_head_is_found_or_named():
    result = sfda.adapt(Net(), IMAGES, method="source", head="fc", classes=["bar", "post", "cross"])
    assert result.model.spec.classes == ("bar", "post", "cross")
    with pytest.raises(BadInput, match="no such layer"):
        sfda.adapt(Net(), IMAGES, method="source", head="fcc")
    with pytest.raises(BadInput, match="3 outputs but 2 were named"):
        sfda.adapt(Net(), IMAGES, method="source", classes=["bar", "post"])


class Random(Dataset):
    """Other images at each look, as views drawn at random are."""

    looks = 0

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> torch.Tensor:
        self.looks += 1
        return torch.rand(1, *IMAGES.shape[2:])


def test_compared_methods_see_the_same_images(bundle):
    images = Random()
    sfda.compare(bundle, images, ["source", "bn"], select_by="infomax", epochs=1)
    assert images.looks == len(images)
    assert sfda.compare(bundle, images, []) == {}


def test_methods_are_compared(bundle):
    results = sfda.compare(bundle, IMAGES, ["source", "bn", "shot"], epochs=2,
                           settings={"shot": FAST}, select_by="infomax")  # fmt: skip
    assert list(results) == ["source", "bn", "shot"]
    assert results["source"].change == 0.0
    assert results["shot"].model.sha256 == sfda.adapt(bundle, IMAGES, **QUICK).model.sha256


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (torch.rand(4, 1, 16, 16) * 2, r"lie in \[0, 1\]"),
        (torch.zeros(4, 1, 16, 16, dtype=torch.int64), "uint8, not torch.int64"),
        (torch.rand(1, 16, 16), r"\[N, channels, height, width\]"),
        (torch.rand(4, 2, 16, 16), "1 or 3 channels"),
        (torch.rand(0, 1, 16, 16), "no image"),
        ("nowhere", "neither a folder of images nor a manifest"),
        ([1, 2], "list is no set of images"),
    ],
)
def test_what_are_no_images_is_refused(bundle, images, why):
    with pytest.raises(BadInput, match=why):
        sfda.adapt(bundle, images)


def test_what_is_no_model_or_no_setting_is_refused(bundle):
    with pytest.raises(BadInput, match=r"import tasks\.tracking"):
        sfda.load("elsewhere:/toy@champion")
    with pytest.raises(BadInput, match="nowhere"):
        sfda.load("nowhere")
    with pytest.raises(BadInput, match="head, classes: of a bare module"):
        sfda.adapt(bundle, IMAGES, head="fc", classes=["a"])
    with pytest.raises(BadInput, match=r"hand over what sfda\.load gave"):
        sfda.adapt(sfda.load(bundle).module, IMAGES)
    with pytest.raises(BadInput, match="did you mean 'shot'"):
        sfda.adapt(bundle, IMAGES, method="shoot")
    with pytest.raises(BadInput, match="0 to 2"):
        sfda.evaluate(bundle, IMAGES, [7] * len(IMAGES))
    with pytest.raises(BadInput, match="but 1 labels"):
        sfda.evaluate(bundle, IMAGES, [0])


LIGHT = """
import sys, sfda
assert "torch" not in sys.modules and "pydantic" not in sys.modules, "import sfda is heavy"
assert set(sfda.__all__) <= set(dir(sfda))
for name in sfda.__all__:
    assert getattr(sfda, name).__doc__, name
assert not {"mlflow", "prefect"} & set(sys.modules), "a notebook needs no server"
from sfda import Method, MethodConfig, Problem, Query, Validator
"""


def test_importing_the_package_is_light_and_knows_no_server():
    root = Path(sfda.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_stub_names_what_there_is():
    with pytest.raises(AttributeError, match="no attribute 'adopt'"):
        sfda.adopt  # noqa: B018
