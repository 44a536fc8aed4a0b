"""Changes of a table of PostgreSQL: made whole, within a transaction of the caller."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from .._columns import EXACT_INTEGERS, KEPT_AS, Batch, fitted_columns, rounded_integers
from .._state import State
from .._store import Vectors
from ._search import (
    ORIGINAL,
    SLOT,
    VECTOR,
    graph_column,
    operator_class,
)
from ._session import Connection
from ._sql import KEY, SQL_TYPES, named

_KEY = sql.Identifier(KEY)
_COPY_TYPES = {
    "boolean": "bool",
    "integer": "int8",
    "real": "float8",
    "text": "text",
    "blob": "bytea",
}
# A page of 8 kB must hold a row: wider vectors are kept apart from it.
_WIDEST_IN_ROW = 4_000
# The server's own settings limit it further.
_MOST_WORKERS = 32
# A graph that does not fit is built far slower.
_LEAST_BUILD_MEMORY, _MOST_BUILD_MEMORY = 2**26, 2**30
# Vectors that are put into the server's bytes at once.
_N_WRITTEN = 256
# PostgreSQL cuts longer names off without an error, and has columns of its own.
_LONGEST_NAME_BYTES = 63
_OWN_COLUMNS = frozenset("tableoid xmin cmin xmax cmax ctid".split())


def create_table(connection: Connection, table: str, state: State) -> None:
    """Make an empty table for an index.

    Parameters
    ----------
    connection : Connection
    table : str
    state : State
    """
    name, kind = sql.Identifier(table), "halfvec" if state.storage == "float16" else "vector"
    query = (
        'CREATE TABLE {} ({} bigint NOT NULL, {} text COLLATE "C" NOT NULL, {} bytea, '
        "{} " + kind + "({}) NOT NULL)"
    )
    width = sql.Literal(state.n_features)
    created = sql.SQL(query).format(name, SLOT, _KEY, ORIGINAL, VECTOR, width)
    if state.partitions:
        created += sql.SQL(" PARTITION BY HASH ({})").format(_KEY)
    connection.execute(created)
    if _is_in_row(state):
        plain = sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET STORAGE PLAIN")
        connection.execute(plain.format(name, VECTOR))
    if not state.partitions:
        _allow_workers(connection, name, state)
    for number in range(state.partitions):
        _create_partition(connection, table, state, number)


def _is_in_row(state: State) -> bool:
    n_bytes = state.n_features * (2 if state.storage == "float16" else 4)
    return n_bytes <= _WIDEST_IN_ROW


def _allow_workers(connection: Connection, table: sql.Identifier, state: State) -> None:
    """Let as many processes build the graph as the server allows.

    It goes by the size of the rows, without the vectors that are kept apart from them.
    """
    if not _is_in_row(state):
        query = sql.SQL("ALTER TABLE {} SET (parallel_workers = {})")
        connection.execute(query.format(table, sql.Literal(_MOST_WORKERS)))


def create_keys(connection: Connection, table: str) -> None:
    """Make ids unique, and slots quick to find: after the bulk of the rows, which is faster.

    Parameters
    ----------
    connection : Connection
    table : str
    """
    name = sql.Identifier(table)
    connection.execute(sql.SQL("ALTER TABLE {} ADD UNIQUE ({})").format(name, _KEY))
    connection.execute(sql.SQL("CREATE INDEX ON {} ({})").format(name, SLOT))


def _create_partition(connection: Connection, table: str, state: State, number: int) -> None:
    query = "CREATE TABLE {} PARTITION OF {} FOR VALUES WITH (MODULUS {}, REMAINDER {})"
    # Its name stays when the table is renamed, and must not be that of an older one.
    found = connection.execute("SELECT gen_random_uuid()::text").fetchone()
    assert found is not None
    part = sql.Identifier(f"{table[:40]}_{found[0][:8]}_{number}")
    numbers = (sql.Literal(state.partitions), sql.Literal(number))
    connection.execute(sql.SQL(query).format(part, sql.Identifier(table), *numbers))
    _allow_workers(connection, part, state)


def create_graph(connection: Connection, table: str, state: State) -> None:
    """Build the HNSW index of a table.

    Parameters
    ----------
    connection : Connection
    table : str
    state : State
    """
    width = 2 if operator_class(state).as_string().startswith("half") else 4
    a_node = width * state.n_features + 40 * state.M + 400
    memory = min(_MOST_BUILD_MEMORY, max(_LEAST_BUILD_MEMORY, ceil(1.5 * a_node * state.n_items)))
    connection.execute(
        "SELECT set_config('maintenance_work_mem', %s, true)", (f"{memory // 1024}kB",)
    )
    query = "CREATE INDEX ON {} USING hnsw ({} {}) WITH (m = {}, ef_construction = {})"
    numbers = (sql.Literal(state.M), sql.Literal(state.ef_construction))
    connection.execute(
        sql.SQL(query).format(
            sql.Identifier(table), graph_column(state), operator_class(state), *numbers
        )
    )


def replace_table(connection: Connection, old: str, new: str) -> None:
    """Put a table in the place of another one, which may not be there.

    Parameters
    ----------
    connection : Connection
    old, new : str
    """
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(old)))
    renamed = sql.SQL("ALTER TABLE {} RENAME TO {}")
    connection.execute(renamed.format(sql.Identifier(new), sql.Identifier(old)))


def prepared(
    connection: Connection, table: str, state: State, columns: Mapping[str, Sequence[Any]]
) -> tuple[State, dict[str, list[Any]]]:
    """Give a table the columns that records need.

    Parameters
    ----------
    connection : Connection
    table : str
    state : State
    columns : mapping of str to sequence
        Values as they were given.

    Returns
    -------
    state : State
        It knows the columns.
    encoded : dict of str to list
        Values as PostgreSQL takes them.

    Raises
    ------
    TypeError, ValueError
        If a name or a value cannot be kept.
    """
    before = state.kinds
    kinds, encoded = fitted_columns(before, columns, _check_name)
    for name, kind in kinds.items():
        if name not in before:
            query = sql.SQL("ALTER TABLE {} ADD COLUMN {} {}")
            words = (sql.Identifier(table), sql.Identifier(name), SQL_TYPES[KEPT_AS[kind]])
            connection.execute(query.format(*words))
        elif KEPT_AS[kind] != KEPT_AS[before[name]]:
            _change_type(connection, table, name, before[name], kind)
    return replace(state, columns=kinds), encoded


def _check_name(name: str) -> None:
    if len(name.encode()) > _LONGEST_NAME_BYTES:
        raise ValueError(
            f"the column name {name!r} has more than {_LONGEST_NAME_BYTES} bytes, which is the "
            "most in PostgreSQL; rename it"
        )
    if name in _OWN_COLUMNS:
        raise ValueError(f"every table of PostgreSQL has its own column {name!r}; rename yours")


def _change_type(connection: Connection, table: str, name: str, before: str, after: str) -> None:
    names = (sql.Identifier(table), sql.Identifier(name))
    if before == "integer":
        query = sql.SQL("SELECT 1 FROM {} WHERE abs({}::numeric) > {} LIMIT 1")
        if connection.execute(query.format(*names, sql.Literal(EXACT_INTEGERS))).fetchone():
            raise rounded_integers(name)
        using = sql.SQL("{}::double precision").format(names[1])
    else:  # it held nothing until now
        using = sql.SQL("NULL::{}").format(SQL_TYPES[KEPT_AS[after]])
    query = sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {} USING ({})")
    connection.execute(query.format(*names, SQL_TYPES[KEPT_AS[after]], using))


def insert(connection: Connection, table: str, state: State, batch: Batch) -> State:
    """Add items in the next slots, by binary COPY.

    Parameters
    ----------
    connection : Connection
    table : str
    state : State
        It knows the columns.
    batch : Batch

    Returns
    -------
    state : State
        Of the table with the items.
    """
    names: list[sql.Composable] = [SLOT, _KEY, ORIGINAL, VECTOR]
    names += [sql.Identifier(name) for name in batch.columns]
    # In the transaction that has made the table, rows are written as rows that all others see,
    # which nobody has to mark as such later. Partitions cannot be.
    freeze = ", FREEZE" if state.n_changes == 0 and not state.partitions else ""
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY" + freeze + ")")
    copied = query.format(sql.Identifier(table), sql.SQL(", ").join(names))
    types = [_COPY_TYPES[KEPT_AS[state.kinds[name]]] for name in batch.columns]
    with connection.cursor() as cursor, cursor.copy(copied) as copy:
        # Vectors are sent as they are written: COPY tells no types, only how long a value is.
        copy.set_types(["int8", "text", "bytea", "bytea", *types])
        slots = range(state.n_slots, state.n_slots + len(batch))
        vectors = _written_vectors(batch.vectors, state.storage)
        for row in zip(
            slots, batch.keys, batch.originals, vectors, *batch.columns.values(), strict=True
        ):
            copy.write_row(row)
    return state.with_more(batch.keys, len(batch))


def _written_vectors(vectors: Vectors, storage: str) -> Iterator[bytes]:
    """Vectors as pgvector reads them, each with its number of features and two empty bytes."""
    header = np.array([vectors.shape[1], 0], ">u2").view(np.uint8)
    kept_as = ">f2" if storage == "float16" else ">f4"
    for start in range(0, len(vectors), _N_WRITTEN):
        with np.errstate(over="ignore"):  # the server refuses what is infinite then
            numbers = vectors[start : start + _N_WRITTEN].astype(kept_as).view(np.uint8)
        headers = np.broadcast_to(header, (len(numbers), len(header)))
        yield from map(np.ndarray.tobytes, np.hstack([headers, numbers]))


def slots_of_keys(connection: Connection, table: str, keys: Sequence[str]) -> dict[str, int]:
    """The slots of those keys that are there.

    Parameters
    ----------
    connection : Connection
    table : str
    keys : sequence of str

    Returns
    -------
    slots : dict of str to int
    """
    query = sql.SQL("SELECT {0}, {1} FROM {2} WHERE {0} = ANY(%s)")
    words = query.format(_KEY, SLOT, sql.Identifier(table))
    return dict(connection.execute(words, (list(keys),)).fetchall())


def upsert(connection: Connection, table: str, state: State, batch: Batch) -> State:
    """Replace the items whose keys are there, and add the others.

    Parameters
    ----------
    connection : Connection
    table : str
    state : State
        It knows the columns.
    batch : Batch
        Columns that it lacks stay.

    Returns
    -------
    state : State
        Of the table with the items.
    """
    known = slots_of_keys(connection, table, batch.keys)
    is_new = [key not in known for key in batch.keys]
    next_slots = iter(range(state.n_slots, state.n_slots + sum(is_new)))
    slots = [known[key] if key in known else next(next_slots) for key in batch.keys]
    names: list[sql.Composable] = [SLOT, _KEY, ORIGINAL, VECTOR]
    names += [named(name) for name in batch.columns]
    kept = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(name) for name in names[3:])
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {}").format(
        sql.Identifier(table),
        sql.SQL(", ").join(names),
        sql.SQL(", ").join([sql.Placeholder()] * len(names)),
        _KEY,
        kept,
    )
    rows = zip(slots, batch.keys, batch.originals, batch.vectors, *batch.columns.values(),
               strict=True)  # fmt: skip
    with connection.cursor() as cursor:
        cursor.executemany(query, rows)
    return state.with_more(batch.keys, sum(is_new))


def update(
    connection: Connection, table: str, batch_keys: Sequence[str], columns: Mapping[str, list[Any]]
) -> None:
    """Change columns of items.

    Parameters
    ----------
    connection : Connection
    table : str
    batch_keys : sequence of n_items str
    columns : mapping of str to list
        Values as PostgreSQL takes them.
    """
    if not columns or not batch_keys:
        return
    settings = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(named(name), sql.Placeholder()) for name in columns
    )
    query = sql.SQL("UPDATE {} SET {} WHERE {} = %s")
    words = query.format(sql.Identifier(table), settings, _KEY)
    with connection.cursor() as cursor:
        cursor.executemany(words, zip(*columns.values(), batch_keys, strict=True))


def remove(connection: Connection, table: str, state: State, keys: Sequence[str]) -> State:
    """Remove items that are there.

    Parameters
    ----------
    connection : Connection
    table : str
    state : State
    keys : sequence of str

    Returns
    -------
    state : State
        Of the table without them.
    """
    query = sql.SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(sql.Identifier(table), _KEY)
    removed = connection.execute(query, (list(keys),)).rowcount
    return replace(state, n_items=state.n_items - removed)


def living_slots(connection: Connection, table: str) -> NDArray[np.int64]:
    """The slots of all items, ascending.

    Parameters
    ----------
    connection : Connection
    table : str

    Returns
    -------
    slots : ndarray of shape (n_items,), dtype int64
    """
    query = sql.SQL("SELECT {0} FROM {1} ORDER BY {0}").format(SLOT, sql.Identifier(table))
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(query).fetchall()
    return np.array([row[0] for row in rows], np.int64)
