"""Aggregator: what makes one vector of the descriptors of an image."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from .._threads import map_ahead, one_blas_thread
from .._vectors import normalise_rows
from .._workers import n_threads_here
from ._descriptors import check_descriptor_sets
from ._vocabulary import VisualVocabulary

Vector = NDArray[np.float32]

# What leaves the vectors as they are, or is in the digest by what was learned.
_NOT_IN_DIGEST = frozenset({"n_jobs", "random_state", "sparse_output", "subsample", "vocabulary"})


class Aggregator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base class of the transformers from sets of local descriptors to vectors.

    A subclass writes ``_fit`` and ``_encode``.

    Parameters
    ----------
    n_jobs : int or None
        Threads that encode; -1 means one for each processor.
    """

    n_jobs: int | None
    _n_features_out: int

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from the descriptors of images.

        Parameters
        ----------
        X : sequence of n_images LocalFeatures or arrays
            Arrays are of shape (n_keypoints, n_dimensions), and their number of rows may differ.
        y : ignored
            For the API of scikit-learn.

        Returns
        -------
        self : Aggregator

        Raises
        ------
        ValueError
            If descriptors differ in kind or width, are not finite, or are too few.
        """
        self._check_parameters()
        self._fit(check_descriptor_sets(X))
        return self

    def transform(self, X: Any) -> Any:
        """Aggregate the descriptors of each image.

        Parameters
        ----------
        X : sequence of n_images LocalFeatures or arrays
            Of the kind and width of those in fit.

        Returns
        -------
        vectors : ndarray of shape (n_images, n_features), dtype float32
            Of unit L2 norm; an image without descriptors has the zero vector.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If descriptors are of another kind or width, or not finite.
        """
        check_is_fitted(self)
        return np.stack(list(self._map(self.encode, check_descriptor_sets(X))))

    def encode(self, descriptors: Any) -> Vector:
        """The vector of one image.

        Parameters
        ----------
        descriptors : LocalFeatures or array of shape (n_keypoints, n_dimensions)

        Returns
        -------
        vector : ndarray of shape (n_features,), dtype float32
        """
        return normalise_rows(self._encode(descriptors))

    def digest(self) -> str:
        """A hash of the method, its parameters and all that it has learned.

        Returns
        -------
        digest : str
            64 hexadecimal digits; equal for aggregators that give the same vectors.
        """
        parameters = self.get_params(deep=False)
        chosen = {k: v for k, v in parameters.items() if k not in _NOT_IN_DIGEST}
        digest = hashlib.sha256(repr((type(self).__qualname__, chosen)).encode())
        for array in self._learned():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _map(self, function: Any, sets: Any) -> Iterator[Any]:
        """A function of each image's descriptors, in threads, in order."""

        def of_row(numbered: tuple[int, Any]) -> Any:
            row, one = numbered
            try:
                return function(one)
            except ValueError as error:
                error.add_note(f"in row {row} of X")
                raise

        n_threads = n_threads_here(self.n_jobs)
        with one_blas_thread():
            yield from map_ahead(of_row, enumerate(sets), n_threads, 4 * n_threads)

    @abstractmethod
    def _check_parameters(self) -> None:
        """Raise if a parameter is wrong."""

    @abstractmethod
    def _fit(self, sets: Any) -> None:
        """Learn, and set ``_n_features_out``."""

    @abstractmethod
    def _learned(self) -> list[Any]:
        """All arrays that decide the vectors."""

    @abstractmethod
    def _encode(self, descriptors: Any) -> Vector:
        """The vector of one image before it is scaled to unit length."""


def power_law(values: Vector, power: float) -> Vector:
    """Values raised to a power, with their sign."""
    return values if power == 1 else np.sign(values) * np.abs(values) ** np.float32(power)


def fit_vocabulary(
    vocabulary: VisualVocabulary | None, n_words: int, sets: Any, random_state: Any
) -> VisualVocabulary:
    """The vocabulary if it is fitted, else a copy of it, or a new one, fitted to sets.

    Parameters
    ----------
    vocabulary : VisualVocabulary or None
        None makes a new one.
    n_words : int
        Words of a new one.
    sets : iterable of LocalFeatures or arrays
        What it learns from.
    random_state : int, RandomState instance or None
        Of a new one.

    Returns
    -------
    vocabulary : VisualVocabulary
    """
    if vocabulary is None:
        vocabulary = VisualVocabulary(n_words, random_state=random_state)
    try:
        check_is_fitted(vocabulary)
    except NotFittedError:
        fitted: VisualVocabulary = clone(vocabulary)
        return fitted.fit(sets)
    for row, one in enumerate(sets):
        vocabulary.check(one, row)
    return vocabulary
