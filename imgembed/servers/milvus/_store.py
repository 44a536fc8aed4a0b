"""An index in Milvus as its methods need it: changes that can be made again, reads that notice.

Milvus has no transactions. A change is planned on the state, which then says that it is pending;
its items are written, each replacing the one with its key; then the state says that it is whole.
Whoever finds a pending change that is not its own counts the items anew.
"""

import re
import uuid
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pymilvus import MilvusClient, MilvusException

from ...index.records._values import as_columns, as_list
from .._columns import Batch, rows_by_columns
from .._conditions import read_condition
from .._errors import ServerError, ServerTableError, missing_index, older_index
from .._keys import (
    id_of,
    keys_of,
    keys_of_some,
    refuse_present,
    require_present,
)
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
from ._changes import (
    Change,
    added,
    as_they_are,
    check_kinds,
    made,
    mended,
    placed,
    with_records_that_are_there,
)
from ._collection import (
    MilvusCollection,
    encoded_columns,
    record_fields,
    values_of,
)
from ._conditions import (
    ALL,
    KEY,
    ORIGINAL,
    SLOT,
    VECTOR,
    MilvusCondition,
    milvus_condition,
    one_of,
)
from ._decided import decided_here
from ._search import (
    LARGEST_EF,
    LARGEST_K,
    Search,
    found_by_server,
    found_here,
)
from ._session import CollectionGoneError, MilvusSession
from ._state import Held, create_states, read_held, write_held

Result = TypeVar("Result")

_N_COUNTS = 32
_N_ATTEMPTS = 3


