"""find_duplicates: contents, then vectors, then pixels tell which images are the same."""

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from .._threads import map_ahead
from .._workers import n_threads_here
from ..base import ImageEmbedder
from ..classical import HOGEmbedder
from ..images import (
    ChosenImages,
    ImageReadError,
    ImageReadWarning,
    check_images,
    image_content,
    list_images,
    read_image,
)
from ..index import LabelledCalibration, NearestNeighborIndex, RandomPairCalibration
from ._result import DuplicateImage, Duplicates

Calibration = LabelledCalibration | RandomPairCalibration

# On photographs it tells copies from others far better than networks do, which look for what is
# shown, and than finer grids: see benchmarks/duplicates.py.
_COARSE_HOG = HOGEmbedder(size=64, cell_size=16)
_THRESHOLD_OF_FEW = 0.02  # what it learns from the 1,000 photographs of corel1k
# Different images. Among the pairs of fewer, copies may outweigh what is learned from.
_FEWEST_TO_LEARN_FROM = 1000


def find_duplicates(
    X: Any, embedder: ImageEmbedder | None = None, *, threshold: float | None = None
) -> Duplicates:
    """Find groups of images that are the same or nearly so, and say which to keep.

    Nothing is deleted.

    Parameters
    ----------
    X : str, Path or sequence of n_images images
        A folder, whose images are listed by :func:`imgembed.list_images`, or images as
        :func:`imgembed.read_image` takes them.
    embedder : ImageEmbedder, optional
        What the images are compared by. One that is fitted, or needs no fit, is used as it is;
        another is cloned and fitted to the images. By default
        ``HOGEmbedder(size=64, cell_size=16)``.
    threshold : float, optional
        The largest cosine distance of two images of a group, at least 0 and below 1. By default
        it is learned from random pairs of the images (:class:`RandomPairCalibration`), which
        takes 30 of them, and more if many are copies. The default embedder has 0.02 below 1,000
        different images.

    Returns
    -------
    duplicates : Duplicates
        Groups, which image of each to keep, and how far the others are from it.

    Raises
    ------
    ValueError
        If there is no image, none can be read, the threshold is out of range, or none can be
        learned.

    Warns
    -----
    ImageReadWarning
        Once, if images could not be read. They are in ``errors``, and in no group.

    Notes
    -----
    Files of the same bytes are known by them and embedded once. All others are grouped by complete
    linkage [1]_: in a group every image is within the threshold of every other, so there are no
    chains. Within a group pixels are compared, too.

    Of a group the image with the most pixels is kept; among equals the one with the most
    bytes, which is the least compressed; among these the first in ``X``. An image that was
    enlarged looks better by this rule than it is.

    The default embedder compares where edges are in a coarse grid. It finds copies that are
    resized, recompressed, blurred, brightened, marked, or cropped and turned a little; not
    strong crops and mirror images. What has the same layout passes for a copy: photographs taken in
    series, labels of one design with other words. Look at the groups before you remove anything.

    References
    ----------
    .. [1] D. Defays, "An efficient algorithm for a complete link method", The Computer Journal
       20(4), 1977.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import HOGEmbedder, find_duplicates
    >>> small = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    >>> images = [np.kron(image, np.ones((16, 16), dtype=np.uint8)) for image in small]
    >>> duplicates = find_duplicates(
    ...     [*images, images[1][::2, ::2], images[0]], HOGEmbedder(), threshold=0.02
    ... )
    >>> duplicates.groups
    [array([0, 4]), array([1, 3])]
    >>> duplicates.keep, duplicates.remove
    (array([0, 1]), array([3, 4]))
    """
    _check_threshold(threshold)
    gallery = _gallery(X)
    copies = _rows_by_content(gallery)
    first = ChosenImages(gallery, np.array([rows[0] for rows in copies], dtype=np.int64))
    vectors, errors = _embedded(embedder or _COARSE_HOG, first)
    if len(errors) == len(copies):
        raise ValueError(f"none of {len(gallery)} images can be read; the first: {errors[0]}")
    unreadable = {row: error.with_row(row) for i, error in errors.items() for row in copies[i]}
    if unreadable:
        _warn_of(unreadable, len(gallery))
    different = [rows for i, rows in enumerate(copies) if i not in errors]
    index = NearestNeighborIndex(algorithm="exact").fit(np.delete(vectors, list(errors), axis=0))
    limit, calibration = _limit(index, threshold, embedder is None)
    groups = _with_copies(index.near_duplicates(limit), different)
    looks = _looks(gallery, different, groups)
    members = []
    for number, group in enumerate(groups):
        ranked = _best_first(_candidates(group, different, looks, index.vectors_))
        members += _judged(number, ranked, calibration)
    return Duplicates(members, gallery, limit, unreadable)


