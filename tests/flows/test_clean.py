"""`sfda clean` on a home with a Prefect server: its rows of old runs go, those of others stay."""

from __future__ import annotations

import re
import time
from pathlib import Path

from conftest import sfda

FLOWS_FOLDER = Path(__file__).parents[2] / "flows"
LATER = time.time() + 100 * 86400.0
OLD = f"{'0a' * 12}.npy"


def test_every_flow_of_ours_is_known_to_the_cleaning():
    from flows.clean import FLOWS

    texts = [file.read_text() for file in FLOWS_FOLDER.glob("*.py")]
    assert {name for text in texts for name in re.findall(r'@flow\(name="([^"]+)"', text)} <= set(
        FLOWS
    )


def test_of_a_flow_s_old_runs_the_newest_stay_and_the_rest_go_with_their_artifacts(world):
    from prefect import flow
    from prefect.artifacts import create_markdown_artifact
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    from sfda.retention.policy import RetentionPolicy
    from tasks.prefect_runtime.retention import delete_flow_runs, old_flow_runs

    @flow(name="cleaned")
    def cleaned() -> None:
        create_markdown_artifact("x", key="cleaned")

    @flow(name="of-somebody-else")
    def other() -> None:
        pass

    for _ in range(3):
        cleaned()
    other()
    policy = RetentionPolicy(keep=1)
    with get_client(sync_client=True) as client:
        assert not old_flow_runs(client, policy, ["cleaned"], time.time())
        old = old_flow_runs(client, policy, ["cleaned"], LATER)
        assert len(old) == 2
        delete_flow_runs(client, old)
        delete_flow_runs(client, old)  # gone already
        assert not old_flow_runs(client, policy, ["cleaned"], LATER)
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["cleaned"]))
        assert len(client.read_artifacts(artifact_filter=key)) == 1
        assert client.read_flow_by_name("of-somebody-else")


def test_bad_policies_are_refused_and_a_dry_run_tells_sizes(world):
    home = world.home("cleaned")
    with home.entered():
        assert sfda("clean", "--older-than", "soon", "--dry-run").code == 2
        assert "above 0" in sfda("clean", "--older-than", "0d", "--dry-run").err
        (home.path / "decoded").mkdir()
        (home.path / "decoded" / OLD).write_bytes(bytes(1000))
        time.sleep(0.01)
        told = sfda("clean", "--older-than", "0.001s", "--dry-run", "--json").json
        assert (told["freed_bytes"], told["deleted"]["caches"]) == (1000, 1)
        assert (home.path / "decoded" / OLD).is_file()
