"""How many candidates a graph must visit: measured against exact search on the server."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ..index import RecallEstimate
from ._postgres_search import LARGEST_EF, Found, Search, Vectors, nearest
from ._postgres_session import Connection

#: Queries that are measured. They are not in the graph then.
N_MEASURED = 100

_STEPS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, LARGEST_EF)
# Distances are sums of float32.
_ROUNDING = 1e-6


def measured_recall(
    connection: Connection,
    search: Search,
    queries: Vectors,
    *,
    target: float,
    ef: int | None,
) -> RecallEstimate:
    """The fewest candidates that reach a recall, or the recall of as many as are given.

    Parameters
    ----------
    connection : Connection
    search : Search
    queries : ndarray of shape (n_queries, n_features), dtype float32
        Not in the graph.
    target : float
        The recall that its 95 % confidence interval should not go below.
    ef : int or None

    Returns
    -------
    estimate : RecallEstimate
        Of the largest ef that pgvector has, if none suffices.
    """
    exact = nearest(connection, search, queries, ef=0, exact=True)
    estimate = None
    for step in _STEPS if ef is None else (ef,):
        if ef is None and step < search.k and step != LARGEST_EF:
            continue
        found = nearest(connection, search, queries, ef=step, exact=False)
        estimate = _estimate(_recalls(found, exact), search.k, step)
        if estimate.low >= target or estimate.recall >= 1.0:
            break
    assert estimate is not None
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
