"""Made home-0.1.0.tar.xz and expected-0.1.0.json, with the code of commit 15b4cc7 (0.1.0).

It is kept to say how they were made; with later code it does not run. In a checkout of that commit:

    python tests/compat/make_home_0_1_0.py

What later code must still open is made by the command itself. Around it: data so small and plain
that they pack well, and weights of few values for the networks that would be large.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).absolute().parent
REPO = FOLDER.parents[1]
HOME, CODE = FOLDER / "home-0.1.0.tar.xz", FOLDER / "code-0.1.0.tar.xz"
EXPECTED = FOLDER / "expected-0.1.0.json"
LONG_AGO = 1_750_000_000  # seconds since 1970: what all files are as old as
EPOCHS = 4  # of the run that is killed after its first
CLASSES = "bar,post,cross"

# the part of the networks that an adaptation leaves alone packs as part of its source
KILLED = ["adapt", "--source", "models:/toy/1", "--target", "/fixture/data/toy/target.yaml",
          "--method", "aad", "--name", "toy", "--epochs", str(EPOCHS), "--set",
          "schedule.batch_size=8", "--set", "schedule.lr=0.01", "--set", "lr_scale.backbone=0",
          "--json"]  # fmt: skip

GROWN = ["refresh", "/fixture/site", "--source", "models:/toy@source", "--name", "site", "--method",
         "aad", "--epochs", "1", "--set", "schedule.batch_size=8", "--set",
         "lr_scale.backbone=0", "--json"]  # fmt: skip

# `sfda` in a process that kills itself when its first epoch is written down
KILLER = """
import os, signal
from tasks.training import Training
log = Training._log
def last_words(self, epoch):
    log(self, epoch)
    os.kill(os.getpid(), signal.SIGKILL)
Training._log = last_words
from flows.cli import main
main()
"""


def main() -> None:
    sys.path[1:1] = [str(REPO), str(REPO / "tests")]
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=FOLDER, text=True).strip()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "made")
        root.mkdir()
        set_environment(root)
        with server() as address:
            make(root, address)
        tidy(root)
        pack(root)
        look(Path(scratch, "opened"), commit)


def set_environment(root: Path) -> None:
    """As users have it, but for what would name this machine or person."""
    os.environ.update(
        HOME=str(root / "user"), LOGNAME="somebody", SFDA_HOME=str(root / "home"),
        MLFLOW_TRACKING_URI=f"sqlite:///{root / 'home' / 'mlflow.db'}", TZ="UTC",
        PREFECT_LOGGING_TO_API_ENABLED="false", PREFECT_SERVER_ANALYTICS_ENABLED="false",
        DO_NOT_TRACK="1", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1",
    )  # fmt: skip
    os.chdir(root)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """One Prefect server, somewhere else."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())


def run(*words: object) -> Any:
    """One call of `sfda`, said aloud."""
    from surface import sfda

    started = time.monotonic()
    done = sfda(*words, "--json")
    print(f"{time.monotonic() - started:5.1f} s  sfda {' '.join(map(str, words))}", flush=True)
    if done.code:
        sys.exit(done.err)
    return done.json


def here(words: list[str]) -> list[str]:
    """A command with addresses below the folder that we are in."""
    return [word.replace("/fixture", os.getcwd()) for word in words]


def make(root: Path, server: str) -> None:
    write_data(root / "data")
    classification(root, server)
    segmentation()
    detection(root)
    pose(root)
    demos(root / "home" / "demo")
    bundles(root / "bundles")
    two_images(root)


# ---------------------------------------------------------------- data


