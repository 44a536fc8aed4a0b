"""A map of a collection: thumbnails where their vectors lie."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state, check_scalar

from .._optional import import_optional
from ..images import check_images
from ._thumbnails import thumbnail_in_square

Floats = NDArray[np.float64]
Shape = tuple[int, int]
Colour = tuple[float, float, float]

_EDGE = 10.0  # inches
_CELL = 48  # pixels
_BORDER = 2  # pixels of a frame in the colour of the label
_FARTHEST = 1  # cell that a thumbnail is moved, lest it lie on another
_LEGEND = 20  # labels
_LEGEND_TEXT = 30  # characters of a label
_LEGEND_CHARACTER = 0.075  # inches
_UNLABELLED: Colour = (0.5, 0.5, 0.5)


def plot_map(
    positions: Any,
    images: Sequence[object],
    labels: Sequence[Any] | None = None,
    *,
    n_cells: int = 24,
    random_state: Any = None,
    ax: Any = None,
) -> Any:
    """Draw thumbnails where :func:`project_2d` placed their vectors.

    Thumbnails stand in the cells of a grid, one in each, so that none lies on another. One
    whose cell is taken moves to a free one beside it; where there is none, a point stands for the
    image.

    Parameters
    ----------
    positions : array-like of shape (n_images, 2)
        What :func:`project_2d` made of the vectors, or another map.
    images : sequence of n_images images
        As :func:`imgembed.read_image` takes them. Only those that get a cell are read.
    labels : sequence of n_images labels, optional
        Each has a frame in the colour of its label; images of the label None have a grey one.
    n_cells : int, default=24
        Cells along the longer side of the map: fewer make larger thumbnails.
    random_state : int, RandomState instance or None, default=None
        Draws the order in which images take their cells.
    ax : matplotlib Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        If positions, images and labels are not as many, or a position is not finite.
    ImportError
        If matplotlib is not installed (extra ``plot``).

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed.plotting import plot_map, project_2d
    >>> images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    >>> ax = plot_map(project_2d(images.reshape(9, -1)), images, list("aaabbbccc"))
    >>> ax.get_title()
    '9 of 9 images'
    """
    pyplot = import_optional("matplotlib.pyplot", extra="plot", needed_by="plot_map")
    gallery = check_images(images)
    check_scalar(n_cells, "n_cells", int, min_val=1)
    places, shape = _on_grid(_check_positions(positions, gallery, labels), n_cells)
    colours = _colours_of_labels(pyplot, labels)
    frames = None if labels is None else [_frame(label, colours) for label in labels]
    order = check_random_state(random_state).permutation(len(places))
    canvas, shown = _canvas(gallery, _take_cells(places, shape, order), shape, frames)
    if ax is None:
        height, width = (_EDGE * edge / max(shape) for edge in shape)
        longest = max((len(_legend_text(label)) + 8 for label in colours), default=0)
        size = width + 0.2 + longest * _LEGEND_CHARACTER, height + 0.5
        _, ax = pyplot.subplots(figsize=size, layout="constrained")
    ax.imshow(canvas, extent=(0, shape[1], shape[0], 0))
    rest = np.setdiff1d(np.arange(len(places)), shown)
    points = _UNLABELLED if frames is None else [frames[row] for row in rest]
    ax.scatter(*places[rest].T, s=6, color=points, edgecolors="white", linewidths=0.3)
    ax.set(xlim=(0, shape[1]), ylim=(shape[0], 0), xticks=[], yticks=[])
    ax.set_title(f"{len(shown)} of {len(places)} images", fontsize=9)
    _draw_legend(ax, colours)
    return ax


def _check_positions(
    positions: Any, images: Sequence[object], labels: Sequence[Any] | None
) -> Floats:
    checked = np.asarray(positions, dtype=np.float64)
    if checked.ndim != 2 or checked.shape[1] != 2 or not len(checked):
        raise ValueError(
            "positions must be an array of shape (n_images, 2), as project_2d(vectors) gives; "
            f"got shape {checked.shape}"
        )
    if not np.isfinite(checked).all():
        raise ValueError("positions must be finite; leave out images without a position")
    for name, others in (("images", images), ("labels", labels)):
        if others is not None and len(others) != len(checked):
            raise ValueError(
                f"{name} must be one for each position; got {len(others)} {name} and "
                f"{len(checked)} positions"
            )
    return checked


def _on_grid(positions: Floats, n_cells: int) -> tuple[Floats, Shape]:
    """Positions in cells from the left and the top, and the numbers of rows and columns."""
    from_left_and_top = positions * [1, -1]
    from_left_and_top -= from_left_and_top.min(axis=0)
    # Less than the whole, lest what lies on an edge be in a cell beyond it.
    scaled = from_left_and_top * (n_cells * (1 - 1e-9) / (from_left_and_top.max() or 1.0))
    columns, rows = (max(1, math.ceil(edge)) for edge in scaled.max(axis=0))
    return scaled, (rows, columns)


def _colours_of_labels(pyplot: Any, labels: Sequence[Any] | None) -> dict[Any, Colour]:
    """A colour for each label, in the order of their names."""
    names = sorted({label for label in labels or () if not _is_missing(label)}, key=str)
    if len(names) <= 20:
        table = pyplot.get_cmap("tab10" if len(names) <= 10 else "tab20")
        return {name: table(i)[:3] for i, name in enumerate(names)}
    table = pyplot.get_cmap("turbo")
    return {name: table(i / (len(names) - 1))[:3] for i, name in enumerate(names)}


def _frame(label: Any, colours: dict[Any, Colour]) -> Colour:
    return _UNLABELLED if _is_missing(label) else colours[label]


def _is_missing(label: Any) -> bool:
    return label is None or label != label  # NaN


def _take_cells(places: Floats, shape: Shape, order: NDArray[np.intp]) -> dict[Shape, int]:
    """Which image each cell has."""
    taken: dict[Shape, int] = {}
    for row in order:
        left, top = places[row]
        near = [
            (y, x)
            for y in range(int(top) - _FARTHEST, int(top) + _FARTHEST + 1)
            for x in range(int(left) - _FARTHEST, int(left) + _FARTHEST + 1)
            if 0 <= y < shape[0] and 0 <= x < shape[1] and (y, x) not in taken
        ]
        if near:
            # Of the free cells, that whose centre is nearest.
            cell = min(near, key=lambda c: (c[0] + 0.5 - top) ** 2 + (c[1] + 0.5 - left) ** 2)
            taken[cell] = int(row)
    return taken


def _canvas(
    images: Sequence[object],
    taken: dict[Shape, int],
    shape: Shape,
    frames: Sequence[Colour] | None,
) -> tuple[NDArray[np.uint8], list[int]]:
    """The grid as one picture, transparent where nothing is, and the images that are in it."""
    canvas = np.zeros((shape[0] * _CELL, shape[1] * _CELL, 4), dtype=np.uint8)
    border = 0 if frames is None else _BORDER
    shown = []
    for (y, x), row in taken.items():
        small = thumbnail_in_square(images[row], _CELL - 2 * border)
        if small is None:
            continue
        cell = canvas[y * _CELL : (y + 1) * _CELL, x * _CELL : (x + 1) * _CELL]
        cell[..., 3] = 255
        if frames is not None:
            cell[..., :3] = np.round(255 * np.array(frames[row]))
        cell[border : _CELL - border, border : _CELL - border, :3] = small
        shown.append(row)
    return canvas, shown


def _draw_legend(ax: Any, colours: dict[Any, Colour]) -> None:
    patches = import_optional("matplotlib.patches", extra="plot", needed_by="plot_map")
    shown = list(colours.items())[:_LEGEND]
    handles = [patches.Patch(color=colour, label=_legend_text(label)) for label, colour in shown]
    if len(colours) > _LEGEND:
        more = f"... and {len(colours) - _LEGEND} more"
        handles.append(patches.Patch(color="none", label=more))
    if not handles:
        return
    legend = ax.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _legend_text(label: Any) -> str:
    text = str(label)
    return text if len(text) <= _LEGEND_TEXT else f"{text[: _LEGEND_TEXT - 3]}..."
