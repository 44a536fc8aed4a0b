"""Quality of retrieval as a score of scikit-learn, to search for an embedder's parameters."""

from typing import Any

import numpy as np

from ._distances import METRICS
from ._evaluate import evaluate
from ._protocols import LabelProtocol
from ._ranks import parse_measure


def make_retrieval_scorer(
    measure: str = "mean_average_precision", *, metric: str = "cosine"
) -> "RetrievalScorer":
    """Make a scorer for GridSearchCV, cross_val_score and the like.

    Parameters
    ----------
    measure : str, default="mean_average_precision"
        See :func:`per_query`.
    metric : {"cosine", "euclidean", "ip"}, default="cosine"

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)``, the higher, the better. The estimator, an embedder or
        a Pipeline that ends with a transformer, makes vectors of X; each image is a query
        among all others of X, and those with its label answer it.

    Raises
    ------
    ValueError
        If there is no such measure or metric.

    Notes
    -----
    Images whose label nothing else in a fold has are no queries. With many small groups
    use a splitter that keeps groups whole, as :class:`sklearn.model_selection.GroupKFold`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from imgembed import HOGEmbedder
    >>> from imgembed.evaluation import make_retrieval_scorer
    >>> rng = np.random.default_rng(0)
    >>> kinds = rng.integers(0, 256, (2, 32, 32, 3))
    >>> noise = rng.integers(-20, 20, (12, 32, 32, 3))
    >>> images = np.clip(np.tile(kinds, (6, 1, 1, 1)) + noise, 0, 255).astype(np.uint8)
    >>> search = GridSearchCV(
    ...     HOGEmbedder(size=32), {"cell_size": [8, 16]}, scoring=make_retrieval_scorer(), cv=2
    ... )
    >>> search.fit(images, [0, 1] * 6).best_score_
    np.float64(1.0)
    """
    parse_measure(measure)
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {METRICS}; got {metric!r}")
    return RetrievalScorer(measure, metric)


class RetrievalScorer:
    """What :func:`make_retrieval_scorer` makes.

    Parameters
    ----------
    measure : str
        As there.
    metric : {"cosine", "euclidean", "ip"}
        As there.

    Examples
    --------
    >>> from sklearn.preprocessing import FunctionTransformer
    >>> from imgembed.evaluation import make_retrieval_scorer
    >>> scorer = make_retrieval_scorer("precision@1", metric="euclidean")
    >>> scorer(FunctionTransformer(), [[0], [1], [5], [6]], ["a", "a", "b", "b"])
    1.0
    """

    def __init__(self, measure: str, metric: str) -> None:
        self.measure = measure
        self.metric = metric

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        """Transform images and measure how well each finds those of its label.

        Parameters
        ----------
        estimator : transformer
            Fitted.
        X : sequence of n_images images
            Whatever the estimator transforms.
        y : array-like of shape (n_images,)
            Labels.

        Returns
        -------
        score : float

        Raises
        ------
        TypeError
            If the estimator does not transform, or there are no labels.
        ValueError
            If no two images have the same label.
        """
        if not hasattr(estimator, "transform"):
            raise TypeError(
                f"{type(estimator).__name__} does not transform: score an embedder, or a Pipeline "
                "that ends with one or with another transformer"
            )
        if y is None:
            raise TypeError("a retrieval scorer needs labels: give y")
        vectors = estimator.transform(X)
        dense = vectors.toarray() if hasattr(vectors, "toarray") else np.asarray(vectors)
        protocol = LabelProtocol(np.asarray(y), measures=(self.measure,))
        # Threads are GridSearchCV's: its n_jobs tells how many.
        return evaluate(dense, protocol, metric=self.metric, n_jobs=None).means[self.measure]

    def __repr__(self) -> str:
        return f"make_retrieval_scorer({self.measure!r}, metric={self.metric!r})"
