"""The visual vocabulary: k-means over descriptors, and the nearest word of each."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

# Rows of a distance matrix at a time: this many fit the cache; 8,192 were 1.5 times slower.
_BLOCK = 512
# Lloyd stops when fewer than this share of the descriptors change their word.
_SETTLED = 0.002


def learn_words(
    descriptors: NDArray[np.float32],
    n_words: int,
    n_iterations: int,
    random_state: np.random.RandomState,
) -> NDArray[np.float32]:
    """Cluster descriptors with k-means.

    Lloyd's iterations from distinct random descriptors; a word that loses all its
    descriptors restarts at the descriptor that lies farthest from its own word.

    Parameters
    ----------
    descriptors : ndarray of shape (n_descriptors, n_dimensions), dtype float32
    n_words : int
        At most the number of distinct descriptors.
    n_iterations : int
        The most iterations.
    random_state : RandomState

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
    words = distinct[np.sort(random_state.choice(len(distinct), n_words, replace=False))]
    labels = np.full(len(descriptors), -1)
    for _ in range(n_iterations):
        previous = labels
        labels, distances = assign_words(descriptors, words)
        words = _means(descriptors, labels, distances, n_words)
        if np.mean(labels != previous) < _SETTLED:
            break
    return words


def assign_words(
    descriptors: NDArray[np.float32], words: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The nearest word of each descriptor.

    Parameters
    ----------
    descriptors : ndarray of shape (n_descriptors, n_dimensions), dtype float32
    words : ndarray of shape (n_words, n_dimensions), dtype float32

    Returns
    -------
    labels : ndarray of shape (n_descriptors,), dtype intp
    distances : ndarray of shape (n_descriptors,), dtype float32
        Squared Euclidean, less the squared norm of the descriptor.
    """
    labels = np.empty(len(descriptors), dtype=np.intp)
    distances = np.empty(len(descriptors), dtype=np.float32)
    norms = np.einsum("ij,ij->i", words, words)
    for start in range(0, len(descriptors), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = descriptors[rows] @ (-2 * words.T)
        block += norms
        labels[rows] = block.argmin(axis=1)
        distances[rows] = np.take_along_axis(block, labels[rows, np.newaxis], axis=1)[:, 0]
    return labels, distances


def _means(
    descriptors: NDArray[np.float32],
    labels: NDArray[np.intp],
    distances: NDArray[np.float32],
    n_words: int,
) -> NDArray[np.float32]:
    counts = np.bincount(labels, minlength=n_words)
    ones = np.ones(len(labels), dtype=np.float32)
    membership = sparse.csr_array(
        (ones, (labels, np.arange(len(labels)))), shape=(n_words, len(labels))
    )
    words: NDArray[np.float32] = (membership @ descriptors) / np.maximum(counts, 1)[:, np.newaxis]
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        to_own_word = distances + np.einsum("ij,ij->i", descriptors, descriptors)
        words[empty] = descriptors[np.argsort(-to_own_word, kind="stable")[: len(empty)]]
    return words.astype(np.float32, copy=False)
