"""Runs end as they went, the registry keeps its history, and every refusal says what there is."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
import small
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking.context import registry as contexts
from mlflow.tracking.context.default_context import DefaultRunContext
from mlflow.tracking.context.git_context import GitRunContext

from sfda.decision.change import ChangeReport
from sfda.decision.gate import Evidence
from sfda.decision.paired import PairedInterval
from sfda.decision.vetoes import Expected
from sfda.errors import BadInput
from sfda.manifests.digests import file_digest
from sfda.policy import DecisionPolicy
from sfda.refs import ManifestRef, ModelRef, SplitRef, Version
from sfda.retention.policy import RetentionPolicy
from tasks import champion, decide, tracking
from tasks.prefect_runtime.home import DEFAULTS
from tasks.register import register_model
from tasks.tracking import fetched, retention, store
from tasks.tracking.models import locate, model_ref, open_model


def interrupt(key: str = "work", **params: object) -> str:
    """A run whose process was told to end."""
    with (
        pytest.raises(KeyboardInterrupt),
        tracking.run("job", key=key, tags={}, params=params) as run_id,
    ):
        raise KeyboardInterrupt
    return run_id


def start(key: str = "work", **params: object) -> str:
    """A run as a process leaves it that dies without a word."""
    run_id = interrupt(key, **params)
    tracking.client().update_run(run_id, status="RUNNING")
    return run_id


def status(run_id: str) -> str:
    return tracking.client().get_run(run_id).info.status


@pytest.fixture
def registered(home, tmp_path):
    """Registers the source model as often as it is called, each time from a run of its own."""
    model = small.bundle(tmp_path / "bundle")

    def make() -> Version:
        with tracking.run("job", key="k", tags={}, params={}) as run_id:
            return tracking.register_bundle(
                run_id, locate(model.uri), "toy", depth=1, tags={"sha256": model.sha256}
            )

    return make


def test_a_run_is_finished_at_its_end_and_failed_on_an_error(home):
    with tracking.run("good", key="a", tags={"who": "me"}, params={"a": {"b": 1}}) as good:
        assert status(good) == "RUNNING"
    with (
        pytest.raises(ZeroDivisionError),
        tracking.run("bad", key="b", tags={}, params={}) as bad,
    ):
        1 / 0  # noqa: B018
    assert (status(good), status(bad)) == ("FINISHED", "FAILED")
    run = tracking.client().get_run(good)
    assert run.info.run_name == "good"
    assert run.data.params == {"a.b": "1"}
    assert run.data.tags["who"] == "me"
    assert run.info.artifact_uri.startswith((home / "mlartifacts").as_uri())


@pytest.mark.parametrize(("die", "left"), [(start, "RUNNING"), (interrupt, "KILLED")])
def test_a_killed_run_of_the_same_work_is_continued(home, die, left):
    killed = die("same", lr=0.1)
    assert status(killed) == left
    with tracking.run("other", key="other", tags={}, params={}) as other:
        assert other != killed
    with tracking.run("job", key="same", tags={"flow": "2"}, params={"lr": 0.1}) as again:
        assert again == killed
        assert status(killed) == "RUNNING"
    assert status(killed) == "FINISHED"
    assert tracking.client().get_run(killed).data.tags["flow"] == "2"
    with tracking.run("job", key="same", tags={}, params={}) as third:
        assert third != killed  # a finished run is history


def test_a_failed_run_is_not_continued(home):
    with pytest.raises(ValueError), tracking.run("j", key="k", tags={}, params={}) as failed:  # noqa: PT011
        raise ValueError
    with tracking.run("j", key="k", tags={}, params={}) as again:
        assert again != failed


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_and_nothing_of_it_is_logged(home, value):
    run_id = start()
    with pytest.raises(ValueError, match="not finite: loss/b"):
        tracking.log_points(run_id, [("loss/a", 1.0, 0), ("loss/b", value, 0)])
    assert tracking.client().get_run(run_id).data.metrics == {}


def test_points_keep_their_steps_also_when_there_are_more_than_one_request_takes(home):
    run_id = start()
    tracking.log_points(run_id, [("a", float(i), i) for i in range(1203)])
    history = tracking.client().get_metric_history(run_id, "a")
    assert {m.step: m.value for m in history} == {i: float(i) for i in range(1203)}
    assert tracking.last_step(run_id, "a") == 1202
    assert tracking.last_step(run_id, "never") == -1


def test_a_manifest_is_logged_as_a_dataset_with_its_whole_digest(home, tmp_path):
    path = small.write(tmp_path, "source", small.source_arrays(), small.SOURCE)
    ref, run_id = ManifestRef(path=str(path), sha256=file_digest(path)), start()
    tracking.log_manifest(run_id, "toy/source", ref, "target-unlabelled")
    (result,) = tracking.client().get_run(run_id).inputs.dataset_inputs
    assert (result.dataset.name, result.dataset.digest) == ("toy/source", ref.sha256[:32])
    assert {tag.key: tag.value for tag in result.tags} == {
        "mlflow.data.context": "target-unlabelled",
        "sha256": ref.sha256,
    }


def test_system_metrics_reach_the_run(home):
    run_id, end = start(), time.monotonic() + 30
    with tracking.system_metrics(run_id):
        while time.monotonic() < end:
            result = tracking.client().get_run(run_id).data.metrics
            if any(name.startswith("system/") for name in result):
                break
            time.sleep(0.1)
    assert result["system/system_memory_usage_megabytes"] > 0
    assert "system/cpu_utilization_percentage" in result


def test_a_run_registers_one_version_however_often_it_is_asked(home, tmp_path):
    model, run_id = small.bundle(tmp_path / "bundle"), start()
    once, twice = (
        tracking.register_bundle(
            run_id, locate(model.uri), "toy", depth=1, tags={"sha256": model.sha256}
        )
        for _ in range(2)
    )
    assert once == twice
    assert once.uri == "models:/toy/1"
    assert [v.version for v in tracking.versions("toy")] == ["1"]
    assert tracking.version_tags(once) == {"sha256": model.sha256}
    assert status(run_id) == "RUNNING"  # killed after this, it must be found and continued


def test_a_registered_version_opens_as_the_same_model(registered, tmp_path):
    result = model_ref(registered().uri)
    assert result.sha256 == small.bundle(tmp_path / "again").sha256
    assert result.classes == small.CLASSES
    network, spec = open_model(result)
    assert spec == small.SPEC
    assert small.accuracy(network, small.source_arrays(), 1) == 1.0


def test_an_alias_is_resolved_and_what_is_not_there_is_named_with_what_is(registered):
    first, second = registered(), registered()
    tracking.set_alias(first, "source")
    tracking.set_alias(second, "candidate")
    assert tracking.canonical("models:/toy@source") == "models:/toy/1"
    assert tracking.canonical("models:/toy@candidate") == "models:/toy/2"
    assert tracking.canonical("models:/toy/2") == "models:/toy/2"
    assert tracking.canonical("some/folder") == "some/folder"
    assert [v.aliases for v in tracking.versions("toy")] == [("candidate",), ("source",)]
    for address, output in (
        (
            "models:/toy@champion",
            "no model at models:/toy@champion: its aliases are candidate, source",
        ),
        ("models:/yot@champion", "no model at models:/yot@champion: there are toy"),
        ("models:/yot/1", "no model 'yot' in sqlite.*there are toy"),
        ("models:/toy/9", "model 'toy' has no version 9; there are 1, 2"),
        ("models:/toy/first", "model 'toy' has no version first; there are 1, 2"),
        ("models:/toy", "names no version; say models:/toy@champion or models:/toy/1"),
        ("models:/o'hare/1", "'o'hare' cannot name a model"),
        ("models:/o'hare@champion", "'o'hare' cannot name a model"),
        ("models:/@champion", "'' cannot name a model"),
    ):
        with pytest.raises(BadInput, match=output):
            tracking.canonical(address)


def test_an_empty_registry_says_that_it_is_empty(home):
    with pytest.raises(BadInput, match="the registry is empty"):
        tracking.canonical("models:/toy@champion")


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a@b", " a", "o'hare", 'say "x"', "a`b"])
def test_names_that_a_registry_would_not_take_are_refused(name):
    with pytest.raises(BadInput, match="cannot name a model"):
        tracking.check_name(name)


def test_a_missing_run_and_a_model_of_somebody_else_are_refused(home):
    with pytest.raises(BadInput, match="no model at runs:/0123/model"):
        model_ref("runs:/0123/model")
    run_id = start()
    mlflow.MlflowClient().log_text(run_id, "weights", "model/weights.bin")
    with pytest.raises(BadInput, match="holds no bundle of sfda; import its weights"):
        model_ref(f"runs:/{run_id}/model")


def test_champions_follow_each_other_and_the_last_one_can_be_taken_back(registered):
    assert champion.champion_if_first(registered())
    second, third = registered(), registered()
    assert not champion.champion_if_first(second)
    for version, before in ((second, "1"), (third, "2")):
        result, previous = champion.promote("toy", version.version)
        assert (result.version, previous) == (version.version, before)
    assert tracking.champions("toy") == ["1", "2", "3"]
    assert tracking.canonical("models:/toy@previous") == "models:/toy/2"

    result, previous = champion.rollback("toy")
    assert (result.version, previous) == ("2", "3")
    assert tracking.champions("toy") == ["1", "2"]
    assert tracking.canonical("models:/toy@champion") == "models:/toy/2"
    assert tracking.canonical("models:/toy@previous") == "models:/toy/1"
    champion.rollback("toy")
    assert tracking.canonical("models:/toy@champion") == "models:/toy/1"
    assert tracking.by_alias("toy", "previous") is None
    with pytest.raises(BadInput, match="'toy' has had no champion before this one"):
        champion.rollback("toy")
    assert tracking.canonical("models:/toy@champion") == "models:/toy/1"


def test_promoting_the_champion_again_adds_nothing_to_its_history(registered):
    champion.champion_if_first(registered())
    result, previous = champion.promote("toy", "1")
    assert (result.version, previous) == ("1", "1")
    assert tracking.champions("toy") == ["1"]


@pytest.mark.parametrize("name", ["yot", "o'hare"])
def test_a_model_that_is_not_there_cannot_be_moved(registered, name):
    registered()
    with pytest.raises(BadInput):
        champion.promote(name, "1")
    with pytest.raises(BadInput):
        champion.rollback(name)


def test_what_a_deployed_model_needs_is_what_its_loader_imports():
    code = (
        "import sys, sfda.inference.served\n"
        "from sfda.problems.registry import PROBLEMS\n"
        "served = PROBLEMS['classification'].served\n"
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    result = set(done.stdout.split())
    heavy = {"albumentations", "cv2", "matplotlib", "mlflow", "nibabel", "prefect", "scipy",
             "segmentation_models_pytorch", "sklearn", "threadpoolctl"}  # fmt: skip
    assert not heavy & result
    assert {"torch", "numpy", "PIL", "pydantic", "safetensors"} <= result


@pytest.fixture
def on_a_server(registered, monkeypatch):
    """The address of a version, and its folder, which a server says is on this machine."""
    uri = registered().uri
    folder = Path(fetched.fetch(uri))
    monkeypatch.setattr(fetched, "store_uri", lambda: "http://elsewhere")
    place = [folder]

    def repository(uri: str, **_: Any) -> Any:
        return SimpleNamespace(repo=LocalArtifactRepository(place[0].as_uri()))

    monkeypatch.setattr(fetched, "get_artifact_repository", repository)
    return uri, place


def test_a_model_that_was_half_fetched_is_fetched_again(on_a_server, monkeypatch):
    uri, (folder,) = on_a_server
    copied = shutil.copytree

    def cut(source: Any, target: Any, **_: Any) -> str:
        Path(target).mkdir(parents=True)
        (Path(target) / "weights.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(fetched.shutil, "copytree", cut)
    with pytest.raises(KeyboardInterrupt):
        fetched.fetch(uri)
    monkeypatch.setattr(fetched.shutil, "copytree", copied)
    before = sorted(folder.rglob("*"))
    remaining = fetched.fetch(uri)
    assert {p.name for p in remaining.iterdir()} == {p.name for p in folder.iterdir()}
    assert fetched.fetch(uri) == remaining != folder
    assert sorted(folder.rglob("*")) == before, "the server's own files stay"
    assert [p.name for p in remaining.parent.iterdir()] == [remaining.name], (
        "nothing is left beside it"
    )


def test_a_folder_of_a_person_that_a_server_names_stays_and_is_not_copied(on_a_server, tmp_path):
    uri, place = on_a_server
    place[0] = tmp_path / "mine"
    place[0].mkdir()
    (place[0] / "thesis.txt").touch()
    with pytest.raises(BadInput, match="mine, where no model of MLflow is"):
        fetched.fetch(uri)
    assert (place[0] / "thesis.txt").is_file()


def test_a_row_that_names_another_machine_is_not_followed(registered, monkeypatch):
    uri = registered().uri
    for where in ("http://evil.example/m", "s3://bucket/m"):
        far = SimpleNamespace(repo=SimpleNamespace(artifact_uri=where))
        monkeypatch.setattr(fetched, "get_artifact_repository", lambda *_, far=far, **__: far)
        with pytest.raises(BadInput, match=f"said to lie at {where}, which is not asked"):
            fetched.fetch(uri)


OTHERS = ("http://evil.example/api/2.0/mlflow-artifacts/artifacts/m",
          "mlflow-artifacts://evil.example/m", "mlflow-artifacts://elsewhere:81/m",
          "https://elsewhere/m", "ftp://elsewhere/m")  # fmt: skip


@pytest.mark.parametrize("where", OTHERS)
def test_a_row_of_a_server_sends_its_password_to_no_other_host(monkeypatch, home, where):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    monkeypatch.setattr(
        fetched,
        "get_artifact_repository",
        lambda *_, **__: get_artifact_repository(where, tracking_uri="http://elsewhere"),
    )
    asked = []
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda **_: asked.append(1))
    with pytest.raises(BadInput, match=r"is said to lie at .*, which is not asked"):
        fetched.fetch("models:/toy/1")
    assert not asked


def test_an_experiment_of_ours_keeps_no_files_at_another_host(monkeypatch, home):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@elsewhere:5000")
    for where in (*OTHERS[:3], "mlflow-artifacts:/1", "s3://bucket/1", "http://elsewhere:5000/a"):
        known = SimpleNamespace(experiment_id="7", artifact_location=where)
        client = SimpleNamespace(get_experiment_by_name=lambda _, known=known: known)
        monkeypatch.setattr(store, "client", lambda client=client: client)
        if where not in OTHERS:
            assert store.experiment() == "7"
            continue
        with pytest.raises(BadInput, match="elsewhere:5000 keeps its files at") as error:
            store.experiment()
        assert "secret" not in str(error.value)


def test_a_version_takes_no_files_of_the_current_folder_along(registered, tmp_path, monkeypatch):
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name in ("uv.lock", "pyproject.toml", ".python-version"):
        (folder / name).write_text("of somebody else")
    monkeypatch.chdir(folder)
    for name in ("MLFLOW_UV_AUTO_DETECT", "MLFLOW_LOG_UV_FILES"):
        monkeypatch.setenv(name, DEFAULTS[name])
    files = fetched.fetch(registered().uri).rglob("*")
    assert not {path.name for path in files} & {path.name for path in folder.iterdir()}


HOSTILE_REPOSITORY = """
git init -q . && git config user.email a@b && git config user.name a
echo x > .gitignore && git add .gitignore && git commit -qm a
git update-index --skip-worktree .gitignore && rm .gitignore
id=$(git rev-parse HEAD:.gitignore) && rm -f .git/objects/${id:0:2}/${id:2}
git config core.repositoryformatversion 1 && git config extensions.partialClone origin
git config remote.origin.url ssh://x/y && git config remote.origin.promisor true
git config core.sshCommand "touch ran; false"
"""


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_repository_around_python_s_folder_runs_nothing(tmp_path, monkeypatch):
    """Where an environment lies in a folder that was unpacked; MLflow asks git about its place."""
    program = tmp_path / ".venv" / "bin" / "sfda"
    program.parent.mkdir(parents=True)
    program.touch()
    subprocess.run(["bash", "-ec", HOSTILE_REPOSITORY], cwd=tmp_path, check=True)
    monkeypatch.setattr(sys, "argv", [str(program)])
    providers = [DefaultRunContext(), GitRunContext()]
    monkeypatch.setattr(contexts._run_context_provider_registry, "_registry", providers)
    store.ask_no_git()
    assert contexts.resolve_tags()["mlflow.source.name"] == str(program)
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(contexts._run_context_provider_registry, "_registry", providers)
    contexts.resolve_tags()
    assert (tmp_path / "ran").exists()  # it would have


def test_models_of_other_programs_are_passed_over(registered):
    registered()
    for name in ("a'b", "'\x1b[2Jevil'"):
        tracking.client().create_registered_model(name)
    assert [model.name for model in tracking.registered_models()] == ["toy"]
    assert retention.old_items(RetentionPolicy(), (), time.time()).versions == ()


def test_links_of_a_server_s_model_are_not_followed(on_a_server, tmp_path):
    uri, (folder,) = on_a_server
    (folder / "secret").symlink_to(tmp_path)
    assert (fetched.fetch(uri) / "secret").is_symlink()


def test_what_a_server_sends_is_put_beside_and_moved(on_a_server, monkeypatch):
    uri, (folder,) = on_a_server

    def download(*, dst_path: str, **_: Any) -> str:
        return str(shutil.copytree(folder, Path(dst_path) / "model"))

    monkeypatch.setattr(fetched, "get_artifact_repository", lambda *_, **__: object())
    monkeypatch.setattr(fetched.mlflow.artifacts, "download_artifacts", download)
    remaining = fetched.fetch(uri)
    assert {p.name for p in remaining.iterdir()} == {p.name for p in folder.iterdir()}


def contest(**policy: Any) -> decide.Contest:
    """A candidate that nothing is known of: what is known is put in its place by a test."""
    model = ModelRef(uri="models:/toy@x", sha256="0" * 64, problem="classification", arch="a",
                     classes=("a", "b"))  # fmt: skip
    target = SplitRef(manifest=ManifestRef(path="m.yaml", sha256="0" * 64), split="s", seen="0")
    return decide.Contest(
        candidate=model, source=model, pool=decide.DecisionPool(target=target),
        policy=DecisionPolicy(**policy), expected=Expected(),
    )  # fmt: skip


def known(changed: int, low: float, high: float) -> Evidence:
    change = ChangeReport(
        answers=100, changed=changed, share=changed / 100, images=100, images_changed=changed,
        units="images", metric="accuracy", by_class={},
    )  # fmt: skip
    gain = PairedInterval(
        metric="macro_accuracy", before=0.5, after=0.6, low=low, high=high, level=0.9,
        resamples=1, units="images", count=100, split="test",
    )  # fmt: skip
    return Evidence(change=change, labelled=gain)


def settle(version: Version, *, requested: bool = True) -> tuple[decide.Decision, str]:
    """The decision and the verdict on record."""
    with tracking.run("job", key="k", tags={}, params={}) as run_id:
        decision = decide.settle.fn(version, contest(), requested, run_id)
    return decision, tracking.client().get_run(run_id).data.tags["verdict"]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The champions that a candidate was held against; it is better than version 1 alone."""
    seen: list[str] = []

    def evidence(champion: ModelRef, *_: Any) -> Evidence:
        seen.append(champion.uri)
        good = champion.uri == "models:/toy/1"
        return known(50, 0.1, 0.2) if good else known(50, -0.2, -0.1)

    monkeypatch.setattr(decide, "gather_evidence", evidence)
    monkeypatch.setattr(decide, "create_markdown_artifact", lambda *_, **__: None)
    return seen


