"""Documents that stand for more than they say: small texts, one message, at once."""

from __future__ import annotations

import io
import json
import math
import os
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli.parsing import read_settings
from flows.deployments import read_jobs
from flows.presets import read as read_preset
from sfda.annotation.exports import read_export
from sfda.authoring.from_keypoints import read_skeleton
from sfda.bounds.files import Unreadable, machine_memory, read_all, read_bounded, read_member
from sfda.bounds.limits import DEPTH, Limit
from sfda.config import read_yaml
from sfda.documents import json_bytes, parse_json, parse_xml, parse_yaml
from sfda.errors import BadInput
from sfda.formats import table
from sfda.formats.coco import read_coco
from sfda.manifests.opening import open_manifest
from sfda.manifests.subset import read_regimes
from sfda.weights.checkpoints import read_weights

ROOT = Path(__file__).parents[2]
NINES = "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
LAUGHS = f"a0: &a0 [x,x,x,x,x,x,x,x,x]\n{NINES}name: *a9\n"
MERGED = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9)
)
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 999))
YAML = {
    "aliases of aliases": LAUGHS,
    "merges of merges": MERGED,
    "one long text again and again": f"a: &a {'x' * 4000}\nb: [{','.join(['*a'] * 4000)}]",
    "a part of itself": "name: &a [*a]",
    "a key of itself": "&a {*a : 1}",
    "lists in lists": "[" * 20_000,
    "mappings in mappings": "{a: " * 3000 + "1" + "}" * 3000,
    "a chain of aliases": CHAIN,
    "a long number": f"version: {'9' * 10_000}",
    "a long number of base 60": f"version: 1{':59' * 20_000}",
    "a long number in hexadecimals": f"version: 0x{'f' * 10_000}",
    "no date": "name: 2001-99-99",
    "no number": "name: !!int a",
    "no number at all": "name: !!int ''",
    "no truth": "name: !!bool b",
    "no time": "name: !!timestamp c",
    "no bytes": "name: !!binary ü",
    "a list as a key": "? [a]\n: 1",
    "a key whose hash is 0": f"{2**61 - 1}: 1",
    "a set of it": f"!!set {{? {2**61 - 1}}}",
    "code": "!!python/object/apply:os.system ['id']",
    "several documents": "a: 1\n---\nb: 2",
    "control characters": "name: \x07",
}  # fmt: skip


@pytest.mark.parametrize("text", YAML.values(), ids=YAML.keys())
def test_yaml_that_is_too_much_is_one_message(text: str) -> None:
    with pytest.raises(Unreadable) as error:
        parse_yaml(text)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


READERS: dict[str, Callable[[Path], Any]] = {
    "any": lambda file: read_yaml(file, ""),
    "manifest": open_manifest,
    "regimes": read_regimes,
    "jobs": read_jobs,
    "preset": lambda file: read_preset(str(file)),
    "skeleton": read_skeleton,
    "setting": lambda file: read_settings([f"a=@{file}"]),
    "setting's text": lambda file: read_settings([f"a={file.read_text()}"]),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize("name", ["aliases of aliases", "lists in lists", "no date"])
def test_every_reader_of_yaml_refuses_it(
    tmp_path: Path, reader: Callable[[Path], Any], name: str
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(YAML[name])
    with pytest.raises(BadInput):
        reader(file)


def test_what_is_meant_is_read() -> None:
    text = "a: &a {b: [1, 2.5, 2020-01-01], c: true}\nd: {<<: *a, e: *a}\nf: 0x1f\n"
    read = parse_yaml(text)
    assert read["d"]["e"] is read["a"]
    assert (read["d"]["c"], read["f"]) == (True, 31)
    assert parse_yaml("{9007199254740992: 1, 0.5: 2}") == {2**53: 1, 0.5: 2}
    assert parse_yaml("[" * (DEPTH.most - 2) + "]" * (DEPTH.most - 2))
    assert parse_yaml("{" + ", ".join(f"name {i}: 'class {i}'" for i in range(2000)) + "}")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_not_written_on(number: str) -> None:
    with pytest.raises(BadInput, match=r"a\.json holds NaN or an infinity"):
        json_bytes(parse_json(f'[{{"area": {number}}}]'), Path("a.json"))
    assert json_bytes([1.5], Path("a.json")) == b"[1.5]"


def test_nothing_else_reads_yaml_or_xml() -> None:
    """So that a new reader has these bounds: all go through sfda.documents."""
    reads = re.compile(r"yaml\.\w*load|(ET|[tT]ree|minidom|etree)\.(parse|fromstring|XML)\b")
    others = [
        f"{path.relative_to(ROOT)}:{number}"
        for room in ("sfda", "tasks", "flows")
        for path in sorted((ROOT / room).rglob("*.py"))
        if path != ROOT / "sfda" / "documents.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if reads.search(line)
    ]
    assert not others, others


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, f"[{'9' * 10_000}]", "[", "\0"])
def test_json_that_is_too_much_is_one_message(text: str) -> None:
    with pytest.raises(Unreadable):
        parse_json(text)


