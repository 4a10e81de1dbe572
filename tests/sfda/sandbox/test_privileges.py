"""Capabilities are given up whatever the files that are needed, and whatever is held of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfda.sandbox import privileges, seccomp
from sfda.sandbox.attest import NOT_HERE, REFUSED
from sfda.sandbox.landlock import abi

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root has any"),
    pytest.mark.skipif(abi() < 1 or not seccomp.available(), reason="this kernel lacks some of it"),
]
NOBODY = 65534
SCRIPT = """
import json, os, sys, tempfile
from pathlib import Path
from sfda.sandbox import privileges
from sfda.sandbox.baits import baits
from sfda.sandbox.confine import Limits, confine

own, file, lacking = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "lacking"
if lacking:  # CAP_SETPCAP, as a container may
    libc = privileges.ctypes.CDLL(None, use_errno=True)
    rest = privileges._capabilities(libc) & ~(1 << 8)
    privileges._set_capabilities(libc, rest, rest)
with baits() as laid:
    child = os.fork()
    if child == 0:
        tempfile.tempdir = str(own)
        system = ["/usr", "/lib", "/lib64", "/proc/self", sys.prefix, sys.base_prefix, file]
        ways = confine(Limits(system, [str(own)], ["/dev/null"]), laid).ways_out
        try:
            text = Path(file).read_text()
        except OSError as error:
            text = error.strerror
        (own / "answer").write_text(json.dumps([ways["capabilities"], ways["bounding set"], text]))
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def folders() -> Iterator[tuple[Path, Path]]:
    """One of its own, and a file of another user in a folder that root alone can enter besides."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        (closed := Path(name, "closed")).mkdir(0o700)
        (Path(name) / "own").mkdir()
        (closed / "file").write_text("content")
        for path in (closed / "file", closed):
            os.chown(path, NOBODY, NOBODY)
        yield Path(name, "own"), closed / "file"


def held(own: Path, file: Path, *words: str) -> list[str]:
    words = (sys.executable, "-c", SCRIPT, str(own), str(file), *(words or ("all",)))
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: list[str] = json.loads((own / "answer").read_text())
    return answer


def test_a_file_in_a_folder_of_another_user_is_read_and_said(folders):
    capabilities, bounding, text = held(*folders)
    assert capabilities == f"{NOT_HERE}root reads {folders[1]} of another user by one of them"
    assert (bounding, text) == (REFUSED, "content")


def test_without_the_right_to_drop_the_bounding_set_only_that_is_left(folders):
    own, _ = folders
    capabilities, bounding, _ = held(own, Path("/etc/hostname"), "lacking")
    assert capabilities == REFUSED
    assert bounding == (f"{NOT_HERE}without CAP_SETPCAP the bounding set of capabilities stays")


def test_what_is_absent_is_not_denied(tmp_path):
    assert not privileges._is_denied(tmp_path / "absent" / "file")
    assert not privileges._is_denied(tmp_path)
