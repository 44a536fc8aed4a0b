"""BagOfVisualWords: how often each visual word occurs in an image."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from ..base import check_choice
from ._aggregation import Aggregator, Vector, fit_vocabulary
from ._descriptors import check_descriptor_sets
from ._vocabulary import VisualVocabulary

# Of 0.1 to 1.0 times the root mean squared distance, the best on photographs of covers. Wider
# is worse than hard assignment.
_SIGMA = 0.15
_TERM_FREQUENCIES: dict[str, Callable[[Any], Any]] = {
    "count": lambda counts: counts,
    "sqrt": np.sqrt,
    "log": np.log1p,
    "binary": np.sign,
}


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
