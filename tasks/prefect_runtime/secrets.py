"""One random secret a home, which every server that we start demands and our clients send."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from sfda.sandbox.leftovers import facts_of
from sfda.state_folder import disk_errors, home, one_at_a_time, private_folder
from tasks.prefect_runtime.peers import Peers
from tasks.prefect_runtime.stated import states_address

CLIENT, SERVER = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
BYTES = 32
PROCESS = "process"  # the user in a secret that one process alone knows
NOBODY = ("0.0.0.0", 0)  # the other end of a socket that listens


def prefect_secret() -> str:
    """What Prefect's servers over this home demand, `user:password`; made where there is none.

    It lies in `$SFDA_HOME/secrets/prefect`, which nobody else can read; one that others could read
    is replaced. It goes to processes by their environment, never by their arguments or a log.
    """
    folder = home() / "secrets"
    file = folder / "prefect"
    with disk_errors(str(file)):
        private_folder(folder)
        if text := _read(file):
            return text
        with one_at_a_time(file):
            return _read(file) or _write(file)


def _read(file: Path) -> str | None:
    """What the file says; None where it is absent, a link, empty, or was open to others."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return None
    with os.fdopen(descriptor) as opened:
        now = os.fstat(descriptor)
        if not stat.S_ISREG(now.st_mode) or now.st_mode & 0o077 or now.st_uid != os.geteuid():
            return None
        return opened.read().strip() or None


def _new_secret(user: str) -> str:
    return f"{user}:{secrets.token_urlsafe(BYTES)}"


def _write(file: Path) -> str:
    text = _new_secret("sfda")
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".prefect.")  # mode 0600
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text + "\n")
    os.replace(name, file)
    return text


@contextmanager
def own_server(url: str) -> Iterator[None]:
    """Note that this process serves Prefect's API there, for `know_own_server`."""
    note = _note(url)
    private_folder(note.parent)
    note.unlink(missing_ok=True)  # a link would be followed
    note.write_text(life_of(os.getpid()))
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def know_own_server() -> None:
    """Where `PREFECT_API_URL` names a server that `sfda serve` or `sfda ui` runs over this home,
    set its secret for this process. Whatever else the user has set stays.

    It is such a server where the process lives that noted it, and it is this user who listens.
    """
    url, locked = os.environ.get("PREFECT_API_URL", ""), _is_locked()
    if locked and not url and states_address():  # in a file of this home
        del os.environ[CLIENT], os.environ[SERVER]
    if not url.startswith("http://127.0.0.1:") or (CLIENT in os.environ and not locked):
        return
    with suppress(OSError, ValueError):  # no such server, or its process is gone
        noted, port = _note(url).read_text(), urlsplit(url).port
        if noted != life_of(int(noted.partition(" ")[0])) or port is None:
            return
        if Peers().is_ours(("127.0.0.1", port), NOBODY):
            os.environ[CLIENT] = prefect_secret()


def life_of(process: int) -> str:
    """A process, told from a later one of the same number by when it began, and since which start
    of the machine. Raises OSError without one."""
    os.kill(process, 0)
    words = [str(process)]
    if facts := facts_of(process):  # else it is not Linux
        words.append(str(facts.started))
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    return " ".join(words)


def lock_own_server() -> None:
    """Where nobody names a server, the one that Prefect starts demands a secret of this process.

    So it is where a flow is called from Python: Prefect starts a server at the first request. Its
    settings are read as it is imported, so nothing can be done once it is.
    """
    if "prefect" in sys.modules or states_address():
        return
    if not {CLIENT, SERVER} & set(os.environ):
        os.environ[CLIENT] = os.environ[SERVER] = _new_secret(PROCESS)


def _is_locked() -> bool:
    return os.environ.get(CLIENT, "").startswith(f"{PROCESS}:") and SERVER in os.environ


def _note(url: str) -> Path:
    return home() / "run" / f"prefect-{urlsplit(url).port}"