class _Look(NamedTuple):
    """What is seen of an image when it is read in full."""

    width: int
    height: int
    n_bytes: int
    pixels: bytes  # their digest


class _Candidate(NamedTuple):
    """An image of a group."""

    row: int
    content: int
    vector: NDArray[np.float32]
    look: _Look

    @property
    def n_pixels(self) -> int:
        return self.look.width * self.look.height


def _check_threshold(threshold: float | None) -> None:
    if threshold is None:
        return
    if not isinstance(threshold, (int, float, np.number)) or not 0 <= threshold < 1:
        raise ValueError(
            "threshold is a cosine distance, at least 0 and below 1, where vectors have nothing in "
            f"common; got {threshold!r}"
        )


def _gallery(X: Any) -> Sequence[object]:
    if not isinstance(X, (str, os.PathLike)):
        gallery = check_images(X)
        if len(gallery) == 0:
            raise ValueError("there are no images in X; give a folder or at least one image")
        return gallery
    paths = list_images(X)
    if not paths:
        raise ValueError(f"there are no images in the folder {os.fspath(X)!r}")
    return paths


def _rows_by_content(gallery: Sequence[object]) -> list[list[int]]:
    """The rows of each content, in the order of their first rows."""
    rows: dict[object, list[int]] = {}
    contents = map_ahead(_content_digest, gallery, n_threads_here(-1), n_ahead=64)
    for row, content in enumerate(contents):
        rows.setdefault(row if content is None else content, []).append(row)
    return list(rows.values())


def _content_digest(image: object) -> bytes | None:
    content = image_content(image)
    return None if content is None else _digest(content)


def _digest(content: bytes | NDArray[np.uint8]) -> bytes:
    if isinstance(content, bytes):
        return hashlib.sha256(b"file" + content).digest()
    return hashlib.sha256(repr(content.shape).encode() + content.tobytes()).digest()


def _embedded(
    embedder: ImageEmbedder, images: ChosenImages
) -> tuple[NDArray[np.float32], dict[int, ImageReadError]]:
    try:
        check_is_fitted(embedder)
    except NotFittedError:
        made: ImageEmbedder = clone(embedder)
        return made.fit_transform_with_errors(images)
    return embedder.transform_with_errors(images)


def _warn_of(errors: dict[int, ImageReadError], n_images: int) -> None:
    first = next(iter(errors.values()))
    warnings.warn(
        f"{len(errors)} of {n_images} images cannot be read and are not compared; errors lists "
        f"them. The first: {first}",
        ImageReadWarning,
        stacklevel=3,
    )


def _limit(
    index: NearestNeighborIndex, given: float | None, by_default: bool
) -> tuple[float, Calibration | None]:
    """The largest distance within a group, and what it was learned as."""
    if given is not None:
        return float(given), None
    if by_default and len(index) < _FEWEST_TO_LEARN_FROM:
        return _THRESHOLD_OF_FEW, None
    try:
        calibration: Calibration = index.calibrate()
    except ValueError as error:
        raise ValueError(
            f"no threshold can be learned from {len(index)} different images ({error}) Give "
            "threshold=..., the largest cosine distance of two copies"
        ) from error
    return calibration.threshold, calibration


