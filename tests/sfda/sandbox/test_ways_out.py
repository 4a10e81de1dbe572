"""Each way out of the process: open without the sandbox, refused within."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sfda.sandbox import attest, confine, process, seccomp
from sfda.sandbox.attest import NOT_HERE, REFUSED, WAYS, still_open, ways_out
from sfda.sandbox.baits import baits
from sfda.sandbox.environment import is_passed
from sfda.sandbox.landlock import abi

needs = pytest.mark.skipif(
    abi() < 6 or not seccomp.available(), reason="this kernel does not offer all of it"
)
OUTSIDE = """
import json, sys
from sfda.sandbox.attest import ways_out
print(json.dumps(ways_out(json.load(sys.stdin), {})))
"""
# what a machine or a container may close to everybody, and to a plain user
AS_MACHINES_GO = {"MPTCP connection", "bpf", "io_uring", "setxattr", "keys of the kernel"}
AS_ROOT = {
    *("chroot", "mount", "new namespace", "raw socket", "packet socket", "bounding set"),
    *("capabilities", "ptrace of the parent", "memory of the parent", "root folder of the parent"),
}
WORK = """
import os, sys, time
from pathlib import Path

def answer(order, send):
    return {"hello": order["name"]}

def look(order, send):
    try:
        block = Path("/proc/self/environ").read_bytes().decode()
    except PermissionError:
        block = ""
    return {
        "names": sorted(os.environ), "block": "hidden" in block,
        "stdin": os.readlink("/proc/self/fd/0"), "shm": os.listdir("/dev/shm"),
    }

def link(order, send):
    made = {}
    for name, make in {
        "symlink": lambda p: os.symlink("/etc/hostname", p), "fifo": os.mkfifo,
        "hard link": lambda p: os.link(order["file"], p),
    }.items():
        try:
            make(os.path.join(os.environ["TMPDIR"], name.replace(" ", "")))
            made[name] = "made"
        except OSError as error:
            made[name] = "refused"
    return made

def strangers(order, send):
    seen = {}
    for name in ("cmdline", "environ", "maps", "status", "root", "cwd", "fd"):
        try:
            path = f"/proc/{order['pid']}/{name}"
            (os.listdir if name in ("root", "cwd", "fd") else open)(path)
            seen[name] = "read"
        except PermissionError:
            seen[name] = "refused"
    return seen

def tensors(order, send):
    import torch
    from torch.utils.data import DataLoader
    from sfda.sandbox.tensor_files import share_by_files

    share_by_files()
    class Set(torch.utils.data.Dataset):
        def __len__(self): return 4
        def __getitem__(self, n):
            half = torch.ones(2, dtype=torch.bfloat16)
            return n * torch.ones(3, 100, 100), half, torch.ones(0, 4)
    loader = DataLoader(Set(), batch_size=None, num_workers=2)
    sums = [[float(a.sum()), float(b.sum()), list(c.shape)] for a, b, c in loader]
    return {"sums": sums, "left": [n for n in os.listdir("/dev/shm") if "tensor" in n]}
