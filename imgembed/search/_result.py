"""SearchResult: the hits of a search as a table, a picture and a page."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import plotting
from .._optional import import_optional

# Queries that a notebook shows of a result; the table and the page have them all.
_SHOWN_IN_NOTEBOOK = 10


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """The hits of a search: a table, a picture, and thumbnails in a notebook.

    Parameters
    ----------
    queries : list of images or texts
        The queries, as they were given; texts as :class:`imgembed.plotting.TextQuery`.
    ids : ndarray of shape (n_queries, n_neighbors), dtype int64
        Ids of images in the gallery, nearest first; -1 where the gallery has no more.
    distances : ndarray of shape (n_queries, n_neighbors), dtype float64
        The distances, ascending unless hits were verified; inf where the gallery has no more.
    images : sequence of images
        The gallery: ``images[id]`` is the image with this id.
    records : list of list of dict
        What is known of each query's hits, as many as were found; empty dicts if nothing is.
    n_inliers : ndarray of shape (n_queries, n_neighbors), dtype int64, or None
        Of hits that local features have verified, the inliers; 0 where they have not, -1 where
        they were not tried. None if the search does not verify.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import SearchResult
    >>> gallery = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    >>> SearchResult([gallery[0]], np.array([[2, 0]]), np.array([[0.1, 0.2]]), gallery)
    SearchResult of 1 query, 2 neighbours each:
    array of shape (8, 8, 3) and dtype uint8
      1  0.1000  2
      2  0.2000  0
    """

    queries: list[Any]
    ids: NDArray[np.int64]
    distances: NDArray[np.float64]
    images: Sequence[object]
    records: list[list[dict[str, Any]]] = field(default_factory=list)
    n_inliers: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        n_queries, n_neighbors = self.ids.shape
        plural = "query" if n_queries == 1 else "queries"
        lines = [f"SearchResult of {n_queries} {plural}, {n_neighbors} neighbours each:"]
        for query, found in zip(self.queries[:_SHOWN_IN_NOTEBOOK], self.lines(), strict=False):
            lines += [plotting.image_name(query), *found]
        if n_queries > _SHOWN_IN_NOTEBOOK:
            lines.append(f"... and {n_queries - _SHOWN_IN_NOTEBOOK} more queries")
        return "\n".join(lines)

    def lines(self) -> Iterator[list[str]]:
        """The hits as text: of each query a list with a line a hit.

        Yields
        ------
        lines : list of str
            Rank, distance, path or id, and inliers where the hit was verified.
        """
        for q in range(len(self)):
            yield [f"  {h.rank}  {h.distance:.4f}  {h.name}{h.proof}" for h in self._hits(q)]

    def to_pandas(self) -> Any:
        """The hits as a table with a row a hit.

        Returns
        -------
        table : pandas.DataFrame
            Columns query (row of the query), rank (from 1), id, distance, image (its path,
            where the gallery has paths), n_inliers (where hits were verified), and those of
            the records.

        Raises
        ------
        ImportError
            If pandas is not installed (extra ``pandas``).
        """
        pandas = import_optional("pandas", extra="pandas", needed_by="SearchResult.to_pandas")
        rows = [
            {
                "query": q,
                "rank": hit.rank,
                "id": hit.id,
                "distance": hit.distance,
                **({"image": str(hit.image)} if _is_path(hit.image) else {}),
                **({} if hit.n_inliers is None else {"n_inliers": hit.n_inliers}),
                **(self.records[q][hit.rank - 1] if self.records else {}),
            }
            for q in range(len(self))
            for hit in self._hits(q)
        ]
        return pandas.DataFrame(rows)

    def plot(self, n_queries: int = 10) -> Any:
        """Draw queries and their hits as a grid, a row a query.

        Parameters
        ----------
        n_queries : int, default=10
            How many queries to draw, from the first.

        Returns
        -------
        axes : ndarray of shape (n_queries, 1 + n_neighbors) of matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed (extra ``plot``).
        """
        n_queries = min(n_queries, len(self))
        return plotting.plot_hits(
            self.queries[:n_queries],
            [[hit.image for hit in self._hits(q)] for q in range(n_queries)],
            [[hit.caption for hit in self._hits(q)] for q in range(n_queries)],
        )

    def to_html(self, title: str = "Search result") -> str:
        """One self-contained page with all hits, thumbnails inside.

        Parameters
        ----------
        title : str, default="Search result"
            The title of the page.

        Returns
        -------
        page : str
            HTML; all text in it is escaped.
        """
        return plotting.html_page(title, self._html_table(len(self)))

    def _repr_html_(self) -> str:
        return self._html_table(min(len(self), _SHOWN_IN_NOTEBOOK))

    def _html_table(self, n_queries: int) -> str:
        return plotting.html_hits(
            self.queries[:n_queries],
            [[hit.image for hit in self._hits(q)] for q in range(n_queries)],
            [[hit.caption for hit in self._hits(q)] for q in range(n_queries)],
            n_more=len(self) - n_queries,
        )

    def _hits(self, query: int) -> Iterator["_Hit"]:
        pairs = zip(self.ids[query], self.distances[query], strict=True)
        for rank, (i, distance) in enumerate(pairs, start=1):
            if i >= 0:
                n_inliers = None
                if self.n_inliers is not None:
                    n_inliers = int(self.n_inliers[query, rank - 1])
                yield _Hit(rank, int(i), float(distance), self.images[int(i)], n_inliers)


@dataclass(frozen=True)
class _Hit:
    rank: int
    id: int
    distance: float
    image: object
    n_inliers: int | None

    @property
    def name(self) -> str:
        return str(self.image) if _is_path(self.image) else str(self.id)

    @property
    def caption(self) -> str:
        name = Path(os.fsdecode(str(self.image))).name if _is_path(self.image) else self.id
        return f"{name}\n{self.distance:.3f}{self.proof}"

    @property
    def proof(self) -> str:
        return f", {self.n_inliers} inliers" if self.n_inliers and self.n_inliers > 0 else ""


def _is_path(image: object) -> bool:
    return isinstance(image, (str, os.PathLike))
