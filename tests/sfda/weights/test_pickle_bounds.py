"""Checkpoints that make far more than they hold, or take far longer than their size tells: refused,
or read, at once and in little memory.
"""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sfda.weights.torch_files import OLD_TORCH

START = b"\x80\x04"
MERSENNE = (1 << 61) - 1  # all its multiples have one hash
READ = """
import json, os, resource, sys
from pathlib import Path
from sfda.errors import BadInput
from sfda.weights.checkpoints import read_checkpoint

def look(path):
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        answer = f"read: {len(read_checkpoint(path).weights)}"
    except BadInput as error:
        answer = f"refused: {error}"
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(json.dumps([path.name, answer, megabytes]), flush=True)

for path in map(Path, sys.argv[1:]):
    if os.fork() == 0:  # each with a peak of its own
        try:
            look(path)
        finally:
            os._exit(0)
    os.wait()
"""


def named(name: str) -> bytes:
    module, _, word = name.rpartition(".")
    return f"c{module}\n{word}\n".encode()


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def raw(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def long(value: int) -> bytes:
    own = pickle.encode_long(value)
    return b"\x8b" + struct.pack("<i", len(own)) + own


def repeated(word: str, argument: bytes, times: int) -> bytes:
    """One call of a word with one argument, made again and again."""
    again = named(word) + b"q\x000" + argument + b"\x85q\x010"
    return START + again + b"](" + b"h\x00h\x01R" * times + b"e."


def old_file(content: bytes, keys: bytes = b"].") -> bytes:
    """As torch wrote before it wrote zips."""
    return OLD_TORCH + b"\x80\x02M\xe9\x03." + b"\x80\x02}." + content + b"\x80\x02" + keys


def array(content: bytes, kind: str = "i1") -> bytes:
    """An array of numpy's."""
    made = named("numpy.core.multiarray._reconstruct") + b"(tR(K\x01" + number(len(content))
    dtype = named("numpy.dtype") + text(kind) + b"\x85R(K\x03" + text("|") + b"NNNtb"
    return made + b"\x85" + dtype + b"\x89" + raw(content) + b"tb"


def nested() -> bytes:
    level = old_file(b"\x80\x02N.")
    for _ in range(6):
        level = old_file(repeated("torch.storage._load_from_bytes", raw(level), 20))
    return repeated("torch.storage._load_from_bytes", raw(level), 1)


def one_buffer_again() -> bytes:
    count = 1_000_000
    stored = b"(" + text("storage") + named("torch.ByteStorage") + text("0") + text("cpu")
    blob = old_file(START + stored + number(count) + b"NtQ.", b"]" + text("0") + b"a.")
    blob += struct.pack("<q", count) + bytes(count)
    return repeated("torch.storage._load_from_bytes", raw(blob), 5000)


def many_empty_storages() -> bytes:
    words = named("torch.ByteStorage") + b"q\x000" + text("storage") + b"q\x010"
    words += text("cpu") + b"q\x020("
    each = (b"(h\x01h\x00" + number(n) + b"h\x02K\x00NtQ" for n in range(100_000))
    return old_file(START + words + b"".join(each) + b"t.")


def long_name_of_many() -> bytes:
    below = b"}(" + b"".join(number(n) + b"h\x07" for n in range(8000)) + b"u"
    return START + array(b"\1") + b"q\x070}" + text("k" * 1_000_000) + below + b"s."


def one_array_by_many_names() -> bytes:
    names = b"".join(number(n) + b"h\x07" for n in range(1000))
    return START + array(b"\1" * 2_000_000) + b"q\x070}(" + names + b"u."


def slow_to_match(word: str) -> bytes:
    sets = text(word * (1_000_000 // len(word)) + "\n") + b"}" + text("a") + b"h\x07s"
    return START + array(b"\1") + b"q\x070}(" + sets + text("q") + b"}" + text("a") + b"h\x07su."


CONTENT: dict[str, Callable[[], bytes]] = {
    "files in files": nested,
    "one buffer again and again": one_buffer_again,
    "one text again and again": lambda: repeated("_codecs.encode", text("a" * 2_000_000), 3000),
    "one list again and again": lambda: repeated(
        "collections.OrderedDict",
        b"](" + b"".join(number(n) + b"N\x86" for n in range(20_000)) + b"e",
        3000,
    ),
    "keys of one hash": lambda: (
        START + b"}(" + b"".join(long(n * MERSENNE) + b"N" for n in range(1, 60_000)) + b"u."
    ),
    "empty storages": many_empty_storages,
    "a long name": long_name_of_many,
    "one array by many names": one_array_by_many_names,
    "average": lambda: slow_to_match("ema_"),
    "teacher": lambda: slow_to_match("teacher_"),
    "a key of many digits": lambda: START + b"}(" + long(1 << 24_000) + array(b"\1") + b"u.",
    "sets": lambda: START + b"(" + b"\x8f" * 2_000_000 + b"l.",
    "a class of its own": lambda: (
        START + named("torch._tensor._rebuild_from_type_v2") + b"q\x000]q\x010h\x01(h\x00Nh\x01Ne0"
        + b"h\x00Nh\x01\x87R."
    ),
}  # fmt: skip


def of_zip(content: bytes, **members: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("a/data.pkl", content)
            for name, held in members.items():
                packed.writestr(f"a/{name.replace('__', '/')}", held)

    return write


def storage_of_nan() -> bytes:
    words = named("torch.ByteStorage") + b"q\x000" + text("storage") + b"q\x010"
    words += text("cpu") + b"q\x020("
    nan = b"G" + struct.pack(">d", float("nan"))
    return START + words + (b"(h\x01h\x00" + nan + b"h\x02K\x00NtQ") * 200 + b"t."


def chain() -> bytes:
    made = named("__torch__.A") + b"q\x000)q\x010" + text("k" * 300_000) + b"q\x020"
    made += b"h\x00h\x01R}bq\x030h\x03"
    return START + made + b"q\x040h\x00h\x01R}h\x02h\x04sb" * 1500 + b"."


ZIPS = {
    "a buffer by no key": of_zip(storage_of_nan(), data__nan=bytes(50_000_000)),
    "a chain of long names": of_zip(chain(), **{"constants.pkl": b"x"}),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """What reading each kind gives, and the megabytes that it took."""
    folder = tmp_path_factory.mktemp("weights")
    for kind, make in CONTENT.items():
        (folder / f"{kind}.pth").write_bytes(make())
    for kind, write in ZIPS.items():
        write(folder / f"{kind}.pth")
    paths = sorted(map(str, folder.iterdir()))
    run = subprocess.run(
        [sys.executable, "-c", READ, *paths], capture_output=True, text=True, check=True
    )
    lines = map(json.loads, run.stdout.splitlines())
    return {Path(name).stem: (answer, megabytes) for name, answer, megabytes in lines}


@pytest.mark.parametrize("kind", [*CONTENT, *ZIPS])
def test_it_is_over_soon_in_little_memory(kind: str, answers: dict[str, tuple[str, int]]) -> None:
    answer, megabytes = answers[kind]  # none where it was killed after a minute, or broke
    assert answer.startswith(("refused:", "read:"))
    assert len(answer) < 3000
    assert megabytes < 600
