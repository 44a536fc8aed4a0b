"""The table of records: one row for each item, in SQLite's memory.

Columns are called c0, c1 and so on in the table, so that names of columns are never SQL.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._ids import EncodedIds
from ._values import check_column_names, encode_column
from ._where import TABLE

#: Values of columns as SQLite holds them, by the columns' numbers.
EncodedColumns = dict[int, list[Any]]

MOST_COLUMNS = 500

_FIXED_FIELDS = ("slot INTEGER PRIMARY KEY", "key UNIQUE", "original")
_VALUES_A_QUERY = 500
_N_NAMED = 5


def connect() -> sqlite3.Connection:
    """Open a database in memory that several threads may use, in which a schema can do no harm."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    # Else they depend on how SQLite was built.
    connection.execute("PRAGMA page_size = 4096")
    connection.execute("PRAGMA auto_vacuum = NONE")
    return connection


def open_table(n_slots: int) -> sqlite3.Connection:
    """Open a table of items whose ids are their slots."""
    table = connect()
    table.execute(schema(0))
    table.execute("BEGIN")
    query = f"INSERT INTO {TABLE} (slot, key) VALUES (?, ?)"  # noqa: S608
    table.executemany(query, ((slot, slot) for slot in range(n_slots)))
    table.execute("COMMIT")
    return table


def copied_table(table: sqlite3.Connection) -> sqlite3.Connection:
    """Copy a table with all its rows."""
    copied = connect()
    table.backup(copied)
    return copied


def schema(n_columns: int) -> str:
    """Return the SQL of the table, as SQLite itself writes it when columns are added."""
    columns = (f"c{number}" for number in range(n_columns))
    return f"CREATE TABLE {TABLE} ({', '.join((*_FIXED_FIELDS, *columns))})"


def fit_columns(
    table: sqlite3.Connection, kinds: Mapping[str, str], columns: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, str], EncodedColumns]:
    """Write values of columns for SQLite, and change the table so that it takes them.

    Parameters
    ----------
    table : sqlite3.Connection
    kinds : mapping of str to str
        Of the columns that the table has, in order.
    columns : mapping of str to sequence

    Returns
    -------
    kinds : dict of str to str
        Of the columns that it has now.
    encoded : dict of int to list

    Raises
    ------
    TypeError, ValueError
        If a name or a value cannot be kept.
    """
    check_column_names(columns, kinds)
    fitted, encoded = dict(kinds), EncodedColumns()
    for name, values in columns.items():
        before = fitted.get(name, "null")
        fitted[name], written = encode_column(name, values, before)
        number = list(fitted).index(name)
        encoded[number] = written
        if name not in kinds:
            _add_column(table, number, name)
        elif (before, fitted[name]) == ("integer", "real"):
            _make_column_real(table, number, name)
    return fitted, encoded


def insert_rows(
    table: sqlite3.Connection, first_slot: int, ids: EncodedIds, columns: EncodedColumns
) -> None:
    """Add rows from a slot on, with values for columns by their numbers."""
    fields = ["slot", "key", "original", *(f"c{number}" for number in columns)]
    marks = ", ".join("?" * len(fields))
    slots = range(first_slot, first_slot + len(ids.keys))
    table.executemany(
        f"INSERT INTO {TABLE} ({', '.join(fields)}) VALUES ({marks})",  # noqa: S608
        zip(slots, ids.keys, ids.originals, *columns.values(), strict=True),
    )


def update_rows(table: sqlite3.Connection, slots: Sequence[int], columns: EncodedColumns) -> None:
    """Change values of columns, by their numbers."""
    changes = ", ".join(f"c{number} = ?" for number in columns)
    query = f"UPDATE {TABLE} SET {changes} WHERE slot = ?"  # noqa: S608
    table.executemany(query, zip(*columns.values(), slots, strict=True))


def delete_rows(table: sqlite3.Connection, slots: Sequence[int]) -> None:
    """Delete the rows at slots."""
    query = f"DELETE FROM {TABLE} WHERE slot = ?"  # noqa: S608
    table.executemany(query, ((slot,) for slot in slots))


def move_rows(table: sqlite3.Connection, moves: Sequence[tuple[int, int]]) -> None:
    """Move rows to new slots, in order of (new, old)."""
    table.executemany(f"UPDATE {TABLE} SET slot = ? WHERE slot = ?", moves)  # noqa: S608


def n_rows(table: sqlite3.Connection) -> int:
    """Count the rows."""
    return int(table.execute(f"SELECT count(*) FROM {TABLE}").fetchone()[0])  # noqa: S608


def all_slots(table: sqlite3.Connection) -> list[int]:
    """List the slots of all rows, ascending."""
    query = f"SELECT slot FROM {TABLE} ORDER BY slot"  # noqa: S608
    return [row[0] for row in table.execute(query)]


def rows_with(
    table: sqlite3.Connection, fields: str, by: str, values: Sequence[Any]
) -> Iterator[tuple[Any, ...]]:
    """Yield fields of the rows that have one of the values, in any order."""
    for start in range(0, len(values), _VALUES_A_QUERY):
        some = values[start : start + _VALUES_A_QUERY]
        marks = ", ".join("?" * len(some))
        query = f"SELECT {fields} FROM {TABLE} WHERE {by} IN ({marks})"  # noqa: S608
        yield from table.execute(query, some).fetchall()


def rows_at(table: sqlite3.Connection, slots: Sequence[int], fields: str) -> list[tuple[Any, ...]]:
    """Return fields of the rows at slots, in order.

    Raises
    ------
    IndexError
        If there is no row at a slot.
    """
    rows = {row[0]: row[1:] for row in rows_with(table, f"slot, {fields}", "slot", slots)}
    refuse_empty([slot for slot in slots if slot not in rows])
    return [rows[slot] for slot in slots]


def slot_list(slots: ArrayLike) -> list[int]:
    """List slots as Python's integers.

    Raises
    ------
    TypeError
        If they are no integers, or not of one dimension.
    """
    array = np.asarray(slots)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(
            f"slots: wanted one dimension of integers, got {array.dtype} of shape {array.shape}"
        )
    return [int(slot) for slot in array.tolist()]


def refuse_empty(slots: Sequence[int]) -> None:
    """Raise IndexError for slots that hold no item, if there are any."""
    if slots:
        raise IndexError(f"no item at slots {slots[:_N_NAMED]} ({len(slots)} in all)")


def _add_column(table: sqlite3.Connection, number: int, name: str) -> None:
    if number == MOST_COLUMNS:
        raise ValueError(f"column {name!r} is one more than the {MOST_COLUMNS} of records")
    table.execute(f"ALTER TABLE {TABLE} ADD COLUMN c{number}")


def _make_column_real(table: sqlite3.Connection, number: int, name: str) -> None:
    column = f"c{number}"
    query = f"SELECT {column} FROM {TABLE} WHERE {column} != CAST({column} AS REAL)"  # noqa: S608
    rounded = table.execute(query).fetchone()
    if rounded:
        raise ValueError(
            f"column {name!r} got reals, and its integer {rounded[0]} would be rounded as one; "
            "keep such integers as text"
        )
    table.execute(f"UPDATE {TABLE} SET {column} = CAST({column} AS REAL)")  # noqa: S608
