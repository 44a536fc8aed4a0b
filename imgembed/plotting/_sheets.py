"""Contact sheets: groups of images that look alike, and which of each are kept."""

import html
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from .._optional import import_optional
from ..images import ImageReadError, check_images, read_image
from ._grids import image_name
from ._thumbnails import THUMBNAIL_EDGE, img_element, thumbnail

_CELL = 1.6  # inches
_COLUMNS = 8
_KEPT, _REMOVED = "#1a9641", "#d7191c"
_STYLE = f"""
.imgembed-sheet {{ font: 12px sans-serif; }}
.imgembed-sheet .group {{ display: flex; flex-wrap: wrap; gap: 8px; padding: 8px 0;
  border-top: 1px solid #8884; }}
.imgembed-sheet h4 {{ flex-basis: 100%; margin: 0; font-size: 13px; }}
.imgembed-sheet figure {{ margin: 0; padding: 4px; width: {THUMBNAIL_EDGE}px; text-align: center;
  border: 3px solid transparent; }}
.imgembed-sheet .keep {{ border-color: {_KEPT}; }}
.imgembed-sheet .remove {{ border-color: {_REMOVED}; }}
.imgembed-sheet figcaption {{ white-space: pre-line; overflow-wrap: anywhere; }}
""".strip()


def plot_contact_sheet(
    groups: Sequence[Any],
    images: Sequence[object],
    *,
    keep: Collection[int] | NDArray[Any] | None = None,
    captions: Sequence[str] | None = None,
    max_groups: int = 20,
) -> NDArray[Any]:
    """Draw groups of images, each on rows of its own.

    Parameters
    ----------
    groups : sequence of array-like of int
        The rows of the images in each group, as near-duplicates have them.
    images : sequence of images
        As :func:`imgembed.read_image` takes them. Only those in groups that are drawn are read.
    keep : collection of int, optional
        The rows that are kept: they are marked so, and all others as removed.
    captions : sequence of n_images str, optional
        What stands below each image; by default its name and its width and height.
    max_groups : int, default=20
        Groups that are drawn, from the first; the figure says how many there are.

    Returns
    -------
    axes : ndarray of shape (n_lines, n_columns) of matplotlib Axes
        Their figure is ``axes[0, 0].figure``. A group has a line for each 8 images.

    Raises
    ------
    ValueError
        If there are no groups, or a row is not one of an image.
    ImportError
        If matplotlib is not installed (extra ``plot``).

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed.plotting import plot_contact_sheet
    >>> images = np.zeros((5, 8, 8, 3), dtype=np.uint8)
    >>> plot_contact_sheet([[0, 3], [1, 2, 4]], images, keep=[0, 2]).shape
    (2, 3)
    """
    if len(groups) == 0:
        raise ValueError("there are no groups to draw")
    sheet = _sheet(groups[:max_groups], images, keep, captions)
    pyplot = import_optional("matplotlib.pyplot", extra="plot", needed_by="plot_contact_sheet")
    lines = [cells[i : i + _COLUMNS] for cells in sheet for i in range(0, len(cells), _COLUMNS)]
    n_columns = max(map(len, lines))
    figure, axes = pyplot.subplots(
        len(lines),
        n_columns,
        figsize=(_CELL * n_columns, (_CELL + 0.5) * len(lines)),
        squeeze=False,
        layout="constrained",
    )
    for line, cells in zip(axes, lines, strict=True):
        for ax in line:
            ax.set_axis_off()
        for ax, cell in zip(line, cells, strict=False):
            _draw_cell(ax, cell)
    if len(groups) > max_groups:
        figure.supxlabel(_more(len(groups) - max_groups), fontsize=9)
    drawn: NDArray[Any] = axes
    return drawn


