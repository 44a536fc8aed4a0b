"""Vectors in the plane, for a map of a collection."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.utils import check_random_state

from .._optional import import_optional
from .._vectors import normalise_rows

Floats = NDArray[np.float64]

_FEWEST = 3  # vectors: two have no shape
_PERPLEXITY = 30.0
_TSNE_FEATURES = 50
_UMAP_NEIGHBORS = 15


def project_2d(
    vectors: Any, method: str = "pca", *, metric: str = "cosine", random_state: Any = None
) -> Floats:
    """Place vectors in the plane so that near ones stay near, for :func:`plot_map`.

    Parameters
    ----------
    vectors : array-like of shape (n_images, n_features)
        At least 3 vectors of at least 2 features.
    method : {"pca", "tsne", "umap"}, default="pca"
        "pca" takes the two axes of the largest variance [1]_: quick, and far apart here is far
        apart, but groups overlap. "tsne" [2]_ keeps neighbours together; the sizes of groups and
        the distances between them mean nothing. "umap" [3]_ (extra ``umap``) does as much.
    metric : {"cosine", "euclidean"}, default="cosine"
        How vectors are compared: by their directions, or as they are.
    random_state : int, RandomState instance or None, default=None
        An int gives the same map again.

    Returns
    -------
    positions : ndarray of shape (n_images, 2), dtype float64

    Raises
    ------
    ValueError
        If vectors are too few or too narrow, a number is not finite, or there is no such method
        or metric.
    ImportError
        If umap-learn is not installed (extra ``umap``).

    Notes
    -----
    t-SNE starts at the first two principal axes and works on the first 50. Its perplexity is 30,
    and UMAP's number of neighbours 15, or what few vectors allow.

    References
    ----------
    .. [1] K. Pearson, "On lines and planes of closest fit to systems of points in space",
       Philosophical Magazine 2(11), 1901.
    .. [2] L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008.
    .. [3] L. McInnes, J. Healy and J. Melville, "UMAP: Uniform Manifold Approximation and
       Projection for Dimension Reduction", 2018, arXiv:1802.03426.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed.plotting import project_2d
    >>> project_2d(np.random.default_rng(0).normal(size=(20, 8))).shape
    (20, 2)
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, _METHODS))}, got {method!r}")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric must be 'cosine' or 'euclidean', got {metric!r}")
    checked = _check_vectors(vectors)
    if metric == "cosine":
        checked = normalise_rows(checked)
    if not np.ptp(checked, axis=0).any():  # copies of one image
        return np.zeros((len(checked), 2))
    return np.asarray(_METHODS[method](checked, random_state), dtype=np.float64)


def _check_vectors(vectors: Any) -> Floats:
    checked = np.asarray(vectors, dtype=np.float64)
    if checked.ndim != 2 or len(checked) < _FEWEST or checked.shape[1] < 2:
        raise ValueError(
            "vectors must be an array of shape (n_images, n_features) with at least "
            f"{_FEWEST} images and 2 features, got shape {checked.shape}"
        )
    unknown = np.flatnonzero(~np.isfinite(checked).all(axis=1))
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} vectors are not finite, the first in row {unknown[0]}; those of "
            "images that cannot be read are NaN. Leave out such vectors and their images"
        )
    return checked


def _pca(vectors: Floats, random_state: Any, n_axes: int = 2) -> Floats:
    axes: Floats = PCA(n_axes, random_state=random_state).fit_transform(vectors)
    return axes


def _tsne(vectors: Floats, random_state: Any) -> Floats:
    random_state = check_random_state(random_state)
    reduced = _pca(vectors, random_state, min(_TSNE_FEATURES, *vectors.shape))
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    reducer = TSNE(perplexity=perplexity, init="pca", random_state=random_state)
    positions: Floats = reducer.fit_transform(reduced)
    return positions


def _umap(vectors: Floats, random_state: Any) -> Floats:
    n_neighbors = min(_UMAP_NEIGHBORS, len(vectors) - 1)
    with warnings.catch_warnings():
        # It warns of what its own dependencies deprecate, and that a seed takes one thread.
        warnings.simplefilter("ignore")
        umap = import_optional("umap", extra="umap", needed_by="project_2d(method='umap')")
        reducer = umap.UMAP(n_neighbors=n_neighbors, init="pca", random_state=random_state)
        positions: Floats = reducer.fit_transform(vectors)
    return positions


_METHODS: dict[str, Callable[[Floats, Any], Floats]] = {"pca": _pca, "tsne": _tsne, "umap": _umap}
