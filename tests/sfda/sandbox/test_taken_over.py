"""What an adapting process has left in its folder, and what of it becomes a result outside."""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small

from sfda.adaptation.plan import AdaptPlan
from sfda.adaptation.run_folder import history_size
from sfda.adaptation.sandboxed import Ear, taken_over
from sfda.adaptation.worker import Order
from sfda.errors import BadInput
from sfda.refs import ManifestRef, PredictionsRef, Profile, SplitRef
from sfda.sandbox.messages import Unacceptable
from sfda.weights.bundle import read_spec, write_bundle

NOTHING: Profile = {"classes": {}, "confidence_histogram": [], "mean_confidence": 0.0}


class Run:
    """The folder of a run of two epochs, and what its process says of it."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder, self.source = folder, source
        model = small.bundle(source)
        folder.mkdir()
        self.history: list[dict[str, Any]] = []
        for epoch in range(2):
            shutil.copytree(source, self.weights(epoch))
            self.history.append(
                {
                    "epoch": epoch,
                    "steps": [0, 4],
                    "losses": {"infomax": [1.0, 0.5]},
                    "rate": [0.1, 0.1],
                    "last_step": 7,
                    "images": 48,
                    "seconds": 0.5,
                    "scores": {"infomax": 0.1 * epoch},
                    "sha256": model.sha256,
                    "weights": str(self.weights(epoch)),
                    "spent": 1.0,
                }
            )
        self.result: dict[str, Any] = {"peak_memory_mb": 10.0, "cut": None}
        self.order = Order(
            source=model,
            bundle=str(source),
            predictions=PredictionsRef(
                folder="", sha256="", source_sha256="", count=48, profile=NOTHING
            ),
            target=SplitRef(manifest=ManifestRef(path="", sha256=""), split="adapt", seen=""),
            stamps="",
            plan=AdaptPlan(
                seen="",
                split="adapt",
                method="shot",
                config={"schedule": {"epochs": 2}},
                views=None,
                select_by="infomax",
                regime="closed",
                seed=0,
            ),
            keep="best",
            folder=str(folder),
            title="adapt",
            device="cpu",
            workers=0,
            budget=None,
            threads=1,
        )

    def weights(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}"

    def taken(self, **changes: Any) -> Any:
        text = json.dumps(self.history)
        (self.folder / "history.json").write_text(text)
        return taken_over(
            {"history_sha256": _sha256(text.encode())} | self.result | changes, self.order
        )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", tmp_path / "source")


def test_all_but_numbers_is_made_anew(run):
    run.history[1]["weights"] = "/etc"
    taken = run.taken(
        folder="/etc",
        candidates=[{"weights": "//elsewhere/model"}],
        confinement={"says": "enforced"},
        cut="\x1b[2J the budget\nended",
        seconds=1e9,
    )
    assert taken.folder == str(run.folder)
    assert [c.weights for c in taken.candidates] == [str(run.weights(0)), str(run.weights(1))]
    assert [c.scores for c in taken.candidates] == [{"infomax": 0.0}, {"infomax": 0.1}]
    assert (taken.seconds, taken.images_per_second) == (1.0, 96.0)
    assert taken.cut == r"\x1b[2J the budget ended"
    assert taken.confinement is None


def _link_to_source(run: Run) -> None:
    file = run.weights(1) / "weights.safetensors"
    file.unlink()
    file.symlink_to(run.source / "weights.safetensors")


def _link_of_folder(run: Run) -> None:
    shutil.rmtree(run.weights(1))
    run.weights(1).symlink_to(run.source)


def _pipe(run: Run) -> None:
    (run.weights(1) / "spec.json").unlink()
    os.mkfifo(run.weights(1) / "spec.json")


def _pipe_of_weights(run: Run) -> None:
    (run.weights(1) / "weights.safetensors").unlink()
    os.mkfifo(run.weights(1) / "weights.safetensors")


def _more_files(run: Run) -> None:
    (run.weights(1) / "card.safetensors.py").write_text("print()")


def _link_beside(run: Run) -> None:
    (run.weights(1) / "card.safetensors").symlink_to("/etc/hostname")


def _card(run: Run) -> None:
    shutil.copy(run.weights(1) / "weights.safetensors", run.weights(1) / "card.safetensors")


def _longer(run: Run) -> None:
    with (run.weights(1) / "weights.safetensors").open("ab") as file:
        file.write(b"x")


def _endless(run: Run) -> None:
    with (run.weights(1) / "weights.safetensors").open("ab") as file:
        file.truncate(1 << 40)


def _truncated(run: Run) -> None:
    file = run.weights(1) / "weights.safetensors"
    with file.open("ab") as opened:
        opened.truncate(file.stat().st_size - 1)


def _endless_header(run: Run) -> None:
    (run.weights(1) / "weights.safetensors").write_bytes(b"\xff" * 16)


def _no_weights(run: Run) -> None:
    shutil.rmtree(run.weights(1))


def _other_network(run: Run) -> None:
    spec = read_spec(run.source)
    network = small.source()
    write_bundle(run.weights(1), network, spec.model_copy(update={"arch": "sfda:lenet"}))


def _other_classes(run: Run) -> None:
    spec = read_spec(run.source)
    other = spec.model_copy(update={"classes": ("a", "b", "c")})
    write_bundle(run.weights(1), small.source(), other)


def _other_words(run: Run) -> None:
    file = run.weights(1) / "spec.json"
    file.write_text(file.read_text().replace("cross", "\\u001b[2J"))


def _other_shapes(run: Run) -> None:
    network = small.source()
    network.register_buffer("more", small.torch.zeros(1000))
    write_bundle(run.weights(1), network, read_spec(run.source))


def _other_kind(run: Run) -> None:
    network = small.source()
    name = next(name for name, _ in network.named_buffers() if "num_batches" in name)
    module = network.get_submodule(name.rpartition(".")[0])
    module.num_batches_tracked = module.num_batches_tracked.float()
    write_bundle(run.weights(1), network, read_spec(run.source))


LEFT = {
    _link_to_source: "links are not followed",
    _link_of_folder: "links are not followed",
    _link_beside: "1 more files",
    _card: "1 more files",
    _pipe: "no regular file",
    _pipe_of_weights: "no regular file",
    _more_files: "1 more files",
    _longer: "cannot be read",
    _endless: "more than",
    _truncated: "cannot be read",
    _endless_header: "cannot be read",
    _no_weights: "No such file",
    _other_network: "another kind of network",
    _other_classes: "another kind of network",
    _other_words: "cannot be used",
    _other_shapes: "other names or shapes",
    _other_kind: "other names or shapes",
}


@pytest.mark.parametrize(("leave", "why"), LEFT.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_what_is_left_in_place_of_weights_is_refused(run, leave: Callable[[Run], None], why):
    assert run.taken()
    leave(run)
    with pytest.raises(BadInput, match=why) as refusal:
        run.taken()
    assert "delete" in str(refusal.value)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"epoch": 7}, "other epochs"),
        ({"epoch": 0}, "other epochs"),
        ({"epoch": -1}, "epoch"),
        ({"steps": [0]}, "different lengths"),
        ({"steps": [0, 10**30]}, "steps"),
        ({"steps": [0, True, "x"]}, "steps"),
        ({"losses": {"a\x1b[2J": [1.0, 1.0]}}, "losses"),
        ({"losses": {"a" * 300: [1.0, 1.0]}}, "losses"),
        ({"losses": {"../a": [1.0, 1.0]}}, "losses"),
        ({"losses": {f"a{n}": [1.0, 1.0] for n in range(1000)}}, "more than 200 curves"),
        ({"steps": list(range(1000))}, "steps"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": 1e-300}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"images": -1}, "images"),
        ({"scores": {}}, "without the score"),
        ({"scores": {"infomax": float("nan")}}, "not a number"),
        ({"scores": {"infomax": "high"}}, "scores"),
        ({"scores": {"infomax": 0.0, "other": float("inf")}}, "not finite"),
        ({"rate": [0.1, float("nan")]}, "not finite"),
        ({"weights": None}, "without the weights"),
        ({"sha256": "../../../etc"}, "sha256"),
        ({"more": 1}, "what none has"),
    ],
)
def test_a_history_that_is_none_is_refused(run, change, why):
    run.history[1] |= change
    with pytest.raises(BadInput, match=why) as refusal:
        run.taken()
    assert str(refusal.value).isprintable()


def test_histories_of_another_shape_are_refused(run):
    with pytest.raises(BadInput, match="another history"):
        run.taken(history_sha256="0" * 64)
    with pytest.raises(BadInput, match="history_sha256"):
        run.taken(history_sha256="x")
    with pytest.raises(BadInput, match="peak_memory_mb"):
        run.taken(peak_memory_mb=float("inf"))
    whole = run.history
    for run.history in ([], {"a": 1}, [[]], [*whole, whole[1] | {"epoch": 2}]):
        with pytest.raises(BadInput, match="history"):
            run.taken()
    long = b" " * (history_size(2) + 1)  # of two epochs
    (run.folder / "history.json").write_bytes(long)
    with pytest.raises(BadInput, match=f"bytes, more than {history_size(2)};"):
        taken_over(run.result | {"history_sha256": _sha256(long)}, run.order)
    deep = b"[" * 1_000_000
    (run.folder / "history.json").write_bytes(deep)
    with pytest.raises(BadInput, match="history"):
        taken_over(run.result | {"history_sha256": _sha256(deep)}, run.order)
    many = ",".join(f'"!{n}": 0' for n in range(201))
    for names, why in (
        (f"[{{{many}}}]", "what none has"),
        (f'[{{"losses": {{{many}}}}}]', "more than 200 curves"),
        (f"[{'[],' * 25_000}[]]", "more than 50000 values"),
    ):
        (run.folder / "history.json").write_text(names)
        with pytest.raises(BadInput, match=why):
            taken_over(run.result | {"history_sha256": _sha256(names.encode())}, run.order)
    (run.folder / "history.json").unlink()
    (run.folder / "history.json").symlink_to(run.source / "spec.json")
    with pytest.raises(BadInput, match="links are not followed"):
        taken_over(run.result | {"history_sha256": _sha256(b"")}, run.order)


def _sha256(content: bytes) -> str:
    return small.hashlib.sha256(content).hexdigest()


class Seen:
    """A watch that remembers."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def shown(self) -> int:
        return -1

    def points(self, points: list[Any]) -> None:
        self.heard.append(points)

    def share(self, done: float) -> None:
        self.heard.append(done)


