"""Source cards on disk: `card.safetensors` beside the bundle's weights, facts in its header."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, FiniteFloat
from safetensors.torch import save_file
from torch import Tensor

from sfda.config import Config
from sfda.errors import BadInput
from sfda.refs import Digest, FewClasses, Name
from sfda.weights.bundle import other_card, read_spec, read_verified, write_model_files
from sfda.weights.bundle_files import CARD_FILE, SPEC, check_files, read_small
from sfda.weights.rehearsals import Rehearsals
from sfda.weights.tensor_file import TensorFile

MOST_METRICS = 1_000_000  # one a class and a few more; a limit of what a file of 64 MiB names


def write_card(folder: Path, card: Card) -> None:
    """Put the card into a bundle's folder, in one step. The same card is the same bytes."""
    part = folder / f".{CARD_FILE}.{os.getpid()}"
    tensors = {name: tensor.contiguous() for name, tensor in card.tensors.items()}
    # without rehearsals it is the card that versions before them wrote, and read
    unsaid = None if card.facts.rehearsals else {"rehearsals"}
    facts = card.facts.model_dump_json(exclude=unsaid)
    stated = json.dumps({"facts": facts, "sha256": _digest(facts, tensors)})
    # in a single word: of several the file's writer chooses the order anew each time
    save_file(tensors, part, metadata={"card": stated})
    os.replace(part, folder / CARD_FILE)


def attach_card(folder: Path, card: Card) -> None:
    """Give the bundle in a folder a card, which its spec states from then on.

    That changes the model's digest, since the digest covers the card.
    """
    tensors, spec = read_verified(folder)
    write_card(folder, card)
    write_model_files(folder, tensors, spec, (folder / CARD_FILE).read_bytes())


def read_card(folder: Path) -> Card | None:
    """The card of a bundle, None where it has none. Raises BadInput for one that is damaged, or is
    not the one that the spec states.
    """
    file = folder / CARD_FILE
    check_files(folder)
    if not os.path.lexists(file):
        return None
    try:
        content = read_small(file)
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from error
    if os.path.lexists(folder / SPEC):
        stated = read_spec(folder).card_sha256
        if stated not in (None, hashlib.sha256(content).hexdigest()):
            raise other_card(file)
    try:
        return _card(content)
    except (KeyError, ValueError, RuntimeError, MemoryError) as error:
        why = " ".join(str(error).split())[:300]
        raise BadInput(f"{file} is damaged ({why}); make it anew with `sfda card`") from error


def _card(content: bytes) -> Card:
    """A card out of its file. Raises KeyError or ValueError."""
    opened = TensorFile(io.BytesIO(content))
    # until 0.2.0 the words lay side by side, and version 0.1.0 wrote no digest
    stated = opened.metadata
    if "card" in stated:
        stated = CardWords.model_validate_json(stated["card"]).model_dump()
    facts = CardFacts.model_validate_json(stated["facts"])
    tensors = {name: opened.tensor(name) for name in opened.entries}
    if odd := sorted(n for n, t in tensors.items() if not bool(torch.isfinite(t).all())):
        raise ValueError(f"its {odd[0][:80]!r} holds numbers that are not finite")
    if stated.get("sha256", "") not in ("", _digest(stated["facts"], tensors)):
        raise ValueError("it was changed after it was written")
    for name in ("class_prior", "class_ratio"):
        shares = tensors.get(name, torch.zeros(len(facts.classes)))
        if shares.shape != (len(facts.classes),) or not bool(torch.isfinite(shares).all()):
            raise ValueError(f"its {name} is no share for each of {len(facts.classes)} classes")
    return Card(facts, tensors)


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the facts as they are written and, by name, each tensor's type and bytes."""
    total = hashlib.sha256(facts.encode() + b"\n")
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


class CardWords(Config):
    """What the header of a card's file says: the facts as JSON, and the digest of the card."""

    facts: str
    sha256: str


class CardFacts(Config):
    """The card's part that a person can read."""

    classes: FewClasses
    source_sha256: Digest  # of the model the statistics were taken from
    manifest: Name
    manifest_sha256: Digest
    split: Name
    count: Annotated[int, Field(ge=1, lt=2**53)]
    metrics: Annotated[dict[Name, FiniteFloat], Field(max_length=MOST_METRICS)]
    # divides the logits so that confidence fits accuracy
    temperature: Annotated[float, Field(gt=0, le=1000)]
    rehearsals: Rehearsals | None = None


@dataclass(frozen=True)
class Card:
    """Statistics of a source model on its own data; no image and no label of any one sample.

    `tensors`: `class_prior` [C]; `feature_mean` [D], `feature_covariance` [D, D] and
    `class_feature_mean` [C, D] of what goes into the head; `confidence_histogram` [20] over [0, 1];
    `calibration` [3, 15], per bin the count, the sum of confidences and the hits; and for every
    batch norm `norm.<name>.mean` and `norm.<name>.var`, its source statistics.
    """

    facts: CardFacts
    tensors: dict[str, Tensor]


def missing(card: Card | None, parts: tuple[str, ...]) -> list[str]:
    """Which of these tensors a card lacks; all where there is none."""
    return [name for name in parts if card is None or name not in card.tensors]
