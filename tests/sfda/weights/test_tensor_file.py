"""Files of tensors read by hand: the same as their library says, and nothing that it would not."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from sfda.bounds.limits import HEADER_BYTES
from sfda.weights.tensor_file import KINDS, TensorFile, strict_json


def written(header: Any, data: bytes = b"") -> io.BytesIO:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return io.BytesIO(len(text).to_bytes(8, "little") + text + data)


def line(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_every_type_comes_back_as_it_was() -> None:
    numbers = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    tensors = {str(kind): numbers.to(kind) for kind in KINDS.values()}
    tensors |= {"one": torch.tensor(3.0), "none": torch.zeros(0, 4)}
    file = TensorFile(io.BytesIO(save(tensors, metadata={"sha256": "x"})))
    assert file.metadata == {"sha256": "x"}
    assert set(file.entries) == set(tensors)
    for name, tensor in tensors.items():
        again = file.tensor(name)
        assert (again.dtype, again.shape) == (tensor.dtype, tensor.shape)
        content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert again.reshape(-1).view(torch.uint8).numpy().tobytes() == content
        assert b"".join(map(bytes, file.pieces(name))) == content


def test_a_file_that_is_overwritten_later_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(100_000)}, path)
    with path.open("rb") as opened:
        tensor = TensorFile(opened).tensor("a")
        with path.open("r+b") as other:
            other.seek(200)
            other.write(b"\xff" * 300_000)
            other.truncate(1000)
    assert torch.equal(tensor, torch.ones(100_000))


HOSTILE: dict[str, tuple[io.BytesIO, str]] = {
    "nothing": (io.BytesIO(b""), "header"),
    "a huge header": (io.BytesIO((2**63).to_bytes(8, "little") + b"{}"), "header has"),
    "a long header": (written(b" " * (HEADER_BYTES.most + 1)), "header has"),
    "no table": (written([1]), "no table"),
    "no JSON": (written(b"{"), "Expecting"),
    "no text": (written(b'{"\xff": 1}'), "utf-8"),
    "deep": (written(b'{"a":' * 100_000), "nested too deeply"),
    "twice": (written(b'{"a": 1, "b": 2, "a": 1}'), "'a' stands there twice"),
    "NaN": (written(b'{"a": NaN}'), "NaN is no number"),
    "huge number": (written(b'{"a": ' + b"9" * 10_000 + b"}"), "digits"),
    "metadata of numbers": (written({"__metadata__": {"a": 1}}), "metadata"),
    "metadata that is a list": (written({"__metadata__": []}), "metadata"),
    "unknown type": (written({"a": line([1], 0, 4, "F4")}, b"0000"), "no tensor of a type"),
    "type that is a list": (written({"a": line([1], 0, 4, ["F32"])}, b"0000"), "no tensor"),
    "a field more": (written({"a": {**line([1], 0, 4), "b": 1}}, b"0000"), "no tensor"),
    "a name of two lines": (written({"a\nsfda: fine": line([1], 0, 4)}, b"0000"), "names no part"),
    "a name that paints": (written({"\x1b[2J": line([1], 0, 4)}, b"0000"), "names no part"),
    "a long name": (written({"a" * 1000: line([1], 0, 4)}, b"0000"), "names no part"),
    "negative side": (written({"a": line([-1, -1], 0, 4)}, b"0000"), "shape or a place"),
    "side of truth": (written({"a": line([True], 0, 4)}, b"0000"), "shape or a place"),
    "side of a fraction": (written({"a": line([1.0], 0, 4)}, b"0000"), "shape or a place"),
    "many axes": (written({"a": line([1] * 17, 0, 4)}, b"0000"), "shape or a place"),
    "no length and endless": (written({"a": line([0, 2**62, 2**62], 0, 0)}), "larger than any"),
    "offsets backwards": (written({"a": line([1], 4, 0)}, b"0000"), "bytes, not 4"),
    "negative offset": (written({"a": line([1], -4, 0)}, b"0000"), "shape or a place"),
    "larger than it says": (written({"a": line([2], 0, 4)}, b"0000"), "4 bytes, not 8"),
    "overlapping": (
        written({"a": line([2], 0, 8), "b": line([2], 4, 12)}, b"0" * 12),
        "overlap",
    ),
    "the same twice": (written({"a": line([1], 0, 4), "b": line([1], 0, 4)}, b"0000"), "overlap"),
    "a gap": (written({"a": line([1], 4, 8)}, b"0" * 8), "overlap, or leave bytes"),
    "beyond the end": (written({"a": line([2], 0, 8)}, b"0000"), "the file at"),
    "bytes behind": (written({"a": line([1], 0, 4)}, b"0000more"), "the file at"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_such_file_says_is_refused(name: str) -> None:
    file, message = HOSTILE[name]
    with pytest.raises(ValueError, match=message):
        TensorFile(file)


def test_a_file_that_ends_early_is_told() -> None:
    file = io.BytesIO(save({"a": torch.ones(100)}))
    opened = TensorFile(file)
    file.truncate(300)
    with pytest.raises(ValueError, match="ends early"):
        opened.tensor("a")
    with pytest.raises(ValueError, match="ends early"):
        list(opened.pieces("a"))


def test_json_has_one_meaning() -> None:
    assert strict_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="stands there twice"):
        strict_json(b'[{"a": {"b": 1, "b": 1}}]')
