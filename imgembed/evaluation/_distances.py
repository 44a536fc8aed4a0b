"""Vectors checked, and compared in blocks of matrix products."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._vectors import normalise_rows

METRICS = ("cosine", "euclidean", "ip")

# Entries of a block of queries by vectors: 64 MB of float32.
_BLOCK_ENTRIES = 2**24


def check_vectors(vectors: Any, name: str) -> NDArray[Any]:
    """Vectors as a matrix of float32, or of float64 where that is what came.

    Parameters
    ----------
    vectors : array-like of shape (n_images, n_features)
    name : str
        What errors call them.

    Returns
    -------
    vectors : ndarray of shape (n_images, n_features), dtype float32 or float64

    Raises
    ------
    ValueError
        If the shape is another, there are none, or a number is not finite.
    """
    checked = np.asarray(vectors)
    if checked.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be numbers, (n_images, n_features); got {checked.dtype}")
    if checked.ndim != 2 or checked.size == 0:
        raise ValueError(
            f"{name} must have shape (n_images, n_features), with at least one of each; "
            f"got {checked.shape}"
        )
    checked = checked.astype(np.result_type(checked, np.float32), copy=False)
    if checked.dtype not in (np.float32, np.float64):
        checked = checked.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(checked).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} rows of {name} hold NaN or inf, as rows of unreadable images do: "
            f"leave them out, with what belongs to them; the first is row {bad[0]}"
        )
    return checked


def prepare_vectors(
    queries: NDArray[Any], vectors: NDArray[Any], metric: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Make vectors ready for :func:`farness`, once for all blocks.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, n_features), of floats
    vectors : ndarray of shape (n_images, n_features), of floats
    metric : {"cosine", "euclidean", "ip"}

    Returns
    -------
    queries, vectors : ndarray of the same shapes
        Normalised for "cosine", centred for "euclidean".

    Raises
    ------
    ValueError
        If there is no such metric, or the widths differ.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {METRICS}; got {metric!r}")
    if queries.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} features and the images {vectors.shape[1]}; "
            "both must come from the same embedder"
        )
    if metric == "cosine":
        return normalise_rows(queries), normalise_rows(vectors)
    if metric == "euclidean":  # |a|^2 - 2ab loses digits far from the origin
        centre = vectors.mean(axis=0, dtype=np.float64).astype(vectors.dtype)
        return queries - centre, vectors - centre
    return queries, vectors


def farness(queries: NDArray[Any], vectors: NDArray[Any], metric: str) -> NDArray[Any]:
    """What orders the vectors of each query as their distances do.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, n_features), of floats
        From :func:`prepare_vectors`, as the vectors.
    vectors : ndarray of shape (n_images, n_features), of floats
    metric : {"cosine", "euclidean", "ip"}

    Returns
    -------
    farness : ndarray of shape (n_queries, n_images), of floats
        Minus the inner product; for "euclidean", with half the squared norm of the vector.
    """
    far: NDArray[Any] = queries @ vectors.T
    np.negative(far, out=far)
    if metric == "euclidean":
        far += np.einsum("ij,ij->i", vectors, vectors) / 2
    return far


def query_blocks(n_queries: int, n_images: int) -> list[slice]:
    """Slices of queries whose matrix with all images fits into little memory.

    Parameters
    ----------
    n_queries, n_images : int

    Returns
    -------
    blocks : list of slice
    """
    step = max(1, _BLOCK_ENTRIES // n_images)
    return [slice(start, min(start + step, n_queries)) for start in range(0, n_queries, step)]
