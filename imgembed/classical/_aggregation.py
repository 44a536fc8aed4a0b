"""From the descriptors of an image to one vector: bags of visual words, and VLAD."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from .._threads import map_ahead, one_blas_thread
from .._vectors import normalise_rows
from ..base import check_choice
from ._descriptors import check_descriptor_sets
from ._vocabulary import VisualVocabulary
from ._words import membership

Vector = NDArray[np.float32]

# Of 0.1 to 1.0 times the root mean squared distance, the best on photographs of covers. Wider
# is worse than hard assignment.
_SIGMA = 0.15
# What leaves the vectors as they are, or is in the digest by what was learned.
_NOT_IN_DIGEST = frozenset({"n_jobs", "random_state", "sparse_output", "subsample", "vocabulary"})
_TERM_FREQUENCIES: dict[str, Callable[[Any], Any]] = {
    "count": lambda counts: counts,
    "sqrt": np.sqrt,
    "log": np.log1p,
    "binary": np.sign,
}


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

        n_threads = effective_n_jobs(self.n_jobs)
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


class BagOfVisualWords(Aggregator):
    """Describe an image by how often each visual word occurs in it.

    Parameters
    ----------
    vocabulary : VisualVocabulary, optional
        A fitted one is used as it is; an unfitted one is cloned and fitted. By default one of
        1,000 words.
    tf : {"sqrt", "count", "log", "binary"}, default="sqrt"
        How a count enters. "sqrt" normalises bursts, by which a repeated pattern counts as
        one clue and not as hundreds [3]_; "log" is the sub-linear ``1 + log(count)`` of text
        retrieval, here ``log(1 + count)``; "count" is the plain count, and "binary" whether
        the word occurs.
    idf : bool, default=True
        Weigh words by how rare they are, by the images in fit.
    n_nearest : int, default=1
        Words that a descriptor counts for. More (3 to 5) is soft assignment [2]_: less is
        lost between two words, vectors are less sparse, and noise is matched too. Try both.
    sigma : float or None, default=None
        Soft assignment weighs a word at distance d by ``exp(-d**2 / (2 * sigma**2))``, and the
        weights of a descriptor sum to 1. None takes 0.15 times the root mean squared distance to
        the nearest word in fit.
    sparse_output : bool, default=False
        Return a CSR array: of 65,536 words an image has a thousand.
    n_jobs : int or None, default=-1
        Threads; -1 means one for each processor. The vectors do not depend on it.
    random_state : int, RandomState instance or None, default=None
        For the vocabulary, if none is given.

    Attributes
    ----------
    vocabulary_ : VisualVocabulary
        The fitted vocabulary.
    idf_ : ndarray of shape (n_words,), dtype float32
        The weight of each word, ``log((1 + n_images) / (1 + df)) + 1``; ones without idf.
    sigma_ : float
        The scale of soft assignment.
    n_images_ : int
        Images that the weights were learned from.

    See Also
    --------
    VLAD : Shorter vectors from fewer words.

    Notes
    -----
    The weight of a word is never zero, other than that of [1]_: with few images a word may
    occur in all of them, and still tell them apart by its count.

    References
    ----------
    .. [1] J. Sivic and A. Zisserman, "Video Google: A Text Retrieval Approach to Object
       Matching in Videos", ICCV 2003.
    .. [2] J. Philbin, O. Chum, M. Isard, J. Sivic and A. Zisserman, "Lost in quantization:
       Improving particular object retrieval in large scale image databases", CVPR 2008.
    .. [3] H. Jegou, M. Douze and C. Schmid, "On the burstiness of visual elements",
       CVPR 2009.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import BagOfVisualWords, VisualVocabulary
    >>> tokens = np.random.default_rng(0).random((6, 50, 8), dtype=np.float32)
    >>> bags = BagOfVisualWords(VisualVocabulary(20, random_state=0), sparse_output=True)
    >>> bags.fit_transform(tokens).shape
    (6, 20)
    """

    def __init__(
        self,
        vocabulary: VisualVocabulary | None = None,
        *,
        tf: str = "sqrt",
        idf: bool = True,
        n_nearest: int = 1,
        sigma: float | None = None,
        sparse_output: bool = False,
        n_jobs: int | None = -1,
        random_state: Any = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.tf = tf
        self.idf = idf
        self.n_nearest = n_nearest
        self.sigma = sigma
        self.sparse_output = sparse_output
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Learn from the descriptors of images and aggregate them, counting words once.

        Parameters
        ----------
        X : sequence of n_images LocalFeatures or arrays
            As in :meth:`fit`.
        y : ignored
            For the API of scikit-learn.

        Returns
        -------
        vectors : ndarray or csr_array of shape (n_images, n_words), dtype float32
            As from :meth:`transform`.
        """
        self._check_parameters()
        return self._weighed(self._learn(check_descriptor_sets(X)))

    def transform(self, X: Any) -> Any:
        """Count the words of each image and weigh them.

        Parameters
        ----------
        X : sequence of n_images LocalFeatures or arrays
            Of the kind and width of those in fit.

        Returns
        -------
        vectors : ndarray or csr_array of shape (n_images, n_words), dtype float32
            Of unit L2 norm; an image without descriptors has the zero vector.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If descriptors are of another kind or width, or not finite.
        """
        check_is_fitted(self)
        return self._weighed(self._counts(check_descriptor_sets(X)))

    def _check_parameters(self) -> None:
        check_choice("tf", self.tf, tuple(_TERM_FREQUENCIES))
        check_choice("idf", self.idf, (True, False))
        check_choice("sparse_output", self.sparse_output, (True, False))
        check_scalar(self.n_nearest, "n_nearest", int, min_val=1)
        if self.sigma is not None:
            check_scalar(self.sigma, "sigma", (int, float), min_val=0, include_boundaries="neither")

    def _fit(self, sets: Any) -> None:
        self._learn(sets)

    def _learn(self, sets: Any) -> sparse.csr_array:
        """Learn vocabulary and weights, and return the counts that they come from."""
        self.vocabulary_ = fit_vocabulary(self.vocabulary, 1000, sets, self.random_state)
        self._n_features_out = len(self.vocabulary_.words_)
        self.sigma_ = self._scale(sets) if self.sigma is None else float(self.sigma)
        counts = self._counts(sets)
        self.n_images_ = counts.shape[0]
        frequency = np.bincount(counts.indices, minlength=self._n_features_out)
        self.idf_ = np.ones(self._n_features_out, dtype=np.float32)
        if self.idf:
            self.idf_ += np.log((1 + self.n_images_) / (1 + frequency)).astype(np.float32)
        return counts

    def _scale(self, sets: Any) -> float:
        """A share of the root mean squared distance to words; of no use to hard assignment."""
        if self.n_nearest == 1:
            return 1.0
        total, n_descriptors = 0.0, 0
        for squares in self._map(lambda one: self.vocabulary_.assign(one)[1], sets):
            total += float(squares.sum(dtype=np.float64))
            n_descriptors += len(squares)
        return _SIGMA * (total / max(n_descriptors, 1)) ** 0.5 or 1.0

    def _learned(self) -> list[Any]:
        return [self.vocabulary_.words_, self.idf_, self.sigma_]

    def _encode(self, descriptors: Any) -> Vector:
        counts = self._count(descriptors)
        weights: Vector = (_TERM_FREQUENCIES[self.tf](counts) * self.idf_).astype(np.float32)
        return weights

    def _count(self, descriptors: Any) -> NDArray[np.float64]:
        """How often each word occurs in one image."""
        if self.n_nearest == 1:
            labels = self.vocabulary_.predict(descriptors)
            return np.bincount(labels, minlength=self._n_features_out).astype(np.float64)
        labels, distances = self.vocabulary_.assign(descriptors, self.n_nearest)
        # Relative to the nearest, lest all of them underflow.
        weights = np.exp((distances[:, :1] - distances) / (2 * self.sigma_**2))
        weights /= weights.sum(axis=1, keepdims=True)
        return np.bincount(  # type: ignore[return-value]  # of weights it is floats
            labels.ravel(), weights.ravel(), minlength=self._n_features_out
        )

    def _counts(self, sets: Any) -> sparse.csr_array:
        """Counts of shape (n_images, n_words)."""

        def sparse_counts(one: Any) -> tuple[NDArray[np.intp], Vector]:
            counts = self._count(one)
            words = np.flatnonzero(counts)
            return words, counts[words].astype(np.float32)

        rows = list(self._map(sparse_counts, sets))
        words, counts = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        ends = np.cumsum([0, *(len(row[0]) for row in rows)])
        return sparse.csr_array((counts, words, ends), shape=(len(rows), self._n_features_out))

    def _weighed(self, counts: sparse.csr_array) -> Any:
        """Counts to unit vectors."""
        weights = _TERM_FREQUENCIES[self.tf](counts.data) * self.idf_[counts.indices]
        row_of = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        norms = np.sqrt(np.bincount(row_of, np.square(weights, dtype=np.float64)))
        weights = (weights / norms[row_of]).astype(np.float32)
        vectors = sparse.csr_array((weights, counts.indices, counts.indptr), shape=counts.shape)
        return vectors if self.sparse_output else vectors.toarray()


