"""The card of a source model, made of what it says of its own labelled data."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sfda.errors import BadInput
from sfda.state_folder import disk_errors, one_at_a_time
from sfda.weights.bundle import bundle_digest, read_spec
from sfda.weights.bundle_files import copy_files
from sfda.weights.source_card import Card, attach_card


def copy_with_card(bundle: Path, card: Card, folder: Path) -> str:
    """A copy of a bundle that carries this card, at `folder`; one that is there already stays,
    unless its spec does not state its card, as 0.1.0 wrote them.

    The copy's digest: it covers the card, and so is another than the bundle's.
    """
    with (
        disk_errors(f"the card in {folder}"),
        one_at_a_time(folder),
        tempfile.TemporaryDirectory(dir=folder.parent) as scratch,
    ):
        fresh = Path(scratch, "bundle")
        copy_files(bundle, fresh)
        attach_card(fresh, card)
        if folder.is_dir() and not _states_card(folder):
            folder.rename(Path(scratch, "earlier"))
        if not folder.is_dir():
            fresh.rename(folder)
        return bundle_digest(folder)


def _states_card(folder: Path) -> bool:
    """Whether a bundle is whole, and its digest covers a card."""
    try:
        return read_spec(folder).card_sha256 is not None
    except BadInput:
        return False
