"""Neighbours in the shapes that scikit-learn uses."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Distances = NDArray[np.float64]
Rows = NDArray[np.int64]


def neighbour_graph(
    nearest: Callable[[int], tuple[Distances, Rows]], n_neighbors: int, mode: str, n_images: int
) -> sparse.csr_matrix:
    """The graph of KNeighborsTransformer.

    Parameters
    ----------
    nearest : callable
        Gives distances and rows of so many neighbours.
    n_neighbors : int
    mode : {"distance", "connectivity"}
        With "distance" there is one neighbour more.
    n_images : int

    Returns
    -------
    graph : csr_matrix of shape (n_queries, n_images)
    """
    wanted = n_neighbors + (mode == "distance")
    k = min(wanted, n_images)
    if k < wanted:
        warnings.warn(
            f"the graph holds {k} neighbours a row, not {wanted}: the index has no more vectors",
            UserWarning,
            stacklevel=3,
        )
    distances, rows = (part[:, :k] for part in nearest(max(k, 1)))
    entries = distances if mode == "distance" else np.ones_like(distances)
    pointers = np.arange(len(rows) + 1) * k
    return sparse.csr_matrix((entries.ravel(), rows.ravel(), pointers), (len(rows), n_images))


def without_self(distances: Distances, found: Rows, own: Rows) -> tuple[Distances, Rows]:
    """Drop each one's own number, or its last neighbour where equal ones crowd it out.

    Parameters
    ----------
    distances : ndarray of shape (n, k + 1), dtype float64
    found : ndarray of shape (n, k + 1), dtype int64
    own : ndarray of shape (n,), dtype int64

    Returns
    -------
    distances, found : ndarray of shape (n, k)
    """
    dropped = found == own[:, np.newaxis]
    dropped[~dropped.any(axis=1), -1] = True
    shape = (len(found), found.shape[1] - 1)
    return distances[~dropped].reshape(shape), found[~dropped].reshape(shape)


def rows_of_pairs(query: Rows, n_queries: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """What splits a value a pair into an array a query; pairs are sorted by query."""
    ends = np.searchsorted(query, np.arange(1, n_queries))

    def split(values: NDArray[Any]) -> NDArray[Any]:
        arrays = np.empty(n_queries, dtype=object)
        arrays[:] = np.split(values, ends) if n_queries else []
        return arrays

    return split
