"""Searches of a collection of Milvus: by the server, or here over what it holds."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...index._exact import exact_neighbors
from ...index._found import fitted, merged
from ...index._vector_store import VectorStore
from .._rows import Slots
from .._state import State
from .._store import Found, Vectors
from ._collection import MilvusCollection, metric_type, record_fields, values_of
from ._conditions import KEY, SLOT, VECTOR
from ._session import when_loaded

#: Milvus finds no more for a query, and visits no more candidates.
LARGEST_K = 16_384
LARGEST_EF = 32_768

# One message of gRPC, with the queries or with what was found.
_MESSAGE_BYTES = 8_000_000
_MOST_FOUND = 50_000


class Search(NamedTuple):
    """What is searched, and for what.

    Parameters
    ----------
    collection : MilvusCollection
    state : State
    k : int
        Neighbours of a query.
    text : str, default=""
        A filter.
    with_records : bool, default=False
        Whether keys and records are wanted too.
    """

    collection: MilvusCollection
    state: State
    k: int
    text: str = ""
    with_records: bool = False


def found_by_server(search: Search, queries: Vectors, ef: int) -> Found:
    """Find the nearest vectors of queries on the server.

    Parameters
    ----------
    search : Search
        Its k is at most ``LARGEST_K``.
    queries : ndarray of shape (n_queries, n_features), dtype float32
    ef : int
        Candidates that the graph visits; 0 if there is none.

    Returns
    -------
    found : Found
    """
    step = max(1, min(_MOST_FOUND // search.k, _MESSAGE_BYTES // (4 * queries.shape[1])))
    parts = [
        _as_arrays(search, _answers(search, queries[start : start + step], ef))
        for start in range(0, len(queries), step)
    ]
    return _stacked(parts)


def found_here(search: Search, queries: Vectors) -> Found:
    """Compare queries with all vectors that the filter keeps, which are read from the server.

    Parameters
    ----------
    search : Search
    queries : ndarray of shape (n_queries, n_features), dtype float32

    Returns
    -------
    found : Found
    """
    state = search.state
    blocks = search.collection.vector_blocks(state, search.text)
    distances, slots = nearest_among(blocks, queries, search.k, state.metric)
    if not search.with_records:
        return Found(distances, slots, [[] for _ in queries])
    wanted = np.unique(slots[slots >= 0]).tolist()
    entities = search.collection.of_values(SLOT, wanted, [SLOT, KEY, *record_fields(state)])
    others = {one[SLOT]: values_of(state, one) for one in entities}
    rows = [[others[slot] for slot in row if slot >= 0] for row in slots.tolist()]
    return Found(distances, slots, rows)


def nearest_among(
    blocks: Iterable[tuple[Slots, Vectors]], queries: Vectors, k: int, metric: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The nearest of vectors that come block by block, by exact search.

    Parameters
    ----------
    blocks : iterable of (slots, vectors)
    queries : ndarray of shape (n_queries, n_features), dtype float32
    k : int
    metric : {"cosine", "euclidean", "ip"}

    Returns
    -------
    distances : ndarray of shape (n_queries, k), dtype float64
        inf where there are fewer.
    slots : ndarray of shape (n_queries, k), dtype int64
        -1 where there are fewer.
    """
    best = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1, np.int64)
    for slots, vectors in blocks:
        store = VectorStore(vectors.shape[1], "float32", metric == "cosine")
        store.append(*store.encode(vectors))
        distances, rows = exact_neighbors(store, queries, k, metric)
        best = merged(best, fitted(distances, slots[rows], k), k)
    return best


def _answers(search: Search, queries: Vectors, ef: int) -> list[list[dict[str, Any]]]:
    collection, state = search.collection, search.state
    fields = [SLOT, *([KEY, *record_fields(state)] if search.with_records else [])]

    def ask() -> list[list[dict[str, Any]]]:
        answers: list[list[dict[str, Any]]] = collection.client.search(
            collection.name,
            data=list(queries),
            anns_field=VECTOR,
            filter=search.text,
            limit=search.k,
            output_fields=fields,
            search_params={
                "metric_type": metric_type(state),
                "params": {"ef": max(ef, search.k)} if ef else {},
            },
            consistency_level="Strong",
            timeout=collection.timeout,
        )
        return answers

    return when_loaded(collection.client, collection.name, collection.timeout, ask)


def _as_arrays(search: Search, answers: Sequence[Sequence[dict[str, Any]]]) -> Found:
    distances = np.full((len(answers), search.k), np.inf)
    slots = np.full((len(answers), search.k), -1, np.int64)
    others: list[list[tuple[Any, ...]]] = []
    for row, answer in enumerate(answers):
        scores = _distances(search.state, np.array([hit["distance"] for hit in answer]))
        found = np.array([hit["entity"][SLOT] for hit in answer], np.int64)
        order = np.lexsort((found, scores))
        distances[row, : len(answer)] = scores[order]
        slots[row, : len(answer)] = found[order]
        wanted = [answer[place]["entity"] for place in order] if search.with_records else []
        others.append([values_of(search.state, entity) for entity in wanted])
    return Found(distances, slots, others)


def _distances(state: State, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances as the embedded index has them, from what Milvus calls so."""
    if state.metric == "euclidean":
        return np.sqrt(np.maximum(scores, 0.0))
    return (1 - scores).clip(0.0, 2.0) if state.metric == "cosine" else 1 - scores


def _stacked(parts: Sequence[Found]) -> Found:
    return Found(
        np.concatenate([part.distances for part in parts]),
        np.concatenate([part.slots for part in parts]),
        [answer for part in parts for answer in part.others],
    )
