"""Digests that were computed before, kept below the home: only what has changed is read again.

One row a file: how it was when it was read, and its digest. The rows lie in an SQLite database,
to which several processes may add at once. It can be deleted at any time: then all is read again.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from sfda.state_folder import Stamp, one_at_a_time, private_file, state_folder

_AT_ONCE = 500  # rows of one question
_WAIT = 30.0  # seconds for another process that writes
INDEX_MARK = (0x53464441, 2)  # in the header of our files: whose, and which layout
_MARKS = "PRAGMA application_id = 1397113921; PRAGMA user_version = 2;"
_LAYOUT = """
CREATE TABLE IF NOT EXISTS digests (
    file BLOB PRIMARY KEY, size INTEGER NOT NULL, modified INTEGER NOT NULL,
    changed INTEGER NOT NULL, inode INTEGER NOT NULL, digest BLOB NOT NULL
) WITHOUT ROWID;
"""


def index_file() -> Path:
    """Where the digests are kept."""
    return state_folder() / "digests.sqlite3"


class FileIndex:
    """The kept digests, opened. `kind` names what of a file was digested; "" is all its bytes.

    What the database cannot do (a full disk, a lock that stays) is left undone: then files are
    read again, which is slower and never wrong.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.damaged = False

    def known(self, stamps: Sequence[tuple[str, Stamp]], kind: str = "") -> dict[str, str]:
        """The digests of those of these files (absolute path, stamp) that are as they were."""
        digests: dict[str, str] = {}
        for start in range(0, len(stamps), _AT_ONCE):
            part = stamps[start : start + _AT_ONCE]
            by_key = dict(zip(_keys([path for path, _ in part], kind), part, strict=True))
            question = f"SELECT * FROM digests WHERE file IN ({','.join('?' * len(by_key))})"
            try:
                for row in self._database.execute(question, tuple(by_key)):
                    path, now = by_key[row[0]]
                    if row[1:5] == now:
                        digests[path] = row[5].hex()
            except sqlite3.Error as error:
                self._note(error)
                return digests
        return digests

    def add(self, rows: Sequence[tuple[str, Stamp, str]], kind: str = "") -> None:
        """Keep digests of files (absolute path, stamp before they were read, digest).

        Not those of files that have not settled: a change in the same instant would not show.
        """
        rows = [row for row in rows if row[1].settled]
        values = sorted(
            (key, *stamp, bytes.fromhex(digest))
            for key, (_, stamp, digest) in zip(
                _keys([path for path, _, _ in rows], kind), rows, strict=True
            )
        )
        try:
            with self._database:
                self._database.executemany(
                    "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?)", values
                )
        except sqlite3.Error as error:
            self._note(error)

    def _note(self, error: sqlite3.Error) -> None:
        """Remember what will not pass: operational errors are of the disk or of other processes."""
        self.damaged |= not isinstance(error, sqlite3.OperationalError)


@contextmanager
def open_index() -> Iterator[FileIndex | None]:
    """The kept digests; None where there is no home, or it cannot be written to.

    A file that is damaged, or not ours, is made anew.
    """
    database = _open(index_file()) if state_folder().is_dir() else None
    if database is None:
        yield None
        return
    with closing(database):
        index = FileIndex(database)
        yield index
    if index.damaged:
        _delete(index_file())


def _open(file: Path) -> sqlite3.Connection | None:
    try:
        return _connected(file)
    except (sqlite3.OperationalError, OSError):
        return None
    except sqlite3.DatabaseError:
        pass
    try:
        with one_at_a_time(file):
            try:
                return _connected(file, make=True)  # or another process has made it meanwhile
            except sqlite3.OperationalError:
                return None
            except sqlite3.DatabaseError:
                _delete(file)
                return _connected(file, make=True)
    except (sqlite3.Error, OSError):
        return None


def _delete(file: Path) -> None:
    for part in ("", "-wal", "-shm"):
        Path(f"{file}{part}").unlink(missing_ok=True)


def _connected(file: Path, *, make: bool = False) -> sqlite3.Connection:
    """The database. Raises sqlite3.DatabaseError for one that is damaged or not ours, and
    sqlite3.OperationalError or OSError where it cannot be used.

    `make` lays out an empty one; one process at a time may, so that none takes another's half of
    it for a stranger's.
    """
    private_file(file)
    database = sqlite3.connect(file, timeout=_WAIT)
    try:
        marks = tuple(
            database.execute(f"PRAGMA {mark}").fetchone()[0]
            for mark in ("application_id", "user_version")
        )
        if marks != INDEX_MARK:
            if not make or database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise sqlite3.DatabaseError(f"{file} is not ours")
            database.executescript(f"PRAGMA journal_mode = WAL; {_LAYOUT} {_MARKS}")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("SELECT size, modified, changed, inode, digest FROM digests LIMIT 1")
    except sqlite3.OperationalError as error:
        database.close()
        if "no such" in str(error):  # a table or a column of ours
            raise sqlite3.DatabaseError(str(error)) from None
        raise
    except sqlite3.Error:
        database.close()
        raise
    return database


def _keys(paths: Iterable[str], kind: str) -> Iterator[bytes]:
    """What rows are kept under: files of one folder side by side, so that a page of the database is
    read and written once for many of them.
    """
    folders: dict[str, bytes] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        first = folders.get(folder)
        if first is None:
            first = folders[folder] = _short_digest(f"{kind}\0{folder}", 8)
        yield first + _short_digest(name, 12)


def _short_digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=size).digest()
