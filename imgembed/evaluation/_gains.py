"""Measures of rankings whose images answer a query more or less well."""

from typing import Any

import numpy as np

from ._measures import check_scores, mean_over_queries
from ._ranks import Floats


def ndcg(scores: Any, relevance: Any, k: int | None = None) -> float:
    """Normalised discounted cumulative gain, averaged over queries.

    Parameters
    ----------
    scores : array-like of shape (n_queries, n_images)
        The higher, the nearer.
    relevance : array-like of shape (n_queries, n_images), bool or numbers from 0
        How well each image answers each query: its gain.
    k : int, optional
        How many of the first images count, from 1 to n_images; all by default.

    Returns
    -------
    ndcg : float
        In 0..1. The mean over queries that have relevant images.

    Raises
    ------
    ValueError
        If the shapes differ, a score is NaN, a relevance is below 0 or not finite, k is out of
        range, or no query has a relevant image.

    Notes
    -----
    A gain at rank i counts 1 / log2(1 + i); the sum is divided by that of the best ranking.
    Gains are taken as they are: for 2^relevance - 1 give that.

    References
    ----------
    .. [1] K. Jarvelin and J. Kekalainen, "Cumulated gain-based evaluation of IR techniques",
       ACM Transactions on Information Systems 20(4), 2002.

    Examples
    --------
    >>> from imgembed.evaluation import ndcg
    >>> round(ndcg([[3, 2, 1]], [[0, 2, 1]]), 4)
    0.6697
    """
    return mean_over_queries(ndcg_per_query(scores, relevance, k))


def ndcg_per_query(scores: Any, relevance: Any, k: int | None = None) -> Floats:
    """Normalised discounted cumulative gain of each query.

    Parameters
    ----------
    scores : array-like of shape (n_queries, n_images)
        The higher, the nearer.
    relevance : array-like of shape (n_queries, n_images), bool or numbers from 0
        How well each image answers each query: its gain.
    k : int, optional
        How many of the first images count, from 1 to n_images; all by default.

    Returns
    -------
    ndcg : ndarray of shape (n_queries,), dtype float64
        NaN for a query without relevant images.

    Raises
    ------
    ValueError
        As for :func:`ndcg`.

    Examples
    --------
    >>> from imgembed.evaluation import ndcg_per_query
    >>> ndcg_per_query([[3, 2, 1], [3, 2, 1]], [[2, 1, 0], [0, 0, 0]])
    array([ 1., nan])
    """
    gains = np.asarray(relevance, dtype=np.float64)
    scores = check_scores(scores, gains, "relevance")
    if not np.isfinite(gains).all() or gains.min() < 0:
        raise ValueError("relevance must be finite and at least 0: it is a gain")
    n_images = gains.shape[1]
    if k is not None and not 1 <= k <= n_images:
        raise ValueError(f"k must be from 1 to the number of images, {n_images}; got {k}")
    ranked = np.take_along_axis(gains, np.lexsort((gains, -scores), axis=1), axis=1)
    discounts = 1 / np.log2(np.arange(2, 2 + n_images))[:k]
    best = np.sort(gains, axis=1)[:, ::-1][:, :k] @ discounts
    values = np.full(len(gains), np.nan)
    np.divide(ranked[:, :k] @ discounts, best, out=values, where=best > 0)
    return values
