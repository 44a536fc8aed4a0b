"""Rows in ClickHouse's binary formats: written with their types, read as arrays."""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._columns import KEPT_AS, Batch
from .._rows import Slots
from .._state import State
from .._store import Vectors
from ._sql import SQL_TYPES

#: Columns that every table has before those of the records, and their types.
OWN_TYPES: Mapping[str, str] = {
    "imgembed_slot": "Int64",
    "imgembed_key": "String",
    "imgembed_original": "Nullable(String)",
    "imgembed_change": "UInt64",
}
VECTOR = "imgembed_vector"

# A statement with rows is held in memory by both sides.
_BLOCK_BYTES = 2**26


def vector_type(state: State) -> str:
    """The type of the column of vectors."""
    return "Array(BFloat16)" if state.storage == "bfloat16" else "Array(Float32)"


def blocks(state: State, batch: Batch, slots: Slots, change: int) -> Iterator[bytes]:
    """Items as RowBinaryWithNamesAndTypes, in blocks of a size that a statement can have.

    Parameters
    ----------
    state : State
        It knows the columns.
    batch : Batch
    slots : ndarray of shape (n_items,), dtype int64
    change : int
        Of which the rows are.

    Yields
    ------
    block : bytes
    """
    n_rows = max(1, _BLOCK_BYTES // (4 * state.n_features + 200))
    for start in range(0, len(batch), n_rows):
        part = slice(start, start + n_rows)
        yield _block(state, batch.part(part), slots[part], change)


def read_vectors(packed: bytes, n_features: int) -> tuple[Slots, Vectors]:
    """Slots and vectors of rows in RowBinary.

    Parameters
    ----------
    packed : bytes
        Of an Int64 and an Array(Float32) a row.
    n_features : int

    Returns
    -------
    slots : ndarray of shape (n_rows,), dtype int64
    vectors : ndarray of shape (n_rows, n_features), dtype float32
    """
    row = np.dtype(
        [
            ("slot", "<i8"),
            ("length", f"V{len(_number(n_features))}"),
            ("vector", "<f4", (n_features,)),
        ]
    )
    rows = np.frombuffer(packed, row)
    return rows["slot"].astype(np.int64), np.ascontiguousarray(rows["vector"], np.float32)


def read_slots(packed: bytes) -> Slots:
    """Slots of rows in RowBinary.

    Parameters
    ----------
    packed : bytes
        Of an Int64 a row.

    Returns
    -------
    slots : ndarray of shape (n_rows,), dtype int64
    """
    return np.frombuffer(packed, "<i8").astype(np.int64)


def _block(state: State, batch: Batch, slots: Slots, change: int) -> bytes:
    kinds = {name: state.kinds[name] for name in batch.columns}
    kept = {name: KEPT_AS[kind] for name, kind in kinds.items() if kind != "null"}
    types = {**OWN_TYPES, VECTOR: vector_type(state)}
    types |= {name: SQL_TYPES[kind] for name, kind in kept.items()}
    columns: list[Iterable[bytes]] = [
        map(struct.Struct("<q").pack, slots.tolist()),
        map(_text, batch.keys),
        _nullable(_bytes, batch.originals),
        [struct.pack("<Q", change)] * len(batch),
        _vectors(state, batch.vectors),
    ]
    columns += [_nullable(_WRITERS[kind], batch.columns[name]) for name, kind in kept.items()]
    rows = chain.from_iterable(zip(*columns, strict=True))
    return b"".join([_header(types), *rows])


def _header(types: Mapping[str, str]) -> bytes:
    """Names and types, so that rows never go into columns of other types."""
    return _number(len(types)) + b"".join(map(_text, [*types, *types.values()]))


def _vectors(state: State, vectors: Vectors) -> Iterator[bytes]:
    length = _number(state.n_features)
    written: NDArray[Any] = vectors
    if state.storage == "bfloat16":
        written = _as_bfloat16(vectors)
    return (length + vector.tobytes() for vector in written)


def _as_bfloat16(vectors: Vectors) -> NDArray[np.uint16]:
    """The upper halves of floats, rounded to even."""
    bits = vectors.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2")


def _nullable(write: Callable[[Any], bytes], values: Sequence[Any]) -> Iterator[bytes]:
    return (b"\1" if value is None else b"\0" + write(value) for value in values)


def _number(value: int) -> bytes:
    """A length, seven bits a byte."""
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _text(value: str) -> bytes:
    return _bytes(value.encode())


def _bytes(value: bytes) -> bytes:
    return _number(len(value)) + value


_WRITERS: Mapping[str, Callable[[Any], bytes]] = {
    "boolean": lambda value: b"\1" if value else b"\0",
    "integer": struct.Struct("<q").pack,
    "real": struct.Struct("<d").pack,
    "text": _text,
    "blob": _bytes,
}
