"""One scan of the target, kept: what is replayed is what was seen, and an alteration is noticed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from torch import nn

from sfda.errors import BadInput
from sfda.inference import prediction_files as predict
from sfda.inference import predictions
from sfda.inference.predictions import verify_predictions
from sfda.inference.pseudo_labels import keep_pseudo_labels
from sfda.problems.classification.inference import replaying
from sfda.types import Seen
from sfda.weights.bundle import network_digest


class Counted:
    """A scan that counts how often it is really made."""

    def __init__(self, images: np.ndarray) -> None:
        self.look, self.made = small.look(images), 0

    def __call__(self, network: nn.Module) -> Iterator[Seen]:
        self.made += 1
        return self.look(network)


def outputs(look, network) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All rows of a scan as one: rows, features, logits."""
    seen = list(look(network))
    return tuple(
        torch.cat(part)
        for part in (
            [s.rows for s in seen],
            [s.output.features for s in seen],
            [s.output.logits for s in seen],
        )
    )


def shuffled(look):
    """The same scan with its rows in another order, in batches across the shards."""

    def other(network: nn.Module) -> Iterator[Seen]:
        rows, features, logits = outputs(look, network)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        kind = type(next(iter(look(network))).output)
        for part in order.split(13):
            yield Seen(rows[part], kind(features[part], logits[part]))

    return other


@pytest.fixture
def images():
    inputs = small.target_arrays()
    return inputs["x"][inputs["split"] == 0]


def keep(look, folder: Path, size: int, network: nn.Module | None = None):
    network = network or small.source()
    digest = network_digest(network, small.SPEC)
    return keep_pseudo_labels(look, network, small.SPEC, folder, size=size, source_sha256=digest)


@pytest.mark.parametrize("shard", [20, 48, 16_384])
def test_a_replay_is_what_a_live_scan_sees_whatever_the_shards(
    tmp_path, monkeypatch, images, shard
):
    monkeypatch.setattr(predictions, "SHARD", shard)
    live, network = Counted(images), small.source()
    ref = keep(shuffled(live.look), tmp_path / "kept", 48)
    replayed = outputs(replaying(live, ref, small.SPEC), network)
    assert live.made == 0
    for remaining, seen in zip(replayed, outputs(live.look, network), strict=True):
        assert torch.equal(remaining, seen)
    assert len(list((tmp_path / "kept").glob("features-*.npy"))) == -(-48 // shard)
    verify_predictions(ref)


def test_labels_and_confidences_are_kept_beside_the_features(tmp_path, images):
    ref = keep(small.look(images), tmp_path / "kept", 48)
    probs = outputs(small.look(images), small.source())[2].softmax(1)
    labels = np.load(tmp_path / "kept" / "labels-00000.npy")
    confidences = np.load(tmp_path / "kept" / "confidences-00000.npy")
    assert labels.tolist() == probs.argmax(1).tolist()
    assert np.allclose(confidences, probs.amax(1))
    by_hand = np.histogram(confidences, bins=20, range=(0, 1))[0].tolist()
    assert ref.profile["confidence_histogram"] == by_hand
    assert ref.profile["mean_confidence"] == pytest.approx(float(probs.amax(1).mean()))
    counts = np.bincount(labels, minlength=3).tolist()
    assert ref.profile["classes"] == dict(zip(small.CLASSES, counts, strict=True))
    assert (ref.count, sum(counts)) == (48, 48)


def test_a_network_that_has_learnt_anything_is_truly_scanned(tmp_path, images):
    live, network = Counted(images), small.source()
    look = replaying(live, keep(live.look, tmp_path / "kept", 48), small.SPEC)
    with torch.no_grad():
        network.backbone.body[1].running_mean[0] += 1e-3
    seen, truth = outputs(look, network), outputs(live.look, network)
    assert live.made == 1
    assert torch.equal(seen[2], truth[2])
    assert not torch.equal(seen[2], outputs(look, small.source())[2])
    assert live.made == 1


@pytest.mark.parametrize("spoil", ["alter", "delete"])
@pytest.mark.parametrize("name", ["index.json", "features-00001.npy", "labels-00000.npy"])
def test_an_alteration_is_noticed(tmp_path, monkeypatch, images, name, spoil):
    monkeypatch.setattr(predictions, "SHARD", 30)
    ref = keep(small.look(images), tmp_path / "kept", 48)
    verify_predictions(ref)
    file = tmp_path / "kept" / name
    content = file.read_bytes()
    file.unlink()
    if spoil == "alter":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BadInput, match=r"kept.*(incomplete|altered); delete "):
        verify_predictions(ref)


