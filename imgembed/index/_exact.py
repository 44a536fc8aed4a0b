"""Exact search: matrix products in blocks, then exact distances of the few that remain."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ._found import ordered
from ._vector_store import VectorStore

Floats = NDArray[np.float32]
Distances = NDArray[np.float64]
Rows = NDArray[np.int64]

# Queries of one product with a block of vectors.
_QUERY_BLOCK = 512
# Candidates beyond k whose distances are computed exactly, so that the rounding of the
# matrix product cannot push out a true neighbour.
_SPARE = 16
# A row of a product is folded so many times to find its smallest entries.
_FOLDS = 8
_LARGEST = float(np.finfo(np.float32).max)


def exact_neighbors(
    store: VectorStore, queries: Floats, k: int, metric: str, rows: Rows | None = None
) -> tuple[Distances, Rows]:
    """The nearest rows of each query, sorted by distance, then by row.

    Parameters
    ----------
    store : VectorStore
        Vectors, normalised for "cosine".
    queries : ndarray of shape (n_queries, n_features), dtype float32
        Normalised for "cosine".
    k : int
    metric : {"cosine", "euclidean", "ip"}
    rows : ndarray of shape (n_rows,), dtype int64, optional
        Search among these alone.

    Returns
    -------
    distances : ndarray of shape (n_queries, min(k, n_rows)), dtype float64
    found : ndarray of the same shape, dtype int64
    """
    n_rows = len(store) if rows is None else len(rows)
    k = min(k, n_rows)
    distances = np.empty((len(queries), k))
    found = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), _QUERY_BLOCK):
        some = slice(start, start + _QUERY_BLOCK)
        candidates = _candidates(store, queries[some], min(k + _SPARE, n_rows), metric, rows)
        ranked = rank_candidates(store, queries[some], candidates, metric)
        distances[some], found[some] = ranked[0][:, :k], ranked[1][:, :k]
    return distances, found


def exact_pairs(
    store: VectorStore, queries: Floats, radius: float, metric: str, rows: Rows | None = None
) -> Iterator[tuple[Rows, Rows, Distances]]:
    """Pairs of a query and a row at most a distance apart, block by block.

    Yields
    ------
    query : ndarray of shape (n_pairs,), dtype int64
    row : ndarray of shape (n_pairs,), dtype int64
    distance : ndarray of shape (n_pairs,), dtype float64
    """
    for first in range(0, len(queries), _QUERY_BLOCK):
        some = queries[first : first + _QUERY_BLOCK]
        scan = _Scan(store, some, metric, rows)
        for start, vectors in store.blocks(rows):
            near, block_rows = np.nonzero(
                scan.farness(start, vectors) <= scan.limit(radius, vectors)
            )
            distances = paired_distances(vectors[block_rows], some[near], metric)
            kept = distances <= radius
            found = start + block_rows[kept]
            yield first + near[kept], found if rows is None else rows[found], distances[kept]


def rank_candidates(
    store: VectorStore, queries: Floats, rows: Rows, metric: str
) -> tuple[Distances, Rows]:
    """Exact distances of candidates, sorted; equal distances by row.

    Parameters
    ----------
    store : VectorStore
        Vectors, normalised for "cosine".
    queries : ndarray of shape (n_queries, n_features), dtype float32
        Normalised for "cosine".
    rows : ndarray of shape (n_queries, n_candidates), dtype int64
    metric : {"cosine", "euclidean", "ip"}

    Returns
    -------
    distances : ndarray of shape (n_queries, n_candidates), dtype float64
    rows : ndarray of shape (n_queries, n_candidates), dtype int64
    """
    distances = np.empty(rows.shape)
    for i, (query, candidates) in enumerate(zip(queries, rows, strict=True)):
        distances[i] = paired_distances(store.take(candidates), query[np.newaxis], metric)
    order = np.lexsort((rows, distances), axis=1)
    return ordered(distances, rows, order)


def paired_distances(vectors: Floats, queries: Floats, metric: str) -> Distances:
    """Exact distances of each vector to the query of the same row, or to the only one.

    Parameters
    ----------
    vectors : ndarray of shape (n, n_features), dtype float32
    queries : ndarray of shape (n or 1, n_features), dtype float32
    metric : {"cosine", "euclidean", "ip"}

    Returns
    -------
    distances : ndarray of shape (n,), dtype float64
    """
    near, far = vectors.astype(np.float64), queries.astype(np.float64)
    if metric == "ip":
        products: Distances = np.einsum("ij,ij->i", near, np.broadcast_to(far, near.shape))
        return 1 - products
    difference = near - far
    squares = np.einsum("ij,ij->i", difference, difference)
    if metric == "euclidean":
        return np.sqrt(squares)  # type: ignore[no-any-return]
    # For unit vectors 1 - cos = |a - b|^2 / 2, which is exactly 0 for equal ones.
    zero = ~near.any(axis=1) | ~far.any(axis=1)
    return np.where(zero, 1.0, squares / 2)


def _candidates(
    store: VectorStore, queries: Floats, n_kept: int, metric: str, rows: Rows | None
) -> Rows:
    """Rows that are nearest to each query, up to rounding, in no order."""
    n_rows = len(store) if rows is None else len(rows)
    if n_kept == n_rows:
        every = np.arange(n_rows) if rows is None else rows
        return np.tile(every, (len(queries), 1))
    best = np.empty((len(queries), 0), np.int64)
    best_farness = np.empty((len(queries), 0), np.float32)
    scan = _Scan(store, queries, metric, rows)
    for start, vectors in store.blocks(rows):
        farness = scan.farness(start, vectors)
        places = _smallest(farness, n_kept)
        best_farness = np.hstack([best_farness, np.take_along_axis(farness, places, 1)])
        best = np.hstack([best, start + places])
        if best.shape[1] > n_kept:
            kept = _smallest(best_farness, n_kept)
            best = np.take_along_axis(best, kept, 1)
            best_farness = np.take_along_axis(best_farness, kept, 1)
    return best if rows is None else rows[best]


def _smallest(farness: Floats, n_kept: int) -> Rows:
    """Places of the smallest entries of each row, in no order."""
    n_queries, n_rows = farness.shape
    if n_rows <= n_kept:
        return np.tile(np.arange(n_rows), (n_queries, 1))
    width = n_rows // _FOLDS
    if width <= _FOLDS * n_kept:
        return np.argpartition(farness, n_kept - 1, axis=1)[:, :n_kept]
    # Folded, since minima are found in a tenth of the time of a partition: the smallest entries
    # lie in the columns of the smallest minima, or behind the folds.
    minima = farness[:, : _FOLDS * width].reshape(n_queries, _FOLDS, width).min(axis=1)
    columns = np.argpartition(minima, n_kept - 1, axis=1)[:, np.newaxis, :n_kept]
    unfolded = columns + width * np.arange(_FOLDS)[:, np.newaxis]
    behind = np.tile(np.arange(_FOLDS * width, n_rows), (n_queries, 1))
    places = np.hstack([unfolded.reshape(n_queries, -1), behind])
    entries = np.take_along_axis(farness, places, 1)
    return np.take_along_axis(places, np.argpartition(entries, n_kept - 1, axis=1)[:, :n_kept], 1)


class _Scan:
    """What orders the rows of a store for queries as their distances do, by matrix products.

    It is half the squared distance less a constant a query, or less 1 than the distance.
    """

    def __init__(self, store: VectorStore, queries: Floats, metric: str, rows: Rows | None) -> None:
        self._queries, self._metric = queries, metric
        self._halves: Floats | None = None
        self._shift: Floats | None = None
        self._constants = np.zeros(len(queries), np.float32)
        if metric == "euclidean":
            centre, halves, is_far = store.centred()
            self._halves = halves if rows is None else halves[rows]
            self._queries = queries - centre
            self._constants = np.einsum("ij,ij->i", self._queries, self._queries) / 2
            if is_far:
                self._shift = centre
            else:
                self._constants += self._queries @ centre

    def farness(self, start: int, vectors: Floats) -> Floats:
        """Of a block of rows from a place on, as an array of shape (n_queries, n_rows)."""
        if self._shift is not None:
            vectors = vectors - self._shift
        farness: Floats = self._queries @ vectors.T
        np.negative(farness, out=farness)
        if self._halves is not None:
            farness += self._halves[start : start + len(vectors)]
        return farness

    def limit(self, radius: float, vectors: Floats) -> Floats:
        """The largest farness that a distance within the radius may have, for each query."""
        limit = radius - 1
        if self._metric == "euclidean":
            limit = radius * abs(radius) / 2 * (1 + 1e-5)
        if self._shift is not None:
            vectors = vectors - self._shift
        reach = float(np.abs(vectors).max(initial=0)) * float(np.abs(self._queries).max(initial=0))
        # How far rounding may have moved it.
        slack = 1e-6 * vectors.shape[1] * max(reach, 1e-30)
        limits = np.minimum(limit + slack - self._constants.astype(np.float64), _LARGEST)
        return limits.astype(np.float32)[:, np.newaxis]  # type: ignore[no-any-return]