def write_data(data: Path) -> None:
    """Folders, zips and arrays, and manifests of them by the command."""
    import numpy as np
    import small
    import small_seg

    toy = data / "toy"
    toy.mkdir(parents=True)
    for name, count, seed, dull in (("source", 60, 1, False), ("target", 40, 2, True)):
        labels = np.arange(count) % 3
        np.savez(toy / f"{name}.npz", x=patterns(labels, seed, dull), y=labels)
        run("manifest", toy / f"{name}.npz", "--classes", CLASSES, "--out", toy / f"{name}.yaml")
    run("subset", toy / "target.yaml", "--classes", "bar,post", "--out", toy / "partial.yaml")
    for i, image in enumerate(patterns(np.arange(9) % 3, 3, True)):
        save(image, data / "sorted" / small.CLASSES[i % 3] / f"{i}.png")
    run("manifest", data / "sorted", "--classes", CLASSES, "--out", data / "sorted.yaml")

    colours = np.array([[30, 60, 30], [220, 60, 60], [60, 60, 220]], float)
    for name, count, seed in (("source", 20, 1), ("target", 10, 2)):
        for i, mask in enumerate(small_seg.shapes(count, seed=seed)[1]):
            image = colours[mask] if name == "source" else 50 + 0.6 * colours[mask]
            save(image.astype(np.uint8), data / "seg" / name / "images" / f"{i:02d}.png")
            save(mask, data / "seg" / name / "masks" / f"{i:02d}.png")
        run("manifest", data / "seg" / name / "images", "--problem", "segmentation", "--masks",
            data / "seg" / name / "masks", "--classes", ",".join(small_seg.CLASSES), "--out",
            data / "seg" / f"{name}.yaml")  # fmt: skip

    for name, count, seed, dull in (("source", 8, 1, False), ("target", 8, 2, True)):
        pictures, boxes = squares(count, seed, dull)
        for i, picture in enumerate(pictures):
            save(picture, data / "det" / name / f"{i:02d}.png")
        write_coco(data / "det" / f"{name}.json", boxes=boxes)
        run("manifest", data / "det" / name, "--problem", "detection", "--annotations",
            data / "det" / f"{name}.json", "--out", data / "det" / f"{name}.yaml")  # fmt: skip

    (data / "pose").mkdir()
    (data / "pose" / "bones.yaml").write_text(skeleton())
    for name, count, night in (("source", 10, False), ("target", 8, True)):
        figures = [figure(i, night) for i in range(count)]
        for i, (picture, _) in enumerate(figures):
            save(picture, data / "pose" / name / f"{i:02d}.png")
        write_coco(data / "pose" / f"{name}.json", joints=[joints for _, joints in figures])
        run("manifest", data / "pose" / name, "--problem", "pose", "--annotations",
            data / "pose" / f"{name}.json", "--skeleton", data / "pose" / "bones.yaml", "--out",
            data / "pose" / f"{name}.yaml")  # fmt: skip
    poses = [figure(i, False)[1].round() for i in range(200, 260)]
    write_coco(data / "pose" / "poses.json", joints=poses)


def patterns(labels: Any, seed: int, dull: bool) -> Any:
    """The tests' patterns in eight levels, the dull ones half as dull."""
    import numpy as np
    import small

    images = small.patterns(labels, seed=seed)
    if dull:
        images = images // 2 + small.patterns(labels, seed=seed, dull=True) // 2
    return np.asarray(images & 0xE0)


def squares(count: int, seed: int, dull: bool) -> Any:
    """The tests' squares without noise: uint8 [N, 64, 64, 3], and their classes and boxes."""
    import numpy as np
    import small_det

    noisy, boxes = small_det.images(count, seed=seed)
    colours = np.array([[60, 60, 60], [220, 60, 60], [60, 60, 220]], float)
    plain = colours[((noisy[..., None, :] - colours) ** 2).sum(-1).argmin(-1)]
    return (70 + 0.5 * plain if dull else plain).astype(np.uint8), boxes


def figure(number: int, night: bool) -> Any:
    """A figure of the demo in few levels, and its joints."""
    from sfda.data import figures

    drawn = figures.in_the_gym(number + 1000 * night)
    picture = coarse_picture(drawn.image)
    return picture // 2 + 40 if night else picture, drawn.joints


def coarse_picture(image: Any) -> Any:
    """Fewer levels and no grain."""
    import cv2

    return cv2.medianBlur(image, 3) // 48 * 48 + 24


def save(picture: Any, file: Path) -> None:
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file)


