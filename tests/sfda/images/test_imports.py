"""Nothing of the current folder runs because a library looks for others there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sfda.images import imports
from sfda.images.imports import COMPILED, IMPORTED_AWAY, keep_compiled_apart, whole_folders

SEES = """
import os, sys
class Sees:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("torch._C", "cv2.cv2", "matplotlib.rcsetup")) and name not in seen:
            seen[name] = os.getcwd()
seen = {}
import sfda
sys.meta_path.insert(1, Sees())
import torch, cv2, matplotlib
import sfda.images.plotting
print(sorted(set(seen.values())), os.getcwd(), os.environ.get("LD_LIBRARY_PATH"))
"""
LIBRARY = """
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void mark(void) {{ close(creat("{mark}", 0600)); }}
"""


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=folder,
        env={name: text for name, text in os.environ.items() if name != "LD_LIBRARY_PATH"}
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_such_libraries_are_imported_in_another_folder(tmp_path: Path) -> None:
    """And what OpenCV tells later programs to do is taken back."""
    assert run(SEES, tmp_path) == f"['/'] {tmp_path} None\n"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a compiler")
def test_a_planted_library_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    source = tmp_path / "planted.c"
    source.write_text(LIBRARY.format(mark=mark))
    for name in ("libcuda.so.1", "libc.so.6", "libMLIRDialectPlugin.so"):
        built = ["gcc", "-shared", "-fPIC", "-o", str(tmp_path / name), str(source)]
        subprocess.run(built, check=True)
    code = "import sfda, torch, cv2, subprocess; subprocess.run(['uname', '-p'])"
    run(code, tmp_path)
    assert not mark.exists()


def test_a_folder_that_is_gone_stops_no_import(tmp_path: Path) -> None:
    code = f"import sfda, os, shutil; shutil.rmtree({str(tmp_path / 'gone')!r}); import cv2"
    (tmp_path / "gone").mkdir()
    run(code, tmp_path / "gone")


def test_folders_that_are_relative_are_left_out() -> None:
    assert whole_folders(":/a::b:.:/c:") == "/a:/c"
    assert whole_folders(":") == ""
    assert {"torch", "cv2", "matplotlib"} <= IMPORTED_AWAY


@pytest.mark.parametrize("planted", ["nothing", "own", "a file", "a link", "open to others"])
def test_what_torch_compiles_lies_in_no_folder_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    usual = tmp_path / "torchinductor_a_b"
    if planted == "a file":
        usual.touch()
    elif planted == "a link":
        (tmp_path / "theirs").mkdir()
        usual.symlink_to(tmp_path / "theirs")
    elif planted != "nothing":
        usual.mkdir()
        usual.chmod(0o777 if planted == "open to others" else 0o755)
    monkeypatch.setattr(imports.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(imports.getpass, "getuser", lambda: "a/b")
    monkeypatch.setenv(COMPILED, "")
    keep_compiled_apart()
    if planted in ("nothing", "own"):
        assert os.environ[COMPILED] == ""
        assert usual.stat().st_mode & 0o777 == (0o700 if planted == "nothing" else 0o755)
        return
    folder = Path(os.environ[COMPILED])
    assert folder.parent == tmp_path
    assert folder.name.startswith("sfda-")
    assert folder.stat().st_mode & 0o777 == 0o700
    imports._remove_compiled(str(folder), os.getpid() + 1)
    assert folder.is_dir()
    imports._remove_compiled(str(folder), os.getpid())
    assert not folder.exists()
