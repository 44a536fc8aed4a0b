"""Searches of a table of ClickHouse: through the graph, or of all rows that a condition keeps."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._state import State
from .._store import Found, Vectors
from ._rows import VECTOR
from ._session import ClickHouseSession
from ._sql import KEY, named, quoted
from ._state import Publication
from ._table import among_slots, graph_distance, record_values, record_words

#: More neighbours than that are compared with all.
MOST_FROM_GRAPH = 1_000

# If more candidates would be needed, all rows are compared with.
_MOST_TAKEN = 20_000
# Of so few rows all are compared with sooner than a graph is asked for many that are not kept.
_FEW_ROWS = 20_000
# How many times the candidates of which a condition keeps enough in the mean are asked for.
_SPARE = 1.5
# Queries that are compared with all in one reading of the table, and that are in the graph at once.
_N_IN_ONE_SCAN, _N_AT_ONCE = 32, 4

Vector = NDArray[np.float32]
# Distance, slot, and what else is wanted of each neighbour.
Answer = Sequence[tuple[Any, ...]]


class Search(NamedTuple):
    """What is searched, and for what.

    Parameters
    ----------
    published : Publication
    k : int
        Neighbours of a query.
    condition : str or None
        What may be found.
    with_records : bool
        Whether keys and records are wanted too.
    spread : int
        How many times as many are taken from the graph, because the condition drops some.
    """

    published: Publication
    k: int
    condition: str | None = None
    with_records: bool = False
    spread: int = 1

    @property
    def kept(self) -> str:
        """The condition on rows that may be found."""
        return self.published.kept(self.condition)


def nearest(
    session: ClickHouseSession, search: Search, queries: Vectors, *, ef: int, excess: int = 1
) -> tuple[Found, int]:
    """Find the nearest vectors of queries.

    Parameters
    ----------
    session : ClickHouseSession
    search : Search
    queries : ndarray of shape (n_queries, n_features), dtype float32
    ef : int
        Candidates that the graph visits; 0 compares with all.
    excess : int, default=1
        How many times as many are taken from the graph, because some in it are deleted.

    Returns
    -------
    found : Found
    excess : int
        How many times as many the next search should take.
    """
    if not ef:
        return _as_arrays(search, _exact(session, search, queries)), excess
    wanted = min(search.k, search.published.state.n_items)
    answers = _from_graph(session, search, queries, ef, excess)
    poor = _poor(answers, wanted)
    while poor and 2 * excess * search.k * search.spread <= _MOST_TAKEN:
        excess *= 2
        _replace(answers, poor, _from_graph(session, search, queries[poor], ef, excess))
        poor = _poor(answers, wanted)
    if poor:
        _replace(answers, poor, _exact(session, search, queries[poor]))
    return _as_arrays(search, answers), excess


def spread_of(session: ClickHouseSession, search: Search) -> int:
    """How many times as many must be taken from the graph, so that a condition keeps enough.

    Parameters
    ----------
    session : ClickHouseSession
    search : Search

    Returns
    -------
    spread : int
        0 if comparing with all that it keeps is better.
    """
    n_items = search.published.state.n_items
    if n_items <= _FEW_ROWS:
        return 0
    query = f"SELECT count() FROM {named(search.published.table)} WHERE {search.kept}"
    n_kept = int(session.rows(query)[0][0])
    return 0 if n_kept <= _FEW_ROWS else ceil(_SPARE * n_items / n_kept)


def _poor(answers: Sequence[Answer], wanted: int) -> list[int]:
    return [row for row, answer in enumerate(answers) if len(answer) < wanted]


def _replace(answers: list[Answer], rows: Sequence[int], better: Sequence[Answer]) -> None:
    for row, answer in zip(rows, better, strict=True):
        answers[row] = answer


def _from_graph(
    session: ClickHouseSession, search: Search, queries: Vectors, ef: int, excess: int
) -> list[Answer]:
    """What the graph gives and belongs to the index, nearest first.

    Deleted rows stay in a graph. ClickHouse would leave them out, and then others from other
    parts, which are farther away, would be in their place: so they are asked for, and taken out
    here.
    """
    statement = _graph_statement(search, ef, search.k * search.spread * excess)
    # In one statement all but the first query would read the vectors themselves.
    with ThreadPoolExecutor(min(_N_AT_ONCE, len(queries))) as threads:
        taken = list(threads.map(session.rows, [statement.format(_digits(q)) for q in queries]))
    living = _rows_at(session, search, [slot for rows in taken for _, slot, _ in rows])
    return [
        [
            (distance, slot, *living[slot][1:])
            for distance, slot, change in sorted(map(tuple, rows))
            if slot in living and living[slot][0] == change
        ][: search.k]
        for rows in taken
    ]


def _graph_statement(search: Search, ef: int, n_taken: int) -> str:
    state = search.published.state
    compared = f"{graph_distance(state)}({VECTOR}, {{0}})"
    is_rounded = state.storage == "bfloat16"
    n_taken *= 2 if is_rounded else 1  # so that those that rounding has put off are among them
    # The distance of zeros is no number.
    distance = f"ifNotFinite({compared}, 1)" if is_rounded else compared
    table = named(search.published.table).replace("{", "{{").replace("}", "}}")
    return (
        f"SELECT {distance} AS distance, imgembed_slot, imgembed_change FROM {table} "
        f"ORDER BY {compared} LIMIT {n_taken} "
        f"SETTINGS hnsw_candidate_list_size_for_search = {max(ef, n_taken)}, "
        f"max_limit_for_vector_search_queries = {n_taken}, "
        f"vector_search_with_rescoring = {int(is_rounded)}, "
        "apply_deleted_mask = 0, apply_patch_parts = 0"
    )


def _exact(session: ClickHouseSession, search: Search, queries: Vectors) -> list[Answer]:
    """The nearest of all rows that the condition keeps."""
    answers: list[Answer] = []
    for start in range(0, len(queries), _N_IN_ONE_SCAN):
        statement = _exact_statement(search, queries[start : start + _N_IN_ONE_SCAN])
        answers += session.rows(statement)[0]
    if not search.with_records:
        return answers
    living = _rows_at(session, search, [slot for answer in answers for _, slot in answer])
    return [[(*found, *living[found[1]][1:]) for found in answer] for answer in answers]


def _exact_statement(search: Search, queries: Vectors) -> str:
    published = search.published
    nearest_of_each = ", ".join(
        f"groupArraySorted({search.k})(({_distance(published.state, query)}, imgembed_slot))"
        for query in queries
    )
    return f"SELECT {nearest_of_each} FROM {named(published.table)} WHERE {search.kept}"


def _distance(state: State, query: Vector) -> str:
    if state.metric == "euclidean":
        return f"sqrt(L2SquaredDistance({VECTOR}, {_digits(query)}))"
    return f"1 - dotProduct({VECTOR}, {_digits(query)})"


def _digits(query: Vector) -> str:
    return f"reinterpret({quoted(query.astype('<f4').tobytes())}, 'Array(Float32)')"


def _rows_at(
    session: ClickHouseSession, search: Search, slots: Sequence[int]
) -> dict[int, Sequence[Any]]:
    """Of each slot that an item has the change of its row, and what else is wanted."""
    words = ["imgembed_slot", "imgembed_change"]
    if search.with_records:
        words += [KEY, "hex(imgembed_original)", *record_words(search.published.state)]
    chosen = among_slots(np.unique(np.array(slots, np.int64)))
    found = session.rows(
        f"SELECT {', '.join(words)} FROM {named(search.published.table)} "
        f"WHERE {search.kept} AND {chosen}"
    )
    return {slot: others for slot, *others in found}


def _as_arrays(search: Search, answers: Sequence[Answer]) -> Found:
    distances = np.full((len(answers), search.k), np.inf)
    slots = np.full((len(answers), search.k), -1, np.int64)
    for row, answer in enumerate(answers):
        distances[row, : len(answer)] = [one[0] for one in answer]
        slots[row, : len(answer)] = [one[1] for one in answer]
    state = search.published.state
    if state.metric == "cosine":
        found = slots >= 0
        distances[found] = distances[found].clip(0.0, 2.0)
    others = [
        [(*_named_by(one), *record_values(state, one[4:])) for one in answer]
        if search.with_records
        else []
        for answer in answers
    ]
    return Found(distances, slots, others)


def _named_by(row: Sequence[Any]) -> tuple[str, bytes | None]:
    return row[2], None if row[3] is None else bytes.fromhex(row[3])
