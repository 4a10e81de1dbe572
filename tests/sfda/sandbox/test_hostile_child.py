"""A process that does in its sandbox what it can, and what of that comes out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from patience import eventually

from sfda.errors import BadInput
from sfda.sandbox import process, seccomp
from sfda.sandbox.attest import WAYS
from sfda.sandbox.landlock import abi

needs = pytest.mark.skipif(
    abi() < 1 or not seccomp.available(), reason="this kernel does not offer all of it"
)
WORK = r"""
import json, os, stat, sys, time
from pathlib import Path

def pipe():
    "The pipe of messages, found as an attacker would."
    for number in range(3, 4096):
        try:
            if stat.S_ISFIFO(os.fstat(number).st_mode):
                return number
        except OSError:
            pass

def raw(order, send):
    os.write(pipe(), order["line"].encode("utf-8", "surrogateescape"))
    return {}

def half(order, send):
    os.write(pipe(), b'{"result": {"a": ')
    os._exit(3)

def stay(order, send):
    "A process that lives on and holds all pipes open, in a session and group of its own."
    tried = []
    for leave in (os.setsid, os.setpgrp, lambda: os.setpgid(0, 0)):
        child = os.fork()
        if child == 0:
            try:
                leave()
                tried = "left"
            except OSError:
                tried = "refused"
            file = os.path.join(order["folder"], f"{os.getpid()}")
            with open(file + ".part", "w") as written:
                written.write(tried)
            os.rename(file + ".part", file)
            while True:
                time.sleep(60)
    while len([n for n in os.listdir(order["folder"]) if n.isdigit()]) < 3:
        time.sleep(0.01)
    return {}

def paint(order, send):
    print("\x1b[2Jsfda: promoted")
    os.write(2, b"\x1b]52;c;cm0=\x07\n")
    raise RuntimeError("\x1b[31mred\nsfda: promoted")

def bad(order, send):
    from sfda.errors import BadInput
    raise BadInput("look \x1b[2J")

def cache(order, send):
    return {"cache": os.environ["CUDA_CACHE_PATH"]}
"""


def run(tmp_path: Path, name: str, **order: Any) -> tuple[process.Done, list[Any]]:
    code, own = tmp_path / "code", tmp_path / "own"
    for folder in (code, own):
        folder.mkdir(exist_ok=True)
    (code / "somework.py").write_text(WORK)
    heard: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(code))
        job = process.SandboxJob(
            work=f"somework:{name}",
            order=order | {"folder": str(own)},
            folder=own,
            read=[*process.system_paths(), code],
        )
        return process.run_job(job, heard.append), heard


@needs
@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"held": [99, {}]}\n', "out of turn"),  # what held it is its first message alone
        ('{"result": [1]}\n', "out of turn"),
        ("[" * 100_000 + "\n", "no JSON"),
    ],
)
def test_what_it_never_sends_ends_it_with_one_message(tmp_path, line, why):
    with pytest.raises(BadInput, match=f"{why}.*nothing of it is taken over.*delete {tmp_path}"):
        run(tmp_path, "raw", line=line)


@needs
def test_it_cannot_say_what_held_it(tmp_path):
    done, heard = run(tmp_path, "raw", line='{"n": 1e999, "a": "\\u001b"}\n')
    assert heard == [{"n": float("inf"), "a": r"\x1b"}]
    assert done.held.ways_out.keys() == WAYS.keys()


@needs
def test_half_a_message_is_none(tmp_path):
    with pytest.raises(process.ProcessDied, match="exit 3"):
        run(tmp_path, "half")


@needs
def test_nothing_that_it_has_started_lives_on(tmp_path):
    """It would change the files that are looked at outside."""
    run(tmp_path, "stay")
    left = {int(path.name): path.read_text() for path in (tmp_path / "own").iterdir()}
    assert set(left.values()) == {"refused"}
    assert not eventually(lambda: [pid for pid in left if alive(pid)], lambda living: not living)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


@needs
def test_it_cannot_paint_on_the_terminal_or_in_messages(tmp_path, capfd):
    with pytest.raises(process.WorkFailed) as failure:
        run(tmp_path, "paint")
    assert r"RuntimeError: \x1b[31mred" + "\n  sfda: promoted" in str(failure.value)
    with pytest.raises(BadInput, match=r"^look .{1,4}\[2J$") as refusal:
        run(tmp_path, "bad")
    assert str(refusal.value).isprintable()
    out, err = capfd.readouterr()
    assert out == ""
    assert set(err.splitlines()) == {
        r"inside: \x1b[2Jsfda: promoted",
        r"inside: \x1b]52;c;cm0=\x07",
    }


@needs
def test_kernels_that_it_compiles_are_for_itself(tmp_path):
    """Those below ~/.nv are loaded by every later program of this user."""
    done, _ = run(tmp_path, "cache")
    assert Path(done.result["cache"]).parent == tmp_path / "own"