def write_coco(file: Path, *, boxes: Any = None, joints: Any = None) -> None:
    import small_det

    from sfda.data import figures

    images, annotations = [], []
    for i, marks in enumerate(boxes or joints):
        images.append({"id": i, "file_name": f"{i:02d}.png", "width": 64, "height": 64})
        if joints:
            points = [v for x, y in marks for v in (round(float(x), 1), round(float(y), 1), 2)]
            box = [6.4, 6.4, 51.2, 51.2]  # with the usual padding the whole picture
            entries = [{"category_id": 1, "keypoints": points, "bbox": box, "area": 900}]
        else:
            entries = [{"category_id": label + 1, "bbox": box} for label, box in marks]
        for entry in entries:
            annotations.append({"id": len(annotations), "image_id": i, "iscrowd": 0} | entry)
    categories = [{"id": i, "name": name} for i, name in enumerate(small_det.CLASSES, start=1)]
    if joints:
        number = {name: i for i, name in enumerate(figures.JOINTS, start=1)}
        bones = [[number[a], number[b]] for a, b in figures.EDGES]
        categories = [{"id": 1, "name": "figure", "keypoints": [*number], "skeleton": bones}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(document))


def skeleton() -> str:
    from sfda.data import figures

    return json.dumps(
        {
            "edges": figures.EDGES, "pairs": figures.PAIRS, "groups": figures.GROUPS,
            "unit": ["neck", "hip"],
        }
    )  # fmt: skip


# ---------------------------------------------------------------- models


def classification(root: Path, server: str) -> None:
    toy = root / "data" / "toy"
    run("train-source", "--data", toy / "source.yaml", "--arch", "sfda:tiny", "--name", "toy",
        "--head", "plain", "--epochs", 8, "--set", "schedule.lr=0.05", "--set",
        "schedule.batch_size=8", "--set", "schedule.decay=none", "--set",
        "lr_scale.backbone=1")  # fmt: skip
    run("adapt", "--source", "models:/toy@source", "--target", toy / "target.yaml", "--method",
        "aad", "--name", "toy", "--epochs", 2, "--set", "schedule.lr=0.01", "--set",
        "schedule.batch_size=8")  # fmt: skip
    run("promote", "toy", 2)
    ask_people(root)
    killed(server)
    grow(root)


def ask_people(root: Path) -> None:
    """One request that was answered, one that waits, and the export that will answer it."""
    from asking import exported

    target, ask = root / "data" / "toy" / "target.yaml", root / "requests"
    run("query", "--model", "models:/toy@source", "--target", target, "--by", "margin",
        "--budget", 4, "--out", ask / "answered")  # fmt: skip
    run("answer", ask / "answered", exported(ask / "answered"), "--target", target)
    run("query", "--model", "models:/toy@champion", "--target",
        target.with_name("target.v2.yaml"), "--by", "entropy", "--budget", 3, "--out",
        ask / "waiting")  # fmt: skip
    exported(ask / "waiting")
    run("adapt", "--source", "models:/toy@source", "--target", target.with_name("target.v2.yaml"),
        "--method", "shot", "--name", "toy", "--epochs", 1, "--set", "schedule.batch_size=8",
        "--set", "lr_scale.backbone=0", "--set", "lr_scale.head=1")  # fmt: skip


