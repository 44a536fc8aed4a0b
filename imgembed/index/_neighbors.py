"""Neighbors: what a search of an index found."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._html import html_table
from .._optional import import_optional

# Rows that a notebook shows; to_pandas has them all.
_SHOWN_IN_NOTEBOOK = 50


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The neighbours of queries: ids, distances and records together.

    Parameters
    ----------
    ids : list of list
        The ids of each query's neighbours, nearest first; as many as were found.
    distances : ndarray of shape (n_queries, n_neighbors), dtype float64
        Ascending; inf where fewer were found.
    rows : ndarray of shape (n_queries, n_neighbors), dtype int64
        Rows of the index; -1 where fewer were found.
    records : list of list of dict
        What is known of each neighbour, as long as ``ids``.
    probabilities : ndarray of shape (n_queries, n_neighbors), dtype float64, or None
        How probable it is that each is a match, if the index is calibrated; 0 where fewer were
        found.

    Examples
    --------
    >>> from imgembed import NearestNeighborIndex
    >>> index = NearestNeighborIndex(metric="euclidean")
    >>> index = index.fit([[0.0], [5.0]], ids=["a", "b"], records={"price": [3, 4]})
    >>> found = index.search([[4.0]], n_neighbors=1)
    >>> found.ids
    [['b']]
    >>> found.records
    [[{'price': 4}]]
    """

    ids: list[list[Hashable]]
    distances: NDArray[np.float64]
    rows: NDArray[np.int64]
    records: list[list[dict[str, Any]]]
    probabilities: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to_pandas(self) -> Any:
        """The neighbours as a table with a row for each.

        Returns
        -------
        table : pandas.DataFrame
            Columns query (row of the query), rank (from 1), id, distance, probability (where
            the index is calibrated), and those of the records.

        Raises
        ------
        ImportError
            If pandas is not installed (extra ``pandas``).
        """
        pandas = import_optional("pandas", extra="pandas", needed_by="Neighbors.to_pandas")
        return pandas.DataFrame(list(self._rows()))

    def _repr_html_(self) -> str:
        shown = list(islice(self._rows(), _SHOWN_IN_NOTEBOOK))
        columns = list(dict.fromkeys(name for row in shown for name in row))
        n_found = sum(map(len, self.ids))
        return html_table(
            columns,
            [[row.get(name) for name in columns] for row in shown],
            caption=f"{n_found} neighbours of {len(self)} queries",
            n_more=n_found - len(shown),
        )

    def _rows(self) -> Iterator[dict[str, Any]]:
        """A row for each neighbour."""
        for query, ids in enumerate(self.ids):
            for place, one in enumerate(ids):
                yield {
                    "query": query,
                    "rank": place + 1,
                    "id": one,
                    "distance": self.distances[query, place],
                    **self._probability(query, place),
                    **self.records[query][place],
                }

    def _probability(self, query: int, place: int) -> dict[str, float]:
        if self.probabilities is None:
            return {}
        return {"probability": self.probabilities[query, place]}
