"""VectorTable: vectors by key in an SQLite file, each with its checksum, within a size."""

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# What the header of the file says that it is: "imgc".
_APPLICATION_ID = 0x696D6763
_FORMAT = 1
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, used REAL NOT NULL,"
    " checksum BLOB NOT NULL, vector BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS by_use ON vectors (used)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_FORMAT}",
)
# Seconds that one process waits for another that writes; a batch takes milliseconds.
_WAIT = 60.0
# Seconds after which a use is noted again: reading should seldom write.
_USE_NOTED_AFTER = 3600.0
# The share of vectors that leave at a time when there is no room.
_SHARE_TO_FORGET = 0.1


class NoTableError(Exception):
    """The file is no table of vectors that is known here; the message says why."""


class DamagedTableError(NoTableError):
    """The file is no database any more, or not a whole one."""


class VectorTable:
    """Vectors on disk, found by a key, that several threads and processes read and write.

    A vector is written whole or not at all, and given back only if its checksum fits.

    Parameters
    ----------
    path : Path
        The file. It is made if it is not there. If it cannot be written it is only read.
    size_limit : int
        Bytes. The vectors that have not been used for the longest time make room for new ones.

    Attributes
    ----------
    n_damaged : int
        Vectors that were there and whose checksum did not fit.

    Raises
    ------
    NoTableError
        If the file is something else, or damaged.
    sqlite3.Error
        If it cannot be opened.
    """

    def __init__(self, path: Path, size_limit: int) -> None:
        self.size_limit = size_limit
        self.n_damaged = 0
        self._lock = threading.Lock()
        self._used: list[bytes] = []
        self._connection = _connect(path)

    def get(self, key: bytes) -> bytes | None:
        """The vector of a key, or None.

        Parameters
        ----------
        key : bytes

        Returns
        -------
        vector : bytes or None
        """
        query = "SELECT vector, checksum, used FROM vectors WHERE key = ?"
        with self._lock:
            found = self._connection.execute(query, (key,)).fetchone()
        if found is None:
            return None
        vector, checksum, used = found
        if not isinstance(vector, bytes) or checksum != _checksum(key, vector):
            with self._lock:
                self.n_damaged += 1
            return None
        if not isinstance(used, float) or abs(time.time() - used) > _USE_NOTED_AFTER:
            self._used.append(key)
        return vector

    def put(self, keys: Sequence[bytes], vectors: Sequence[bytes]) -> None:
        """Keep vectors, all of them or none, in place of those with the same keys.

        Parameters
        ----------
        keys, vectors : sequence of n_vectors bytes
        """
        now = time.time()
        rows = [(k, now, _checksum(k, v), v) for k, v in zip(keys, vectors, strict=True)]
        with self._lock, self._writing():
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", rows)
            self._note_uses()
            self._make_room()

    def count(self) -> int:
        """How many vectors there are.

        Returns
        -------
        n_vectors : int
        """
        return self._number("SELECT COUNT(*) FROM vectors")

    def size(self) -> int:
        """How many bytes they take, with the keys and all else.

        Returns
        -------
        n_bytes : int
        """
        n_pages = self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")
        return n_pages * self._number("PRAGMA page_size")

    def clear(self) -> None:
        """Forget all vectors, and give their space back."""
        with self._lock:
            self._connection.execute("DELETE FROM vectors")
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Note which vectors were used, if that can be written, and close the file."""
        with self._lock:
            if self._used:
                with suppress(sqlite3.Error), self._writing():
                    self._note_uses()
            self._connection.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction: what is done in it is done whole, or not at all."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _note_uses(self) -> None:
        used, self._used = self._used, []
        now = time.time()
        self._connection.executemany(
            "UPDATE vectors SET used = ? WHERE key = ?", [(now, key) for key in used]
        )

    def _make_room(self) -> None:
        oldest = "SELECT rowid FROM vectors ORDER BY used, rowid LIMIT ?"
        while self.size() > self.size_limit and (n_vectors := self.count()):
            n_to_forget = max(1, int(n_vectors * _SHARE_TO_FORGET))
            self._connection.execute(
                f"DELETE FROM vectors WHERE rowid IN ({oldest})",  # noqa: S608 (of constants)
                (n_to_forget,),
            )

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])


def _checksum(key: bytes, vector: bytes) -> bytes:
    return hashlib.blake2b(vector, digest_size=16, key=key).digest()


def _connect(path: Path) -> sqlite3.Connection:
    uri = path.absolute().as_uri()
    try:
        try:
            return _patiently(lambda: _opened(uri, _make))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY or not path.exists():
                raise
            # Not even the lock can be written: read what is there, as if there were no writers.
            return _opened(f"{uri}?immutable=1", _check)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise DamagedTableError(f"it is damaged, or something else ({error})") from error


def _patiently(connect: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
    """Try until the file is free: where it is being made, SQLite does not always wait itself."""
    end = time.monotonic() + _WAIT
    while True:
        try:
            return connect()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(0.02)


def _opened(uri: str, ready: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, timeout=_WAIT, isolation_level=None, check_same_thread=False, uri=True
    )
    connection.text_factory = bytes  # a damaged column may call itself text
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        ready(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _make(connection: sqlite3.Connection) -> None:
    """Make the table if the file is new, and set how it is written."""
    if not _pragma(connection, "application_id") and not _pragma(connection, "schema_version"):
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("COMMIT")
    _check(connection)
    connection.execute("PRAGMA synchronous = NORMAL")  # a crash costs the last vectors at most


def _check(connection: sqlite3.Connection) -> None:
    if _pragma(connection, "application_id") != _APPLICATION_ID:
        raise NoTableError("it is a database of another program")
    if (version := _pragma(connection, "user_version")) != _FORMAT:
        raise NoTableError(f"its format is {version}, and this version of imgembed knows {_FORMAT}")
    try:
        connection.execute("SELECT key, used, checksum, vector FROM vectors LIMIT 1").fetchall()
    except sqlite3.OperationalError as error:
        if "no such" in str(error):
            raise DamagedTableError(f"it is damaged ({error})") from error
        raise


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]
