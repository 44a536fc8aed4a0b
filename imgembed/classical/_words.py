"""The arithmetic of visual words: which are nearest to a descriptor, and k-means.

Descriptors are uint8 or float32 rows, or bits packed into bytes; they become float32 points
block by block. Between points of bits the squared Euclidean distance is the Hamming distance.
"""

from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .._threads import map_ahead, one_blas_thread
from ._descriptors import Encode, Points, as_points

Labels = NDArray[np.intp]

# Descriptors and words of one matrix product, whose 2 MB of distances stay in the cache until
# the smallest have been found. All of 4,096 words at once take a tenth longer.
_BLOCK = 1024
_WORDS_BLOCK = 512
# Descriptors at a time while means are taken.
_MEANS_BLOCK = 2**15
# Lloyd stops when fewer than this share of the descriptors change their word.
_SETTLED = 0.002
# Iterations for the start of k-means, on parts of the descriptors: cheap.
_START_ITERATIONS = 8
# Iterations that sort words into cells.
_CELL_ITERATIONS = 6


class Assigner(Protocol):
    """What finds the nearest words of points."""

    def nearest(self, points: Points, n_nearest: int) -> tuple[Labels, Points]:
        """Words and squared distances (less the point's squared norm), nearest first."""


class ExactAssigner:
    """The nearest of all words, by matrix products.

    Parameters
    ----------
    words : ndarray of shape (n_words, n_dimensions), dtype float32
    """

    def __init__(self, words: Points) -> None:
        self.words = words
        self._starts = range(0, len(words), _WORDS_BLOCK)
        self._blocks = [_with_norms(words[start : start + _WORDS_BLOCK]) for start in self._starts]

    def nearest(self, points: Points, n_nearest: int) -> tuple[Labels, Points]:
        """Words and squared distances of shape (n_points, n_nearest), nearest first."""
        points = _with_ones(points)
        found = [
            _smallest(points @ words, min(n_nearest, words.shape[1])) for words in self._blocks
        ]
        labels = np.hstack(
            [start + best for start, (best, _) in zip(self._starts, found, strict=True)]
        )
        chosen, distances = _smallest(np.hstack([best for _, best in found]), n_nearest)
        return np.take_along_axis(labels, chosen, axis=1), distances


