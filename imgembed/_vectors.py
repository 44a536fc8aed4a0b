"""Vectors of unit length."""

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Squared norms between these are far from where squares of float32 overflow or vanish.
SMALLEST_SQUARE, LARGEST_SQUARE = 1e-12, 1e24


def normalise_rows(vectors: NDArray[Any], squares: NDArray[Any] | None = None) -> NDArray[Any]:
    """Vectors scaled to unit L2 norm; vectors of zeros stay so.

    Parameters
    ----------
    vectors : ndarray of shape (..., n_features), of floats
    squares : ndarray of shape (...), optional
        What :func:`squared_norms` gives, if it is known.

    Returns
    -------
    normalised : ndarray of the same shape and dtype
    """
    squares = (squared_norms(vectors) if squares is None else squares)[..., np.newaxis]
    # One in few microseconds.
    if squares.size == 1 and SMALLEST_SQUARE < squares.item() < LARGEST_SQUARE:
        alone: NDArray[Any] = vectors / vectors.dtype.type(sqrt(squares.item()))
        return alone
    ordinary = (squares > SMALLEST_SQUARE) & (squares < LARGEST_SQUARE)
    if ordinary.all():
        normalised: NDArray[Any] = vectors / np.sqrt(squares)
        return normalised
    # By the largest entry first, lest squares of very large or small entries overflow.
    largest = np.abs(vectors).max(axis=-1, keepdims=True, initial=0)
    scaled = vectors / np.where(largest > 0, largest, 1)
    norms = np.linalg.norm(scaled, axis=-1, keepdims=True)
    extreme: NDArray[Any] = scaled / np.where(norms > 0, norms, 1)
    # Row by row the same way, whatever the others are: equal rows stay equal.
    return np.where(ordinary, vectors / np.sqrt(np.where(ordinary, squares, 1)), extreme)


def squared_norms(vectors: NDArray[Any]) -> NDArray[Any]:
    """Squared L2 norms, inf or 0 without a word where they overflow or vanish.

    Parameters
    ----------
    vectors : ndarray of shape (..., n_features), of floats

    Returns
    -------
    squares : ndarray of shape (...), of the same dtype
    """
    squares: NDArray[Any] = np.einsum("...i,...i->...", vectors, vectors)
    return squares
