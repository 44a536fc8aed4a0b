"""How many candidates a graph must visit: measured against exact search on the server."""

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ..index import RecallEstimate
from ._store import Found, Tuning

#: Queries that are measured. They are not in the graph then.
N_MEASURED = 100

# Distances are sums of float32.
_ROUNDING = 1e-6


def measured_recall(
    nearest: Callable[[int], Found], exact: Found, tuning: Tuning, efs: Sequence[int]
) -> RecallEstimate:
    """The fewest candidates that reach a recall, or the recall of as many as are given.

    Parameters
    ----------
    nearest : callable
        What the graph finds of the queries with a number of candidates. They are not in it.
    exact : Found
        The true neighbours.
    tuning : Tuning
        The 95 % confidence interval of the recall should not go below its target.
    efs : sequence of int
        The numbers of candidates that are tried, ascending.

    Returns
    -------
    estimate : RecallEstimate
        Of the largest, if none suffices.
    """
    k, given = tuning.n_neighbors, tuning.ef_search
    tried = [ef for ef in efs if ef >= k] or [efs[-1]]
    for ef in tried if given is None else [given]:
        estimate = _estimate(_recalls(nearest(ef), exact), k, ef)
        if estimate.low >= tuning.target_recall or estimate.recall >= 1.0:
            break
    return estimate


def _recalls(found: Found, exact: Found) -> NDArray[np.float64]:
    """The share of the true neighbours of each query, ties counted as found."""
    n_true = np.isfinite(exact.distances).sum(axis=1)
    last = np.take_along_axis(exact.distances, n_true[:, np.newaxis] - 1, axis=1)
    hits = found.distances <= last + _ROUNDING * (1 + np.abs(last))
    shares: NDArray[np.float64] = hits.sum(axis=1) / n_true
    return shares


def _estimate(recalls: NDArray[np.float64], k: int, ef: int) -> RecallEstimate:
    mean, error = float(recalls.mean()), float(recalls.std()) / sqrt(len(recalls))
    low, high = max(0.0, mean - 1.96 * error), min(1.0, mean + 1.96 * error)
    return RecallEstimate(mean, low, high, k, ef, len(recalls))
