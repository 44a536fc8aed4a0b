"""Exact search: matrix products in blocks, then exact distances of the few that remain."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

# Entries of one block of similarities: 64 MB of float32.
_BLOCK_ENTRIES = 16_000_000
# Candidates beyond k whose distances are computed exactly, so that the rounding of the
# matrix product cannot push out a true neighbour.
_SPARE = 16


def exact_candidates(vectors: Floats, queries: Floats, n_candidates: int, metric: str) -> Rows:
    """Rows of the vectors that are nearest to each query, up to rounding, in no order.

    Parameters
    ----------
    vectors : ndarray of shape (n_images, n_features), dtype float32
        Normalised for "cosine".
    queries : ndarray of shape (n_queries, n_features), dtype float32
        Normalised for "cosine".
    n_candidates : int
        How many rows a query.
    metric : {"cosine", "euclidean", "ip"}

    Returns
    -------
    rows : ndarray of shape (n_queries, min(n_candidates + 16, n_images)), dtype int64
    """
    n_kept = min(n_candidates + _SPARE, len(vectors))
    if n_kept == len(vectors):
        return np.tile(np.arange(n_kept), (len(queries), 1))
    halves = None
    if metric == "euclidean":  # centred, since |a|^2 - 2ab loses digits far from the origin
        centre = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        vectors, queries = vectors - centre, queries - centre
        halves = np.einsum("ij,ij->i", vectors, vectors) / 2
    rows = np.empty((len(queries), n_kept), dtype=np.int64)
    step = max(1, _BLOCK_ENTRIES // len(vectors))
    for start in range(0, len(queries), step):
        farness = queries[start : start + step] @ -vectors.T
        if halves is not None:
            farness += halves
        rows[start : start + step] = np.argpartition(farness, n_kept - 1, axis=1)[:, :n_kept]
    return rows


def rank_candidates(
    vectors: Floats, queries: Floats, rows: Rows, metric: str
) -> tuple[NDArray[np.float64], Rows]:
    """Exact distances of candidates, sorted; equal distances by row.

    Parameters
    ----------
    vectors : ndarray of shape (n_images, n_features), dtype float32
        Normalised for "cosine".
    queries : ndarray of shape (n_queries, n_features), dtype float32
        Normalised for "cosine".
    rows : ndarray of shape (n_queries, n_candidates), dtype int64
        Rows of vectors.
    metric : {"cosine", "euclidean", "ip"}

    Returns
    -------
    distances : ndarray of shape (n_queries, n_candidates), dtype float64
    rows : ndarray of shape (n_queries, n_candidates), dtype int64
    """
    distances = np.empty(rows.shape, dtype=np.float64)
    for i, (query, candidates) in enumerate(zip(queries, rows, strict=True)):
        distances[i] = _distances(vectors[candidates], query, metric)
    order = np.lexsort((rows, distances), axis=1)
    return np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)


def _distances(vectors: Floats, query: Floats, metric: str) -> NDArray[np.float64]:
    near, far = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "ip":
        return 1 - near @ far
    difference = near - far
    squares = np.einsum("ij,ij->i", difference, difference)
    if metric == "euclidean":
        return np.sqrt(squares)  # type: ignore[no-any-return]
    # For unit vectors 1 - cos = |a - b|^2 / 2, which is exactly 0 for equal ones.
    zero = ~near.any(axis=1) | (not far.any())
    return np.where(zero, 1.0, squares / 2)
