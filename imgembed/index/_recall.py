"""RecallCurve: what an index gives for several ef."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._html import html_table
from .._optional import import_optional
from ._exact import exact_neighbors
from ._found import Distances
from ._node_index import Floats, NodeIndex
from ._tuning import RecallPoint, measure

_COLUMNS = ("ef", "recall", "low", "high", "queries_per_second")
# Queries whose speed is measured.
_N_TIMED = 500
# Each ef is so many times the one before.
_STEP = 2


@dataclass(frozen=True, eq=False)
class RecallCurve:
    """Recall and speed of an index for several numbers of visited candidates.

    Parameters
    ----------
    ef : ndarray of shape (n_points,), dtype int64
        Candidates that the graph visits, ascending.
    recall : ndarray of shape (n_points,), dtype float64
        Mean share of the true neighbours that are found.
    low, high : ndarray of shape (n_points,), dtype float64
        Ends of the 95 % confidence interval of the mean.
    queries_per_second : ndarray of shape (n_points,), dtype float64
        Of a batch, on this machine, now.
    n_neighbors : int
        Neighbours that were counted.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import NearestNeighborIndex
    >>> vectors = np.random.default_rng(0).normal(size=(300, 8))
    >>> index = NearestNeighborIndex(algorithm="hnsw").fit(vectors)
    >>> curve = index.recall_curve(vectors[:50] + 0.1)
    >>> curve.ef[:3]
    array([ 5, 10, 20])
    """

    ef: NDArray[np.int64]
    recall: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    queries_per_second: NDArray[np.float64]
    n_neighbors: int

    def __len__(self) -> int:
        return len(self.ef)

    def to_pandas(self) -> Any:
        """The curve as a table with a row for each ef.

        Returns
        -------
        table : pandas.DataFrame

        Raises
        ------
        ImportError
            If pandas is not installed (extra ``pandas``).
        """
        pandas = import_optional("pandas", extra="pandas", needed_by="RecallCurve.to_pandas")
        return pandas.DataFrame({name: getattr(self, name) for name in _COLUMNS})

    def _repr_html_(self) -> str:
        rows = zip(*(getattr(self, name) for name in _COLUMNS[:-1]), strict=True)
        speeds = (f"{speed:.0f}" for speed in self.queries_per_second)
        return html_table(
            ("ef", f"recall of {self.n_neighbors} neighbours", "low", "high", "queries a second"),
            [(*row, speed) for row, speed in zip(rows, speeds, strict=True)],
        )


def measured_curve(nodes: NodeIndex, queries: Floats | None, k: int, n_threads: int) -> RecallCurve:
    """The curve for queries, or what was measured when the graph was tuned.

    Nothing else may search meanwhile.

    Parameters
    ----------
    nodes : NodeIndex
    queries : ndarray of shape (n_queries, n_features), dtype float32, optional
    k : int
    n_threads : int

    Returns
    -------
    curve : RecallCurve
    """
    if nodes.graph is not None:
        nodes.graph.keep_ef(1)  # so that less can be tried
    try:
        return _measured(nodes, queries, k, n_threads)
    finally:
        nodes.keep_usual_ef()


def _measured(nodes: NodeIndex, queries: Floats | None, k: int, n_threads: int) -> RecallCurve:
    if queries is None:
        points = list(nodes.curve())
        n_queries = 0 if nodes.tuning is None else nodes.tuning.n_queries
        timed = nodes.store.take(np.arange(min(len(nodes), _N_TIMED)))
    else:
        points, n_queries = _measured_points(nodes, queries, k, n_threads), len(queries)
        timed = queries[:_N_TIMED]
    estimates = [point.as_estimate(k, n_queries) for point in points]
    speeds = [_queries_per_second(nodes, timed, k, point.ef, n_threads) for point in points]
    return RecallCurve(
        np.array([point.ef for point in points], np.int64),
        np.array([one.recall for one in estimates]),
        np.array([one.low for one in estimates]),
        np.array([one.high for one in estimates]),
        np.array(speeds),
        k,
    )


def _measured_points(
    nodes: NodeIndex, queries: Floats, k: int, n_threads: int
) -> list[RecallPoint]:
    if nodes.graph is None:
        return []
    exact = exact_neighbors(nodes.store, queries, k, nodes.settings.metric)[0]
    points: list[RecallPoint] = []

    def searched(ef: int) -> Distances:
        found = nodes.visit(queries, k, ef, n_threads)[0]
        # Where the graph reaches too few, a search scans.
        return np.where(np.isinf(found[:, -1:]), exact, found)

    ef = k
    while ef <= len(nodes.graph) and not (points and points[-1].recall == 1):
        points.append(measure(searched, exact, ef))
        ef *= _STEP
    return points


def _queries_per_second(
    nodes: NodeIndex, queries: Floats, k: int, ef: int, n_threads: int
) -> float:
    start = time.perf_counter()
    nodes.visit(queries, k, ef, n_threads)
    return len(queries) / max(time.perf_counter() - start, 1e-9)
