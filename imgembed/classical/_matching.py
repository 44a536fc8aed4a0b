"""Match the local features of two images, and verify that the matches fit one geometry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ._descriptors import DescriptorFormat
from ._features import LocalFeatures

Positions = NDArray[np.float32]

# A match by chance fits the geometry of the others now and then; more inliers than
# this are not chance [M. Brown and D. Lowe, "Recognising Panoramas", ICCV 2003].
_CHANCE = 5.9
_CHANCE_PER_MATCH = 0.22
# An object that seems this much larger or smaller, or squeezed this much, was not matched.
_LARGEST_SCALE = 10.0
_LARGEST_SQUEEZE = 8.0
_RANSAC_ITERATIONS = 1000
_RANSAC_CONFIDENCE = 0.999


@dataclass(frozen=True, eq=False, repr=False)
class GeometricMatch:
    """How a query's local features match those of another image.

    Parameters
    ----------
    query_positions : ndarray of shape (n_matches, 2), dtype float32
        x and y in pixels of the query.
    image_positions : ndarray of shape (n_matches, 2), dtype float32
        x and y of the same features in pixels of the image.
    inliers : ndarray of shape (n_matches,), dtype bool
        Which matches fit the transformation.
    transformation : ndarray of shape (3, 3), dtype float64, or None
        Takes homogeneous positions of the query to those of the image (a fundamental matrix:
        to their epipolar lines); None if none was found.
    model : {"homography", "affine", "fundamental"}
        What the transformation is.
    verified : bool
        Whether there are more inliers than chance gives, and the transformation is one
        that a camera can see.
    query_shape : tuple of (int, int)
        Height and width of the query.
    image_shape : tuple of (int, int)
        Height and width of the image.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import SIFTExtractor
    >>> from imgembed.classical import verify_match
    >>> blocks = np.random.default_rng(0).integers(0, 256, (15, 20), dtype=np.uint8)
    >>> image = np.kron(blocks, np.ones((8, 8), dtype=np.uint8))
    >>> match = verify_match(*SIFTExtractor().transform([image, image[:, 40:]]))
    >>> match.verified, match.n_inliers <= match.n_matches, match.homography.shape
    (True, True, (3, 3))
    """

    query_positions: Positions
    image_positions: Positions
    inliers: NDArray[np.bool_]
    transformation: NDArray[np.float64] | None
    model: str
    verified: bool
    query_shape: tuple[int, int]
    image_shape: tuple[int, int]

    @property
    def n_matches(self) -> int:
        """Matches that passed the ratio test."""
        return len(self.inliers)

    @property
    def n_inliers(self) -> int:
        """Matches that fit the transformation, at different places in both images."""
        return _n_places(self.query_positions[self.inliers], self.image_positions[self.inliers])

    @property
    def homography(self) -> NDArray[np.float64] | None:
        """The transformation if it maps points to points, else None."""
        return None if self.model == "fundamental" else self.transformation

    def __repr__(self) -> str:
        verified = "verified" if self.verified else "not verified"
        return (
            f"GeometricMatch: {self.n_inliers} inliers of {self.n_matches} matches, "
            f"{self.model}, {verified}"
        )


def match_features(
    query: LocalFeatures, image: LocalFeatures, ratio: float = 0.8
) -> NDArray[np.intp]:
    """Match each feature of a query to its nearest in an image, if that is clearly nearest.

    Parameters
    ----------
    query : LocalFeatures
        Features of the query.
    image : LocalFeatures
        Features of the image, of the same kind.
    ratio : float, default=0.8
        The nearest must be nearer than this times the second nearest [1]_.

    Returns
    -------
    pairs : ndarray of shape (n_matches, 2), dtype intp
        Numbers of the features in the query and in the image; each occurs once at most.

    Raises
    ------
    ValueError
        If the features are of different kinds.

    References
    ----------
    .. [1] D. Lowe, "Distinctive Image Features from Scale-Invariant Keypoints", IJCV 2004,
       section 7.1.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import SIFTExtractor
    >>> from imgembed.classical import match_features
    >>> blocks = np.random.default_rng(0).integers(0, 256, (15, 20), dtype=np.uint8)
    >>> features = SIFTExtractor(50).extract(np.kron(blocks, np.ones((8, 8), dtype=np.uint8)))
    >>> pairs = match_features(features, features[::-1])
    >>> np.array_equal(pairs[:, 0], 49 - pairs[:, 1])
    True
    """
    format_ = DescriptorFormat.of(query)
    a = format_.encode(format_.check(query))
    b = format_.encode(format_.check(image))
    if len(a) == 0 or len(b) < 2:
        return np.empty((0, 2), dtype=np.intp)
    distances = a @ (-2 * b.T)
    distances += np.square(b).sum(axis=1)
    rows = np.arange(len(a))
    nearest = distances.argmin(axis=1)
    first = distances[rows, nearest]
    distances[rows, nearest] = np.inf
    norms = np.square(a).sum(axis=1)
    first, second = (np.maximum(d + norms, 0) for d in (first, distances.min(axis=1)))
    clear = np.flatnonzero(first < ratio**2 * second)
    # The nearest of all that chose the same feature keeps it.
    clear = clear[np.argsort(first[clear], kind="stable")]
    _, kept = np.unique(nearest[clear], return_index=True)
    chosen = clear[np.sort(kept)]
    return np.column_stack([chosen, nearest[chosen]])


def verify_match(
    query: LocalFeatures,
    image: LocalFeatures,
    model: str = "homography",
    ratio: float = 0.8,
    threshold: float = 4.0,
    min_inliers: int = 8,
) -> GeometricMatch:
    """Match two images, and find the transformation that most matches fit.

    Parameters
    ----------
    query : LocalFeatures
        Features of the query.
    image : LocalFeatures
        Features of the image, of the same kind.
    model : {"homography", "affine", "fundamental"}, default="homography"
        Of a plane, of a plane far away, or of a solid scene.
    ratio : float, default=0.8
        For :func:`match_features`.
    threshold : float, default=4.0
        How far, in pixels of the image, an inlier may be from where it should be.
    min_inliers : int, default=8
        Fewer matches, or fewer inliers, are not verified.

    Returns
    -------
    match : GeometricMatch

    References
    ----------
    .. [1] D. Barath et al., "MAGSAC++, a Fast, Reliable and Accurate Robust Estimator",
       CVPR 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import SIFTExtractor
    >>> from imgembed.classical import verify_match
    >>> blocks = np.random.default_rng(0).integers(0, 256, (15, 20), dtype=np.uint8)
    >>> image = np.kron(blocks, np.ones((8, 8), dtype=np.uint8))
    >>> extractor = SIFTExtractor()
    >>> match = verify_match(extractor.extract(image), extractor.extract(image[20:, 30:]))
    >>> match.verified, match.homography[:2, 2].round()
    (True, array([-30., -20.]))
    """
    pairs = match_features(query, image, ratio)
    a, b = query.positions[pairs[:, 0]], image.positions[pairs[:, 1]]
    inliers = np.zeros(len(pairs), dtype=bool)
    transformation = None
    if _n_places(a, b) >= max(min_inliers, _FEWEST_MATCHES[model]):
        transformation, inliers = _ESTIMATORS[model](a, b, threshold)
    n_inliers = _n_places(a[inliers], b[inliers])
    verified = (
        transformation is not None
        and n_inliers >= min_inliers
        and n_inliers > _CHANCE + _CHANCE_PER_MATCH * len(pairs)
        and (model == "fundamental" or _is_plausible(transformation, a[inliers]))
    )
    return GeometricMatch(
        a, b, inliers, transformation, model, verified, query.image_shape, image.image_shape
    )


def _homography(a: Positions, b: Positions, threshold: float) -> Any:
    found, mask = cv2.findHomography(
        a, b, cv2.USAC_MAGSAC, threshold, None, _RANSAC_ITERATIONS, _RANSAC_CONFIDENCE
    )
    return _checked(found, mask, len(a))


def _affine(a: Positions, b: Positions, threshold: float) -> Any:
    found, mask = cv2.estimateAffine2D(
        a, b, None, cv2.USAC_MAGSAC, threshold, _RANSAC_ITERATIONS, _RANSAC_CONFIDENCE
    )
    if found is not None and len(found):
        found = np.vstack([found, [0, 0, 1]])
    return _checked(found, mask, len(a))


def _fundamental(a: Positions, b: Positions, threshold: float) -> Any:
    found, mask = cv2.findFundamentalMat(
        a, b, cv2.USAC_MAGSAC, threshold, _RANSAC_CONFIDENCE, _RANSAC_ITERATIONS
    )
    return _checked(found, mask, len(a))


_ESTIMATORS: dict[str, Callable[[Positions, Positions, float], Any]] = {
    "homography": _homography,
    "affine": _affine,
    "fundamental": _fundamental,
}
# One more than define the transformation.
_FEWEST_MATCHES = {"homography": 5, "affine": 4, "fundamental": 9}


def _checked(found: Any, mask: Any, n_matches: int) -> tuple[Any, NDArray[np.bool_]]:
    """OpenCV's answer; None, an empty matrix or NaN all mean that it has found nothing."""
    if found is None or np.shape(found) != (3, 3) or not np.isfinite(found).all():
        return None, np.zeros(n_matches, dtype=bool)
    return np.asarray(found, dtype=np.float64), mask.ravel().astype(bool)


