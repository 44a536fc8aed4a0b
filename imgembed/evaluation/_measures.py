"""Measures of rankings that are given as matrices of scores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._ranks import Floats, measure_ranks, rank_relevant


def average_precision(scores: Any, relevant: Any) -> Floats:
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
    by giving everything the same score. All measures of this module do so.

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
    return per_query("mean_average_precision", scores, relevant)


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
    return mean_over_queries(average_precision(scores, relevant))


def trapezoidal_mean_average_precision(scores: Any, relevant: Any) -> float:
    """Mean average precision as Oxford5k, Paris6k, Holidays and Copydays define it.

    Parameters
    ----------
    scores : array-like of shape (n_queries, n_images)
        The higher, the nearer.
    relevant : array-like of shape (n_queries, n_images), dtype bool
        Which images answer which query.

    Returns
    -------
    mean_average_precision : float
        In 0..1. The mean over queries that have relevant images.

    Raises
    ------
    ValueError
        If the shapes differ, a score is NaN, or no query has a relevant image.

    Notes
    -----
    The area under the curve of precision over recall by trapezoids: each relevant image
    counts the mean of the precision at its rank and at the rank before, which at rank 0
    is 1. It is never more than 1/2 away from :func:`mean_average_precision`, mostly a little
    below it, and not to be compared with it.

    References
    ----------
    .. [1] J. Philbin et al., "Object retrieval with large vocabularies and fast spatial
       matching", CVPR 2007; the program ``compute_ap`` of its data set.
    .. [2] H. Jegou, M. Douze and C. Schmid, "Hamming embedding and weak geometric consistency
       for large scale image search", ECCV 2008.

    Examples
    --------
    The only relevant image is second: 0 before it, 1/2 at it.

    >>> from imgembed.evaluation import trapezoidal_mean_average_precision
    >>> trapezoidal_mean_average_precision([[3, 2, 1]], [[False, True, False]])
    0.25
    """
    return _mean("trapezoidal_mean_average_precision", scores, relevant)


def mean_average_precision_at_r(scores: Any, relevant: Any) -> float:
    """Mean average precision within the first R images, R being the number of relevant ones.

    Parameters
    ----------
    scores : array-like of shape (n_queries, n_images)
        The higher, the nearer.
    relevant : array-like of shape (n_queries, n_images), dtype bool
        Which images answer which query.

    Returns
    -------
    mean_average_precision_at_r : float
        In 0..1. The mean over queries that have relevant images.

    Raises
    ------
    ValueError
        If the shapes differ, a score is NaN, or no query has a relevant image.

    References
    ----------
    .. [1] K. Musgrave, S. Belongie and S.-N. Lim, "A Metric Learning Reality Check",
       ECCV 2020.

    Examples
    --------
    Of two relevant images one is within the first two:

    >>> from imgembed.evaluation import mean_average_precision_at_r
    >>> mean_average_precision_at_r([[4, 3, 2, 1]], [[True, False, True, False]])
    0.5
    """
    return _mean("mean_average_precision_at_r", scores, relevant)


def r_precision(scores: Any, relevant: Any) -> float:
    """Share of relevant images among the first R, R being their number; mean over queries.

    Parameters
    ----------
    scores : array-like of shape (n_queries, n_images)
        The higher, the nearer.
    relevant : array-like of shape (n_queries, n_images), dtype bool
        Which images answer which query.

    Returns
    -------
    r_precision : float
        In 0..1. The mean over queries that have relevant images.

    Raises
    ------
    ValueError
        If the shapes differ, a score is NaN, or no query has a relevant image.

    References
    ----------
    .. [1] C. Manning, P. Raghavan and H. Schuetze, "Introduction to Information Retrieval",
       Cambridge University Press, 2008, section 8.4.

    Examples
    --------
    >>> from imgembed.evaluation import r_precision
    >>> r_precision([[4, 3, 2, 1]], [[False, True, True, False]])
    0.5
    """
    return _mean("r_precision", scores, relevant)


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
        In 0..1. The mean over queries that have relevant images.

    Raises
    ------
    ValueError
        If the shapes differ, a score is NaN, k is out of range, or no query has a relevant image.

    Examples
    --------
    >>> from imgembed.evaluation import precision_at_k
    >>> precision_at_k([[3, 2, 1]], [[True, False, True]], k=2)
    0.5
    """
    return _mean(f"precision@{k}", scores, relevant)


def recall_at_k(scores: Any, relevant: Any, k: int) -> float:
    """Share of the relevant images that are among the first k, averaged over queries.

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
    recall : float
        In 0..1. The mean over queries that have relevant images.

    Raises
    ------
    ValueError
        If the shapes differ, a score is NaN, k is out of range, or no query has a relevant image.

    Notes
    -----
    Papers on metric learning call :func:`hit_rate_at_k` "Recall@k".

    Examples
    --------
    >>> from imgembed.evaluation import recall_at_k
    >>> recall_at_k([[3, 2, 1]], [[True, False, True]], k=1)
    0.5
    """
    return _mean(f"recall@{k}", scores, relevant)


