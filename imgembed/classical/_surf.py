"""SURF: SIFT's idea with boxes, where the build of OpenCV has it."""

from functools import cache
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_scalar

from ..base import check_choice
from ..cache import Cache
from ..images import MAX_PIXELS
from ._aggregation import Aggregator
from ._embedder import LocalFeatureEmbedder
from ._extractor import LocalFeatureExtractor
from ._features import LocalFeatures


class SURFExtractor(LocalFeatureExtractor):
    """Find SURF features, where the build of OpenCV has them.

    Parameters
    ----------
    n_keypoints : int, default=1000
        The most keypoints of an image, the strongest first.
    longest_edge : int or None, default=512
        Larger images are reduced to this many pixels along the longest edge first.
    hessian_threshold : float, default=100.0
        Weaker keypoints are left out.
    n_dimensions : {64, 128}, default=64
        Width of the descriptor; 128 tells sums of positive and negative gradients apart.
    upright : bool, default=False
        Leave out the orientation: faster, and better where cameras are held upright.
    n_jobs : int or None, default=-1
        Threads; -1 means one for each processor.
    on_error : {"raise", "none"}, default="raise"
        An unreadable image raises :class:`ImageReadError`, or gives None.
    progress : {"auto", True, False}, default="auto"
        Whether to show a progress bar.
    max_pixels : int, default=100_000_000
        Larger images are refused before they are decoded.

    Raises
    ------
    RuntimeError
        At fit or transform, if OpenCV was built without SURF;
        :func:`imgembed.classical.surf_available` tells beforehand.

    Notes
    -----
    Descriptors are float32 of unit L2 norm.

    References
    ----------
    .. [1] H. Bay, A. Ess, T. Tuytelaars and L. Van Gool, "Speeded-Up Robust Features
       (SURF)", CVIU 2008.

    Examples
    --------
    >>> from imgembed import SURFExtractor
    >>> from imgembed.classical import surf_available
    >>> extractor = SURFExtractor(n_dimensions=128, upright=True)
    >>> if surf_available():
    ...     features = extractor.fit_transform(["photo.jpg"])
    """

    def __init__(
        self,
        n_keypoints: int = 1000,
        longest_edge: int | None = 512,
        hessian_threshold: float = 100.0,
        n_dimensions: int = 64,
        upright: bool = False,
        *,
        n_jobs: int | None = -1,
        on_error: str = "raise",
        progress: bool | str = "auto",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.n_keypoints = n_keypoints
        self.longest_edge = longest_edge
        self.hessian_threshold = hessian_threshold
        self.n_dimensions = n_dimensions
        self.upright = upright
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Check parameters, and that OpenCV has SURF; there is nothing to learn.

        Parameters
        ----------
        X : ignored
            For the API of scikit-learn.
        y : ignored
            For the API of scikit-learn.

        Returns
        -------
        self : SURFExtractor

        Raises
        ------
        RuntimeError
            If OpenCV was built without SURF.
        """
        super().fit(X, y)
        self._detector()
        return self

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_scalar(self.hessian_threshold, "hessian_threshold", (int, float), min_val=0)
        check_choice("n_dimensions", self.n_dimensions, (64, 128))
        check_choice("upright", self.upright, (True, False))

    @property
    def _kind(self) -> str:
        return f"surf{self.n_dimensions}"

    def _detector(self) -> Any:
        if not surf_available():
            raise RuntimeError(
                "this build of OpenCV has no SURF: it was patented until 2020, and the wheels "
                "on PyPI are built without it. Build opencv-contrib-python from source: "
                'CMAKE_ARGS="-DOPENCV_ENABLE_NONFREE=ON" pip install --no-binary '
                "opencv-contrib-python opencv-contrib-python. Or take SIFTExtractor, which "
                "is slower and more accurate, or AKAZEExtractor"
            )
        return cv2.xfeatures2d.SURF_create(  # type: ignore[attr-defined]
            self.hessian_threshold,
            extended=self.n_dimensions == 128,
            upright=self.upright,
        )

    def _descriptors(self, descriptors: NDArray[Any]) -> NDArray[np.float32]:
        return descriptors.astype(np.float32, copy=False)

    def _strongest(self, *found: Any) -> LocalFeatures:
        features = super()._strongest(*found)
        if self.upright:
            features.angles.fill(-1)  # OpenCV puts 270
        return features


class SURFEmbedder(LocalFeatureEmbedder):
    """Embed images by their SURF features, where the build of OpenCV has them.

    The way from features to vectors is that of :class:`SIFTEmbedder`.

    Parameters
    ----------
    n_words : int or None, default=None
        Visual words, or Gaussians of a Fisher vector. None: 1,000 for "bovw", else 64. More
        words tell more apart and need more images to learn from.
    aggregation : {"bovw", "vlad", "fisher"} or Aggregator, default="bovw"
        How descriptors become one vector: counts of words (width n_words), residuals
        (64 or 128 times n_words), Fisher vectors (128 times n_words), or a
        :class:`BagOfVisualWords`, :class:`VLAD` or :class:`FisherVector` with parameters of
        its own, which may hold a fitted vocabulary.
    n_keypoints : int, default=1000
        The most keypoints of an image, the strongest first.
    longest_edge : int or None, default=512
        Larger images are reduced to this many pixels along the longest edge before keypoints
        are sought; None means never.
    hessian_threshold : float, default=100.0
        Weaker keypoints are left out.
    n_dimensions : {64, 128}, default=64
        Width of the descriptor.
    upright : bool, default=False
        Leave out the orientation.
    batch_size : int, default=32
        Images that are read ahead.
    n_jobs : int or None, default=-1
        Threads that read images, seek keypoints and find words; -1 means one for each
        processor. The vectors do not depend on it.
    on_error : {"raise", "nan"}, default="raise"
        An unreadable image raises :class:`ImageReadError`, or leaves a row of NaN (and is
        left out of the fit) and one :class:`ImageReadWarning` that lists all of them.
    progress : {"auto", True, False}, default="auto"
        Whether to show a progress bar; "auto": in terminals and notebooks, after 2 s.
    max_pixels : int, default=100_000_000
        Larger images are refused before they are decoded.
    random_state : int, RandomState instance or None, default=None
        Draws the descriptors to learn from and the start of learning.
    cache : path, EmbeddingCache or None, default=None
        A folder where embeddings are kept, and found again instead of being computed; see
        :class:`EmbeddingCache`.

    Attributes
    ----------
    aggregator_ : Aggregator
        The fitted :class:`BagOfVisualWords`, :class:`VLAD` or :class:`FisherVector`.

    Raises
    ------
    NotFittedError
        If images are transformed before fit.
    ValueError
        If the images have fewer distinct descriptors than ``n_words``.
    RuntimeError
        If OpenCV was built without SURF, as the wheels on PyPI are.

    See Also
    --------
    surf_available : Whether this build of OpenCV has SURF.
    GeometricReranker : Verifies and re-orders what these vectors find.

    Notes
    -----
    An image without keypoints (flat, or smaller than 16 pixels) has the zero vector, whose
    cosine distance to everything is 1. While learning, features are kept in a temporary
    file of 276 or 532 bytes a keypoint, so that memory does not grow with the images and none
    is read twice.

    References
    ----------
    .. [1] H. Bay, A. Ess, T. Tuytelaars and L. Van Gool, "Speeded-Up Robust Features
       (SURF)", CVIU 2008.
    .. [2] J. Sivic and A. Zisserman, "Video Google: A Text Retrieval Approach to Object
       Matching in Videos", ICCV 2003.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import SURFEmbedder
    >>> noise = np.random.default_rng(0).integers(0, 256, (4, 20, 20), dtype=np.uint8)
    >>> images = [np.kron(image, np.ones((8, 8), dtype=np.uint8)) for image in noise]
    >>> from imgembed.classical import surf_available
    >>> if surf_available():
    ...     vectors = SURFEmbedder(n_words=50, random_state=0).fit_transform(images)
    """

    def __init__(
        self,
        n_words: int | None = None,
        aggregation: str | Aggregator = "bovw",
        n_keypoints: int = 1000,
        longest_edge: int | None = 512,
        hessian_threshold: float = 100.0,
        n_dimensions: int = 64,
        upright: bool = False,
        *,
        batch_size: int = 32,
        n_jobs: int | None = -1,
        on_error: str = "raise",
        progress: bool | str = "auto",
        max_pixels: int = MAX_PIXELS,
        random_state: Any = None,
        cache: Cache = None,
    ) -> None:
        self.n_words = n_words
        self.aggregation = aggregation
        self.n_keypoints = n_keypoints
        self.longest_edge = longest_edge
        self.hessian_threshold = hessian_threshold
        self.n_dimensions = n_dimensions
        self.upright = upright
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels
        self.random_state = random_state
        self.cache = cache

    def _extractor(self) -> SURFExtractor:
        return SURFExtractor(
            self.n_keypoints,
            self.longest_edge,
            hessian_threshold=self.hessian_threshold,
            n_dimensions=self.n_dimensions,
            upright=self.upright,
        )


@cache
def surf_available() -> bool:
    """Whether this build of OpenCV has SURF.

    Returns
    -------
    available : bool
        True if OpenCV was built with ``OPENCV_ENABLE_NONFREE``, which the wheels on PyPI
        are not. It is found out by making one.

    Examples
    --------
    >>> from imgembed.classical import surf_available
    >>> surf_available() in (True, False)
    True
    """
    try:
        cv2.xfeatures2d.SURF_create()  # type: ignore[attr-defined]
    except (AttributeError, cv2.error):
        return False
    return True