def test_messages_are_handed_on_if_they_are_what_they_should_be(caplog):
    seen = Seen()
    caplog.set_level("INFO", "sfda")
    with Ear(seen, "adapt", 1) as ear:
        ear.hear({"points": [["loss/a", 0.5, 3], ["score/b", -0.5, 1]]})
        ear.hear({"share": 1})
        ear.hear({"progress": ["adapt", 3, 10]})
        ear.hear({"progress": ["another", 3, 10]})
        ear.hear({"beside": ["adapt", "epoch 1"]})
        ear.hear({"log": "hello", "level": 20})
    assert json.dumps(seen.heard) == '[[["loss/a", 0.5, 3], ["score/b", -0.5, 1]], 1.0]'
    assert caplog.messages == ["adapt: epoch 1", "hello"]


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"unknown": 1},
        {"points": [["a", 1.0, -1]]},
        {"points": [["a", float("nan"), 1]]},
        {"points": [["a", float("-inf"), 1]]},
        {"points": [["a", 1.0, 10**400]]},
        {"points": [["a\n", 1.0, 1]]},
        {"points": [["a", {}, 1]]},
        *({"points": [[name, 1.0, 1]]} for name in ("", ".", "..", "/a", "a/", "a//b", "a/../b")),
        {"points": [["a", 1.0, 1]] * 100_000},
        {"share": float("nan")},
        {"share": 2},
        {"share": "x"},
        {"log": "x", "level": 10**9},
        {"log": ["x"], "level": 1},
        {"progress": ["adapt", 5, 1]},
        {"progress": ["adapt", 0, 10**30]},
        {"progress": 3},
        {"beside": ["another", "x"]},
    ],
)
def test_other_messages_are_refused(message):
    with Ear(Seen(), "adapt", 1) as ear, pytest.raises(Unacceptable):
        ear.hear(message)


def test_nobody_is_flooded(caplog):
    seen = Seen()
    with Ear(seen, "adapt", 1) as ear:
        for _ in range(100):
            ear.hear({"log": "x" * (1 << 16), "level": 30})
        with pytest.raises(Unacceptable, match="more curves"):
            deque(map(ear.hear, [{"share": 0.5}] * 1000))
    assert sum(map(len, caplog.messages)) < 1.1 * (1 << 20)
    assert sum("and ends" in text for text in caplog.messages) == 1
    assert len(seen.heard) < 200
