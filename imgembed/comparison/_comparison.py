"""Comparison: the table, the picture and the page of what was compared."""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import plotting
from .._html import html_table
from .._optional import import_optional
from ..evaluation import Interval, PermutationTest, permutation_test

_HEADINGS = (
    "method", "quality", "interval", "p against best", "fit images/s", "embed images/s",
    "features", "bytes/image", "peak memory", "first use", "copies found", "fails on",
)  # fmt: skip
_STYLE = """
.imgembed-comparison table { border-collapse: collapse; font: 13px sans-serif; }
.imgembed-comparison :is(td, th) { padding: 3px 9px; text-align: right; }
.imgembed-comparison :is(td, th):first-child { text-align: left; }
.imgembed-comparison td { border-top: 1px solid #ccc; }
.imgembed-comparison .failures :is(td, th) { text-align: left; max-width: 60em; }
.imgembed-comparison caption { text-align: left; font-weight: bold; padding: 8px 0 4px; }
""".strip()


@dataclass(frozen=True)
class ComparedEmbedder:
    """What was found out about one embedder; numbers are NaN if it failed.

    Parameters
    ----------
    name : str
    quality : float
        The mean of the measure over queries.
    interval : Interval
        Its confidence interval.
    p_value : float
        Of a paired permutation test against the best embedder, not corrected for the number of
        embedders; NaN for the best itself.
    fit_rate : float
        Images a second that it learns from; NaN if it learns from none.
    transform_rate : float
        Images a second that it embeds, reading them included.
    n_features : int
        The width of its vectors; 0 if it failed.
    bytes_per_image : int
        What the vector of an image takes; 0 if it failed.
    peak_memory : float
        By how many bytes the process grew at most while it ran; NaN where that is not known.
    first_use : float
        Seconds to the vector of a first image, by an embedder that has loaded nothing yet.
    found : dict of str to float
        Of each change, the share of copies whose original is found first.
    error : str, default=""
        Why it failed.
    per_query : ndarray of shape (n_queries,), dtype float64
        The measure's value of each query; NaN where nothing answers it.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import ComparedEmbedder
    >>> from imgembed.evaluation import Interval
    >>> numbers = dict(quality=0.9, interval=Interval(0.8, 1.0), p_value=np.nan, fit_rate=np.nan)
    >>> costs = dict(n_features=8, bytes_per_image=32, peak_memory=1e6, first_use=0.1)
    >>> found = {"crop": 1.0, "turn": 0.5}
    >>> ComparedEmbedder("CNN", **numbers, transform_rate=50, **costs, found=found).weakness
    'turn'
    """

    name: str
    quality: float
    interval: Interval
    p_value: float
    fit_rate: float
    transform_rate: float
    n_features: int
    bytes_per_image: int
    peak_memory: float
    first_use: float
    found: dict[str, float]
    error: str = ""
    per_query: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)

    @property
    def weakness(self) -> str | None:
        """The change after which it finds the fewest originals; None if it finds all."""
        worst = min(self.found, key=self.found.__getitem__, default=None)
        return None if worst is None or self.found[worst] == 1 else worst

    @property
    def copies_found(self) -> float:
        """The share of all copies whose original is found first."""
        return float(np.mean(list(self.found.values()))) if self.found else math.nan