def test_what_is_better_is_promoted_where_that_is_asked_for(registered, judged):
    champion.champion_if_first(registered())
    better = registered()
    decision, verdict = settle(better, requested=False)
    assert (decision.verdict.kind, decision.promoted) == ("promote", False)
    assert verdict.endswith("not promoted: --promote was not asked for")
    assert tracking.champions("toy") == ["1"]
    decision, verdict = settle(better)
    assert decision.promoted
    assert decision.state_name == "Promoted"
    assert verdict.startswith("promoted: macro accuracy 0.6000, before 0.5000")
    assert tracking.champions("toy") == ["1", better.version]
    assert tracking.version_tags(better)["verdict.kind"] == "promote"
    again, _ = settle(better)  # after a kill
    assert again.promoted
    assert tracking.champions("toy") == ["1", better.version]


def test_a_champion_that_comes_while_the_old_one_is_scored_is_scored_too(
    registered, judged, monkeypatch
):
    champion.champion_if_first(registered())
    best, worse = registered(), registered()
    inner = decide.gather_evidence

    def evidence(before: ModelRef, *more: Any) -> Evidence:
        if before.uri == "models:/toy/1":  # another machine promotes meanwhile
            tracking.set_champion(best, ["1", best.version])
        return inner(before, *more)

    monkeypatch.setattr(decide, "gather_evidence", evidence)
    decision, verdict = settle(worse)
    assert judged == ["models:/toy/1", best.uri]
    assert not decision.promoted
    assert tracking.champions("toy") == ["1", best.version]
    assert verdict.startswith("rejected: worse than the champion")


