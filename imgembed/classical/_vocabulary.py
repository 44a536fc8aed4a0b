"""VisualVocabulary: the codebook of visual words."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted

from .._workers import n_threads_here
from ..base import check_choice
from ._descriptors import DescriptorFormat, Points
from ._features import LocalFeatures
from ._reservoir import Reservoir
from ._words import Assigner, CellAssigner, ExactAssigner, assign, learn_words

# Up to this many words exact assignment costs a third of finding SIFT features, or less. Cells
# would be two to three times as fast, and find another word for one descriptor in fifty.
_EXACT_UP_TO = 4096
# The least share of descriptors whose exact nearest word approximate assignment must find, of
# descriptors that no word was learned from: of the others it finds more.
_AGREEMENT = 0.98
_N_MEASURED = 2000
_LARGEST_MEASURED_SHARE = 0.05
_MOST_WORDS = 65_536
# Descriptors to learn a word from: with half of them the error is 3 % larger, with more
# nothing is gained. And the most in all, which bounds the memory for large vocabularies.
_DESCRIPTORS_PER_WORD = 100
_MOST_DESCRIPTORS = 2_000_000


class VisualVocabulary(BaseEstimator):
    """A codebook of visual words, learned from local descriptors by k-means.

    Parameters
    ----------
    n_words : int, default=1000
        Words of the codebook, up to 65,536.
    n_iterations : int, default=5
        The most iterations of k-means over all words, after a start in two levels that
        is nearly as good already.
    subsample : int or "auto", default="auto"
        Descriptors to learn from, drawn from all that are seen, each with the same chance. They
        bound the memory. "auto" takes 100 a word and at most two million.
    assignment : {"auto", "exact", "approximate"}, default="auto"
        How the nearest word of a descriptor is found: by comparing with all words, or with
        those in the nearest cells of words. "auto": exact up to 4,096 words.
    metric : {"auto", "euclidean", "hamming"}, default="auto"
        "hamming" takes descriptors as strings of bits, eight to a byte. "auto" does so for
        LocalFeatures of ORB and AKAZE, and for nothing else.
    n_jobs : int or None, default=-1
        Threads that learn; -1 means one for each processor. The words do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Draws the sample and the start of k-means.

    Attributes
    ----------
    words_ : ndarray of shape (n_words, n_dimensions), dtype float32
        The visual words. For bits, the share of ones at each place.
    n_features_in_ : int
        Width of the descriptors, in bytes for bits.
    kind_ : str or None
        The kind of LocalFeatures that it was learned from; None if from arrays.
    n_descriptors_seen_ : int
        Descriptors from which the sample was drawn.
    agreement_ : float
        For which share of the descriptors assignment finds the nearest word: 1 if
        exact, else as measured on 2,000 descriptors that no word was learned from.

    Raises
    ------
    ValueError
        If there are fewer distinct descriptors than words.

    See Also
    --------
    BagOfVisualWords : Histograms of words.
    VLAD : Residuals to words.

    Notes
    -----
    Memory while learning: at most five times ``subsample`` descriptors, and 150 MB, however
    many images go by.

    k-means starts with a smaller k-means in two levels. 4,096 words from 200,000 SIFT
    descriptors have an error 0.1 % above that of scikit-learn's KMeans with its k-means++
    start, thirty times as fast (``benchmarks/local_features.py``).

    Approximate assignment sorts the words into ``sqrt(n_words) / 2`` cells, and looks into as
    many of the nearest cells as it takes to find the nearest word of 98 % of 2,000
    descriptors that were held out. At 16,384 words that is five times as fast as exact search,
    at 65,536 seven times, and twice as fast as hnswlib, because all descriptors of an image that
    look into a cell are one matrix product. At 4,096 words it is more than twice as fast; there
    "auto" stays exact, which costs little beside finding the features.

    Bits are compared by the Hamming distance. Their words are means of bits, not rounded:
    k-majority [3]_ without the last step, which loses what a narrow majority knows.

    References
    ----------
    .. [1] J. Sivic and A. Zisserman, "Video Google: A Text Retrieval Approach to Object
       Matching in Videos", ICCV 2003.
    .. [2] J. Philbin, O. Chum, M. Isard, J. Sivic and A. Zisserman, "Object retrieval with
       large vocabularies and fast spatial matching", CVPR 2007.
    .. [3] C. Grana, D. Borghesani, M. Manfredi and R. Cucchiara, "A fast approach for
       integrating ORB descriptors in the bag of words model", SPIE 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import VisualVocabulary
    >>> descriptors = np.random.default_rng(0).random((500, 8), dtype=np.float32)
    >>> vocabulary = VisualVocabulary(n_words=20, random_state=0).fit(descriptors)
    >>> vocabulary.words_.shape
    (20, 8)
    >>> vocabulary.predict(descriptors[:3]).shape
    (3,)
    """

    def __init__(
        self,
        n_words: int = 1000,
        *,
        n_iterations: int = 5,
        subsample: int | str = "auto",
        assignment: str = "auto",
        metric: str = "auto",
        n_jobs: int | None = -1,
        random_state: Any = None,
    ) -> None:
        self.n_words = n_words
        self.n_iterations = n_iterations
        self.subsample = subsample
        self.assignment = assignment
        self.metric = metric
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn words from descriptors, in place of any that are there.

        Parameters
        ----------
        X : array of shape (n_descriptors, n_dimensions), LocalFeatures, or iterable of them
            An iterable, also a generator, is gone through once.
        y : ignored
            For the API of scikit-learn.

        Returns
        -------
        self : VisualVocabulary

        Raises
        ------
        ValueError
            If descriptors differ in kind or width, are not finite, or have fewer distinct
            rows than there are words.
        """
        self._forget()
        self._let_by(X)
        self._learn()
        del self._reservoir
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Let more descriptors go by; the words are learned when they are next needed.

        Parameters
        ----------
        X : array of shape (n_descriptors, n_dimensions), LocalFeatures, or iterable of them
            The next part of the stream. The words are the same however it is cut.
        y : ignored
            For the API of scikit-learn.

        Returns
        -------
        self : VisualVocabulary

        Raises
        ------
        ValueError
            If descriptors differ in kind or width from those before, or after :meth:`fit`,
            which has not kept its sample.
        """
        if hasattr(self, "_words") and not hasattr(self, "_reservoir"):
            raise ValueError(
                "this vocabulary was learned by fit, which keeps no sample to go on with: use "
                "partial_fit from the start, or clone it first"
            )
        self._let_by(X)
        self.__dict__.pop("_words", None)  # they are learned anew
        return self

    def predict(self, X: Any) -> NDArray[np.intp]:
        """The nearest word of each descriptor.

        Parameters
        ----------
        X : LocalFeatures or array of shape (n_descriptors, n_dimensions)

        Returns
        -------
        labels : ndarray of shape (n_descriptors,), dtype intp
        """
        return self._nearest(X, 1)[1][:, 0]

    def assign(self, X: Any, n_nearest: int = 1) -> tuple[NDArray[np.intp], Points]:
        """The nearest words of each descriptor, and how far they are.

        Parameters
        ----------
        X : LocalFeatures or array of shape (n_descriptors, n_dimensions)
            Of one image: what comes of it does not depend on other images.
        n_nearest : int, default=1
            Words for each descriptor.

        Returns
        -------
        labels : ndarray of shape (n_descriptors, n_nearest), dtype intp
            Nearest first.
        distances : ndarray of shape (n_descriptors, n_nearest), dtype float32
            Squared Euclidean distances, which between bits count those that differ.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If X is of another kind or width than the vocabulary, or there are fewer words.
        """
        descriptors, labels, distances = self._nearest(X, n_nearest)
        norms = np.square(self._format.encode(descriptors)).sum(axis=1, keepdims=True)
        return labels, np.maximum(distances + norms, 0)

    def points(self, X: Any) -> Points:
        """Turn descriptors into the float32 points that words are the means of.

        Parameters
        ----------
        X : LocalFeatures or array of shape (n_descriptors, n_dimensions)

        Returns
        -------
        points : ndarray of shape (n_descriptors, n_dimensions), dtype float32
            Bits are unpacked, so that there are eight times as many dimensions.
        """
        check_is_fitted(self)
        return self._format.encode(self._format.check(X))

    def check(self, X: Any, row: int | None = None) -> None:
        """Check that descriptors are of the kind and width that words were learned from.

        Parameters
        ----------
        X : LocalFeatures or array of shape (n_descriptors, n_dimensions)
        row : int or None, default=None
            Of the image, for the message of an error.

        Raises
        ------
        ValueError
            If they are not.
        """
        check_is_fitted(self)
        self._format.check(X, row)

    @property
    def words_(self) -> Points:
        """The visual words, of shape (n_words, n_dimensions) and dtype float32."""
        if not self.__sklearn_is_fitted__():
            raise NotFittedError("this VisualVocabulary has not seen descriptors yet; call fit")
        self._learn()
        return self._words

    @property
    def agreement_(self) -> float:
        """For which share of the descriptors assignment finds the nearest word."""
        check_is_fitted(self)
        self._learn()
        return getattr(self._assigner, "agreement", 1.0)

    def _nearest(self, X: Any, n_nearest: int) -> tuple[NDArray[Any], NDArray[np.intp], Points]:
        """Checked descriptors, their words, and distances less the descriptor's squared norm."""
        check_is_fitted(self)
        self._learn()
        check_scalar(n_nearest, "n_nearest", int, min_val=1, max_val=len(self._words))
        descriptors = self._format.check(X)
        return descriptors, *assign(descriptors, self._format.encode, self._assigner, n_nearest, 1)

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there are words, or a sample to learn them from."""
        return hasattr(self, "_words") or hasattr(self, "_reservoir")

    def _forget(self) -> None:
        for name in ("_words", "_assigner", "_reservoir"):
            self.__dict__.pop(name, None)

    def _check_parameters(self) -> None:
        check_scalar(self.n_words, "n_words", int, min_val=1, max_val=_MOST_WORDS)
        check_scalar(self.n_iterations, "n_iterations", int, min_val=1)
        check_choice("assignment", self.assignment, ("auto", "exact", "approximate"))
        check_choice("metric", self.metric, ("auto", "euclidean", "hamming"))
        if self.subsample != "auto":
            check_scalar(self.subsample, "subsample", int, min_val=self.n_words)

    def _let_by(self, X: Any) -> None:
        self._check_parameters()
        one = isinstance(X, LocalFeatures) or (isinstance(X, np.ndarray) and X.ndim == 2)
        if not one and not isinstance(X, Iterable):
            raise TypeError(
                "X must be LocalFeatures, an array of shape (n_descriptors, n_dimensions), or an "
                f"iterable of them; got a {type(X).__name__}"
            )
        for row, descriptors in enumerate([X] if one else X):
            if not hasattr(self, "_reservoir"):
                self._format = DescriptorFormat.of(descriptors, row, self.metric)
                self._reservoir = self._new_reservoir()
            self._reservoir.extend(self._format.check(descriptors, row))
        if not hasattr(self, "_reservoir"):
            raise ValueError("X is empty; give the descriptors of at least one image")
        self.n_descriptors_seen_ = self._reservoir.n_seen
        self.n_features_in_, self.kind_ = self._format.n_dimensions, self._format.kind

    def _new_reservoir(self) -> Reservoir:
        random_state = check_random_state(self.random_state)
        self._seed = random_state.randint(np.iinfo(np.int32).max)
        automatic = min(self.n_words * _DESCRIPTORS_PER_WORD, _MOST_DESCRIPTORS)
        capacity = automatic if self.subsample == "auto" else int(self.subsample)
        return Reservoir(capacity, np.random.RandomState(self._seed))

    def _learn(self) -> None:
        """Learn words from the sample, unless it was done since the sample has changed."""
        if hasattr(self, "_words"):
            return
        sample = self._reservoir.sample()
        make_assigner: Callable[[Points], Assigner] = ExactAssigner
        if self._is_approximate:
            measured, sample = _held_out(sample)
            make_assigner = partial(
                CellAssigner.learn,
                descriptors=measured,
                encode=self._format.encode,
                agreement=_AGREEMENT,
            )
        words = learn_words(
            sample,
            self._format.encode,
            self.n_words,
            self.n_iterations,
            make_assigner,
            np.random.RandomState(self._seed),
            n_threads_here(self.n_jobs),
        )
        self._assigner = make_assigner(words)
        self._words = words

    @property
    def _is_approximate(self) -> bool:
        """Whether the nearest words are looked for in some cells only."""
        return self.assignment == "approximate" or (
            self.assignment == "auto" and self.n_words > _EXACT_UP_TO
        )


def _held_out(sample: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A few rows of the sample, from all over it, and the others."""
    n_measured = min(_N_MEASURED, int(len(sample) * _LARGEST_MEASURED_SHARE))
    chosen = np.zeros(len(sample), dtype=bool)
    chosen[np.linspace(0, len(sample), n_measured, endpoint=False, dtype=int)] = True
    return sample[chosen], sample[~chosen]
