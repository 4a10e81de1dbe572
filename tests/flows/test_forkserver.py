"""Adapting processes as copies of the command's own process, made before it knows anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small
from conftest import World, sfda
from test_kill_and_resume import Jobs

from sfda.sandbox import forkserver
from sfda.sandbox.landlock import abi
from tasks import tracking

SCRIPT = """
import json, os, signal, sys, time
from sfda.sandbox import forkserver

def main(order, words):
    with os.fdopen(order) as file:
        told = json.load(file)
    if told == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if told == "sleep":
        time.sleep(60)
    found = {
        "told": told, "tmp": os.environ["TMPDIR"], "here": "" in sys.path,
        "threads": len(os.listdir("/proc/self/task")), "files": len(os.listdir("/proc/self/fd")),
        "torch": "torch" in sys.modules,
    }
    print("printed"); print("warned", file=sys.stderr); sys.stdout.flush()
    if os.fork() == 0:
        time.sleep(60)  # it holds both pipes open as long as it lives
    os.write(words, json.dumps(found).encode())

forkserver.start(main, "sfda.adaptation.worker")
made = forkserver.current()
secret = open("/dev/null")  # opened later: no child has it

def ask(what):
    order, words, errors = os.pipe(), os.pipe(), os.pipe()
    with made.child(order[0], words[1], errors[1], "/scratch") as child:
        if child is None:
            return None
        os.close(order[0]); os.close(words[1]); os.close(errors[1])
        with os.fdopen(order[1], "w") as file:
            json.dump(what, file)
        if what == "sleep":
            with made.child(0, 1, 2, "") as other:
                return "busy" if other is None else "two at once"
        with os.fdopen(words[0]) as file:
            said = file.read()
        with os.fdopen(errors[0]) as file:
            printed = file.read()
        return [json.loads(said) if said else None, child.wait(), printed]

found = {"first": ask("one"), "second": ask({"two": 2}), "died": ask("die"), "slept": ask("sleep")}
found["after"] = ask("three")
children = open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read().split()
found["copies"] = len(children)
order, words = os.pipe(), os.pipe()
with made.child(order[0], words[1], 2, "/scratch") as child:
    os.kill(int(children[0]), signal.SIGKILL)  # the copy, and with it what it made
    found["orphan"] = child.wait()
found["gone"] = ask("four")
print(json.dumps(found))
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_order_is_a_new_process_with_torch_and_nothing_else() -> None:
    result = json.loads(run(SCRIPT))
    first, code, printed = result["first"]
    assert code == 0
    assert sorted(printed.split()) == ["printed", "warned"], "both go into one pipe"
    assert first["torch"]
    assert first["tmp"] == "/scratch"
    assert not first["here"], "the working directory is no place for modules"
    assert first["threads"] == 1
    assert first["files"] <= 6, "its own pipe, three streams, and the listing"
    assert result["second"][0]["told"] == {"two": 2}
    assert result["died"] == [None, -9, ""]
    assert result["slept"] == "busy"
    assert result["after"][1] == 0, "what was killed is cleared away"
    assert result["copies"] == 1
    assert result["orphan"] == -9
    assert result["gone"] is None, "without the copy a Python of its own does the work"


EXCHANGES = """
import json, os, signal, time
from sfda.sandbox import forkserver

def main(order, words):
    with os.fdopen(order) as file:
        text = file.read()
    if text == "stay":
        child = os.fork()
        if child:
            os.write(words, json.dumps([os.getpid(), child]).encode())
        time.sleep(60)
    os._exit(len(text))

forkserver.start(main, "json")
made = forkserver.current()

def ask(text, then):
    order, words = os.pipe(), os.pipe()
    with made.child(order[0], words[1], 2, "/scratch") as child:
        if child is None:
            return None
        for end in (order[0], words[1]):
            os.close(end)
        os.write(order[1], text.encode())
        os.close(order[1])
        return then(child, words[0])

def interrupted(child, words):
    seen["pids"] = json.loads(os.read(words, 100))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    child.wait()

seen = {}
seen["codes"] = [ask("a" * n, lambda child, _: child.wait()) for n in (1, 2, 3)]
for n in range(40):  # it is killed about when it ends by itself
    ask("", lambda child, _: time.sleep(n / 4000))
seen["after"] = ask("aaaa", lambda child, _: [child.wait(), child.wait()])
try:
    ask("stay", interrupted)
except KeyboardInterrupt:
    seen["interrupted"] = forkserver.current() is None
seen["next"] = ask("a", lambda child, _: child.wait())
time.sleep(0.1)
seen["left"] = [pid for pid in seen["pids"] if os.path.exists(f"/proc/{pid}")
                and "State:\\tZ" not in open(f"/proc/{pid}/status").read()]
print(json.dumps(seen))
"""


def test_no_answer_is_taken_for_another_one() -> None:
    """After Ctrl-C the answer to what was interrupted would still be on the line."""
    seen = json.loads(run(EXCHANGES))
    assert seen["codes"] == [1, 2, 3]
    assert seen["after"] == [4, 4]
    assert seen["interrupted"], "it is let go"
    assert seen["next"] is None, "a Python of its own does the work then"
    assert not seen["left"]


def test_it_is_not_made_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    forkserver.start(lambda *_: None, "sfda.adaptation.worker")  # torch is here already
    assert forkserver.current() is None
    assert "Forkserver" in run(
        "from sfda.sandbox import forkserver; "
        "forkserver.start(print, 'sfda.adaptation.worker'); print(forkserver.current())"
    )
    early = "from sfda.sandbox import forkserver; import threading, time\n"
    early += "threading.Thread(target=time.sleep, args=(3,), daemon=True).start()\n"
    assert "None" in run(
        early + "forkserver.start(print, 'sfda.adaptation.worker'); print(forkserver.current())"
    )


SPY = """
import os, pathlib, sys

if "sfda.sandbox.process" in sys.orig_argv:
    pathlib.Path(os.environ["SFDA_SPAWNED"]).touch()
"""


@pytest.mark.flow
@pytest.mark.skipif(abi() < 1, reason="this kernel offers no Landlock")
def test_a_command_adapts_in_such_a_process(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["adapt", "--source", world.bundle, "--target", world.target, "--method", "shot",
             "--name", "toy", "--epochs", 2, "--json"]  # fmt: skip
    words += [w for k, v in small.FAST.items() for w in ("--set", f"schedule.{k}={v}")]
    with world.home("forkserver-here").entered():
        expected = sfda(*words).json
    home = world.used_home("forkserver")
    (tmp_path / "sitecustomize.py").write_text(SPY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SFDA_SPAWNED", str(tmp_path / "spawned"))
    monkeypatch.delenv("SFDA_CONFINE")
    jobs = Jobs(home, world, [str(word) for word in words])
    try:
        output, _ = jobs.start().communicate(timeout=300)
    finally:
        jobs.end()
    result = json.loads(output)
    assert not (tmp_path / "spawned").exists()
    assert (result["scores"], result["metrics"]) == (expected["scores"], expected["metrics"])
    with home.entered():
        run = tracking.client().get_run(result["mlflow_run_id"])
    assert run.data.tags["source_free"] == f"enforced (Landlock, ABI {abi()})"
    assert os.listdir(home.path / "runs")
