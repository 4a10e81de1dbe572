"""What the store loses: versions and runs that nothing needs, rows and files, also after a kill."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing

import pytest
import small

from sfda.errors import BadInput
from sfda.refs import ManifestRef
from sfda.retention.policy import RetentionPolicy
from sfda.state_folder import one_at_a_time
from tasks import champion, tracking
from tasks.clean import clean_home, give_back, would_clean
from tasks.tracking import retention
from tasks.tracking.models import locate

LATER = time.time() + 100 * 86400.0
POLICY = RetentionPolicy(older_than="30d", keep=1)


@pytest.fixture
def versions(home, tmp_path):
    """Six versions of `toy`, each of a run of its own; 2 was champion, 3 is it."""
    model = small.bundle(tmp_path / "bundle")
    made = []
    for number in range(6):
        params = {"target": "site"}
        with tracking.run("job", key=f"k{number}", tags={}, params=params) as run_id:
            tags = {"sha256": model.sha256} | ({"source": "models:/toy/4"} if number == 5 else {})
            made.append(
                tracking.register_bundle(run_id, locate(model.uri), "toy", depth=1, tags=tags)
            )
    champion.promote("toy", "2")
    champion.promote("toy", "3")
    return made


def numbers() -> list[str]:
    return sorted(v.version for v in tracking.versions("toy"))


def folders(home):
    return sorted(p for p in (home / "mlartifacts" / "models").iterdir())


def test_versions_go_that_no_champion_alias_document_or_newer_version_needs(home, versions):
    items = retention.old_items(POLICY, {"models:/toy/1"}, LATER)
    # 1 is referred to, 2 and 3 are champions, 4 is what 6 was made from, 6 is the newest
    assert [str(v.version) for v in items.versions] == ["5"]
    assert len(items.models) == len(items.runs) == 1
    retention.delete_items(items)
    assert numbers() == ["1", "2", "3", "4", "6"]
    assert len(folders(home)) == 5
    with closing(sqlite3.connect(home / "mlflow.db")) as store:
        assert store.execute("SELECT count(*) FROM runs").fetchone() == (5,)
        assert store.execute("SELECT count(*) FROM logged_models").fetchone() == (5,)
    champion.rollback("toy")
    assert tracking.by_alias("toy", "champion").version == "2"
    assert locate("models:/toy/2").is_dir()


def test_of_a_store_that_homes_share_each_loses_its_own(home, versions, tmp_path, monkeypatch):
    before = numbers()
    (other := tmp_path / "other").mkdir()
    monkeypatch.setenv("SFDA_HOME", str(other))
    items = retention.old_items(POLICY, (), LATER)
    assert (items.versions, items.models, items.runs, items.elsewhere > 0) == ((), (), (), True)
    retention.delete_items(items)
    assert numbers() == before
    (link := tmp_path / "link").symlink_to(home)
    monkeypatch.setenv("SFDA_HOME", str(link))  # one home by two names
    items = retention.old_items(POLICY, (), LATER)
    assert (len(items.versions), items.elsewhere) == (2, 0)
    retention.delete_items(items)
    assert len(folders(home)) == len(numbers()) == 4


def test_nothing_goes_that_is_new_or_unfinished(home, versions):
    assert not any(retention.old_items(POLICY, (), time.time())[:3])
    work = tracking.run("job", key="killed", tags={}, params={"target": "site"})
    with pytest.raises(KeyboardInterrupt), work as run_id:  # noqa: PT012
        tracking.set_tags(run_id, {"sfda.run_folder": "1f2e"})
        raise KeyboardInterrupt
    items = retention.old_items(POLICY, (), LATER)
    assert run_id not in {run.info.run_id for run in items.runs}
    assert items.run_folders == {"1f2e"}


def test_a_kill_between_two_deletions_leaves_what_goes_the_next_time(home, versions):
    items = retention.old_items(POLICY, (), LATER)
    for killed in ("_delete_model", "_delete_run"):
        old = retention.old_items(POLICY, (), LATER)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(retention, killed, _interrupt)
            with pytest.raises(KeyboardInterrupt):
                retention.delete_items(old)
    assert numbers() == ["2", "3", "4", "6"]
    retention.delete_items(retention.old_items(POLICY, (), LATER))
    assert len(items.models) == 2
    assert len(folders(home)) == 4
    assert not any(retention.old_items(POLICY, (), LATER)[:3])


def _interrupt(item: object) -> None:
    raise KeyboardInterrupt


def test_a_link_instead_of_a_version_s_files_is_not_followed(home, versions, tmp_path):
    outside = tmp_path / "outside"
    (outside / "artifacts").mkdir(parents=True)
    items = retention.old_items(POLICY, (), LATER)
    for folder in items.folders[:1]:
        retention.delete_folder(home, folder)
        folder.symlink_to(outside)
    retention.delete_items(items)
    assert (outside / "artifacts").is_dir()


def test_a_dry_run_tells_and_writes_nothing_and_two_do_not_clean_at_once(home, versions):
    before = {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}
    time.sleep(0.01)
    report = would_clean(RetentionPolicy(older_than="0.001s", keep=1), ())
    assert report.deleted["versions"] == 2
    assert report.freed > 0
    assert {p: p.read_bytes() for p in home.rglob("*") if p.is_file()} == before
    with one_at_a_time(home / "clean"), pytest.raises(BadInput, match="another `sfda clean`"):
        clean_home(RetentionPolicy(), (), prefect=False)
    done = clean_home(RetentionPolicy(older_than="0.001s", keep=1), (), prefect=False)
    assert done.deleted["versions"] == 2
    assert numbers() == ["2", "3", "4", "6"]


def test_the_manifests_stay_that_remaining_runs_read_and_no_audit_of_nobody_holds_a_version(
    home, versions
):
    state = {"version": 9, "adapted": 9, "manifest": None}
    (site := home / "targets" / "site").mkdir(parents=True)
    (site / "state.json").write_text(json.dumps(state))
    for number in range(1, 10):
        (site / f"v{number:04d}.yaml").write_text("x")
    with tracking.run("job", key="read", tags={}, params={"target": "site"}) as run_id:
        manifest = ManifestRef(path=str(site / "v0004.yaml"), sha256="0" * 64)
        tracking.log_manifest(run_id, "site", manifest, "target")
    for number in (5, 3):  # the newest audit stays
        (audit := home / "audits" / f"toy-{number}").mkdir(parents=True)
        (audit / "audit.json").write_text(f'{{"candidate": "models:/toy/{number}"}}')
        time.sleep(0.01)
    policy = RetentionPolicy(older_than="0.001s", keep=1)
    time.sleep(0.01)
    told = would_clean(policy, ())
    done = clean_home(policy, (), prefect=False)
    assert told.deleted == done.deleted
    assert done.deleted["audits without answers"] == 1
    assert sorted(f.name for f in site.glob("v*")) == ["v0004.yaml", "v0009.yaml"]
    assert numbers() == ["2", "3", "4", "6"]  # 5 was named by an audit that is gone


def test_a_database_that_is_mostly_free_is_made_smaller_unless_somebody_writes(tmp_path):
    file = tmp_path / "store.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as store:
        store.execute("CREATE TABLE rows (text)")
        store.execute("INSERT INTO rows VALUES (randomblob(1000000))")
        store.execute("DELETE FROM rows")
        size = file.stat().st_size
        store.execute("BEGIN IMMEDIATE")
        assert "locked" in (give_back(file, patience=0.1) or "")
        store.execute("ROLLBACK")
    assert file.stat().st_size == size
    assert give_back(file) is None
    assert file.stat().st_size < size / 10


def test_a_home_that_held_other_things_is_not_cleaned(home, versions):
    (home / "made-here").unlink()
    report = would_clean(RetentionPolicy(older_than="0.001s", keep=1), ())
    assert any("held other things before it was SFDA_HOME" in line for line in report.left)
    with pytest.raises(BadInput, match=r"touch .*made-here"):
        clean_home(RetentionPolicy(older_than="0.001s", keep=1), (), prefect=False)
    assert len(numbers()) == 6


@pytest.mark.parametrize("below", ["requests", "mlartifacts", "inner/mlartifacts/RUN", ""])
def test_a_row_deletes_no_folder_but_its_own(home, versions, below):
    """Rows of a shared store may say anything; another home may lie in this one."""
    run = tracking.client().search_runs([tracking.experiment()])[-1]
    folder = home / below.replace("RUN", run.info.run_id)
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    (folder / "artifacts" / "mine.txt").touch()
    with closing(sqlite3.connect(home / "mlflow.db")) as store:
        uri = (folder / "artifacts").as_uri()
        store.execute("UPDATE runs SET artifact_uri = ?", (uri,))
        store.execute("UPDATE logged_models SET artifact_location = ?", (uri,))
        store.commit()
    items = retention.old_items(POLICY, (), LATER)
    assert (items.models, items.runs) == ((), ())
    retention.delete_items(items)
    assert (folder / "artifacts" / "mine.txt").is_file()
