"""The bytes of records: written as they are, read with suspicion.

The bytes are a line that names the format, a digest of all that follows, the length of the state,
the state in JSON, and the database of SQLite, which is left out when no item has an id of its own.
"""

import hashlib
import json
import sqlite3
from contextlib import closing
from typing import Any, NamedTuple

from ._ids import LAST_COUNTED_ID, decode_id, encode_id
from ._table import MOST_COLUMNS, connect, copied_table, schema
from ._values import COLUMN_KINDS, check_column_names
from ._where import TABLE

_MAGIC = b"imgembed records 1\n"
_DIGEST_BYTES = 32
_LENGTH_BYTES = 8
_MOST_SLOTS = 2**40
# Parts of the header of SQLite's files, which else could make a table read-only, of another
# encoding or slow: pages of 4096 bytes and no write-ahead log; how often the schema has changed,
# and format 4; then defaults, UTF-8 and zeros.
_HEADER_FROM_16 = bytes([16, 0, 1, 1, 0, 64, 32, 32])
_HEADER_FROM_40 = bytes([0, 0, 0, 1, 0, 0, 0, 4] + 8 * [0] + [0, 0, 0, 1] + 32 * [0])
_SCHEMA_CHANGES = slice(40, 44)


class State(NamedTuple):
    """What records know beside their table."""

    n_slots: int
    next_id: int
    columns: dict[str, str]


def write_records(state: State, table: sqlite3.Connection | None) -> bytes:
    """Write records as bytes.

    Parameters
    ----------
    state : State
    table : sqlite3.Connection or None
        None if the id of each item is its slot, and there are no columns.
    """
    head = json.dumps(state).encode()
    database = b"" if table is None else _settled(table.serialize())
    return _sealed(len(head).to_bytes(_LENGTH_BYTES, "big") + head + database)


def read_records(written: bytes) -> tuple[State, sqlite3.Connection | None]:
    """Read records that ``write_records`` has written.

    Returns
    -------
    state : State
    table : sqlite3.Connection or None

    Raises
    ------
    ValueError
        If anything in the bytes is other than ``write_records`` would write it.
    """
    body = memoryview(_unsealed(written))
    start = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "big")
    try:
        state = _state(bytes(body[_LENGTH_BYTES:start]))
        database = bytes(body[start:])
        if not database:
            if state != State(state.n_slots, state.n_slots, {}):
                raise ValueError("the table is absent")
            return state, None
        return state, _table(database, state)
    except (sqlite3.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the records are damaged: {error}") from error


def _settled(database: bytes) -> bytes:
    """Forget how often the schema has changed, which a copy counts as a change."""
    settled = bytearray(database)
    settled[_SCHEMA_CHANGES] = _HEADER_FROM_40[:4]
    return bytes(settled)


def _sealed(body: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(body).digest() + body


def _unsealed(written: bytes) -> bytes:
    written = bytes(written)
    if not written.startswith(_MAGIC):
        raise ValueError(f"these are no records of version 1: they begin {written[:20]!r}")
    body = written[len(_MAGIC) + _DIGEST_BYTES :]
    if _sealed(body) != written:
        raise ValueError("the records are damaged: their digest does not fit")
    return body


def _state(written: bytes) -> State:
    n_slots, next_id, columns = json.loads(written)
    if type(n_slots) is not int or type(next_id) is not int or not isinstance(columns, dict):
        raise ValueError("the state is of other types")
    if not (0 <= n_slots <= _MOST_SLOTS and 0 <= next_id <= LAST_COUNTED_ID + _MOST_SLOTS):
        raise ValueError(f"{n_slots} slots and {next_id} as the next id are out of range")
    check_column_names(columns)
    if len(columns) > MOST_COLUMNS or not all(kind in COLUMN_KINDS for kind in columns.values()):
        raise ValueError("columns are too many, or of unknown kinds")
    return State(n_slots, next_id, columns)


def _table(database: bytes, state: State) -> sqlite3.Connection:
    if database[16:24] != _HEADER_FROM_16 or database[40:92] != _HEADER_FROM_40:
        raise ValueError(f"the header of the database is {database[:92]!r}")
    with closing(connect()) as suspect:
        suspect.deserialize(database)
        _check_database(suspect, len(state.columns))
        _check_slots(suspect, state)
        _check_ids(suspect, state)
        for number, (name, kind) in enumerate(state.columns.items()):
            _check_column(suspect, f"c{number}", name, kind)
        # A database read from bytes cannot grow beyond a gigabyte; its copy can.
        return copied_table(suspect)


def _check_database(table: sqlite3.Connection, n_columns: int) -> None:
    found = _all(table, "SELECT type, name, tbl_name, sql FROM sqlite_master")
    index = ("index", f"sqlite_autoindex_{TABLE}_1", TABLE, None)
    if found != [("table", TABLE, TABLE, schema(n_columns)), index]:
        raise ValueError(f"the schema of the table is {found!r:.200}")
    if (found := _all(table, "PRAGMA integrity_check(1)")) != [("ok",)]:
        raise ValueError(f"{found[0][0]!s:.200}")


def _check_slots(table: sqlite3.Connection, state: State) -> None:
    query = f"SELECT min(slot), max(slot) FROM {TABLE}"  # noqa: S608
    first, last = _all(table, query)[0]
    if first is not None and not 0 <= first <= last < state.n_slots:
        raise ValueError(f"slots {first} to {last} where there are {state.n_slots}")


def _check_ids(table: sqlite3.Connection, state: State) -> None:
    """Check that each id is written as it would be today, and that numbering is past them."""
    query = f"SELECT key, original FROM {TABLE}"  # noqa: S608
    for key, original in table.execute(query):
        if original is not None or type(key) not in (int, str):
            again = encode_id(decode_id(key, original))
            if again != (key, original) or type(again[0]) is not type(key):
                raise ValueError(f"{key!r:.80} is not the key of an id")
        if isinstance(key, int | float) and state.next_id <= key < LAST_COUNTED_ID:
            raise ValueError(f"id {key!r} where the next is {state.next_id}")


def _check_column(table: sqlite3.Connection, column: str, name: str, kind: str) -> None:
    _, storage_class, write, read = COLUMN_KINDS[kind]
    query = f"SELECT {column} FROM {TABLE} WHERE typeof({column}) NOT IN ('null', ?)"  # noqa: S608
    others = table.execute(query, (storage_class,)).fetchone()
    if others:
        raise ValueError(f"column {name!r} of kind {kind} holds {others[0]!r:.80}")
    if kind in ("integer", "real", "blob"):  # where any value is as good as another
        return
    query = f"SELECT {column} FROM {TABLE} WHERE {column} IS NOT NULL"  # noqa: S608
    for (value,) in table.execute(query):
        if write(read(value)) != value:
            raise ValueError(f"column {name!r} of kind {kind} holds {value!r:.80}")


def _all(table: sqlite3.Connection, query: str) -> list[tuple[Any, ...]]:
    return table.execute(query).fetchall()
