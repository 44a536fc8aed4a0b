"""From vectors to hits: the nearest in the index, without the queries themselves, verified."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..index import NearestNeighborIndex
from ..rerank import GeometricReranker, QueryExpansion

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


class Chosen(NamedTuple):
    """What may be found.

    Parameters
    ----------
    where : str, array of bool, sequence of ids, or None
    params : sequence, mapping or None
    """

    where: Any
    params: Sequence[Any] | Mapping[str, Any] | None


class Hits(NamedTuple):
    """The hits of queries, by rows of the index.

    Parameters
    ----------
    distances : ndarray of shape (n_queries, n_neighbors), dtype float64
    rows : ndarray of shape (n_queries, n_neighbors), dtype int64
        -1 where fewer were found.
    known : list of dict of int to dict
        Of each query the record of each hit, by id.
    n_inliers : ndarray of shape (n_queries, n_neighbors), dtype int64, or None
        If they were verified.
    """

    distances: NDArray[np.float64]
    rows: Rows
    known: list[dict[Any, dict[str, Any]]]
    n_inliers: Rows | None = None

    def ordered(self, order: Rows) -> Self:
        """Those at some places of each query, in that order."""
        return self._replace(
            distances=np.take_along_axis(self.distances, order, axis=1),
            rows=np.take_along_axis(self.rows, order, axis=1),
        )


def nearest(
    index: NearestNeighborIndex,
    vectors: Vectors,
    n_neighbors: int,
    chosen: Chosen,
    expansion: QueryExpansion | None,
    own_rows: Rows | None,
) -> Hits:
    """The nearest vectors of each query.

    Parameters
    ----------
    index : NearestNeighborIndex
    vectors : ndarray of shape (n_queries, n_features), dtype float32
    n_neighbors : int
    chosen : Chosen
    expansion : QueryExpansion or None
    own_rows : ndarray of shape (n_queries,), dtype int64, or None
        Where the queries themselves are in the index; they are no hits.

    Returns
    -------
    hits : Hits
    """
    where, params = chosen
    if expansion is not None:
        vectors = _expanded(index, vectors, chosen, expansion)
    n_asked = n_neighbors + (own_rows is not None)
    found = index.search(vectors, n_asked, where=where, params=params)
    pairs = zip(found.ids, found.records, strict=True)
    known = [dict(zip(ids, records, strict=True)) for ids, records in pairs]
    hits = Hits(found.distances, found.rows, known)
    if own_rows is None:
        return hits
    is_own = hits.rows == own_rows[:, np.newaxis]
    return hits.ordered(np.argsort(is_own, axis=1, kind="stable")[:, :n_neighbors])


def verified(
    hits: Hits, reranker: GeometricReranker, queries: Sequence[object], n_neighbors: int
) -> Hits:
    """Those that fit the query by local features first, and the inliers of each.

    Parameters
    ----------
    hits : Hits
    reranker : GeometricReranker
    queries : sequence of n_queries images
    n_neighbors : int
        How many to keep.

    Returns
    -------
    hits : Hits
    """
    order, n_inliers = reranker.rerank(queries, hits.rows)
    return hits.ordered(order[:, :n_neighbors])._replace(n_inliers=n_inliers[:, :n_neighbors])


def _expanded(
    index: NearestNeighborIndex, vectors: Vectors, chosen: Chosen, expansion: QueryExpansion
) -> Vectors:
    where, params = chosen
    rows = index.kneighbors(
        vectors, expansion.n_neighbors, return_distance=False, where=where, params=params
    )
    neighbours = np.full((*rows.shape, vectors.shape[1]), np.nan, np.float32)
    neighbours[rows >= 0] = index.vectors_at(rows[rows >= 0])
    return expansion.expand(vectors, neighbours)
