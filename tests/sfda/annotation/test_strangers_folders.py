"""Folders of requests and audits that somebody else made: bounded, and they write nowhere else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sfda.annotation.audit.as_labels import write_labels
from sfda.annotation.choose_rows import MOST_BEFORE, _read_before
from sfda.errors import BadInput


class Rows(list[str]):
    """As many rows as names, as a split has them."""

    @property
    def row_ids(self) -> list[str]:
        return list(self)


def before(folder: Path, **arrays: Any) -> Any:
    np.savez_compressed(folder / "probabilities.npz", **arrays)
    return _read_before(folder, Rows("ab"))  # type: ignore[arg-type]


def test_an_earlier_request_is_read_in_the_order_of_the_rows(tmp_path: Path) -> None:
    probs, margin = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32), np.array([0.8, 0.6], np.float32)
    read = before(tmp_path, row_ids=np.array(["b", "a"]), probs=probs, margin=margin)
    assert np.array_equal(read.probs.numpy(), probs[::-1])
    assert np.array_equal(read.margin.numpy(), margin[::-1])


@pytest.mark.parametrize(
    ("count", "classes"),
    [(2 * MOST_BEFORE + 1, 2), (2, 1 << 28)],  # a few kilobytes that would take gigabytes
)
def test_one_of_far_more_images_is_not_read(
    tmp_path: Path, count: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfda.annotation.choose_rows.npz_array", None)  # would fail if called
    shapes = {"row_ids": (count,), "probs": (count, classes), "margin": (count,)}
    monkeypatch.setattr(
        "sfda.annotation.choose_rows.npz_header", lambda _, name: (shapes[name], np.float32)
    )
    with pytest.raises(BadInput, match="holds no probabilities of an earlier request"):
        _read_before(tmp_path, Rows("ab"))  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["root:x:0:0", None])
def test_answers_to_an_audit_become_labels_of_its_own_target_alone(
    tmp_path: Path, content: str | None
) -> None:
    target = tmp_path / "target.yaml"
    if content:
        target.write_text(content)
    manifest = SimpleNamespace(path=str(target), sha256="0" * 64)
    request: Any = SimpleNamespace(
        question="class", questions=(), target=SimpleNamespace(manifest=manifest)
    )
    with pytest.raises(BadInput, match="is not the manifest that this audit was made for") as error:
        write_labels(request, {})
    assert "x:0:0" not in str(error.value)
