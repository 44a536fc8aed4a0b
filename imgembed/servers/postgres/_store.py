"""An index in PostgreSQL as its methods need it: reads of one state, changes made once."""

import uuid
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from psycopg import errors, sql

from ...index import WhereError
from ...index.records._values import as_columns, as_list
from .._columns import Batch, rows_by_columns
from .._conditions import read_condition
from .._errors import (
    ServerCredentialsError,
    ServerError,
    ServerTableError,
    ServerTimeoutError,
    ServerUnavailableError,
    missing_index,
    older_index,
)
from .._keys import id_of, keys_of, keys_of_some, refuse_present, require_present
from .._recall import measured_recall, n_held_back
from .._rows import Remembered, Rows, Slots
from .._state import State
from .._store import (
    Chosen,
    Found,
    Item,
    Tuning,
    Vectors,
    check_params,
    is_mask,
    listed_entries,
)
from . import _table as tables
from ._search import (
    ALL,
    LARGEST_EF,
    ORIGINAL,
    SLOT,
    OtherStateError,
    Search,
    Statement,
    graph_settings,
    nearest,
    nearest_at_once,
    settings_for,
    share_kept,
    vectors_at,
)
from ._session import Connection, PostgresSession
from ._sql import KEY, PostgresCondition, postgres_condition
from ._state import create_states, read_state, write_state

Result = TypeVar("Result")

_N_REMEMBERED = 32
_SCALARS = (str, bytes, int, float, np.generic, type(None))


