"""LocalFeatureExtractor: what all extractors of local features are."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_scalar

from ..base import ImageTransformer
from ..images import ImageReadError, check_images
from ._features import LocalFeatures

# Smaller images have no keypoints: the pyramids of the detectors need some pixels.
_SMALLEST_EDGE = 16


class LocalFeatureExtractor(ImageTransformer):
    """Base class of the extractors: images in, a list of LocalFeatures out.

    Parameters
    ----------
    n_keypoints : int
        The most keypoints of an image, the strongest first.
    longest_edge : int or None
        Larger images are reduced to this many pixels along the longest edge before
        keypoints are sought; None means never. Positions are in pixels of the image as given.
    n_jobs : int or None
        Threads that read images and seek keypoints; -1 means one for each processor.
    on_error : {"raise", "none"}
        An unreadable image raises ImageReadError, or None stands in its place, and one
        ImageReadWarning lists all of them.
    progress : {"auto", True, False}
        Whether to show a progress bar; "auto": in terminals and notebooks, after 2 s.
    max_pixels : int
        Larger images are refused before they are decoded.
    """

    _on_error_choices: ClassVar[tuple[str, ...]] = ("raise", "none")

    n_keypoints: int
    longest_edge: int | None

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Check parameters; there is nothing to learn.

        Parameters
        ----------
        X : ignored
            For the API of scikit-learn.
        y : ignored
            For the API of scikit-learn.

        Returns
        -------
        self : LocalFeatureExtractor
        """
        self._check_parameters()
        return self

    def transform(self, X: Any) -> list[LocalFeatures | None]:
        """Find the local features of images.

        Parameters
        ----------
        X : sequence of n_images images
            Paths, bytes, PIL images, arrays; see :func:`imgembed.read_image`.

        Returns
        -------
        features : list of n_images LocalFeatures
            With ``on_error="none"`` None stands for an unreadable image.

        Raises
        ------
        ImageReadError
            If an image cannot be read and ``on_error="raise"``.
        """
        features: list[LocalFeatures | None] = []
        errors: dict[int, ImageReadError] = {}
        for row, one in enumerate(self._extracted(check_images(X))):
            features.append(one if isinstance(one, LocalFeatures) else None)
            if isinstance(one, ImageReadError):
                errors[row] = one
        self._warn_of(errors)
        return features

    def iterate(self, images: Iterable[object]) -> Iterator[LocalFeatures]:
        """Find local features image by image, for more images than fit into memory.

        Parameters
        ----------
        images : iterable of images
            Also a generator. It is read a few images ahead.

        Yields
        ------
        features : LocalFeatures
            Of each image, in order. With ``on_error="none"`` unreadable images are left out,
            and one warning lists them at the end.
        """
        errors: dict[int, ImageReadError] = {}
        for row, one in enumerate(self._extracted(images)):
            if isinstance(one, ImageReadError):
                errors[row] = one
            else:
                yield one
        self._warn_of(errors)

    def extract(self, image: NDArray[np.uint8]) -> LocalFeatures:
        """Find the local features of one image that has been read.

        Parameters
        ----------
        image : ndarray of shape (height, width, 3) or (height, width), dtype uint8
            RGB or grey, for example from :func:`imgembed.read_image`.

        Returns
        -------
        features : LocalFeatures
            At most ``n_keypoints`` of them, the strongest first; none in a flat image or
            one that is smaller than 16 pixels.
        """
        self._check_parameters()
        grey = _reduced(image, self.longest_edge)
        if grey.ndim == 3:
            grey = cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY)  # type: ignore[assignment]
        keypoints: Sequence[Any] = ()
        descriptors = None
        detector = self._detector()
        if min(grey.shape) >= _SMALLEST_EDGE:
            keypoints, descriptors = detector.detectAndCompute(grey, None)
        if descriptors is None:  # that is how OpenCV says that there are none
            descriptors = np.empty((0, detector.descriptorSize()))
        return self._strongest(keypoints, descriptors, grey.shape[:2], image.shape[:2])

    def _extracted(self, images: Iterable[object]) -> Iterator[LocalFeatures | ImageReadError]:
        self._check_parameters()
        self._detector()  # what this build of OpenCV has not is said before images are read
        yield from self._prepared_anywhere(images, self.extract, self.on_error)

    def _strongest(
        self,
        keypoints: Sequence[Any],
        descriptors: NDArray[Any],
        reduced: tuple[int, ...],
        shape: tuple[int, ...],
    ) -> LocalFeatures:
        columns = [(*k.pt, k.size, k.angle, k.response) for k in keypoints]
        found = np.array(columns, dtype=np.float32).reshape(-1, 5)
        order = np.argsort(-found[:, 4], kind="stable")[: self.n_keypoints]
        found, descriptors = found[order], self._descriptors(descriptors[order])
        # The centre of the first pixel is 0 in both images, its corner -0.5.
        enlarged = np.divide(shape, reduced)[::-1].astype(np.float32)
        return LocalFeatures(
            (found[:, :2] + np.float32(0.5)) * enlarged - np.float32(0.5),
            found[:, 2] * np.float32(enlarged.max()),
            found[:, 3].copy(),
            found[:, 4].copy(),
            descriptors,
            (int(shape[0]), int(shape[1])),
            self._kind,
        )

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_scalar(self.n_keypoints, "n_keypoints", int, min_val=1)
        if self.longest_edge is not None:
            check_scalar(self.longest_edge, "longest_edge", int, min_val=16)

    # What a subclass writes.

    @property
    @abstractmethod
    def _kind(self) -> str:
        """The kind of LocalFeatures."""

    @abstractmethod
    def _detector(self) -> Any:
        """A new detector of OpenCV."""

    def _descriptors(self, descriptors: NDArray[Any]) -> NDArray[Any]:
        """Descriptors as they are kept."""
        return descriptors.astype(np.uint8, copy=False)


def _reduced(image: NDArray[np.uint8], longest_edge: int | None) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = 1.0 if longest_edge is None else longest_edge / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
