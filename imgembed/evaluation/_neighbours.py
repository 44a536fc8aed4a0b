"""Accuracy of a nearest-neighbour classifier on embeddings, each image left out in turn."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._threads import map_ahead, one_blas_thread
from .._workers import n_threads_here
from ._distances import check_vectors, farness, prepare_vectors, query_blocks
from ._ranks import Flags


def knn_accuracy(
    vectors: Any,
    labels: Iterable[Hashable],
    n_neighbors: int = 5,
    *,
    metric: str = "cosine",
    n_jobs: int | None = -1,
) -> float:
    """Share of images that their nearest neighbours classify correctly, each left out in turn.

    Parameters
    ----------
    vectors : array-like of shape (n_images, n_features)
    labels : sequence of hashable, of length n_images
    n_neighbors : int, default=5
        From 1 to n_images - 1.
    metric : {"cosine", "euclidean", "ip"}, default="cosine"
    n_jobs : int or None, default=-1
        Threads; -1 means one for each processor.

    Returns
    -------
    accuracy : float
        In 0..1.

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, or n_neighbors is out of range.

    Examples
    --------
    >>> from imgembed.evaluation import knn_accuracy
    >>> knn_accuracy([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], ["a", "a", "b", "b"], n_neighbors=1)
    1.0
    """
    correct = knn_correct(vectors, labels, n_neighbors, metric=metric, n_jobs=n_jobs)
    return float(correct.mean())


def knn_correct(
    vectors: Any,
    labels: Iterable[Hashable],
    n_neighbors: int = 5,
    *,
    metric: str = "cosine",
    n_jobs: int | None = -1,
) -> Flags:
    """Which images their nearest neighbours classify correctly, each left out in turn.

    Parameters
    ----------
    vectors : array-like of shape (n_images, n_features)
    labels : sequence of hashable, of length n_images
    n_neighbors : int, default=5
        From 1 to n_images - 1.
    metric : {"cosine", "euclidean", "ip"}, default="cosine"
    n_jobs : int or None, default=-1
        Threads; -1 means one for each processor.

    Returns
    -------
    correct : ndarray of shape (n_images,), dtype bool

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, or n_neighbors is out of range.

    Notes
    -----
    Each neighbour has one vote. An image is classified correctly if its label has more votes
    than any other; a draw is not enough. Of equally far images those with other labels are
    the nearer neighbours.

    References
    ----------
    .. [1] T. Cover and P. Hart, "Nearest neighbor pattern classification", IEEE Transactions on
       Information Theory 13(1), 1967.

    Examples
    --------
    >>> from imgembed.evaluation import knn_correct
    >>> knn_correct([[1, 0], [1, 0.1], [0, 1]], ["a", "a", "b"], n_neighbors=1)
    array([ True,  True, False])
    """
    checked = check_vectors(vectors, "vectors")
    codes = _codes(labels, len(checked))
    if not 1 <= n_neighbors < len(checked):
        raise ValueError(
            f"n_neighbors must be from 1 to {len(checked) - 1}, all images but the query; got "
            f"{n_neighbors}"
        )
    prepared, _ = prepare_vectors(checked, checked, metric)

    def classify(block: slice) -> Flags:
        far = farness(prepared[block], prepared, metric)
        far[np.arange(len(far)), np.arange(block.start, block.stop)] = np.inf
        neighbours = _nearest_labels(far, codes, codes[block], n_neighbors)
        return _has_most_votes(neighbours, codes[block])

    n_threads = n_threads_here(n_jobs)
    blocks = query_blocks(len(prepared), len(prepared))
    with one_blas_thread():
        return np.concatenate(list(map_ahead(classify, blocks, n_threads, n_threads)))


def _codes(labels: Iterable[Hashable], n_images: int) -> NDArray[np.int64]:
    numbers: dict[Hashable, int] = {}
    labels = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    codes = np.array([numbers.setdefault(label, len(numbers)) for label in labels], np.int64)
    if len(codes) != n_images:
        raise ValueError(f"each of {n_images} vectors needs a label; got {len(codes)} labels")
    return codes


def _nearest_labels(
    far: NDArray[Any], codes: NDArray[np.int64], own: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """Labels of the k nearest images of each query, in no order; of shape (n_queries, k)."""
    nearest = np.argpartition(far, k - 1, axis=1)[:, :k]
    last = np.take_along_axis(far, nearest, 1).max(axis=1, keepdims=True)
    found: NDArray[np.int64] = codes[nearest]
    # Where more are as far as the last one, those with other labels come first.
    for i in np.flatnonzero((far <= last).sum(axis=1) > k):
        before, equal = codes[far[i] < last[i]], codes[far[i] == last[i]]
        others_first = np.argsort(equal == own[i], kind="stable")
        found[i] = np.concatenate([before, equal[others_first]])[:k]
    return found


def _has_most_votes(neighbours: NDArray[np.int64], own: NDArray[np.int64]) -> Flags:
    """Whether more neighbours have the query's own label than any other label."""
    own = own[:, np.newaxis]
    n_own = (neighbours == own).sum(axis=1)
    others = np.where(neighbours == own, -1, neighbours)
    others.sort(axis=1)
    starts = np.ones_like(others, bool)
    starts[:, 1:] = others[:, 1:] != others[:, :-1]
    column = np.arange(others.shape[1])
    length = column - np.maximum.accumulate(np.where(starts, column, 0), axis=1) + 1
    most = np.where(others < 0, 0, length).max(axis=1)
    correct: Flags = n_own > most
    return correct
