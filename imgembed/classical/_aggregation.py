"""From visual words to one vector an image."""

import numpy as np
from numpy.typing import NDArray


def inverse_document_frequency(
    document_frequency: NDArray[np.intp], n_images: int
) -> NDArray[np.float32]:
    """The weight of each word: the rarer, the heavier.

    Parameters
    ----------
    document_frequency : ndarray of shape (n_words,)
        In how many images each word occurs.
    n_images : int
        The number of images.

    Returns
    -------
    idf : ndarray of shape (n_words,), dtype float32
        ``log((1 + n_images) / (1 + document_frequency)) + 1``, which is never zero: with few
        images a word may occur in all of them and still tell them apart by its count.
    """
    idf = np.log((1 + n_images) / (1 + document_frequency)) + 1
    return idf.astype(np.float32)


def bag_of_words(counts: NDArray[np.intp], idf: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weigh counts of words and scale them to unit length.

    Parameters
    ----------
    counts : ndarray of shape (n_images, n_words)
        How often each word occurs in each image.
    idf : ndarray of shape (n_words,), dtype float32

    Returns
    -------
    vectors : ndarray of shape (n_images, n_words), dtype float32
        Of unit L2 norm; an image without words has the zero vector.
    """
    # The square root damps bursts: a repeated pattern is one clue, not hundreds [JDS09].
    weighted = np.sqrt(counts, dtype=np.float32) * idf
    norms = np.linalg.norm(weighted, axis=1, keepdims=True)
    return (weighted / np.where(norms > 0, norms, 1)).astype(np.float32, copy=False)
