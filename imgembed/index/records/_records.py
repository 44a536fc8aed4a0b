"""Records: the ids and the columns of an index's items, in a table in step with its slots."""

import re
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._bytes import State, read_records, write_records
from ._ids import (
    DuplicateIdError,
    EncodedIds,
    Key,
    decode_id,
    encode_id,
    encode_ids,
    named_ids,
)
from ._table import (
    EncodedColumns,
    all_slots,
    copied_table,
    delete_rows,
    fit_columns,
    insert_rows,
    move_rows,
    n_rows,
    open_table,
    refuse_empty,
    rows_at,
    rows_with,
    slot_list,
    update_rows,
)
from ._values import COLUMN_KINDS, as_columns, as_list
from ._where import ReadGuard, slots_where

# Conditions whose answers are kept, and those that may have others the next time.
_N_ANSWERS = 8
_CLOCKS = re.compile("date|time|julianday", re.IGNORECASE)


class UnknownIdError(KeyError):
    """An id that no item has."""

    def __str__(self) -> str:
        """Return the message: a KeyError would show its repr."""
        return str(self.args[0])


class Records:
    """Ids and columns of items at slots 0 to ``n_slots - 1``, in a table of SQLite in memory.

    Items without ids of their own are numbered, and cost nothing until ids, columns, removals or
    conditions come. Removed items leave gaps in the slots until ``renumber``. Any number of
    threads may read at once. Changes are made whole or not at all.

    Attributes
    ----------
    n_slots : int
        One more than the last slot that has been given.
    n_changes : int
        Grows with each change that has been made, and not with those that failed.
    columns : dict of str to str
        Kind of each column: "integer", "real", "text", "boolean", "blob", "path", "date",
        "datetime", "datetime_utc", "uuid", or "null" as long as it holds no value.

    Notes
    -----
    Integers and floats together are a column of reals. Datetimes with a time zone come back in
    UTC in columns, and with a fixed offset as ids. NaN in a column comes back as None.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._n_slots = 0
        self._n_living = 0
        self._next_id = 0
        self.n_changes = 0
        # The slots of the latest conditions, and the number of changes before they were found:
        # queries that come one by one mostly ask the same.
        self._answers: dict[str, tuple[int, NDArray[np.int64]]] = {}
        self._columns: dict[str, str] = {}
        # None as long as the id of each item is its slot, and there is nothing else.
        self._connection: sqlite3.Connection | None = None
        self._guard: ReadGuard | None = None

    @property
    def n_slots(self) -> int:
        """One more than the last slot that has been given."""
        return self._n_slots

    @property
    def columns(self) -> dict[str, str]:
        """Kind of each column."""
        return dict(self._columns)

    def __len__(self) -> int:
        """Return the number of living items."""
        return self._n_living

    def __contains__(self, item_id: object) -> bool:
        """Say whether an item has this id."""
        try:
            return bool(self.find([item_id])[0] >= 0)
        except (TypeError, ValueError):
            return False

    def append(self, ids: Iterable[Any] | None, records: Any, n: int) -> None:
        """Add items at the next ``n`` slots.

        Parameters
        ----------
        ids : iterable or None
            None numbers the items on from the largest integer that has been an id.
        records : DataFrame, dict of columns, sequence of dicts, or None
        n : int

        Raises
        ------
        DuplicateIdError
            If an id is given twice or is there already.
        TypeError, ValueError
            If an id or a value cannot be kept, or lengths differ from ``n``.
        """
        with self._lock:
            columns = as_columns(records, n)
            if ids is None and not columns and self._connection is None:
                self._n_slots = self._n_living = self._next_id = self._n_slots + n
                self.n_changes += 1
                return
            default = range(self._next_id, self._next_id + n)
            encoded = encode_ids(default if ids is None else ids, n)
            with self._change() as table:
                self._refuse_present(encoded)
                self._insert(table, encoded, self._encoded(columns))

    def check_new(self, ids: Iterable[Any], n: int) -> None:
        """Raise what ``append`` would raise of ids, and change nothing."""
        encoded = encode_ids(ids, n)
        with self._lock:
            self._refuse_present(encoded)

    def slots_for(self, ids: Iterable[Any], n: int) -> NDArray[np.int64]:
        """Say at which slots ``upsert`` would put these ids, and change nothing.

        Raises
        ------
        DuplicateIdError, TypeError, ValueError
            What ``upsert`` would raise of ids.
        """
        encoded = encode_ids(ids, n)
        with self._lock:
            return self._slots_for(encoded)

    def upsert(self, ids: Iterable[Any], records: Any, n: int) -> NDArray[np.int64]:
        """Replace the records of ids that are there, and add items for the others.

        Parameters
        ----------
        ids : iterable
        records : DataFrame, dict of columns, sequence of dicts, or None
            None leaves the records that are there.
        n : int

        Returns
        -------
        slots : ndarray of shape (n,), int64
            Those of new items are the next ones.

        Raises
        ------
        DuplicateIdError
            If an id is given twice.
        TypeError, ValueError
            If an id or a value cannot be kept, or lengths differ from ``n``.
        """
        encoded, columns = encode_ids(ids, n), as_columns(records, n)
        with self._lock, self._change() as table:
            if records is not None:
                columns = {name: [None] * n for name in self._columns} | columns
            values = self._encoded(columns)
            slots = self._slots_for(encoded)
            is_known = slots < self._n_slots
            known, new = np.flatnonzero(is_known), np.flatnonzero(~is_known)
            if values:
                update_rows(table, slots[known].tolist(), _at(known, values))
            self._insert(table, encoded.at(new), _at(new, values))
        return slots

    def find(self, ids: Iterable[Any]) -> NDArray[np.int64]:
        """Find the slot of each id, -1 where no item has it.

        Raises
        ------
        TypeError
            If an id is of a kind that ids cannot be.
        """
        keys = [encode_id(value)[0] for value in as_list(ids, "ids")]
        with self._lock:
            slots = self._slots_of_keys(keys)
        return np.array([slots.get(key, -1) for key in keys], dtype=np.int64)

    def slots_of(self, ids: Iterable[Any]) -> NDArray[np.int64]:
        """Find the slot of each id.

        Raises
        ------
        UnknownIdError
            If no item has one of them.
        """
        listed = as_list(ids, "ids")
        slots = self.find(listed)
        absent = [listed[row] for row in np.flatnonzero(slots < 0)]
        if absent:
            raise UnknownIdError(f"no item has {named_ids(absent)}")
        return slots

    def ids_at(self, slots: ArrayLike) -> list[Any]:
        """Return the ids of the items at these slots, as they were given.

        Raises
        ------
        IndexError
            If a slot holds no item.
        """
        with self._lock:
            listed = self._living_slots(slots)
            if self._connection is None:
                return list(listed)
            rows = rows_at(self._connection, listed, "key, original")
        return [decode_id(key, original) for key, original in rows]

    def records_at(self, slots: ArrayLike) -> list[dict[str, Any]]:
        """Return the records of the items at these slots, with all columns.

        Raises
        ------
        IndexError
            If a slot holds no item.
        """
        with self._lock:
            names = list(self._columns)
            readers = [COLUMN_KINDS[kind].read for kind in self._columns.values()]
            if not names:
                return [{} for _ in self._living_slots(slots)]
            fields = ", ".join(f"c{number}" for number in range(len(names)))
            rows = rows_at(self._table(), slot_list(slots), fields)
        return [
            {
                name: None if value is None else read(value)
                for name, read, value in zip(names, readers, row, strict=True)
            }
            for row in rows
        ]

    def living(self) -> NDArray[np.int64]:
        """Return the slots that hold items, ascending."""
        with self._lock:
            if self._connection is None:
                return np.arange(self._n_slots)
            return np.array(all_slots(self._connection), dtype=np.int64)

    def update(self, slots: ArrayLike, records: Any) -> None:
        """Change the given columns of items; with dicts, the given keys of each.

        Raises
        ------
        IndexError
            If a slot holds no item.
        TypeError, ValueError
            If a value cannot be kept.
        """
        with self._lock:
            listed = self._living_slots(slots)
            columns = as_columns(records, len(listed))
            if isinstance(records, Sequence):
                before = self.records_at(listed)
                for name, values in columns.items():
                    for row, record in enumerate(records):
                        if name not in record:
                            values[row] = before[row].get(name)
            if columns and listed:
                with self._change() as table:
                    update_rows(table, listed, self._encoded(columns))

    def remove(self, slots: ArrayLike) -> None:
        """Remove the items at these slots.

        Raises
        ------
        IndexError
            If a slot holds no item.
        """
        with self._lock:
            listed = sorted(set(self._living_slots(slots)))
            with self._change() as table:
                delete_rows(table, listed)
                self._n_living -= len(listed)

    def renumber(self) -> None:
        """Close the gaps: living items get slots from 0 on, in order."""
        with self._lock:
            if self._connection is None:
                return
            # Ascending, so that each new slot is free when its turn comes.
            before = all_slots(self._connection)
            with self._change() as table:
                move_rows(table, [(new, old) for new, old in enumerate(before) if new != old])
                self._n_slots = self._n_living
            self._connection.execute("VACUUM")

    def where(
        self, condition: str, params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> NDArray[np.int64]:
        """Find the living slots whose records satisfy a condition.

        Parameters
        ----------
        condition : str
            An expression of SQL on the columns, such as ``price < ? AND category = 'shoe'``. If
            no column is called ``id``, that is the id, where it is a str or a number.
        params : sequence, mapping or None
            Values for each ``?`` or ``:name``.

        Returns
        -------
        slots : ndarray of shape (n_found,), int64
            Ascending.

        Raises
        ------
        WhereError
            If the condition is anything but an expression on the columns, or params do not fit.
        """
        question = repr((condition, params))
        with self._lock:
            known = self._answers.get(question)
            if known is not None and known[0] == self.n_changes:
                return known[1]
            table = self._table()
            assert self._guard is not None
            found = slots_where(table, self._guard, condition, params, self._columns)
            slots = np.array(found, dtype=np.int64)
            if not _CLOCKS.search(condition):
                self._remember(question, slots)
        return slots

    def _remember(self, question: str, slots: NDArray[np.int64]) -> None:
        slots.flags.writeable = False  # the next one who asks gets the same
        self._answers.pop(question, None)
        while len(self._answers) >= _N_ANSWERS:
            del self._answers[next(iter(self._answers))]
        self._answers[question] = self.n_changes, slots

    def copy(self) -> "Records":
        """Copy the records; changes of one do not show in the other."""
        with self._lock:
            table = None if self._connection is None else copied_table(self._connection)
            return self._of(State(self._n_slots, self._next_id, dict(self._columns)), table)

    def to_bytes(self) -> bytes:
        """Write the records; the same operations give the same bytes."""
        with self._lock:
            state = State(self._n_slots, self._next_id, self._columns)
            return write_records(state, self._connection)

    @classmethod
    def from_bytes(cls, written: bytes) -> "Records":
        """Read what ``to_bytes`` has written, and check all of it.

        Raises
        ------
        ValueError
            If the bytes are damaged, are not records, or are of a later version.
        """
        return cls._of(*read_records(written))

    @classmethod
    def _of(cls, state: State, table: sqlite3.Connection | None) -> "Records":
        records = cls()
        records._n_slots, records._next_id, records._columns = state
        records._n_living = state.n_slots if table is None else n_rows(table)
        if table is not None:
            records._hold(table)
        return records

    def _table(self) -> sqlite3.Connection:
        """Return the table, which until now may have been nothing but a number of slots."""
        if self._connection is None:
            return self._hold(open_table(self._n_slots))
        return self._connection

    def _hold(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        self._connection, self._guard = connection, ReadGuard(connection)
        weakref.finalize(self, connection.close)
        return connection

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """Change the table whole or not at all."""
        table = self._table()
        n_changes = self.n_changes
        before = self._n_slots, self._n_living, self._next_id, dict(self._columns)
        try:
            table.execute("BEGIN")
            yield table
            self.n_changes = n_changes + 1
            table.execute("COMMIT")
        except BaseException as error:
            # Ctrl-C while the table commits is raised as soon as it has.
            committed = self.n_changes > n_changes and not table.in_transaction
            if committed and not isinstance(error, sqlite3.Error):
                raise
            if table.in_transaction:
                table.execute("ROLLBACK")
            self._n_slots, self._n_living, self._next_id, self._columns = before
            self.n_changes = n_changes
            raise

    def _slots_for(self, ids: EncodedIds) -> NDArray[np.int64]:
        """The slot of each id; those that no item has get the next ones."""
        present = self._slots_of_keys(ids.keys)
        slots = np.array([present.get(key, -1) for key in ids.keys], np.int64)
        new = slots < 0
        slots[new] = self._n_slots + np.arange(np.count_nonzero(new))
        return slots

    def _refuse_present(self, ids: EncodedIds) -> None:
        present = self._slots_of_keys(ids.keys) if self._n_living else {}
        if present:
            raise DuplicateIdError(f"there is already {named_ids(ids.decoded(present))}")

    def _insert(self, table: sqlite3.Connection, ids: EncodedIds, values: EncodedColumns) -> None:
        insert_rows(table, self._n_slots, ids, values)
        self._n_slots += len(ids.keys)
        self._n_living += len(ids.keys)
        self._next_id = max(self._next_id, ids.next_integer())

    def _encoded(self, columns: Mapping[str, list[Any]]) -> EncodedColumns:
        """Write columns for SQLite; the table gets those that are new."""
        self._columns, encoded = fit_columns(self._table(), self._columns, columns)
        return encoded

    def _slots_of_keys(self, keys: Sequence[Key]) -> dict[Key, int]:
        if self._connection is None:
            numbers = (key for key in keys if isinstance(key, int | float))
            return {key: int(key) for key in numbers if 0 <= key < self._n_slots and key % 1 == 0}
        return dict(rows_with(self._connection, "key, slot", "key", keys))

    def _living_slots(self, slots: ArrayLike) -> list[int]:
        """List slots that have been checked to hold items."""
        listed = slot_list(slots)
        if self._connection is None:
            refuse_empty([slot for slot in listed if not 0 <= slot < self._n_slots])
        else:
            rows_at(self._connection, listed, "slot")
        return listed


def _at(rows: NDArray[np.int64], columns: EncodedColumns) -> EncodedColumns:
    """Return the values of some rows."""
    return {number: [values[row] for row in rows] for number, values in columns.items()}