def hit_rate_at_k(scores: Any, relevant: Any, k: int) -> float:
    """Share of queries with a relevant image among the first k: "Recall@k" in metric learning.

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
    hit_rate : float
        In 0..1. The mean over queries that have relevant images.

    Raises
    ------
    ValueError
        If the shapes differ, a score is NaN, k is out of range, or no query has a relevant image.

    References
    ----------
    .. [1] H. Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding",
       CVPR 2016.

    Examples
    --------
    >>> from imgembed.evaluation import hit_rate_at_k
    >>> hit_rate_at_k([[3, 2, 1]], [[True, False, True]], k=1)
    1.0
    """
    return _mean(f"hit_rate@{k}", scores, relevant)


def ukbench_score(scores: Any, relevant: Any) -> float:
    """How many relevant images are among the first four, averaged over queries.

    Parameters
    ----------
    scores : array-like of shape (n_queries, n_images)
        The higher, the nearer.
    relevant : array-like of shape (n_queries, n_images), dtype bool
        Which images answer which query. In UKBench four, and the query is one of them.

    Returns
    -------
    score : float
        In 0..4. The mean over queries that have relevant images.

    Raises
    ------
    ValueError
        If the shapes differ, a score is NaN, or no query has a relevant image.

    References
    ----------
    .. [1] D. Nister and H. Stewenius, "Scalable Recognition with a Vocabulary Tree", CVPR 2006.

    Examples
    --------
    >>> from imgembed.evaluation import ukbench_score
    >>> ukbench_score([[6, 5, 4, 3, 2, 1]], [[True, True, False, True, False, True]])
    3.0
    """
    return _mean("ukbench_score", scores, relevant)


def per_query(measure: str, scores: Any, relevant: Any, ignored: Any = None) -> Floats:
    """The values of a measure, query by query.

    Parameters
    ----------
    measure : str
        "mean_average_precision", "trapezoidal_mean_average_precision",
        "mean_average_precision_at_r", "r_precision", "ndcg", "ukbench_score", or with a number:
        "precision@5", "recall@5", "hit_rate@5", "ndcg@5", "revisited_precision@5". The last is
        the precision of revisited Oxford and Paris: at the rank of the last relevant image where
        that comes before the fifth.
    scores : array-like of shape (n_queries, n_images)
        The higher, the nearer.
    relevant : array-like of shape (n_queries, n_images), dtype bool
        Which images answer which query.
    ignored : array-like of shape (n_queries, n_images), dtype bool, optional
        Images that are taken out of the ranking of a query before it is measured ("junk").

    Returns
    -------
    values : ndarray of shape (n_queries,), dtype float64
        NaN for a query without relevant images.

    Raises
    ------
    ValueError
        If the shapes differ, a score is NaN, or there is no such measure.

    Examples
    --------
    >>> from imgembed.evaluation import per_query
    >>> per_query("precision@1", [[2, 1], [1, 2]], [[True, False], [True, False]])
    array([1., 0.])
    """
    relevant = np.asarray(relevant, dtype=bool)
    scores = check_scores(scores, relevant, "relevant")
    if ignored is not None:
        ignored = np.asarray(ignored, dtype=bool)
        check_scores(scores, ignored, "ignored")
    return measure_ranks(measure, rank_relevant(-scores, relevant, ignored), scores.shape[1])


def mean_over_queries(values: Floats) -> float:
    """Mean over the queries that have relevant images.

    Parameters
    ----------
    values : ndarray of shape (n_queries,), dtype float64
        NaN for queries without relevant images.

    Returns
    -------
    mean : float

    Raises
    ------
    ValueError
        If no query has a relevant image.
    """
    if np.isnan(values).all():
        raise ValueError("no query has a relevant image, so there is nothing to measure")
    return float(np.nanmean(values))


def check_scores(scores: Any, answers: NDArray[Any], name: str) -> Floats:
    """Scores as float64, refused if they do not fit to the answers.

    Parameters
    ----------
    scores : array-like of shape (n_queries, n_images)
    answers : ndarray of the same shape
    name : str
        What errors call the answers.

    Returns
    -------
    scores : ndarray of shape (n_queries, n_images), dtype float64

    Raises
    ------
    ValueError
        If the shapes differ, there are no scores, or one is NaN.
    """
    checked = np.asarray(scores, dtype=np.float64)
    if checked.ndim != 2 or checked.shape != answers.shape or checked.size == 0:
        raise ValueError(
            f"scores and {name} must both have shape (n_queries, n_images), with at least one "
            f"of each; got {checked.shape} and {answers.shape}"
        )
    if np.isnan(checked).any():
        raise ValueError("scores hold NaN, which has no rank")
    return checked


def _mean(measure: str, scores: Any, relevant: Any) -> float:
    return mean_over_queries(per_query(measure, scores, relevant))
