"""The gallery of a reranker as images come and go, and its features as arrays."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from ..classical import LocalFeatures
from ..rerank import GeometricReranker

_BY_KEYPOINT = ("positions", "scales", "angles", "responses", "descriptors")


def extended(reranker: Any, more: GeometricReranker, images: Sequence[object]) -> GeometricReranker:
    """A reranker with the gallery of another one behind its own.

    Parameters
    ----------
    reranker, more : GeometricReranker
        With the same parameters.
    images : sequence of images
        Of both.

    Returns
    -------
    extended : GeometricReranker
    """
    features = reranker.features_ + more.features_ if reranker.keep_features else None
    return _with_gallery(reranker, images, features)


def reduced(
    reranker: GeometricReranker, rows: NDArray[np.int64], images: Sequence[object]
) -> GeometricReranker:
    """A reranker with some images of its gallery.

    Parameters
    ----------
    reranker : GeometricReranker
    rows : ndarray of shape (n_kept,), dtype int64
    images : sequence of n_kept images

    Returns
    -------
    reduced : GeometricReranker
    """
    features = [reranker.features_[row] for row in rows] if reranker.keep_features else None
    return _with_gallery(reranker, images, features)


def packed_features(reranker: GeometricReranker) -> dict[str, Any] | None:
    """The features of a gallery as few arrays; None if they are not kept.

    Parameters
    ----------
    reranker : GeometricReranker

    Returns
    -------
    packed : dict of str to (ndarray or str), or None
    """
    features: list[Any] = reranker.features_ if reranker.keep_features else []
    if not features:
        return None
    return {
        "kind": features[0].kind,
        "n_keypoints": np.array([len(one) for one in features], np.int64),
        "image_shapes": np.array([one.image_shape for one in features], np.int64),
        **{name: np.concatenate([getattr(one, name) for one in features]) for name in _BY_KEYPOINT},
    }


def restored(
    rerank: GeometricReranker, images: Sequence[object], packed: dict[str, Any] | None
) -> GeometricReranker:
    """A reranker fitted to a gallery whose features are known.

    Parameters
    ----------
    rerank : GeometricReranker
        Its parameters.
    images : sequence of images
    packed : dict or None
        What :func:`packed_features` gave.

    Returns
    -------
    reranker : GeometricReranker

    Raises
    ------
    ValueError, TypeError or KeyError
        If the features are not those of as many images.
    """
    reranker: GeometricReranker = clone(rerank).fit([])
    features = [] if packed is None else _unpacked(packed)
    if reranker.keep_features and len(features) != len(images):
        raise ValueError(f"there are features of {len(features)} images, and {len(images)} images")
    return _with_gallery(reranker, images, features if reranker.keep_features else None)


def _with_gallery(
    reranker: GeometricReranker, images: Sequence[object], features: list[LocalFeatures] | None
) -> GeometricReranker:
    changed = copy.copy(reranker)  # a search that runs keeps the one that it has
    changed.images_ = images
    if features is not None:
        changed.features_ = features
    return changed


def _unpacked(packed: dict[str, Any]) -> list[LocalFeatures]:
    counts = packed["n_keypoints"]
    arrays = {name: packed[name] for name in _BY_KEYPOINT}
    if counts.min(initial=0) < 0 or any(len(a) != counts.sum() for a in arrays.values()):
        raise ValueError("there are other keypoints than were counted")
    split = {name: np.split(array, np.cumsum(counts)[:-1]) for name, array in arrays.items()}
    return [
        LocalFeatures(
            **{name: parts[row] for name, parts in split.items()},
            image_shape=(int(height), int(width)),
            kind=str(packed["kind"]),
        )
        for row, (height, width) in enumerate(packed["image_shapes"])
    ]
