"""Embedders made of local descriptors, a codebook and an aggregation."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted

from ..base import ImageEmbedder
from ..images import MAX_PIXELS, ImageReadError
from ._aggregation import bag_of_words, inverse_document_frequency
from ._keypoints import N_SIFT_DIMENSIONS, detect_sift, rootsift
from ._spill import DescriptorSpill
from ._vocabulary import assign_words, learn_words

# Descriptors to learn a word from: with half of them the error of k-means is 3 % larger,
# with more of them nothing is gained.
_DESCRIPTORS_PER_WORD = 100


class SIFTEmbedder(ImageEmbedder):
    """Embed images as bags of visual words over SIFT descriptors.

    ``fit`` learns a codebook of visual words from the images' descriptors by k-means.
    An image becomes the histogram of its words, weighed by tf-idf, of unit length. It finds
    the same object or scene again (also cropped, rotated, rescaled) and needs no trained
    network; it does not know what the object is.

    Parameters
    ----------
    n_words : int, default=1000
        Words of the codebook, which is the width of the vectors. More words tell more
        apart and need more images to learn from.
    n_keypoints : int, default=1000
        The most keypoints of an image, the strongest first.
    longest_edge : int, default=512
        Larger images are reduced to this many pixels along the longest edge before keypoints
        are sought.
    n_iterations : int, default=20
        The most iterations of k-means.
    batch_size : int, default=32
        Images that become vectors at once.
    n_jobs : int or None, default=-1
        Threads that read images and seek keypoints; -1 means one for each processor. The
        vectors do not depend on it.
    on_error : {"raise", "nan"}, default="raise"
        An unreadable image raises :class:`ImageReadError`, or leaves a row of NaN (and is
        left out of the fit) and one :class:`ImageReadWarning` that lists all of them.
    progress : {"auto", True, False}, default="auto"
        Whether to show a progress bar; "auto": in terminals and notebooks, after 2 s.
    max_pixels : int, default=100_000_000
        Larger images are refused before they are decoded.
    random_state : int, RandomState instance or None, default=None
        Draws the descriptors to learn from and the start of k-means.

    Attributes
    ----------
    vocabulary_ : ndarray of shape (n_words, 128), dtype float32
        The visual words, in the space of RootSIFT descriptors.
    idf_ : ndarray of shape (n_words,), dtype float32
        The weight of each word.
    n_images_ : int
        Images that the codebook was learned from.

    Raises
    ------
    NotFittedError
        If images are transformed before fit.
    ValueError
        If the images have fewer distinct descriptors than ``n_words``.

    Notes
    -----
    An image without keypoints (flat, or smaller than 8 pixels) has the zero vector, whose
    cosine distance to everything is 1. Images are decoded in full: keypoints change with the
    decoder's scale. Counts enter by their square root [3]_, and the weight of a word is
    ``log((1 + n_images) / (1 + document frequency)) + 1`` instead of the plain logarithm
    of [1]_, which is zero for a word that all images have.
    While learning, descriptors are kept in a temporary file of up to
    ``128 * n_keypoints`` bytes an image, so that memory does not grow with the images and
    none is read twice.

    References
    ----------
    .. [1] J. Sivic and A. Zisserman, "Video Google: A Text Retrieval Approach to Object
       Matching in Videos", ICCV 2003.
    .. [2] R. Arandjelovic and A. Zisserman, "Three things everyone should know to improve
       object retrieval", CVPR 2012.
    .. [3] H. Jegou, M. Douze and C. Schmid, "On the burstiness of visual elements",
       CVPR 2009.

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
        n_words: int = 1000,
        n_keypoints: int = 1000,
        longest_edge: int = 512,
        n_iterations: int = 20,
        *,
        batch_size: int = 32,
        n_jobs: int | None = -1,
        on_error: str = "raise",
        progress: bool | str = "auto",
        max_pixels: int = MAX_PIXELS,
        random_state: Any = None,
    ) -> None:
        self.n_words = n_words
        self.n_keypoints = n_keypoints
        self.longest_edge = longest_edge
        self.n_iterations = n_iterations
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels
        self.random_state = random_state

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_scalar(self.n_words, "n_words", int, min_val=1)
        check_scalar(self.n_keypoints, "n_keypoints", int, min_val=1)
        check_scalar(self.longest_edge, "longest_edge", int, min_val=16)
        check_scalar(self.n_iterations, "n_iterations", int, min_val=1)

    def _load(self) -> None:
        check_is_fitted(self)

    def _fit_images(self, images: Sequence[object], on_error: str) -> dict[int, ImageReadError]:
        with DescriptorSpill(N_SIFT_DIMENSIONS) as spill:
            return self._learn(images, on_error, spill)

    def _fit_embed_images(
        self, images: Sequence[object], on_error: str
    ) -> tuple[NDArray[np.float32], dict[int, ImageReadError]]:
        with DescriptorSpill(N_SIFT_DIMENSIONS) as spill:
            errors = self._learn(images, on_error, spill)
            readable = iter(spill)
            rows: Iterable[Any] = (
                errors[row] if row in errors else next(readable) for row in range(len(images))
            )
            return self._embed_prepared(rows, len(images), on_error)

    def _learn(
        self, images: Sequence[object], on_error: str, spill: DescriptorSpill
    ) -> dict[int, ImageReadError]:
        """Learn the codebook, and leave the descriptors of the readable images in the spill."""
        errors: dict[int, ImageReadError] = {}
        for row, one in enumerate(self._prepared(images)):
            if not isinstance(one, ImageReadError):
                spill.append(one)
            elif on_error == "raise":
                raise one
            else:
                errors[row] = one
        random_state = check_random_state(self.random_state)
        sample = spill.sample(_DESCRIPTORS_PER_WORD * self.n_words, random_state)
        self.vocabulary_ = learn_words(
            rootsift(sample), self.n_words, self.n_iterations, random_state
        )
        self.n_images_ = len(images) - len(errors)
        frequency = np.zeros(self.n_words, dtype=np.intp)
        for descriptors in spill:
            frequency += self._count(descriptors) > 0
        self.idf_ = inverse_document_frequency(frequency, self.n_images_)
        return errors

    def _prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return detect_sift(image, self.n_keypoints, self.longest_edge)

    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        return bag_of_words(np.stack([self._count(one) for one in prepared]), self.idf_)

    def _count(self, descriptors: NDArray[np.uint8]) -> NDArray[np.intp]:
        """How often each word occurs in one image.

        Image by image, because BLAS may round the same row otherwise in another batch,
        and the nearest of two words must not depend on that.
        """
        labels, _ = assign_words(rootsift(descriptors), self.vocabulary_)
        return np.bincount(labels, minlength=self.n_words)

    def _learned_digest(self) -> str:
        return hashlib.sha256(self.vocabulary_.tobytes() + self.idf_.tobytes()).hexdigest()

    @property
    def _n_features_out(self) -> int:
        check_is_fitted(self, "vocabulary_")
        return int(self.vocabulary_.shape[0])
