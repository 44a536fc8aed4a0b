"""Leakage: images of the test set that the training set has too, nearly or exactly."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._html import html_table
from .._threads import one_blas_thread
from ._distances import check_vectors, farness, prepare_vectors, query_blocks
from ._ranks import Floats

Rows = NDArray[np.int64]

# Share of the median cosine distance below which two images count as nearly the same. On three sets
# of photographs, with HOG and a CNN, one in a million pairs of different things is as near,
# and half of all copies that are cropped, rotated, blurred or marked.
_NEAR = 0.2
# Rows of each side from which the median is taken.
_N_SAMPLED = 400
# Pairs that a notebook shows.
_SHOWN_IN_NOTEBOOK = 20
# How much farther than the threshold products in float32 may seem to be.
_SLACK = 1e-4


@dataclass(frozen=True)
class LeakageReport:
    """Pairs of a training and a test image that are nearly the same.

    Parameters
    ----------
    train_rows, test_rows : ndarray of shape (n_pairs,), dtype int64
        The images of each pair, the nearest pair first.
    distances : ndarray of shape (n_pairs,), dtype float64
        Within the threshold, ascending.
    threshold : float
    n_train, n_test : int
        How many images were compared.

    Examples
    --------
    >>> from imgembed.evaluation import find_leakage
    >>> find_leakage([[1, 0]], [[1, 0], [0, 1]], threshold=0.1)
    LeakageReport(1 of 2 test images, 50.0%, are within 0.1 of one of 1 training images)
    """

    train_rows: Rows
    test_rows: Rows
    distances: Floats
    threshold: float
    n_train: int
    n_test: int

    @property
    def leaked(self) -> Rows:
        """Test images that have a near-duplicate in the training set, each once, ascending."""
        return np.unique(self.test_rows)

    @property
    def share(self) -> float:
        """Share of test images that are leaked, in 0..1."""
        return len(self.leaked) / self.n_test

    def __repr__(self) -> str:
        return f"LeakageReport({self._said()})"

    def _repr_html_(self) -> str:
        pairs = zip(self.train_rows, self.test_rows, self.distances, strict=True)
        return html_table(
            ("training image", "test image", "distance"),
            islice(pairs, _SHOWN_IN_NOTEBOOK),
            caption=self._said(),
            n_more=max(0, len(self.distances) - _SHOWN_IN_NOTEBOOK),
        )

    def _said(self) -> str:
        return (
            f"{len(self.leaked)} of {self.n_test} test images, {self.share:.1%}, are "
            f"within {self.threshold:.4g} of one of {self.n_train} training images"
        )


def find_leakage(
    train: Any, test: Any, *, threshold: float | None = None, metric: str = "cosine"
) -> LeakageReport:
    """Find test images that are nearly the same as a training image.

    Parameters
    ----------
    train : array-like of shape (n_train, n_features)
        Vectors of an embedder.
    test : array-like of shape (n_test, n_features)
        Of the same embedder.
    threshold : float, optional
        The largest distance of a pair, at least 0. By default a fifth of the median cosine
        distance of a training and a test image; for "euclidean" the root of a fifth, 0.447, of
        the median distance, which is the same for vectors of unit length.
    metric : {"cosine", "euclidean"}, default="cosine"

    Returns
    -------
    report : LeakageReport

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, or the threshold or the metric is wrong.

    Notes
    -----
    The default is for sets in which most pairs show different things: where all images look
    alike, as scans of pages, set a threshold by looking at the nearest pairs. What the embedder
    does not see as the same, as strong crops for HOG, is not found.

    References
    ----------
    .. [1] B. Barz and J. Denzler, "Do We Train on Test Data? Purging CIFAR of Near-Duplicates",
       Journal of Imaging 6(6), 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed.evaluation import find_leakage
    >>> vectors = np.random.default_rng(0).normal(size=(100, 64))
    >>> report = find_leakage(vectors[:60], np.concatenate([vectors[60:], vectors[:2] + 0.01]))
    >>> report.leaked
    array([40, 41])
    """
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric must be 'cosine' or 'euclidean'; got {metric!r}")
    if threshold is not None and not 0 <= threshold < np.inf:
        raise ValueError(f"threshold must be a distance, at least 0; got {threshold!r}")
    known, new = check_vectors(train, "train"), check_vectors(test, "test")
    if known.shape[1] != new.shape[1]:
        raise ValueError(
            f"train has {known.shape[1]} features and test {new.shape[1]}; both must come from "
            "the same embedder"
        )
    new, known = prepare_vectors(new, known, metric)
    if threshold is None:
        threshold = _default_threshold(known, new, metric)
    train_rows, test_rows, distances = _near_pairs(known, new, threshold, metric)
    order = np.lexsort((train_rows, test_rows, distances))
    return LeakageReport(
        train_rows[order], test_rows[order], distances[order], threshold, len(known), len(new)
    )


def _default_threshold(known: NDArray[Any], new: NDArray[Any], metric: str) -> float:
    some_known, some_new = _spread(known), _spread(new)
    first = np.repeat(np.arange(len(some_known)), len(some_new))
    second = np.tile(np.arange(len(some_new)), len(some_known))
    median = float(np.median(_distances(some_known, some_new, first, second, metric)))
    return median * (_NEAR if metric == "cosine" else _NEAR**0.5)


def _spread(vectors: NDArray[Any]) -> NDArray[Any]:
    """Rows from all over the set, always the same ones."""
    n = min(_N_SAMPLED, len(vectors))
    return vectors[np.linspace(0, len(vectors) - 1, n).astype(np.int64)]


def _near_pairs(
    known: NDArray[Any], new: NDArray[Any], threshold: float, metric: str
) -> tuple[Rows, Rows, Floats]:
    """Rows of both and distances of the pairs within the threshold."""
    found = []
    with one_blas_thread():
        for block in query_blocks(len(new), len(known)):
            rows, others = np.nonzero(_may_be_near(known, new[block], threshold, metric))
            distances = _distances(known, new[block], others, rows, metric)
            near = distances <= threshold
            found.append((others[near], rows[near] + block.start, distances[near]))
    train_rows, test_rows, distances = (np.concatenate(each) for each in zip(*found, strict=True))
    return train_rows, test_rows, distances


def _may_be_near(
    known: NDArray[Any], new: NDArray[Any], threshold: float, metric: str
) -> NDArray[np.bool_]:
    """Pairs that are within the threshold, and a few that are not, of shape (n_new, n_known)."""
    far = farness(new, known, metric)
    limit: Any = threshold - 1 + _SLACK
    if metric == "euclidean":
        half_squares = (new * new).sum(axis=1, keepdims=True) / 2
        largest = (known * known).sum(axis=1).max()
        limit = threshold**2 / 2 - half_squares + _SLACK * (half_squares + largest)
    near: NDArray[np.bool_] = np.less_equal(far, limit)
    return near


def _distances(
    known: NDArray[Any], new: NDArray[Any], known_rows: Rows, new_rows: Rows, metric: str
) -> Floats:
    """Distances of pairs from their differences: exactly 0 for equal vectors."""
    squares = np.empty(len(known_rows))
    step = max(1, 2**22 // known.shape[1])
    for start in range(0, len(squares), step):
        some = slice(start, start + step)
        difference = known[known_rows[some]].astype(np.float64) - new[new_rows[some]]
        squares[some] = np.einsum("ij,ij->i", difference, difference)
    if metric == "euclidean":
        return np.sqrt(squares)
    # Half the square, for unit vectors; those of zeros are at 1 from all, as in the index.
    zero_known, zero_new = (~np.any(each, axis=1) for each in (known, new))
    return np.where(zero_known[known_rows] | zero_new[new_rows], 1.0, squares / 2)
