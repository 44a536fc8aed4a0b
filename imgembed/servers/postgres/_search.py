"""Searches of a table of PostgreSQL: statements, pipelined, through the graph or exact."""

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from .._state import State
from .._store import Found, Vectors
from ._session import Connection, GraphSettings, set_for_graph
from ._sql import KEY, PostgresCondition, named
from ._state import STATES

SLOT = sql.Identifier("imgembed_slot")
VECTOR = sql.Identifier("imgembed_vector")
ORIGINAL = sql.Identifier("imgembed_original")
ALL = PostgresCondition(sql.SQL("true"), {})

#: The widest vectors that pgvector's HNSW takes as they are, and in half precision.
WIDEST, WIDEST_HALF = 2_000, 4_000
LARGEST_EF = 1_000

Answers = list[list[tuple[Any, ...]]]

#: Queries whose answers are on the way at once: more would wait in memory.
MOST_SENT = 256

# Of the columns at the end of a row, see _stamped.
_N_STAMPS = 4
# Rows that are read one by one while the graph visits a candidate: measured with 512 features.
_ROWS_A_CANDIDATE = 90
# How many more candidates are needed the less a filter keeps, and how many times as many at most:
# where it keeps less still, more are needed to find enough at all, and these are deeper. By
# benchmarks/postgres.py, where these reach the recall of a search without a filter.
_EXPONENT, _MOST_TIMES = -0.45, 2.2
# Where the graph is not searched on, as many times the wanted ones should be among the candidates.
_EXPECTED = 2.0
# Rows that may be read for a query around which a filter keeps less than elsewhere.
_MOST_READ = 1_000_000


class Search(NamedTuple):
    """What is searched, and for what.

    Parameters
    ----------
    table : sql.Identifier
    state : State
    k : int
        Neighbours of a query.
    condition : PostgresCondition
        What may be found.
    with_records : bool
        Whether keys and records are wanted too.
    name : str
        Its name in the table of states.
    """

    table: sql.Identifier
    state: State
    k: int
    condition: PostgresCondition = ALL
    with_records: bool = False
    name: str = ""


def nearest(
    connection: Connection, search: Search, queries: Vectors, settings: GraphSettings | None
) -> Found:
    """Find the nearest vectors of queries, in a transaction.

    Parameters
    ----------
    connection : Connection
    search : Search
    queries : ndarray of shape (n_queries, n_features), dtype float32
    settings : GraphSettings or None
        None compares with all.

    Returns
    -------
    found : Found
    """

    def compared_with_all(some: Vectors) -> Answers:
        text = _exact_statement(search).as_bytes(connection)
        return _answers(connection, text, search, some, is_prepared=False)

    if settings is None:
        return _as_arrays(search, compared_with_all(queries))
    set_for_graph(connection, settings, local=True)
    # What is prepared in a transaction, a pooler may give to another client after it.
    text = _graph_statement(search).as_bytes(connection)
    answers = _answers(connection, text, search, queries, is_prepared=False)
    return _as_arrays(search, _completed(search, queries, answers, compared_with_all))


class Statement:
    """What is asked for each query outside of a transaction: its rows tell what answered it.

    Where connections are shared with others, that may be another state of the index, under other
    settings, or another statement that is prepared under the same name.

    Parameters
    ----------
    search : Search
        With its ``name``.
    settings : GraphSettings or None
        Those that the connection should have; None compares with all.
    """

    def __init__(self, search: Search, settings: GraphSettings | None) -> None:
        self.search, self.settings = search, settings
        self._was_asked = False
        self._text: bytes | None = None
        asked = _exact_statement if settings is None else _graph_statement
        self._unstamped = asked(search)
        # Of one mark are a single kind of result, and a single plan: what a filter keeps decides
        # it, so that a plan that is kept is of these values alone.
        decisive = self._unstamped.as_string(), search.state.kinds, search.condition.values
        self._mark = hashlib.sha256(repr(decisive).encode()).hexdigest()[:16]

    @cached_property
    def exact(self) -> "Statement":
        """The same, compared with all."""
        return Statement(self.search, None)

    def answers(self, connection: Connection, queries: Vectors) -> Answers:
        """Rows of each query, without what they tell of where they come from.

        Raises
        ------
        OtherStateError
            If that is not what it should be.
        """
        search = self.search
        if self._text is None:  # to put it together takes long
            self._text = _stamped(self._unstamped, self._mark).as_bytes(connection)
        is_prepared = self._was_asked or search.condition is ALL or len(queries) > 1
        self._was_asked = True
        answers = _answers(connection, self._text, search, queries, is_prepared=is_prepared)
        for answer in filter(None, answers):
            self._check(*answer[0][-_N_STAMPS:])
        return [[row[:-_N_STAMPS] for row in answer] for answer in answers]

    def _check(self, n_changes: str, ef: str, order: str, mark: str) -> None:
        if n_changes != str(self.search.state.n_changes) or mark != self._mark:
            raise OtherStateError
        if self.settings is not None and (ef, order) != self.settings:
            raise OtherStateError


