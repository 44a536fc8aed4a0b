"""ORB: corners with binary descriptors."""

from typing import Any

import cv2
from sklearn.utils import check_scalar

from ..cache import Cache
from ..images import MAX_PIXELS
from ._aggregation import Aggregator
from ._embedder import LocalFeatureEmbedder
from ._extractor import LocalFeatureExtractor


class ORBExtractor(LocalFeatureExtractor):
    """Find ORB features: corners with binary descriptors, several times as fast as SIFT.

    Parameters
    ----------
    n_keypoints : int, default=1000
        The most keypoints of an image, the strongest first.
    longest_edge : int or None, default=512
        Larger images are reduced to this many pixels along the longest edge first.
    fast_threshold : int, default=20
        How much brighter or darker, in 0..255, a corner's surroundings must be.
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
    Descriptors are 256 bits in 32 bytes. Keypoints keep 31 pixels from the border of the
    reduced image, so that images below 63 pixels have none.

    References
    ----------
    .. [1] E. Rublee, V. Rabaud, K. Konolige and G. Bradski, "ORB: an efficient alternative
       to SIFT or SURF", ICCV 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import ORBExtractor
    >>> blocks = np.random.default_rng(0).integers(0, 256, (15, 20), dtype=np.uint8)
    >>> features = ORBExtractor(20).extract(np.kron(blocks, np.ones((8, 8), dtype=np.uint8)))
    >>> features.descriptors.shape[1], features.binary
    (32, True)
    """

    def __init__(
        self,
        n_keypoints: int = 1000,
        longest_edge: int | None = 512,
        fast_threshold: int = 20,
        *,
        n_jobs: int | None = -1,
        on_error: str = "raise",
        progress: bool | str = "auto",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.n_keypoints = n_keypoints
        self.longest_edge = longest_edge
        self.fast_threshold = fast_threshold
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_scalar(self.fast_threshold, "fast_threshold", int, min_val=1, max_val=255)

    @property
    def _kind(self) -> str:
        return "orb"

    def _detector(self) -> Any:
        return cv2.ORB_create(  # type: ignore[attr-defined]
            nfeatures=self.n_keypoints, fastThreshold=self.fast_threshold
        )


class ORBEmbedder(LocalFeatureEmbedder):
    """Embed images by their ORB features: binary, and several times as fast as SIFT.

    The way from features to vectors is that of :class:`SIFTEmbedder`, with words of bits.

    Parameters
    ----------
    n_words : int or None, default=None
        Visual words, or Gaussians of a Fisher vector. None: 1,000 for "bovw", else 64. More
        words tell more apart and need more images to learn from.
    aggregation : {"bovw", "vlad", "fisher"} or Aggregator, default="bovw"
        How descriptors become one vector: counts of words (width n_words), residuals
        (256 times n_words), Fisher vectors (128 times n_words), or a
        :class:`BagOfVisualWords`, :class:`VLAD` or :class:`FisherVector` with parameters of
        its own, which may hold a fitted vocabulary.
    n_keypoints : int, default=1000
        The most keypoints of an image, the strongest first.
    longest_edge : int or None, default=512
        Larger images are reduced to this many pixels along the longest edge before keypoints
        are sought; None means never.
    fast_threshold : int, default=20
        How much brighter or darker, in 0..255, a corner's surroundings must be.
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
    An image without keypoints (flat, or smaller than 63 pixels) has the zero vector, whose
    cosine distance to everything is 1. While learning, features are kept in a temporary
    file of 52 bytes a keypoint, so that memory does not grow with the images and none
    is read twice.

    References
    ----------
    .. [1] E. Rublee, V. Rabaud, K. Konolige and G. Bradski, "ORB: an efficient alternative
       to SIFT or SURF", ICCV 2011.
    .. [2] J. Sivic and A. Zisserman, "Video Google: A Text Retrieval Approach to Object
       Matching in Videos", ICCV 2003.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import ORBEmbedder
    >>> noise = np.random.default_rng(0).integers(0, 256, (4, 20, 20), dtype=np.uint8)
    >>> images = [np.kron(image, np.ones((8, 8), dtype=np.uint8)) for image in noise]
    >>> vectors = ORBEmbedder(n_words=50, random_state=0).fit_transform(images)
    >>> vectors.shape
    (4, 50)
    """

    def __init__(
        self,
        n_words: int | None = None,
        aggregation: str | Aggregator = "bovw",
        n_keypoints: int = 1000,
        longest_edge: int | None = 512,
        fast_threshold: int = 20,
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
        self.fast_threshold = fast_threshold
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels
        self.random_state = random_state
        self.cache = cache

    def _extractor(self) -> ORBExtractor:
        return ORBExtractor(
            self.n_keypoints,
            self.longest_edge,
            fast_threshold=self.fast_threshold,
        )