"""


def run(tmp_path: Path, name: str, order: dict[str, object] | None = None) -> process.Done:
    code = tmp_path / "code"
    code.mkdir()
    (code / "somework.py").write_text(WORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(code))
        job = process.SandboxJob(
            work=f"somework:{name}",
            order=order or {},
            folder=tmp_path / "own",
            read=[*process.system_paths(), code],
        )
        return process.run_job(job, lambda _: None)


@needs
def test_every_way_is_refused_within(tmp_path):
    done = run(tmp_path, "answer", {"name": "you"})
    assert done.result == {"hello": "you"}
    assert done.held.ways_out.keys() == WAYS.keys()
    answers = {name: answer for name, answer in done.held.ways_out.items() if answer != REFUSED}
    assert all(answer.startswith(NOT_HERE) for answer in answers.values()), answers
    assert answers.keys() <= {"shared memory of others"}, "a user without namespaces of its own"


def test_the_probes_find_these_ways_open_where_nothing_closes_them():
    with baits() as laid, subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            done = subprocess.run(
                [sys.executable, "-c", OUTSIDE],
                input=json.dumps(laid | {"process": stranger.pid}),
                env=os.environ | {"SOME_TOKEN": "x"},
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            stranger.kill()
    answers = json.loads(done.stdout)
    closed = {name for name, answer in answers.items() if answer == REFUSED}
    assert closed <= AS_ROOT | AS_MACHINES_GO
    if os.geteuid() == 0 and "CapEff:\t000001ff" in Path("/proc/self/status").read_text():
        assert closed <= AS_MACHINES_GO


def test_what_a_machine_lacks_is_named_and_what_is_open_ends_the_work():
    with baits() as laid:
        answers = ways_out(laid, {"files": "no Landlock"})
    assert answers["read of a file outside"] == f"{NOT_HERE}no Landlock"
    assert answers["UDP datagram"] == "open: it was not refused"
    some = {"a": REFUSED, "b": "open: it was not refused", "c": answers["read of a file outside"]}
    assert still_open(some) == ["b (it was not refused)"]


def test_what_cannot_be_tried_is_not_called_refused(monkeypatch):
    """Numbers of calls are known of two machines."""
    other = os.uname_result(("Linux", "here", "6.1", "#1", "riscv64"))
    monkeypatch.setattr(os, "uname", lambda: other)
    names = ("watching of files", "System V shared memory", "memory of the parent", "bpf")
    monkeypatch.setattr(attest, "WAYS", {name: WAYS[name] for name in names})
    for answer in ways_out({"process": os.getpid()}, {}).values():
        assert answer.startswith(f"{NOT_HERE}the number of ")
        assert answer.endswith(" is not known on riscv64")


@needs
def test_an_open_way_ends_the_process_before_its_work(tmp_path, monkeypatch):
    """A filter that does nothing, in a process that believes it has one."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "from sfda.sandbox import seccomp\nseccomp.refuse_calls = lambda **_: None\n"
    )
    make = process.passed
    monkeypatch.setattr(
        process, "passed", lambda env: make(env) | {"PYTHONPATH": str(tmp_path / "site")}
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    (tmp_path / "site" / "somework.py").write_text("def answer(order, send): return {}")
    job = process.SandboxJob(
        work="somework:answer",
        order={},
        folder=tmp_path / "own",
        read=[*process.system_paths(), tmp_path / "site"],
    )
    with pytest.raises(process.WorkFailed, match=r"still open are: .*UDP datagram"):
        process.run_job(job, lambda _: None)


@needs
def test_it_knows_no_passwords_and_has_no_keyboard(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING", "SFDA_TOKEN", "X_OTHER"):
        monkeypatch.setenv(name, "hidden")
    seen = run(tmp_path, "look").result
    assert all(map(is_passed, seen["names"])), seen["names"]
    assert not seen["block"]
    assert seen["stdin"] == "/dev/null"
    assert seen["shm"] == []


def test_the_block_that_a_process_was_started_with_is_wiped():
    """A copy of a process has its parent's."""
    code = """
import os
from pathlib import Path
from sfda.sandbox.environment import forget_others
forget_others()
block = Path("/proc/self/environ")
print(b"hidden" in block.read_bytes(), os.environ.get("A_SECRET"))
print(os.environ["OMP_NUM_THREADS"], b"OMP_NUM_THREADS=3" in block.read_bytes())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"A_SECRET": "hidden", "OTHER": "hidden", "OMP_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False None\n3 True\n"


def test_a_copy_of_a_process_has_no_secret_in_any_of_its_memory():
    """What Python made of a variable lies beside the block, also where it was freed."""
    code = """
import os, re
secret = os.environ["A_TOKEN"].partition(":")[2]
os.environ["A_TOKEN_AGAIN"] = f"sfda:{secret}"
reversed_ = secret[::-1]
pieces = [f"Basic {secret} {n}" for n in range(50)]
freed = [bytearray(secret.encode() * 1000) for n in range(50)]
del secret, freed
from sfda.sandbox.environment import forget_others
if os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
sought = re.compile(b"".join(b"[" + bytes([letter]) + b"]" for letter in reversed_[::-1].encode()))
def copies():
    count = 0
    with open("/proc/self/mem", "rb", 0) as memory:
        for line in open("/proc/self/maps").read().splitlines():
            ends, rights = line.split()[:2]
            start, end = (int(number, 16) for number in ends.split("-"))
            if "r" in rights and "[v" not in line:
                memory.seek(start)
                count += len(sought.findall(memory.read(end - start)))
    return count
before = copies()
forget_others()
whole = {piece.partition(" ")[0] for piece in pieces}
print(before >= 50, copies(), whole, os.environ.get("A_TOKEN_AGAIN"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"A_TOKEN": "sfda:aVery-Long_Secret.Of_Ours"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True 0 {'Basic'} None\n", done.stderr


@needs
def test_links_and_pipes_cannot_be_left_for_others(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("x")
    made = run(tmp_path, "link", {"file": str(outside)}).result
    assert made == dict.fromkeys(("symlink", "fifo", "hard link"), "refused")


@needs
def test_nothing_of_other_processes_can_be_read(tmp_path):
    seen = run(tmp_path, "strangers", {"pid": os.getpid()}).result
    assert set(seen.values()) == {"refused"}, seen


@needs
def test_loaders_hand_tensors_over_without_sockets(tmp_path):
    done = run(tmp_path, "tensors").result
    assert done["sums"] == [[30000.0 * n, 2.0, [0, 4]] for n in range(4)]
    assert not done["left"]


@needs
def test_giving_up_and_trying_take_little_time(tmp_path):
    limits = confine.Limits([str(p) for p in process.system_paths()], [str(tmp_path)], [])
    code = """
import json, sys, time
from sfda.sandbox.confine import Limits, confine
limits, laid = json.load(sys.stdin)
started = time.perf_counter()
confine(Limits(*limits), laid)
print(time.perf_counter() - started)
"""
    with baits() as laid:
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps([limits, laid]),
            env=process.passed(os.environ) | {"TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
    assert float(done.stdout) < 0.3