def test_nothing_is_promoted_where_anything_fails_on_the_way(registered, judged, monkeypatch):
    champion.champion_if_first(registered())

    def fails(*_: Any) -> Evidence:
        raise BadInput("the pool is gone")

    monkeypatch.setattr(decide, "gather_evidence", fails)
    with pytest.raises(BadInput, match="the pool is gone"):
        settle(registered())
    assert tracking.champions("toy") == ["1"]


def test_the_same_work_has_one_version_and_other_work_one_of_its_own(home, tmp_path):
    model = small.bundle(tmp_path / "toy")

    def registered(*work, again=None, tags=None):
        key = tracking.run_key(*work, again=again)
        with tracking.run("toy", key=key, tags={}, params={}) as run_id:
            made = register_model.fn(model, "toy", run_id, tags or {}, "candidate")
        return made.version

    origin = {"source.sha256": "1", "manifest.sha256": "2"}
    assert registered("a", tags=origin) == "1"
    assert registered("a", tags=origin | {"report": "newer"}) == "1"
    assert tracking.version_tags(tracking.find_version("toy", "1"))["report"] == "newer"
    assert registered("b", tags=origin) == "2"  # another plan
    assert registered("a", tags=origin | {"manifest.sha256": "3"}) == "3"  # another target
    assert registered("a", tags=origin, again="flow run 7") == "4"
    assert tracking.by_alias("toy", "candidate").version == "4"
    assert registered("a", tags=origin) == "1"
    assert tracking.by_alias("toy", "candidate").version == "1"
    tracking.client().delete_model_version("toy", "1")
    assert registered("a", tags=origin) == "5"  # what was deleted is made anew