@dataclass(frozen=True, repr=False)
class Comparison:
    """Embedders side by side: a table, a picture, and a page.

    Parameters
    ----------
    rows : tuple of ComparedEmbedder
        The best first; those that failed come last.
    measure, metric : str
        What quality is, and by which distance images were searched.
    by_labels : bool
        Whether quality is about labels, or about changed copies.
    n_images, n_searched : int
        Images that were embedded, and among which was searched.
    n_queries : int
        Queries of each embedder; by copies, the images that were changed.
    n_copied : int
        Images that were changed.
    confidence : float
        Of the intervals.
    seconds : float
        What the comparison took.

    See Also
    --------
    compare_embedders : What makes it.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import HOGEmbedder, compare_embedders
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    >>> hogs = {size: HOGEmbedder(cell_size=size) for size in (8, 16)}
    >>> comparison = compare_embedders({f"HOG {s}": hog for s, hog in hogs.items()}, images)
    >>> sorted(row.name for row in comparison.rows)
    ['HOG 16', 'HOG 8']
    >>> comparison["HOG 8"].n_features
    8100
    """

    rows: tuple[ComparedEmbedder, ...]
    measure: str
    metric: str
    by_labels: bool
    n_images: int
    n_searched: int
    n_queries: int
    n_copied: int
    confidence: float
    seconds: float

    @property
    def best(self) -> ComparedEmbedder:
        """The embedder of the highest quality."""
        return self.rows[0]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> ComparedEmbedder:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"there is no {name!r}; compared were {[row.name for row in self.rows]}")

    def compare(self, first: str, second: str) -> PermutationTest:
        """Whether two of the embedders differ.

        Parameters
        ----------
        first, second : str
            Their names.

        Returns
        -------
        test : PermutationTest
            The difference of their qualities, and its p value.

        Raises
        ------
        KeyError
            If there is no such embedder.
        ValueError
            If one of them failed.
        """
        for row in (self[first], self[second]):
            if row.error:
                raise ValueError(f"{row.name!r} failed, there is nothing to compare: {row.error}")
        return permutation_test(self[first].per_query, self[second].per_query, random_state=0)

    def to_pandas(self) -> Any:
        """The table with a row an embedder, the best first.

        Returns
        -------
        table : pandas.DataFrame
            Its index are the names. Columns are quality, low, high, p_value, fit_rate,
            transform_rate, n_features, bytes_per_image, peak_memory, first_use, copies_found,
            weakness, found_<change> for each change, and error.

        Raises
        ------
        ImportError
            If pandas is not installed (extra ``pandas``).
        """
        pandas = import_optional("pandas", extra="pandas", needed_by="Comparison.to_pandas")
        names = [row.name for row in self.rows]
        return pandas.DataFrame(map(_record, self.rows), index=pandas.Index(names, name="method"))

    def plot(self) -> Any:
        """Draw quality against speed: up is better, to the right is faster.

        Returns
        -------
        axes : matplotlib Axes
            A point for each embedder that did not fail, with its confidence interval.

        Raises
        ------
        ImportError
            If matplotlib is not installed (extra ``plot``).
        """
        pyplot = import_optional("matplotlib.pyplot", extra="plot", needed_by="Comparison.plot")
        _, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
        for row in self.rows:
            if not row.error:
                _draw(axes, row)
        _show_decades(axes)
        axes.margins(x=0.3, y=0.1)
        axes.grid(alpha=0.3)
        axes.set_xlabel("images embedded a second")
        axes.set_ylabel(f"{self.measure}, by {'label' if self.by_labels else 'changed copies'}")
        failed = [row.name for row in self.rows if row.error]
        if failed:
            axes.set_title(f"failed: {', '.join(failed)}", fontsize=8, parse_math=False)
        return axes

    def to_html(self, title: str = "Comparison of embedders") -> str:
        """One self-contained page with the tables and the picture.

        Parameters
        ----------
        title : str, default="Comparison of embedders"

        Returns
        -------
        page : str
            HTML; all text in it is escaped.

        Raises
        ------
        ImportError
            If matplotlib is not installed (extra ``plot``).
        """
        return plotting.html_page(title, self._repr_html_() + _inline_picture(self.plot()))

    def __repr__(self) -> str:
        lines = [self._heading, *_aligned(self._table())]
        lines += [f"{row.name} failed: {row.error}" for row in self.rows if row.error]
        if self.n_copied:
            lines += ["", self._heading_of_copies, *_aligned(self._table_of_copies())]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        columns, *rows = self._table()
        tables = html_table(columns, rows, caption=self._heading)
        failures = [(row.name, row.error) for row in self.rows if row.error]
        if failures:
            table = html_table(["failed", "because of"], failures)
            tables += f'<div class="failures">{table}</div>'
        if self.n_copied:
            columns, *rows = self._table_of_copies()
            tables += html_table(columns, rows, caption=self._heading_of_copies)
        return f'<div class="imgembed-comparison"><style>{_STYLE}</style>{tables}</div>'

    @property
    def _heading(self) -> str:
        if self.by_labels:
            sought = f"{self.n_queries} queries by label"
        else:
            sought = f"changed copies of {self.n_copied} images"
        return (
            f"{self.measure} ({self.metric}) of {sought} among {self.n_searched} images; "
            f"{self.n_images} images embedded; {self.seconds:.0f} s"
        )

    @property
    def _heading_of_copies(self) -> str:
        return f"Share of {self.n_copied} changed copies whose original is found first"

    def _table(self) -> list[list[str]]:
        headings = list(_HEADINGS)
        headings[2] = f"{self.confidence:.0%} interval"
        return [headings, *(_cells(row, row is self.best) for row in self._working)]

    def _table_of_copies(self) -> list[list[str]]:
        rows = [[r.name, *(f"{share:.2f}" for share in r.found.values())] for r in self._working]
        return [["method", *self.best.found], *rows]

    @property
    def _working(self) -> list[ComparedEmbedder]:
        return [row for row in self.rows if not row.error]