class MilvusStore:
    """A collection with vectors, ids and records, and the state of the index.

    Parameters
    ----------
    session : MilvusSession
    name : str
    """

    def __init__(self, session: MilvusSession, name: str) -> None:
        self.session = session
        self.name = name
        # Of the change that this store made last.
        self._n_changes_seen = 0
        # As it was last read or written.
        self._known: Held | None = None
        # How many items a filter keeps, by the number of changes.
        self._counts = Remembered[int](_N_COUNTS)
        # By the number of changes, and of items.
        self._living = Remembered[Slots](1)

    def close(self) -> None:
        """End the connection."""
        self.session.close()

    # Changes.

    def fill(self, state: State, vectors: Vectors, ids: Any, records: Any, tuning: Tuning) -> None:
        """Put items into a new collection, which takes the place of the one there is."""
        keys, originals = keys_of(ids, len(vectors))
        batch = Batch(vectors, keys, originals, as_columns(records, len(vectors)))
        mark = _new_mark()

        def work(client: MilvusClient) -> Held:
            before = self._before(client)
            if before is not None and mark in before.state.marks:
                return before  # the first attempt came through
            collection = self._at(client, f"{self.name}_imgembed_{_new_mark()[:8]}")
            planned = added(state, batch, tuning)
            self._drop_others(client, before)
            collection.create(state.n_features)
            after = made(collection, replace(state, columns=planned.after.columns), planned)
            counted = after if before is None else _after(after, before.state)
            held = Held(counted.marked(mark), collection.name)
            write_held(client, self.name, held, self.session.timeout)
            self._drop_others(client, held)
            return held

        self._wrote(self.session.attempted(work))

    def add(self, vectors: Vectors, ids: Any, records: Any, tuning: Tuning) -> None:
        """Add items at the end."""
        columns = as_columns(records, len(vectors))
        given = None if ids is None else as_list(ids, "ids")

        def plan(collection: MilvusCollection, state: State) -> Change:
            keys, originals = keys_of(given, len(vectors), state.next_id)
            if given is not None:
                refuse_present(collection.places_of_keys(keys), keys, originals)
            check_kinds(collection, state, columns)
            return added(state, Batch(vectors, keys, originals, columns), tuning)

        self._changed(plan)

    def upsert(self, vectors: Vectors, ids: Any, records: Any) -> None:
        """Replace the items whose ids are there, and add the others."""
        keys, originals = keys_of(ids, len(vectors))
        columns = as_columns(records, len(vectors))

        def plan(collection: MilvusCollection, state: State) -> Change:
            known = collection.places_of_keys(keys)
            check_kinds(collection, state, columns)
            kinds, encoded = encoded_columns(state, columns)
            batch = Batch(vectors, keys, originals, encoded)
            if records is None:
                batch = with_records_that_are_there(collection, state, batch)
            return placed(replace(state, columns=kinds), batch, known)

        self._changed(plan)

    def remove(self, ids: Any) -> None:
        """Remove items."""
        keys, originals = keys_of_some(ids)

        def plan(collection: MilvusCollection, state: State) -> Change:
            present = collection.places_of_keys(keys)
            require_present(present, keys, originals)
            after = replace(state, n_items=state.n_items - len(present))
            return Change(after, removed=list(present))

        self._changed(plan)

    def update(self, ids: Any, records: Any) -> None:
        """Change columns of the records of items; with dicts, the given keys of each."""
        keys, originals = keys_of_some(ids)
        columns = as_columns(records, len(keys))

        def plan(collection: MilvusCollection, state: State) -> Change:
            known = collection.places_of_keys(keys)
            require_present(known, keys, originals)
            check_kinds(collection, state, columns)
            kinds, encoded = encoded_columns(state, columns)
            after = replace(state, columns=kinds)
            batch = as_they_are(collection, after, list(known))
            place = {key: row for row, key in enumerate(batch.keys)}
            for names, rows in rows_by_columns(records, columns, len(keys)):
                for name in names:
                    for row in rows:
                        batch.columns[name][place[keys[row]]] = encoded[name][row]
            return placed(after, batch, known)

        self._changed(plan)

    # Reads.

    def state(self) -> State:
        """The state of the index."""
        return self._read(lambda collection, state: state)

    def nearest(
        self, queries: Vectors | None, k: int, chosen: Chosen, *, exact: bool, with_records: bool
    ) -> tuple[State, Found, NDArray[np.int64]]:
        """The nearest items of queries, and their rows; of all items one more, for themselves."""

        def work(
            collection: MilvusCollection, state: State
        ) -> tuple[State, Found, NDArray[np.int64]]:
            condition = self._condition(collection, state, chosen)
            vectors, wanted = queries, k
            if vectors is None:
                vectors, wanted = self._all_vectors(collection, state), k + 1
            if condition.text is False or not len(vectors):
                found = _nothing(len(vectors), wanted)
            else:
                search = Search(collection, state, wanted, condition.filter, with_records)
                found = self._found(search, vectors, exact=exact)
            return state, found, self._rows(collection, state).of_slots(found.slots)

        return self._read(work)

    def ids(self) -> list[Hashable]:
        """All ids, row by row."""

        def work(collection: MilvusCollection, state: State) -> list[Hashable]:
            pages = collection.pages(state, [KEY, ORIGINAL])
            return [id_of(*values_of(state, one)[:2]) for page in pages for one in page]

        return self._read(work)

    def contains(self, key: str) -> bool:
        """Whether an item has this key."""
        return self._read(lambda collection, _: bool(collection.places_of_keys([key])))

    def vectors(self, rows: NDArray[np.int64] | None) -> Vectors:
        """The vectors of rows, or of all."""

        def work(collection: MilvusCollection, state: State) -> Vectors:
            if rows is None:
                return self._all_vectors(collection, state)
            return collection.vectors_of(state, self._rows(collection, state).slots_at(rows))

        return self._read(work)

    def items(self, chosen: Chosen, limit: int | None) -> tuple[State, list[Item]]:
        """What is chosen, row by row; the first of them, if there is a limit."""

        def work(collection: MilvusCollection, state: State) -> tuple[State, list[Item]]:
            condition = self._condition(collection, state, chosen)
            if condition.text is False:
                return state, []
            fields = [KEY, *record_fields(state)]
            with closing(collection.pages(state, fields, condition.filter)) as pages:
                some = islice(chain.from_iterable(pages), limit)
                return state, [values_of(state, one) for one in some]

        return self._read(work)

    def contents(self) -> tuple[State, Vectors, list[Item]]:
        """All that is there, row by row: vectors and items."""

        def work(collection: MilvusCollection, state: State) -> tuple[State, Vectors, list[Item]]:
            pages = collection.pages(state, [VECTOR, KEY, *record_fields(state)])
            entities = [one for page in pages for one in page]
            vectors = np.array([one[VECTOR] for one in entities], np.float32)
            shaped = vectors.reshape(len(entities), state.n_features)
            return state, shaped, [values_of(state, one) for one in entities]

        return self._read(work)

    # How changes and reads are made.

    def _changed(self, plan: Callable[[MilvusCollection, State], Change]) -> None:
        """Make a change, again if the server is lost before it tells that it was made."""
        mark = _new_mark()
        planned: list[Change] = []

        def work(client: MilvusClient) -> Held:
            held = self._there(self._before(client))
            if mark in held.state.marks and not held.pending:
                return held  # the first attempt came through
            collection = self._at(client, held.collection)
            if held.pending != mark or not planned:
                state = mended(collection, self._settled(collection, held), held.pending)
                planned[:] = [plan(collection, state)]
                pending = Held(planned[0].after.marked(mark), held.collection, mark)
                write_held(client, self.name, pending, self.session.timeout)
            after = made(collection, held.state, planned[0]).marked(mark)
            self._refuse_other_writer(collection, after, mark)
            done = Held(after, held.collection)
            write_held(client, self.name, done, self.session.timeout)
            return done

        self._wrote(self.session.attempted(work))

    def _wrote(self, held: Held) -> None:
        self._known, self._n_changes_seen = held, held.state.n_changes

    def _read(self, work: Callable[[MilvusCollection, State], Result]) -> Result:
        """Read in a state that is not older than what this store has written.

        Each read waits for the server's clock, so that the work begins in the state that was known
        last, and is done again if that is not the latest.
        """

        def attempt(client: MilvusClient) -> Result:
            known = self._known
            if known is not None:
                with ThreadPoolExecutor(1) as pool:
                    reading = pool.submit(self._latest, client)
                    early = _outcome(lambda: work(self._at(client, known.collection), known.state))
                if reading.result() == known:
                    return early()
            held = self._latest(client) if known is None else reading.result()
            collection = self._at(client, held.collection)
            return work(collection, self._settled(collection, held))

        for _ in range(_N_ATTEMPTS - 1):
            try:
                return self.session.attempted(attempt)
            except CollectionGoneError:
                continue  # another program has filled the index anew
        return self.session.attempted(attempt)

    def _latest(self, client: MilvusClient) -> Held:
        held = self._there(read_held(client, self.name, self.session.timeout))
        if held.state.n_changes < self._n_changes_seen:
            raise older_index(self.name)
        self._known = None if held.pending else held
        return held

    def _at(self, client: MilvusClient, name: str) -> MilvusCollection:
        return MilvusCollection(client, name, self.session.timeout, merges=self.session.is_lite)

    def _before(self, client: MilvusClient) -> Held | None:
        """The index before a change, which is None before the first; then its place is free."""
        create_states(client, self.session.timeout)
        held = read_held(client, self.name, self.session.timeout)
        if held is None and client.has_collection(self.name, timeout=self.session.timeout):
            raise ServerTableError(
                f"there is a collection {self.name!r} that is no index of imgembed; choose "
                "another name"
            )
        return held

    def _there(self, held: Held | None) -> Held:
        if held is None:
            raise missing_index(self.name, "server")
        return held

    def _settled(self, collection: MilvusCollection, held: Held) -> State:
        """The state; if a change of it may not be whole, by what is there."""
        if not held.pending:
            return held.state
        return replace(held.state, n_items=collection.count())

    def _refuse_other_writer(self, collection: MilvusCollection, after: State, mark: str) -> None:
        """Raise a ServerError if the state or the items are not what this change has made."""
        client, timeout = collection.client, self.session.timeout
        with ThreadPoolExecutor(1) as pool:
            counted = pool.submit(collection.count)
            held = read_held(client, self.name, timeout)
        if held is not None and held.pending == mark and counted.result() == after.n_items:
            return
        if held is not None:  # let everyone count
            write_held(client, self.name, held._replace(pending=mark), timeout)
        raise ServerError(
            f"another program changed the index {self.name!r} at the same time; this change may "
            "be there in part: upsert the same items again. An index takes one writer at a time"
        )

    def _drop_others(self, client: MilvusClient, held: Held | None) -> None:
        """Remove collections of this index that are not in use: those of fits that failed."""
        own = re.compile(re.escape(self.name) + "_imgembed_[0-9a-f]{8}")
        for name in client.list_collections(timeout=self.session.timeout):
            if own.fullmatch(name) and (held is None or name != held.collection):
                try:
                    client.drop_collection(name, timeout=self.session.timeout)
                except MilvusException:
                    continue  # another program is faster, or the next fit will do it

    # Searching.

    def _found(self, search: Search, queries: Vectors, *, exact: bool) -> Found:
        """Search by the server where it can; what it finds too little of is searched here."""
        state = search.state
        if search.k > LARGEST_K or (exact and state.has_graph):
            return found_here(search, queries)
        if not state.has_graph:
            return found_by_server(search, queries, 0)
        n_kept = self._n_kept(search)
        found = found_by_server(search, queries, _ef(search, n_kept))
        n_wanted = min(search.k, n_kept)
        poor = np.flatnonzero((found.slots >= 0).sum(axis=1) < n_wanted)
        if len(poor):
            better = found_here(search, queries[poor])
            found.distances[poor], found.slots[poor] = better.distances, better.slots
            for row, others in zip(poor, better.others, strict=True):
                found.others[row] = others
        return found

    def _n_kept(self, search: Search) -> int:
        """How many items a filter keeps."""
        if not search.text:
            return search.state.n_items
        question = search.state.n_changes, search.text
        return self._counts.of(question, lambda: search.collection.count(search.text))

    def _condition(
        self, collection: MilvusCollection, state: State, chosen: Chosen
    ) -> MilvusCondition:
        check_params(chosen)
        where = chosen.where
        if where is None:
            return ALL
        if not isinstance(where, str):
            return self._listed(collection, state, where)
        expression = read_condition(where, chosen.params, state.kinds)
        said = milvus_condition(expression, list(state.kinds))
        if said.is_exact:
            return said
        return decided_here(collection, state, chosen, expression, said)

    def _listed(self, collection: MilvusCollection, state: State, where: Any) -> MilvusCondition:
        """A mask of rows, or ids, as a condition."""
        entries = listed_entries(where, state.n_items)
        if is_mask(entries):
            rows = np.flatnonzero(np.asarray(entries, bool))
            if len(rows) == state.n_items:
                return ALL
            return one_of(SLOT, self._rows(collection, state).slots_at(rows).tolist())
        keys, originals = keys_of_some(entries)
        require_present(collection.places_of_keys(keys), keys, originals)
        return one_of(KEY, keys)

    def _all_vectors(self, collection: MilvusCollection, state: State) -> Vectors:
        blocks = [vectors for _, vectors in collection.vector_blocks(state)]
        empty = np.empty((0, state.n_features), np.float32)
        return np.concatenate([empty, *blocks])

    def _rows(self, collection: MilvusCollection, state: State) -> Rows:
        if not state.has_gaps:
            return Rows(None)
        known = state.n_changes, state.n_items
        return Rows(self._living.of(known, partial(collection.living_slots, state)))


def _outcome(work: Callable[[], Result]) -> Callable[[], Result]:
    """What gives the result of work that is done now, or raises what it has raised."""
    try:
        result = work()
    except Exception as error:
        failure = error

        def fail() -> Result:
            raise failure

        return fail
    return lambda: result


def _new_mark() -> str:
    return uuid.uuid4().hex[:16]


def _after(state: State, before: State) -> State:
    """The state of a new collection, which counts the changes on."""
    return replace(state, n_changes=before.n_changes, marks=before.marks)


def _nothing(n_queries: int, k: int) -> Found:
    distances = np.full((n_queries, k), np.inf)
    return Found(distances, np.full((n_queries, k), -1, np.int64), [[] for _ in range(n_queries)])


def _ef(search: Search, n_kept: int) -> int:
    """Candidates that the graph visits: the more, the less a filter keeps."""
    recall = search.state.recall
    ef = recall.ef * max(1.0, search.k / recall.n_neighbors)
    if n_kept:
        ef *= (search.state.n_items / n_kept) ** 0.5
    return min(LARGEST_EF, max(round(ef), search.k))