class OtherStateError(Exception):
    """Not the state, the settings or the statement that was meant has answered."""


def nearest_at_once(connection: Connection, statement: Statement, queries: Vectors) -> Found:
    """Find the nearest vectors, by one statement a query: what it sees is of one moment.

    Parameters
    ----------
    connection : Connection
    statement : Statement
    queries : ndarray of shape (n_queries, n_features), dtype float32

    Returns
    -------
    found : Found

    Raises
    ------
    OtherStateError
        If something else has answered, or nothing was found that could tell.
    """
    search = statement.search
    answers = statement.answers(connection, queries)
    if statement.settings is not None:
        answers = _completed(
            search, queries, answers, lambda some: statement.exact.answers(connection, some)
        )
    if not all(answers):
        raise OtherStateError
    return _as_arrays(search, answers)


def share_kept(connection: Connection, search: Search) -> float:
    """The share of the items that a condition keeps, as the server's planner estimates it.

    Parameters
    ----------
    connection : Connection
    search : Search

    Returns
    -------
    share : float
    """
    query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT 1 FROM {} WHERE {}")
    query_of_all = query.format(search.table, search.condition.sql)
    found = connection.execute(query_of_all, dict(search.condition.values)).fetchone()
    assert found is not None
    share: float = found[0][0]["Plan"]["Plan Rows"] / max(search.state.n_items, 1)
    return min(max(share, 1 / max(search.state.n_items, 1)), 1.0)


def settings_for(search: Search, share: float) -> GraphSettings | None:
    """How the graph is searched, or None if it is faster to read all rows.

    Parameters
    ----------
    search : Search
        Of an index with a graph.
    share : float
        What the filter keeps, more than 0.

    Returns
    -------
    settings : GraphSettings or None
    """
    recall = search.state.recall
    ef = recall.ef * max(1.0, search.k / recall.n_neighbors)
    if search.condition is ALL:
        return graph_settings(search.state, max(ef, search.k))
    return _filtered_settings(search, ef, share)


def _filtered_settings(search: Search, ef: float, share: float) -> GraphSettings | None:
    """How the graph is searched with a filter, by ``ef`` candidates without.

    A filter may keep fewer around a query than elsewhere: what is near, and what is kept, are of
    one kind. To search the graph on until enough are found is slow then, and finds them in poor
    order. So it is not, where that is not needed elsewhere: who finds too few reads all rows.
    """
    n_items = search.state.n_items
    ef *= min(share**_EXPONENT, _MOST_TIMES)
    at_once = max(ef, _EXPECTED * search.k / share)
    if at_once <= LARGEST_EF and n_items <= _MOST_READ:
        settings, n_candidates = GraphSettings(str(round(at_once)), "off"), at_once
    else:
        settings = graph_settings(search.state, max(ef, search.k))
        n_candidates = max(ef, search.k / share)
    return settings if n_candidates * _ROWS_A_CANDIDATE < n_items else None


def vectors_at(
    connection: Connection,
    table: sql.Identifier,
    state: State,
    slots: NDArray[np.int64] | None,
) -> Vectors:
    """The vectors of slots, or of all in order.

    Parameters
    ----------
    connection : Connection
    table : sql.Identifier
    state : State
    slots : ndarray of shape (n_slots,), dtype int64, or None

    Returns
    -------
    vectors : ndarray of shape (n_slots, n_features), dtype float32
    """
    query = sql.SQL("SELECT {}, {} FROM {}").format(SLOT, VECTOR, table)
    values: tuple[Any, ...] = ()
    if slots is not None:
        query += sql.SQL(" WHERE {} = ANY(%s)").format(SLOT)
        values = (slots.tolist(),)
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(query, values).fetchall()
    order = np.array([slot for slot, _ in rows], np.int64).argsort(kind="stable")
    vectors = np.empty((len(rows), state.n_features), np.float32)
    for row, (_, vector) in enumerate(rows):
        vectors[row] = vector if isinstance(vector, np.ndarray) else vector.to_numpy()
    ascending = vectors[order]
    if slots is None:
        return ascending
    chosen, places = np.unique(slots, return_inverse=True)
    assert len(chosen) == len(ascending)
    return ascending[places]


def operator_class(state: State) -> sql.SQL:
    """How HNSW compares vectors of an index."""
    is_half = state.storage == "float16" or state.n_features > WIDEST
    kind = "halfvec" if is_half else "vector"
    return sql.SQL(f"{kind}_{'l2' if state.metric == 'euclidean' else 'ip'}_ops")