def html_contact_sheet(
    groups: Sequence[Any],
    images: Sequence[object],
    *,
    keep: Collection[int] | NDArray[Any] | None = None,
    captions: Sequence[str] | None = None,
    max_groups: int = 50,
) -> str:
    """A sheet of groups of images as HTML, thumbnails inside.

    Parameters
    ----------
    groups : sequence of array-like of int
        The rows of the images in each group, as near-duplicates have them.
    images : sequence of images
        As :func:`imgembed.read_image` takes them. Only those in groups that are shown are read.
    keep : collection of int, optional
        The rows that are kept: they are marked so, and all others as removed.
    captions : sequence of n_images str, optional
        What stands below each image; by default its name and its width and height.
    max_groups : int, default=50
        Groups that are shown, from the first; the sheet says how many more there are.

    Returns
    -------
    sheet : str
        HTML for :func:`html_page` or a notebook; all text in it is escaped.

    Raises
    ------
    ValueError
        If a row is not one of an image.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed.plotting import html_contact_sheet
    >>> images = np.zeros((5, 8, 8, 3), dtype=np.uint8)
    >>> html_contact_sheet([[0, 3], [1, 2, 4]], images, keep=[0, 2]).count('class="remove"')
    3
    """
    sheet = _sheet(groups[:max_groups], images, keep, captions)
    blocks = [
        f'<div class="group"><h4>{len(cells)} images</h4>{"".join(map(_figure, cells))}</div>'
        for cells in sheet
    ]
    more = f"<p>{_more(len(groups) - max_groups)}</p>" if len(groups) > max_groups else ""
    return f'<div class="imgembed-sheet"><style>{_STYLE}</style>{"".join(blocks)}{more}</div>'


class _Cell(NamedTuple):
    image: object
    caption: str
    mark: str  # "keep", "remove" or nothing


def _sheet(
    groups: Sequence[Any],
    images: Sequence[object],
    keep: Collection[int] | NDArray[Any] | None,
    captions: Sequence[str] | None,
) -> list[list[_Cell]]:
    """The cells of each group."""
    gallery = check_images(images)
    if captions is not None and len(captions) != len(gallery):
        raise ValueError(
            f"captions must be one for each image; got {len(captions)} captions and "
            f"{len(gallery)} images"
        )
    kept = None if keep is None else {int(row) for row in keep}
    return [list(_cells(group, gallery, kept, captions)) for group in groups]


def _cells(
    group: Any, images: Sequence[object], kept: set[int] | None, captions: Sequence[str] | None
) -> Iterator[_Cell]:
    for row in map(int, group):
        if not 0 <= row < len(images):
            raise ValueError(f"groups hold rows of images, 0..{len(images) - 1}; got {row}")
        caption = _name_and_size(images[row]) if captions is None else captions[row]
        mark = "" if kept is None else "keep" if row in kept else "remove"
        yield _Cell(images[row], caption, mark)


def _name_and_size(image: object) -> str:
    try:
        height, width = read_image(image).shape[:2]
    except ImageReadError:
        return image_name(image)
    return f"{image_name(image)}\n{width} x {height}"


def _draw_cell(ax: Any, cell: _Cell) -> None:
    patches = import_optional("matplotlib.patches", extra="plot", needed_by="plot_contact_sheet")
    pixels = thumbnail(cell.image)
    caption = cell.caption if pixels is not None else f"{cell.caption}\n(cannot be read)"
    if pixels is not None:
        ax.imshow(pixels)
    if cell.mark:
        colour = _KEPT if cell.mark == "keep" else _REMOVED
        frame = patches.Rectangle(
            (0, 0), 1, 1, transform=ax.transAxes, fill=False, color=colour, linewidth=3
        )
        ax.add_patch(frame).set_clip_on(False)
        caption = f"{caption}\n{cell.mark}"
    ax.set_title(caption, fontsize=7, parse_math=False)


def _figure(cell: _Cell) -> str:
    mark = f"\n{cell.mark}" if cell.mark else ""
    return (
        f'<figure class="{cell.mark}">{img_element(cell.image)}'
        f"<figcaption>{html.escape(cell.caption)}<b>{mark}</b></figcaption></figure>"
    )


def _more(n_groups: int) -> str:
    return f"... and {n_groups} more groups" if n_groups > 1 else "... and 1 more group"
