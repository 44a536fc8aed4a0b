"""LocalFeatureEmbedder: local features, a codebook and an aggregation, as one embedder."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import clone
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from .._threads import one_blas_thread
from ..base import ImageEmbedder, check_choice
from ..images import ImageReadError
from ._aggregation import Aggregator
from ._bovw import BagOfVisualWords
from ._extractor import LocalFeatureExtractor
from ._fisher import FisherVector
from ._spill import FeatureSpill
from ._vlad import VLAD
from ._vocabulary import VisualVocabulary

_N_WORDS = {"bovw": 1000, "vlad": 64, "fisher": 64}


class LocalFeatureEmbedder(ImageEmbedder):
    """Base class of the embedders over local features. A subclass writes ``_extractor``.

    Parameters
    ----------
    n_words : int or None
        Visual words, or Gaussians of a Fisher vector. None: 1,000 for "bovw", else 64.
    aggregation : {"bovw", "vlad", "fisher"} or Aggregator
        How descriptors become one vector.
    random_state : int, RandomState instance or None
        Draws the descriptors to learn from and the start of learning.
    """

    n_words: int | None
    aggregation: str | Aggregator
    random_state: Any

    def fingerprint_parts(self) -> dict[str, Any]:
        """What goes into the fingerprint, to explain why two of them differ.

        Returns
        -------
        parts : dict of str to object
            The method, the parameters that change the vectors, the method of aggregation,
            and a digest of all that was learned.
        """
        parts = super().fingerprint_parts()
        return {**parts, "aggregation": type(self.aggregator_).__name__}

    @abstractmethod
    def _extractor(self) -> LocalFeatureExtractor:
        """The extractor, from the parameters of the embedder."""

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._extractor().fit()
        if isinstance(self.aggregation, Aggregator):
            if self.n_words is not None:
                raise ValueError(
                    f"n_words={self.n_words} has no effect where aggregation is an object: leave "
                    "it None, and set the number of words there"
                )
            return
        check_choice("aggregation", self.aggregation, tuple(_N_WORDS))
        if self.n_words is not None:
            check_scalar(self.n_words, "n_words", int, min_val=1)

    def _load(self) -> None:
        check_is_fitted(self)

    def _fit_images(self, images: Sequence[object], on_error: str) -> dict[int, ImageReadError]:
        with FeatureSpill() as spill:
            errors = self._extract(images, on_error, spill)
            self.aggregator_ = self._new_aggregator().fit(spill)
        return errors

    def _fit_embed_images(
        self, images: Sequence[object], on_error: str
    ) -> tuple[NDArray[np.float32], dict[int, ImageReadError]]:
        with FeatureSpill() as spill:
            errors = self._extract(images, on_error, spill)
            aggregator = self._new_aggregator()
            readable = aggregator.fit_transform(spill)
        self.aggregator_ = aggregator
        if sparse.issparse(readable):
            readable = readable.toarray()
        vectors = np.full((len(images), readable.shape[1]), np.nan, dtype=np.float32)
        vectors[[row for row in range(len(images)) if row not in errors]] = readable
        return vectors, errors

    def _extract(
        self, images: Sequence[object], on_error: str, spill: FeatureSpill
    ) -> dict[int, ImageReadError]:
        """Leave the features of the readable images in the spill."""
        errors: dict[int, ImageReadError] = {}
        extract = self._extractor().extract
        for row, one in enumerate(self._prepared_anywhere(images, extract, on_error)):
            if isinstance(one, ImageReadError):
                errors[row] = one
            else:
                spill.append(one)
        if not len(spill):
            raise ValueError(f"none of {len(images)} images can be read; the first: {errors[0]}")
        return errors

    def _new_aggregator(self) -> Aggregator:
        """The aggregation, not fitted yet, but perhaps with a fitted vocabulary."""
        if isinstance(self.aggregation, Aggregator):
            aggregator: Aggregator = clone(self.aggregation, safe=True)
            # A clone would forget a vocabulary that the user has learned elsewhere.
            if hasattr(self.aggregation, "vocabulary"):
                aggregator.set_params(vocabulary=self.aggregation.vocabulary)
        else:
            n_words = self.n_words or _N_WORDS[self.aggregation]
            aggregator = self._named_aggregator(n_words)
        # Arrays inside, whatever scikit-learn's configuration makes of the embedder's output.
        return aggregator.set_output(transform="default")  # type: ignore[no-any-return]

    def _named_aggregator(self, n_words: int) -> Aggregator:
        common: dict[str, Any] = {"n_jobs": self.n_jobs, "random_state": self.random_state}
        if self.aggregation == "fisher":
            return FisherVector(n_words, **common)
        vocabulary = VisualVocabulary(n_words, **common)
        kind = BagOfVisualWords if self.aggregation == "bovw" else VLAD
        return kind(vocabulary, n_jobs=self.n_jobs)

    def _embed_images(
        self, images: Sequence[object], on_error: str
    ) -> tuple[NDArray[np.float32], dict[int, ImageReadError]]:
        with one_blas_thread():  # once, and not around each image
            return super()._embed_images(images, on_error)

    def _prepare(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.aggregator_.encode(self._extractor().extract(image))

    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        return np.stack(prepared)

    def _learned_digest(self) -> str:
        return self.aggregator_.digest()

    @property
    def _n_features_out(self) -> int:
        check_is_fitted(self, "aggregator_")
        return self.aggregator_._n_features_out
