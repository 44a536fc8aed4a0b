"""Grids of queries and hits, as Axes or as a page."""

import html
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .._optional import import_optional
from ..images import describe_image
from ._thumbnails import img_element, thumbnail

_CELL = 1.6  # inches
_TEXT_WIDTH = 18  # characters in a cell
_TEXT_LINES = 8

_STYLE = """
.imgembed td { text-align: center; vertical-align: bottom; padding: 4px; font: 12px sans-serif; }
.imgembed td:first-child { border-right: 2px solid #888; padding-right: 10px; }
.imgembed .text { font-size: 15px; overflow-wrap: anywhere; width: 128px; }
.imgembed .caption { white-space: pre-line; overflow-wrap: anywhere; max-width: 140px; }
""".strip()


class TextQuery(str):
    """A query in words, where a plain string would be the path of an image.

    Examples
    --------
    >>> from imgembed.plotting import TextQuery, image_name
    >>> image_name(TextQuery("a red shoe"))
    "'a red shoe'"
    """

    __slots__ = ()


def plot_hits(
    queries: Sequence[object],
    hits: Sequence[Sequence[object]],
    captions: Sequence[Sequence[str]],
) -> NDArray[Any]:
    """Draw a grid with a row a query: the query, then its hits.

    Parameters
    ----------
    queries : sequence of n_queries images or TextQuery
        As :func:`imgembed.read_image` takes them, or in words.
    hits : sequence of n_queries sequences of images
        The hits of each query, nearest first.
    captions : sequence of n_queries sequences of str
        What stands below each hit.

    Returns
    -------
    axes : ndarray of shape (n_queries, 1 + n_neighbors) of matplotlib Axes
        Their figure is ``axes[0, 0].figure``.

    Raises
    ------
    ValueError
        If there are no queries.
    ImportError
        If matplotlib is not installed (extra ``plot``).

    Notes
    -----
    An image that cannot be read any more is drawn as an empty cell that says so.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed.plotting import plot_hits
    >>> image = np.zeros((8, 8, 3), dtype=np.uint8)
    >>> plot_hits([image], [[image, image]], [["first", "second"]]).shape
    (1, 3)
    """
    if len(queries) == 0:
        raise ValueError("there are no queries to draw")
    pyplot = import_optional("matplotlib.pyplot", extra="plot", needed_by="plot_hits")
    n_columns = 1 + max(map(len, hits), default=0)
    _, axes = pyplot.subplots(
        len(queries),
        n_columns,
        figsize=(_CELL * n_columns, (_CELL + 0.4) * len(queries)),
        squeeze=False,
        layout="constrained",
    )
    for row, query, images, texts in zip(axes, queries, hits, captions, strict=True):
        for axis in row:
            axis.set_axis_off()
        _draw_query(row[0], query)
        for axis, image, text in zip(row[1:], images, texts, strict=False):
            _draw(axis, image, text)
    drawn: NDArray[Any] = axes
    return drawn


def html_hits(
    queries: Sequence[object],
    hits: Sequence[Sequence[object]],
    captions: Sequence[Sequence[str]],
    n_more: int = 0,
) -> str:
    """A table of thumbnails with a row a query: the query, then its hits.

    Parameters
    ----------
    queries : sequence of n_queries images or TextQuery
        As :func:`imgembed.read_image` takes them, or in words.
    hits : sequence of n_queries sequences of images
        The hits of each query, nearest first.
    captions : sequence of n_queries sequences of str
        What stands below each hit.
    n_more : int, default=0
        Queries that are left out, which the table then says.

    Returns
    -------
    table : str
        HTML with the thumbnails inside; all text in it is escaped.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed.plotting import html_hits
    >>> image = np.zeros((8, 8, 3), dtype=np.uint8)
    >>> "&lt;b&gt;" in html_hits([image], [[image]], [["<b>"]])
    True
    """
    rows = []
    for query, images, texts in zip(queries, hits, captions, strict=True):
        cells = [_query_cell(query)]
        cells += [_cell(image, text) for image, text in zip(images, texts, strict=True)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    more = f"<p>... and {n_more} more queries</p>" if n_more else ""
    return (
        f'<div class="imgembed"><style>{_STYLE}</style><table>{"".join(rows)}</table>{more}</div>'
    )


def html_page(title: str, body: str) -> str:
    """A self-contained HTML page.

    Parameters
    ----------
    title : str
        Plain text; it is escaped.
    body : str
        HTML, for example from :func:`html_hits`.

    Returns
    -------
    page : str

    Examples
    --------
    >>> from imgembed.plotting import html_page
    >>> html_page("a < b", "<p>text</p>").splitlines()[3]
    '<title>a &lt; b</title>'
    """
    title = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{title}</title>\n<h1>{title}</h1>\n{body}\n</html>\n"
    )


def image_name(image: object) -> str:
    """What a caption calls an image or a query: the name of its file, its kind, or its words.

    Parameters
    ----------
    image : object
        As :func:`imgembed.read_image` takes it, or a :class:`TextQuery`.

    Returns
    -------
    name : str

    Examples
    --------
    >>> from imgembed.plotting import image_name
    >>> image_name("photos/cat.jpg")
    'cat.jpg'
    """
    if isinstance(image, TextQuery):
        return repr(str(image))
    if isinstance(image, (str, os.PathLike)):
        return Path(os.fspath(image)).name
    return describe_image(image)


def _draw_query(axis: Any, query: object) -> None:
    if not isinstance(query, TextQuery):
        _draw(axis, query, "query\n" + image_name(query))
        return
    lines = textwrap.wrap(query, _TEXT_WIDTH, max_lines=_TEXT_LINES, placeholder=" ...")
    axis.set_title("query", fontsize=7)
    axis.text(
        0.5,
        0.5,
        "\n".join(lines),
        fontsize=9,
        ha="center",
        va="center",
        transform=axis.transAxes,
        parse_math=False,
    )


def _draw(axis: Any, image: object, caption: str) -> None:
    pixels = thumbnail(image)
    if pixels is not None:
        axis.imshow(pixels)
    axis.set_title(
        caption if pixels is not None else f"{caption}\n(cannot be read)",
        fontsize=7,
        parse_math=False,  # a file may be called $x$.jpg
    )


def _query_cell(query: object) -> str:
    if not isinstance(query, TextQuery):
        return _cell(query, "query\n" + image_name(query))
    return f'<td><div class="text">{html.escape(query)}</div><div class="caption">query</div></td>'


def _cell(image: object, caption: str) -> str:
    return f'<td>{img_element(image)}<div class="caption">{html.escape(caption)}</div></td>'
