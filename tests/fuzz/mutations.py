"""Damage to small valid files: bits, numbers, keys, depth, links. A function of the random numbers
alone, so that a seed names its inputs.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import yaml

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 255, 65_536, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-320,
    1e308, float("nan"), float("inf"), float("-inf"), "", " ", "0", "nan", "1e999", "-1", "é", "\0",
    "a\nb", "\x1b[2J", "\u202e", "\u2028", "\ud800", "..", "../../etc/passwd", "/etc/passwd",
    "/dev/zero", "x" * 300, "x" * 70_000, "[" * 50, "$(id)", "%s%n", "__proto__", [], {}, [[]],
    [None], {"": {}}, [0] * 50,
)  # fmt: skip
NUMBERS = (
    "0", "-1", "1", "255", "65536", "2147483648", "9223372036854775808", "1e400", "-1e400", "nan",
    "NaN", "inf", "Infinity", "0x10", "1_0", "1.5", "-0", "1e-400", "9" * 30, "9" * 5000, "٣", "",
)  # fmt: skip
TEXTS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xe2\x80\xae",
    b"\r", b"\n", b'"', b"'", b",", b";", b"<", b">", b"&", b"{", b"[", b"]", b"}", b":", b"- ",
    b"&a ", b"*a ", b"!!python/object:os.system ", b"!!binary ", b"? ", b"<<: ", b"%", b"../",
)  # fmt: skip
LINKS = ("/dev/zero", "/etc/passwd", "/proc/self/environ", "missing", ".", "pipe", "itself")


def mutate(path: Path, rng: Random) -> str:
    """Damage one file in its place, and say how."""
    if rng.random() < 0.03:
        return _link(path, rng)
    content = path.read_bytes()
    kinds = [_flipped, _cut, _overwritten, _repeated, _inserted]
    structured = STRUCTURED.get(path.suffix)
    if structured and rng.random() < 0.8:
        kinds = list(structured)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.choice(kinds)
        content = kind(content, rng)
    path.write_bytes(content)
    return kind.__name__.strip("_")


def _link(path: Path, rng: Random) -> str:
    to = rng.choice(LINKS)
    path.unlink()
    if to == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if to == "itself" else to)
    return f"link to {to}"


def _flipped(content: bytes, rng: Random) -> bytes:
    out = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 32)) if out else 0):
        out[_position(out, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _position(content: bytes | bytearray, rng: Random) -> int:
    """A place in a file, often in its head, where most is said."""
    return rng.randrange(min(len(content), rng.choice((64, 512, len(content)))))


def _cut(content: bytes, rng: Random) -> bytes:
    if not content:
        return b""
    start = rng.choice((0, _position(content, rng)))
    end = min(len(content), start + rng.choice((1, 16, 256, len(content))))
    return content[:start] + content[end:]


def _overwritten(content: bytes, rng: Random) -> bytes:
    if not content:
        return b"\0"
    at, size = _position(content, rng), rng.choice((1, 2, 4, 8))
    number = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 1 << 16, (1 << 31) - 1, (1 << 64) - 1))
    number &= (1 << 8 * size) - 1
    new = number.to_bytes(size, rng.choice(("little", "big")))
    return content[:at] + new + content[at + size :]


def _repeated(content: bytes, rng: Random) -> bytes:
    if not content:
        return b""
    at = _position(content, rng)
    part = content[at : at + rng.choice((1, 12, 100, 1000))]
    return content[:at] + part * rng.choice((2, 3, 200)) + content[at:]


def _inserted(content: bytes, rng: Random) -> bytes:
    at = _position(content, rng) if content else 0
    return content[:at] + rng.choice((*TEXTS, rng.randbytes(16))) + content[at:]


def _renumbered(content: bytes, rng: Random) -> bytes:
    """One number of a text as another."""
    places = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    if not places:
        return _inserted(content, rng)
    place = rng.choice(places)
    new = rng.choice(NUMBERS).encode()
    return content[: place.start()] + new + content[place.end() :]


def _relined(content: bytes, rng: Random) -> bytes:
    """Lines twice, in another order, or gone."""
    lines = content.splitlines(keepends=True) or [b""]
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.randrange(3)
    if how == 0:
        lines.insert(other, lines[one])
    elif how == 1:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        del lines[one]
    return b"".join(lines)


def _recelled(content: bytes, rng: Random) -> bytes:
    """One cell of a table as something odd, or a column more or less."""
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    cells = lines[at].split(b",")
    which = rng.randrange(len(cells))
    if rng.random() < 0.2:
        cells.insert(which, cells[which])
    else:
        cells[which] = str(rng.choice((*ODD, *NUMBERS))).encode("utf-8", "surrogatepass")
    lines[at] = b",".join(cells)
    return b"\n".join(lines)


def _revalued(content: bytes, rng: Random) -> bytes:
    """One value of JSON as another, gone, twice or deep within lists."""
    try:
        document = json.loads(content)
    except ValueError:
        return _inserted(content, rng)
    return _json(_odd(document, rng)).encode("utf-8", "surrogatepass")


def _json(document: Any) -> str:
    try:
        return json.dumps(document, ensure_ascii=False)
    except ValueError:
        return "[]"


def _remapped(content: bytes, rng: Random) -> bytes:
    """The same of YAML."""
    if b"*a0" in content:  # it stands for too much to be walked through
        return _inserted(content, rng)
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError):
        return _inserted(content, rng)
    document = _odd(document, rng)
    if rng.random() < 0.5:
        return _json(document).encode("utf-8", "surrogatepass")
    return yaml.safe_dump(document, sort_keys=False).encode("utf-8", "surrogatepass")


def _odd(document: Any, rng: Random) -> Any:
    """A document with one part changed, whichever it is."""
    parts = _parts(document)
    if not parts:
        return deepcopy(rng.choice(ODD))
    holder, key = rng.choice(parts)
    how = rng.randrange(6)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif how == 1:
        holder[str(rng.choice(ODD))] = holder[key]
    elif how == 2:
        for _ in range(rng.choice((1, 3, 70, 150))):
            holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
    elif how == 3:
        other, name = rng.choice(parts)
        holder[key] = json.loads(_json(other[name])) if _is_small(other[name]) else None
    else:
        holder[key] = deepcopy(rng.choice(ODD))
    return document


def _is_small(value: Any) -> bool:
    return len(repr(value)) < 10_000


def _parts(document: Any) -> list[tuple[Any, Any]]:
    """Each container within a document, with each of its keys."""
    out: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        one = waiting.pop()
        keys = range(len(one)) if isinstance(one, list) else one if isinstance(one, dict) else ()
        for key in keys:
            out.append((one, key))
            waiting.append(one[key])
    return out


def _twice(content: bytes, rng: Random) -> bytes:
    """A key of JSON or YAML that stands there twice, the second time as something odd."""
    keys = list(re.finditer(rb'"([^"\\]{1,30})"\s*:|^( *[a-z_]{1,30}):', content, re.M))
    if not keys:
        return _inserted(content, rng)
    key = rng.choice(keys)
    value = _json(rng.choice(ODD)).encode("utf-8", "surrogatepass")
    comma, end = (b"", b"\n") if key[2] else (b"", b",")
    return content[: key.start()] + comma + key[0] + b" " + value + end + content[key.start() :]


def _aliased(content: bytes, rng: Random) -> bytes:
    """YAML that stands for far more than it says."""
    count = rng.choice((2, 9, 40))
    lines = [b"a0: &a0 [x, x, x]"]
    lines += [
        b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, count)
    ]
    return content + b"\n" + b"\n".join(lines) + b"\n"


def _retagged(content: bytes, rng: Random) -> bytes:
    """XML with an attribute of another value, or an element twice, gone, or deep in others."""
    attributes = list(re.finditer(rb'(\w+)="([^"]*)"', content))
    elements = list(re.finditer(rb"<(\w+)[^<>]*/>|<(\w+)[^<>]*>[^<>]*</\2>", content))
    how = rng.randrange(6)
    if elements and how < 3:
        one = rng.choice(elements)
        deep = rng.choice((2, 30, 100, 3000))
        new = (b"", one[0] * deep, b"<a>" * deep + one[0] + b"</a>" * deep)[how]
        return content[: one.start()] + new + content[one.end() :]
    if attributes:
        one = rng.choice(attributes)
        value = str(rng.choice((*ODD, *NUMBERS))).encode("utf-8", "surrogatepass")
        value = value.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b'"', b"&quot;")
        new = b"" if how == 3 else b'%s="%s"' % (one[1], value)
        return content[: one.start()] + new + content[one.end() :]
    return _inserted(content, rng)


def _repacked(content: bytes, rng: Random) -> bytes:
    """A zip with a member damaged, renamed, twice, or packed to almost nothing."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # damaged before
        return _flipped(content, rng)
    if not members:
        return content
    at, how = rng.randrange(len(members)), rng.randrange(5)
    name, data = members[at]
    if how == 0:
        members[at] = (
            rng.choice(("../x", "/x", "a/../../x", " ", "é", "a\\b", name.upper())),
            data,
        )
    elif how == 1:
        members.append((name, data))
    elif how == 2:
        members[at] = (name, bytes(8 << 20))
    else:
        inner = STRUCTURED.get(Path(name).suffix, (_flipped, _cut, _overwritten, _repeated))
        members[at] = (name, rng.choice(inner)(data, rng))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if how == 2 else rng.choice(PACKED)) as new:
        for name, data in members:
            new.writestr(name, data)
    return out.getvalue()


PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_BYTES = (_flipped, _cut, _overwritten, _repeated)
_JSON = (_revalued, _revalued, _revalued, _renumbered, _twice, _inserted, _cut)
STRUCTURED: dict[str, tuple[Callable[[bytes, Random], bytes], ...]] = {
    ".json": _JSON,
    ".yaml": (_remapped, _remapped, _remapped, _renumbered, _twice, _aliased, _relined, _inserted),
    ".csv": (_recelled, _recelled, _renumbered, _relined, _inserted),
    ".txt": (_relined, _inserted, _renumbered, _cut),
    ".xml": (_retagged, _retagged, _renumbered, _inserted),
    ".zip": (_repacked, _repacked, *_BYTES),
    ".npz": (_repacked, *_BYTES),
    ".pt": (_repacked, *_BYTES),
    ".safetensors": (_renumbered, _inserted, *_BYTES),
}