@pytest.mark.parametrize("text", ["[[],[]]", '[{"a":[]}]', "[1,2,3,4,5]"])
def test_json_of_too_many_values_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SFDA_LIMIT_JSON_CONTAINERS", "2")
    monkeypatch.setenv("SFDA_LIMIT_JSON_VALUES", "4")
    for content in (text, text.encode(), text.encode("utf-16")):
        with pytest.raises(Unreadable, match=r"more than \d .*; cut it in parts"):
            parse_json(content)
    assert parse_json("[[1,2]]") == [[1, 2]]


@pytest.mark.parametrize("text", ["<a><b/><b/><b/></a>", '<a b="1" c="2" d="3"/>'])
def test_xml_of_too_many_elements_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SFDA_LIMIT_XML_ELEMENTS", "3")
    with pytest.raises(Unreadable, match="more than 3 elements"):
        parse_xml(text.encode())
    assert parse_xml(b'<a b="1"/>').attrib == {"b": "1"}


LAUGHING = (
    '<!DOCTYPE a [<!ENTITY e "cat"><!ENTITY f "&e;&e;">]><annotations><image name="&f;"/>'
    "</annotations>"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_entities_are_refused_in_every_encoding(encoding: str) -> None:
    plain = '<?xml version="1.0"?>'
    with pytest.raises(Unreadable, match="defines entities"):
        parse_xml((plain + LAUGHING).encode(encoding))
    assert parse_xml((plain + "<a>ü</a>").encode(encoding)).text == "ü"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp037"])
def test_entities_are_refused_where_the_text_names_its_encoding(encoding: str) -> None:
    with pytest.raises(Unreadable):
        parse_xml(f'<?xml version="1.0" encoding="{encoding}"?>{LAUGHING}'.encode(encoding))


@pytest.mark.parametrize(
    "text",
    ["", "<a>", "<a></b>", "<a>&e;</a>", "<a/><b/>", "<a>" * 1000,
     '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', '<?xml version="1.0" encoding="none"?><a/>'],
)  # fmt: skip
def test_other_xml_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        parse_xml(text.encode())


def test_no_more_is_read_than_was_meant(tmp_path: Path) -> None:
    file = tmp_path / "holes"
    with file.open("wb") as opened:
        opened.truncate(1 << 40)
    limit = Limit("A", 1000, "bytes", "a file")
    with pytest.raises(Unreadable, match=f"{1 << 40} bytes, more than 1000 .SFDA_LIMIT_A raises"):
        read_bounded(file, limit)
    with pytest.raises(Unreadable, match="more than 1000 bytes"):
        read_all(io.BytesIO(bytes(1001)), limit)


@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_what_has_no_end_is_not_opened(tmp_path: Path, kind: str) -> None:
    odd = tmp_path / kind
    {"device": lambda: odd.symlink_to("/dev/zero"), "pipe": lambda: os.mkfifo(odd)}.get(
        kind, odd.mkdir
    )()
    (tmp_path / "a.csv").symlink_to(odd)
    for read in (table.read_csv, read_coco, read_export, read_weights):
        with pytest.raises(BadInput):
            read(tmp_path / "a.csv")
    with pytest.raises(Unreadable, match="no regular file"):
        read_bounded(odd, Limit("A", 1000, "bytes", "a file"))


def test_a_table_is_read_little_by_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(
        b"\xef\xbb\xbffile,class\r\n" + b"\n" * (4 << 20) + b'"a\r\nb.png",k\xc3\xa4se'
    )
    tracemalloc.start()
    try:
        rows, header = table.read_csv(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (list(rows), header) == ([{"file": "a\r\nb.png", "class": "käse"}], ["file", "class"])
    assert peak < 4 << 20
    monkeypatch.setenv("SFDA_LIMIT_TABLE_BYTES", "1000")
    with pytest.raises(BadInput, match=r"more than 1000 .*SFDA_LIMIT_TABLE_BYTES"):
        table.read_csv(file)


@pytest.mark.parametrize("pages", [-1, 0, 100])
def test_memory_has_no_end_where_it_is_not_told(
    monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": pages, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert machine_memory() == (pages * 4096 if pages > 0 else math.inf)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("lies", [False, True])
def test_a_member_is_no_larger_than_was_meant(kind: int, lies: bool) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", kind) as archive:
        archive.writestr("a", bytes(3 << 20))
    with zipfile.ZipFile(packed) as archive:
        if lies:
            archive.getinfo("a").file_size = 900
        with pytest.raises((Unreadable, zipfile.BadZipFile)):
            read_member(archive, "a", Limit("A", 1000, "bytes", "a file"))


def test_numbers_in_faults_are_cut(tmp_path: Path) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text(json.dumps({"jobs": [{"name": ["x" * 50_000]}]}))
    with pytest.raises(BadInput) as error:
        read_jobs(file)
    assert len(str(error.value)) < 3000
