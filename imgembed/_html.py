"""Tables that notebooks show."""

import html
from collections.abc import Iterable, Sequence

import numpy as np


def html_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str = "",
    n_more: int = 0,
) -> str:
    """An HTML table whose texts are all escaped.

    Parameters
    ----------
    columns : sequence of n_columns str
        What stands above the columns; none for a table without a head.
    rows : iterable of sequences of n_columns objects
        Floats are shown with four decimals, None as nothing, all else as :class:`str` has it.
    caption : str, default=""
        What the table is of.
    n_more : int, default=0
        Rows that are left out, which the table then says.

    Returns
    -------
    table : str

    Examples
    --------
    >>> from imgembed._html import html_table
    >>> html_table(["id", "distance"], [["<a>", 0.25]])
    '<table><thead><tr><th>id</th><th>distance</th></tr></thead><tbody><tr><td>&lt;a&gt;</td><td>0.2500</td></tr></tbody></table>'
    """
    head = f"<thead>{_row('th', columns)}</thead>" if columns else ""
    body = "".join(_row("td", row) for row in rows)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    more = f"<p>... and {n_more} more rows</p>" if n_more else ""
    return f"<table>{title}{head}<tbody>{body}</tbody></table>{more}"


def _row(tag: str, cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(_text(cell))}</{tag}>' for cell in cells)}</tr>"


def _text(cell: object) -> str:
    if cell is None:
        return ""
    return f"{cell:.4f}" if isinstance(cell, float | np.floating) else str(cell)
