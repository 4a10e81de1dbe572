"""The sandbox of a user without privileges: of `nobody`, which root can become."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfda.sandbox import seccomp
from sfda.sandbox.attest import NOT_HERE, REFUSED, WAYS
from sfda.sandbox.landlock import SCOPE_ABI, abi

NOBODY = 65534
# everything is loaded first: nobody may not read the folders that Python lies in; and a process
# that has changed its user counts as another's until it is made dumpable again
SCRIPT = """
import ctypes, json, os, sys, tempfile
from pathlib import Path
from sfda.sandbox import seccomp
from sfda.sandbox.baits import baits
from sfda.sandbox.confine import Limits, confine

own, user = Path(sys.argv[1]), int(sys.argv[2])
os.setgroups([]); os.setresgid(user, user, user); os.setresuid(user, user, user)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
sys.executable, tempfile.tempdir = "/bin/true", str(own)
(own / "run").mkdir()
if sys.argv[3] == "False":
    before = seccomp.CALLS, seccomp.BY_ARGUMENT
    seccomp.CALLS, seccomp.BY_ARGUMENT = {"unshare": seccomp.CALLS["unshare"]}, {}
    seccomp.refuse_calls()
    seccomp.CALLS, seccomp.BY_ARGUMENT = before
with baits() as laid:
    child = os.fork()
    if child == 0:
        tempfile.tempdir = str(own / "run")
        system = [name for name in ("/usr", "/lib", "/lib64", "/proc/self") if Path(name).exists()]
        held = confine(Limits(system, [str(own / "run")], ["/dev/null"]), laid)
        (own / "run" / "ways").write_text(json.dumps([os.getuid(), held.ways_out]))
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def own() -> Iterator[Path]:
    """A folder that anybody can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be it")
@pytest.mark.skipif(
    abi() < 1 or not seccomp.available(), reason="this kernel does not offer all of it"
)
@pytest.mark.parametrize("namespaces", [True, False])
def test_every_way_is_refused_or_says_why_not(own, namespaces):
    words = [sys.executable, "-c", SCRIPT, str(own), str(NOBODY), str(namespaces)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    user, ways = json.loads((own / "run" / "ways").read_text())
    assert user == NOBODY
    assert (own / "run" / "ways").stat().st_uid == NOBODY
    assert ways.keys() == WAYS.keys()
    rest = {name: answer for name, answer in ways.items() if answer != REFUSED}
    assert rest.keys() <= {
        "shared memory of others",  # without namespaces of a user's own
        *(["signal to the parent"] if abi() < SCOPE_ABI else []),
    }, rest
    assert namespaces or "shared memory of others" in rest
    for answer in rest.values():
        assert answer.startswith(NOT_HERE)
        assert answer != NOT_HERE
