"""What lies in infra: read as the programs that use it would, without starting any of them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    result: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return result


@pytest.fixture(scope="module")
def secrets() -> set[str]:
    """The names that `--new-secrets` prints, each with a value of its own."""
    message = subprocess.run(
        [sys.executable, str(INFRA / "stack.py"), "--new-secrets"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout  # fmt: skip
    result = dict(line.split("=", 1) for line in message.split())
    assert len(set(result.values())) == len(result)
    assert all(len(v) >= 12 for k, v in result.items() if k != "MLFLOW_TRACKING_USERNAME")
    return set(result)


ENVIRONMENT = """
import json, sys
from pathlib import Path
import stack
stack.SECRETS = {}
print(json.dumps(stack.Stack(Path(sys.argv[1]), 1, 1).env))
"""


def test_parts_of_the_stack_know_the_umask_of_who_started_it(tmp_path):
    env = {name: text for name, text in os.environ.items() if name != "SFDA_UMASK"}
    output = subprocess.run(
        [sys.executable, "-c", ENVIRONMENT, str(tmp_path)], capture_output=True, text=True,
        check=True, umask=0o027, env=env | {"PYTHONPATH": f"{INFRA}{os.pathsep}{ROOT}"},
    ).stdout  # fmt: skip
    parts = json.loads(output)
    assert (parts["SFDA_UMASK"], parts["SFDA_DEPLOYED"]) == ("027", "")
    assert parts["PYTHONSAFEPATH"] == "1"


def test_every_deployment_names_a_flow_that_is_there():
    for one in yaml.safe_load((INFRA / "prefect.yaml").read_text())["deployments"]:
        file, _, name = one["entrypoint"].partition(":")
        module = file.removesuffix(".py").replace("/", ".")
        assert importlib.util.find_spec(module)
        flow = getattr(importlib.import_module(module), name)
        assert "sfda" in one["tags"]  # the automations look for it
        for inputs in one.get("parameters", {}):
            assert inputs in flow.parameters.properties
        for trigger in one.get("triggers", []):
            taken = {*flow.parameters.properties, *getattr(flow, "flat_names", ())}
            assert set(trigger["parameters"]) <= taken


@pytest.mark.parametrize(
    "entrypoint",
    [
        "flows/adapt.py:adapt",
        "flows/refresh_target.py:refresh_target",
        "flows/compare.py:compare",
        "flows/query_labels.py:query",
        "flows/ask_and_adapt.py:ask_and_adapt",
        "flows/promote.py:promote",
        "flows/promote.py:rollback",
    ],
)
def test_deployments_of_0_1_0_find_their_flows(entrypoint, monkeypatch):
    from prefect.flows import load_flow_from_entrypoint

    monkeypatch.chdir(ROOT)
    name = entrypoint.partition(":")[2]
    shown = {"query": "query-labels"}.get(name, name.replace("_", "-"))
    assert load_flow_from_entrypoint(entrypoint).name == shown


def test_secrets_are_demanded_and_never_written_down(compose, secrets):
    text = (INFRA / "compose.yaml").read_text()
    demanded = set(re.findall(r"\$\{(\w+):\?\}", text))
    assert demanded == secrets
    optional = set(re.findall(r"\$\{(\w+):-", text))
    assert not optional & secrets


def test_services_are_pinned_watched_and_not_root(compose):
    long = {"postgres", "s3", "prefect", "mlflow", "worker-gpu", "worker-cpu", "worker-aliases"}
    for name, service in compose["services"].items():
        tag = service["image"].partition(":")[2]
        assert re.search(r"\d", tag), name
        if name != "owners":  # it hands fresh volumes over, and ends
            assert service["user"] not in ("0:0", "root"), name
        if name in long:
            assert service["healthcheck"]["test"], name
            assert service["restart"] == "unless-stopped", name
    assert set(compose["services"]) >= long
    gpu = compose["services"]["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert gpu[0]["capabilities"] == ["gpu"]


def test_files_that_compose_and_the_image_name_are_there(compose):
    for service in compose["services"].values():
        for word in service.get("command") or []:
            if word.startswith("infra/"):
                assert (ROOT / word).is_file(), word
    dockerfile = (INFRA / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", dockerfile, re.M):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name
    assert re.search(r"^USER 10001:10001$", dockerfile, re.M)


def test_the_image_sets_what_our_command_line_would(monkeypatch):
    from tasks.prefect_runtime.home import DEFAULTS

    dockerfile = (INFRA / "Dockerfile").read_text()
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY",
             "NO_ALBUMENTATIONS_UPDATE", "HF_HUB_OFFLINE"}  # fmt: skip
    for name in quiet:
        assert f"{name}={DEFAULTS[name]}" in dockerfile


def test_the_kubernetes_template_uses_every_variable_and_states_all_that_it_uses():
    template = json.loads((INFRA / "kubernetes.json").read_text())
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    stated = set(template["variables"]["properties"])
    assert used == stated
    spec = template["job_configuration"]["job_manifest"]["spec"]
    assert spec["backoffLimit"] == 0  # Prefect starts a run again, not Kubernetes
    pod = spec["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpu_count }}"


def test_the_stack_refuses_to_start_without_secrets(tmp_path, monkeypatch, secrets):
    for name in secrets:
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(
        [sys.executable, str(INFRA / "stack.py"), "--folder", str(tmp_path / "stack")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert all(name in done.stderr for name in secrets)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "stack").exists()
