"""OpenMMLab's checkpoints: weights beside a log of training, whose objects are not made.

mmengine writes a dict of `state_dict`, `meta`, `message_hub` and more. The log holds objects of its
own classes, which torch's safe reader refuses by name. Each such name is given a class of ours that
does nothing, so the reader goes on, no foreign code runs, and the weights beside it come out.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

LOGS = (
    "mmengine.",
    "mmcv.",
    "mmdet.",
    "numpy.",
    "builtins.",
    "_codecs.",
    "pathlib.",
    "datetime.",
)
MOST_NAMES = 64  # names that are replaced before a file is given up
ASKED = re.compile(r"GLOBAL (\S+)")


class Inert:
    """Takes all that an object in a pickle may be given, and keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> Inert:
        """One, whatever it is made from."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None:
        """Forget a value."""

    def extend(self, values: object) -> None:
        """Forget values."""

    def update(self, values: object) -> None:
        """Forget values."""


def beside_objects(path: Path) -> dict[str, Any] | None:
    """The content of a checkpoint with `state_dict` and `meta`, its objects inert; None for other
    files, and where objects of other libraries are asked for.
    """
    names: list[str] = []
    while len(names) < MOST_NAMES:
        # one class a name: torch looks replacements up by class
        inert: list[Any] = [(type("Inert", (Inert,), {}), name) for name in names]
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(inert):
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            asked = ASKED.search(str(error))
            name = asked[1].rstrip(".,") if asked else ""
            name = name if "." in name or not name else f"builtins.{name}"
            if not name.startswith(LOGS) or name in names:
                return None
            names.append(name)
            continue
        except Exception:  # whatever a damaged file makes the reader raise: told of by the caller
            return None
        fits = isinstance(content, dict) and {"state_dict", "meta"} <= set(content)
        return {"state_dict": content["state_dict"]} if fits else None
    return None