def _record(row: ComparedEmbedder) -> dict[str, Any]:
    return {
        "quality": row.quality,
        "low": row.interval.low,
        "high": row.interval.high,
        "p_value": row.p_value,
        "fit_rate": row.fit_rate,
        "transform_rate": row.transform_rate,
        "n_features": row.n_features,
        "bytes_per_image": row.bytes_per_image,
        "peak_memory": row.peak_memory,
        "first_use": row.first_use,
        "copies_found": row.copies_found,
        "weakness": row.weakness,
        **{f"found_{change}": share for change, share in row.found.items()},
        "error": row.error,
    }


def _draw(axes: Any, row: ComparedEmbedder) -> None:
    low, high = row.interval
    away = [[max(0, row.quality - low)], [max(0, high - row.quality)]]
    axes.errorbar(row.transform_rate, row.quality, yerr=away, fmt="o", capsize=3)
    axes.annotate(
        row.name,
        (row.transform_rate, row.quality),
        xytext=(6, 4),
        textcoords="offset points",
        fontsize=8,
        parse_math=False,
    )


def _show_decades(axes: Any) -> None:
    """A logarithmic axis with plain numbers, also where it is shorter than a decade."""
    ticker = import_optional("matplotlib.ticker", extra="plot", needed_by="Comparison.plot")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ticker.LogFormatter())
    axes.xaxis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(1, 0.5)))


def _inline_picture(axes: Any) -> str:
    file = io.BytesIO()
    axes.figure.savefig(file, format="png", dpi=120)
    pyplot = import_optional("matplotlib.pyplot", extra="plot", needed_by="Comparison.to_html")
    pyplot.close(axes.figure)
    encoded = base64.b64encode(file.getvalue()).decode()
    return f'<p><img alt="Quality against speed" src="data:image/png;base64,{encoded}"></p>'


def _cells(row: ComparedEmbedder, is_best: bool) -> list[str]:
    if row.weakness is None:
        weakness = "nothing" if row.found else "-"
    else:
        weakness = f"{row.weakness} {row.found[row.weakness]:.2f}"
    return [
        row.name,
        f"{row.quality:.4f}",
        f"{row.interval.low:.3f} to {row.interval.high:.3f}",
        "best" if is_best else f"{row.p_value:.4f}",
        _rate(row.fit_rate),
        _rate(row.transform_rate),
        str(row.n_features),
        str(row.bytes_per_image),
        _known(row.peak_memory / 1e6, "{:.0f} MB"),
        f"{row.first_use:.2f} s",
        _known(row.copies_found, "{:.2f}"),
        weakness,
    ]


def _rate(images_per_second: float) -> str:
    return _known(images_per_second, "{:.1f}" if images_per_second < 100 else "{:.0f}")


def _known(number: float, form: str) -> str:
    return "-" if math.isnan(number) else form.format(number)


def _aligned(table: Sequence[Sequence[str]]) -> Iterable[str]:
    """Lines of text; the first column is to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *others in table:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join(cells)
