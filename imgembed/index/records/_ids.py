"""Ids of items: any hashable that can be written without pickle, and its key in SQLite."""

import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from ._values import (
    INT64,
    MISSING,
    UNKNOWN,
    as_list,
    described,
    is_utf8,
    kind_of_all,
    plain_scalar,
    shown,
    to_utc,
)

#: What SQLite holds for an id. Equal keys are equal ids, in SQLite as in Python.
Key = int | float | str | bytes

ID_KINDS = (
    "str, int, float (not NaN), bool, None, bytes, path, date, datetime (of whole microseconds), "
    "UUID, and tuples of these"
)

#: Larger integers as ids do not move the numbering, which SQLite ends at 2**63.
LAST_COUNTED_ID = 2**62

_DEEPEST_TUPLE = 20
_N_NAMED = 5


class DuplicateIdError(ValueError):
    """An id that is given twice, or is there already."""


class EncodedIds(NamedTuple):
    """Ids as SQLite holds them, in order."""

    keys: list[Key]
    originals: list[bytes | None]

    def decoded(self, keys: Iterable[Key]) -> list[Any]:
        """Return those ids that have one of the keys, as they were given."""
        wanted = set(keys)
        pairs = dict(zip(self.keys, self.originals, strict=True))
        return [decode_id(key, original) for key, original in pairs.items() if key in wanted]

    def at(self, rows: Iterable[int]) -> "EncodedIds":
        """Return the ids of some rows."""
        chosen = list(rows)
        return EncodedIds([self.keys[i] for i in chosen], [self.originals[i] for i in chosen])

    def next_integer(self) -> int:
        """Return the integer after the largest among the ids."""
        return number_after(key for key in self.keys if isinstance(key, int | float))


def encode_ids(ids: Iterable[Any], n: int) -> EncodedIds:
    """Write ids for SQLite.

    Raises
    ------
    DuplicateIdError
        If one is given more than once.
    TypeError, ValueError
        If one cannot be an id, or they are not ``n``.
    """
    listed = as_list(ids, "ids")
    if len(listed) != n:
        raise ValueError(f"got {len(listed)} ids for {n} items")
    if kind_of_all(listed) in ("integer", "text"):  # they are their own keys
        encoded = EncodedIds(listed, [None] * n)
    else:
        pairs = zip(*map(encode_id, listed), strict=True) if n else ([], [])
        encoded = EncodedIds(*map(list, pairs))
    if len(set(encoded.keys)) < n:
        repeated = [key for key, count in Counter(encoded.keys).items() if count > 1]
        raise DuplicateIdError(f"given more than once: {named_ids(encoded.decoded(repeated))}")
    return encoded


def number_after(numbers: Iterable[float]) -> int:
    """Return the integer after the largest of those that count, 0 if none does."""
    return int(max([one for one in numbers if -1 < one < LAST_COUNTED_ID], default=-1)) + 1


def named_ids(ids: Sequence[Any]) -> str:
    """Name the first few of the ids."""
    names = ", ".join(map(shown, ids[:_N_NAMED]))
    if len(ids) == 1:
        return f"id {names}"
    return f"ids {names}" + (f", ... ({len(ids)} in all)" if len(ids) > _N_NAMED else "")


def encode_id(value: Any) -> tuple[Key, bytes | None]:
    """Write an id for SQLite.

    Ids that are equal in Python (1, 1.0, True) get equal keys.

    Parameters
    ----------
    value : str, int, float, bool, None, bytes, path, date, datetime, UUID or tuple of these
        NumPy's and pandas' scalars become Python's.

    Returns
    -------
    key : int, float, str or bytes
    original : bytes or None
        The id as it was given, if the key alone does not tell.

    Raises
    ------
    TypeError
        If the id is of another kind.
    ValueError
        If tuples are nested too deeply, or a datetime has no place in UTC.
    """
    if type(value) is not int and type(value) is not str:
        value = _plain_id(value, 0)
    if type(value) is bool:
        return int(value), _packed(value)
    if _is_its_own_key(value):
        return value, None
    key, original = _packed(_representative(value)), _packed(value)
    return key, None if original == key else original


def decode_id(key: Key, original: bytes | None) -> Any:
    """Read an id that ``encode_id`` has written.

    Raises
    ------
    ValueError
        If the bytes are no id.
    """
    if original is None and not isinstance(key, bytes):
        return key
    packed: Any = key if original is None else original
    try:
        return _from_json(json.loads(str(packed, "utf-8", "surrogatepass")), 0)
    except (TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"{packed!r:.80} is not an id") from error


def _plain_id(value: Any, depth: int) -> Any:
    if isinstance(value, tuple):
        if depth == _DEEPEST_TUPLE:
            raise ValueError(f"an id is a tuple nested more than {_DEEPEST_TUPLE} deep")
        return tuple(_plain_id(part, depth + 1) for part in value)
    plain = plain_scalar(value)
    if plain is UNKNOWN or plain is MISSING or plain != plain:
        raise TypeError(f"{described(value)} cannot be an id; ids are {ID_KINDS}")
    return plain


def _is_its_own_key(value: Any) -> bool:
    """Whether SQLite compares the value as Python does, and gives it back as it was."""
    if type(value) is int:
        return value in INT64
    if type(value) is float:
        return not value.is_integer() or INT64.start <= value < INT64.stop
    return type(value) is str and is_utf8(value)


def _representative(value: Any) -> Any:
    """One value for all that Python holds equal."""
    if isinstance(value, tuple):
        return tuple(map(_representative, value))
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return to_utc(value)
    if isinstance(value, PureWindowsPath):
        return PureWindowsPath(str(value).lower())
    return PurePosixPath(value) if isinstance(value, PurePosixPath) else value


def _packed(value: Any) -> bytes:
    # Without escapes, since two escaped surrogates would come back as one character.
    text = json.dumps(_to_json(value), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def _to_json(value: Any) -> list[Any]:
    if isinstance(value, tuple):
        return ["tuple", [_to_json(part) for part in value]]
    name = _path_kind(value) if isinstance(value, PurePath) else type(value).__name__
    return [name, _ID_FORMS[name][0](value)]


def _from_json(form: Any, depth: int) -> Any:
    name, content = form
    if name == "tuple" and depth < _DEEPEST_TUPLE:
        return tuple(_from_json(part, depth + 1) for part in content)
    return _ID_FORMS[name][1](content)


def _path_kind(path: PurePath) -> str:
    pure = "" if isinstance(path, Path) else "Pure"
    return f"{pure}{'Windows' if isinstance(path, PureWindowsPath) else 'Posix'}Path"


# A path of the other system cannot be made here, only its pure form.
_ID_FORMS: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "NoneType": (lambda _: "", lambda _: None),
    "bool": (int, bool),
    "int": (hex, lambda text: int(text, 16)),
    "float": (float.hex, float.fromhex),
    "str": (str, str),
    "bytes": (bytes.hex, bytes.fromhex),
    "date": (date.isoformat, date.fromisoformat),
    "datetime": (datetime.isoformat, datetime.fromisoformat),
    "UUID": (str, uuid.UUID),
    "PosixPath": (str, PurePosixPath if os.name == "nt" else Path),
    "WindowsPath": (str, Path if os.name == "nt" else PureWindowsPath),
    "PurePosixPath": (str, PurePosixPath),
    "PureWindowsPath": (str, PureWindowsPath),
}
