"""Why two images are similar: what each patch of them has to do with it."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .._optional import import_optional
from .._vectors import normalise_rows
from ..images import read_image
from ._grids import image_name

Floats = NDArray[np.float64]

_EDGE = 3.4  # inches of each picture
_COLOURS = "inferno"
_OPACITY = 0.55
_FRAME = "#00c8ff"
_LEAST_SPAN = 0.01  # of the colours, as a share of the largest number
# How far from square a patch may seem to be before the patches are no grid.
_LONGEST_PATCH = 1.5


class PatchEmbedder(Protocol):
    """An embedder that has local descriptors: :class:`CNNEmbedder`, :class:`ViTEmbedder`."""

    preprocessing_: Any

    def patch_tokens(self, X: Any) -> NDArray[np.float32]:
        """Local descriptors of shape (n_images, n_patches, n_features), row by row."""
        ...


class PatchSimilarity(NamedTuple):
    """A number for each patch of two images.

    Parameters
    ----------
    query : ndarray of shape (n_query_patches,), dtype float64
        Of the patches of the query.
    hit : ndarray of shape (n_hit_patches,), dtype float64
        Of the patches of the hit.

    Examples
    --------
    >>> from imgembed.plotting import patch_similarity
    >>> patch_similarity([[1, 0], [0, 1]], [[2, 0]]).query
    array([1., 0.])
    """

    query: Floats
    hit: Floats


def plot_patch_similarity(
    embedder: PatchEmbedder, query: object, hit: object, *, method: str = "contribution"
) -> NDArray[Any]:
    """Draw over a query and a hit which patches of each make them similar.

    Parameters
    ----------
    embedder : CNNEmbedder or ViTEmbedder
        Its ``patch_tokens`` are compared: those of its output, or of its ``layer``.
    query : image
        As :func:`imgembed.read_image` takes it.
    hit : image
        The other image.
    method : {"contribution", "best"}, default="contribution"
        "contribution" is what each patch adds to the cosine of the two images
        (:func:`patch_contributions`), which is exact for embedders that average their patches.
        "best" is the cosine of each patch to the nearest patch of the other image
        (:func:`patch_similarity`); it shows what else is alike, as the grass around two horses.

    Returns
    -------
    axes : ndarray of shape (2,) of matplotlib Axes
        The query and the hit. Their figure is ``axes[0].figure``.

    Raises
    ------
    ValueError
        If there is no such method, or the patches are no grid.
    ImageReadError
        If an image cannot be read.
    ImportError
        If matplotlib is not installed (extra ``plot``).

    Notes
    -----
    Colours lie over what the network saw: the part of an image that its preprocessing crops
    away has none, and a line goes around the rest. Both images have one scale of colours, which
    goes from the smallest to the largest number of these two images: compare colours within a
    picture, and numbers between pictures. Patches of a deep layer have seen far more of the image
    than the square that they stand for.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import CNNEmbedder
    >>> from imgembed.plotting import plot_patch_similarity
    >>> query, hit = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    >>> embedder = CNNEmbedder("tf_efficientnet_lite0", weights="bundled")
    >>> plot_patch_similarity(embedder, query, hit).shape
    (2,)
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, _METHODS))}, got {method!r}")
    pyplot = import_optional("matplotlib.pyplot", extra="plot", needed_by="plot_patch_similarity")
    compute, told = _METHODS[method]
    pictures = [read_image(query), read_image(hit)]
    found = compute(*embedder.patch_tokens([query, hit]))
    _, axes = pyplot.subplots(1, 2, figsize=(2 * _EDGE + 0.8, _EDGE + 0.3), layout="constrained")
    scale = pyplot.Normalize(*_limits(found))
    titles = [f"query\n{image_name(query)}", f"hit\n{image_name(hit)}"]
    for ax, picture, values, title in zip(axes, pictures, found, titles, strict=True):
        drawn = _draw_map(ax, picture, values, embedder.preprocessing_, scale)
        ax.set_title(title, fontsize=9, parse_math=False)
    axes[0].figure.colorbar(drawn, ax=axes, shrink=0.8, label=told)
    pair: NDArray[Any] = axes
    return pair


def patch_contributions(query_tokens: Any, hit_tokens: Any) -> PatchSimilarity:
    """What each patch adds to the cosine of the mean vectors of two images.

    Parameters
    ----------
    query_tokens : array-like of shape (n_query_patches, n_features)
        Local descriptors of an image: a row of :meth:`CNNEmbedder.patch_tokens`.
    hit_tokens : array-like of shape (n_hit_patches, n_features)
        Those of another image, by the same embedder.

    Returns
    -------
    contributions : PatchSimilarity
        Those of each image sum to the cosine of the two mean vectors. Negative ones make the
        images less similar.

    Raises
    ------
    ValueError
        If shapes do not fit or a number is not finite.

    Notes
    -----
    The mean is linear, so that the cosine is a sum over patches without any remainder [1]_. It is
    the cosine of an embedder's vectors if those are means of its ``patch_tokens``: of CNNEmbedder
    with ``pooling="avg"``, of ViTEmbedder with ``pooling="mean"``, if no layer follows.

    References
    ----------
    .. [1] A. Stylianou, R. Souvenir and R. Pless, "Visualizing Deep Similarity Networks",
       WACV 2019.

    Examples
    --------
    >>> from imgembed.plotting import patch_contributions
    >>> contributions = patch_contributions([[3.0, 0.0], [0.0, 4.0]], [[1.0, 0.0]])
    >>> contributions.query, contributions.hit
    (array([0.6, 0. ]), array([0.6]))
    """
    query, hit = _checked(query_tokens, hit_tokens)
    query_mean, hit_mean = (normalise_rows(tokens.mean(axis=0)) for tokens in (query, hit))
    return PatchSimilarity(_shares(query, hit_mean), _shares(hit, query_mean))


