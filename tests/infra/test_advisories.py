"""The audit of the locked packages: what it counts, what it may leave out, and what is an error."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "infra" / "audit.py"
SPEC = importlib.util.spec_from_file_location("infra_audit", FILE)
assert SPEC is not None
assert SPEC.loader is not None
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

CLEAN = {"name": "a", "version": "1", "vulns": []}
ABSENT = {"name": "b", "skip_reason": "Dependency not found"}
FOUND = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


@pytest.mark.parametrize(
    ("packages", "code", "says"),
    [
        ([CLEAN, ABSENT], 0, "nothing known against 1 packages; 1 are not known there"),
        ([CLEAN, FOUND], 1, "c 2: CVE-1, mended in 3"),
        ([ABSENT], 0, "skipped, no database"),
    ],
)
def test_only_packages_that_were_looked_up_count(packages, code, says) -> None:
    report = json.dumps({"dependencies": packages, "fixes": []})
    assert audit.verdict(report)[0] == code
    assert says in audit.verdict(report)[1]


def test_without_a_connection_it_is_skipped_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("sfda-no-such-package==1.0\n")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("NO_PROXY", "")
    assert audit.audit(lock) == (0, audit.SKIPPED)


def test_any_other_failure_is_one(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("this is no requirement\n")
    code, says = audit.audit(lock)
    assert code == 1
    assert "pip-audit failed" in says
    assert "requirements.lock" in says
