"""HOGEmbedder: where in an image edges of which direction are."""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Tags, check_scalar

from .._vectors import normalise_rows
from ..base import ImageEmbedder
from ..cache import Cache
from ..images import MAX_PIXELS


class HOGEmbedder(ImageEmbedder):
    """Embed images as histograms of oriented gradients.

    The image is scaled to a square, and each cell of a grid becomes a histogram of the
    directions of its edges. It compares layouts and shapes that stand at the same place, as in
    cropped objects, icons or pages; it does not follow an object that moves or turns.

    Parameters
    ----------
    size : int, default=128
        Edge of the square in pixels; a multiple of the largest cell.
    cell_size : int, default=16
        Edge of a cell in pixels.
    n_orientations : int, default=9
        Directions of a histogram, over half a turn.
    n_levels : int, default=1
        1 is one grid. Each further level adds a grid of cells twice as large, as a spatial
        pyramid [2]_; all levels have the same weight.
    batch_size : int, default=32
        Images that are read ahead.
    n_jobs : int or None, default=-1
        Threads; -1 means one for each processor.
    on_error : {"raise", "nan"}, default="raise"
        An unreadable image raises :class:`ImageReadError`, or leaves a row of NaN and one
        :class:`ImageReadWarning` that lists all of them.
    progress : {"auto", True, False}, default="auto"
        Whether to show a progress bar; "auto": in terminals and notebooks, after 2 s.
    max_pixels : int, default=100_000_000
        Larger images are refused before they are decoded.
    cache : path, EmbeddingCache or None, default=None
        A folder where embeddings are kept, and found again instead of being computed; see
        :class:`EmbeddingCache`.

    Raises
    ------
    ValueError
        If ``size`` is not a multiple of all cells, or has fewer than two of the largest.

    Notes
    -----
    Histograms are normalised in blocks of 2 x 2 cells, which overlap by a cell [1]_, and
    the vector has unit L2 norm. A flat image has the zero vector. The proportions of the
    image are not kept. Nothing is learned: fit only checks parameters.

    References
    ----------
    .. [1] N. Dalal and B. Triggs, "Histograms of Oriented Gradients for Human Detection",
       CVPR 2005.
    .. [2] A. Bosch, A. Zisserman and X. Munoz, "Representing shape with a spatial pyramid
       kernel", CIVR 2007.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import HOGEmbedder
    >>> images = np.random.default_rng(0).integers(0, 256, (3, 60, 80, 3), dtype=np.uint8)
    >>> HOGEmbedder().fit_transform(images).shape
    (3, 1764)
    """

    def __init__(
        self,
        size: int = 128,
        cell_size: int = 16,
        n_orientations: int = 9,
        n_levels: int = 1,
        *,
        batch_size: int = 32,
        n_jobs: int | None = -1,
        on_error: str = "raise",
        progress: bool | str = "auto",
        max_pixels: int = MAX_PIXELS,
        cache: Cache = None,
    ) -> None:
        self.size = size
        self.cell_size = cell_size
        self.n_orientations = n_orientations
        self.n_levels = n_levels
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels
        self.cache = cache

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name in ("size", "cell_size", "n_orientations", "n_levels"):
            check_scalar(getattr(self, name), name, int, min_val=1)
        largest = max(self._cells())
        if self.size % largest or self.size < 2 * largest:
            raise ValueError(
                f"size must be a multiple, and at least twice, of the largest cell of {largest} "
                f"pixels, got {self.size}: change size, cell_size={self.cell_size} or "
                f"n_levels={self.n_levels}"
            )

    def _cells(self) -> Iterator[int]:
        """Edges of the cells of each level."""
        return (self.cell_size * 2**level for level in range(self.n_levels))

    def _load(self) -> None:
        """There is nothing to load."""

    def _prepare(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        square = _square(image, self.size)
        levels = [normalise_rows(self._descriptor(cell).compute(square)) for cell in self._cells()]
        return normalise_rows(np.concatenate(levels))

    def _descriptor(self, cell: int) -> Any:
        window, block, step = (self.size,) * 2, (2 * cell,) * 2, (cell,) * 2
        return cv2.HOGDescriptor(window, block, step, step, self.n_orientations)

    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        return np.stack(prepared)

    def _learned_digest(self) -> str:
        return ""

    @property
    def _n_features_out(self) -> int:
        return sum(int(self._descriptor(cell).getDescriptorSize()) for cell in self._cells())


def _square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    # Averaging is right where an image shrinks, and leaves steps where it grows.
    method = cv2.INTER_AREA if min(image.shape[:2]) >= size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method)  # type: ignore[return-value]