class VLAD(Aggregator):
    """Describe an image by the sums of its descriptors' residuals to their visual words.

    Parameters
    ----------
    vocabulary : VisualVocabulary, optional
        A fitted one is used as it is; an unfitted one is cloned and fitted. By default one of
        64 words.
    intra_normalisation : bool, default=True
        Scale the sum of each word to unit length, against bursts [2]_.
    power : float, default=1.0
        Entries are raised to it, with their sign, before anything is scaled; 0.5 is the
        power law of [1]_, 1 leaves them.
    normalise_residuals : bool, default=False
        Scale each residual to unit length, so that far descriptors count no more [3]_.
    n_jobs : int or None, default=-1
        Threads; -1 means one for each processor. The vectors do not depend on it.
    random_state : int, RandomState instance or None, default=None
        For the vocabulary, if none is given.

    Attributes
    ----------
    vocabulary_ : VisualVocabulary
        The fitted vocabulary.

    See Also
    --------
    BagOfVisualWords : Many words, counted.
    FisherVector : Soft assignment, and second moments.

    References
    ----------
    .. [1] H. Jegou et al., "Aggregating local image descriptors into compact codes",
       TPAMI 2012.
    .. [2] R. Arandjelovic and A. Zisserman, "All about VLAD", CVPR 2013.
    .. [3] J. Delhumeau, P. Gosselin, H. Jegou and P. Perez, "Revisiting the VLAD image
       representation", ACM Multimedia 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import VLAD, VisualVocabulary
    >>> tokens = np.random.default_rng(0).random((6, 50, 8), dtype=np.float32)
    >>> VLAD(VisualVocabulary(4, random_state=0)).fit_transform(tokens).shape
    (6, 32)
    """

    def __init__(
        self,
        vocabulary: VisualVocabulary | None = None,
        *,
        intra_normalisation: bool = True,
        power: float = 1.0,
        normalise_residuals: bool = False,
        n_jobs: int | None = -1,
        random_state: Any = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.intra_normalisation = intra_normalisation
        self.power = power
        self.normalise_residuals = normalise_residuals
        self.n_jobs = n_jobs
        self.random_state = random_state

    def _check_parameters(self) -> None:
        check_choice("intra_normalisation", self.intra_normalisation, (True, False))
        check_choice("normalise_residuals", self.normalise_residuals, (True, False))
        check_scalar(self.power, "power", (int, float), min_val=0, max_val=1)

    def _fit(self, sets: Any) -> None:
        self.vocabulary_ = fit_vocabulary(self.vocabulary, 64, sets, self.random_state)
        self._n_features_out = self.vocabulary_.words_.size

    def _learned(self) -> list[Any]:
        return [self.vocabulary_.words_]

    def _encode(self, descriptors: Any) -> Vector:
        words = self.vocabulary_.words_
        labels = self.vocabulary_.predict(descriptors)
        residuals = self.vocabulary_.points(descriptors) - words[labels]
        if self.normalise_residuals:
            residuals = normalise_rows(residuals)
        sums = power_law(membership(labels, len(words)) @ residuals, self.power)
        return (normalise_rows(sums) if self.intra_normalisation else sums).ravel()


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
