"""Images that are links: within their folder they are good, out of it they are refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda.errors import BadInput
from sfda.formats.image_files import image_files
from sfda.formats.readers import FileReader, Folder

OUT = r"leads out of .*, to .*; put the file itself there"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("target/more/one.png", "source/secret.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        Image.fromarray(np.full((4, 4), len(name), np.uint8)).save(file)
    return tmp_path / "target"


def read(folder: Path, name: str, what: str = "image") -> int:
    return int(np.asarray(FileReader(Folder(folder), (name,), what).image(0)).flat[0])


def links(folder: Path) -> dict[str, Path]:
    """Every kind of link out: to a file, a chain of links, to a folder, absolute or relative."""
    source = folder.parent / "source"
    (folder / "direct.png").symlink_to(source / "secret.png")
    (folder / "relative.png").symlink_to("../source/secret.png")
    (folder / "first.png").symlink_to("direct.png")
    (folder / "opened").symlink_to(source)
    names = ("direct.png", "relative.png", "first.png", "opened/secret.png")
    return {name: folder / name for name in names}


def test_a_link_out_is_refused_when_it_is_read(folder):
    for name in links(folder):
        for what in ("image", "mask"):
            with pytest.raises(BadInput, match=OUT):
                read(folder, name, what)
        with pytest.raises(BadInput, match=OUT):
            FileReader(Folder(folder), (name,)).size(0)
    with pytest.raises(BadInput, match=OUT):
        read(folder, "../source/secret.png")


@pytest.mark.parametrize("name", ["direct.png", "relative.png", "first.png", "opened/secret.png"])
def test_a_link_out_is_refused_when_a_folder_or_list_is_read(folder, name):
    every = links(folder)
    for other in set(every) - {name}:
        if other != "direct.png" or name != "first.png":
            (folder / Path(other).parts[0]).unlink(missing_ok=True)
    with pytest.raises(BadInput, match=OUT):
        image_files(folder)
    (folder / "list.txt").write_text(f"{name}\n")
    with pytest.raises(BadInput, match=OUT):
        image_files(folder / "list.txt")


def test_links_within_and_a_folder_that_is_one_are_good(folder):
    (folder / "relative.png").symlink_to("more/one.png")
    (folder / "absolute.png").symlink_to(folder / "more" / "one.png")
    (folder / "again").symlink_to("more")
    (folder.parent / "data").symlink_to(folder)
    for root in (folder, folder.parent / "data"):
        assert {"relative.png", "absolute.png"} <= set(image_files(root))
        for name in ("relative.png", "absolute.png", "again/one.png"):
            assert read(root, name) == len("target/more/one.png")


def test_links_in_circles_and_pipes_are_no_images(folder):
    (folder / "back").symlink_to(".")
    (folder / "more" / "up").symlink_to("..")
    (folder / "itself").symlink_to("itself")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "one.png").touch()
    os.mkfifo(folder / "pipe.png")
    (folder / "linked.png").symlink_to("pipe.png")
    (folder / "absent.png").symlink_to("nothing.png")  # told of as missing where it is read
    assert list(image_files(folder)) == ["absent.png", "more/one.png"]


def test_a_link_that_is_swapped_after_the_look_is_not_followed(folder, monkeypatch):
    (folder / "again").symlink_to("more")
    name, look = "more/one.png", os.path.realpath

    def swapped(path, **more):
        real = look(path, **more)
        if str(path).endswith("one.png"):
            (folder / name).unlink()
            (folder / name).symlink_to(folder.parent / "source" / "secret.png")
        return real

    monkeypatch.setattr(os.path, "realpath", swapped)
    with pytest.raises(BadInput, match="cannot be read"):
        read(folder, "again/one.png")  # by a link that is good, so that there is a look before
