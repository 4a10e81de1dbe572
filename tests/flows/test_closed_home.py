"""What commands and runs write below the home is closed to others; what people name is not."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import sfda

from flows.cli.session import session
from sfda.inference.prediction_files import _whole_in
from sfda.manifests.write import write_files
from sfda.state_folder import close_copies, named_by_a_person


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o027])
def umask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.delenv("SFDA_UMASK", raising=False)
    before = os.umask(request.param)
    yield request.param
    assert os.umask(before) == request.param


def test_a_command_closes_what_it_makes_in_its_home(home, tmp_path, umask, monkeypatch):
    named = tmp_path / "out" / "set" / "next.yaml"
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"SFDA_HOME": str(home)})
    with session(False):
        (home / "runs").mkdir()
        (home / "runs" / "file").write_text("x")
        write_files({home / "runs" / "own.yaml": b"x"}, home / "runs" / "own.yaml")
        write_files({named: b"x"}, named)
        with _whole_in(named.parent) as part:
            (part / "masks").mkdir()
            (part / "masks" / "0.png").write_text("x")
    logging.getLogger("sfda").handlers.clear()  # they write to this test's stderr
    assert mode(home / "runs") == 0o700
    assert {mode(file) for file in (home / "runs").iterdir()} == {0o600}
    assert mode(named) == 0o666 & ~umask
    folders = (named.parent, named.parent.parent, named.parent / "masks")
    assert {mode(folder) for folder in folders} == {0o777 & ~umask}
    assert mode(named.parent / "masks" / "0.png") == 0o666 & ~umask


def test_a_command_leaves_the_environment_and_escapes_what_it_logs(
    home, umask, monkeypatch, capsys
):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with session(False):
        assert os.environ["PYTHONSAFEPATH"] == "1"
        assert os.environ["SFDA_UMASK"] == f"{umask:03o}"
        logging.getLogger("sfda").warning("class %s", "\x1b[2J")
    logging.getLogger("sfda").handlers.clear()
    assert not {"PYTHONSAFEPATH", "SFDA_UMASK"} & set(os.environ)
    assert capsys.readouterr().err.endswith("class ?[2J\n")


def test_a_store_that_a_person_names_has_their_modes(home, tmp_path, umask, monkeypatch):
    store = tmp_path / "team.db"
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"SFDA_HOME": str(home)})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}?timeout=60")
    with session(False):
        pass
    logging.getLogger("sfda").handlers.clear()
    assert mode(store) == 0o666 & ~umask


def test_copies_are_closed_in_the_home_alone(home, tmp_path):
    for folder in (home / "my copies", tmp_path / "theirs"):
        folder.mkdir()
        (folder / "code.py").write_text("x")
        for path in (folder, folder / "code.py"):
            path.chmod(0o755)
        (folder / "link").symlink_to("/etc/passwd")
        close_copies(folder.as_uri())
    assert mode(home / "my copies") == mode(home / "my copies" / "code.py") == 0o700
    assert mode(tmp_path / "theirs" / "code.py") == 0o755
    close_copies("s3://bucket/models")


def test_without_a_command_a_persons_umask_is_the_process_own(home, tmp_path, umask):
    with named_by_a_person(tmp_path) as mask:
        assert mask == umask
    with named_by_a_person(home / "x") as mask:
        assert mask == umask | 0o077


def test_a_process_of_one_run_closes_its_files(tmp_path):
    """As a worker starts it, whoever started the worker."""
    program = "import os, flows; print(os.umask(0), os.environ.get('SFDA_UMASK'), os.getcwd())"
    other = {"PREFECT__FLOW_RUN_ID": "1", "PREFECT_API_URL": "http://x"}
    for env, expected in (
        (other | {"SFDA_DEPLOYED": ""}, [str(0o077), "022", os.getcwd()]),
        (other | {"SFDA_DEPLOYED": str(tmp_path)}, [str(0o077), "022", str(tmp_path)]),
        (other, [str(0o022), "None", os.getcwd()]),  # a run of somebody else's flow
        ({"SFDA_DEPLOYED": str(tmp_path)}, [str(0o022), "None", os.getcwd()]),
    ):
        output = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, umask=0o022,
            check=True, env={k: v for k, v in os.environ.items() if k != "SFDA_UMASK"} | env,
        ).stdout  # fmt: skip
        assert output.split() == expected


def test_the_word_that_an_open_home_was_closed_is_shown_once(home):
    home.chmod(0o755)
    first, second = sfda("status"), sfda("status")
    assert first.code == second.code == 0
    assert first.err.count(f"{home} was open to other users and is closed to them now\n") == 1
    assert "closed" not in second.err
    assert mode(home) == 0o700
