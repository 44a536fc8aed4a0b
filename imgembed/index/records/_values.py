"""Values of records, by columns: what may be one, and how SQLite holds it without pickle."""

import reprlib
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from math import isnan
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

VALUE_KINDS = (
    "str, int, float, bool, None, bytes, path, date, datetime (of whole microseconds) and UUID"
)

#: Names that begin so belong to the index.
RESERVED_PREFIX = "imgembed_"
_LONGEST_NAME = 100
_LARGEST_FLOAT = sys.float_info.max
INT64 = range(-(2**63), 2**63)


class ColumnKind(NamedTuple):
    """How the values of one kind of column are held."""

    affinity: str
    storage_class: str
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def folded(name: str) -> str:
    """Fold a name's case as SQLite does: ASCII letters only."""
    return name.encode().lower().decode()


def check_column_names(names: Iterable[Any], existing: Iterable[str] = ()) -> None:
    """Refuse names that cannot be columns, or that differ from another by case alone.

    Raises
    ------
    TypeError
        If a name is no str.
    ValueError
        If it is empty, too long, reserved, not Unicode, or clashes with another.
    """
    seen = {folded(name): name for name in existing}
    for name in names:
        _check_column_name(name)
        other = seen.setdefault(folded(name), name)
        if other != name:
            raise ValueError(f"columns {other!r} and {name!r} differ by case alone; rename one")


def _check_column_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"column names are str, got {described(name)}")
    if not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError(f"column names have 1 to {_LONGEST_NAME} characters, got {name!r:.150}")
    if "\0" in name or not is_utf8(name):
        raise ValueError(f"column names hold no NUL and no lone surrogate, got {name!r}")
    if folded(name).startswith(RESERVED_PREFIX):
        raise ValueError(f"names with {RESERVED_PREFIX!r} are reserved, got column {name!r}")


def is_utf8(text: str) -> bool:
    """Say whether a text can be written: it holds no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_columns(records: Any, n: int) -> dict[str, list[Any]]:
    """Turn records into columns.

    Parameters
    ----------
    records : DataFrame of pandas or polars, dict of columns, sequence of dicts, or None
        Keys that a dict lacks are None.
    n : int
        Items that the records are of.

    Returns
    -------
    columns : dict of str to list
        Each of length ``n``.

    Raises
    ------
    TypeError
        If the records are something else, or a column name is no str.
    ValueError
        If a column has another length than ``n``, or a name cannot be a column's.
    """
    if records is None:
        return {}
    if hasattr(records, "columns") and hasattr(records, "__getitem__"):
        names = list(records.columns)
        repeated = sorted({str(name) for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"the records have columns of one name: {repeated}; rename them")
        return _checked({name: records[name] for name in names}, n)
    if isinstance(records, Mapping):
        return _checked(records, n)
    return _checked(_transposed(records, n), n)


def as_list(values: Any, what: str) -> list[Any]:
    """Turn an array, a Series or another iterable into a list.

    Raises
    ------
    TypeError
        If it is none, or a single str.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{what}: wanted a list, an array or a Series, got {described(values)}")
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise TypeError(f"{what}: wanted one dimension, got an array of shape {values.shape}")
    # An array of times in nanoseconds would make a list of integers.
    if isinstance(values, np.ndarray) and values.dtype.kind not in "mM":
        return list(values.tolist())
    to_list = getattr(values, "to_list", None)
    return list(to_list() if to_list else values)


def _transposed(records: Any, n: int) -> dict[str, list[Any]]:
    if isinstance(records, str | bytes) or not isinstance(records, Sequence):
        raise TypeError(
            "records are a DataFrame, a dict of columns or a list of dicts, "
            f"got {described(records)}"
        )
    if len(records) != n:
        raise ValueError(f"got {len(records)} records for {n} items")
    for row, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise TypeError(f"record {row} is {described(record)}, wanted a dict")
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def _checked(columns: Mapping[Any, Any], n: int) -> dict[str, list[Any]]:
    check_column_names(columns)
    lists = {name: as_list(values, f"column {name!r}") for name, values in columns.items()}
    for name, values in lists.items():
        if len(values) != n:
            raise ValueError(f"column {name!r} has {len(values)} values for {n} items")
    return lists


def encode_column(name: str, values: Sequence[Any], known: str) -> tuple[str, list[Any]]:
    """Write the values of a column for SQLite.

    Parameters
    ----------
    name : str
    values : sequence
        Of one kind. Integers and floats together are reals; NaN, NaT and NA are None.
    known : str
        Kind of the column so far, ``"null"`` for a new one.

    Returns
    -------
    kind : str
        A key of ``COLUMN_KINDS``.
    encoded : list

    Raises
    ------
    TypeError, ValueError
        If a value is of no kind or of another than the column's, with the column and the row.
    """
    uniform = kind_of_all(values)
    if uniform is not None and known in ("null", uniform):
        return uniform, list(values)
    plain = [_plain_value(value, name, row) for row, value in enumerate(values)]
    kind = known
    for row, value in enumerate(plain):
        if value is not None and (of_value := _kind_of(value)) != kind:
            kind = _common_kind(kind, of_value, name, row, values[row])
    return kind, _written(plain, kind, name)


def kind_of_all(values: Sequence[Any]) -> str | None:
    """The kind of values that are written as they are, found out for all at once.

    Returns
    -------
    kind : {"integer", "real", "text"} or None
        None says that each must be looked at.
    """
    types = set(map(type, values))
    if types == {int} and min(values) in INT64 and max(values) in INT64:
        return "integer"
    if types == {float} and not any(map(isnan, values)):
        return "real"
    if types == {str} and all(text.isascii() or is_utf8(text) for text in values):
        return "text"
    return None


