"""One call of the command line: its environment, its log, how it fails and with which exit code."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from flows.cli.output import Output
from sfda.bounds.limits import check_limits
from sfda.errors import BadInput, for_terminal, no_manifest, no_model
from sfda.images.imports import SEARCHED, whole_folders
from sfda.networks.foreign.trusted import trusted_packages
from sfda.state_folder import PERSONS_UMASK, close_new_files, full_disk, state_folder
from tasks.prefect_runtime.deployed import SAFE_PATH
from tasks.prefect_runtime.folder_settings import ignore_folder_settings
from tasks.prefect_runtime.store_address import (
    STORE,
    check_prefect_server,
    check_store,
    store_fault,
)

QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # our own lines go to the terminal
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}

INTERRUPTED = "interrupted; the same command goes on where it stopped"
END_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
GRACE = 4.5  # seconds from an interrupt to the end, whatever is still being done

_is_program = threading.Event()  # this process is one command, and nothing else


@contextmanager
def session(
    as_json: bool,
    *,
    state: bool = True,
    flow: bool = False,
    adapts: bool = False,
    serves: bool = False,
    models: Iterable[str] = (),
    data: Iterable[str | Path] = (),
) -> Iterator[Output]:
    """Everything between the command line and a flow: environment, logs, errors.

    `BadInput` ends the process with exit code 2 and its message alone; an interrupt with 130.
    Without `state` nothing is made below `$SFDA_HOME`; with it, new files are closed to others.
    Where a `flow` is to run, a Prefect server starts at once, unless the user has one; and where it
    `adapts`, so does what makes the adapting processes. Before that it is seen that there is
    something at the addresses of `models` and `data`, since all else takes seconds. What `serves`
    ends by itself what it has started, in its own time.
    """
    out = Output(as_json)
    server, heard = None, _listen_for_ends()
    try:
        with _shielded(state):
            _log_to_stderr()
            trusted_packages()  # raises for one that nobody may trust
            check_limits(os.environ)
            if state:
                _prepare()
            _check_addresses(models, data)
            if flow:
                if fault := full_disk(state_folder()):
                    raise BadInput(fault)
                check_prefect_server()
                from tasks.prefect_runtime.server import start_server

                server = start_server(_server_log())
            if adapts:
                from sfda.adaptation.sandboxed import preload_worker

                preload_worker()  # in a process that has no threads yet
            if not serves and _is_program.is_set():
                _end_in_time(out)
            yield out
    except BadInput as error:
        out.fail(str(error))
    except KeyboardInterrupt:
        out.fail(INTERRUPTED, 130)
    except Exception as error:
        if heard:  # libraries make an error of their own of an interrupt
            out.fail(INTERRUPTED, 130)
        if message := _bad_input_behind(error):
            out.fail(message)
        if server is not None and server.poll() is not None:
            words = f"Prefect's server did not start; its last words are in {_server_log()}"
            out.fail(full_disk(state_folder()) or words)
        raise
    finally:
        out.close()


@contextmanager
def _shielded(state: bool) -> Iterator[None]:
    """Nothing of the current folder is imported or set by this command and what it starts; with
    `state`, what they write is closed to others. Afterwards umask and environment are as before."""
    searched = {name: whole_folders(os.environ.get(name, "")) or None for name in SEARCHED}
    with with_variables({PERSONS_UMASK: None, SAFE_PATH: "1"} | searched):
        umask = close_new_files() if state else None
        ignore_folder_settings()
        try:
            yield
        finally:
            if umask is not None:
                os.umask(umask)


@contextmanager
def with_variables(texts: Mapping[str, str | None]) -> Iterator[None]:
    """Variables of the environment by name, for this block and what it starts; one that is None is
    set in the block, if at all. Afterwards all of them are as before."""
    before = {name: os.environ.get(name) for name in texts}
    os.environ.update({name: text for name, text in texts.items() if text is not None})
    try:
        yield
    finally:
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text


def _prepare() -> None:
    from tasks.prefect_runtime.home import prepare_environment

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    prepare_environment()
    check_store(os.environ[STORE])


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

    _is_program.set()
    atexit.register(leave)  # first, so it is called last
    try:
        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def _check_addresses(models: Iterable[str], data: Iterable[str | Path]) -> None:
    for uri in models:
        if not uri.startswith(("models:/", "runs:/")) and not Path(uri).exists():
            raise no_model(uri)
    for path in data:
        if not Path(path).exists():
            raise no_manifest(path)


def _server_log() -> Path:
    return state_folder() / "logs" / "prefect.log"


def _listen_for_ends() -> list[int]:
    """Signals that ask for an end interrupt from now on; those that came are listed.

    Without it a polite kill would leave Prefect's temporary server behind. What is ignored, as
    `nohup` and a script's `&` have it, stays ignored.
    """
    heard: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        heard.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in END_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, interrupt)
    return heard


def _end_in_time(out: Output) -> None:
    """See to it that this process is over some time after a signal that asks for its end.

    An interrupt in a callback of the interpreter's is heard by nobody, and in a flow Prefect has a
    handler of its own. So the signals are read where the interpreter notes them. To leave then, as
    a kill would, costs nothing that is done; what this process has started ends with it.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

    def wait() -> None:
        while not END_SIGNALS.intersection(os.read(reader, 64)):
            pass
        time.sleep(GRACE)
        if not out.failed:
            with suppress(SystemExit, OSError, ValueError):
                out.fail(INTERRUPTED, 130)
        os._exit(130)

    threading.Thread(target=wait, daemon=True).start()


def _bad_input_behind(error: BaseException) -> str | None:
    """The message of what a flow refused before its first line, or of a full disk."""
    if type(error).__name__ in ("ParameterTypeError", "ParameterBindError"):
        return str(error).replace("\n", " ")
    if fault := store_fault(error):
        return fault
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full ({error.filename or 'SFDA_HOME'}); free some space and start again"
        )
    cause = error.__cause__ or error.__context__
    if isinstance(cause, BadInput):
        return str(cause)
    return _bad_input_behind(cause) if cause else None


class _ForTerminal(logging.Formatter):
    """Lines may name what somebody else made: nothing in them is a command to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record))


def _log_to_stderr() -> None:
    """Our lines on stderr, and nobody else's warnings."""
    warnings.simplefilter("ignore")
    log = logging.getLogger("sfda")
    log.setLevel(logging.INFO)
    if not any(getattr(h, "is_ours", False) for h in log.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_ForTerminal("%(message)s"))
        handler.addFilter(lambda record: not getattr(record, "on_bar", False))
        handler.is_ours = True  # type: ignore[attr-defined]
        log.addHandler(handler)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
