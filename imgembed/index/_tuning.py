"""How many candidates a graph must visit for a recall, measured against exact search."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import hypot, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Distances = NDArray[np.float64]
# Distances of the neighbours that a graph finds for all queries with an ef.
Searched = Callable[[int], Distances]

# The first ef that is tried, and how near to the smallest one that suffices the search stops.
_FIRST_EF = 16
_PRECISION = 1.1
# Rounding of a graph's distances (float32) against exact ones: of their size, and of 1.
_ROUNDING = 1e-5, 1e-6


@dataclass(frozen=True)
class RecallEstimate:
    """The share of true neighbours that an index finds, measured when it was built or grew.

    The queries were vectors that were not in the graph yet. Queries from the graph would find
    themselves and what they are linked to, and overstate the recall. That of queries which are
    unlike all that is in the index is lower; the ef was chosen with such ones in mind.

    Parameters
    ----------
    recall : float
        Mean share of the ``n_neighbors`` nearest vectors that are found.
    low, high : float
        Ends of the 95 % confidence interval of the mean.
    n_neighbors : int
        Neighbours that were asked for.
    ef : int
        Candidates that the graph visits; 0 for exact search.
    n_queries : int
        Queries that were measured; 0 for exact search, which needs none.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import NearestNeighborIndex
    >>> NearestNeighborIndex().fit(np.eye(3)).recall_estimate_
    RecallEstimate(recall=1.0, low=1.0, high=1.0, n_neighbors=5, ef=0, n_queries=0)
    """

    recall: float
    low: float
    high: float
    n_neighbors: int
    ef: int
    n_queries: int

    @classmethod
    def exact(cls, n_neighbors: int) -> "RecallEstimate":
        """What exact search finds: all.

        Parameters
        ----------
        n_neighbors : int
            Neighbours that are asked for.

        Returns
        -------
        estimate : RecallEstimate
        """
        return cls(1.0, 1.0, 1.0, n_neighbors, 0, 0)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "RecallEstimate":
        """What ``dataclasses.asdict`` made of an estimate.

        Parameters
        ----------
        fields : mapping of str to float or int
            All that make an estimate.

        Returns
        -------
        estimate : RecallEstimate

        Raises
        ------
        ValueError or KeyError
            If it is another thing.
        """
        recall, low, high = (_share(fields[name]) for name in ("recall", "low", "high"))
        if not low <= recall <= high:
            raise ValueError(f"a recall of {recall} is not between {low} and {high}")
        counts = (_count(fields[name], least=0) for name in ("n_neighbors", "ef", "n_queries"))
        return cls(recall, low, high, *counts)


@dataclass(frozen=True)
class RecallPoint:
    """What one ef gives.

    Parameters
    ----------
    ef : int
    recall : float
    error : float
        Standard error of the recall.
    """

    ef: int
    recall: float
    error: float

    @classmethod
    def of(cls, ef: int, shares: NDArray[np.float64]) -> "RecallPoint":
        """The mean of what single queries find."""
        return cls(ef, float(shares.mean()), float(shares.std()) / sqrt(len(shares)))

    def as_estimate(self, n_neighbors: int, n_queries: int) -> RecallEstimate:
        """The recall with its confidence interval."""
        # Where all queries agree the error is 0 and says nothing: the rule of three does.
        margin = max(1.96 * self.error, 3 / n_queries if self.error == 0 else 0.0)
        low, high = max(0.0, self.recall - margin), min(1.0, self.recall + margin)
        return RecallEstimate(self.recall, low, high, n_neighbors, self.ef, n_queries)


@dataclass(frozen=True)
class Tuning:
    """What was measured on a graph.

    Parameters
    ----------
    n_nodes : int
        Nodes of the graph at that time.
    n_queries : int
        Queries that were measured.
    sufficient : dict of int to int
        The ef that reaches the target, for numbers of neighbours.
    curve : tuple of RecallPoint
        What was measured for the first of these numbers, by ascending ef.
    """

    n_nodes: int
    n_queries: int
    sufficient: dict[int, int]
    curve: tuple[RecallPoint, ...]

    def ef(self, n_neighbors: float) -> int:
        """The ef for any number of neighbours, between and beyond those measured."""
        below = fewest = 0
        for number, ef in sorted(self.sufficient.items()):
            if n_neighbors <= number:
                if not below:  # no fewer than were measured
                    return ef
                share = (n_neighbors - below) / (number - below)
                return max(round(fewest + share * (ef - fewest)), int(n_neighbors))
            below, fewest = number, ef
        return round(fewest * n_neighbors / below)

    def estimate(self, n_neighbors: int, ef: int) -> RecallEstimate:
        """What was measured nearest below an ef."""
        points = [point for point in self.curve if point.ef <= ef] or [self.curve[0]]
        return points[-1].as_estimate(n_neighbors, self.n_queries)

    def to_dict(self) -> dict[str, Any]:
        """The tuning as JSON."""
        return {
            "n_nodes": self.n_nodes,
            "n_queries": self.n_queries,
            "sufficient": [list(pair) for pair in self.sufficient.items()],
            "curve": [asdict(point) for point in self.curve],
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Tuning":
        """The tuning that :meth:`to_dict` gave.

        Raises
        ------
        ValueError, TypeError or KeyError
            If it is another thing.
        """
        sufficient = {_count(k): _count(ef) for k, ef in fields["sufficient"]}
        curve = tuple(
            RecallPoint(
                _count(point["ef"]),
                _share(point["recall"]),
                _share(point["error"]),
            )
            for point in fields["curve"]
        )
        if not sufficient or not curve:
            raise ValueError("the tuning of the graph is empty")
        if any(ef < k for k, ef in sufficient.items()):
            raise ValueError(f"fewer candidates than neighbours are visited: {sufficient}")
        return cls(_count(fields["n_nodes"]), _count(fields["n_queries"]), sufficient, curve)


def smallest_ef(
    searched: Searched,
    exact: Distances,
    target: float,
    largest: int,
    *,
    n_strays: int = 0,
    n_errors: float = 1.0,
) -> tuple[int, list[RecallPoint]]:
    """The smallest ef whose recall reaches a target, or ``largest``.

    Parameters
    ----------
    searched : callable
        Gives the distances, ascending, of the neighbours that the graph finds with an ef.
    exact : ndarray of shape (n_queries, n_neighbors), dtype float64
        Distances of the true neighbours, ascending.
    target : float
        The recall, which the measured one must exceed.
    largest : int
        Where to stop.
    n_strays : int, default=0
        So many of the last queries are strays: they count as much as all others together when an
        ef is chosen, and are not in the points.
    n_errors : float, default=1.0
        By so many of its standard errors.

    Returns
    -------
    ef : int
    points : list of RecallPoint
        All that was measured, by ascending ef.
    """
    points: dict[int, RecallPoint] = {}
    n_usual = len(exact) - n_strays

    def suffices(ef: int) -> bool:
        shares = found_shares(searched(ef), exact)
        points[ef] = usual = RecallPoint.of(ef, shares[:n_usual])
        strays = RecallPoint.of(ef, shares[n_usual:]) if n_strays else usual
        error = hypot(usual.error, strays.error) / 2 if n_strays else usual.error
        return (usual.recall + strays.recall) / 2 - n_errors * error >= target

    below, ef = exact.shape[1], min(max(_FIRST_EF, exact.shape[1]), largest)
    while not suffices(ef) and ef < largest:
        below, ef = ef, min(2 * ef, largest)
    while ef / below > _PRECISION and ef - below > 1:
        middle = round(sqrt(below * ef))
        if suffices(middle):
            ef = middle
        else:
            below = middle
    return ef, [points[tried] for tried in sorted(points)]


def measure(searched: Searched, exact: Distances, ef: int, n_strays: int = 0) -> RecallPoint:
    """The recall of an ef.

    Parameters
    ----------
    searched : callable
        As in :func:`smallest_ef`.
    exact : ndarray of shape (n_queries, n_neighbors), dtype float64
        Distances of the true neighbours, ascending.
    ef : int
    n_strays : int, default=0
        So many of the last queries are left out.

    Returns
    -------
    point : RecallPoint
    """
    return RecallPoint.of(ef, found_shares(searched(ef), exact)[: len(exact) - n_strays])


def found_shares(found: Distances, exact: Distances) -> NDArray[np.float64]:
    """Of each query, the share of true neighbours that was found; equal distances are equal.

    Parameters
    ----------
    found, exact : ndarray of shape (n_queries, n_neighbors), dtype float64
        Distances, ascending; inf where nothing was found.

    Returns
    -------
    shares : ndarray of shape (n_queries,), dtype float64
    """
    # The k-th distance decides, so that a tie is no miss.
    furthest = exact[:, -1:]
    relative, absolute = _ROUNDING
    within = found <= furthest + absolute + relative * np.abs(furthest)
    return within.mean(axis=1)  # type: ignore[no-any-return]


def _count(number: Any, least: int = 1) -> int:
    if type(number) is not int or not least <= number < 2**40:
        raise ValueError(f"a count must be an integer from {least}, got {number!r}")
    return number


def _share(number: Any) -> float:
    if type(number) not in (int, float) or not 0 <= number <= 1:
        raise ValueError(f"a measurement must be a number from 0 to 1, got {number!r}")
    return float(number)
