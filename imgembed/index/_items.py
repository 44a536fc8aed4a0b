"""Items: which images are which node, since equal vectors share one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._found import Distances, Found, fitted

Nodes = NDArray[np.int64]

Slots = NDArray[np.int64]


class Items:
    """The node of each slot. A slot is an image for its life; -1 marks those removed.

    Rows are what users see: the slots that live, without gaps.

    Parameters
    ----------
    node_of : ndarray of shape (n_slots,), dtype int32
    """

    def __init__(self, node_of: NDArray[np.int32] | None = None) -> None:
        self.node_of = np.empty(0, np.int32) if node_of is None else node_of
        self._n_living = int(np.count_nonzero(self.node_of >= 0))
        # What is computed when it is asked for.
        self._living: Slots | None = None
        self._alive_nodes: NDArray[np.bool_] | None = None
        self._plain: bool | None = None
        self._groups: tuple[NDArray[np.int64], Slots] | None = None

    def __len__(self) -> int:
        return self._n_living

    @property
    def n_slots(self) -> int:
        """Slots, with those of removed items."""
        return len(self.node_of)

    def placed(self, slots: Slots, nodes: Nodes | int) -> "Items":
        """Items with some at other nodes; slots past the last are new, and node -1 removes."""
        n_slots = max(self.n_slots, int(slots.max(initial=-1)) + 1)
        node_of = np.full(n_slots, -1, np.int32)
        node_of[: self.n_slots] = self.node_of
        node_of[slots] = nodes
        return Items(node_of)

    @property
    def living(self) -> Slots:
        """The slots that live, ascending: the slot of each row."""
        if self._living is None:
            self._living = np.flatnonzero(self.node_of >= 0)
        return self._living

    def rows_of(self, slots: Slots) -> NDArray[np.int64]:
        """The row of each slot that lives; -1 stays."""
        if self._n_living == len(self.node_of):
            return slots
        return np.where(slots < 0, -1, np.searchsorted(self.living, slots))

    def allowed_nodes(self, n_nodes: int, allowed: NDArray[np.bool_] | None) -> Any:
        """Which nodes have an item that lives and is allowed, or None if all have.

        Parameters
        ----------
        n_nodes : int
        allowed : ndarray of shape (n_slots,), dtype bool, or None
        """
        if self.is_plain(n_nodes):
            return allowed
        if allowed is None:
            if self._alive_nodes is None or len(self._alive_nodes) != n_nodes:
                self._alive_nodes = self._marked(n_nodes, self.living)
            return None if self._alive_nodes.all() else self._alive_nodes
        return self._marked(n_nodes, np.flatnonzero(allowed & (self.node_of >= 0)))

    def is_plain(self, n_nodes: int) -> bool:
        """Whether each slot is the node of the same number: no duplicates, none removed."""
        if self._plain is None:
            numbers = np.arange(self.n_slots, dtype=np.int32)
            self._plain = bool(np.array_equal(self.node_of, numbers))
        return self._plain and n_nodes == self.n_slots

    def of_nodes(
        self, found: Found, k: int, n_nodes: int, allowed: NDArray[np.bool_] | None
    ) -> Found:
        """The first k items of the nodes that were found; -1 and inf where there are fewer.

        Parameters
        ----------
        found : tuple of distances and nodes of shape (n_queries, n_found)
            NDArray[np.int64] of -1 stand for nothing.
        k : int
        n_nodes : int
        allowed : ndarray of shape (n_slots,), dtype bool, or None

        Returns
        -------
        distances : ndarray of shape (n_queries, k), dtype float64
        slots : ndarray of shape (n_queries, k), dtype int64
        """
        distances, nodes = found
        if self.is_plain(n_nodes):
            return fitted(distances, nodes, k)
        starts, members = self._members(n_nodes)
        if allowed is not None:
            kept = allowed[members]
            starts = np.concatenate([[0], np.cumsum(kept)])[starts]
            members = members[kept]
        return _expanded(distances, nodes, starts, members, k)

    def pairs_of_nodes(
        self,
        query: NDArray[np.int64],
        nodes: Nodes,
        distances: Distances,
        n_nodes: int,
        allowed: NDArray[np.bool_] | None,
    ) -> tuple[NDArray[np.int64], Slots, Distances]:
        """Pairs of a query and a node as pairs of a query and each of its items."""
        if self.is_plain(n_nodes):
            return query, nodes, distances
        starts, members = self._members(n_nodes)
        counts = starts[nodes + 1] - starts[nodes]
        entries = np.repeat(np.arange(len(nodes)), counts)
        within = np.arange(len(entries)) - np.repeat(np.cumsum(counts) - counts, counts)
        slots = members[starts[nodes][entries] + within]
        if allowed is not None:
            entries, slots = entries[allowed[slots]], slots[allowed[slots]]
        return query[entries], slots, distances[entries]

    def compacted(self) -> tuple["Items", NDArray[np.int64]]:
        """Items without gaps, and the nodes that are still in use, ascending."""
        nodes, node_of = np.unique(self.node_of[self.living], return_inverse=True)
        return Items(node_of.astype(np.int32)), nodes.astype(np.int64)

    def n_used_nodes(self, n_nodes: int) -> int:
        """NDArray[np.int64] that have an item."""
        return int(np.count_nonzero(self._marked(n_nodes, self.living)))

    def only_slots(self, n_nodes: int) -> Slots:
        """The slot of each node that has one item; -1 for other nodes."""
        if self.is_plain(n_nodes):
            return np.arange(n_nodes)
        starts, members = self._members(n_nodes)
        only = np.full(n_nodes, -1)
        alone = np.diff(starts) == 1
        only[alone] = members[starts[:-1][alone]]
        return only

    def _marked(self, n_nodes: int, slots: Slots) -> NDArray[np.bool_]:
        marked = np.zeros(n_nodes, bool)
        marked[self.node_of[slots]] = True
        return marked

    def _members(self, n_nodes: int) -> tuple[NDArray[np.int64], Slots]:
        """Slots by node, ascending, and where each node's begin."""
        if self._groups is None or len(self._groups[0]) != n_nodes + 1:
            living = self.living
            nodes = self.node_of[living]
            counts = np.bincount(nodes, minlength=n_nodes)
            starts = np.concatenate([[0], np.cumsum(counts)])
            self._groups = starts, living[np.argsort(nodes, kind="stable")]
        return self._groups


def _expanded(
    distances: Distances,
    nodes: Nodes,
    starts: NDArray[np.int64],
    members: Slots,
    k: int,
) -> Found:
    """Each node replaced by its members, the first k of each query."""
    n_queries, n_found = nodes.shape
    present = nodes >= 0
    known = np.where(present, nodes, 0)
    counts = np.where(present, np.minimum(starts[known + 1] - starts[known], k), 0).ravel()
    entries = np.repeat(np.arange(nodes.size), counts)
    within = np.arange(len(entries)) - np.repeat(np.cumsum(counts) - counts, counts)
    slots = members[starts[known].ravel()[entries] + within]
    query = entries // max(n_found, 1)
    place = np.arange(len(query)) - np.searchsorted(query, query)
    first = place < k
    out = np.full((n_queries, k), np.inf), np.full((n_queries, k), -1, np.int64)
    out[0][query[first], place[first]] = distances.ravel()[entries[first]]
    out[1][query[first], place[first]] = slots[first]
    return out
