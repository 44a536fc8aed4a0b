"""Changes of a collection of Milvus: planned on a state, then made, any number of times."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .._columns import EXACT_INTEGERS, Batch, rounded_integers
from .._recall import measured_recall, n_held_back
from .._rows import Slots
from .._state import State
from .._store import Found, Tuning, Vectors
from ._collection import (
    MilvusCollection,
    Place,
    as_kept,
    check_sizes,
    encoded_columns,
    record_fields,
    values_of,
)
from ._conditions import KEY, SLOT, VECTOR, field_of
from ._search import Search, found_by_server, nearest_among

_MOST_TRIED = 2_048  # candidates, to reach a recall


class Change(NamedTuple):
    """A change as it was planned, which can be made any number of times.

    Parameters
    ----------
    after : State
        Once it is made.
    batch : Batch, optional
        Items that are put in.
    slots : ndarray of int64, optional
        Theirs.
    removed : sequence of str
        Keys of items that go.
    tuning : Tuning, optional
        If the graph is measured when it grows much.
    """

    after: State
    batch: Batch | None = None
    slots: Slots | None = None
    removed: Sequence[str] = ()
    tuning: Tuning | None = None


def made(collection: MilvusCollection, before: State, change: Change) -> State:
    """Make a planned change, and build and measure the graph when it is due.

    Parameters
    ----------
    collection : MilvusCollection
    before : State
    change : Change

    Returns
    -------
    after : State
        It knows the graph too.
    """
    after, batch = change.after, change.batch
    collection.delete(change.removed)
    if batch is None or change.slots is None:
        return after
    n_after = after.n_items
    needs_graph = after.wants_graph(n_after) and not before.has_graph
    n_held = 0 if change.tuning is None else n_held_back(before, n_after, len(batch))
    n_first = len(batch) - n_held
    first, held = batch.parted(n_first)
    collection.write(after, first, change.slots[:n_first])
    if needs_graph or not before.n_slots:
        collection.make_searchable(after, graph=needs_graph)
        after = replace(after, has_graph=needs_graph)
    if n_held and change.tuning is not None:
        after = _measured(collection, after, held.vectors, change.tuning)
    collection.write(after, held, change.slots[n_first:])
    return after


def added(state: State, batch: Batch, tuning: Tuning) -> Change:
    """Items in the slots after the last; their columns are as they were given.

    Parameters
    ----------
    state : State
    batch : Batch
    tuning : Tuning

    Returns
    -------
    change : Change

    Raises
    ------
    TypeError, ValueError
        If a value cannot be kept, or a record is too large.
    """
    kinds, encoded = encoded_columns(state, batch.columns)
    change = placed(replace(state, columns=kinds), replace(batch, columns=encoded), {})
    return change._replace(tuning=tuning)


def placed(state: State, batch: Batch, known: Mapping[str, Place]) -> Change:
    """Items in the places of those with their keys, or after the last.

    Parameters
    ----------
    state : State
        It knows the columns.
    batch : Batch
        Its columns are as dynamic fields hold them.
    known : mapping of str to Place
        By keys, of those that are there.

    Returns
    -------
    change : Change

    Raises
    ------
    ValueError
        If a key or a record is too large.
    """
    check_sizes(state, batch)
    places = [
        known.get(key, Place(-1, original))
        for key, original in zip(batch.keys, batch.originals, strict=True)
    ]
    batch = replace(batch, originals=[place.original for place in places])
    slots = np.array([place.slot for place in places], np.int64)
    is_new = slots < 0
    n_new = int(is_new.sum())
    slots[is_new] = np.arange(state.n_slots, state.n_slots + n_new)
    return Change(state.with_more(batch.keys, n_new), batch, slots)


def check_kinds(collection: MilvusCollection, state: State, columns: Mapping[str, Any]) -> None:
    """Raise a ValueError if a column of integers would be rounded as one of reals.

    Parameters
    ----------
    collection : MilvusCollection
    state : State
    columns : mapping of str to sequence
        Values as they were given.
    """
    kinds, _ = encoded_columns(state, columns)
    for position, (name, kind) in enumerate(state.kinds.items()):
        if kind == "integer" and kinds[name] == "real":
            field = field_of(name, position)
            large = f"({field} > {EXACT_INTEGERS} or {field} < -{EXACT_INTEGERS})"
            if collection.count(large):
                raise rounded_integers(name)


def with_records_that_are_there(collection: MilvusCollection, state: State, batch: Batch) -> Batch:
    """The batch with the records of the items that it replaces: Milvus replaces whole entities.

    Parameters
    ----------
    collection : MilvusCollection
    state : State
    batch : Batch

    Returns
    -------
    batch : Batch
    """
    entities = collection.of_values(KEY, batch.keys, [KEY, *record_fields(state)])
    there = {one[KEY]: values_of(state, one) for one in entities}
    nothing = (None,) * (2 + len(state.kinds))
    rows = [there.get(key, nothing) for key in batch.keys]
    return replace(batch, columns=as_kept(state, rows))


def as_they_are(collection: MilvusCollection, state: State, keys: Sequence[str]) -> Batch:
    """Items with their vectors and records.

    Parameters
    ----------
    collection : MilvusCollection
    state : State
    keys : sequence of str

    Returns
    -------
    batch : Batch
        In any order.
    """
    entities = list(collection.of_values(KEY, keys, [VECTOR, KEY, *record_fields(state)]))
    rows = [values_of(state, one) for one in entities]
    vectors = np.array([one[VECTOR] for one in entities], np.float32)
    return Batch(
        vectors.reshape(len(rows), state.n_features),
        [row[0] for row in rows],
        [row[1] for row in rows],
        as_kept(state, rows),
    )


def mended(collection: MilvusCollection, state: State, pending: str) -> State:
    """The state; items of two writers that have one slot get others, if a change is pending.

    Parameters
    ----------
    collection : MilvusCollection
    state : State
    pending : str
        As that of :class:`Held`.

    Returns
    -------
    state : State
    """
    if not pending:
        return state
    pages = collection.pages(state, [KEY])
    found = [(one[SLOT], one[KEY]) for page in pages for one in page]
    doubles = [key for (last, _), (slot, key) in pairwise(found) if slot == last]
    if not doubles:
        return state
    batch = as_they_are(collection, state, doubles)
    after = replace(state, n_slots=state.n_slots + len(batch))
    collection.write(after, batch, np.arange(state.n_slots, after.n_slots))
    return after


def _measured(
    collection: MilvusCollection, state: State, queries: Vectors, tuning: Tuning
) -> State:
    """The state with the recall of queries that are not in the graph."""
    k = tuning.n_neighbors
    distances, slots = nearest_among(collection.vector_blocks(state), queries, k, state.metric)
    exact = Found(distances, slots, [])
    search = Search(collection, state, k)

    def found(ef: int) -> Found:
        return found_by_server(search, queries, ef)

    recall = measured_recall(found, exact, tuning, _MOST_TRIED)
    return replace(state, recall=recall, n_measured=state.n_items)