def patch_similarity(query_tokens: Any, hit_tokens: Any) -> PatchSimilarity:
    """The cosine of each patch to the nearest patch of the other image.

    Parameters
    ----------
    query_tokens : array-like of shape (n_query_patches, n_features)
        Local descriptors of an image: a row of :meth:`CNNEmbedder.patch_tokens`.
    hit_tokens : array-like of shape (n_hit_patches, n_features)
        Those of another image, by the same embedder.

    Returns
    -------
    similarity : PatchSimilarity
        In -1..1. A patch of zeros has 0.

    Raises
    ------
    ValueError
        If shapes do not fit or a number is not finite.

    Notes
    -----
    The mean of the numbers of one image is its Chamfer similarity to the other [1]_. It does
    not ask where in the images the patches are: an object is found in another place, and
    plain backgrounds look alike.

    References
    ----------
    .. [1] G. Kordopatis-Zilos, S. Papadopoulos, I. Patras and I. Kompatsiaris, "ViSiL:
       Fine-grained Spatio-Temporal Video Similarity Learning", ICCV 2019.
    .. [2] S. Amir, Y. Gandelsman, S. Bagon and T. Dekel, "Deep ViT Features as Dense Visual
       Descriptors", ECCV Workshops 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed.plotting import patch_similarity
    >>> similarity = patch_similarity(np.eye(3), [[0.0, 2.0, 0.0]])
    >>> similarity.query, similarity.hit
    (array([0., 1., 0.]), array([1.]))
    """
    query, hit = _checked(query_tokens, hit_tokens)
    cosines = np.clip(normalise_rows(query) @ normalise_rows(hit).T, -1, 1)
    return PatchSimilarity(cosines.max(axis=1), cosines.max(axis=0))


_METHODS: dict[str, tuple[Callable[[Any, Any], PatchSimilarity], str]] = {
    "contribution": (patch_contributions, "added to the cosine of the two images"),
    "best": (patch_similarity, "cosine to the nearest patch of the other"),
}


def _checked(query_tokens: Any, hit_tokens: Any) -> tuple[Floats, Floats]:
    query, hit = (np.asarray(tokens, dtype=np.float64) for tokens in (query_tokens, hit_tokens))
    if (
        query.ndim != 2
        or hit.ndim != 2
        or query.shape[1] != hit.shape[1]
        or not query.size * hit.size
    ):
        raise ValueError(
            "tokens must be two arrays of shape (n_patches, n_features) of the same embedder; got "
            f"{query.shape} and {hit.shape}. patch_tokens([query, hit]) gives them"
        )
    if not (np.isfinite(query).all() and np.isfinite(hit).all()):
        raise ValueError("tokens must be finite; those of images that cannot be read are NaN")
    return query, hit


def _shares(tokens: Floats, other: Floats) -> Floats:
    length = np.linalg.norm(tokens.mean(axis=0))
    shares: Floats = tokens @ other / (len(tokens) * (length or 1.0))
    return shares


def _limits(found: PatchSimilarity) -> tuple[float, float]:
    """The smallest and the largest number, apart so that rounding has no colours."""
    low, high = (float(limit) for limit in (min(map(np.min, found)), max(map(np.max, found))))
    return min(low, high - _LEAST_SPAN * abs(high)), high


def _draw_map(
    ax: Any,
    picture: NDArray[np.uint8],
    values: Floats,
    preprocessing: Any,
    scale: Any,
) -> Any:
    """The picture, and over what the network saw of it the values as colours."""
    height, width = picture.shape[:2]
    left, top, right, bottom = preprocessing.seen_box(width, height)
    ax.imshow(picture)
    drawn = ax.imshow(
        values.reshape(_grid_shape(len(values), preprocessing.height, preprocessing.width)),
        extent=(left - 0.5, right - 0.5, bottom - 0.5, top - 0.5),
        cmap=_COLOURS,
        norm=scale,
        alpha=_OPACITY,
        interpolation="nearest",
    )
    corners = [[left, right, right, left, left], [top, top, bottom, bottom, top]]
    ax.plot(*(np.array(corners) - 0.5), color=_FRAME, linewidth=1)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    ax.set_axis_off()
    return drawn


def _grid_shape(n_patches: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the patches of an input: those whose patches are nearest to squares."""
    rows = np.array([n for n in range(1, n_patches + 1) if n_patches % n == 0])
    columns = n_patches // rows
    elongation = np.abs(np.log(height / rows * columns / width))
    best = int(elongation.argmin())
    if elongation[best] > np.log(_LONGEST_PATCH):
        raise ValueError(
            f"{n_patches} patches are no grid over an input of {height} x {width} pixels; take a "
            "network whose patches are, or a layer of it"
        )
    return int(rows[best]), int(columns[best])