class CellAssigner:
    """The nearest of the words in the nearest cells: approximate, and faster for many words.

    Words are sorted into cells by k-means, and only those in the ``n_probes`` nearest
    cells are compared: an inverted file [1]_ whose lists are matrices, so that each is one
    product for all descriptors of an image that look into it.

    Parameters
    ----------
    words : ndarray of shape (n_words, n_dimensions), dtype float32
    centres : ndarray of shape (n_cells, n_dimensions), dtype float32
    cell_of : ndarray of shape (n_words,), dtype intp
        The cell of each word.
    n_probes : int
        Cells that are looked into.
    agreement : float
        For which share of descriptors the exact nearest word was found.

    References
    ----------
    .. [1] J. Sivic and A. Zisserman, "Video Google: A Text Retrieval Approach to Object
       Matching in Videos", ICCV 2003.
    """

    def __init__(
        self,
        words: Points,
        centres: Points,
        cell_of: Labels,
        n_probes: int,
        agreement: float,
    ) -> None:
        self.words, self.centres, self.cell_of = words, centres, cell_of
        self.n_probes, self.agreement = n_probes, agreement
        self._order = np.argsort(cell_of, kind="stable")
        self._starts = np.searchsorted(cell_of[self._order], np.arange(len(centres) + 1))
        self._centres = _with_norms(centres)
        self._cells = [
            _with_norms(words[self._order[start:end]])
            for start, end in zip(self._starts, self._starts[1:], strict=False)
        ]

    @classmethod
    def learn(
        cls, words: Points, descriptors: NDArray[Any], encode: Encode, agreement: float
    ) -> Self:
        """Sort words into cells, and find how many must be looked into.

        Parameters
        ----------
        words : ndarray of shape (n_words, n_dimensions), dtype float32
        descriptors : ndarray of shape (n_descriptors, n_dimensions)
            What the agreement is measured on.
        encode : callable
            Makes points of descriptors.
        agreement : float
            The share of descriptors for which the exact nearest word must be found.
        """
        n_cells = max(1, round(len(words) ** 0.5 / 2))
        centres, cell_of = lloyd(
            words, words[:: -(-len(words) // n_cells)], _CELL_ITERATIONS, as_points, 1
        )
        labels = assign(descriptors, encode, ExactAssigner(words), 1, 1)[0][:, 0]
        to_cells = _with_ones(encode(descriptors)) @ _with_norms(centres)
        to_right_cell = np.take_along_axis(to_cells, cell_of[labels][:, np.newaxis], axis=1)
        rank = (to_cells < to_right_cell).sum(axis=1)
        n_probes = 1 + int(np.quantile(rank, agreement, method="inverted_cdf"))
        return cls(words, centres, cell_of, n_probes, float((rank < n_probes).mean()))

    def nearest(self, points: Points, n_nearest: int) -> tuple[Labels, Points]:
        """Words and squared distances of shape (n_points, n_nearest), nearest first."""
        points = _with_ones(points)
        probes = _smallest(points @ self._centres, self.n_probes)[0].ravel()
        by_cell = np.argsort(probes, kind="stable")
        ends = np.searchsorted(probes[by_cell], np.arange(len(self._cells) + 1))
        labels = np.zeros((len(probes), n_nearest), dtype=np.intp)
        distances = np.full((len(probes), n_nearest), np.inf, dtype=np.float32)
        sorted_points = points[by_cell // self.n_probes]
        for cell, words in enumerate(self._cells):
            rows = slice(ends[cell], ends[cell + 1])
            if rows.start < rows.stop:
                n_found = min(n_nearest, words.shape[1])
                found, distance = _smallest(sorted_points[rows] @ words, n_found)
                labels[by_cell[rows], :n_found] = self._starts[cell] + found
                distances[by_cell[rows], :n_found] = distance
        labels, distances = labels.reshape(len(points), -1), distances.reshape(len(points), -1)
        chosen, distances = _smallest(distances, n_nearest)
        return self._order[np.take_along_axis(labels, chosen, axis=1)], distances


def assign(
    descriptors: NDArray[Any], encode: Encode, assigner: Assigner, n_nearest: int, n_threads: int
) -> tuple[Labels, Points]:
    """The nearest words of descriptors, in blocks that do not depend on the threads.

    Parameters
    ----------
    descriptors : ndarray of shape (n_descriptors, n_dimensions)
    encode : callable
        Makes points of a block of descriptors.
    assigner : Assigner
    n_nearest : int
        How many words for each descriptor.
    n_threads : int

    Returns
    -------
    labels : ndarray of shape (n_descriptors, n_nearest), dtype intp
        Nearest first.
    distances : ndarray of shape (n_descriptors, n_nearest), dtype float32
        Squared Euclidean, less the squared norm of the descriptor.
    """
    labels = np.empty((len(descriptors), n_nearest), dtype=np.intp)
    distances = np.empty((len(descriptors), n_nearest), dtype=np.float32)

    def assign_block(start: int) -> None:
        rows = slice(start, start + _BLOCK)
        labels[rows], distances[rows] = assigner.nearest(encode(descriptors[rows]), n_nearest)

    starts = range(0, len(descriptors), _BLOCK)
    with one_blas_thread():
        if n_threads == 1 or len(starts) == 1:
            for start in starts:
                assign_block(start)
        else:
            for _ in map_ahead(assign_block, starts, n_threads, 4 * n_threads):
                pass
    return labels, distances


def learn_words(
    descriptors: NDArray[Any],
    encode: Encode,
    n_words: int,
    n_iterations: int,
    make_assigner: Callable[[Points], Assigner],
    random_state: np.random.RandomState,
    n_threads: int,
) -> Points:
    """Cluster descriptors with k-means.

    The start is k-means in two levels: about ``sqrt(n_words)`` groups, and in each its share
    of the words. It costs less than one iteration over all words, and after it few
    are needed.

    Parameters
    ----------
    descriptors : ndarray of shape (n_descriptors, n_dimensions)
    encode : callable
        Makes points of descriptors.
    n_words : int
        At most the number of distinct descriptors.
    n_iterations : int
        The most iterations of Lloyd after the start.
    make_assigner : callable
        Makes what finds the nearest of given words.
    random_state : RandomState
    n_threads : int
        The words do not depend on it.

    Returns
    -------
    words : ndarray of shape (n_words, n_dimensions), dtype float32

    Raises
    ------
    ValueError
        If there are fewer distinct descriptors than words.
    """
    distinct = np.unique(descriptors, axis=0)
    if len(distinct) < n_words:
        raise ValueError(
            f"the images have {len(distinct)} distinct descriptors, too few for n_words={n_words}; "
            "give more images or fewer words"
        )
    start = _two_level_start(distinct, encode, n_words, random_state, n_threads)
    return lloyd(descriptors, start, n_iterations, encode, n_threads, make_assigner)[0]


def lloyd(
    descriptors: NDArray[Any],
    words: Points,
    n_iterations: int,
    encode: Encode,
    n_threads: int,
    make_assigner: Callable[[Points], Assigner] = ExactAssigner,
) -> tuple[Points, Labels]:
    """Lloyd's iterations: assign descriptors to words, move words to the means.

    A word that loses all its descriptors restarts at the one that is farthest from its own.

    Parameters
    ----------
    descriptors : ndarray of shape (n_descriptors, n_dimensions)
    words : ndarray of shape (n_words, n_dimensions), dtype float32
        The start.
    n_iterations : int
        The most iterations.
    encode : callable
        Makes points of descriptors.
    n_threads : int
    make_assigner : callable
        Makes what finds the nearest of given words.

    Returns
    -------
    words : ndarray of shape (n_words, n_dimensions), dtype float32
    labels : ndarray of shape (n_descriptors,), dtype intp
        The word of each descriptor before the words moved for the last time.
    """
    labels = np.full(len(descriptors), -1)
    for _ in range(n_iterations):
        previous = labels
        nearest, distances = assign(descriptors, encode, make_assigner(words), 1, n_threads)
        labels = nearest[:, 0]
        words = _means(descriptors, encode, labels, distances[:, 0], words)
        if np.mean(labels != previous) < _SETTLED:
            break
    return words, labels


def _two_level_start(
    distinct: NDArray[Any],
    encode: Encode,
    n_words: int,
    random_state: np.random.RandomState,
    n_threads: int,
) -> Points:
    n_groups = round(n_words**0.5)
    _, group_of = lloyd(
        distinct, _draw(distinct, encode, n_groups, random_state), _START_ITERATIONS, encode,
        n_threads,
    )  # fmt: skip
    groups = np.split(
        np.argsort(group_of, kind="stable"), np.bincount(group_of, minlength=n_groups).cumsum()[:-1]
    )
    sizes = np.array([len(group) for group in groups])
    starts = [
        (distinct[group], _draw(distinct[group], encode, share, random_state))
        for group, share in zip(groups, _shares(sizes, n_words), strict=True)
        if share
    ]

    def learn_group(start: tuple[NDArray[Any], Points]) -> Points:
        return lloyd(*start, _START_ITERATIONS, encode, 1)[0]

    with one_blas_thread():
        return np.concatenate(list(map_ahead(learn_group, starts, n_threads, 4 * n_threads)))


def _draw(
    distinct: NDArray[Any], encode: Encode, n: int, random_state: np.random.RandomState
) -> Points:
    return encode(distinct[np.sort(random_state.choice(len(distinct), n, replace=False))])


def _shares(sizes: NDArray[np.intp], n_words: int) -> NDArray[np.intp]:
    """Words for groups in proportion to their sizes, rounded by the largest remainders."""
    exact = sizes * n_words / sizes.sum()
    shares: Labels = exact.astype(np.intp)
    largest = np.argsort(shares - exact, kind="stable")[: n_words - shares.sum()]
    shares[largest] += 1
    return shares


def _means(
    descriptors: NDArray[Any], encode: Encode, labels: Labels, distances: Points, words: Points
) -> Points:
    counts = np.bincount(labels, minlength=len(words))
    sums = np.zeros(words.shape, dtype=np.float64)
    norms = np.empty(len(descriptors), dtype=np.float32)
    for start in range(0, len(descriptors), _MEANS_BLOCK):
        rows = slice(start, start + _MEANS_BLOCK)
        points = encode(descriptors[rows])
        sums += membership(labels[rows], len(words)) @ points
        norms[rows] = np.einsum("ij,ij->i", points, points)
    means: Points = (sums / np.maximum(counts, 1)[:, np.newaxis]).astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        farthest = np.argsort(-(distances + norms), kind="stable")[: len(empty)]
        means[empty] = encode(descriptors[farthest])
    return means


def membership(labels: Labels, n_words: int) -> sparse.csr_array:
    """A matrix of shape (n_words, n_descriptors) that sums descriptors by word."""
    ones = np.ones(len(labels), dtype=np.float32)
    return sparse.csr_array((ones, (labels, np.arange(len(labels)))), shape=(n_words, len(labels)))


def _with_norms(words: Points) -> Points:
    """Words as columns, so that a product with points and ones gives squared distances."""
    norms = np.einsum("ij,ij->i", words, words)
    return np.ascontiguousarray(np.vstack([-2 * words.T, norms]), dtype=np.float32)


def _with_ones(points: Points) -> Points:
    extended = np.ones((len(points), points.shape[1] + 1), dtype=np.float32)
    extended[:, :-1] = points
    return extended


def _smallest(distances: Points, n: int) -> tuple[Labels, Points]:
    """Columns and values of the n smallest entries of each row, smallest first."""
    if n == 1:
        columns = distances.argmin(axis=1)[:, np.newaxis]
    else:
        columns = np.argpartition(distances, min(n, distances.shape[1]) - 1, axis=1)[:, :n]
    values = np.take_along_axis(distances, columns, axis=1)
    if n > 1:
        order = np.argsort(values, axis=1, kind="stable")
        columns = np.take_along_axis(columns, order, axis=1)
        values = np.take_along_axis(values, order, axis=1)
    return columns, values
