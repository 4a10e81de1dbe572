"""Processes that end, or are killed, at the wrong moment: nothing waits for ever, or lives on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import eventually

from sfda.sandbox import process, seccomp
from sfda.sandbox.landlock import abi
from sfda.sandbox.leftovers import (
    drop_identities,
    end_earlier,
    facts_of,
    live_processes,
    note_group,
    remove_tree,
)

needs = pytest.mark.skipif(
    abi() < 1 or not seccomp.available(), reason="this kernel does not offer all of it"
)
WORK = """
import os, time

def vanish(order, send):
    "What it has started holds the pipe of messages open, and says nothing."
    if os.fork() == 0:
        time.sleep(300)
    os._exit(3)

def deep(order, send):
    os.chdir(os.environ["TMPDIR"])
    os.mkdir("closed", 0)
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    return {"cwd": "deep"}

def write(order, send):
    "It, and what it has started, write on."
    os.fork()
    while True:
        with open(os.path.join(order["folder"], str(os.getpid())), "a") as file:
            file.write("x")
        time.sleep(0.01)
"""
STARTER = """
import sys
from pathlib import Path
from sfda.sandbox import process
code, own = map(Path, sys.argv[1:])
job = process.SandboxJob(
    work="somework:write", order={"folder": str(own)}, folder=own,
    read=[*process.system_paths(), code],
)
process.run_job(job, print)
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "somework.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    return tmp_path / "code"


def job(code: Path, name: str) -> process.SandboxJob:
    read = [*process.system_paths(), code]
    own = code.parent / "own"
    return process.SandboxJob(f"somework:{name}", {"folder": str(own)}, own, read)


@needs
def test_a_process_whose_child_holds_its_pipe_is_not_waited_for(code):
    started = time.monotonic()
    with pytest.raises(process.ProcessDied, match="exit 3"):
        process.run_job(job(code, "vanish"), print)
    assert time.monotonic() - started < 60


@needs
def test_folders_in_folders_are_deleted_and_leave_the_result(code):
    descriptors = len(os.listdir("/proc/self/fd"))
    assert process.run_job(job(code, "deep"), print).result == {"cwd": "deep"}
    assert not list((code.parent / "own").glob("tmp.*"))
    assert not (code.parent / "own.group").exists()
    assert len(os.listdir("/proc/self/fd")) == descriptors


@needs
def test_a_process_that_cannot_be_made_leaves_no_descriptor(code, monkeypatch):
    descriptors = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        process.run_job(job(code, "vanish"), print)
    assert len(os.listdir("/proc/self/fd")) == descriptors


@needs
def test_what_a_killed_command_left_is_ended_by_the_next_start(code):
    own = code.parent / "own"
    command = subprocess.Popen([sys.executable, "-c", STARTER, str(code), str(own)])
    try:
        working = eventually(lambda: list(own.glob("[0-9]*")), lambda files: len(files) == 2)
        group = json.loads((code.parent / "own.group").read_text())[0]
        assert not end_earlier(own), "its command lives"
    finally:
        command.kill()
        command.wait()
    child = next(int(file.name) for file in working if int(file.name) != group)
    assert not eventually(lambda: alive(group), lambda living: not living), "by its death signal"
    assert alive(child)
    assert list(own.glob("tmp.*"))
    with pytest.raises(process.ProcessDied):
        process.run_job(job(code, "vanish"), print)
    assert not alive(child)
    assert not list(own.glob("tmp.*"))


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it asks the kernel")
def test_a_number_that_is_anothers_by_now_is_left_alone(tmp_path):
    with subprocess.Popen(["sleep", "60"], process_group=0) as stranger:
        try:
            note_group(tmp_path / "run", stranger.pid)
            note = tmp_path / "run.group"
            entries = json.loads(note.read_text())
            for change in ({1: entries[1] - 1}, {2: 1}, {5: "another start of the machine"}):
                note.write_text(json.dumps([change.get(n, e) for n, e in enumerate(entries)]))
                assert end_earlier(tmp_path / "run")
                assert stranger.poll() is None, change
            for broken in ("", "[1]", "null", '["x", 1, 1, 1, 1, 1]'):
                note.write_text(broken)
                assert end_earlier(tmp_path / "run")
            note.write_text(json.dumps(entries))
            assert end_earlier(tmp_path / "run")
            assert stranger.wait(10) == -signal.SIGKILL
        finally:
            stranger.kill()


def test_a_tree_is_deleted_without_a_step_aside(tmp_path):
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "file").touch()
    top = tmp_path / "top"
    for name in ("a/b/c", "a/d", "e"):
        (top / name).mkdir(parents=True)
        (top / name / "file").touch()
    (top / "a" / "link").symlink_to(tmp_path / "aside")
    (tmp_path / "link").symlink_to(tmp_path / "aside")
    for name in ("top", "link", "absent"):
        remove_tree(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["aside", "file"]


@needs
def test_the_death_signal_cannot_be_taken_off():
    script = "import ctypes; from sfda.sandbox.seccomp import refuse_calls; refuse_calls()\n"
    script += "print(ctypes.CDLL(None).prctl(1, 0, 0, 0, 0))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "-1\n", done.stderr


def test_facts_of_a_process_are_read_whatever_it_is_called(tmp_path: Path) -> None:
    """A name may hold brackets and spaces: it stands in brackets, and the last one ends it."""
    odd = tmp_path / "a) Z 7 (b"
    odd.symlink_to(shutil.which("sleep") or "")
    with subprocess.Popen([odd, "60"], start_new_session=True) as process:
        # the program begins a moment before the system notes where its environment lies
        facts = eventually(lambda: facts_of(process.pid), lambda one: one and one.environment[0])
        assert facts is not None
        assert facts.state in "SRD"
        assert facts.group == facts.session == process.pid
        assert facts.environment[0] < facts.environment[1]
        own = facts_of("self")
        assert own is not None
        assert own == facts_of(os.getpid())
        assert own.started <= facts.started
        assert process.pid in dict(live_processes())
        process.kill()
    assert facts_of(process.pid) is None
    assert process.pid not in dict(live_processes())


def test_what_is_left_runs_as_nobody_else(tmp_path):
    """Where no filter refuses such a mode; a folder's own is left, and no link is followed."""
    for name in ("other", "run/deep/left", "run/none"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o6755)
    (tmp_path / "run" / "none").chmod(0o640)
    (tmp_path / "run" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "run" / "deep").chmod(0o2755)
    drop_identities(tmp_path / "run")
    modes = [(tmp_path / n).stat().st_mode & 0o7777 for n in ("run/deep/left", "run/none", "other")]
    assert modes == [0o755, 0o640, 0o6755]
    assert (tmp_path / "run" / "deep").stat().st_mode & 0o7777 == 0o2755
