"""What people's work refers to is seen, wherever its request lies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfda.errors import BadInput
from sfda.retention.references import references


def write(file: Path, document: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))


def test_versions_and_folders_that_requests_and_monitors_name_are_seen(tmp_path):
    home, asked = tmp_path / "home", tmp_path / "asked"
    audit = {
        "candidate": {"uri": "models:/site/3"},
        "before": {"uri": f"{home}/runs/1f2e/epoch-0001"},
    }
    write(home / "audits/site-3/audit.json", audit)
    write(home / "monitors/1.json", {"champion": "models:/site/2", "weeks": [{"folder": "/gone"}]})
    write(home / "requests/1.json", {"folder": str(asked), "target": "/data"})
    write(asked / "audit.json", {"candidate": {"uri": "models:/other site/7"}})
    write(asked / "more.json", {"uri": "models:/site/1"})  # nothing that we have written
    named = references(home)
    assert named.addresses == {"models:/site/3", "models:/site/2", "models:/other site/7"}
    assert named.entries == {"runs/1f2e"}


def test_a_folder_is_seen_by_whatever_name_the_home_is_called(tmp_path):
    home, link = tmp_path / "home", tmp_path / "link"
    write(home / "audits/a.json", {"uri": f"{home}/runs/1f2e", "odd": "/\0", "far": "/runs/1f2e"})
    write(home / "audits/b.json", {"uri": f"{link}/rungs/77/x"})
    link.symlink_to(home)
    for name in (home, link):
        assert references(name).entries == {"runs/1f2e", "rungs/77"}


def test_a_request_that_cannot_be_read_stops_the_cleaning(tmp_path):
    file = tmp_path / "audits/site-3/audit.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"candidate": ')
    with pytest.raises(BadInput, match=r"audit\.json cannot be read"):
        references(tmp_path)
