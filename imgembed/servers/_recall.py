"""How many candidates a graph must visit: measured against exact search on the server."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..index import RecallEstimate
from ..index._tuning import measure, smallest_ef
from ._state import State
from ._store import Found, Tuning

# Queries that are measured. They are not in the graph then.
_N_MEASURED = 100
# The recall is measured again when an index has grown by this much.
_GROWTH = 1.5


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
    nearest: Callable[[int], Found], exact: Found, tuning: Tuning, largest: int
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
    largest : int
        The most candidates that are tried.

    Returns
    -------
    estimate : RecallEstimate
        Of the largest, if fewer do not suffice.
    """
    # There may be fewer items than neighbours that are wanted.
    true = exact.distances[:, np.isfinite(exact.distances).all(axis=0)]

    def searched(ef: int) -> NDArray[np.float64]:
        return nearest(ef).distances[:, : true.shape[1]]

    if tuning.ef_search is not None:
        point = measure(searched, true, tuning.ef_search)
    else:
        ef, points = smallest_ef(searched, true, tuning.target_recall, largest, n_errors=1.96)
        point = next(point for point in points if point.ef == ef)
    return point.as_estimate(tuning.n_neighbors, len(true))
