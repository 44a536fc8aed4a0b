"""PlainSearch: one query among all items, in as few steps as can be."""

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._vectors import LARGEST_SQUARE, SMALLEST_SQUARE, normalise_rows
from ._found import Found
from ._items import Items
from ._node_index import NEAR, NodeIndex

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
# Squared norms of vectors of unit length differ from 1 by less.
_ROUNDING = 1e-6


class PlainSearch:
    """One query that goes through the graph, which knows all items, with no condition.

    The search of a graph leaves little of Python and numpy in the caches of the processor: what is
    called after it takes ten times as long as it does in a loop. So here is called little. What is
    found is what :meth:`Collection.search` finds.

    Parameters
    ----------
    nodes : NodeIndex
    items : Items
        Neither may change from now on.
    """

    def __init__(self, nodes: NodeIndex, items: Items) -> None:
        self._nodes, self._items, self._graph = nodes, items, nodes.graph
        self._shape = (1, nodes.store.n_features)
        self._is_cosine = nodes.settings.metric == "cosine"
        self._is_euclidean = nodes.settings.metric == "euclidean"
        self._is_enough: dict[int, bool] = {}  # by k
        # The slot of each node of the graph, -1 where it is several; made when it is needed.
        self._slots = np.empty(0, np.int64)
        self._has_shared = False

    def nearest(self, X: Any, k: int) -> Found | None:
        """The nearest k items of the only row of X, or None if it takes more to tell.

        Parameters
        ----------
        X : object
            None, too, if it is not such a row as needs no change.
        k : int

        Returns
        -------
        distances : ndarray of shape (1, k), dtype float64
        slots : ndarray of shape (1, k), dtype int64
        """
        if type(X) is not np.ndarray or X.dtype != _FLOAT32 or X.shape != self._shape:
            return None
        if self._graph is None or not (self._is_enough.get(k) or self._learns_that_enough(k)):
            return None
        square = float(np.vdot(X, X))  # dot would warn where it overflows
        if not SMALLEST_SQUARE < square < LARGEST_SQUARE:  # nor NaN
            return None
        query: NDArray[np.float32] = X
        if self._is_cosine and abs(square - 1) > _ROUNDING:
            query = X / np.float32(sqrt(square))  # type: ignore[assignment]
        found = self._graph.nearest(query, k)
        if found is None:
            return None
        places, farness = found
        slots = self._slots.take(places)
        is_near = self._is_cosine and farness[0, 0] < NEAR
        if is_near or (self._has_shared and -1 in slots[0].tolist()):
            query = normalise_rows(X) if self._is_cosine else X  # as in the index, bit by bit
            ranked = self._nodes.ranked(places.astype(np.int64), farness, query)
            return self._items.of_nodes(ranked, k, len(self._nodes), None)
        distances = farness.astype(_FLOAT64)
        return np.sqrt(distances, distances) if self._is_euclidean else distances, slots

    def _learns_that_enough(self, k: int) -> bool:
        """Whether the graph alone answers."""
        if k not in self._is_enough:
            n_nodes = len(self._nodes)
            enough = self._nodes.is_answered_by_graph(k)
            enough = enough and self._items.allowed_nodes(n_nodes, None) is None
            if enough and not len(self._slots):
                only = self._items.only_slots(n_nodes)
                self._has_shared = bool((only < 0).any())
                self._slots = self._nodes.in_graph(only)
            self._is_enough[k] = enough
        return self._is_enough[k]
