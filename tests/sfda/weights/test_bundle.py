"""Bundles: what goes in comes out, an edit shows, and half a bundle never appears."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfda.adaptation.source_card import copy_with_card
from sfda.errors import BadInput
from sfda.problems.classification.network import build_from_spec, make_spec
from sfda.problems.registry import read_bundle
from sfda.weights import bundle as bundles
from sfda.weights import source_card
from sfda.weights.bundle import bundle_digest, network_digest, read_spec, write_bundle
from sfda.weights.bundle_files import copy_files
from sfda.weights.source_card import Card, CardFacts, attach_card, read_card, write_card

SPEC = make_spec("sfda:tiny", ("a", "b", "c"), bottleneck_dim=8)
FACTS = CardFacts(
    classes=("a",), source_sha256="0" * 64, manifest="m", manifest_sha256="0" * 64, split="test",
    count=1, metrics={}, temperature=1.0,
)  # fmt: skip
CARD = Card(FACTS, {"class_prior": torch.ones(1)})


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = build_from_spec(SPEC)
    made(torch.rand(4, 1, 16, 16))  # running statistics move off their start
    return made.eval()


@pytest.mark.parametrize("head", ["bottleneck", "plain"])
@pytest.mark.parametrize("arch", ["sfda:tiny", "sfda:lenet", "torchvision:squeezenet1_1"])
def test_what_goes_in_comes_out(tmp_path, arch, head):
    spec = make_spec(arch, ("a", "b", "c"), head=head, bottleneck_dim=8)
    network = build_from_spec(spec).eval()
    digest = write_bundle(tmp_path / "deep" / "model", network, spec)
    again, result = read_bundle(tmp_path / "deep" / "model", sha256=digest)
    assert result == spec
    assert not again.training
    images = torch.rand(2, spec.input.depth, *spec.input.size)
    with torch.no_grad():
        assert torch.equal(again(images).logits, network(images).logits)
    assert digest == network_digest(network, spec) == network_digest(again, spec)
    assert digest == bundle_digest(tmp_path / "deep" / "model")


def test_digest_depends_on_every_weight_and_every_word_of_the_spec(network):
    first = network_digest(network, SPEC)
    assert first == network_digest(network, SPEC.model_copy())
    for change in ({"classes": ("a", "c", "b")}, {"bottleneck_dropout": 0.1}):
        assert network_digest(network, SPEC.model_copy(update=change)) != first
    spec = SPEC.model_copy(update={"input": SPEC.input.model_copy(update={"mean": (0.4,)})})
    assert network_digest(network, spec) != first
    for name, value in network.state_dict().items():
        remaining = value.clone()
        value.view(-1)[0] += 1
        assert network_digest(network, SPEC) != first, name
        value.copy_(remaining)
    assert network_digest(network, SPEC) == first


def test_digest_is_the_recorded_one():
    """Digests of models that are out there must not move; if this one does, all of them do."""
    network = build_from_spec(SPEC)
    for number, value in enumerate(network.state_dict().values()):
        value.fill_(number)
    recorded = "e1866de4761d1b144e307317442ea2027838040ddecb28febc2a62bfdd26d0d7"
    assert network_digest(network, SPEC) == recorded


def test_digest_does_not_depend_on_the_layout_of_the_files(tmp_path, network):
    digest = write_bundle(tmp_path / "model", network, SPEC)
    weights, spec = tmp_path / "model" / "weights.safetensors", tmp_path / "model" / "spec.json"
    tensors = load_file(weights)
    backwards = {name: tensors[name] for name in sorted(tensors, reverse=True)}
    save_file(backwards, weights, metadata={"sha256": digest, "made": "elsewhere"})
    held = json.loads(spec.read_text())
    spec.write_text(json.dumps(dict(reversed(held.items()))))
    read_bundle(tmp_path / "model", sha256=digest)


def test_an_edited_bundle_is_refused(tmp_path, network):
    folder = tmp_path / "model"
    digest = write_bundle(folder, network, SPEC)
    spec = folder / "spec.json"
    whole = spec.read_text()
    spec.write_text(whole.replace('"b"', '"x"'))
    with pytest.raises(BadInput, match="was changed after it was written"):
        read_bundle(folder)
    assert bundle_digest(folder) != digest
    spec.write_text(whole)
    raw = bytearray((folder / "weights.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(raw)
    with pytest.raises(BadInput, match="was changed after it was written"):
        read_bundle(folder)


def test_another_model_than_the_one_named_is_refused(tmp_path, network):
    write_bundle(tmp_path / "model", network, SPEC)
    with pytest.raises(BadInput, match="not 000000000000"):
        read_bundle(tmp_path / "model", sha256="0" * 64)


@pytest.mark.parametrize("name", ["weights.safetensors", "spec.json"])
def test_a_missing_or_broken_file_is_named(tmp_path, network, name):
    folder = tmp_path / "model"
    write_bundle(folder, network, SPEC)
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(BadInput, match=name):
        read_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(BadInput, match=r"not a .*model bundle"):
        read_bundle(folder)


def test_a_spec_with_an_unknown_word_says_which(tmp_path, network):
    write_bundle(tmp_path / "model", network, SPEC)
    path = tmp_path / "model" / "spec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": 1}))
    with pytest.raises(BadInput, match="colour"):
        read_spec(tmp_path / "model")


def test_plain_safetensors_without_a_digest_are_no_bundle(tmp_path, network):
    write_bundle(tmp_path / "model", network, SPEC)
    path = tmp_path / "model" / "weights.safetensors"
    save_file(load_file(path), path)
    with pytest.raises(BadInput, match="states no digest"):
        read_bundle(tmp_path / "model")


def test_weights_that_are_not_numbers_are_not_written(tmp_path, network):
    with torch.no_grad():
        network.head.bias[0] = float("nan")
    with pytest.raises(BadInput, match=r"head\.bias"):
        write_bundle(tmp_path / "model", network, SPEC)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_nothing(tmp_path, network, monkeypatch):
    with pytest.raises(BadInput, match="cannot write"):
        write_bundle(tmp_path / "model", network, SPEC, card=tmp_path / "absent.safetensors")
    monkeypatch.setattr(bundles, "save_file", no_space)
    with pytest.raises(BadInput, match="cannot write"):
        write_bundle(tmp_path / "model", network, SPEC)
    assert not list(tmp_path.iterdir())


def no_space(*_, **__):
    raise OSError("No space left on device")


def test_an_interrupted_write_leaves_the_model_before_it(tmp_path, network):
    first = write_bundle(tmp_path / "model", network, SPEC)
    with torch.no_grad():
        network.head.bias += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "save_file", no_space)
        with pytest.raises(BadInput, match="cannot write"):
            write_bundle(tmp_path / "model", network, SPEC)
    assert bundle_digest(tmp_path / "model") == first
    second = write_bundle(tmp_path / "model", network, SPEC)
    assert second != first
    assert bundle_digest(tmp_path / "model") == second
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_place_that_cannot_be_written_is_told(tmp_path, network):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="cannot write"):
        write_bundle(tmp_path / "file" / "model", network, SPEC)


@pytest.mark.parametrize("kind", ["file", "link", "beside a model", "another spec.json"])
def test_what_is_no_bundle_alone_is_not_replaced(tmp_path, network, kind):
    there, mine = tmp_path / "there", tmp_path / "thesis.txt"
    mine.write_text("mine")
    if kind == "file":
        there = mine
    elif kind == "link":
        there.symlink_to(tmp_path)
    elif kind == "beside a model":
        write_bundle(there, network, SPEC)
        mine = mine.rename(there / "thesis.txt")
    else:
        there.mkdir()
        mine = mine.rename(there / "spec.json")
    why = r"is no folder|is a link|holds something else|cannot be used"
    with pytest.raises(BadInput, match=why):
        write_bundle(there, network, SPEC)
    assert mine.read_text() == "mine"


def test_a_folder_with_something_else_is_left_alone(tmp_path, network):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    with pytest.raises(BadInput, match="something else"):
        write_bundle(tmp_path / "photos", network, SPEC)
    assert (tmp_path / "photos" / "cat.jpg").exists()


def card_file(folder, card=CARD):
    folder.mkdir(exist_ok=True)
    write_card(folder, card)
    return folder / "card.safetensors"


def test_a_card_is_carried_along_and_covered(tmp_path, network):
    card = card_file(tmp_path / "made")
    folder = tmp_path / "model"
    digest = write_bundle(folder, network, SPEC, card=card)
    assert (folder / "card.safetensors").read_bytes() == card.read_bytes()
    assert digest == bundle_digest(folder) != network_digest(network, SPEC)
    again, spec = read_bundle(folder, sha256=digest)
    assert digest == network_digest(again, spec)
    assert spec.model_copy(update={"card_sha256": None}) == SPEC
    assert read_card(folder).facts == FACTS
    # another card, whole in itself, is not the one of this model
    card_file(folder, Card(FACTS.model_copy(update={"count": 2}), CARD.tensors))
    for opened in (read_bundle, bundle_digest, read_card):
        with pytest.raises(BadInput, match=r"card\.safetensors was changed or exchanged"):
            opened(folder)
    # as an adapted model has it until it is registered
    (folder / "card.safetensors").unlink()
    assert bundle_digest(folder) == digest
    assert read_card(folder) is None
    spec_file = folder / "spec.json"
    spec_file.write_text(spec_file.read_text().replace(spec.card_sha256, "0" * 64))
    with pytest.raises(BadInput, match="was changed after it was written"):
        read_bundle(folder)


def test_a_model_without_a_card_is_written_as_before(tmp_path, network):
    """Whoever has the last version can open it, and its digest is the one it had there."""
    write_bundle(tmp_path / "model", network, SPEC)
    assert "card_sha256" not in (tmp_path / "model" / "spec.json").read_text()


def test_a_card_of_an_older_version_is_read(tmp_path, network):
    folder = tmp_path / "model"
    digest = write_bundle(folder, network, SPEC)
    card_file(folder)
    assert read_bundle(folder, sha256=digest)[1] == SPEC
    assert read_card(folder).facts == FACTS


def test_a_model_that_gets_a_card_gets_a_digest(tmp_path, network):
    folder = tmp_path / "model"
    before = write_bundle(folder, network, SPEC)
    attach_card(folder, CARD)
    again, spec = read_bundle(folder)
    assert bundle_digest(folder) == network_digest(again, spec) != before
    assert network_digest(again, SPEC) == before
    assert read_card(folder).facts == FACTS


def test_a_card_that_was_changed_is_refused(tmp_path):
    facts, file = FACTS, card_file(tmp_path)
    whole = file.read_bytes()
    assert read_card(tmp_path).facts == facts
    for before, after in ((b'count\\\\\\":1', b'count\\\\\\":2'), (whole[-4:], b"\0\0\0\0")):
        assert before in whole
        file.write_bytes(whole.replace(before, after))
        with pytest.raises(BadInput, match="changed after it was written"):
            read_card(tmp_path)
    # as version 0.1.0 wrote it
    save_file({"class_prior": torch.ones(1)}, file, metadata={"facts": facts.model_dump_json()})
    assert read_card(tmp_path).facts == facts


@pytest.mark.parametrize(
    "odd",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": 1e300},
        {"count": -(10**30)},
        {"count": 0},
        {"count": 2**53},
        {"manifest": "m\x1b]0;title\x07"},
        {"split": "s" * 300},
        {"classes": ["a\x1b[2J"]},
        {"metrics": {"accuracy\x1b[2J": 1.0}},
        {"source_sha256": "somewhere"},
    ],
    ids=str,
)
def test_facts_that_no_card_has_are_refused(tmp_path, odd):
    stated = json.dumps({**json.loads(FACTS.model_dump_json()), **odd})
    words = json.dumps({"facts": stated, "sha256": ""})
    save_file({"class_prior": torch.ones(1)}, card_file(tmp_path), metadata={"card": words})
    with pytest.raises(BadInput, match=rf"damaged .*{next(iter(odd))}") as refused:
        read_card(tmp_path)
    assert "\x1b" not in str(refused.value).replace(r"\x1b", "")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_statistics_that_are_no_numbers_are_refused(tmp_path, number):
    tensors = {**CARD.tensors, "feature_mean": torch.tensor([0.0, number])}
    write_card(tmp_path, Card(FACTS, tensors))
    with pytest.raises(BadInput, match="'feature_mean' holds numbers that are not finite"):
        read_card(tmp_path)


def opened_every_way(folder, tmp_path):
    yield lambda: read_spec(folder)
    yield lambda: read_bundle(folder)
    yield lambda: bundle_digest(folder)
    yield lambda: read_card(folder)
    yield lambda: copy_files(folder, tmp_path / "copy")


@pytest.mark.parametrize("name", ["sfda.py", ".hidden", "MLmodel", "weights.pt", "folder/"])
def test_other_files_in_a_bundle_are_refused(tmp_path, network, name):
    folder = tmp_path / "model"
    write_bundle(folder, network, SPEC)
    (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("x")
    for opened in opened_every_way(folder, tmp_path):
        with pytest.raises(BadInput, match=rf"model holds {name.strip('/')} besides"):
            opened()
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", [".DS_Store", "._spec.json", ".nfs0000000000a1"])
def test_files_that_systems_leave_everywhere_are_not_looked_at(tmp_path, network, name):
    folder = tmp_path / "model"
    write_bundle(folder, network, SPEC)
    digest = bundle_digest(folder)
    (folder / name).symlink_to("/etc/hostname")
    for opened in opened_every_way(folder, tmp_path):
        opened()
    assert bundle_digest(folder) == digest
    assert not os.path.lexists(tmp_path / "copy" / name)


def test_a_file_that_is_gone_after_the_list_is_named(tmp_path, network, monkeypatch):
    write_bundle(tmp_path / "model", network, SPEC)
    monkeypatch.setattr(os, "listdir", lambda _: ["card.safetensors", "spec.json"])
    with pytest.raises(BadInput, match=r"card.safetensors cannot be read: No such file"):
        read_spec(tmp_path / "model")


def test_a_copy_whose_spec_states_no_card_is_made_anew(tmp_path, network):
    """As 0.1.0 left it."""
    source, copy = tmp_path / "model", tmp_path / "cards" / "copy"
    digest = write_bundle(source, network, SPEC)
    copy.parent.mkdir()
    first = copy_with_card(source, CARD, copy)
    assert copy_with_card(source, CARD, copy) == first != digest
    shutil.rmtree(copy)
    copy_files(source, copy)
    write_card(copy, CARD)
    assert bundle_digest(copy) == digest
    assert copy_with_card(source, CARD, copy) == first == bundle_digest(copy)
    assert not [name for name in os.listdir(copy.parent) if name.startswith("tmp")]


@pytest.mark.parametrize("name", ["weights.safetensors", "spec.json", "card.safetensors"])
@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "folder"])
def test_links_and_pipes_in_a_bundle_are_refused(tmp_path, network, name, kind):
    folder = tmp_path / "model"
    write_bundle(folder, network, SPEC)
    file = folder / name
    if file.exists():
        file.rename(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(b"x")
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(tmp_path / name if kind == "link" else tmp_path / "absent")
    for opened in opened_every_way(folder, tmp_path):
        with pytest.raises(BadInput, match=rf"{name} is a link or no regular file"):
            opened()
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "card.safetensors", "spec.json"])
def test_a_link_put_there_after_the_check_is_not_followed(tmp_path, network, monkeypatch, name):
    """What is checked of a file is what is read: each is opened once, never by a link."""
    folder, other = tmp_path / "model", tmp_path / "other"
    for one in (folder, other):
        write_bundle(one, network, SPEC)
        attach_card(one, CARD)

    def swapped(checked):
        if (folder / name).is_file():
            (folder / name).unlink()
            (folder / name).symlink_to(other / name)

    monkeypatch.setattr(bundles, "check_files", swapped)
    monkeypatch.setattr(source_card, "check_files", swapped)
    opened = read_card if name == "card.safetensors" else read_bundle
    with pytest.raises(BadInput, match=name):
        opened(folder)


def test_a_huge_spec_is_not_read(tmp_path, network):
    folder = tmp_path / "model"
    write_bundle(folder, network, SPEC)
    with (folder / "spec.json").open("ab") as file:
        file.truncate(5 * 2**20)
    with pytest.raises(BadInput, match=r"more than 4194304 \(SFDA_LIMIT_SPEC_BYTES"):
        read_bundle(folder)
    (folder / "spec.json").write_text('{"config":' + '{"a":' * 100_000 + "1" + "}" * 100_001)
    with pytest.raises(BadInput, match=r"spec\.json cannot be used"):
        read_bundle(folder)


def test_a_copy_has_the_model_and_its_card(tmp_path, network):
    card = card_file(tmp_path / "made")
    digest = write_bundle(tmp_path / "model", network, SPEC, card=card)
    copy_files(tmp_path / "model", tmp_path / "copy")
    assert bundle_digest(tmp_path / "copy") == digest
    assert (tmp_path / "copy" / "card.safetensors").read_bytes() == card.read_bytes()


def test_tied_and_scattered_weights_are_written(tmp_path, network):
    plain = network_digest(network, SPEC)
    first, second = network.backbone.body[5], network.backbone.body[9]
    second.weight = first.weight  # tied
    convolution = network.backbone.body[8]
    convolution.weight.data = (
        convolution.weight.data.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    )
    assert not convolution.weight.is_contiguous()
    assert network_digest(network, SPEC) == plain  # same numbers, same model
    digest = write_bundle(tmp_path / "model", network, SPEC)
    again, _ = read_bundle(tmp_path / "model", sha256=digest)
    assert torch.equal(again.backbone.body[8].weight, convolution.weight)
    assert torch.equal(again.backbone.body[9].weight, first.weight)


def test_reading_leaves_the_random_numbers_alone(tmp_path, network):
    write_bundle(tmp_path / "model", network, SPEC)
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    read_bundle(tmp_path / "model")
    assert torch.equal(torch.rand(3), want)
