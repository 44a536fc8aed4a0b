"""What an index asks of the store that holds it on a server."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..index import RecallEstimate, WhereError
from ._state import State

Vectors = NDArray[np.float32]
Parameters = Sequence[Any] | Mapping[str, Any] | None
#: Key, original and values of the columns of an item.
Item = tuple[Any, ...]


@dataclass(frozen=True)
class Tuning:
    """What recall a graph should have.

    Parameters
    ----------
    n_neighbors : int
    target_recall : float
    ef_search : int or None
    """

    n_neighbors: int
    target_recall: float
    ef_search: int | None


@dataclass(frozen=True)
class Chosen:
    """What may be found: a condition with its parameters, a mask, ids, or None."""

    where: Any
    params: Parameters


class Found(NamedTuple):
    """What a search found, query by query.

    Parameters
    ----------
    distances : ndarray of shape (n_queries, n_neighbors), dtype float64
        Ascending; inf where fewer were found.
    slots : ndarray of shape (n_queries, n_neighbors), dtype int64
        -1 where fewer were found.
    others : list of list of Item
        The neighbours that were found, if they were asked for.
    """

    distances: NDArray[np.float64]
    slots: NDArray[np.int64]
    others: list[list[Item]]


class Store(Protocol):
    """Vectors, ids and records on a server, and the state of the index.

    A change is made whole, and once, or not at all.
    """

    def fill(self, state: State, vectors: Vectors, ids: Any, records: Any, tuning: Tuning) -> None:
        """Put items in place of all that is there."""

    def add(self, vectors: Vectors, ids: Any, records: Any, tuning: Tuning) -> None:
        """Add items at the end."""

    def upsert(self, vectors: Vectors, ids: Any, records: Any) -> None:
        """Replace the items whose ids are there, and add the others."""

    def remove(self, ids: Any) -> None:
        """Remove items."""

    def update(self, ids: Any, records: Any) -> None:
        """Change columns of the records of items; with dicts, the given keys of each."""

    def state(self) -> State:
        """The state of the index."""

    def nearest(
        self, queries: Vectors | None, k: int, chosen: Chosen, *, exact: bool, with_records: bool
    ) -> tuple[State, Found, NDArray[np.int64]]:
        """The nearest items of queries, and their rows; of all items one more, for themselves."""

    def ids(self) -> list[Hashable]:
        """All ids, row by row."""

    def contains(self, key: str) -> bool:
        """Whether an item has this key."""

    def vectors(self, rows: NDArray[np.int64] | None) -> Vectors:
        """The vectors of rows, or of all."""

    def items(self, chosen: Chosen, limit: int | None) -> tuple[State, list[Item]]:
        """What is chosen, row by row; the first of them, if there is a limit."""

    def contents(self) -> tuple[State, Vectors, list[Item]]:
        """All that is there, row by row: vectors and items."""

    def close(self) -> None:
        """End the connections."""


def unknown_recall(tuning: Tuning) -> RecallEstimate:
    """What is known of the recall before it is measured.

    Parameters
    ----------
    tuning : Tuning

    Returns
    -------
    recall : RecallEstimate
        Of no queries; its ef is that of the tuning, or a start.
    """
    ef = tuning.ef_search or 64
    return RecallEstimate(0.0, 0.0, 1.0, tuning.n_neighbors, ef, 0)


def listed_entries(where: Any, n_items: int) -> Any:
    """A mask or ids as an array or a list.

    Parameters
    ----------
    where : array of bool or iterable of hashables
    n_items : int

    Returns
    -------
    entries : ndarray or list

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If a mask has not one entry for each row.
    """
    if isinstance(where, bytes) or not hasattr(where, "__iter__"):
        raise TypeError(
            'where must be a condition such as "price < 50", an array of bool with an entry '
            f"for each of {n_items} rows, or ids; got {type(where).__name__}"
        )
    entries = where if isinstance(where, np.ndarray) else list(where)
    if is_mask(entries) and len(entries) != n_items:
        raise ValueError(
            f"where has {len(entries)} entries and the index {n_items} rows; a mask needs one for "
            "each"
        )
    return entries


def check_params(chosen: Chosen) -> None:
    """Raise an error if parameters are given that no condition takes.

    Parameters
    ----------
    chosen : Chosen

    Raises
    ------
    ValueError
        If there is no condition.
    WhereError
        If one holds a NUL.
    """
    where, params = chosen.where, chosen.params
    if params is not None and not isinstance(where, str):
        raise ValueError(
            f"params are the values of a condition in SQL, and where is {where!r:.50}: give "
            "where='price < ?', params=(50,)"
        )
    for value in params.values() if isinstance(params, Mapping) else params or ():
        if isinstance(value, str) and "\0" in value:
            raise WhereError("a parameter holds a NUL, which no text on a server does")


def is_mask(entries: Any) -> bool:
    """Whether these are booleans, one a row, rather than ids.

    Parameters
    ----------
    entries : ndarray or list

    Returns
    -------
    is_mask : bool
    """
    if isinstance(entries, np.ndarray):
        return entries.dtype == bool and entries.ndim == 1
    return bool(entries) and all(isinstance(entry, (bool, np.bool_)) for entry in entries)
