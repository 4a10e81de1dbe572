"""Source cards on disk: `card.safetensors` beside the bundle's weights, facts in its header."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sfda.errors import BadInput
from sfda.problems.classification.card import Card, CardFacts

FILE = "card.safetensors"


def write_card(folder: Path, card: Card) -> None:
    """Put the card into a bundle's folder, in one step."""
    part = folder / f".{FILE}.{os.getpid()}"
    tensors = {name: tensor.contiguous() for name, tensor in card.tensors.items()}
    save_file(tensors, part, metadata={"facts": card.facts.model_dump_json()})
    os.replace(part, folder / FILE)


def read_card(folder: Path) -> Card | None:
    """The card of a bundle, None where it has none. Raises BadInput for one that is damaged."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            facts = CardFacts.model_validate_json((opened.metadata() or {})["facts"])
            return Card(facts, {name: opened.get_tensor(name) for name in list(opened.keys())})
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadInput(f"{file} is damaged ({error}); make it anew with `sfda card`") from error
