"""Retention: what of a home is old and needed by nobody goes, by one process at a time."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from sfda.errors import BadInput
from sfda.retention.home_files import (
    KIND_OF_TOP,
    OTHER,
    VERSIONS,
    OldEntry,
    delete_entry,
    disk_use,
    old_entries,
    size_by_kind,
)
from sfda.retention.policy import CleanReport, DiskUse, RetentionPolicy
from sfda.retention.references import References, entry_below, references
from sfda.retention.target_files import old_audits, old_target_files
from sfda.state_folder import disk_errors, home, if_nobody_works, state_folder
from sfda.strangers import refuse_unmarked
from tasks.prefect_runtime.retention import (
    count_old_flow_runs,
    delete_flow_runs,
    old_flow_runs,
)
from tasks.tracking.retention import StoreItems, delete_items, old_items

WRITERS_TIME = 5.0  # seconds for a database that somebody writes to
WORTH_IT = 0.2  # share of a database that is free and is given back


def clean_home(
    policy: RetentionPolicy, flows: Collection[str], *, prefect: bool = True
) -> CleanReport:
    """Delete what the policy says, with the rows of MLflow and, if there is a server, Prefect,
    whose flows are named.

    Raises BadInput where another process cleans the same home. A killed call leaves nothing that a
    second one would not delete. Files go first: on a full disk databases cannot be written to.
    """
    folder = home()
    with if_nobody_works(folder / "clean") as free, disk_errors(str(folder)):
        if not free:
            raise BadInput(f"another `sfda clean` works in {folder}; wait for its end")
        refuse_unmarked(folder)
        now, before = time.time(), size_by_kind(folder)
        audits = old_audits(folder, policy, now)
        gone = [entry for entry in audits if delete_entry(entry)]
        items, entries, left = _removable(policy, folder, now)
        gone += [entry for entry in entries if delete_entry(entry)]
        entries = [*audits, *entries]
        left += [f"{e.path.relative_to(folder)} is used" for e in entries if e not in gone]
        delete_items(items)
        flow_runs = _delete_flow_runs(policy, flows, now) if prefect else 0
        left += [line for file in _databases(folder) if (line := give_back(file))]
        return CleanReport(
            home=str(folder),
            dry_run=False,
            policy=policy,
            deleted=_counts(items, flow_runs, gone),
            before=before,
            after=size_by_kind(folder),
            left=tuple(left),
        )


def _removable(
    policy: RetentionPolicy, folder: Path, now: float, audits: Collection[OldEntry] = ()
) -> tuple[StoreItems, list[OldEntry], list[str]]:
    """What of the store and of the home's files may go, and lines on what stays all the same, as
    if these `audits` were gone.
    """
    named = references(folder, without=[entry.path for entry in audits])
    items = old_items(policy, named.addresses, now)
    needed = _needed(named, items, folder)
    entries, left = old_entries(folder, policy, needed, now)
    target_files, more = old_target_files(folder, policy, needed, now)
    entries, left = [*entries, *target_files], [*left, *more]
    if items.elsewhere:
        left.append(f"{items.elsewhere} old runs and versions have their files in another home")
    return items, entries, left


def would_clean(policy: RetentionPolicy, flows: Collection[str]) -> CleanReport:
    """What `clean_home` would do; nothing is written. Rows of databases are counted, and their size
    is not foretold.
    """
    folder, now = state_folder(), time.time()
    before = size_by_kind(folder)
    audits = old_audits(folder, policy, now)
    items, entries, left = _removable(policy, folder, now, audits)
    entries = [*audits, *entries]
    after = dict(before)
    for path in (*(entry.path for entry in entries), *items.folders):
        if path.is_relative_to(folder):
            kind, size = kind_of_path(path, folder), disk_use(path)
            after[kind] = after.get(kind, DiskUse()).plus(-size.bytes, -size.files)
    flow_runs = count_old_flow_runs(policy, flows, folder, now)
    try:
        refuse_unmarked(folder)
    except BadInput as refusal:
        left.append(str(refusal))
    return CleanReport(
        home=str(folder),
        dry_run=True,
        policy=policy,
        deleted=_counts(items, flow_runs, entries),
        before=before,
        after=after,
        left=tuple(left),
    )


def kind_of_path(path: Path, folder: Path) -> str:
    """The kind of what lies at a path below the home."""
    parts = path.relative_to(folder).parts
    return VERSIONS if parts[:2] == ("mlartifacts", "models") else KIND_OF_TOP.get(parts[0], OTHER)


def _needed(named: References, items: StoreItems, folder: Path) -> set[str]:
    """Entries below the home that somebody refers to."""
    needed = set(named.entries) | {f"runs/{name}" for name in items.run_folders}
    for text in items.sources:
        if entry := entry_below(folder, text):
            needed.add(entry)
    return needed


def _counts(items: StoreItems, flow_runs: int, entries: Collection[OldEntry]) -> dict[str, int]:
    counts = {
        "versions": len(items.versions),
        "version files": len(items.models),
        "MLflow runs": len(items.runs),
        "Prefect flow runs": flow_runs,
    }
    for entry in entries:
        counts[entry.kind] = counts.get(entry.kind, 0) + 1
    return counts


def _delete_flow_runs(policy: RetentionPolicy, flows: Collection[str], now: float) -> int:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        old = old_flow_runs(client, policy, flows, now)
        delete_flow_runs(client, old)
    return len(old)


def _databases(folder: Path) -> list[Path]:
    files = [folder / "mlflow.db", folder / "prefect" / "prefect.db"]
    return [file for file in files if file.is_file() and not file.is_symlink()]


def give_back(file: Path, patience: float = WRITERS_TIME) -> str | None:
    """Give the free part of an SQLite database back to the disk, where it is worth it and there is
    room for a copy; a line where another process is at it.
    """
    try:
        with closing(sqlite3.connect(file, timeout=patience, isolation_level=None)) as database:
            pages, free = (
                database.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count")
            )
            if free < WORTH_IT * pages:
                return None
            if shutil.disk_usage(file.parent).free < 3 * os.path.getsize(file):
                return f"{file.name} is not made smaller: there is no room for its copy"
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        return f"{file.name} is not made smaller now: {error}"
    return None
