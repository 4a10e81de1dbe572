"""What a card keeps of rehearsals: numbers with known names, bounded, whoever wrote it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sfda.bounds.limits import CARD_REHEARSALS
from sfda.errors import BadInput
from sfda.weights.rehearsals import Rehearsals
from sfda.weights.source_card import CARD_FILE, Card, CardFacts, read_card, write_card

PAIR = {
    "kind": "noise", "severity": 1, "seed": 0, "rows": 100, "judged": 100, "change": 0.1,
    "before": {"agreement": 0.5}, "after": {"agreement": 0.6}, "gain": 1.5,
}  # fmt: skip
DONE = {
    "problem": "classification", "method": "shot", "settings_sha256": "a" * 64,
    "model_sha256": "b" * 64, "epochs": 3, "planned": 3, "stopped": 1, "predicted": 1,
    "right": 1, "seconds": 2.0, "pairs": [PAIR],
}  # fmt: skip
FACTS = {
    "classes": ("a", "b"), "source_sha256": "c" * 64, "manifest": "toy", "manifest_sha256":
    "d" * 64, "split": "val", "count": 10, "metrics": {"macro_accuracy": 0.9}, "temperature": 1.0,
}  # fmt: skip


def card(rehearsals: object = None) -> Card:
    facts = CardFacts.model_validate({**FACTS, "rehearsals": rehearsals})
    return Card(facts, {"class_prior": torch.ones(2) / 2})


def written(folder, facts: dict[str, object]) -> None:
    """A card as a stranger might write it: his own words and no digest."""
    words = json.dumps({"facts": json.dumps(facts), "sha256": ""})
    save_file({"class_prior": torch.ones(2) / 2}, folder / CARD_FILE, metadata={"card": words})


def test_rehearsals_come_back_as_they_were(tmp_path):
    write_card(tmp_path, card(DONE))
    again = read_card(tmp_path).facts.rehearsals
    assert again == Rehearsals.model_validate(DONE)
    assert again.unfinished == 1
    assert again.text == (
        "1 of 3 rehearsals with shot in 2 s: 1 gained; left out one by one, 1 of 1 are told right "
        "by those like them; 1 were stopped: no epoch of them could be taken; the budget left out 1"
    )


def test_a_card_without_them_is_the_one_that_earlier_versions_wrote(tmp_path):
    write_card(tmp_path, card())
    with safe_open(tmp_path / CARD_FILE, "pt") as file:
        facts = json.loads(json.loads(file.metadata()["card"])["facts"])
    assert set(facts) == set(FACTS)
    written(tmp_path, {**FACTS, "classes": ["a", "b"]})
    assert read_card(tmp_path).facts.rehearsals is None


def test_as_many_as_may_be_fit_into_a_card(tmp_path):
    many = {
        **DONE,
        "planned": CARD_REHEARSALS.most,
        "stopped": 0,
        "pairs": [PAIR] * CARD_REHEARSALS.most,
    }
    write_card(tmp_path, card(many))
    assert len(read_card(tmp_path).facts.rehearsals.pairs) == CARD_REHEARSALS.most


@pytest.mark.parametrize(
    "change",
    [
        {"gain": float("nan")},
        {"gain": 1e9},
        {"change": float("inf")},
        {"change": -0.1},
        {"kind": "an image"},
        {"before": {"agreement": 0.5, "pixel 0": 0.1}, "after": {"agreement": 1, "pixel 0": 0.1}},
        {"before": {"agreement": 0.5}, "after": {"nuclear_norm": 0.5}},
        {"after": {"agreement": float("nan")}},
        {"after": {"agreement": 1e6}},
        {"picture": "aGVsbG8="},
        {"rows": 0},
        {"seed": -1},
    ],
)
def test_a_strange_rehearsal_is_refused_when_the_card_is_opened(tmp_path, change):
    written(tmp_path, {**FACTS, "rehearsals": {**DONE, "pairs": [PAIR | change]}})
    with pytest.raises(BadInput, match=r"is damaged .*`sfda card`"):
        read_card(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"pairs": [PAIR] * (CARD_REHEARSALS.most + 1), "planned": CARD_REHEARSALS.most},
        {"planned": 10**9},
        {"planned": 1},
        {"right": 2},
        {"predicted": 2, "right": 2},
        {"method": "<b>shot\n"},
        {"method": "x" * 257},
        {"problem": "everything"},
        {"model_sha256": "b"},
        {"seconds": float("nan")},
        {"says": "trust me"},
    ],
)
def test_strange_rehearsals_are_refused_when_the_card_is_opened(tmp_path, change):
    written(tmp_path, {**FACTS, "rehearsals": {**DONE, **change}})
    with pytest.raises(BadInput, match=r"is damaged .*`sfda card`"):
        read_card(tmp_path)