def killed(server: str) -> None:
    """An adaptation that ends after its first epoch without a word."""
    env = os.environ | {
        "SFDA_CONFINE": "off", "PREFECT_API_URL": server, "PYTHONPATH": str(REPO)
    }  # fmt: skip
    words = [sys.executable, "-c", KILLER, *here(KILLED)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    print(f"killed: {done.returncode}", flush=True)
    if done.returncode != -signal.SIGKILL:
        sys.exit(done.stderr)


def grow(root: Path) -> None:
    """A folder that is looked at, grows, and is looked at again."""
    import numpy as np

    pictures = patterns(np.arange(21) % 3, 5, True)
    for start, end in ((0, 20), (20, 21)):
        for i in range(start, end):
            save(pictures[i], root / "site" / f"{i:02d}.png")
            os.utime(root / "site" / f"{i:02d}.png", (LONG_AGO, LONG_AGO))
        print(run(*here(GROWN[:-1]))["says"])


def segmentation() -> None:
    run("train-source", "--data", "data/seg/source.yaml", "--arch", "sfda:tinyunet", "--name",
        "shapes", "--epochs", 8, "--set", "schedule.lr=0.01")  # fmt: skip
    run("adapt", "--source", "models:/shapes@source", "--target", "data/seg/target.yaml",
        "--epochs", 2, "--promote")  # fmt: skip


def detection(root: Path) -> None:
    """A detector that was taught elsewhere, given its card here; its region proposals adapt."""
    import torch

    from sfda.boxes import Boxes
    from sfda.problems import detection as problem

    spec = problem.make_spec("sfda:tinyrcnn", ("red", "blue"))
    pictures, squared = squares(32, 9, False)
    truth = []
    for boxes in squared:
        corners = torch.tensor([[x, y, x + w, y + h] for _, (x, y, w, h) in boxes]).float()
        labels = torch.tensor([label for label, _ in boxes])
        truth.append(Boxes(corners, labels, torch.ones(len(boxes))))
    model = taught(problem, spec, pictures, 150, lambda rows: [truth[i] for i in rows], append=True)
    weights = root / "weights" / "squares.safetensors"
    write_weights(model, weights)
    run("import-model", weights, "--problem", "detection", "--arch", "sfda:tinyrcnn", "--classes",
        "red,blue", "--name", "squares")  # fmt: skip
    run("card", "--model", "models:/squares@source", "--data", "data/det/source.yaml")
    run("adapt", "--source", "models:/squares@source", "--target", "data/det/target.yaml",
        "--epochs", 1, "--set", "schedule.batch_size=4", "--set", "lr_scale.backbone=0", "--set",
        "lr_scale.roi_heads=0", "--set", "schedule.lr=1e-6", "--set", "threshold=0.3")  # fmt: skip


def pose(root: Path) -> None:
    """A pose network that was taught elsewhere, given its prior here; its last layer adapts."""
    import numpy as np
    import torch

    from sfda.data.figures import JOINTS
    from sfda.problems import pose as problem

    spec = problem.make_spec("pose:tiny", JOINTS)
    drawn = [figure(i, False) for i in range(100, 196)]
    joints = torch.tensor(np.stack([joints for _, joints in drawn])).float()

    def truth(rows: list[int]) -> Any:
        return problem.PoseTargets(joints[rows], torch.ones(len(rows), len(JOINTS)))

    model = taught(problem, spec, np.stack([picture for picture, _ in drawn]), 400, truth)
    weights = root / "weights" / "figures.safetensors"
    write_weights(model, weights)
    run("import-model", weights, "--problem", "pose", "--arch", "pose:tiny", "--classes",
        ",".join(JOINTS), "--skeleton", "data/pose/bones.yaml", "--name", "figures")  # fmt: skip
    run("train-prior", "--model", "models:/figures@source", "--poses", "data/pose/poses.json",
        "--set", "steps=[30,30,30]", "--set", "hidden=[8]", "--set", "batch_size=16")  # fmt: skip
    run("adapt", "--source", "models:/figures@source", "--target", "data/pose/target.yaml",
        "--epochs", 2, "--set", "prior_from=1", "--set", "schedule.batch_size=4", "--set",
        "lr_scale.backbone=0", "--set", "lr_scale.neck=0", "--set", "lr_scale.head=1",
        "--promote")  # fmt: skip


def taught(problem: Any, spec: Any, pictures: Any, steps: int, truth: Any, **more: Any) -> Any:
    """A network after some steps on these pictures, in weights of few values."""
    import torch

    from sfda.data.inputs import standardise

    torch.manual_seed(0)
    model = problem.build_from_spec(spec).train()
    x = standardise(torch.from_numpy(pictures), spec.input, "cpu")
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(2 * steps):
        if step == steps:
            few_values(model)
        rows = [(8 * step + i) % len(x) for i in range(8)]
        optimizer.zero_grad()
        loss = torch.stack(list(problem.loss(model, x[rows], truth(rows), **more).values())).sum()
        loss.backward()
        for weights in model.parameters():
            if step >= steps and weights.numel() > 4096:
                weights.grad = None  # they stay of few values while the others settle
        optimizer.step()
    few_values(model)
    print(f"taught {spec.arch}: loss {float(loss.detach()):.3f}", flush=True)
    return model.eval()


def few_values(model: Any) -> None:
    """Of large tensors a tenth of the weights, all of one size; of others rounded ones."""
    import torch

    with torch.no_grad():
        for value in model.state_dict().values():
            if value.numel() > 4096:
                kept = value.abs() > value.abs().flatten().quantile(0.9)
                value.copy_(kept * value.sign() * round(float(value[kept].abs().mean()), 3))
            elif value.is_floating_point():
                value.copy_((value * 256).round() / 256)


def write_weights(model: Any, file: Path) -> None:
    from safetensors.torch import save_file

    file.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)


