"""Keypoints and their descriptors: an image in, an array of descriptors out."""

import cv2
import numpy as np
from numpy.typing import NDArray

N_SIFT_DIMENSIONS = 128

# Pixels that SIFT's pyramid needs along an edge; smaller images have no keypoints.
_SMALLEST_EDGE = 8


def detect_sift(image: NDArray[np.uint8], n_keypoints: int, longest_edge: int) -> NDArray[np.uint8]:
    """SIFT descriptors of the strongest keypoints of an image.

    Parameters
    ----------
    image : ndarray of shape (height, width, 3), dtype uint8
        RGB.
    n_keypoints : int
        The most keypoints to keep, by contrast.
    longest_edge : int
        Larger images are first reduced to this many pixels along the longest edge.

    Returns
    -------
    descriptors : ndarray of shape (n_keypoints, 128), dtype uint8
        As OpenCV gives them, which is with an L2 norm near 512. No rows if there are none.
    """
    grey = cv2.cvtColor(_reduced(image, longest_edge), cv2.COLOR_RGB2GRAY)
    if min(grey.shape) < _SMALLEST_EDGE:
        return np.empty((0, N_SIFT_DIMENSIONS), dtype=np.uint8)
    sift = cv2.SIFT_create(nfeatures=n_keypoints)  # type: ignore[attr-defined]
    _, descriptors = sift.detectAndCompute(grey, None)
    if descriptors is None:
        return np.empty((0, N_SIFT_DIMENSIONS), dtype=np.uint8)
    # nfeatures keeps all that tie with the last one.
    strongest: NDArray[np.uint8] = descriptors[:n_keypoints].astype(np.uint8)  # 0..255 already
    return strongest


def rootsift(descriptors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The square root of L1-normalised SIFT descriptors.

    Their Euclidean distance is the Hellinger distance of the histograms [1]_.

    Parameters
    ----------
    descriptors : ndarray of shape (n_keypoints, 128), dtype uint8

    Returns
    -------
    descriptors : ndarray of shape (n_keypoints, 128), dtype float32
        Of unit L2 norm; a descriptor of zeros stays so.

    References
    ----------
    .. [1] R. Arandjelovic and A. Zisserman, "Three things everyone should know to improve
       object retrieval", CVPR 2012.
    """
    histograms = descriptors.astype(np.float32)
    totals = histograms.sum(axis=1, keepdims=True)
    roots: NDArray[np.float32] = np.sqrt(histograms / np.maximum(totals, 1))
    return roots


def _reduced(image: NDArray[np.uint8], longest_edge: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = longest_edge / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
