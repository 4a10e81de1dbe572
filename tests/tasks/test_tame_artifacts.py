"""Names in artifacts: no picture, no tag, no link, and our own tables stay."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.client.schemas.sorting import ArtifactSort

from tasks.prefect_runtime.artifacts import RunPage
from tasks.prefect_runtime.tame_artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
    tame,
)

ROOT = Path(__file__).parents[2]
PROGRESS = {"create_progress_artifact", "update_progress_artifact"}
HOSTILE = "![x](//h/md)<img src=//h/i>[a]: //h\n[b][a]<!-- --></td><http://h>"


def stored(*keys: str) -> list[Artifact]:
    """Artifacts of these keys, the newest first; the server has those of other tests, too."""
    own = ArtifactFilter(key=ArtifactFilterKey(any_=list(keys)))
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=own, sort=ArtifactSort.CREATED_DESC)


def test_nothing_is_loaded_or_led_to() -> None:
    text = tame(HOSTILE)
    assert not re.search(r"<[A-Za-z/!?]", text)
    assert not re.search(r"\](\(|\[|:)", text)
    assert tame("| a | 1 < 2 |\n|---|---:|\n`x`") == "| a | 1 < 2 |\n|---|---:|\n`x`"


@pytest.mark.flow
def test_what_is_stored_is_tame(prefect_api: None) -> None:
    create_markdown_artifact(f"### {HOSTILE}", key="tame-text")
    create_link_artifact(
        "https://ours/", link_text="a](//h) [b", key="tame-link", description=HOSTILE
    )
    rows = [{HOSTILE: HOSTILE, "rank": 1.5, "chosen": ""}]
    create_table_artifact(rows, key="tame-table", description=HOSTILE)
    made = {one.key: one for one in stored("tame-text", "tame-link", "tame-table")}
    assert made["tame-text"].data == f"### {tame(HOSTILE)}"
    assert made["tame-link"].description == tame(HOSTILE)
    assert str(made["tame-link"].data) == r"[a\](//h) \[b](https://ours/)"
    expected = [{tame(HOSTILE): tame(HOSTILE), "rank": 1.5, "chosen": ""}]
    assert json.loads(str(made["tame-table"].data)) == expected
    assert made["tame-table"].description == tame(HOSTILE)


@pytest.mark.flow
def test_the_title_of_a_progress_bar_is_tame(prefect_api: None) -> None:
    @flow
    def hostile_title() -> None:
        RunPage(HOSTILE).show(0.5)

    hostile_title()
    (newest, *_) = stored("progress")
    assert newest.description == tame(HOSTILE)


def test_artifacts_are_made_nowhere_else() -> None:
    others = [
        str(path.relative_to(ROOT))
        for folder in ("flows", "tasks")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "tame_artifacts.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "prefect.artifacts"
        if path.name != "artifacts.py" or {one.name for one in node.names} - PROGRESS
    ]
    assert not others
