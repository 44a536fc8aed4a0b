"""Vectors of unit length."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def normalise_rows(vectors: NDArray[Any]) -> NDArray[Any]:
    """Vectors scaled to unit L2 norm; vectors of zeros stay so.

    Parameters
    ----------
    vectors : ndarray of shape (..., n_features), of floats

    Returns
    -------
    normalised : ndarray of the same shape and dtype
    """
    largest = np.abs(vectors).max(axis=-1, keepdims=True, initial=0)
    # By the largest entry first, lest squares of very large or small entries overflow.
    scaled = vectors / np.where(largest > 0, largest, 1)
    norms = np.linalg.norm(scaled, axis=-1, keepdims=True)
    normalised: NDArray[Any] = scaled / np.where(norms > 0, norms, 1)
    return normalised