def _with_copies(near: Iterable[list[Any]], different: list[list[int]]) -> list[list[int]]:
    """Groups of contents, with those that are in no group and stand in several rows."""
    groups = [sorted(group) for group in near]
    grouped = {content for group in groups for content in group}
    groups += [[i] for i, rows in enumerate(different) if len(rows) > 1 and i not in grouped]
    return sorted(groups)


def _looks(
    gallery: Sequence[object], different: list[list[int]], groups: list[list[int]]
) -> dict[int, _Look]:
    """What is seen of each content that is in a group."""
    contents = [content for group in groups for content in group]
    images = [gallery[different[content][0]] for content in contents]
    seen = map_ahead(_look, images, n_threads_here(-1), n_ahead=16)
    return dict(zip(contents, seen, strict=True))


def _look(image: object) -> _Look:
    pixels = read_image(image)
    height, width = pixels.shape[:2]
    return _Look(width, height, _n_bytes(image, pixels), _digest(pixels))


def _n_bytes(image: object, pixels: NDArray[np.uint8]) -> int:
    if isinstance(image, Mapping):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if isinstance(image, (bytes, bytearray)):
        return len(image)
    return os.path.getsize(image) if isinstance(image, (str, os.PathLike)) else pixels.nbytes


def _candidates(
    group: list[int],
    different: list[list[int]],
    looks: dict[int, _Look],
    vectors: NDArray[np.float32],
) -> list[_Candidate]:
    return [
        _Candidate(row, content, vectors[content], looks[content])
        for content in group
        for row in different[content]
    ]


def _best_first(candidates: list[_Candidate]) -> list[_Candidate]:
    """The one to keep, then the others, nearest first."""
    best = max(candidates, key=lambda each: (each.n_pixels, each.look.n_bytes, -each.row))
    others = [each for each in candidates if each is not best]
    return [best, *sorted(others, key=lambda each: (_distance(best, each), each.row))]


def _distance(one: _Candidate, other: _Candidate) -> float:
    """The cosine distance: half the square, for vectors of unit length."""
    if one.content == other.content:  # also of vectors of zeros
        return 0.0
    difference = one.vector.astype(np.float64) - other.vector
    return float(difference @ difference / 2)


def _judged(
    group: int, ranked: list[_Candidate], calibration: Calibration | None
) -> list[DuplicateImage]:
    kept = ranked[0]
    return [
        DuplicateImage(
            group=group,
            row=each.row,
            keep=each is kept,
            likeness=_likeness(kept, each),
            distance=_distance(kept, each),
            probability=_probability(calibration, _distance(kept, each)),
            width=each.look.width,
            height=each.look.height,
            n_bytes=each.look.n_bytes,
            reason=_why_kept(ranked) if each is kept else _why_not(kept, each),
        )
        for each in ranked
    ]


def _likeness(kept: _Candidate, other: _Candidate) -> str:
    if other is kept:
        return "itself"
    if other.content == kept.content:
        return "identical"
    return "same pixels" if other.look.pixels == kept.look.pixels else "similar"


def _probability(calibration: Calibration | None, distance: float) -> float | None:
    return None if calibration is None else float(calibration.probability(distance))


def _why_kept(ranked: list[_Candidate]) -> str:
    kept, *others = ranked
    equals = [each for each in others if each.n_pixels == kept.n_pixels]
    if not equals:
        return "most pixels"
    if all(each.look.n_bytes < kept.look.n_bytes for each in equals):
        return "most pixels, most bytes"
    return "first of the best"


def _why_not(kept: _Candidate, other: _Candidate) -> str:
    if other.n_pixels < kept.n_pixels:
        return "fewer pixels"
    return "fewer bytes" if other.look.n_bytes < kept.look.n_bytes else "not the first"
