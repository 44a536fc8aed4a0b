"""A short list in, a better one out: geometric verification, and query expansion."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from ._threads import map_ahead, one_blas_thread
from ._vectors import normalise_rows
from ._workers import n_threads_here
from .base import check_choice
from .classical import (
    GeometricMatch,
    LocalFeatureExtractor,
    LocalFeatures,
    SIFTExtractor,
    verify_match,
)
from .images import check_images, is_one_image


class GeometricReranker(BaseEstimator):
    """Move the hits to the front whose local features fit the query by one transformation.

    Of each of the first hits, local features are matched to those of the query (ratio test), and
    MAGSAC++ [2]_ looks for the transformation that most matches fit. Hits with more inliers
    than chance gives [3]_, and a transformation that a camera can see, come first, by their
    inliers; all others follow in the order in which they were. So a list is
    changed only where there is evidence.

    Parameters
    ----------
    top : int, default=50
        How many of the first hits are verified.
    extractor : LocalFeatureExtractor, optional
        What finds local features; by default ``SIFTExtractor()``.
    model : {"homography", "affine", "fundamental"}, default="homography"
        The transformation: of a plane (and good enough for most objects), of a plane that is
        far away, or of a solid scene seen by two cameras, which tells less.
    ratio : float, default=0.8
        A match must be nearer than this times the second nearest.
    threshold : float, default=4.0
        How far an inlier may be from where it should be, in pixels of the image as the
        extractor has reduced it.
    min_inliers : int, default=8
        Hits with fewer are not moved.
    keep_features : bool, default=True
        Keep the features of the gallery, 148 bytes a SIFT keypoint; else images are read and
        features found again at each search, which is some fifty times slower.
    n_jobs : int or None, default=-1
        Threads that match and verify; -1 means one for each processor.

    Attributes
    ----------
    extractor_ : LocalFeatureExtractor
        The extractor.
    features_ : list of LocalFeatures
        Of the gallery; only with ``keep_features``.
    images_ : sequence
        The gallery.

    See Also
    --------
    ImageSearch : Takes it as ``rerank``.
    QueryExpansion : Improves the query instead.

    References
    ----------
    .. [1] J. Philbin, O. Chum, M. Isard, J. Sivic and A. Zisserman, "Object retrieval with
       large vocabularies and fast spatial matching", CVPR 2007.
    .. [2] D. Barath et al., "MAGSAC++, a Fast, Reliable and Accurate Robust Estimator",
       CVPR 2020.
    .. [3] M. Brown and D. Lowe, "Recognising Panoramas", ICCV 2003.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import GeometricReranker
    >>> noise = np.random.default_rng(0).integers(0, 256, (4, 15, 20), dtype=np.uint8)
    >>> gallery = [np.kron(image, np.ones((8, 8), dtype=np.uint8)) for image in noise]
    >>> reranker = GeometricReranker().fit(gallery)
    >>> order, n_inliers = reranker.rerank([gallery[2][10:, 20:]], np.array([[0, 1, 2, 3]]))
    >>> order
    array([[2, 0, 1, 3]])
    >>> reranker.explain(gallery[2][10:, 20:], 2).homography[:2, 2].round()
    array([20., 10.])
    """

    def __init__(
        self,
        top: int = 50,
        *,
        extractor: LocalFeatureExtractor | None = None,
        model: str = "homography",
        ratio: float = 0.8,
        threshold: float = 4.0,
        min_inliers: int = 8,
        keep_features: bool = True,
        n_jobs: int | None = -1,
    ) -> None:
        self.top = top
        self.extractor = extractor
        self.model = model
        self.ratio = ratio
        self.threshold = threshold
        self.min_inliers = min_inliers
        self.keep_features = keep_features
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None) -> Self:
        """Take a gallery, and find the features of its images.

        Parameters
        ----------
        X : sequence of n_images images
            The gallery, as :func:`imgembed.read_image` takes them.
        y : ignored
            For the API of scikit-learn.

        Returns
        -------
        self : GeometricReranker

        Raises
        ------
        ImageReadError
            If an image cannot be read.
        """
        self._check_parameters()
        self.extractor_ = SIFTExtractor() if self.extractor is None else clone(self.extractor)
        self.extractor_.set_params(on_error="raise").fit()
        self.images_ = check_images(X)
        if self.keep_features:
            self.features_ = self.extractor_.transform(self.images_)
        return self

    def rerank(
        self, queries: Any, ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Verify the first hits of each query, and move those that fit to the front.

        Parameters
        ----------
        queries : sequence of n_queries images
            As :func:`imgembed.read_image` takes them.
        ids : ndarray of shape (n_queries, n_neighbors)
            Rows of the gallery, nearest first; -1 where there is none.

        Returns
        -------
        order : ndarray of shape (n_queries, n_neighbors), dtype int64
            The better order: ``np.take_along_axis(ids, order, axis=1)`` are the hits in it.
        n_inliers : ndarray of shape (n_queries, n_neighbors), dtype int64
            In the better order, inliers of each verified hit; 0 where it was looked at and not
            verified, -1 where it was not looked at.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If ids are not rows of the gallery, or not one row of them for each query.
        """
        check_is_fitted(self)
        queries = check_images(queries)
        ids = np.asarray(ids)
        if ids.ndim != 2 or len(ids) != len(queries) or ids.dtype.kind not in "iu":
            raise ValueError(
                "ids must be integers of shape (n_queries, n_neighbors); got "
                f"{ids.dtype} of shape {ids.shape} for {len(queries)} queries"
            )
        if ids.size and not -1 <= ids.min() <= ids.max() < len(self.images_):
            raise ValueError(
                f"ids must be rows of the gallery of {len(self.images_)} images, or -1; got "
                f"{ids.min()} to {ids.max()}"
            )
        n_inliers = np.full(ids.shape, -1, dtype=np.int64)
        with one_blas_thread():
            for row, query in enumerate(self.extractor_.transform(queries)):
                tried = np.flatnonzero(ids[row, : self.top] >= 0)
                n_inliers[row, tried] = self._count_inliers(query, ids[row, tried])
        order = np.argsort(-np.maximum(n_inliers, 0), axis=1, kind="stable")
        return order, np.take_along_axis(n_inliers, order, axis=1)

    def explain(self, query: Any, hit: int) -> GeometricMatch:
        """How a query matches an image of the gallery.

        Parameters
        ----------
        query : image
            As :func:`imgembed.read_image` takes it.
        hit : int
            Row of the gallery.

        Returns
        -------
        match : GeometricMatch
            Matches, which of them are inliers, and the transformation;
            :func:`imgembed.plotting.plot_matches` draws it.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If hit is not a row of the gallery, or query is not one image.
        """
        check_is_fitted(self)
        check_scalar(hit, "hit", (int, np.integer), min_val=0, max_val=len(self.images_) - 1)
        if not is_one_image(query):
            raise ValueError("query must be one image; explain each of several by itself")
        features: list[Any] = self.extractor_.transform([query])
        return self._verify(features[0], self._gallery_features([hit])[0])

    def _count_inliers(self, query: LocalFeatures, rows: NDArray[np.int64]) -> list[int]:
        """Inliers of each verified image, 0 for the others."""
        n_threads = n_threads_here(self.n_jobs)
        candidates = self._gallery_features(rows)
        matches = map_ahead(
            lambda candidate: self._verify(query, candidate), candidates, n_threads, 2 * n_threads
        )
        return [match.n_inliers if match.verified else 0 for match in matches]

    def _verify(self, query: LocalFeatures, image: LocalFeatures) -> GeometricMatch:
        longest_edge = self.extractor_.longest_edge or max(image.image_shape)
        enlarged = max(1.0, max(image.image_shape) / longest_edge)
        return verify_match(
            query, image, self.model, self.ratio, self.threshold * enlarged, self.min_inliers
        )

    def _gallery_features(self, rows: Sequence[int] | NDArray[np.int64]) -> list[Any]:
        if self.keep_features:
            return [self.features_[row] for row in rows]
        return self.extractor_.transform([self.images_[int(row)] for row in rows])

    def _check_parameters(self) -> None:
        check_scalar(self.top, "top", int, min_val=1)
        check_choice("model", self.model, ("homography", "affine", "fundamental"))
        check_choice("keep_features", self.keep_features, (True, False))
        check_scalar(self.min_inliers, "min_inliers", int, min_val=4)
        number: dict[str, Any] = {"target_type": (int, float), "min_val": 0}
        check_scalar(self.ratio, "ratio", max_val=1, include_boundaries="right", **number)
        check_scalar(self.threshold, "threshold", include_boundaries="neither", **number)