def encode_parameter(value: Any) -> Any:
    """Write a parameter of a condition as columns of its kind are written.

    Raises
    ------
    TypeError, ValueError
        If it is of no kind that columns have, or NaN.
    """
    plain = _plain_value(value, "parameters", None)
    if plain is None:
        if value is None:
            return None
        raise ValueError(f"{value!r} as a parameter; write IS NULL for missing values")
    return COLUMN_KINDS[_kind_of(plain)].write(plain)


def _plain_value(value: Any, name: str, row: int | None) -> Any:
    plain = plain_scalar(value)
    if plain is UNKNOWN:
        where = name if row is None else f"column {name!r}, row {row}"
        raise TypeError(f"{where}: {described(value)} cannot be kept; values are {VALUE_KINDS}")
    return None if plain is MISSING or plain != plain else plain


def _common_kind(kind: str, other: str, name: str, row: int, value: Any) -> str:
    if kind == "null":
        return other
    if {kind, other} == {"integer", "real"}:
        return "real"
    raise ValueError(
        f"column {name!r} holds {kind} values, got {other} in row {row}: {shown(value)}; "
        "a column has one kind"
    )


def _written(plain: list[Any], kind: str, name: str) -> list[Any]:
    write, encoded = COLUMN_KINDS[kind].write, []
    for row, value in enumerate(plain):
        try:
            encoded.append(None if value is None else write(value))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"column {name!r}, row {row}: {error}") from error
    return encoded


def _kind_of(value: Any) -> str:
    if isinstance(value, PurePath):
        return "path"
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return "datetime_utc"
    return _KIND_OF_TYPE[type(value)]


def _int64(value: int) -> int:
    if value not in INT64:
        raise ValueError(f"{shown(value)} does not fit into 64 bits; keep it as text")
    return value


def _exact_real(value: int | float) -> float:
    if isinstance(value, int) and (abs(value) > _LARGEST_FLOAT or float(value) != value):
        raise ValueError(
            f"{shown(value)} among reals would be rounded; keep the column integer or text"
        )
    return float(value)


def _utf8_text(value: object) -> str:
    text = str(value)
    if not is_utf8(text):
        raise ValueError(f"{text!r:.80} holds a lone surrogate, which is no text; keep it as bytes")
    return text


def _datetime_text(value: datetime) -> str:
    # With a space, as SQLite's own datetime() writes it, so that the two compare.
    return (value if value.utcoffset() is None else to_utc(value)).isoformat(" ")


_KIND_OF_TYPE: Mapping[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "real",
    str: "text",
    bytes: "blob",
    date: "date",
    datetime: "datetime",
    uuid.UUID: "uuid",
}

#: Kinds of columns. Datetimes with a zone are kept in UTC, lest they not sort.
COLUMN_KINDS: Mapping[str, ColumnKind] = {
    "null": ColumnKind("BLOB", "null", str, str),
    "boolean": ColumnKind("INTEGER", "integer", int, bool),
    "integer": ColumnKind("INTEGER", "integer", _int64, int),
    "real": ColumnKind("REAL", "real", _exact_real, float),
    "text": ColumnKind("TEXT", "text", _utf8_text, str),
    "blob": ColumnKind("BLOB", "blob", bytes, bytes),
    "path": ColumnKind("TEXT", "text", _utf8_text, Path),
    "date": ColumnKind("TEXT", "text", date.isoformat, date.fromisoformat),
    "datetime": ColumnKind("TEXT", "text", _datetime_text, datetime.fromisoformat),
    "datetime_utc": ColumnKind("TEXT", "text", _datetime_text, datetime.fromisoformat),
    "uuid": ColumnKind("TEXT", "text", str, uuid.UUID),
}

UNKNOWN, MISSING = object(), object()
_PLAIN_TYPES = frozenset({type(None), *_KIND_OF_TYPE})
# Not str() and int(), which members of enumerations have changed.
_EXACT: Mapping[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: bytes.__bytes__,
}


def plain_scalar(value: Any) -> Any:
    """Python's own scalar for the value; MISSING for NA and NaT, UNKNOWN for other kinds."""
    if type(value) in _PLAIN_TYPES or isinstance(value, PurePath):
        return value
    if isinstance(value, np.datetime64):
        return _datetime_of_numpy(value)
    if isinstance(value, np.timedelta64):
        return UNKNOWN
    if isinstance(value, np.generic):
        value = float(value) if isinstance(value, np.floating) else value.item()
    if type(value).__name__ in ("NAType", "NaTType"):
        return MISSING
    if isinstance(value, bool):
        return value
    for kind, exact in _EXACT.items():
        if isinstance(value, kind):
            return exact(value)
    return _plain_datetime(value) if isinstance(value, datetime) else UNKNOWN


def _datetime_of_numpy(value: np.datetime64) -> Any:
    if np.isnat(value):
        return MISSING
    plain: Any = value.item()
    if isinstance(plain, int):  # finer than microseconds, or out of the range of dates
        microseconds = value.astype("datetime64[us]")
        plain = microseconds.item() if microseconds == value else UNKNOWN
    return plain if isinstance(plain, date) else UNKNOWN


def _plain_datetime(value: datetime) -> Any:
    # pandas' Timestamp counts nanoseconds.
    if getattr(value, "nanosecond", 0):
        return UNKNOWN
    return datetime.combine(value.date(), value.timetz())


def to_utc(value: datetime) -> datetime:
    """Move a datetime to UTC.

    Raises
    ------
    ValueError
        If it is then before the year 1 or after 9999.
    """
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{value!r} is out of the range of dates in UTC") from error


def described(value: Any) -> str:
    """Show a value, in short, and its type."""
    return f"{shown(value)} ({type(value).__name__})"


def shown(value: Any) -> str:
    """Show a value in short."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a very long {type(value).__name__}"
