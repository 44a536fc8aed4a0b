"""How sure a mean over queries is, and whether two differ."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from sklearn.utils import check_random_state

from ._ranks import Floats

# Numbers drawn at once: some 30 MB.
_BLOCK_ENTRIES = 2**22


class Interval(NamedTuple):
    """A confidence interval of a mean.

    Parameters
    ----------
    low, high : float
        Its ends.

    Examples
    --------
    >>> from imgembed.evaluation import bootstrap_interval
    >>> bootstrap_interval([0.5, 0.5])
    Interval(low=0.5, high=0.5)
    """

    low: float
    high: float


class PermutationTest(NamedTuple):
    """Whether two embedders differ on the same queries.

    Parameters
    ----------
    difference : float
        The mean of the first one's values less that of the second one's.
    p_value : float
        How often a difference as large, in either direction, comes about when each query
        is given to one or the other by chance.
    n_queries : int
        Queries that both have a value for.
    exact : bool
        Whether all ways of giving were tried, or some drawn.

    Examples
    --------
    >>> from imgembed.evaluation import permutation_test
    >>> permutation_test([0.9, 0.8, 0.7], [0.5, 0.6, 0.1]).exact
    True
    """

    difference: float
    p_value: float
    n_queries: int
    exact: bool


def bootstrap_interval(
    values: Any,
    *,
    confidence: float = 0.95,
    method: str = "bca",
    n_resamples: int = 10_000,
    random_state: Any = None,
) -> Interval:
    """Confidence interval of a mean over queries, by drawing queries again.

    Parameters
    ----------
    values : array-like of shape (n_queries,)
        One measure's value for each query; NaN is left out.
    confidence : float, default=0.95
        Above 0 and below 1.
    method : {"bca", "percentile"}, default="bca"
        Percentiles of the drawn means, corrected for bias and skewness [1]_ or as they are.
    n_resamples : int, default=10_000
    random_state : int, RandomState or None, default=None

    Returns
    -------
    interval : Interval
        (low, high). Both are the mean if all values are equal or there is one only.

    Raises
    ------
    ValueError
        If there is no value, or a parameter is out of range.

    Notes
    -----
    It tells how far the mean would move with other queries against the same database. Queries that
    belong together, as several photographs of one object, make it too narrow: give the
    mean of each object instead.

    References
    ----------
    .. [1] B. Efron, "Better Bootstrap Confidence Intervals", Journal of the American Statistical
       Association 82, 1987.

    Examples
    --------
    >>> from imgembed.evaluation import bootstrap_interval
    >>> low, high = bootstrap_interval([0.2, 0.9, 0.4, 0.7, 0.8, 0.5], random_state=0)
    >>> round(low, 2), round(high, 2)
    (0.38, 0.77)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be above 0 and below 1; got {confidence!r}")
    if method not in ("bca", "percentile"):
        raise ValueError(f"method must be 'bca' or 'percentile'; got {method!r}")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1; got {n_resamples!r}")
    sample = _sample(values)
    if np.ptp(sample) == 0:
        return Interval(float(sample[0]), float(sample[0]))
    means = _drawn_means(sample, n_resamples, check_random_state(random_state))
    levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca":
        levels = _corrected(levels, sample, means)
    low, high = np.quantile(means, levels)
    return Interval(float(low), float(high))


