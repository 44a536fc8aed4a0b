"""Distances and numbers that a search has found, an array of each with a row a query.

Where fewer were found than wanted there are inf and -1.
"""

import numpy as np
from numpy.typing import NDArray

Distances = NDArray[np.float64]
Numbers = NDArray[np.int64]
Found = tuple[Distances, Numbers]


def fitted(distances: Distances, numbers: Numbers, k: int) -> Found:
    """The first k of each row, padded where there are fewer."""
    missing = k - numbers.shape[1]
    if missing <= 0:
        return distances[:, :k], numbers[:, :k]
    width = ((0, 0), (0, missing))
    return (
        np.pad(distances, width, constant_values=np.inf),
        np.pad(numbers, width, constant_values=-1),
    )


def ordered(distances: Distances, numbers: Numbers, order: NDArray[np.int64]) -> Found:
    """Each row in another order, of some of its places; np.take_along_axis is slow for one row."""
    row = np.arange(len(order))[:, np.newaxis]
    return distances[row, order], numbers[row, order]


def merged(one: Found, other: Found, k: int) -> Found:
    """The nearest k of two sets; of equal distances those of the first."""
    distances = np.hstack([one[0], other[0]])
    nodes = np.hstack([one[1], other[1]])
    first = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return ordered(distances, nodes, first)


def allowed_first(
    distances: Distances, numbers: Numbers, allowed: NDArray[np.bool_], k: int
) -> Found:
    """The first k allowed ones of each row; inf and -1 where there are fewer."""
    kept = allowed[numbers] & (numbers >= 0)
    first = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(kept, first, 1)
    return (
        np.where(kept, np.take_along_axis(distances, first, 1), np.inf),
        np.where(kept, np.take_along_axis(numbers, first, 1), -1),
    )