class PostgresStore:
    """A table with vectors, ids and records, and the state of the index.

    Parameters
    ----------
    session : PostgresSession
    table : str
    """

    def __init__(self, session: PostgresSession, table: str) -> None:
        self.session = session
        self.table = table
        # Of the change that this store made last: a standby may be behind.
        self._n_changes_seen = 0
        # As it was last read or written.
        self._known: State | None = None
        # By the number of changes, among others.
        self._living = Remembered[Slots](1)
        self._shares = Remembered[float](_N_REMEMBERED)
        self._statements = Remembered[Statement | None](_N_REMEMBERED)

    def close(self) -> None:
        """End the connections."""
        self.session.close()

    # Changes.

    def fill(self, state: State, vectors: Vectors, ids: Any, records: Any, tuning: Tuning) -> None:
        """Put items into a new table, which takes the place of the one there is."""
        keys, originals = keys_of(ids, len(vectors))
        columns = as_columns(records, len(vectors))
        new = f"{self.table}_imgembed_new"

        def change(connection: Connection, before: State | None) -> State:
            if before is None:
                self._refuse_foreign_table(connection)
            tables.create_table(connection, new, state)
            now, encoded = tables.prepared(connection, new, state, columns)
            batch = Batch(vectors, keys, originals, encoded)
            filled = self._grown(connection, new, now, batch, tuning)
            tables.create_keys(connection, new)
            tables.replace_table(connection, self.table, new)
            n_changes = 0 if before is None else before.n_changes
            marks = () if before is None else before.marks
            return replace(filled, n_changes=n_changes, marks=marks)

        self._changed(change)

    def add(self, vectors: Vectors, ids: Any, records: Any, tuning: Tuning) -> None:
        """Add items at the end."""
        columns = as_columns(records, len(vectors))
        given = None if ids is None else as_list(ids, "ids")

        def change(connection: Connection, before: State | None) -> State:
            state = self._there(before)
            keys, originals = keys_of(given, len(vectors), state.next_id)
            batch = Batch(vectors, keys, originals, {})
            if given is not None:
                present = tables.slots_of_keys(connection, self.table, keys)
                refuse_present(present, keys, originals)
            now, encoded = tables.prepared(connection, self.table, state, columns)
            return self._grown(connection, self.table, now, replace(batch, columns=encoded), tuning)

        self._changed(change)

    def upsert(self, vectors: Vectors, ids: Any, records: Any) -> None:
        """Replace the items whose ids are there, and add the others."""
        keys, originals = keys_of(ids, len(vectors))
        columns = as_columns(records, len(vectors))

        def change(connection: Connection, before: State | None) -> State:
            state = self._there(before)
            given = columns
            if records is not None:
                given = {name: [None] * len(vectors) for name in state.kinds} | columns
            now, encoded = tables.prepared(connection, self.table, state, given)
            batch = Batch(vectors, keys, originals, encoded)
            now = tables.upsert(connection, self.table, now, batch)
            return self._with_graph(connection, self.table, now, now.n_items)

        self._changed(change)

    def remove(self, ids: Any) -> None:
        """Remove items."""
        keys, originals = keys_of_some(ids)

        def change(connection: Connection, before: State | None) -> State:
            state = self._there(before)
            present = tables.slots_of_keys(connection, self.table, keys)
            require_present(present, keys, originals)
            return tables.remove(connection, self.table, state, keys)

        self._changed(change)

    def update(self, ids: Any, records: Any) -> None:
        """Change columns of the records of items; with dicts, the given keys of each."""
        keys, originals = keys_of_some(ids)
        columns = as_columns(records, len(keys))

        def change(connection: Connection, before: State | None) -> State:
            state = self._there(before)
            present = tables.slots_of_keys(connection, self.table, keys)
            require_present(present, keys, originals)
            now, encoded = tables.prepared(connection, self.table, state, columns)
            for names, rows in rows_by_columns(records, columns, len(keys)):
                some = {name: [encoded[name][row] for row in rows] for name in names}
                tables.update(connection, self.table, [keys[row] for row in rows], some)
            return now

        self._changed(change)

    # Reads.

    def state(self) -> State:
        """The state of the index."""
        return self._read(lambda connection, state: state)

    def nearest(
        self, queries: Vectors | None, k: int, chosen: Chosen, *, exact: bool, with_records: bool
    ) -> tuple[State, Found, NDArray[np.int64]]:
        """The nearest items of queries, and their rows; of all items one more, for themselves."""
        table = sql.Identifier(self.table)
        if queries is not None and self._known is not None:
            wanted = Search(table, self._known, k, ALL, with_records, self.table)
            found_at_once = self._nearest_at_once(wanted, queries, chosen, exact)
            if found_at_once is not None:
                return found_at_once

        def work(connection: Connection, state: State) -> tuple[State, Found, NDArray[np.int64]]:
            condition = self._condition(connection, state, chosen)
            search = Search(table, state, k, condition, with_records)
            vectors = queries
            if vectors is None:
                vectors = vectors_at(connection, table, state, None)
                search = search._replace(k=k + 1)
            settings = None
            if state.has_graph and not exact:
                settings = settings_for(search, self._share(connection, search))
            found = nearest(connection, search, vectors, settings)
            return state, found, self._rows(connection, state).of_slots(found.slots)

        return self._read(work)

    def _nearest_at_once(
        self, search: Search, queries: Vectors, chosen: Chosen, exact: bool
    ) -> tuple[State, Found, NDArray[np.int64]] | None:
        """What :meth:`nearest` finds, by a statement a query, if the state is still the known one.

        None if it is not, or more must be read.
        """
        state = search.state
        rows = Rows(self._living.get(state.n_changes) if state.has_gaps else None)
        if state.n_changes < self._n_changes_seen or (state.has_gaps and rows.living is None):
            return None
        if not (chosen.where is None or isinstance(chosen.where, str)):
            return None
        question = state.n_changes, search.k, search.with_records, exact, _words(chosen)
        try:
            statement = self._statements.of(
                question, lambda: self._statement(search, chosen, exact)
            )
            if statement is None:
                return None
            found = self.session.ask(
                lambda connection: nearest_at_once(connection, statement, queries),
                statement.settings,
            )
        except OtherStateError:
            self.session.forget_settings()
            return None
        except (ServerTimeoutError, ServerUnavailableError, ServerCredentialsError):
            raise
        except (ServerError, WhereError):
            return None  # the columns may be others by now
        return state, found, rows.of_slots(found.slots)

    def _statement(self, search: Search, chosen: Chosen, exact: bool) -> Statement | None:
        """What is asked at once, or None if it is not known how many candidates are needed."""
        search = search._replace(condition=_written(search.state, chosen))
        if exact or not search.state.has_graph:
            return Statement(search, None)
        share = 1.0 if search.condition is ALL else self._shares.get(_question(search))
        return None if share is None else Statement(search, settings_for(search, share))

    def ids(self) -> list[Hashable]:
        """All ids, row by row."""
        query = sql.SQL("SELECT {}, {} FROM {} ORDER BY {}").format(
            sql.Identifier(KEY), ORIGINAL, sql.Identifier(self.table), SLOT
        )

        def work(connection: Connection, _: State) -> list[Hashable]:
            return [id_of(*row) for row in connection.execute(query).fetchall()]

        return self._read(work)

    def contains(self, key: str) -> bool:
        """Whether an item has this key."""

        def work(connection: Connection, _: State) -> bool:
            return bool(tables.slots_of_keys(connection, self.table, [key]))

        return self._read(work)

    def vectors(self, rows: NDArray[np.int64] | None) -> Vectors:
        """The vectors of rows, or of all."""

        def work(connection: Connection, state: State) -> Vectors:
            slots = None if rows is None else self._rows(connection, state).slots_at(rows)
            return vectors_at(connection, sql.Identifier(self.table), state, slots)

        return self._read(work)

    def items(self, chosen: Chosen, limit: int | None) -> tuple[State, list[Item]]:
        """What is chosen, row by row; the first of them, if there is a limit."""

        def work(connection: Connection, state: State) -> tuple[State, list[Item]]:
            condition = self._condition(connection, state, chosen)
            return state, self._items(connection, state, condition, limit)

        return self._read(work)

    def contents(self) -> tuple[State, Vectors, list[Item]]:
        """All that is there, row by row: vectors and items."""

        def work(connection: Connection, state: State) -> tuple[State, Vectors, list[Item]]:
            vectors = vectors_at(connection, sql.Identifier(self.table), state, None)
            return state, vectors, self._items(connection, state, ALL, None)

        return self._read(work)

    def _items(
        self,
        connection: Connection,
        state: State,
        condition: PostgresCondition,
        limit: int | None,
    ) -> list[Item]:
        words = [sql.Identifier(KEY), ORIGINAL, *map(sql.Identifier, state.kinds)]
        query = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT {}").format(
            sql.SQL(", ").join(words),
            sql.Identifier(self.table),
            condition.sql,
            SLOT,
            sql.Literal(limit),
        )
        with connection.cursor(binary=True) as cursor:
            return cursor.execute(query, dict(condition.values)).fetchall()

    # How changes and reads are made.

    def _changed(self, change: Callable[[Connection, State | None], State]) -> None:
        """Make a change once, even if the server is lost before it tells that it was made."""
        mark = uuid.uuid4().hex[:16]

        def work(connection: Connection) -> State:
            create_states(connection)
            before = read_state(connection, self.table, lock=True)
            if before is not None and mark in before.marks:
                return before  # the first attempt came through
            after = change(connection, before).marked(mark)
            write_state(connection, self.table, after)
            return after

        self._known = self.session.write(work)
        self._n_changes_seen = self._known.n_changes

    def _read(self, work: Callable[[Connection, State], Result]) -> Result:
        """Read in a state that is not older than what this store has written."""

        def locked(connection: Connection) -> tuple[bool, Any]:
            # Before anything is read: who replaces the table must not do so in between.
            try:
                connection.execute(self._lock_statement())
                state = read_state(connection, self.table)
            except errors.UndefinedTable:
                raise missing_index(self.table, "database") from None
            if state is None:
                raise missing_index(self.table, "database")
            if state.n_changes < self._n_changes_seen:
                return False, None
            self._known = state
            return True, work(connection, state)

        is_new, result = self.session.read(locked)
        if not is_new:  # the standby is behind
            is_new, result = self.session.read(locked, on_primary=True)
        if not is_new:
            raise older_index(self.table)
        found: Result = result
        return found

    def _lock_statement(self) -> sql.Composed:
        return sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.Identifier(self.table))

    def _there(self, state: State | None) -> State:
        if state is None:
            raise missing_index(self.table, "database")
        return state

    def _refuse_foreign_table(self, connection: Connection) -> None:
        found = connection.execute("SELECT to_regclass(quote_ident(%s))", (self.table,)).fetchone()
        if found is not None and found[0] is not None:
            raise ServerTableError(
                f"there is a table {self.table!r} that is no index of imgembed, and fit would "
                "replace it; choose another name"
            )

    # Filling.

    def _grown(
        self, connection: Connection, table: str, state: State, batch: Batch, tuning: Tuning
    ) -> State:
        """Add items, of which some are queries that measure the graph before they are in it."""
        n_after = state.n_items + len(batch)
        n_held = n_held_back(state, n_after, len(batch))
        first, held = batch.parted(len(batch) - n_held)
        state = tables.insert(connection, table, state, first)
        state = self._with_graph(connection, table, state, n_after)
        if not n_held:
            return state
        state = _measured(connection, table, state, held.vectors, tuning, n_after)
        return tables.insert(connection, table, state, held)

    def _with_graph(self, connection: Connection, table: str, state: State, n_items: int) -> State:
        """Build the graph if it is due; either way the planner learns of many new items."""
        if state.has_graph or not state.wants_graph(n_items):
            return state
        tables.create_graph(connection, table, state)
        connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table)))
        return replace(state, has_graph=True)

    # Searching.

    def _share(self, connection: Connection, search: Search) -> float:
        """What share of the items a condition keeps, which is remembered."""
        if search.condition is ALL:
            return 1.0
        return self._shares.of(_question(search), lambda: share_kept(connection, search))

    def _condition(self, connection: Connection, state: State, chosen: Chosen) -> PostgresCondition:
        if chosen.where is None or isinstance(chosen.where, str):
            return _written(state, chosen)
        check_params(chosen)
        return self._listed(connection, state, chosen.where)

    def _listed(self, connection: Connection, state: State, where: Any) -> PostgresCondition:
        """A mask of rows, or ids, as a condition."""
        entries = listed_entries(where, state.n_items)
        if is_mask(entries):
            rows = np.flatnonzero(np.asarray(entries, bool))
            slots = self._rows(connection, state).slots_at(rows).tolist()
            return PostgresCondition(sql.SQL("{} = ANY(%(slots)s)").format(SLOT), {"slots": slots})
        keys, originals = keys_of_some(entries)
        present = tables.slots_of_keys(connection, self.table, keys)
        require_present(present, keys, originals)
        is_listed = sql.SQL("{} = ANY(%(keys)s)").format(sql.Identifier(KEY))
        return PostgresCondition(is_listed, {"keys": keys})

    def _rows(self, connection: Connection, state: State) -> Rows:
        if not state.has_gaps:
            return Rows(None)
        read = partial(tables.living_slots, connection, self.table)
        return Rows(self._living.of(state.n_changes, read))


def _written(state: State, chosen: Chosen) -> PostgresCondition:
    """A condition in SQL, or none."""
    check_params(chosen)
    if chosen.where is None:
        return ALL
    return postgres_condition(read_condition(chosen.where, chosen.params, state.kinds))


def _words(chosen: Chosen) -> Hashable:
    """A condition and its values, and their types: 1 is another value than True."""
    params = chosen.params
    named = params.items() if isinstance(params, Mapping) else enumerate(params or ())
    return chosen.where, tuple(
        # What may be no key is like no other.
        (name, type(value), value if isinstance(value, _SCALARS) else object())
        for name, value in named
    )


def _question(search: Search) -> tuple[int, str]:
    condition = search.condition
    return search.state.n_changes, repr((condition.sql, condition.values))


def _measured(
    connection: Connection, table: str, state: State, queries: Vectors, tuning: Tuning, n_items: int
) -> State:
    search = Search(sql.Identifier(table), state, tuning.n_neighbors)

    def found(ef: int) -> Found:
        settings = graph_settings(state, ef) if ef else None
        return nearest(connection, search, queries, settings)

    recall = measured_recall(found, found(0), tuning, LARGEST_EF)
    return replace(state, recall=recall, n_measured=n_items)
