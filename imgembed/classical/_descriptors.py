"""Sets of local descriptors as they come in: LocalFeatures, or arrays of any origin."""

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ._features import BINARY_KINDS, LocalFeatures

Points = NDArray[np.float32]
Encode = Callable[[NDArray[Any]], Points]


def as_points(descriptors: NDArray[Any]) -> Points:
    """Descriptors as float32."""
    return descriptors.astype(np.float32, copy=False)


def bits_as_points(descriptors: NDArray[np.uint8]) -> Points:
    """Packed bits as float32 zeros and ones, whose squared distance is the Hamming distance."""
    return np.unpackbits(descriptors, axis=1).astype(np.float32)


@dataclass(frozen=True)
class DescriptorFormat:
    """What the first descriptors were like, and all others must be.

    Parameters
    ----------
    kind : str or None
        The kind of LocalFeatures; None for arrays.
    n_dimensions : int
        The width of the rows.
    binary : bool
        Whether rows are bits, eight to a byte.
    """

    kind: str | None
    n_dimensions: int
    binary: bool

    @classmethod
    def of(cls, one: object, row: int | None = None, metric: str = "auto") -> Self:
        """The format of the first descriptors."""
        kind = one.kind if isinstance(one, LocalFeatures) else None
        binary = metric == "hamming" or (metric == "auto" and kind in BINARY_KINDS)
        return cls(kind, check_descriptors(one, row).shape[1], binary)

    @property
    def encode(self) -> Encode:
        """What makes points of descriptors."""
        return bits_as_points if self.binary else as_points

    def check(self, one: object, row: int | None = None) -> NDArray[Any]:
        """Descriptors as an array, if they have this format; else a ValueError."""
        descriptors = check_descriptors(one, row)
        kind = one.kind if isinstance(one, LocalFeatures) else None
        if kind is not None and self.kind is not None and kind != self.kind:
            raise ValueError(
                f"the descriptors before were {self.kind!r}, and {_those(row)} are "
                f"{kind!r}: take the same extractor for all"
            )
        if descriptors.shape[1] != self.n_dimensions:
            raise ValueError(
                f"the descriptors before had {self.n_dimensions} columns, and {_those(row)} "
                f"have {descriptors.shape[1]}: take the same extractor for all"
            )
        if self.binary and descriptors.dtype != np.uint8:
            raise ValueError(
                f"binary descriptors must be uint8, eight bits a byte; {_those(row)} are "
                f"{descriptors.dtype}"
            )
        return descriptors


def check_descriptors(one: object, row: int | None = None) -> NDArray[Any]:
    """The descriptors of one image as a finite array.

    Parameters
    ----------
    one : LocalFeatures or array-like of shape (n_keypoints, n_dimensions)
        The descriptors.
    row : int or None, default=None
        Of the image, for the message of an error.

    Returns
    -------
    descriptors : ndarray of shape (n_keypoints, n_dimensions), dtype uint8 or float32

    Raises
    ------
    ValueError
        If they are not that.
    """
    if one is None:
        raise ValueError(
            f"{_those(row)} are None: the image could not be read. Leave out what is None"
        )
    descriptors = one.descriptors if isinstance(one, LocalFeatures) else np.asarray(one)
    if descriptors.ndim != 2 or descriptors.shape[1] == 0:
        raise ValueError(
            "the descriptors of an image must be LocalFeatures or an array of shape (n_keypoints, "
            f"n_dimensions); {_those(row)} have shape {descriptors.shape}"
        )
    if descriptors.dtype == np.uint8:
        return descriptors
    if descriptors.dtype.kind not in "fiub":
        raise ValueError(f"descriptors must be numbers; {_those(row)} are {descriptors.dtype}")
    with np.errstate(over="ignore"):
        descriptors = descriptors.astype(np.float32, copy=False)
    if not np.isfinite(descriptors).all():
        raise ValueError(f"descriptors must be finite in float32; {_those(row)} are not")
    return descriptors


def check_descriptor_sets(X: Any) -> Any:
    """Check that X holds a set of descriptors for each of several images.

    Parameters
    ----------
    X : sequence or other sized iterable of n_images LocalFeatures or arrays
        An array of shape (n_images, n_keypoints, n_dimensions) is one too.

    Returns
    -------
    X : iterable
        The same; it may be gone through more than once.

    Raises
    ------
    TypeError
        If X is the descriptors of one image, or can be gone through only once.
    ValueError
        If X is empty.
    """
    if isinstance(X, LocalFeatures) or (isinstance(X, np.ndarray) and X.ndim == 2):
        raise TypeError(
            "X must hold the descriptors of several images, got those of one. Put it into a list"
        )
    if isinstance(X, Iterator) or not (isinstance(X, Iterable) and isinstance(X, Sized)):
        raise TypeError(
            f"X must be a sequence of LocalFeatures or arrays, got a {type(X).__name__}, which "
            "cannot be gone through twice. Make a list of it, or learn a VisualVocabulary from it"
        )
    if len(X) == 0:
        raise ValueError("X is empty; give the descriptors of at least one image")
    return X


def _those(row: int | None) -> str:
    return "these" if row is None else f"those of image {row}"
