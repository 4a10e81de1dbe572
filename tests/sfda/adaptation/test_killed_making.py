"""A kill while a folder's manifest is made leaves nothing that the next start does not remove."""

from __future__ import annotations

from pathlib import Path

import pytest
from killed import kills
from PIL import Image

from sfda.adaptation.target import as_manifest


def test_a_manifest_of_a_folder_is_made_anew_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = tmp_path / "home", tmp_path / "photos"
    monkeypatch.setenv("SFDA_HOME", str(home))
    folder.mkdir()
    Image.new("L", (4, 4)).save(folder / "a.png")
    assert len(list(kills(lambda: as_manifest(str(folder), lambda: "classification")))) > 5
    made = Path(as_manifest(str(folder), lambda: "classification"))
    folders = [path for path in (home / "manifests").iterdir() if path.is_dir()]
    assert folders == [made.parent]
    assert not list(home.rglob("*.part-*"))
