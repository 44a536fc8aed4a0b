"""An index in ClickHouse as its methods need it: reads of one state, changes made once."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...index.records._values import as_columns, as_list
from .._columns import Batch, rows_by_columns
from .._conditions import read_condition
from .._keys import id_of, keys_of, keys_of_some, refuse_present, require_present
from .._recall import measured_recall, n_held_back
from .._rows import Remembered, Rows, Slots
from .._state import State
from .._store import (
    Chosen,
    Found,
    Item,
    Tuning,
    Vectors,
    check_params,
    is_mask,
    listed_entries,
)
from . import _table as tables
from ._ledger import ClickHouseLedger, Draft, there
from ._search import MOST_FROM_GRAPH, Search, nearest, spread_of
from ._session import ClickHouseSession
from ._sql import KEY, clickhouse_condition, named
from ._state import Publication, following

_LARGEST_EF = 10_000
_MOST_TRIED = 2_000  # to reach a recall
_N_SPREADS = 32


class ClickHouseStore:
    """A table with vectors, ids and records, and what is published of it.

    Parameters
    ----------
    session : ClickHouseSession
    index : str
        Its name.
    timeout : float
        Seconds that others may change the index while a change of this store is made.
    """

    def __init__(self, session: ClickHouseSession, index: str, timeout: float) -> None:
        self.session = session
        self.index = index
        self._ledger = ClickHouseLedger(session, index, timeout)
        # By the tag of the change.
        self._living = Remembered[Slots](1)
        # How many times as many a search takes from the graph, because rows in it are deleted.
        self._excess = 1
        self._spreads = Remembered[int](_N_SPREADS)

    def close(self) -> None:
        """End the connections."""
        self.session.close()

    # Changes.

    def fill(self, state: State, vectors: Vectors, ids: Any, records: Any, tuning: Tuning) -> None:
        """Put items into a new table, which takes the place of the one there is."""
        keys, originals = keys_of(ids, len(vectors))
        columns = as_columns(records, len(vectors))

        def change(before: Publication | None, tag: int) -> Draft:
            tables.refuse_foreign_table(self.session, self.index)
            table = tables.table_name(self.index, tag)
            tables.create_table(self.session, table, state)
            now, encoded = tables.prepared(self.session, table, state, columns)
            batch = Batch(vectors, keys, originals, encoded)
            filled = self._grown(before, table, now, batch, tuning, tag)
            return Draft(filled, table, len(batch))

        self._ledger.replaced(change)

    def add(self, vectors: Vectors, ids: Any, records: Any, tuning: Tuning) -> None:
        """Add items at the end."""
        columns = as_columns(records, len(vectors))
        given = None if ids is None else as_list(ids, "ids")

        def change(before: Publication | None, tag: int) -> Draft:
            published = there(before, self.index)
            state, table = published.state, published.table
            keys, originals = keys_of(given, len(vectors), state.next_id)
            if given is not None:
                present = tables.slots_of_keys(self.session, published, keys)
                refuse_present(present, keys, originals)
            now, encoded = tables.prepared(self.session, table, state, columns)
            batch = Batch(vectors, keys, originals, encoded)
            grown = self._grown(published, table, now, batch, tuning, tag)
            return Draft(grown, table, len(batch))

        self._ledger.changed(change)

    def upsert(self, vectors: Vectors, ids: Any, records: Any) -> None:
        """Replace the items whose ids are there, and add the others."""
        keys, originals = keys_of(ids, len(vectors))
        columns = as_columns(records, len(vectors))

        def change(before: Publication | None, tag: int) -> Draft:
            published = there(before, self.index)
            slots = tables.slots_of_keys(self.session, published, keys)
            given = columns
            if records is not None:
                given = {name: [None] * len(vectors) for name in published.state.kinds} | columns
            now, encoded = tables.prepared(self.session, published.table, published.state, given)
            if records is None:
                encoded = self._kept_columns(published, keys, slots)
            batch = Batch(vectors, keys, originals, encoded)
            return self._replacing(published, now, batch, slots, tag)

        self._ledger.changed(change)

    def remove(self, ids: Any) -> None:
        """Remove items."""
        keys, originals = keys_of_some(ids)

        def change(before: Publication | None, tag: int) -> Draft:
            published = there(before, self.index)
            present = tables.slots_of_keys(self.session, published, keys)
            require_present(present, keys, originals)
            n_items = published.state.n_items - len(present)
            state = replace(published.state, n_items=n_items)
            return Draft(state, published.table, 0, list(present.values()))

        self._ledger.changed(change)

    def update(self, ids: Any, records: Any) -> None:
        """Change columns of the records of items; with dicts, the given keys of each."""
        keys, originals = keys_of_some(ids)
        columns = as_columns(records, len(keys))

        def change(before: Publication | None, tag: int) -> Draft:
            published = there(before, self.index)
            slots = tables.slots_of_keys(self.session, published, keys)
            require_present(slots, keys, originals)
            now, encoded = tables.prepared(self.session, published.table, published.state, columns)
            known = list(slots)
            kept = self._kept_columns(published, known, slots)
            places = {key: place for place, key in enumerate(known)}
            for names, rows in rows_by_columns(records, columns, len(keys)):
                for name in names:
                    values = kept.setdefault(name, [None] * len(known))
                    for row in rows:
                        values[places[keys[row]]] = encoded[name][row]
            at = np.array([slots[key] for key in known], np.int64)
            vectors = tables.vectors_at(self.session, published, at)
            by_key = dict(zip(keys, originals, strict=True))
            batch = Batch(vectors, known, [by_key[key] for key in known], kept)
            return self._replacing(published, now, batch, slots, tag)

        self._ledger.changed(change)

    # Reads.

    def state(self) -> State:
        """The state of the index."""
        return self._ledger.newest().state

    def nearest(
        self, queries: Vectors | None, k: int, chosen: Chosen, *, exact: bool, with_records: bool
    ) -> tuple[State, Found, NDArray[np.int64]]:
        """The nearest items of queries, and their rows; of all items one more, for themselves."""

        def work(published: Publication) -> tuple[State, Found, NDArray[np.int64]]:
            condition = self._condition(published, chosen)
            search = Search(published, k, condition, with_records)
            vectors = queries
            if vectors is None:
                vectors = tables.vectors_at(self.session, published, None)
                search = search._replace(k=k + 1)
            search, ef = (search, 0) if exact else self._through_graph(search)
            found, self._excess = nearest(self.session, search, vectors, ef=ef, excess=self._excess)
            return published.state, found, self._rows(published).of_slots(found.slots)

        return self._ledger.read(work)

    def ids(self) -> list[Hashable]:
        """All ids, row by row."""

        def work(published: Publication) -> list[Hashable]:
            return [id_of(*one) for one in self._selected(published, [])]

        return self._ledger.read(work)

    def contains(self, key: str) -> bool:
        """Whether an item has this key."""
        return self._ledger.read(
            lambda published: bool(tables.slots_of_keys(self.session, published, [key]))
        )

    def vectors(self, rows: NDArray[np.int64] | None) -> Vectors:
        """The vectors of rows, or of all."""

        def work(published: Publication) -> Vectors:
            slots = None if rows is None else self._rows(published).slots_at(rows)
            return tables.vectors_at(self.session, published, slots)

        return self._ledger.read(work)

    def items(self, chosen: Chosen, limit: int | None) -> tuple[State, list[Item]]:
        """What is chosen, row by row; the first of them, if there is a limit."""

        def work(published: Publication) -> tuple[State, list[Item]]:
            condition = self._condition(published, chosen)
            return published.state, self._items(published, condition, limit)

        return self._ledger.read(work)

    def contents(self) -> tuple[State, Vectors, list[Item]]:
        """All that is there, row by row: vectors and items."""

        def work(published: Publication) -> tuple[State, Vectors, list[Item]]:
            vectors = tables.vectors_at(self.session, published, None)
            return published.state, vectors, self._items(published, None, None)

        return self._ledger.read(work)

    def _items(
        self, published: Publication, condition: str | None, limit: int | None
    ) -> list[Item]:
        state = published.state
        found = self._selected(published, tables.record_words(state), condition, limit)
        return [(*one[:2], *tables.record_values(state, one[2:])) for one in found]

    def _selected(
        self,
        published: Publication,
        words: Sequence[str],
        condition: str | None = None,
        limit: int | None = None,
    ) -> list[tuple[Any, ...]]:
        """Keys, originals and more, row by row."""
        selected = ", ".join([KEY, "hex(imgembed_original)", *words])
        first = "" if limit is None else f" LIMIT {limit}"
        found = self.session.rows(
            f"SELECT {selected} FROM {named(published.table)} WHERE {published.kept(condition)} "
            f"ORDER BY imgembed_slot{first}"
        )
        return [
            (key, None if original is None else bytes.fromhex(original), *values)
            for key, original, *values in found
        ]

    # Filling.

    def _replacing(
        self,
        published: Publication,
        state: State,
        batch: Batch,
        known: dict[str, int],
        tag: int,
    ) -> Draft:
        """Write items into the slots that they have, and others into the next ones."""
        new = [key for key in batch.keys if key not in known]
        places = known | dict(zip(new, range(state.n_slots, state.n_slots + len(new)), strict=True))
        slots = np.array([places[key] for key in batch.keys], np.int64)
        tables.insert_at(self.session, published.table, state, batch, slots, tag)
        after = state.with_more(new, len(new))
        after = self._with_graph(published.table, after, after.n_items)
        return Draft(after, published.table, len(batch), list(known.values()))

    def _kept_columns(
        self, published: Publication, keys: Sequence[str], known: dict[str, int]
    ) -> dict[str, list[Any]]:
        """The columns of records that are there, None for keys that are not."""
        state = published.state
        words = ", ".join([KEY, *tables.record_words(state)])
        found = self.session.rows(
            f"SELECT {words} FROM {named(published.table)} WHERE {published.visible} AND "
            f"{tables.among_keys(list(known))}"
        )
        rows = {row[0]: tables.record_values(state, row[1:]) for row in found}
        nothing = [None] * len(state.kinds)
        values = [rows.get(key, nothing) for key in keys]
        return {name: [row[place] for row in values] for place, name in enumerate(state.kinds)}

    def _grown(
        self,
        before: Publication | None,
        table: str,
        state: State,
        batch: Batch,
        tuning: Tuning,
        tag: int,
    ) -> State:
        """Add items, of which some are queries that measure the graph before they are in it."""
        n_after = state.n_items + len(batch)
        n_held = n_held_back(state, n_after, len(batch)) if _may_have_graph(state) else 0
        first, held = batch.parted(len(batch) - n_held)
        state = tables.insert(self.session, table, state, first, tag)
        state = self._with_graph(table, state, n_after)
        if not n_held:
            return state
        draft = following(before, self.index, state, table, tag)
        recall = _measured(self.session, draft, held.vectors, tuning)
        state = replace(state, recall=recall, n_measured=n_after)
        return tables.insert(self.session, table, state, held, tag)

    def _with_graph(self, table: str, state: State, n_items: int) -> State:
        """Build the graph if it is due."""
        wanted = _may_have_graph(state) and state.wants_graph(n_items)
        if state.has_graph or not wanted:
            return state
        tables.create_graph(self.session, table, state)
        return replace(state, has_graph=True)

    # Searching.

    def _through_graph(self, search: Search) -> tuple[Search, int]:
        """The search, and candidates that the graph visits, 0 to compare with all."""
        published, state = search.published, search.published.state
        if not state.has_graph or not published.is_settled or search.k > MOST_FROM_GRAPH:
            return search, 0
        spread = 1 if search.condition is None else self._spread(search)
        ef = state.recall.ef * max(1.0, search.k * spread / state.recall.n_neighbors)
        return search._replace(spread=spread), min(_LARGEST_EF, round(ef) if spread else 0)

    def _spread(self, search: Search) -> int:
        """What a condition makes of a search, remembered for a while."""
        question = search.published.tags[-1], str(search.condition)
        return self._spreads.of(question, lambda: spread_of(self.session, search))

    def _condition(self, published: Publication, chosen: Chosen) -> str | None:
        check_params(chosen)
        where = chosen.where
        if where is None:
            return None
        if isinstance(where, str):
            kinds = published.state.kinds
            return clickhouse_condition(read_condition(where, chosen.params, kinds))
        entries = listed_entries(where, published.state.n_items)
        if is_mask(entries):
            rows = np.flatnonzero(np.asarray(entries, bool))
            return tables.among_slots(self._rows(published).slots_at(rows))
        keys, originals = keys_of_some(entries)
        present = tables.slots_of_keys(self.session, published, keys)
        require_present(present, keys, originals)
        return tables.among_keys(keys)

    def _rows(self, published: Publication) -> Rows:
        if not published.state.has_gaps:
            return Rows(None)
        read = partial(tables.living_slots, self.session, published)
        return Rows(self._living.of(published.tags[-1], read))


def _may_have_graph(state: State) -> bool:
    return state.metric != "ip"


def _measured(
    session: ClickHouseSession, draft: Publication, queries: Vectors, tuning: Tuning
) -> Any:
    search = Search(draft, tuning.n_neighbors)

    def found(ef: int) -> Found:
        return nearest(session, search, queries, ef=ef)[0]

    return measured_recall(found, found(0), tuning, _MOST_TRIED)
