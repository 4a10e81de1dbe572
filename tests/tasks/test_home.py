"""State lies where SFDA_HOME says, and a disk that refuses ends the job with one clear message."""

import errno
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from sfda import state_folder
from sfda.building_blocks.device import choose, peak_memory_mb, to_device
from sfda.errors import BadInput
from tasks.prefect_runtime import home as place_of_state


def test_home_is_made_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "deep" / "home"))
    assert state_folder.home() == tmp_path / "deep" / "home"
    assert (tmp_path / "deep" / "home").is_dir()
    assert not list((tmp_path / "deep" / "home").iterdir())  # the probe leaves nothing


def test_a_folder_of_a_user_whom_nobody_knows_is_refused(monkeypatch):
    for variable, folder in (
        ("SFDA_HOME", state_folder.state_folder),
        ("SFDA_DATA", state_folder.data_folder),
    ):
        monkeypatch.setenv(variable, "~nosuch/x")
        with pytest.raises(BadInput, match=f"{variable}=~nosuch/x: there is no user"):
            folder()


def test_home_is_in_the_working_folder_unless_said(tmp_path, monkeypatch):
    monkeypatch.delenv("SFDA_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert state_folder.home() == tmp_path / ".sfda"


@pytest.mark.parametrize("below", ["file/home", "file"])
def test_a_home_below_a_file_cannot_be_written_to(tmp_path, monkeypatch, below):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / below))
    with pytest.raises(BadInput, match=f"cannot write to SFDA_HOME .*{below}.*set SFDA_HOME to a"):
        state_folder.home()


def test_a_home_on_a_read_only_place_cannot_be_written_to(monkeypatch):
    monkeypatch.setenv("SFDA_HOME", "/proc/self")
    with pytest.raises(BadInput, match="cannot write to SFDA_HOME /proc/self"):
        state_folder.home()


def test_what_the_user_has_set_stays(tmp_path, monkeypatch):
    for name in (*place_of_state.DEFAULTS, "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "before")  # so that monkeypatch takes back what is set below
        monkeypatch.delenv(name)
    monkeypatch.setenv("SFDA_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example")
    place_of_state.prepare_environment()
    assert os.environ["MLFLOW_TRACKING_URI"] == "https://tracking.example"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert os.environ["DO_NOT_TRACK"] == "1"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    place_of_state.prepare_environment()
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"), (errno.EDQUOT, "free some space"),
        (errno.EROFS, "get the right to write there"), (errno.EACCES, "get the right to write"),
        (errno.EPERM, "get the right to write there"),
    ],
)  # fmt: skip
def test_a_full_or_closed_disk_is_bad_input_that_says_what_to_do(number, remedy):
    output = f"cannot write the state: {os.strerror(number)}; {remedy}"
    with pytest.raises(BadInput, match=output), state_folder.disk_errors("the state"):
        raise OSError(number, os.strerror(number))


def test_a_really_full_disk_is_told_so():
    with (
        pytest.raises(BadInput, match="cannot write it: No space left on device"),
        state_folder.disk_errors("it"),
    ):
        Path("/dev/full").write_text("x")


def test_a_disk_without_room_is_told_before_a_server_is_blamed(tmp_path, monkeypatch):
    assert state_folder.full_disk(tmp_path) is None
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(state_folder, "LEAST_FREE", 2 * free)
    assert str(state_folder.full_disk(tmp_path)).startswith(f"the disk of {tmp_path} is full: ")


def test_other_errors_are_not_dressed_up():
    with pytest.raises(ConnectionResetError), state_folder.disk_errors("it"):
        raise ConnectionResetError(errno.ECONNRESET, "gone")


def test_auto_takes_the_gpu_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose("auto").type == expected
    assert choose("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_not_replaced_silently():
    with pytest.raises(BadInput, match="no CUDA device is visible; use --device cpu"):
        choose("cuda")


def test_placing_on_the_cpu_changes_no_weight():
    network = nn.Conv2d(3, 4, 3)
    before = network.weight.detach().clone()
    assert to_device(network, torch.device("cpu")) is network
    assert torch.equal(network.weight, before)


def test_memory_is_told_in_megabytes():
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB
    assert own <= peak_memory_mb(torch.device("cpu")) < 1.1 * own


def test_a_question_mark_in_its_path_is_refused_and_nothing_is_made(tmp_path, monkeypatch):
    """The databases of `a?b` would lie in a file `a`."""
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "a?b"))
    with pytest.raises(BadInput, match=r"a\?b has a '\?'.*set SFDA_HOME to a folder without one"):
        place_of_state.prepare_environment()
    assert list(tmp_path.iterdir()) == []


ODD = "h#1 %41+~'\"ü💡&;$(x)"


def test_any_other_name_is_a_home(tmp_path, monkeypatch):
    """Versions, their files and the links to them, by addresses of SQLite and of files."""
    import small

    from sfda.weights.bundle import bundle_digest
    from tasks import tracking

    home = tmp_path / ODD
    monkeypatch.setenv("SFDA_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    model = small.bundle(tmp_path / "model")
    with tracking.run("job", key="1", tags={}, params={}) as run:
        tags = {"sha256": model.sha256}
        version = tracking.register_bundle(run, tmp_path / "model", "toy", depth=1, tags=tags)
        tracking.log_file(run, tmp_path / "model" / "spec.json", "report")
    kept = tracking.fetch_bundle(version.uri)
    assert bundle_digest(kept) == model.sha256
    assert kept.is_relative_to(home / "mlartifacts")
    assert (home / "mlflow.db").is_file()
    assert len(list(home.rglob("report/spec.json"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [ODD, "model"]
