"""SIFT: gradients around blobs, the measure of all other local features."""

from typing import Any

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

# RootSIFT as uint8: at this length an entry exceeds 255, and is clipped, only where one of the
# 128 bins holds more than a quarter of the histogram.
_ROOT_LENGTH = 512


class SIFTExtractor(LocalFeatureExtractor):
    """Find SIFT features: they stay the same under rotation, scaling and some change of view.

    Parameters
    ----------
    n_keypoints : int, default=1000
        The most keypoints of an image, the strongest first.
    longest_edge : int or None, default=512
        Larger images are reduced to this many pixels along the longest edge first.
    contrast_threshold : float, default=0.04
        Weaker keypoints are left out; less means more keypoints in flat regions.
    rootsift : bool, default=True
        Take the root of L1-normalised descriptors, whose Euclidean distance is the
        Hellinger distance of the histograms [2]_. It is better in every use of them.
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
    Descriptors are uint8, 128 bytes a keypoint: SIFT as OpenCV gives it, RootSIFT scaled to
    an L2 norm of 512 and rounded, which changes a distance by less than one in a hundred.

    References
    ----------
    .. [1] D. Lowe, "Distinctive Image Features from Scale-Invariant Keypoints", IJCV 2004.
    .. [2] R. Arandjelovic and A. Zisserman, "Three things everyone should know to improve
       object retrieval", CVPR 2012.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import SIFTExtractor
    >>> blocks = np.random.default_rng(0).integers(0, 256, (15, 20), dtype=np.uint8)
    >>> images = [np.kron(blocks, np.ones((8, 8), dtype=np.uint8)), np.zeros((50, 50), np.uint8)]
    >>> [len(features) for features in SIFTExtractor(n_keypoints=100).fit_transform(images)]
    [100, 0]
    """

    def __init__(
        self,
        n_keypoints: int = 1000,
        longest_edge: int | None = 512,
        contrast_threshold: float = 0.04,
        rootsift: bool = True,
        *,
        n_jobs: int | None = -1,
        on_error: str = "raise",
        progress: bool | str = "auto",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.n_keypoints = n_keypoints
        self.longest_edge = longest_edge
        self.contrast_threshold = contrast_threshold
        self.rootsift = rootsift
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_scalar(self.contrast_threshold, "contrast_threshold", (int, float), min_val=0)
        check_choice("rootsift", self.rootsift, (True, False))

    @property
    def _kind(self) -> str:
        return "rootsift" if self.rootsift else "sift"

    def _detector(self) -> Any:
        # Only with the last argument does CV_8U give bytes, by the same values as floats.
        return cv2.SIFT_create(  # type: ignore[attr-defined]
            self.n_keypoints, 3, self.contrast_threshold, 10, 1.6, cv2.CV_8U, False
        )

    def _descriptors(self, descriptors: NDArray[Any]) -> NDArray[np.uint8]:
        sift = descriptors.astype(np.uint8, copy=False)
        return rootsift(sift) if self.rootsift else sift


class SIFTEmbedder(LocalFeatureEmbedder):
    """Embed images by their SIFT features.

    ``fit`` learns a codebook of visual words by k-means; an image becomes one vector over it,
    of unit length. It finds the same object or scene again (also cropped, rotated,
    rescaled) and needs no trained network; it does not know what the object is.

    Parameters
    ----------
    n_words : int or None, default=None
        Visual words, or Gaussians of a Fisher vector. None: 1,000 for "bovw", else 64. More
        words tell more apart and need more images to learn from.
    aggregation : {"bovw", "vlad", "fisher"} or Aggregator, default="bovw"
        How descriptors become one vector: counts of words (width n_words), residuals
        (128 times n_words), Fisher vectors (128 times n_words), or a
        :class:`BagOfVisualWords`, :class:`VLAD` or :class:`FisherVector` with parameters of
        its own, which may hold a fitted vocabulary.
    n_keypoints : int, default=1000
        The most keypoints of an image, the strongest first.
    longest_edge : int or None, default=512
        Larger images are reduced to this many pixels along the longest edge before keypoints
        are sought; None means never.
    contrast_threshold : float, default=0.04
        Weaker keypoints are left out.
    rootsift : bool, default=True
        Take the root of L1-normalised descriptors, which is better in every use of them.
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
    ORBEmbedder : Faster, with binary features.
    GeometricReranker : Verifies and re-orders what these vectors find.

    Notes
    -----
    Images are decoded in full: keypoints change with the decoder's scale.
    An image without keypoints (flat, or smaller than 16 pixels) has the zero vector, whose
    cosine distance to everything is 1. While learning, features are kept in a temporary
    file of 148 bytes a keypoint, so that memory does not grow with the images and none
    is read twice.

    References
    ----------
    .. [1] D. Lowe, "Distinctive Image Features from Scale-Invariant Keypoints", IJCV 2004.
    .. [2] J. Sivic and A. Zisserman, "Video Google: A Text Retrieval Approach to Object
       Matching in Videos", ICCV 2003.
    .. [3] R. Arandjelovic and A. Zisserman, "Three things everyone should know to improve
       object retrieval", CVPR 2012.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import SIFTEmbedder
    >>> noise = np.random.default_rng(0).integers(0, 256, (4, 20, 20), dtype=np.uint8)
    >>> images = [np.kron(image, np.ones((8, 8), dtype=np.uint8)) for image in noise]
    >>> vectors = SIFTEmbedder(n_words=50, random_state=0).fit_transform(images)
    >>> vectors.shape
    (4, 50)
    """

    def __init__(
        self,
        n_words: int | None = None,
        aggregation: str | Aggregator = "bovw",
        n_keypoints: int = 1000,
        longest_edge: int | None = 512,
        contrast_threshold: float = 0.04,
        rootsift: bool = True,
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
        self.contrast_threshold = contrast_threshold
        self.rootsift = rootsift
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels
        self.random_state = random_state
        self.cache = cache

    def _extractor(self) -> SIFTExtractor:
        return SIFTExtractor(
            self.n_keypoints,
            self.longest_edge,
            contrast_threshold=self.contrast_threshold,
            rootsift=self.rootsift,
        )


def rootsift(descriptors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The square root of L1-normalised SIFT descriptors, as bytes.

    Parameters
    ----------
    descriptors : ndarray of shape (n_keypoints, 128), dtype uint8

    Returns
    -------
    descriptors : ndarray of shape (n_keypoints, 128), dtype uint8
        With an L2 norm of 512, but for rounding; a descriptor of zeros stays so.
    """
    histograms = descriptors.astype(np.float32)
    totals = histograms.sum(axis=1, keepdims=True)
    roots: NDArray[np.float32] = np.sqrt(histograms / np.maximum(totals, 1)) * _ROOT_LENGTH
    return np.minimum(np.rint(roots), 255).astype(np.uint8)
