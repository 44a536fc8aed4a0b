"""Records as columns of a server's table, and back; items on their way into one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..index.records._values import COLUMN_KINDS, check_column_names, encode_column

#: Kinds of columns that are kept as text, as SQLite keeps them, so that they compare alike.
KEPT_AS: Mapping[str, str] = {
    kind: kind if kind in ("boolean", "integer", "real", "blob") else "text"
    for kind in COLUMN_KINDS
}
#: Integers beyond are rounded as reals.
EXACT_INTEGERS = 2**53


@dataclass(frozen=True)
class Batch:
    """Items that go into a table.

    Parameters
    ----------
    vectors : ndarray of shape (n_items, n_features), dtype float32
    keys : list of str
    originals : list of bytes or None
    columns : mapping of str to list
        Values as servers take them.
    """

    vectors: NDArray[np.float32]
    keys: list[str]
    originals: list[bytes | None]
    columns: Mapping[str, list[Any]]

    def __len__(self) -> int:
        return len(self.keys)

    def parted(self, place: int) -> "tuple[Batch, Batch]":
        """The items before a place, and the others."""
        return self.part(slice(0, place)), self.part(slice(place, None))

    def part(self, chosen: slice) -> "Batch":
        """Some of the items."""
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return Batch(self.vectors[chosen], self.keys[chosen], self.originals[chosen], columns)


def fitted_columns(
    kinds: Mapping[str, str],
    columns: Mapping[str, Sequence[Any]],
    check_name: Callable[[str], None],
) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Values of columns as servers take them, and the kinds that the columns have then.

    Parameters
    ----------
    kinds : mapping of str to str
        Of the columns so far.
    columns : mapping of str to sequence
    check_name : callable
        Of a new name; it raises a ValueError if the server has no column of that name.

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
        check_name(name)
        fitted[name], written = encode_column(name, values, fitted.get(name, "null"))
        encoded[name] = list(_written(name, fitted[name], written))
    return fitted, encoded


def rounded_integers(name: str) -> ValueError:
    """The error that a column of integers would be rounded as one of reals.

    Parameters
    ----------
    name : str

    Returns
    -------
    error : ValueError
    """
    return ValueError(
        f"column {name!r} has integers beyond 2**53, which reals would round; keep it integer or "
        "text"
    )


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


def rows_by_columns(
    records: Any, columns: Mapping[str, Any], n: int
) -> list[tuple[tuple[str, ...], list[int]]]:
    """Rows by the columns that their records have: dicts may differ.

    Parameters
    ----------
    records : object
        As they were given.
    columns : mapping of str to sequence
        All that they hold.
    n : int

    Returns
    -------
    groups : list of (tuple of str, list of int)
        Names of columns, and rows.
    """
    if not isinstance(records, Sequence):
        return [(tuple(columns), list(range(n)))]
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, record in enumerate(records):
        groups.setdefault(tuple(record), []).append(row)
    return list(groups.items())


def _written(name: str, kind: str, values: Sequence[Any]) -> Iterator[Any]:
    for row, value in enumerate(values):
        if isinstance(value, str) and "\0" in value:
            raise ValueError(
                f"column {name!r}, row {row}: {value!r:.80} holds a NUL, which servers do "
                "not keep in text; keep it as bytes"
            )
        yield bool(value) if kind == "boolean" and value is not None else value