class QueryExpansion(BaseEstimator):
    """Search again with a mean of the query and its nearest neighbours.

    Parameters
    ----------
    n_neighbors : int, default=10
        Neighbours that enter the mean.
    alpha : float, default=0.0
        A neighbour weighs ``max(cosine, 0) ** alpha``. 0 is average query expansion [1]_,
        where all weigh the same, so that a wrong one does harm; 3 is alpha query
        expansion [2]_, where far ones hardly count.

    See Also
    --------
    ImageSearch : Takes it as ``expansion``.

    References
    ----------
    .. [1] O. Chum, J. Philbin, J. Sivic, M. Isard and A. Zisserman, "Total Recall:
       Automatic Query Expansion with a Generative Feature Model for Object Retrieval",
       ICCV 2007.
    .. [2] F. Radenovic, G. Tolias and O. Chum, "Fine-tuning CNN Image Retrieval with No
       Human Annotation", TPAMI 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import QueryExpansion
    >>> neighbours = np.array([[[0.6, 0.8], [0.0, 1.0]]])
    >>> QueryExpansion().expand(np.array([[1.0, 0.0]]), neighbours).round(2)
    array([[0.66, 0.75]])
    >>> QueryExpansion(alpha=3).expand(np.array([[1.0, 0.0]]), neighbours).round(2)
    array([[0.99, 0.15]])
    """

    def __init__(self, n_neighbors: int = 10, alpha: float = 0.0) -> None:
        self.n_neighbors = n_neighbors
        self.alpha = alpha

    def expand(self, queries: Any, neighbours: Any) -> NDArray[Any]:
        """The weighted mean of each query and its neighbours, of unit length.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features)
            Embeddings of the queries.
        neighbours : ndarray of shape (n_queries, n_neighbors, n_features)
            Embeddings of their neighbours; NaN where there is none.

        Returns
        -------
        expanded : ndarray of shape (n_queries, n_features)
            Queries to search again with, by cosine or inner product. Zeros stay zeros.

        Raises
        ------
        ValueError
            If shapes do not fit, or a parameter is wrong.
        """
        check_scalar(self.n_neighbors, "n_neighbors", int, min_val=1)
        check_scalar(self.alpha, "alpha", (int, float), min_val=0)
        queries, neighbours = np.asarray(queries), np.asarray(neighbours)
        if queries.ndim != 2 or neighbours.shape != (
            len(queries), neighbours.shape[1] if neighbours.ndim > 1 else 0, queries.shape[1]
        ):  # fmt: skip
            raise ValueError(
                "queries must have shape (n_queries, n_features) and neighbours (n_queries, "
                f"n_neighbors, n_features); got {queries.shape} and {neighbours.shape}"
            )
        queries, neighbours = normalise_rows(queries), np.nan_to_num(normalise_rows(neighbours))
        cosines = np.einsum("qf,qnf->qn", queries, neighbours)
        weights = np.maximum(cosines, 0) ** self.alpha
        return normalise_rows(queries + np.einsum("qn,qnf->qf", weights, neighbours))
