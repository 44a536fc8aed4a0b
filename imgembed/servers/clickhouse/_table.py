"""Tables of indexes in ClickHouse: made, filled and looked at, before anything is published."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .._columns import EXACT_INTEGERS, KEPT_AS, Batch, fitted_columns, rounded_integers
from .._errors import ServerTableError
from .._rows import Slots
from .._state import State
from .._store import Vectors
from ._rows import (
    OWN_TYPES,
    VECTOR,
    blocks,
    read_slots,
    read_vectors,
    vector_type,
)
from ._session import ClickHouseSession
from ._sql import KEY, SQL_TYPES, named, quoted
from ._state import COMMENT, STATES, Publication

GRAPH = "imgembed_graph"

# Rows that are read for one that is found: less than ClickHouse's 8,192, since a row is wide.
_ROWS_A_GRANULE = 128
# Tables that no state names are of a change that was not finished, or is not finished yet.
_HOURS_OF_A_CHANGE = 24


def table_name(index: str, tag: int) -> str:
    """The table that a change makes for an index."""
    return f"{index}_imgembed_{tag:x}"


def create_table(session: ClickHouseSession, table: str, state: State) -> None:
    """Make an empty table for an index, without a graph.

    Parameters
    ----------
    session : ClickHouseSession
    table : str
    state : State
    """
    own = [f"{name} {kind}" for name, kind in OWN_TYPES.items()]
    vector = f"{VECTOR} {vector_type(state)} CODEC(NONE)"
    session.run(
        f"CREATE TABLE {named(table)} ({', '.join(own)}, {vector}, "
        f"INDEX imgembed_by_key {KEY} TYPE bloom_filter GRANULARITY 1, "
        "INDEX imgembed_by_change imgembed_change TYPE minmax GRANULARITY 1, "
        f"CONSTRAINT imgembed_width CHECK length({VECTOR}) = {state.n_features}) "
        "ENGINE = MergeTree ORDER BY imgembed_slot "
        f"SETTINGS index_granularity = {_ROWS_A_GRANULE}, fsync_after_insert = 1, "
        "fsync_part_directory = 1, enable_block_number_column = 1, enable_block_offset_column = 1 "
        f"COMMENT '{COMMENT}'"
    )


def create_graph(session: ClickHouseSession, table: str, state: State) -> None:
    """Build the graph of a table, in one part.

    Parameters
    ----------
    session : ClickHouseSession
    table : str
    state : State
    """
    numbers = f"{state.n_features}, '{_quantization(state)}', {state.M}, {state.ef_construction}"
    kind = f"vector_similarity('hnsw', '{graph_distance(state)}', {numbers})"
    session.run(f"OPTIMIZE TABLE {named(table)} FINAL")
    session.run(f"ALTER TABLE {named(table)} ADD INDEX IF NOT EXISTS {GRAPH} {VECTOR} TYPE {kind}")
    session.run(f"ALTER TABLE {named(table)} MATERIALIZE INDEX {GRAPH}")


def graph_distance(state: State) -> str:
    """The function that the graph compares with."""
    return "L2Distance" if state.metric == "euclidean" else "cosineDistance"


def prepared(
    session: ClickHouseSession, table: str, state: State, columns: Mapping[str, Sequence[Any]]
) -> tuple[State, dict[str, list[Any]]]:
    """Give a table the columns that records need.

    A column that holds nothing yet is not in the table, since its type is not known.

    Parameters
    ----------
    session : ClickHouseSession
    table : str
    state : State
    columns : mapping of str to sequence
        Values as they were given.

    Returns
    -------
    state : State
        It knows the columns.
    encoded : dict of str to list
        Values as ClickHouse takes them.

    Raises
    ------
    TypeError, ValueError
        If a name or a value cannot be kept.
    """
    before = state.kinds
    kinds, encoded = fitted_columns(before, columns, _check_name)
    there: Mapping[str, str] | None = None
    for name, kind in kinds.items():
        wanted = SQL_TYPES[KEPT_AS[kind]]
        former = before.get(name, "null")
        if kind == "null" or (former != "null" and KEPT_AS[former] == KEPT_AS[kind]):
            continue
        there = _types(session, table) if there is None else there
        if name not in there:
            session.run(f"ALTER TABLE {named(table)} ADD COLUMN {named(name)} {wanted}")
        elif there[name] != wanted:
            _change_type(session, table, name, there[name], wanted)
    return replace(state, columns=kinds), encoded


def insert(session: ClickHouseSession, table: str, state: State, batch: Batch, tag: int) -> State:
    """Add items in the next slots.

    Parameters
    ----------
    session : ClickHouseSession
    table : str
    state : State
        It knows the columns.
    batch : Batch
    tag : int

    Returns
    -------
    state : State
        Of the table with the items.
    """
    slots = np.arange(state.n_slots, state.n_slots + len(batch))
    insert_at(session, table, state, batch, slots, tag)
    return state.with_more(batch.keys, len(batch))


def insert_at(
    session: ClickHouseSession, table: str, state: State, batch: Batch, slots: Slots, tag: int
) -> None:
    """Put items into slots.

    Parameters
    ----------
    session : ClickHouseSession
    table : str
    state : State
        It knows the columns.
    batch : Batch
    slots : ndarray of shape (n_items,), dtype int64
    tag : int
    """
    for block in blocks(state, batch, slots, tag):
        session.insert(named(table), block)


def n_rows_of(session: ClickHouseSession, table: str, tag: int) -> int:
    """Rows of a change, published or not.

    Parameters
    ----------
    session : ClickHouseSession
    table : str
    tag : int

    Returns
    -------
    n_rows : int
    """
    query = f"SELECT count() FROM {named(table)} WHERE imgembed_change = {tag}"
    return int(session.rows(query)[0][0])


def slots_of_keys(
    session: ClickHouseSession, published: Publication, keys: Sequence[str]
) -> dict[str, int]:
    """The slots of those keys that are there.

    Parameters
    ----------
    session : ClickHouseSession
    published : Publication
    keys : sequence of str

    Returns
    -------
    slots : dict of str to int
    """
    found = session.rows(
        f"SELECT {KEY}, imgembed_slot FROM {named(published.table)} "
        f"WHERE {published.visible} AND {among_keys(keys)}"
    )
    return {str(key): int(slot) for key, slot in found}


def among_keys(keys: Sequence[str]) -> str:
    """The condition that a row has one of some keys."""
    listed = ",".join(key.encode().hex() for key in keys)
    return f"{KEY} IN (SELECT arrayJoin(arrayMap(x -> unhex(x), splitByChar(',', '{listed}'))))"


def among_slots(slots: Slots) -> str:
    """The condition that a row is in one of some slots."""
    digits = quoted(slots.astype("<i8").tobytes())
    return f"imgembed_slot IN (SELECT arrayJoin(reinterpret({digits}, 'Array(Int64)')))"


def living_slots(session: ClickHouseSession, published: Publication) -> Slots:
    """The slots of all items, ascending.

    Parameters
    ----------
    session : ClickHouseSession
    published : Publication

    Returns
    -------
    slots : ndarray of shape (n_items,), dtype int64
    """
    return read_slots(
        session.packed(
            f"SELECT imgembed_slot FROM {named(published.table)} WHERE {published.visible} "
            "ORDER BY imgembed_slot"
        )
    )


def vectors_at(session: ClickHouseSession, published: Publication, slots: Slots | None) -> Vectors:
    """The vectors of slots, or of all in order.

    Parameters
    ----------
    session : ClickHouseSession
    published : Publication
    slots : ndarray of shape (n_slots,), dtype int64, or None

    Returns
    -------
    vectors : ndarray of shape (n_slots, n_features), dtype float32
    """
    chosen = "true" if slots is None else among_slots(slots)
    packed = session.packed(
        f"SELECT imgembed_slot, CAST({VECTOR} AS Array(Float32)) FROM {named(published.table)} "
        f"WHERE {published.visible} AND {chosen} ORDER BY imgembed_slot"
    )
    there, vectors = read_vectors(packed, published.state.n_features)
    return vectors if slots is None else vectors[np.searchsorted(there, slots)]


def record_words(state: State) -> list[str]:
    """What is selected for the columns of records; bytes as hexadecimal digits."""
    words = {"null": "NULL", "blob": "hex({})"}
    return [words.get(kind, "{}").format(named(name)) for name, kind in state.kinds.items()]


def record_values(state: State, values: Sequence[Any]) -> list[Any]:
    """Values of :func:`record_words` as records have them."""
    kinds = state.kinds.values()
    return [
        bytes.fromhex(value) if kind == "blob" and value is not None else value
        for kind, value in zip(kinds, values, strict=True)
    ]


def tidy(session: ClickHouseSession, published: Publication) -> None:
    """Let the view show the table, and drop the tables that were before it.

    Parameters
    ----------
    session : ClickHouseSession
    published : Publication
    """
    if _is_free_or_ours(session, published.index):
        view = named(published.index)
        # CREATE OR REPLACE would replace a table that someone else has made in the meantime.
        session.run(f"DROP VIEW IF EXISTS {view}")
        session.run(
            f"CREATE VIEW IF NOT EXISTS {view} AS SELECT * FROM {named(published.table)} "
            f"COMMENT '{COMMENT}'"
        )
    prefix = table_name(published.index, 0)[:-1]
    former = (
        f"SELECT stored_in FROM {STATES} WHERE index_name = {quoted(published.index)} "
        f"AND change < {published.tags[-1]}"
    )
    found = session.rows(
        "SELECT name FROM system.tables WHERE database = currentDatabase() "
        f"AND comment = '{COMMENT}' AND startsWith(name, {quoted(prefix)}) "
        f"AND name <> {quoted(published.table)} AND (name IN ({former}) OR "
        f"metadata_modification_time < now() - INTERVAL {_HOURS_OF_A_CHANGE} HOUR)"
    )
    for (name,) in found:
        session.run(f"DROP TABLE IF EXISTS {named(str(name))}")


def refuse_foreign_table(session: ClickHouseSession, index: str) -> None:
    """Raise a ServerTableError if there is a table of that name that is no index.

    Parameters
    ----------
    session : ClickHouseSession
    index : str

    Raises
    ------
    ServerTableError
        If there is one.
    """
    if not _is_free_or_ours(session, index):
        raise ServerTableError(
            f"there is a table {index!r} that is no index of imgembed; choose another name"
        )


def _is_free_or_ours(session: ClickHouseSession, index: str) -> bool:
    """Whether the name of an index is that of its view, or of nothing."""
    found = session.rows(
        "SELECT engine, comment FROM system.tables "
        f"WHERE database = currentDatabase() AND name = {quoted(index)}"
    )
    return not found or tuple(found[0]) == ("View", COMMENT)


def _quantization(state: State) -> str:
    return "bf16" if state.storage == "bfloat16" else "f32"


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise ValueError(
            f"the column name {name!r} begins with '_', as ClickHouse's own columns do; rename it"
        )
    if "." in name:
        raise ValueError(
            f"the column name {name!r} has a '.', which is a part of a column in ClickHouse; "
            "rename it"
        )


def _types(session: ClickHouseSession, table: str) -> dict[str, str]:
    found = session.rows(
        "SELECT name, type FROM system.columns "
        f"WHERE database = currentDatabase() AND table = {quoted(table)}"
    )
    return {str(name): str(kind) for name, kind in found}


def _change_type(
    session: ClickHouseSession, table: str, name: str, before: str, after: str
) -> None:
    column = named(name)
    if (before, after) != (SQL_TYPES["integer"], SQL_TYPES["real"]):
        raise ServerTableError(
            f"the table has a column {name!r} of {before}, which a change that was not finished "
            f"has left or another one is about to make; try again, or ALTER TABLE {named(table)} "
            f"DROP COLUMN {column}"
        )
    beyond = f"{column} > {EXACT_INTEGERS} OR {column} < -{EXACT_INTEGERS}"
    if session.rows(f"SELECT 1 FROM {named(table)} WHERE {beyond} LIMIT 1"):
        raise rounded_integers(name)
    session.run(f"ALTER TABLE {named(table)} MODIFY COLUMN {column} {after}")
