"""Pictures of local features: keypoints, matches, visual words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._optional import import_optional
from ..classical import GeometricMatch, LocalFeatures, VisualVocabulary
from ..images import read_image

_WIDTH = 7.0  # inches
_KEYPOINT, _INLIER, _OUTLIER, _FRAME = "#ffd400", "#2ee059", "#ff5a4f", "#00c8ff"
_GAP = 8  # pixels between two pictures
_SHOWN_WORDS = 6
_PATCH_EDGE = 48  # pixels
# A SIFT descriptor is 4 bins of 3 sigma wide, and a keypoint's scale is 2 sigma.
_DESCRIBED_SCALES = 6
_ASSIGNED = [("image", int), ("keypoint", int), ("word", int), ("distance", float)]


def plot_keypoints(
    image: object, features: LocalFeatures, rich: bool = True, ax: Any = None
) -> Any:
    """Draw the keypoints of an image.

    Parameters
    ----------
    image : image
        As :func:`imgembed.read_image` takes it; the one that the features are of.
    features : LocalFeatures
        The features, of any extractor.
    rich : bool, default=True
        Draw a circle of the keypoint's scale with a radius in its orientation; otherwise a
        point.
    ax : matplotlib Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If the features are of an image of another size.
    ImportError
        If matplotlib is not installed (extra ``plot``).

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import SIFTExtractor
    >>> from imgembed.plotting import plot_keypoints
    >>> blocks = np.random.default_rng(0).integers(0, 256, (15, 20), dtype=np.uint8)
    >>> image = np.kron(blocks, np.ones((8, 8), dtype=np.uint8))
    >>> ax = plot_keypoints(image, SIFTExtractor(30).extract(image))
    >>> ax.get_title()
    '30 keypoints'
    """
    collections = import_optional(
        "matplotlib.collections", extra="plot", needed_by="plot_keypoints"
    )
    pixels = read_image(image)
    _check_shape(pixels, features.image_shape, "features")
    ax = _new_axes(pixels.shape[:2]) if ax is None else ax
    ax.imshow(pixels)
    ax.set_axis_off()
    ax.autoscale(False)
    if rich:
        circles = collections.EllipseCollection(
            features.scales,
            features.scales,
            np.zeros(len(features)),
            units="xy",
            offsets=features.positions,
            offset_transform=ax.transData,
            facecolor="none",
            edgecolor=_KEYPOINT,
            linewidth=0.8,
        )
        ax.add_collection(circles)
        oriented = features[features.angles >= 0]
        turns = np.deg2rad(oriented.angles)
        radii = oriented.scales[:, np.newaxis] / 2 * np.column_stack([np.cos(turns), np.sin(turns)])
        ends = np.stack([oriented.positions, oriented.positions + radii], axis=1)
        ax.add_collection(collections.LineCollection(ends, colors=_KEYPOINT, linewidths=0.8))
    else:
        ax.plot(*features.positions.T, ".", color=_KEYPOINT, markersize=3)
    ax.set_title(f"{len(features)} keypoints", fontsize=9)
    return ax


def plot_matches(
    query: object,
    image: object,
    match: GeometricMatch,
    max_matches: int = 200,
    ax: Any = None,
) -> Any:
    """Draw a query and an image side by side, and lines between what matches.

    Inliers are green, other matches thin and red. Where the transformation maps points to
    points, each picture's frame is outlined in the other: the outlined object.

    Parameters
    ----------
    query : image
        As :func:`imgembed.read_image` takes it.
    image : image
        The other image.
    match : GeometricMatch
        From :meth:`imgembed.GeometricReranker.explain`, :meth:`imgembed.ImageSearch.explain`
        or :func:`imgembed.classical.verify_match`.
    max_matches : int, default=200
        The most inliers, and the most other matches, that are drawn, evenly chosen.
    ax : matplotlib Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If the match is of images of other sizes.
    ImportError
        If matplotlib is not installed (extra ``plot``).

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import SIFTExtractor
    >>> from imgembed.classical import verify_match
    >>> from imgembed.plotting import plot_matches
    >>> blocks = np.random.default_rng(0).integers(0, 256, (15, 20), dtype=np.uint8)
    >>> image = np.kron(blocks, np.ones((8, 8), dtype=np.uint8))
    >>> query = image[20:, 30:]
    >>> extractor = SIFTExtractor()
    >>> match = verify_match(extractor.extract(query), extractor.extract(image))
    >>> plot_matches(query, image, match).get_title().split(",")[1]
    ' verified'
    """
    collections = import_optional("matplotlib.collections", extra="plot", needed_by="plot_matches")
    left, right = read_image(query), read_image(image)
    _check_shape(left, match.query_shape, "query's features")
    _check_shape(right, match.image_shape, "image's features")
    canvas, scales, offsets = _side_by_side(left, right)
    ax = _new_axes(canvas.shape[:2]) if ax is None else ax
    ax.imshow(canvas)
    ax.set_axis_off()
    ax.autoscale(False)
    for chosen, style in (
        (~match.inliers, {"colors": _OUTLIER, "linewidths": 0.5, "alpha": 0.6}),
        (match.inliers, {"colors": _INLIER, "linewidths": 0.8}),
    ):
        rows = np.flatnonzero(chosen)
        rows = rows[:: max(1, -(-len(rows) // max_matches))]
        ends = [
            (positions[rows] + 0.5) * scale - 0.5 + offset
            for positions, scale, offset in zip(
                (match.query_positions, match.image_positions), scales, offsets, strict=True
            )
        ]
        ax.add_collection(collections.LineCollection(np.stack(ends, axis=1), **style))
    if match.verified and match.homography is not None:
        frames = (
            (right.shape, np.linalg.inv(match.homography), left.shape),
            (left.shape, match.homography, right.shape),
        )
        for (shape, mapping, inside), scale, offset in zip(frames, scales, offsets, strict=True):
            _outline(ax, _mapped_frame(shape, mapping), inside, scale, offset)
    verified = "verified" if match.verified else "not verified"
    ax.set_title(f"{match.n_inliers} inliers of {match.n_matches} matches, {verified}", fontsize=9)
    return ax


def plot_words(
    vocabulary: VisualVocabulary,
    images: Sequence[object],
    features: Sequence[LocalFeatures],
    words: int | Sequence[int] | None = None,
    n_patches: int = 10,
) -> NDArray[Any]:
    """Draw the patches of images that visual words stand for, a row a word.

    Parameters
    ----------
    vocabulary : VisualVocabulary
        Fitted.
    images : sequence of n_images images
        As :func:`imgembed.read_image` takes them.
    features : sequence of n_images LocalFeatures
        Their features, of the extractor that the vocabulary was learned from.
    words : int or sequence of int, optional
        The words; by default the six that occur most often in these images.
    n_patches : int, default=10
        The most patches of a word, nearest to it first, of as many images as there are.

    Returns
    -------
    axes : ndarray of shape (n_words, n_patches) of matplotlib Axes
        Patches are turned upright and scaled as the descriptor sees them.

    Raises
    ------
    ValueError
        If there is no word of a given number, or images and features differ in number.
    ImportError
        If matplotlib is not installed (extra ``plot``).

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import SIFTExtractor, VisualVocabulary
    >>> from imgembed.plotting import plot_words
    >>> blocks = np.random.default_rng(0).integers(0, 256, (2, 15, 20), dtype=np.uint8)
    >>> images = [np.kron(block, np.ones((8, 8), dtype=np.uint8)) for block in blocks]
    >>> features = SIFTExtractor().transform(images)
    >>> vocabulary = VisualVocabulary(20, random_state=0).fit(features)
    >>> plot_words(vocabulary, images, features, [3, 7], n_patches=5).shape
    (2, 5)
    """
    pyplot = import_optional("matplotlib.pyplot", extra="plot", needed_by="plot_words")
    if len(images) != len(features) or len(images) == 0:
        raise ValueError(
            f"images and features must be as many, and one at least; got {len(images)} and "
            f"{len(features)}"
        )
    found = _assigned(vocabulary, features)
    chosen = _chosen_words(words, found, len(vocabulary.words_))
    _, axes = pyplot.subplots(
        len(chosen),
        n_patches,
        figsize=(0.8 * n_patches, 0.95 * len(chosen)),
        squeeze=False,
        layout="constrained",
    )
    for row, word in zip(axes, chosen, strict=True):
        of_word = _one_of_each_image_first(found[found["word"] == word])
        row[0].set_title(f"word {word}: {len(of_word)} keypoints", fontsize=7, loc="left")
        for ax in row:
            ax.set_axis_off()
        for ax, one in zip(row, of_word, strict=False):
            ax.imshow(_patch(images[one["image"]], features[one["image"]], one["keypoint"]))
    drawn: NDArray[Any] = axes
    return drawn


def _new_axes(shape: tuple[int, ...]) -> Any:
    pyplot = import_optional("matplotlib.pyplot", extra="plot", needed_by="imgembed.plotting")
    height, width = shape
    _, ax = pyplot.subplots(
        figsize=(_WIDTH, 0.3 + _WIDTH * min(2.0, height / width)), layout="constrained"
    )
    return ax


def _check_shape(pixels: NDArray[np.uint8], shape: tuple[int, int], what: str) -> None:
    if pixels.shape[:2] != shape:
        raise ValueError(
            f"the {what} are of an image of {shape[0]} x {shape[1]} pixels, and this one has "
            f"{pixels.shape[0]} x {pixels.shape[1]}: give the same image"
        )


def _side_by_side(
    left: NDArray[np.uint8], right: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], list[float], list[NDArray[np.float64]]]:
    """Both pictures at the height of the larger; the scale and the place of each."""
    height = max(left.shape[0], right.shape[0])
    scales = [height / picture.shape[0] for picture in (left, right)]
    scaled = [
        np.asarray(
            Image.fromarray(picture).resize((max(1, round(picture.shape[1] * scale)), height))
        )
        for picture, scale in zip((left, right), scales, strict=True)
    ]
    gap = np.full((height, _GAP, 3), 255, dtype=np.uint8)
    offsets = [np.zeros(2), np.array([scaled[0].shape[1] + _GAP, 0.0])]
    return np.hstack([scaled[0], gap, scaled[1]]), scales, offsets


def _mapped_frame(shape: tuple[int, ...], mapping: NDArray[Any]) -> NDArray[np.float64] | None:
    """The corners of a picture in the other, or None where one of them is behind the camera."""
    height, width = shape[:2]
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float)
    corners[:, :2] -= 0.5
    mapped = corners @ mapping.T
    if (mapped[:, 2] * mapped[0, 2] <= 0).any():
        return None
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def _outline(
    ax: Any,
    corners: NDArray[np.float64] | None,
    inside: tuple[int, ...],
    scale: float,
    offset: NDArray[np.float64],
) -> None:
    """Draw a frame in one of two pictures, and nothing of it outside that picture."""
    patches = import_optional("matplotlib.patches", extra="plot", needed_by="plot_matches")
    if corners is None:
        return
    outline = patches.Polygon(
        (corners + 0.5) * scale - 0.5 + offset, fill=False, edgecolor=_FRAME, linewidth=2
    )
    height, width = inside[:2]
    ax.add_patch(outline)
    outline.set_clip_path(
        patches.Rectangle(offset - 0.5, width * scale, height * scale, transform=ax.transData)
    )


def _assigned(vocabulary: VisualVocabulary, features: Sequence[LocalFeatures]) -> NDArray[Any]:
    """Every keypoint with its image and word, nearest to its word first."""
    parts = []
    for number, one in enumerate(features):
        part = np.zeros(len(one), dtype=_ASSIGNED)
        labels, distances = vocabulary.assign(one)
        part["image"], part["keypoint"] = number, np.arange(len(one))
        part["word"], part["distance"] = labels[:, 0], distances[:, 0]
        parts.append(part)
    found = np.concatenate(parts)
    return found[np.argsort(found["distance"], kind="stable")]


def _chosen_words(
    words: int | Sequence[int] | None, found: NDArray[Any], n_words: int
) -> list[int]:
    if words is None:
        counts = np.bincount(found["word"], minlength=n_words)
        return [int(word) for word in np.argsort(-counts, kind="stable")[:_SHOWN_WORDS]]
    chosen = [words] if isinstance(words, (int, np.integer)) else list(words)
    wrong = [word for word in chosen if not 0 <= word < n_words]
    if wrong or not chosen:
        raise ValueError(f"words must be in 0..{n_words - 1}, got {words!r}")
    return chosen


def _one_of_each_image_first(of_word: NDArray[Any]) -> NDArray[Any]:
    """The nearest keypoint of each image, then the second of each, and so on."""
    turn = np.zeros(len(of_word), dtype=np.intp)
    for number in np.unique(of_word["image"]):
        own = of_word["image"] == number
        turn[own] = np.arange(own.sum())
    return of_word[np.argsort(turn, kind="stable")]


def _patch(image: object, features: LocalFeatures, keypoint: int) -> NDArray[np.uint8]:
    """What the descriptor of a keypoint sees: turned upright, and scaled to one size."""
    one = features[keypoint]
    step = float(one.scales[0]) * _DESCRIBED_SCALES / _PATCH_EDGE
    turn = np.deg2rad(max(float(one.angles[0]), 0.0))
    cosine, sine = step * np.cos(turn), step * np.sin(turn)
    # Pillow's corner of the first pixel is 0, and its centre 0.5.
    x, y = one.positions[0] + 0.5
    half = _PATCH_EDGE / 2
    mapping = (
        cosine, -sine, x - half * (cosine - sine),
        sine, cosine, y - half * (sine + cosine),
    )  # fmt: skip
    picture = Image.fromarray(read_image(image))
    patch = picture.transform(
        (_PATCH_EDGE, _PATCH_EDGE),
        Image.Transform.AFFINE,
        mapping,
        Image.Resampling.BILINEAR,
    )
    return np.asarray(patch)