def demos(folder: Path) -> None:
    """The data of all demos as their own code writes them, but few and plainer pictures."""
    from sfda.data import digits, figures, scenes, shapes

    load, few = digits.load_digits, {"train": 2, "val": 1}

    def some() -> Any:
        bunch = load()
        bunch.images, bunch.target = bunch.images[:40], bunch.target[:40]
        return bunch

    digits.load_digits, digits.GRAIN, digits.PAPER = some, 0.0, 0.0
    for module, names in (
        (scenes, ("by_day", "at_dusk")), (shapes, ("in_the_lab", "in_the_shop")),
        (figures, ("in_the_gym", "at_night")),
    ):  # fmt: skip
        module.SOURCE, module.TARGET = few, {"adapt": 2, "test": 1}
        for name in names:
            setattr(module, name, _coarser(getattr(module, name)))
    for module in (digits, scenes, shapes, figures):
        module.write_demo(folder)


def _coarser(draw: Any) -> Any:
    def drawn(number: int) -> Any:
        finer = draw(number)
        return finer._replace(image=coarse_picture(finer.image))

    return drawn


def bundles(folder: Path) -> None:
    """Networks of other libraries, as plain folders: their weights repeat after a while."""
    import toymm

    from sfda.data.bundle import write_bundle
    from sfda.problems import classification, detection
    from sfda.refs import InputSpec

    colour = InputSpec(size=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3)
    digits = tuple("0123456789")
    given = (
        ("lenet", "sfda:lenet", None, "bottleneck", 1.0),
        ("squeezenet", "torchvision:squeezenet1_1", colour, "plain", 1.8),
        ("timm", "timm:test_efficientnet", colour, "bottleneck", 1.3),
    )
    for name, arch, pixels, head, gain in given:
        spec = classification.make_spec(arch, digits, head=head, input=pixels)
        network = repeating(classification.build_from_spec(spec), gain)
        write_bundle(folder / name, network, spec)
    config = folder.parent / "mmdet.py"
    config.write_text(f"model = {toymm.config()!r}\n")
    spec = detection.make_spec(f"mmdet:{config}", ("red", "blue"), input=colour)
    config.unlink()
    write_bundle(folder / "mmdet", repeating(detection.build_from_spec(spec)), spec)
    made = sorted((folder.parent / "home").glob("runs/*/epoch-0001/spec.json"))
    tiny = next(file.parent for file in made if '"sfda:tiny"' in file.read_text())
    shutil.copytree(tiny, folder / "adapted")


