"""Ids and records as rows of a table of PostgreSQL, and back."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..index._record_ids import Key, decode_id, encode_ids
from ..index._record_values import COLUMN_KINDS, check_column_names, encode_column

# PostgreSQL cuts longer names off without an error, and has columns of its own.
_LONGEST_NAME_BYTES = 63
_OWN_COLUMNS = frozenset("tableoid xmin cmin xmax cmax ctid".split())

#: Kinds of columns that are kept as text, as SQLite keeps them, so that they compare alike.
SQL_KIND: Mapping[str, str] = {
    kind: kind if kind in ("boolean", "integer", "real", "blob") else "text"
    for kind in COLUMN_KINDS
}

Encoded = tuple[list[str], list[bytes | None]]


def keys_of(ids: Iterable[Any], n: int) -> Encoded:
    """Ids as texts, which are equal where the ids are, and what the texts do not tell.

    Parameters
    ----------
    ids : iterable of n hashables
    n : int

    Returns
    -------
    keys : list of str
        They begin with "t" for text, "n" for a number, "b" for all else.
    originals : list of bytes or None

    Raises
    ------
    DuplicateIdError
        If one is given more than once.
    TypeError, ValueError
        If one cannot be an id, or they are not ``n``.
    """
    encoded = encode_ids(ids, n)
    pairs = zip(encoded.keys, encoded.originals, strict=True)
    texts = [_key_text(key, original) for key, original in pairs]
    return [text for text, _ in texts], [original for _, original in texts]


def id_of(key: str, original: bytes | None) -> Any:
    """The id that a key was made of.

    Parameters
    ----------
    key : str
    original : bytes or None

    Returns
    -------
    id : hashable
    """
    content = key[1:]
    read: Key
    if key[0] == "b":
        read = bytes.fromhex(content)
    elif key[0] == "n":
        read = int(content) if content.lstrip("-").isdigit() else float(content)
    else:
        read = content
    return decode_id(read, original)


def _key_text(key: Key, original: bytes | None) -> tuple[str, bytes | None]:
    if isinstance(key, bytes):
        return f"b{key.hex()}", original
    if isinstance(key, str):
        if "\0" in key:
            raise ValueError(f"the id {key!r:.80} holds a NUL, which PostgreSQL cannot keep")
        return f"t{key}", original
    if isinstance(key, float) and key.is_integer():
        return f"n{int(key)}", json.dumps(["float", key.hex()]).encode()
    return f"n{key!r}", original


def fitted_columns(
    kinds: Mapping[str, str], columns: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Values of columns as PostgreSQL takes them, and the kinds that the columns have then.

    Parameters
    ----------
    kinds : mapping of str to str
        Of the columns so far.
    columns : mapping of str to sequence

    Returns
    -------
    kinds : dict of str to str
    encoded : dict of str to list

    Raises
    ------
    TypeError, ValueError
        If a name or a value cannot be kept.
    """
    check_column_names(columns, kinds)
    fitted, encoded = dict(kinds), {}
    for name, values in columns.items():
        _check_name(name)
        fitted[name], written = encode_column(name, values, fitted.get(name, "null"))
        encoded[name] = list(_as_sql(name, fitted[name], written))
    return fitted, encoded


def record_of(kinds: Mapping[str, str], values: Sequence[Any]) -> dict[str, Any]:
    """A record from the columns of a row.

    Parameters
    ----------
    kinds : mapping of str to str
    values : sequence
        One a column.

    Returns
    -------
    record : dict
    """
    return {
        name: None if value is None else COLUMN_KINDS[kind].read(value)
        for (name, kind), value in zip(kinds.items(), values, strict=True)
    }


def _check_name(name: str) -> None:
    if len(name.encode()) > _LONGEST_NAME_BYTES:
        raise ValueError(
            f"the column name {name!r} has more than {_LONGEST_NAME_BYTES} bytes, which is the "
            "most in PostgreSQL; rename it"
        )
    if name in _OWN_COLUMNS:
        raise ValueError(f"every table of PostgreSQL has its own column {name!r}; rename yours")


def _as_sql(name: str, kind: str, values: Sequence[Any]) -> Iterator[Any]:
    for row, value in enumerate(values):
        if isinstance(value, str) and "\0" in value:
            raise ValueError(
                f"column {name!r}, row {row}: {value!r:.80} holds a NUL, which PostgreSQL cannot "
                "keep; keep it as bytes"
            )
        yield bool(value) if kind == "boolean" and value is not None else value
