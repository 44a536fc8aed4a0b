"""A collection of Milvus with the items of an index: an entity each, found by its key."""

import base64
import json
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient

from .._columns import KEPT_AS, Batch, fitted_columns
from .._errors import ServerTableError
from .._rows import Slots
from .._state import State
from .._store import Vectors
from ._conditions import KEY, ORIGINAL, SLOT, VECTOR, field_of, one_of
from ._session import when_loaded

Entity = dict[str, Any]


class Place(NamedTuple):
    """The slot of an item, and its id as far as its key does not tell it."""

    slot: int
    original: bytes | None


# A message of gRPC holds 64 MB; an entity 64 KB of dynamic fields.
_MESSAGE_BYTES = 8_000_000
_MOST_ENTITIES = 1_000
_MOST_LISTED = 10_000
_N_AT_ONCE = 8
_LONGEST_TEXT = 65_535
_LARGEST_RECORD = 65_000


class MilvusCollection:
    """Items of an index in a collection.

    Parameters
    ----------
    client : MilvusClient
    name : str
    timeout : float
        Seconds that a call may take.
    merges : bool
        Whether an entity that is written over another one keeps the dynamic fields that it does
        not have itself: milvus-lite does so, and takes null for a field that is not there.
    """

    def __init__(self, client: MilvusClient, name: str, timeout: float, *, merges: bool) -> None:
        self.client = client
        self.name = name
        self.timeout = timeout
        self.merges = merges

    def create(self, n_features: int) -> None:
        """Make the collection, which is not searched yet."""
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field(KEY, DataType.VARCHAR, is_primary=True, max_length=_LONGEST_TEXT)
        schema.add_field(SLOT, DataType.INT64)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=n_features)
        self.client.create_collection(
            self.name, schema=schema, consistency_level="Strong", timeout=self.timeout
        )

    def make_searchable(self, state: State, *, graph: bool) -> None:
        """Seal what is there, and have it searched through a graph, or by comparing with all."""
        if self.client.list_indexes(self.name):
            self.client.release_collection(self.name, timeout=self.timeout)
            self.client.drop_index(self.name, VECTOR, timeout=self.timeout)
        self.client.flush(self.name)
        index = self.client.prepare_index_params()
        index.add_index(
            VECTOR,
            index_type="HNSW" if graph else "FLAT",
            metric_type=metric_type(state),
            params={"M": state.M, "efConstruction": state.ef_construction} if graph else {},
        )
        self.client.create_index(self.name, index)  # without a limit: graphs take their time
        self.client.load_collection(self.name)

    def drop(self) -> None:
        """Remove the collection."""
        self.client.drop_collection(self.name, timeout=self.timeout)

    def write(self, state: State, batch: Batch, slots: Slots) -> None:
        """Put items in, in place of those with the same keys.

        Parameters
        ----------
        state : State
            It knows the columns.
        batch : Batch
        slots : ndarray of shape (n_items,), dtype int64
        """
        width = batch.vectors.shape[1]
        step = max(1, min(_MOST_ENTITIES, _MESSAGE_BYTES // (4 * width)))
        for start in range(0, len(batch), step):
            some = slice(start, start + step)
            entities = list(_entities(state, batch.part(some), slots[some]))
            if self.merges:
                nothing = dict.fromkeys(record_fields(state))
                entities = [nothing | entity for entity in entities]
            self.client.upsert(self.name, entities, timeout=self.timeout)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the items with these keys, if they are there."""
        for start in range(0, len(keys), _MOST_LISTED):
            condition = one_of(KEY, keys[start : start + _MOST_LISTED])
            self.client.delete(self.name, filter=str(condition.text), timeout=self.timeout)

    def count(self, text: str = "") -> int:
        """How many items there are that a filter keeps."""
        found = self._queried(text, ["count(*)"])
        return int(found[0]["count(*)"])

    def of_values(
        self, field: str, values: Sequence[Any], fields: Sequence[str]
    ) -> Iterator[Entity]:
        """The entities of which a field has one of these values, in any order."""
        step = _MOST_LISTED if VECTOR not in fields else _MOST_ENTITIES
        for start in range(0, len(values), step):
            condition = one_of(field, values[start : start + step])
            yield from self._queried(str(condition.text), fields)

    def pages(self, state: State, fields: Sequence[str], text: str = "") -> Generator[list[Entity]]:
        """All entities that a filter keeps, in order of their slots, some at a time."""
        step = _MOST_LISTED if set(fields) <= {KEY, ORIGINAL} else _MOST_ENTITIES
        if VECTOR in fields:
            step = max(1, min(step, _MESSAGE_BYTES // (4 * state.n_features)))
        kept = f" and ({text})" if text else ""

        def page(start: int) -> list[Entity]:
            span = f"{SLOT} >= {start} and {SLOT} < {start + step}"
            return sorted(self._queried(span + kept, [SLOT, *fields]), key=lambda one: one[SLOT])

        # Each read waits until the server knows all that was written before, some at once.
        with ThreadPoolExecutor(_N_AT_ONCE) as pool:
            for start in range(0, state.n_slots, step * _N_AT_ONCE):
                end = min(start + step * _N_AT_ONCE, state.n_slots)
                yield from pool.map(page, range(start, end, step))

    def living_slots(self, state: State) -> Slots:
        """The slots of all items, ascending.

        Raises
        ------
        ServerTableError
            If two items have one slot.
        """
        pages = [[one[SLOT] for one in page] for page in self.pages(state, [])]
        slots = np.array([slot for page in pages for slot in page], np.int64)
        if (np.diff(slots) == 0).any():
            raise ServerTableError(
                f"two programs have written to the collection {self.name!r} at once, and items "
                "have one row: upsert the latest items again, which puts them in order"
            )
        return slots

    def vector_blocks(self, state: State, text: str = "") -> Iterator[tuple[Slots, Vectors]]:
        """Slots and vectors of all items that a filter keeps, in order, some at a time."""
        for page in self.pages(state, [VECTOR], text):
            if page:
                slots = np.array([one[SLOT] for one in page], np.int64)
                yield slots, np.array([one[VECTOR] for one in page], np.float32)

    def vectors_of(self, state: State, slots: NDArray[np.int64]) -> Vectors:
        """The vectors of slots, which may come twice."""
        chosen, places = np.unique(slots, return_inverse=True)
        vectors = np.empty((len(chosen), state.n_features), np.float32)
        for one in self.of_values(SLOT, chosen.tolist(), [SLOT, VECTOR]):
            vectors[np.searchsorted(chosen, one[SLOT])] = one[VECTOR]
        return vectors[places]

    def places_of_keys(self, keys: Sequence[str]) -> dict[str, Place]:
        """The slots and originals of those keys that are there."""
        entities = self.of_values(KEY, keys, [KEY, SLOT, ORIGINAL])
        return {one[KEY]: Place(one[SLOT], _original(one)) for one in entities}

    def _queried(self, text: str, fields: Sequence[str]) -> list[Entity]:
        def query() -> list[Entity]:
            found: list[Entity] = self.client.query(
                self.name,
                filter=text,
                output_fields=list(fields),
                consistency_level="Strong",
                timeout=self.timeout,
            )
            return found

        return when_loaded(self.client, self.name, self.timeout, query)


def metric_type(state: State) -> str:
    """What Milvus compares vectors by: those for the cosine are of unit length."""
    return "L2" if state.metric == "euclidean" else "IP"


def encoded_columns(
    state: State, columns: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Values of columns as dynamic fields hold them, and the kinds that the columns have then.

    Parameters
    ----------
    state : State
    columns : mapping of str to sequence
        Values as they were given.

    Returns
    -------
    kinds : dict of str to str
    encoded : dict of str to list

    Raises
    ------
    TypeError, ValueError
        If a name or a value cannot be kept.
    """
    kinds, encoded = fitted_columns(state.kinds, columns, lambda name: None)
    for name, values in encoded.items():
        for row, value in enumerate(values):
            if isinstance(value, bytes):
                values[row] = value.hex()
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"column {name!r}, row {row}: Milvus keeps no {value}; leave it out, or keep "
                    "it as text"
                )
    return kinds, encoded


def values_of(state: State, entity: Mapping[str, Any]) -> tuple[Any, ...]:
    """Key, original and values of the columns of an entity.

    Parameters
    ----------
    state : State
    entity : mapping of str to object

    Returns
    -------
    values : tuple
    """
    values = [entity.get(KEY), _original(entity)]
    for position, (name, kind) in enumerate(state.kinds.items()):
        value = entity.get(field_of(name, position))
        values.append(bytes.fromhex(value) if kind == "blob" and value is not None else value)
    return tuple(values)


def record_fields(state: State) -> list[str]:
    """The dynamic fields of an entity.

    Parameters
    ----------
    state : State

    Returns
    -------
    fields : list of str
    """
    return [ORIGINAL, *(field_of(name, position) for position, name in enumerate(state.kinds))]


def as_kept(state: State, values: Sequence[Any]) -> dict[str, list[Any]]:
    """Columns of rows that :func:`values_of` has read, as dynamic fields hold them.

    Parameters
    ----------
    state : State
    values : sequence of tuple

    Returns
    -------
    columns : dict of str to list
    """
    columns = {name: [row[2 + i] for row in values] for i, name in enumerate(state.kinds)}
    return {
        name: [one.hex() if isinstance(one, bytes) else one for one in column]
        for name, column in columns.items()
    }


def _original(entity: Mapping[str, Any]) -> bytes | None:
    original = entity.get(ORIGINAL)
    return None if original is None else base64.b64decode(original)


def _entities(state: State, batch: Batch, slots: Slots) -> Iterator[Entity]:
    fields = {name: field_of(name, position) for position, name in enumerate(state.kinds)}
    reals = {name for name, kind in state.kinds.items() if KEPT_AS.get(kind) == "real"}
    for row, (key, original) in enumerate(zip(batch.keys, batch.originals, strict=True)):
        record: Entity = {}
        for name, values in batch.columns.items():
            value = values[row]
            if value is not None:
                record[fields[name]] = float(value) if name in reals else value
        if original is not None:
            record[ORIGINAL] = base64.b64encode(original).decode()
        _check_size(key, record)
        yield {KEY: key, SLOT: int(slots[row]), VECTOR: batch.vectors[row], **record}


def check_sizes(state: State, batch: Batch) -> None:
    """Raise a ValueError if a key or a record is larger than Milvus keeps.

    Parameters
    ----------
    state : State
    batch : Batch
    """
    for _ in _entities(state, batch, np.zeros(len(batch), np.int64)):
        pass


def _check_size(key: str, record: Entity) -> None:
    if len(key.encode()) > _LONGEST_TEXT:
        raise ValueError(f"the id {key[1:40]!r}... has more than {_LONGEST_TEXT - 1} bytes")
    if len(json.dumps(record, ensure_ascii=False).encode()) > _LARGEST_RECORD:
        raise ValueError(
            f"the record of {key[1:40]!r} has more than {_LARGEST_RECORD} bytes, which is the "
            "most in Milvus; keep long values elsewhere"
        )
