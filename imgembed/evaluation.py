"""Quality of a search: arrays in, numbers out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def average_precision(scores: Any, relevant: Any) -> NDArray[np.float64]:
    """Average precision of each query's ranking.

    Parameters
    ----------
    scores : array-like of shape (n_queries, n_images)
        The higher, the nearer. For distances give their negative.
    relevant : array-like of shape (n_queries, n_images), dtype bool
        Which images answer which query.

    Returns
    -------
    average_precision : ndarray of shape (n_queries,), dtype float64
        The mean, over the relevant images, of the precision at their rank. NaN for a query
        without relevant images.

    Raises
    ------
    ValueError
        If the shapes differ, or a score is NaN.

    Notes
    -----
    Equal scores are ranked with the relevant images last, so that a method gains nothing
    by giving everything the same score.

    References
    ----------
    .. [1] C. Manning, P. Raghavan and H. Schuetze, "Introduction to Information Retrieval",
       Cambridge University Press, 2008, section 8.4.

    Examples
    --------
    >>> from imgembed.evaluation import average_precision
    >>> average_precision([[0.9, 0.8, 0.7, 0.6]], [[True, False, True, False]]).round(4)
    array([0.8333])
    """
    hits = _ranked_relevance(scores, relevant)
    found = hits.cumsum(axis=1)
    precision = found / np.arange(1, hits.shape[1] + 1)
    n_relevant = hits.sum(axis=1)
    total = (precision * hits).sum(axis=1)
    averages = np.full(len(hits), np.nan)
    np.divide(total, n_relevant, out=averages, where=n_relevant > 0)
    return averages


def mean_average_precision(scores: Any, relevant: Any) -> float:
    """Mean of the average precision over queries that have relevant images.

    Parameters
    ----------
    scores : array-like of shape (n_queries, n_images)
        The higher, the nearer.
    relevant : array-like of shape (n_queries, n_images), dtype bool
        Which images answer which query.

    Returns
    -------
    mean_average_precision : float
        In 0..1.

    Raises
    ------
    ValueError
        If the shapes differ, a score is NaN, or no query has a relevant image.

    Examples
    --------
    >>> from imgembed.evaluation import mean_average_precision
    >>> mean_average_precision([[3, 2, 1], [1, 2, 3]], [[True, False, False]] * 2)
    0.6666666666666666
    """
    precision = average_precision(scores, relevant)
    if np.isnan(precision).all():
        raise ValueError("no query has a relevant image, so there is no mean average precision")
    return float(np.nanmean(precision))


def precision_at_k(scores: Any, relevant: Any, k: int) -> float:
    """Share of relevant images among the first k, averaged over queries.

    Parameters
    ----------
    scores : array-like of shape (n_queries, n_images)
        The higher, the nearer.
    relevant : array-like of shape (n_queries, n_images), dtype bool
        Which images answer which query.
    k : int
        How many of the first images count, from 1 to n_images.

    Returns
    -------
    precision : float
        In 0..1.

    Raises
    ------
    ValueError
        If the shapes differ, a score is NaN, or k is out of range.

    Examples
    --------
    >>> from imgembed.evaluation import precision_at_k
    >>> precision_at_k([[3, 2, 1]], [[True, False, True]], k=2)
    0.5
    """
    hits = _ranked_relevance(scores, relevant)
    if not 1 <= k <= hits.shape[1]:
        raise ValueError(f"k must be from 1 to the number of images, {hits.shape[1]}, got {k}")
    return float(hits[:, :k].mean())


def _ranked_relevance(scores: Any, relevant: Any) -> NDArray[np.bool_]:
    """Relevance in the order of falling scores, of shape (n_queries, n_images)."""
    scores = np.asarray(scores, dtype=np.float64)
    relevant = np.asarray(relevant, dtype=bool)
    if scores.ndim != 2 or scores.shape != relevant.shape or scores.size == 0:
        raise ValueError(
            "scores and relevant must both have shape (n_queries, n_images), with at least one "
            f"of each; got {scores.shape} and {relevant.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN, which has no rank")
    order = np.lexsort((relevant, -scores), axis=1)
    ranked: NDArray[np.bool_] = np.take_along_axis(relevant, order, axis=1)
    return ranked
