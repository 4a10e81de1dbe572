"""The table of a guide on disk: tensors in one safetensors file, and a spec of what made them.

A table lies below the home under the digest of all that fixes it, so that the same guide looks at
the same target once (docs/methods/guided.md, section 1.7).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfda.config import Config
from sfda.errors import BadInput
from sfda.inference.predictions import start_predictions
from sfda.manifests.digests import hash_file
from sfda.refs import Digest

TENSORS, ORIGIN = "table.safetensors", "origin.json"


GuideKind = Literal["csv", "model", "timm", "torchvision", "clip", "self"]


class GuideRef(Config):
    """A guide's table of one target, by address and content, and its profile, a line each."""

    folder: str
    sha256: Digest  # over its tensors and what it was made of
    kind: GuideKind
    temperature: float | Literal["match"]
    text: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuideTable:
    """What a guide says by itself, whatever the source model: row by row, in the order of the
    target; classes in the order of the model's. Logits or features, or both, are there.
    """

    answered: Bool[Tensor, " N"]
    covers: Bool[Tensor, " C"]  # false: it cannot name this class
    logits: Float[Tensor, "N C"] | None = None
    features: Float[Tensor, "N G"] | None = None
    text: Float[Tensor, "C G"] | None = None

    def check(self, names: Sequence[str]) -> None:
        """Raise BadInput that names the first row with numbers that are not finite; `names` are
        those of the rows.
        """
        for what, values in (("logits", self.logits), ("features", self.features)):
            if values is None:
                continue
            odd = (~values.isfinite()).any(1).nonzero().flatten()
            if len(odd):
                raise BadInput(
                    f"the guide's {what} of {names[int(odd[0])]} are not finite; mend what the "
                    "guide says of it, or take another guide"
                )

    def rows(self, rows: Tensor) -> GuideTable:
        """Some rows of it."""
        logits, features = (None if v is None else v[rows] for v in (self.logits, self.features))
        return GuideTable(self.answered[rows], self.covers, logits, features, self.text)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        every = {
            "answered": self.answered,
            "covers": self.covers,
            "logits": self.logits,
            "features": self.features,
            "text": self.text,
        }
        return {name: value.contiguous() for name, value in every.items() if value is not None}


def write_table(table: GuideTable, folder: Path, origin: Mapping[str, object]) -> str:
    """Write a table; it appears whole or not at all. Its digest."""
    part = start_predictions(folder)
    save_file(table.tensors, part / TENSORS)
    text = json.dumps({**origin, "file": hash_file(part / TENSORS)}, sort_keys=True, indent=1)
    (part / ORIGIN).write_text(text, encoding="utf-8")
    part.rename(folder)
    return hashlib.sha256(text.encode()).hexdigest()


def stored_digest(folder: Path) -> str | None:
    """The digest of a table that is there already; None where there is none."""
    try:
        return hash_file(folder / ORIGIN)
    except OSError:
        return None


def read_table(folder: Path, sha256: str) -> GuideTable:
    """A table that was written. Raises BadInput where it is not the one of this digest."""
    try:
        whole = hash_file(folder / ORIGIN) == sha256
        stated = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))["file"] if whole else ""
        if stated != hash_file(folder / TENSORS):
            raise BadInput(f"{folder} was altered; delete that folder and start again")
        tensors = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"the guide's table in {folder} cannot be read: {error}") from None
    return GuideTable(**tensors)


def all_answered(size: int, classes: int) -> tuple[Bool[Tensor, " N"], Bool[Tensor, " C"]]:
    """Every row answered, every class covered: what most guides begin with."""
    return torch.ones(size, dtype=torch.bool), torch.ones(classes, dtype=torch.bool)