def repeating(model: Any, gain: float = 1.0) -> Any:
    """The same 61 weights again and again in every layer, so large that answers differ."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                few = gain * torch.randn(61, generator=generator) / weights[0].numel() ** 0.5
                times = -(-weights.numel() // 61)
                weights.copy_(few.repeat(times)[: weights.numel()].view_as(weights))
    return model.eval()


def two_images(root: Path) -> None:
    """For each registered model, what its versions are asked about."""
    import numpy as np
    from PIL import Image

    (root / "two").mkdir()
    toy = np.load(root / "data" / "toy" / "target.npz")["x"][:2, ..., None]
    asked = {"toy": toy, "site": toy}
    for name, folder in (("shapes", "seg/target/images"), ("squares", "det/target"),
                         ("figures", "pose/target")):  # fmt: skip
        files = sorted((root / "data" / folder).glob("*.png"))[:2]
        asked[name] = np.stack([np.asarray(Image.open(file)) for file in files])
    for name, images in asked.items():
        np.save(root / "two" / f"{name}.npy", images)


# ---------------------------------------------------------------- the archive


def tidy(root: Path) -> None:
    """Leave out what can be made again, shrink pictures, and name no folder of this machine."""
    from PIL import Image
    from unpack import HERE, keyed, move, put

    home = root / "home"
    for name in ("decoded", "prefect", "logs", "promotions"):
        shutil.rmtree(home / name, ignore_errors=True)
    for file in home.rglob("*.lock"):
        file.unlink()
    for file in home.rglob("lock"):
        file.unlink()
    for file in home.rglob("state.pt"):
        if file.with_name("history.json").exists():  # its run went to the end: history is left
            file.unlink()
            for weights in file.parent.glob("epoch-*"):
                shutil.rmtree(weights)
    shutil.rmtree(root / "user", ignore_errors=True)
    shutil.rmtree(root / "weights")
    for file in home.rglob("*.png"):
        with Image.open(file) as picture:
            small = picture.convert("RGB").resize((picture.width // 8, picture.height // 8))
        small.quantize(8).save(file, optimize=True)
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as database:
        database.execute("PRAGMA journal_mode = DELETE")
        for table in ("metrics", "latest_metrics"):  # of this machine
            database.execute(f"DELETE FROM {table} WHERE key LIKE 'system/%'")
        database.commit()
    for file, key in keyed(root, str(root)):
        assert file.stem == key[:24], file  # what unpack.py says of names is so
    move(root, str(root), HERE)
    others = {
        str(REPO): "/product",
        sys.base_prefix: "/python",
        os.uname().release: "6.0.0",
    }
    for old, new in others.items():
        put(root, old, new)


def pack(root: Path) -> None:
    """The archives: the home, and once what every version has of our code."""
    with contextlib.closing(sqlite3.connect(root / "home" / "mlflow.db")) as database:
        database.execute("VACUUM")
    for file in root.rglob("*"):
        os.utime(file, (LONG_AGO, LONG_AGO))
    copies = sorted((root / "home" / "mlartifacts" / "models").glob("*/artifacts/code"))
    contents = [{p.relative_to(c): p.read_bytes() for p in c.rglob("*.py")} for c in copies]
    assert all(content == contents[0] for content in contents)
    archive(CODE, {"code": copies[0]})
    for copy in copies:
        shutil.rmtree(copy)
    archive(HOME, {path.name: path for path in sorted(root.iterdir())})


def archive(file: Path, content: dict[str, Path]) -> None:
    """One file without owners, as small as it gets."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**26}]

    def nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with (
        lzma.open(file, "wb", filters=filters) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as opened,
    ):
        for name, path in content.items():
            opened.add(path, name, filter=nobody)
    print(f"{file.name}: {file.stat().st_size} bytes")


def look(folder: Path, commit: str) -> None:
    """What this code says of the archive: the facts that later code is held to."""
    import surface
    from unpack import unpack

    from tasks.cache import code_digest

    folder.mkdir()
    unpack(folder)
    (state,) = (folder / "home" / "runs").glob("*/state.pt")
    manifests = [
        file.relative_to(folder)
        for file in sorted(folder.rglob("*.yaml"))
        if "mlartifacts" not in file.parts and "\nsplits:" in file.read_text()
    ]
    with surface.entered(folder):
        facts: dict[str, Any] = {
            "commit": commit,
            "versions": {name: version(name) for name in ("sfda", "torch", "mlflow", "numpy")},
            "code_sha256": code_digest(),
            "manifests": {str(file): surface.manifest_facts(folder / file) for file in manifests},
            "models": surface.versions(),
            "bundles": {
                name: surface.predictions(folder, name, folder / "out") for name in surface.BUNDLES
            },
            "status": surface.status(),
            "unfinished": {
                "words": KILLED, "epochs": EPOCHS, "done": 1,
                "folder": str(state.parent.relative_to(folder)),
            },
            "look": GROWN,
        }  # fmt: skip
        for uri, facts_of in facts["models"].items():
            facts_of["answers"] = surface.answers(folder, uri)
            facts_of["metrics"] = surface.metrics(folder, uri)
    EXPECTED.write_text(written(facts) + "\n")


def written(facts: dict[str, Any]) -> str:
    """JSON, a line for each fact of the second level."""
    parts = []
    for name, value in facts.items():
        lines = json.dumps(value)
        if isinstance(value, dict):
            rows = [f"  {json.dumps(key)}: {json.dumps(part)}" for key, part in value.items()]
            lines = "{\n" + ",\n".join(rows) + "\n }"
        parts.append(f" {json.dumps(name)}: {lines}")
    return "{\n" + ",\n".join(parts) + "\n}"


if __name__ == "__main__":
    main()
