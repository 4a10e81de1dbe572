"""What a restricted process can and cannot do; each case is a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sfda.sandbox.landlock import abi

needs = pytest.mark.skipif(abi() < 1, reason="this kernel offers no Landlock")
PROGRAM = """
import os, sys
from pathlib import Path
from sfda.sandbox.landlock import restrict
folder = Path(sys.argv[1])
os.environ["TMPDIR"] = str(folder / "out")
places = "/usr", "/lib", "/lib64", "/etc", "/proc", sys.prefix, sys.base_prefix
read = [*map(Path, places), folder / "data"]
level = restrict(read, [folder / "out", Path("/dev")])
"""


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM + code, str(folder)], capture_output=True, text=True
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("data", "out", "source"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path


@needs
def test_what_is_allowed_goes_on(folder):
    done = run(
        folder,
        """
print((folder / "data" / "file").read_text(), (folder / "out" / "file").read_text())
(folder / "out" / "more").write_text("x")
(folder / "out" / "more").rename(folder / "out" / "moved")
(folder / "out" / "moved").unlink()
print(sorted(os.listdir(folder / "data")))
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "data out\n['file']\n"


@needs
@pytest.mark.parametrize(
    "code",
    [
        "os.listdir(folder)",
        '(folder / "source" / "file").read_text()',
        '(folder / "data" / "file").write_text("x")',
        '(folder / "data" / "new").write_text("x")',
        'os.rename(folder / "out" / "file", folder / "data" / "file2")',
        'os.symlink(folder / "source", folder / "out" / "link"); '
        '(folder / "out" / "link" / "file").read_text()',
        "import subprocess; "
        "subprocess.run(['/bin/cat', str(folder / 'source' / 'file')], check=True)",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
    ],
)
def test_what_is_not_allowed_fails(folder, code):
    done = run(folder, code)
    assert done.returncode != 0
    assert "ermission denied" in done.stderr


@needs
def test_readers_that_python_does_not_see_are_bound(folder):
    from PIL import Image

    for name in ("data", "source"):
        Image.new("L", (4, 4)).save(folder / name / "image.png")
    code = """
import cv2, torchvision
print([cv2.imread(str(folder / name / "image.png")) is None for name in ("data", "source")])
print(torchvision.io.read_image(str(folder / "data" / "image.png")).shape[0])
torchvision.io.read_image(str(folder / "source" / "image.png"))
"""
    done = run(folder, code)
    assert done.stdout == "[False, True]\n1\n"
    assert done.returncode != 0
    assert "read_write_file" in done.stderr  # where torchvision opens files


@needs
def test_threads_and_children_that_start_later_are_bound_too(folder):
    code = """
import multiprocessing, threading
def look(found):
    try:
        found.append((folder / "source" / "file").read_text())
    except PermissionError:
        found.append("denied")
found = []
thread = threading.Thread(target=look, args=(found,)); thread.start(); thread.join()
def child():
    mine = []; look(mine); sys.exit(mine != ["denied"])
process = multiprocessing.get_context("fork").Process(target=child); process.start(); process.join()
print(found, process.exitcode)
"""
    assert run(folder, code).stdout == "['denied'] 0\n"


def test_a_kernel_without_it_says_so(monkeypatch):
    from sfda.sandbox import landlock

    monkeypatch.setattr(landlock, "abi", lambda: 0)
    with pytest.raises(OSError, match="offers no Landlock"):
        landlock.restrict([], [])
