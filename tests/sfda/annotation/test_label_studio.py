"""Through a real Label Studio and back: started here, driven through its API.

It lives in an environment of its own: `python -m venv ls && ls/bin/pip install label-studio`, then
LABEL_STUDIO=ls/bin/label-studio.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import small_det
import small_pose
import small_seg
from asking import request_for

from sfda.annotation.request_files import label_config
from sfda.annotation.take import take_annotations
from sfda.formats.request import Request
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("LABEL_STUDIO"), reason="needs LABEL_STUDIO, the path of its command"
    ),
]


class Server:
    """A Label Studio on loopback, and its API."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.token = f"http://127.0.0.1:{port}", secrets.token_hex(20)
        self.log = (folder / "server.log").open("wb")
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SFDA_HOME")}
        env |= {
            "LATEST_VERSION_CHECK": "false", "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "", "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        }  # fmt: skip
        self.process = subprocess.Popen(
            [
                os.environ["LABEL_STUDIO"], "start", "--no-browser", "--port", str(port),
                "--internal-host", "127.0.0.1", "--data-dir", str(folder), "--username",
                "a@b.org", "--password", secrets.token_hex(8), "--user-token", self.token,
                "--enable-legacy-api-token",
            ],
            env=env, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def wait(self, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, Path(self.log.name).read_text()[-3000:]
            try:
                self.call("GET", "/api/version")
                self.call("GET", "/api/projects")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(1)
        raise TimeoutError(Path(self.log.name).read_text()[-3000:])

    def call(self, verb: str, path: str, body: Any = None) -> bytes:
        request = urllib.request.Request(
            self.url + path, method=verb, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Token {self.token}", "Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as answer:
            result: bytes = answer.read()
        return result

    def json(self, verb: str, path: str, body: Any = None) -> Any:
        return json.loads(self.call(verb, path, body))

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(30)
        self.log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("label-studio"))
    try:
        made.wait()
        yield made
    finally:
        made.stop()


def labelled(server: Server, request: Request, folder: Path, kinds: tuple[str, ...]) -> list[Path]:
    """A project with the request's tasks; a person takes over every prediction; its exports."""
    project = {"title": request.problem, "label_config": label_config(request)}
    made = server.json("POST", "/api/projects", project)
    path = f"/api/projects/{made['id']}"
    tasks = json.loads((folder / "label_studio.json").read_text())
    taken = server.json("POST", f"{path}/import?return_task_ids=true", tasks)
    assert taken["task_count"] == len(tasks)
    assert taken["prediction_count"] == len(tasks), "predictions are pre-annotations"
    for number in taken["task_ids"]:
        task = server.json("GET", f"/api/tasks/{number}")
        (guess,) = task["predictions"]
        server.json("POST", f"/api/tasks/{number}/annotations", {"result": guess["result"]})
    files = []
    for kind in kinds:
        suffix = "csv" if kind == "CSV" else "json"
        file = folder / f"{kind}.{suffix}"
        file.write_bytes(server.call("GET", f"{path}/export?exportType={kind}"))
        files.append(file)
    return files


def test_classes_go_out_and_come_back(server: Server, tmp_path: Path) -> None:
    target = small.write(tmp_path, "target", small.target_arrays(), small.TARGET)
    request = request_for(target, [3, 10, 4], tmp_path / "ask")
    exports = labelled(server, request, tmp_path / "ask", ("JSON", "JSON_MIN", "CSV"))
    for n, file in enumerate(exports):
        out = tmp_path / f"{n}.yaml"
        take_annotations(tmp_path / "ask", file, target, out=out)
        answers = read_split(open_manifest(out), "adapt").annotations
        assert answers is not None
        inputs = dict(zip(answers.rows.tolist(), answers.labels.index.tolist(), strict=True))
        assert inputs == {3: 0, 10: 1, 4: 1}, file.name


def test_masks_go_out_and_come_back(server: Server, tmp_path: Path) -> None:
    target = small_seg.write(tmp_path, "target", small_seg.TARGET, seed=3, dull=True)
    request = request_for(target, [5, 2], tmp_path / "ask")
    _, masks = small_seg.shapes(36, seed=3)
    for n, file in enumerate(labelled(server, request, tmp_path / "ask", ("JSON", "JSON_MIN"))):
        out = tmp_path / f"{n}.yaml"
        take_annotations(tmp_path / "ask", file, target, out=out)
        answers = read_split(open_manifest(out), "adapt").annotations
        assert answers is not None
        assert sorted(answers.rows.tolist()) == [2, 5]
        for folder, row in enumerate(answers.rows.tolist()):
            assert np.array_equal(answers.labels.mask(folder), masks[row]), file.name


@pytest.mark.parametrize("problem", ["boxes", "joints"])
def test_boxes_and_joints_go_out_and_come_back(
    server: Server, tmp_path: Path, problem: str
) -> None:
    if problem == "boxes":
        target = small_det.write(tmp_path, "target", small_det.TARGET, seed=3)
    else:
        target = small_pose.write(tmp_path, "target", small_pose.TARGET)
    request = request_for(target, [5, 2], tmp_path / "ask")
    truth = read_split(open_manifest(target), "adapt")
    for n, file in enumerate(labelled(server, request, tmp_path / "ask", ("JSON", "JSON_MIN"))):
        out = tmp_path / f"{n}.yaml"
        take_annotations(tmp_path / "ask", file, target, out=out)
        answers = read_split(open_manifest(out), "adapt").annotations
        assert answers is not None
        assert sorted(answers.rows.tolist()) == [2, 5]
        for folder, row in enumerate(answers.rows.tolist()):
            if problem == "boxes":
                inputs, own = answers.labels[folder], truth.labels[row]
                np.testing.assert_allclose(inputs.boxes, own.boxes, atol=0.01)
                assert inputs.labels.tolist() == own.labels.tolist(), file.name
            else:
                inputs, own = answers.labels[folder], truth.labels[row]
                np.testing.assert_allclose(inputs.joints, own.joints, atol=0.01)