def graph_column(state: State) -> sql.Composable:
    """What HNSW holds: the vectors, or those in half precision where they are too wide."""
    if state.storage == "float32" and state.n_features > WIDEST:
        half = sql.SQL("({}::halfvec({}))")
        return half.format(VECTOR, sql.Literal(state.n_features))
    return VECTOR


def graph_settings(state: State, ef: float) -> GraphSettings:
    """Settings of pgvector for a search by so many candidates, and by more if they do not suffice.

    Parameters
    ----------
    state : State
    ef : float

    Returns
    -------
    settings : GraphSettings
    """
    # What is merged from partitions must be in order.
    order = "strict_order" if state.partitions else "relaxed_order"
    return GraphSettings(str(min(round(ef), LARGEST_EF)), order)


def _completed(
    search: Search, queries: Vectors, answers: Answers, compared_with_all: Callable[..., Answers]
) -> Answers:
    """Answers of the graph, and of all rows where it found too few.

    The filter keeps few around the query, or equal vectors hide others.
    """
    wanted = min(search.k, search.state.n_items)
    poor = [row for row, answer in enumerate(answers) if len(answer) < wanted]
    if poor:
        for row, answer in zip(poor, compared_with_all(queries[poor]), strict=True):
            answers[row] = answer
    return answers


def _answers(
    connection: Connection, text: bytes, search: Search, queries: Vectors, *, is_prepared: bool
) -> Answers:
    """Rows of each query: slot, distance, and what else the statement gives."""
    answers: Answers = []
    values = {**search.condition.values, "name": search.name}
    for start in range(0, len(queries), MOST_SENT):
        some = queries[start : start + MOST_SENT]
        with connection.pipeline() if len(some) > 1 else nullcontext():
            cursors = [connection.cursor(binary=True) for _ in some]
            for cursor, query in zip(cursors, some, strict=True):
                cursor.execute(text, values | {"query": query}, prepare=is_prepared)
            answers += [cursor.fetchall() for cursor in cursors]
    return answers


def _graph_statement(search: Search) -> sql.Composed:
    """The first k of the graph, then in order of their exact distances."""
    inner = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT {}").format(
        _wanted(search),
        search.table,
        search.condition.sql,
        _compared(search.state, graph_column(search.state)),
        sql.Literal(search.k),
    )
    ordered = sql.SQL("SELECT * FROM ({}) AS near ORDER BY imgembed_distance, {}")
    return ordered.format(inner, SLOT)


def _exact_statement(search: Search) -> sql.Composed:
    # The distance with its addend is no expression of which there is an index.
    return sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY 2, 1 LIMIT {}").format(
        _wanted(search), search.table, search.condition.sql, sql.Literal(search.k)
    )


def _stamped(statement: sql.Composed, mark: str) -> sql.Composed:
    """A statement whose rows end with the state of the index, settings of the graph, and a mark."""
    query = (
        "SELECT near.*, (SELECT state->>'n_changes' FROM {} WHERE index_name = %(name)s), "
        "current_setting('hnsw.ef_search'), current_setting('hnsw.iterative_scan'), {} "
        "FROM ({}) AS near ORDER BY imgembed_distance, {}"
    )
    return sql.SQL(query).format(STATES, sql.Literal(mark), statement, SLOT)


def _wanted(search: Search) -> sql.Composed:
    addend = 0 if search.state.metric == "euclidean" else 1
    distance = sql.SQL("{} + {} AS imgembed_distance").format(
        sql.Literal(addend), _compared(search.state, VECTOR)
    )
    columns: list[sql.Composable] = [SLOT, distance]
    if search.with_records:
        columns += [sql.Identifier(KEY), ORIGINAL, *map(named, search.state.kinds)]
    return sql.SQL(", ").join(columns)


def _compared(state: State, column: sql.Composable) -> sql.Composed:
    is_half = state.storage == "float16" or column is not VECTOR
    operator = "<->" if state.metric == "euclidean" else "<#>"
    query = sql.SQL("{}::halfvec({})") if is_half else sql.SQL("{}::vector({})")
    value = query.format(sql.Placeholder("query"), sql.Literal(state.n_features))
    return sql.SQL("({} " + operator + " {})").format(column, value)


def _as_arrays(search: Search, answers: Answers) -> Found:
    distances = np.full((len(answers), search.k), np.inf)
    slots = np.full((len(answers), search.k), -1, np.int64)
    for row, answer in enumerate(answers):
        if answer:
            slots[row, : len(answer)] = [one[0] for one in answer]
            distances[row, : len(answer)] = [one[1] for one in answer]
    if search.state.metric == "cosine":
        found = slots >= 0
        distances[found] = distances[found].clip(0.0, 2.0)
    return Found(distances, slots, [[one[2:] for one in answer] for answer in answers])