def permutation_test(
    first: Any, second: Any, *, n_permutations: int = 10_000, random_state: Any = None
) -> PermutationTest:
    """Test whether two embedders differ on the same queries, by exchanging their values.

    Parameters
    ----------
    first, second : array-like of shape (n_queries,)
        One measure's values of two embedders, query by query. Queries that are NaN in both are
        left out.
    n_permutations : int, default=10_000
        Exchanges that are drawn; all are tried where there are no more than this.
    random_state : int, RandomState or None, default=None

    Returns
    -------
    test : PermutationTest

    Raises
    ------
    ValueError
        If lengths differ, there is no value, or a query is NaN in one only.

    Notes
    -----
    Under the hypothesis that both are equally good each difference could as well have the other
    sign. Two-sided. Of drawn exchanges the actual one is counted as one more, so that p is never 0.

    References
    ----------
    .. [1] M. Smucker, J. Allan and B. Carterette, "A comparison of statistical significance tests
       for information retrieval evaluation", CIKM 2007.

    Examples
    --------
    Three queries, better in each: of 8 ways to give signs 2 are as far from 0.

    >>> from imgembed.evaluation import permutation_test
    >>> permutation_test([0.9, 0.8, 0.7], [0.5, 0.6, 0.1]).p_value
    0.25
    """
    if n_permutations < 1:
        raise ValueError(f"n_permutations must be at least 1; got {n_permutations!r}")
    differences = _differences(first, second)
    moving = differences[differences != 0]  # signs of the others change nothing
    actual = abs(moving.sum())
    # Sums of the same numbers in another order differ by rounding.
    limit = actual - 1e-12 * np.abs(moving).sum()
    exact = len(moving) < 63 and 2 ** len(moving) <= n_permutations
    signs = (
        _all_signs(len(moving))
        if exact
        else _drawn_signs(len(moving), n_permutations, check_random_state(random_state))
    )
    n_as_far = sum(int((np.abs(some @ moving) >= limit).sum()) for some in signs)
    p_value = n_as_far / 2 ** len(moving) if exact else (n_as_far + 1) / (n_permutations + 1)
    return PermutationTest(float(differences.mean()), p_value, len(differences), exact)


def _sample(values: Any) -> Floats:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1:
        raise ValueError(f"values must have shape (n_queries,); got {sample.shape}")
    sample = sample[~np.isnan(sample)]
    if not len(sample) or not np.isfinite(sample).all():
        raise ValueError("values must hold at least one number, and no inf")
    return sample


def _drawn_means(sample: Floats, n_resamples: int, random: np.random.RandomState) -> Floats:
    blocks = _blocks(n_resamples, len(sample))
    n = len(sample)
    return np.concatenate([sample[random.randint(0, n, (size, n))].mean(axis=1) for size in blocks])


def _corrected(levels: Floats, sample: Floats, means: Floats) -> Floats:
    """Levels of the percentiles, moved by the bias and the acceleration."""
    mean = sample.mean()
    below = ((means < mean).mean() + (means <= mean).mean()) / 2
    bias = ndtri(np.clip(below, 0.5 / len(means), 1 - 0.5 / len(means)))
    # Of a mean, what leaving one value out does is proportional to how far it is from the mean.
    away = sample - mean
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    shifted = bias + ndtri(levels)
    corrected: Floats = ndtr(bias + shifted / (1 - acceleration * shifted))
    return corrected


def _differences(first: Any, second: Any) -> Floats:
    one, other = (np.asarray(each, dtype=np.float64) for each in (first, second))
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(
            "first and second must be values of the same queries, of shape (n_queries,); got "
            f"{one.shape} and {other.shape}"
        )
    if (np.isnan(one) != np.isnan(other)).any():
        raise ValueError("a query is NaN in one and not in the other: were they the same queries?")
    return _sample(one - other)


def _all_signs(n: int) -> Iterator[NDArray[Any]]:
    """Every row of n signs once, in blocks."""
    first = 0
    for size in _blocks(2**n, max(n, 1)):
        bits = np.arange(first, first + size)[:, np.newaxis] >> np.arange(n) & 1
        yield 1.0 - 2 * bits
        first += size


def _drawn_signs(
    n: int, n_permutations: int, random: np.random.RandomState
) -> Iterator[NDArray[Any]]:
    for size in _blocks(n_permutations, n):
        bits: NDArray[np.int8] = random.randint(0, 2, (size, n), dtype=np.int8)
        yield 1.0 - 2 * bits


def _blocks(n_rows: int, n_columns: int) -> list[int]:
    """Sizes of blocks of rows that fit into little memory."""
    step = max(1, _BLOCK_ENTRIES // n_columns)
    return [min(step, n_rows - start) for start in range(0, n_rows, step)]
