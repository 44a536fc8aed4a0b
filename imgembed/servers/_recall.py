"""How many candidates a graph must visit: measured against exact search on the server."""

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ..index import RecallEstimate
from ._state import State
from ._store import Found, Tuning

# Queries that are measured. They are not in the graph then.
_N_MEASURED = 100
# The recall is measured again when an index has grown by this much.
_GROWTH = 1.5

# Distances are sums of float32.
_ROUNDING = 1e-6


def n_held_back(state: State, n_items: int, n_new: int) -> int:
    """How many of new items come into the graph only after they have measured it.

    Parameters
    ----------
    state : State
        Before they are added.
    n_items : int
        With them.
    n_new : int

    Returns
    -------
    n_held : int
        0 if the recall need not be measured.
    """
    is_due = state.wants_graph(n_items) and n_items >= _GROWTH * state.n_measured
    return min(_N_MEASURED, n_new // 2) if is_due else 0


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
