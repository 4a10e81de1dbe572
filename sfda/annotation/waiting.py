"""Requests for labels that wait for people: what was asked, where the request lies, who waits."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import ValidationError

from sfda.config import Config
from sfda.formats.request import REQUEST_FILE, Request
from sfda.manifests.digests import file_digest, key_of
from sfda.manifests.write import put, sweep_beside
from sfda.state_folder import disk_errors, home


class Waiting(Config):
    """A request that nobody has answered yet."""

    folder: str
    target: str
    count: int
    by: str
    asked: float  # seconds since the epoch
    flow_run_id: str | None = None  # of the run that goes on from the answers
    request: str = ""  # digest of the request, where it is one for labels
    answered: bool = False  # it waits no more; kept for who asks for the same once more


def note_request(
    folder: Path, request: Request, target: str, by: str, flow_run_id: str | None
) -> None:
    """Keep that this request waits, until `forget`; one that was noted before stays as it is."""
    file = folder / REQUEST_FILE
    digest = file_digest(file) if file.is_file() else ""
    noted = _read(_file(folder))
    if noted is None or not digest or noted.request != digest:
        note_waiting(folder, len(request.requested), target, by, flow_run_id, digest)
    else:
        sweep_beside([_file(folder)])


def note_waiting(
    folder: Path, count: int, target: str, by: str, flow_run_id: str | None, request: str = ""
) -> None:
    """The same of whatever `count` answers in a folder are wanted for."""
    one = Waiting(
        folder=str(folder.absolute()),
        target=target,
        count=count,
        by=by,
        asked=time.time(),
        flow_run_id=flow_run_id,
        request=request,
    )
    _write(one)


def _write(one: Waiting) -> None:
    file = _file(Path(one.folder))
    with disk_errors(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        put({file: one.model_dump_json(indent=1).encode()})


def forget(folder: Path) -> None:
    """The request has its answers, and waits no more."""
    one = _read(_file(folder))
    if one is not None and one.request:
        _write(one.model_copy(update={"answered": True}))
    else:
        _file(folder).unlink(missing_ok=True)


def waiting() -> list[Waiting]:
    """All that wait, the oldest first; those whose folder is gone are forgotten."""
    requests = []
    for file in (home() / "requests").glob("*.json"):
        one = _read(file)
        if one is None or not Path(one.folder).is_dir():
            file.unlink(missing_ok=True)
        elif not one.answered:
            requests.append(one)
    return sorted(requests, key=lambda one: one.asked)


def _file(folder: Path) -> Path:
    return home() / "requests" / f"{key_of(folder=str(folder.absolute()))[:24]}.json"


def _read(file: Path) -> Waiting | None:
    try:
        return Waiting.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
