"""A manifest finds its images after a move, or says what would."""

import shutil
import zipfile

import pytest
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.readers import files_of
from sfda.manifests.verify import verify_manifest


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "data" / "lab" / "site"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 1, 2)).save(folder / f"{number}.png")
    return folder


def made(images, out, monkeypatch, data):
    monkeypatch.setenv("SFDA_DATA", str(data))
    return build_manifest(images, problem="classification", out=out)


def moved(path, folder):
    folder.mkdir(parents=True)
    for file in path.parent.iterdir():
        shutil.copy(file, folder)
    return folder / path.name


@pytest.mark.parametrize(("data", "root"), [("lab", "site"), (".", "lab/site"), ("lab/site", "")])
def test_below_the_data_folder_a_manifest_moves_by_itself(
    tmp_path, site, monkeypatch, data, root, caplog
):
    (tmp_path / "made").mkdir()
    path = made(site, tmp_path / "made" / "m.yaml", monkeypatch, tmp_path / "data" / data)
    assert open_manifest(path).root == root
    assert not caplog.text
    assert verify_manifest(moved(path, tmp_path / "far" / "away" / "from")).ok


def test_outside_of_it_that_is_said_and_the_remedy_works(tmp_path, site, monkeypatch, caplog):
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    path = made(site, tmp_path / "a" / "b" / "m.yaml", monkeypatch, other)
    assert open_manifest(path).root == "../../data/lab/site"
    assert f"with SFDA_DATA={site.parent} it could move by itself" in caplog.text
    assert verify_manifest(path).ok
    again = moved(path, tmp_path / "far" / "away" / "from")
    with pytest.raises(BadInput, match=r"relative to itself.*write `root: NAME`"):
        files_of(open_manifest(again))
    monkeypatch.setenv("SFDA_DATA", str(site.parent))
    (fault,) = verify_manifest(again).faults
    assert "write `root: site`" in fault
    again.write_text(again.read_text().replace("root: ../../data/lab/site", "root: site"))
    assert verify_manifest(again).ok


def test_another_data_folder_is_named_with_what_it_lacks(tmp_path, site, monkeypatch):
    (tmp_path / "made").mkdir()
    path = made(site, tmp_path / "made" / "m.yaml", monkeypatch, site.parent)
    monkeypatch.setenv("SFDA_DATA", str(tmp_path))
    (fault,) = verify_manifest(path).faults
    assert f"set SFDA_DATA to the folder that holds 'site', it is {tmp_path}" in fault


def test_a_zip_is_looked_for_alike(tmp_path, site, monkeypatch):
    with zipfile.ZipFile(site.parent / "site.zip", "w") as archive:
        archive.write(site / "0.png", "0.png")
    (tmp_path / "a").mkdir()
    path = made(site.parent / "site.zip", tmp_path / "a" / "m.yaml", monkeypatch, tmp_path / "a")
    again = moved(path, tmp_path / "far" / "away" / "from")
    monkeypatch.setenv("SFDA_DATA", str(tmp_path / "data"))
    (fault,) = verify_manifest(again).faults
    assert "write `root: lab`" in fault