def _n_places(a: Positions, b: Positions) -> int:
    """At how many different places matches are: a place may have keypoints of many angles."""
    return min(len(np.unique(a.round(), axis=0)), len(np.unique(b.round(), axis=0)))


def _is_plausible(transformation: NDArray[np.float64], positions: Positions) -> bool:
    """Whether it turns nothing inside out at the inliers, and scales within reason.

    By its derivative at each of them: a mirrored side has a negative determinant, and the
    singular values are the scales in the directions of the most and the least.
    """
    homogeneous = np.column_stack([positions, np.ones(len(positions))]) @ transformation.T
    depth = homogeneous[:, 2]
    if (depth * depth[0] <= 0).any():
        return False
    mapped = homogeneous[:, :2] / depth[:, np.newaxis]
    linear = transformation[np.newaxis, :2, :2]
    towards = mapped[:, :, np.newaxis] * transformation[np.newaxis, 2:, :2]
    derivative = (linear - towards) / depth[:, np.newaxis, np.newaxis]
    scales = np.linalg.svd(derivative, compute_uv=False)
    squeeze = scales[:, 0] / np.maximum(scales[:, 1], np.finfo(float).tiny)
    size = np.sqrt(scales[:, 0] * scales[:, 1])
    return bool(
        (np.linalg.det(derivative) > 0).all()
        and np.median(squeeze) < _LARGEST_SQUEEZE
        and 1 / _LARGEST_SCALE < np.median(size) < _LARGEST_SCALE
    )
