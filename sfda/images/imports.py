"""Libraries that are imported while this process is in another folder than that of somebody's data.

One of torch's libraries looks for others in the current folder, matplotlib for its settings, and
OpenCV has every later program look for its libraries there: a file of the right name would run.
What torch compiles it loads again from a folder of `/tmp` that another user may have made first.
"""

from __future__ import annotations

import atexit
import getpass
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

IMPORTED_AWAY = frozenset({"cv2", "matplotlib", "torch", "triton"})
LIBRARY_PATH = "LD_LIBRARY_PATH"
COMPILED = "TORCHINDUCTOR_CACHE_DIR"  # where torch keeps what it compiles
SEARCHED = (LIBRARY_PATH, "PATH")  # where programs look for libraries and programs


class _Folder:
    """The current folder of before, while anything is imported away from it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._before: int | None = None

    @contextmanager
    def left(self) -> Iterator[None]:
        with self._lock:
            if self._depth == 0:
                self._before = _current_folder()
                os.chdir("/")
            self._depth += 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if self._depth == 0 and self._before is not None:
                    os.fchdir(self._before)
                    os.close(self._before)


def _current_folder() -> int | None:
    try:
        return os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
    except OSError:  # it was deleted: there is none to come back to
        return None


_folder = _Folder()


class _AwayFinder(MetaPathFinder):
    """Leaves it to the other finders to find, and has the module run in another folder."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in IMPORTED_AWAY:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                _send_away(spec)
                return spec
        return None


def _send_away(spec: ModuleSpec) -> None:
    loader = spec.loader
    if loader is None or not hasattr(loader, "exec_module"):
        return
    run = loader.exec_module

    def away(module: ModuleType) -> None:
        before = os.environ.get(LIBRARY_PATH)
        if spec.name == "torch":
            keep_compiled_apart()
        try:
            with _folder.left():
                run(module)
        finally:
            if before is None:
                os.environ.pop(LIBRARY_PATH, None)
            else:
                os.environ[LIBRARY_PATH] = before

    loader.exec_module = away  # type: ignore[method-assign]


def keep_compiled_apart() -> None:
    """Make torch's folder of what it compiles this user's own, or name a new one that ends with
    this process where another user has made the usual one, or a file or link of its name.
    """
    if os.environ.get(COMPILED):
        return
    with suppress(OSError, KeyError):  # no temporary folder, no name of a user: torch says so
        name = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())  # as torch calls it
        usual = os.path.join(tempfile.gettempdir(), f"torchinductor_{name}")
        with suppress(FileExistsError):
            os.mkdir(usual, 0o700)
        now = os.lstat(usual)
        own = stat.S_ISDIR(now.st_mode) and now.st_uid == os.geteuid()
        if not own or now.st_mode & 0o022:
            os.environ[COMPILED] = folder = tempfile.mkdtemp(prefix="sfda-")
            atexit.register(_remove_compiled, folder, os.getpid())


def _remove_compiled(folder: str, process: int) -> None:
    if os.getpid() == process:  # and no copy of it
        shutil.rmtree(folder, ignore_errors=True)


def import_away() -> None:
    """From now on these libraries are imported so, whoever asks for them."""
    if not any(isinstance(finder, _AwayFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AwayFinder())


def whole_folders(text: str) -> str:
    """Of a variable such as PATH the folders that are the same wherever a program starts.

    >>> whole_folders("/usr/bin::.:bin:/bin")
    '/usr/bin:/bin'
    """
    return ":".join(part for part in text.split(":") if part.startswith("/"))
