"""One call of the command line: where its words go, how it fails, what it prints at the end."""

from __future__ import annotations

import atexit
import errno
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from sfda.errors import BadInput, no_manifest, no_model

QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # our own lines go to the terminal
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class Output:
    """What a command has to say; with `--json` stdout is kept free for one object."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.said = False
        if as_json:  # whatever libraries print goes to stderr, down to the file descriptor
            sys.stdout.flush()
            self.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
            os.dup2(2, 1)

    def show(self, result: dict[str, Any], text: str) -> None:
        """The result: the object with `--json`, else the text."""
        if self.as_json:
            self.stdout.write(json.dumps(result) + "\n")
            self.stdout.flush()
            self.said = True
        else:
            print(text, flush=True)

    def fail(self, message: str, code: int = 2) -> NoReturn:
        """One message on stderr and an exit code; with `--json` also an object that holds it."""
        print(f"sfda: {message}", file=sys.stderr)
        if self.as_json and not self.said:
            self.show({"error": message}, "")
        sys.exit(code)

    def close(self) -> None:
        """Give stdout back, for callers that live on."""
        if self.as_json:
            os.dup2(self.stdout.fileno(), 1)
            self.stdout.close()


@contextmanager
def session(
    as_json: bool,
    *,
    state: bool = True,
    flow: bool = False,
    adapts: bool = False,
    models: Iterable[str] = (),
    data: Iterable[str | Path] = (),
) -> Iterator[Output]:
    """Everything between the command line and a flow: environment, logs, errors.

    `BadInput` ends the process with exit code 2 and its message alone; an interrupt with 130.
    Without `state` nothing is made below `$SFDA_HOME`. Where a `flow` is to run, a Prefect server
    starts at once, unless the user has one; and where it `adapts`, so does what makes the adapting
    processes. Before that it is seen that there is something at the addresses of `models` and
    `data`, since all else takes seconds.
    """
    out = Output(as_json)
    server = None
    if threading.current_thread() is threading.main_thread():
        # else a polite kill would leave Prefect's temporary server behind
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
    try:
        if state:
            from tasks.prefect_runtime.home import prepare_environment

            for name, value in QUIET.items():
                os.environ.setdefault(name, value)
            prepare_environment()
        _logs()
        _see_them(models, data)
        if flow:
            from tasks.prefect_runtime.server import start_server

            server = start_server(_server_log())
        if adapts:
            from sfda.sandbox.process import prepare

            prepare()
        yield out
    except BadInput as error:
        out.fail(str(error))
    except KeyboardInterrupt:
        out.fail("interrupted; the same command goes on where it stopped", 130)
    except Exception as error:
        if found := _bad_input_behind(error):
            out.fail(found)
        if server is not None and server.poll() is not None:
            out.fail(f"Prefect's server did not start; its last words are in {_server_log()}")
        raise
    finally:
        out.close()


def end_at_once(run: Callable[[], Any]) -> None:
    """Run a program to its end and be gone.

    Python ends module by module, which takes seconds with torch. Here all that wants to be called
    at the end is called, and then the process is over.
    """
    code = 1

    def leave() -> None:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    atexit.register(leave)  # first, so it is called last
    try:
        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def _see_them(models: Iterable[str], data: Iterable[str | Path]) -> None:
    for uri in models:
        if not uri.startswith(("models:/", "runs:/")) and not Path(uri).exists():
            raise no_model(uri)
    for path in data:
        if not Path(path).exists():
            raise no_manifest(path)


def _server_log() -> Path:
    from sfda.state_folder import state_folder

    return state_folder() / "logs" / "prefect.log"


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _bad_input_behind(error: BaseException) -> str | None:
    """The message of what a flow refused before its first line, or of a full disk."""
    if type(error).__name__ in ("ParameterTypeError", "ParameterBindError"):
        return str(error).replace("\n", " ")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full ({error.filename or 'SFDA_HOME'}); free some space and start again"
        )
    cause = error.__cause__ or error.__context__
    if isinstance(cause, BadInput):
        return str(cause)
    return _bad_input_behind(cause) if cause else None


def _logs() -> None:
    """Our lines on stderr, and nobody else's warnings."""
    warnings.simplefilter("ignore")
    log = logging.getLogger("sfda")
    log.setLevel(logging.INFO)
    if not any(getattr(h, "is_ours", False) for h in log.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record: not getattr(record, "on_bar", False))
        handler.is_ours = True  # type: ignore[attr-defined]
        log.addHandler(handler)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def read_settings(pairs: list[str]) -> dict[str, Any]:
    """`k=v` pairs as nested settings; values are YAML, `@FILE` what a YAML file holds, dots nest.
    Raises BadInput.

    >>> read_settings(["schedule.lr=0.1", "lr_scale.head=0"])
    {'schedule': {'lr': 0.1}, 'lr_scale': {'head': 0}}
    """
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise BadInput(f"--set {pair}: write name=value, e.g. --set schedule.lr=0.001")
        place = found
        *outer, last = name.split(".")
        for part in outer:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise BadInput(f"--set {pair}: '{part}' was given a value of its own before")
        if text.startswith("@"):
            place[last] = _from_file(Path(text[1:]), pair)
            continue
        try:
            place[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise BadInput(f"--set {pair}: the value cannot be read") from None
        if isinstance(place[last], str):
            place[last] = _number(text)
    return found


def _from_file(file: Path, pair: str) -> Any:
    from sfda.config import read_yaml

    try:
        return read_yaml(file, "@ takes a YAML file")
    except BadInput as error:
        raise BadInput(f"--set {pair}: {error}") from None


def _number(text: str) -> Any:
    """YAML takes 1e-3 for text; a person means a number."""
    try:
        return float(text)
    except ValueError:
        return text


def words(text: str | None, file: Path | None) -> tuple[str, ...]:
    """Class names from `a,b,c` or from a file with one a line. Raises BadInput."""
    if (text is None) == (file is None):
        raise BadInput("give the class names once: --classes a,b,c or --classes-file FILE")
    if file is not None:
        if not file.is_file():
            raise BadInput(f"no file {file}; it should hold one class name a line")
        try:
            found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (UnicodeDecodeError, OSError) as error:
            raise BadInput(f"{file} is no text with one class name a line: {error}") from None
    else:
        found = [part.strip() for part in str(text).split(",")]
    kept = tuple(name for name in found if name)
    if not kept:
        raise BadInput("no class name was given")
    return kept
