"""AKAZE: blobs in a scale space that keeps edges, with binary descriptors."""

from typing import Any

import cv2
from sklearn.utils import check_scalar

from ..cache import Cache
from ..images import MAX_PIXELS
from ._aggregation import Aggregator
from ._embedder import LocalFeatureEmbedder
from ._extractor import LocalFeatureExtractor


class AKAZEExtractor(LocalFeatureExtractor):
    """Find AKAZE features: blobs in a scale space that keeps edges, with binary descriptors.

    Parameters
    ----------
    n_keypoints : int, default=1000
        The most keypoints of an image, the strongest first.
    longest_edge : int or None, default=512
        Larger images are reduced to this many pixels along the longest edge first.
    hessian_threshold : float, default=0.001
        Weaker keypoints are left out.
    n_jobs : int or None, default=-1
        Threads; -1 means one for each processor.
    on_error : {"raise", "none"}, default="raise"
        An unreadable image raises :class:`ImageReadError`, or gives None.
    progress : {"auto", True, False}, default="auto"
        Whether to show a progress bar.
    max_pixels : int, default=100_000_000
        Larger images are refused before they are decoded.

    Notes
    -----
    Descriptors are the 486 bits of M-LDB in 61 bytes.

    References
    ----------
    .. [1] P. Alcantarilla, J. Nuevo and A. Bartoli, "Fast Explicit Diffusion for Accelerated
       Features in Nonlinear Scale Spaces", BMVC 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import AKAZEExtractor
    >>> blocks = np.random.default_rng(0).integers(0, 256, (15, 20), dtype=np.uint8)
    >>> features = AKAZEExtractor(50).extract(np.kron(blocks, np.ones((8, 8), dtype=np.uint8)))
    >>> features.descriptors.shape
    (50, 61)
    """

    def __init__(
        self,
        n_keypoints: int = 1000,
        longest_edge: int | None = 512,
        hessian_threshold: float = 0.001,
        *,
        n_jobs: int | None = -1,
        on_error: str = "raise",
        progress: bool | str = "auto",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.n_keypoints = n_keypoints
        self.longest_edge = longest_edge
        self.hessian_threshold = hessian_threshold
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_scalar(self.hessian_threshold, "hessian_threshold", (int, float), min_val=0)

    @property
    def _kind(self) -> str:
        return "akaze"

    def _detector(self) -> Any:
        # OpenCV 5 has moved it.
        module = cv2 if hasattr(cv2, "AKAZE_create") else cv2.xfeatures2d
        return module.AKAZE_create(threshold=self.hessian_threshold)


class AKAZEEmbedder(LocalFeatureEmbedder):
    """Embed images by their AKAZE features: binary, in a scale space that keeps edges.

    The way from features to vectors is that of :class:`SIFTEmbedder`, with words of bits.

    Parameters
    ----------
    n_words : int or None, default=None
        Visual words, or Gaussians of a Fisher vector. None: 1,000 for "bovw", else 64. More
        words tell more apart and need more images to learn from.
    aggregation : {"bovw", "vlad", "fisher"} or Aggregator, default="bovw"
        How descriptors become one vector: counts of words (width n_words), residuals
        (488 times n_words), Fisher vectors (128 times n_words), or a
        :class:`BagOfVisualWords`, :class:`VLAD` or :class:`FisherVector` with parameters of
        its own, which may hold a fitted vocabulary.
    n_keypoints : int, default=1000
        The most keypoints of an image, the strongest first.
    longest_edge : int or None, default=512
        Larger images are reduced to this many pixels along the longest edge before keypoints
        are sought; None means never.
    hessian_threshold : float, default=0.001
        Weaker keypoints are left out.
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

    See Also
    --------
    SIFTEmbedder : Slower, and more accurate.
    GeometricReranker : Verifies and re-orders what these vectors find.

    Notes
    -----
    An image without keypoints (flat, or smaller than 16 pixels) has the zero vector, whose
    cosine distance to everything is 1. While learning, features are kept in a temporary
    file of 81 bytes a keypoint, so that memory does not grow with the images and none
    is read twice.

    References
    ----------
    .. [1] P. Alcantarilla, J. Nuevo and A. Bartoli, "Fast Explicit Diffusion for Accelerated
       Features in Nonlinear Scale Spaces", BMVC 2013.
    .. [2] J. Sivic and A. Zisserman, "Video Google: A Text Retrieval Approach to Object
       Matching in Videos", ICCV 2003.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import AKAZEEmbedder
    >>> noise = np.random.default_rng(0).integers(0, 256, (4, 20, 20), dtype=np.uint8)
    >>> images = [np.kron(image, np.ones((8, 8), dtype=np.uint8)) for image in noise]
    >>> vectors = AKAZEEmbedder(n_words=50, random_state=0).fit_transform(images)
    >>> vectors.shape
    (4, 50)
    """

    def __init__(
        self,
        n_words: int | None = None,
        aggregation: str | Aggregator = "bovw",
        n_keypoints: int = 1000,
        longest_edge: int | None = 512,
        hessian_threshold: float = 0.001,
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
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels
        self.random_state = random_state
        self.cache = cache

    def _extractor(self) -> AKAZEExtractor:
        return AKAZEExtractor(
            self.n_keypoints,
            self.longest_edge,
            hessian_threshold=self.hessian_threshold,
        )
