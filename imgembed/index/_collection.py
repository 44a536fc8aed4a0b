"""Collection: nodes, items and records in step, and what changes them together."""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ._exact import exact_pairs
from ._found import Distances, Found
from ._items import Items, Slots
from ._node_index import Floats, NodeIndex
from ._plain_search import PlainSearch
from ._settings import Settings
from .records._records import Records
from .records._values import as_list

# Where more than this share of the slots or nodes is not in use, all is built again without.
_UNUSED_SHARE = 1 / 3


@dataclass
class Collection:
    """The vectors of an index and what is known of each.

    Every change happens whole or not at all.

    Parameters
    ----------
    nodes : NodeIndex
    items : Items
    records : Records
    """

    nodes: NodeIndex
    items: Items
    records: Records
    # Since the last change.
    plain_search: PlainSearch | None = field(default=None, init=False)

    @classmethod
    def empty(cls, settings: Settings, n_features: int) -> Self:
        """A collection of nothing."""
        return cls(NodeIndex(settings, n_features), Items(), Records())

    def __len__(self) -> int:
        return len(self.items)

    # Changes.

    def add(
        self, vectors: Floats, ids: Sequence[Hashable] | None, records: Any, n_threads: int
    ) -> None:
        """Add items at the end; see :meth:`NearestNeighborIndex.add`."""
        self.plain_search = None
        if ids is not None:
            ids = as_list(ids, "ids")  # once, if it is an iterator
            self.records.check_new(ids, len(vectors))  # before the long work
        nodes = self.nodes.nodes_of(vectors, n_threads)
        # A node that stays without an item, because records are refused, is never found.
        items = self.items.placed(self.items.n_slots + np.arange(len(nodes)), nodes)
        n_changes = self.records.n_changes
        try:
            self.records.append(ids, records, len(vectors))
        finally:
            if self.records.n_changes > n_changes:  # also if Ctrl-C came since
                self.items = items

    def upsert(
        self, vectors: Floats, ids: Sequence[Hashable], records: Any, n_threads: int
    ) -> None:
        """Replace the items whose ids are there, and add the others."""
        self.plain_search = None
        ids = as_list(ids, "ids")
        slots = self.records.slots_for(ids, len(vectors))  # before the long work
        items = self.items.placed(slots, self.nodes.nodes_of(vectors, n_threads))
        n_changes = self.records.n_changes
        try:
            self.records.upsert(ids, records, len(vectors))
        finally:
            if self.records.n_changes > n_changes:
                self.items = items
        self._compact_if_worthwhile(n_threads)

    def remove(self, ids: Sequence[Hashable], n_threads: int) -> None:
        """Remove items."""
        self.plain_search = None
        slots = self.records.slots_of(ids)
        items, n_changes = self.items.placed(slots, -1), self.records.n_changes
        try:
            self.records.remove(slots)
        finally:
            if self.records.n_changes > n_changes:
                self.items = items
        self._compact_if_worthwhile(n_threads)

    def compact(self, n_threads: int) -> None:
        """Build all again without what is not in use."""
        self.plain_search = None
        items, nodes = self.items.compacted()
        chosen = self.nodes
        if len(nodes) < len(self.nodes):
            chosen = self.nodes.chosen(nodes, n_threads)
        records = self.records.copy()
        records.renumber()
        self.nodes, self.items, self.records = chosen, items, records

    def _compact_if_worthwhile(self, n_threads: int) -> None:
        n_used = self.items.n_used_nodes(len(self.nodes))
        most = 1 - _UNUSED_SHARE
        if len(self.items) < most * self.items.n_slots or n_used < most * len(self.nodes):
            with suppress(MemoryError):  # all is right without; the next change tries again
                self.compact(n_threads)

    # Searches.

    def search(
        self,
        queries: Floats,
        k: int,
        n_threads: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exact: bool = False,
    ) -> Found:
        """The k nearest items of each query: distances and slots, padded with inf and -1."""
        n_nodes = len(self.nodes)
        found = self.nodes.search(
            queries,
            k,
            n_threads,
            allowed=self.items.allowed_nodes(n_nodes, allowed),
            exact=exact,
        )
        return self.items.of_nodes(found, k, n_nodes, allowed)

    def new_plain_search(self) -> PlainSearch:
        """What finds for one query among all what :meth:`search` finds, until the next change."""
        self.plain_search = PlainSearch(self.nodes, self.items)
        return self.plain_search

    def within(
        self, queries: Floats, radius: float, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], Slots, Distances]:
        """All pairs of a query and an item at most a distance apart, by query, then distance."""
        n_nodes = len(self.nodes)
        mask = self.items.allowed_nodes(n_nodes, allowed)
        rows = None if mask is None else np.flatnonzero(mask)
        blocks = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        if len(self):
            blocks += exact_pairs(
                self.nodes.store, queries, radius, self.nodes.settings.metric, rows
            )
        query, nodes, distances = map(np.concatenate, zip(*blocks, strict=True))
        query, slots, distances = self.items.pairs_of_nodes(
            query, nodes, distances, n_nodes, allowed
        )
        order = np.lexsort((slots, distances, query))
        return query[order], slots[order], distances[order]

    def vectors(self, slots: Slots) -> Floats:
        """The stored vectors of items."""
        return self.nodes.store.take(self.items.node_of[slots].astype(np.int64))

    def plain_vectors(self) -> Floats | None:
        """All vectors without a copy, where they lie as rows do."""
        if self.nodes.settings.storage == "float32" and self.items.is_plain(len(self.nodes)):
            return self.nodes.store.take(slice(None))
        return None

    # Storage.

    def parts(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, bytes]]:
        """All that makes the collection, as JSON, arrays and bytes."""
        fields, arrays = self.nodes.parts()
        arrays["node_of"] = self.items.node_of
        return fields, arrays, {"records": self.records.to_bytes()}

    @classmethod
    def from_parts(
        cls,
        fields: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        blobs: Mapping[str, bytes],
    ) -> Self:
        """The collection that :meth:`parts` came from.

        Raises
        ------
        ValueError, TypeError or KeyError
            If they do not fit together.
        """
        nodes = NodeIndex.from_parts(fields, arrays)
        node_of = arrays["node_of"]
        if node_of.dtype != np.int32 or node_of.ndim != 1:
            raise ValueError("the nodes of the items are not a row of int32")
        if len(node_of) and not -1 <= node_of.min() <= node_of.max() < len(nodes):
            raise ValueError(f"items have nodes that are not among the {len(nodes)}")
        items, records = Items(node_of), Records.from_bytes(blobs["records"])
        if records.n_slots != items.n_slots or not np.array_equal(records.living(), items.living):
            raise ValueError(f"there are {items.n_slots} items and {records.n_slots} records")
        return cls(nodes, items, records)
