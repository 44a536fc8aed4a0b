"""Ranks of the relevant images, and the measures that follow from them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]

UKBENCH_GROUP = 4  # photographs of each object


@dataclass(frozen=True)
class RelevantRanks:
    """At which ranks the relevant images of each query stand.

    Parameters
    ----------
    ranks : ndarray of shape (n_found,), dtype int64
        From 1; query after query, ascending within each.
    n_relevant : ndarray of shape (n_queries,), dtype int64
        How many of the ranks belong to each query.
    """

    ranks: Counts
    n_relevant: Counts

    @property
    def query(self) -> Counts:
        """The query of each rank, of shape (n_found,)."""
        return np.repeat(np.arange(len(self.n_relevant)), self.n_relevant)

    @property
    def n_found(self) -> Counts:
        """How many relevant images stand at each rank or before it, of shape (n_found,)."""
        before = np.cumsum(self.n_relevant) - self.n_relevant
        return np.arange(1, len(self.ranks) + 1) - np.repeat(before, self.n_relevant)

    def sums(self, values: NDArray[Any]) -> Floats:
        """Sum over the ranks of each query, of shape (n_queries,)."""
        return np.bincount(self.query, values, len(self.n_relevant)).astype(np.float64)

    def counts_within(self, k: int | Counts) -> Floats:
        """How many relevant images are among the first k, of shape (n_queries,)."""
        limits = np.broadcast_to(k, self.n_relevant.shape)
        return self.sums(self.ranks <= np.repeat(limits, self.n_relevant))

    def ratios(self, totals: Floats, divisors: Any) -> Floats:
        """Totals divided, NaN for queries without relevant images; of shape (n_queries,)."""
        ratios = np.full(len(totals), np.nan)
        np.divide(totals, divisors, out=ratios, where=self.n_relevant > 0)
        return ratios


# The values of each query, from the ranks and, for measures "at k", from k.
Measure = Callable[[RelevantRanks, int], Floats]


def rank_relevant(farness: NDArray[Any], relevant: Flags, ignored: Flags | None) -> RelevantRanks:
    """Rank the relevant images of each query among those that are not ignored.

    Parameters
    ----------
    farness : ndarray of shape (n_queries, n_images), of floats
        The lower, the nearer; no NaN.
    relevant : ndarray of shape (n_queries, n_images), dtype bool
    ignored : ndarray of shape (n_queries, n_images), dtype bool, or None
        Images that are taken out of the ranking, relevant or not.

    Returns
    -------
    ranks : RelevantRanks
        Among equally far images the relevant ones are last.
    """
    others = ~relevant
    if ignored is not None:
        relevant, others = relevant & ~ignored, others & ~ignored
    ranks = [
        _ranks_among(far[right], far[wrong])
        for far, right, wrong in zip(farness, relevant, others, strict=True)
    ]
    n_relevant = np.array([len(each) for each in ranks], np.int64)
    return RelevantRanks(np.concatenate([*ranks, np.empty(0, np.int64)]), n_relevant)


def join_ranks(parts: Sequence[RelevantRanks]) -> RelevantRanks:
    """The ranks of blocks of queries as those of all queries.

    Parameters
    ----------
    parts : sequence of RelevantRanks
        At least one.

    Returns
    -------
    ranks : RelevantRanks
    """
    return RelevantRanks(
        np.concatenate([part.ranks for part in parts]),
        np.concatenate([part.n_relevant for part in parts]),
    )


def measure_ranks(measure: str, ranks: RelevantRanks, n_images: int) -> Floats:
    """The values of a measure, query by query.

    Parameters
    ----------
    measure : str
        As "mean_average_precision" or "precision@5"; see :func:`imgembed.evaluation.per_query`.
    ranks : RelevantRanks
    n_images : int
        The largest k that makes sense.

    Returns
    -------
    values : ndarray of shape (n_queries,), dtype float64
        NaN for queries without relevant images.

    Raises
    ------
    ValueError
        If there is no such measure, or k is out of range.
    """
    name, k = parse_measure(measure)
    if k is None:
        return _MEASURES[name](ranks, n_images)
    if not 1 <= k <= n_images:
        raise ValueError(
            f"k must be from 1 to the number of images, {n_images}; got {k} in {measure!r}"
        )
    return _MEASURES_AT_K[name](ranks, k)


def parse_measure(measure: str) -> tuple[str, int | None]:
    """The name of a measure and its k, if it has one.

    Parameters
    ----------
    measure : str

    Returns
    -------
    name : str
    k : int or None

    Raises
    ------
    ValueError
        If there is no such measure.
    """
    match = re.fullmatch(r"(\w+)@(-?\d+)", str(measure))
    if match and match[1] in _MEASURES_AT_K:
        return match[1], int(match[2])
    if measure in _MEASURES:
        return measure, None
    names = [*_MEASURES, *(f"{name}@k" for name in _MEASURES_AT_K)]
    raise ValueError(
        f"there is no measure {measure!r}; choose one of {', '.join(names)}, with a number as k"
    )


def _ranks_among(relevant: NDArray[Any], others: NDArray[Any]) -> Counts:
    """Ranks of the relevant images of one query, from how far they and the others are."""
    if not len(relevant):
        return np.empty(0, np.int64)
    found = np.sort(relevant)
    # Only others that stand before the last relevant image matter, often a few.
    before = np.sort(others[others <= found[-1]])
    return np.searchsorted(before, found, side="right") + np.arange(1, len(found) + 1)


def _average_precision(ranks: RelevantRanks, _: int) -> Floats:
    return ranks.ratios(ranks.sums(ranks.n_found / ranks.ranks), ranks.n_relevant)


def _trapezoidal_average_precision(ranks: RelevantRanks, _: int) -> Floats:
    before = np.ones(len(ranks.ranks))  # the precision where nothing is ranked yet
    np.divide(ranks.n_found - 1, ranks.ranks - 1, out=before, where=ranks.ranks > 1)
    areas = (before + ranks.n_found / ranks.ranks) / 2
    return ranks.ratios(ranks.sums(areas), ranks.n_relevant)


def _average_precision_at_r(ranks: RelevantRanks, _: int) -> Floats:
    within = ranks.ranks <= np.repeat(ranks.n_relevant, ranks.n_relevant)
    return ranks.ratios(ranks.sums(within * ranks.n_found / ranks.ranks), ranks.n_relevant)


def _r_precision(ranks: RelevantRanks, _: int) -> Floats:
    return ranks.ratios(ranks.counts_within(ranks.n_relevant), ranks.n_relevant)


def _ndcg(ranks: RelevantRanks, k: int) -> Floats:
    gains = ranks.sums((ranks.ranks <= k) / np.log2(1 + ranks.ranks))
    best = ranks.sums((ranks.n_found <= k) / np.log2(1 + ranks.n_found))
    return ranks.ratios(gains, best)


def _ukbench_score(ranks: RelevantRanks, _: int) -> Floats:
    return ranks.ratios(ranks.counts_within(UKBENCH_GROUP), 1)


def _precision(ranks: RelevantRanks, k: int) -> Floats:
    return ranks.ratios(ranks.counts_within(k), k)


def _recall(ranks: RelevantRanks, k: int) -> Floats:
    return ranks.ratios(ranks.counts_within(k), ranks.n_relevant)


def _hit_rate(ranks: RelevantRanks, k: int) -> Floats:
    return ranks.ratios(np.minimum(ranks.counts_within(k), 1), 1)


def _revisited_precision(ranks: RelevantRanks, k: int) -> Floats:
    last = np.zeros(len(ranks.n_relevant), np.int64)
    last[ranks.query] = ranks.ranks  # ascending, so the last one stays
    n_first = np.minimum(last, k)
    return ranks.ratios(ranks.counts_within(n_first), n_first)


_MEASURES: dict[str, Measure] = {
    "mean_average_precision": _average_precision,
    "trapezoidal_mean_average_precision": _trapezoidal_average_precision,
    "mean_average_precision_at_r": _average_precision_at_r,
    "r_precision": _r_precision,
    "ndcg": _ndcg,
    "ukbench_score": _ukbench_score,
}
_MEASURES_AT_K: dict[str, Measure] = {
    "precision": _precision,
    "recall": _recall,
    "hit_rate": _hit_rate,
    "ndcg": _ndcg,
    "revisited_precision": _revisited_precision,
}
