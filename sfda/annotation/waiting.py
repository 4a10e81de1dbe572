"""Requests for labels that wait for people: what was asked, where the request lies, who waits."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import ValidationError

from sfda.config import Config
from sfda.formats.request import Request
from sfda.manifests.digests import key_of
from sfda.state_folder import disk_errors, home


class Waiting(Config):
    """A request that nobody has answered yet."""

    folder: str
    target: str
    count: int
    by: str
    asked: float  # seconds since the epoch
    flow_run_id: str | None = None  # of the run that goes on from the answers


def note_request(
    folder: Path, request: Request, target: str, by: str, flow_run_id: str | None
) -> None:
    """Keep that this request waits, until `forget`."""
    note_waiting(folder, len(request.requested), target, by, flow_run_id)


def note_waiting(folder: Path, count: int, target: str, by: str, flow_run_id: str | None) -> None:
    """The same of whatever `count` answers in a folder are wanted for."""
    one = Waiting(
        folder=str(folder.absolute()),
        target=target,
        count=count,
        by=by,
        asked=time.time(),
        flow_run_id=flow_run_id,
    )
    file = _file(folder)
    with disk_errors(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(one.model_dump_json(indent=1))


def forget(folder: Path) -> Waiting | None:
    """The request has its answers; what was kept of it."""
    one = _read(_file(folder))
    _file(folder).unlink(missing_ok=True)
    return one


def waiting() -> list[Waiting]:
    """All that wait, the oldest first; those whose folder is gone are forgotten."""
    requests = []
    for file in (home() / "requests").glob("*.json"):
        one = _read(file)
        if one is None or not Path(one.folder).is_dir():
            file.unlink(missing_ok=True)
        else:
            requests.append(one)
    return sorted(requests, key=lambda one: one.asked)


def _file(folder: Path) -> Path:
    return home() / "requests" / f"{key_of(folder=str(folder.absolute()))[:24]}.json"


def _read(file: Path) -> Waiting | None:
    try:
        return Waiting.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
