"""VLAD: sums of residuals to visual words."""

from typing import Any

from sklearn.utils import check_scalar

from .._vectors import normalise_rows
from ..base import check_choice
from ._aggregation import Aggregator, Vector, fit_vocabulary, power_law
from ._vocabulary import VisualVocabulary
from ._words import membership


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