def test_a_scan_that_breaks_off_leaves_nothing_and_spoils_nothing(tmp_path, images):
    ref = keep(small.look(images), tmp_path / "kept", 48)

    def breaks(network: nn.Module) -> Iterator[Seen]:
        rows, features, logits = outputs(small.look(images), network)
        kind = type(next(iter(small.look(images)(network))).output)
        yield Seen(rows[:5], kind(features[:5], logits[:5]))
        raise KeyboardInterrupt

    for folder in ("kept", "new"):
        with pytest.raises(KeyboardInterrupt):
            keep(breaks, tmp_path / folder, 48)
    verify_predictions(ref)
    assert not (tmp_path / "new").exists()


def test_answers_take_their_place_when_all_are_there(tmp_path):
    out = tmp_path / "out"

    def write(masks: list[str], fault: Exception | None = None) -> None:
        with predict._whole_in(out) as part:
            (part / "masks").mkdir()
            for name in masks:
                (part / "masks" / name).write_text(name)
            if fault:
                raise fault
            (part / "predictions.csv").write_text(",".join(f"masks/{name}" for name in masks))

    write(["a", "b"])
    with pytest.raises(OSError, match="full"):
        write(["c"], OSError("full"))
    assert sorted(path.name for path in out.iterdir()) == ["masks", "predictions.csv"]
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["a", "b"]
    write(["c"])
    assert [path.name for path in (out / "masks").iterdir()] == ["c"]
    assert (out / "predictions.csv").read_text() == "masks/c"


@pytest.mark.parametrize(
    ("strange", "message"),
    [
        ("masks/truth.png", "truth.png was not made by `sfda predict`"),
        ("masks/deep/truth.png", "truth.png was not made by `sfda predict`"),
        ("predictions.csv/mine", "is a folder"),
        ("masks", "masks is no folder"),
        (".", "is no folder"),
    ],
)
def test_what_a_person_has_there_is_not_replaced(strange, message, tmp_path):
    out = tmp_path / "out"
    file = out / strange
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    if strange != "predictions.csv/mine" and strange != ".":
        (out / "predictions.csv").write_text("file,mask\na,masks/a.png\n")

    def write() -> None:
        with predict._whole_in(out) as part:
            (part / "masks").mkdir()
            (part / "masks" / "a.png").touch()
            (part / "predictions.csv").touch()

    with pytest.raises(BadInput, match=message):
        write()
    assert file.read_text() == "mine"


def test_a_link_to_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "masks").symlink_to(tmp_path / "own")
    with (
        pytest.raises(BadInput, match="masks is no folder"),
        predict._whole_in(tmp_path / "out") as part,
    ):
        (part / "masks").mkdir()
    assert (tmp_path / "out" / "masks").is_symlink()


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.json"])
@pytest.mark.parametrize("text", ["mine,yours\n1,2\n", "", "\0", None])
def test_a_table_of_a_person_is_not_replaced(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text) if text is not None else file.symlink_to(tmp_path / "absent")
    with pytest.raises(BadInput, match=f"{name} (was not made by|is a link)"):
        predict._refuse_other_table(tmp_path / "predictions.csv", ("file", "label"))


def test_a_table_of_an_earlier_call_is_replaced_and_one_for_another_problem_is_not(tmp_path):
    table = tmp_path / "predictions.csv"
    (tmp_path / "predictions.json").touch()
    for old, new in (
        ("file,label,confidence", "file,label,confidence"),
        ("file,labels,probability:a", "file,labels,probability:b,probability:c"),
        ("file,a:x,a:y,a:score", "file,b:x,b:y,b:score"),
        ("file,mask,confidence,a", "file,mask,confidence,b,c"),
    ):
        table.write_text(f"{old}\n")
        predict._refuse_other_table(table, new.split(","))
        for other in ("file,label", "file,label,doctor", "file,labels", "file,mask", "file,a:x"):
            with pytest.raises(BadInput, match="with such a model"):
                predict._refuse_other_table(table, other.split(","))
