"""Vectors and parameters, checked before anything is done with them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_scalar
from sklearn.utils.validation import validate_data

from .._vectors import normalise_rows, squared_norms
from ..base import check_choice

# Squares of larger entries, summed over any width that fits memory, overflow float32.
_LARGEST = 1e15
_STORAGES = ("float32", "float16", "int8")


def check_vectors(index: Any, X: Any, metric: str, *, reset: bool) -> NDArray[np.float32]:
    """X as finite C-contiguous float32 of the right width, normalised for "cosine".

    Parameters
    ----------
    index : NearestNeighborIndex
    X : array-like of shape (n_images, n_features)
    metric : {"cosine", "euclidean", "ip"}
    reset : bool
        Whether X decides the width.

    Returns
    -------
    vectors : ndarray of shape (n_images, n_features), dtype float32
        X itself, if it is that already.

    Raises
    ------
    ValueError
        If X is anything else.
    """
    squares = _squares_if_plain(X, None if reset else index)
    if squares is None:
        checked = validate_data(index, X, reset=reset, dtype=[np.float64, np.float32])
        _check_magnitude(checked)
    else:
        checked = validate_data(index, X, skip_check_array=True) if reset else X
    if metric == "cosine":
        checked = normalise_rows(checked, squares)
    return np.ascontiguousarray(checked, np.float32)


def check_parameters(index: Any) -> None:
    """Raise a ValueError or TypeError that names the first parameter that is wrong."""
    for name, smallest, largest in (
        ("n_neighbors", 1, 1_000_000),
        ("M", 2, 10_000),
        ("ef_construction", 1, 1_000_000),
    ):
        check_scalar(
            getattr(index, name), name, (int, np.integer), min_val=smallest, max_val=largest
        )
    if index.ef_search is not None:
        check_scalar(index.ef_search, "ef_search", (int, np.integer), min_val=1, max_val=2**31 - 1)
    if index.n_jobs is not None:
        check_scalar(index.n_jobs, "n_jobs", (int, np.integer))
        if index.n_jobs == 0:
            raise ValueError("n_jobs must not be 0: take None for one thread, -1 for all")
    check_scalar(index.target_recall, "target_recall", (int, float), min_val=0, max_val=1)
    if np.isnan(index.target_recall):
        raise ValueError("target_recall must be a share from 0 to 1, got NaN")
    check_choice("metric", index.metric, ("cosine", "euclidean", "ip"))
    check_choice("algorithm", index.algorithm, ("auto", "hnsw", "exact"))
    check_choice("mode", index.mode, ("distance", "connectivity"))
    check_choice("storage", index.storage, _STORAGES)
    check_choice("progress", index.progress, ("auto", True, False))


def check_limit(limit: Any) -> None:
    """Raise an error unless this is how many are wanted at most, or None.

    Parameters
    ----------
    limit : int or None

    Raises
    ------
    TypeError
        If it is no whole number.
    ValueError
        If it is negative.
    """
    if limit is not None:
        check_scalar(limit, "limit", (int, np.integer), min_val=0)


def _squares_if_plain(X: Any, index: Any | None) -> NDArray[np.float32] | None:
    """Squared norms of what needs no conversion and is right for the index, else None.

    scikit-learn's checks take 50 microseconds, and a query about as long.
    """
    if type(X) is not np.ndarray or X.dtype != np.float32 or X.ndim != 2 or not X.size:
        return None
    if index is not None and (
        X.shape[1] != index.n_features_in_ or hasattr(index, "feature_names_in_")
    ):
        return None
    squares = squared_norms(X)
    # No entry's square is larger; a NaN compares as false.
    largest = squares.item() if squares.size == 1 else squares.max()
    return squares if largest <= _LARGEST**2 else None


def _check_magnitude(X: NDArray[Any]) -> None:
    largest = max(X.max(initial=0), -X.min(initial=0))
    if largest > _LARGEST:
        raise ValueError(
            f"X has an entry of magnitude {largest:.3g}; the index works in float32 and takes "
            f"entries up to {_LARGEST:.0e}: scale the vectors"
        )
