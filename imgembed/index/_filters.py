"""What ``where`` may be: a condition in SQL, a mask of rows, or ids."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._collection import Collection

Mask = NDArray[np.bool_]
Parameters = Sequence[Any] | Mapping[str, Any] | None


def allowed_slots(collection: Collection, where: Any, params: Parameters) -> Mask | None:
    """The slots that may be found, or None if all may.

    Parameters
    ----------
    collection : Collection
    where : str, array of bool of shape (n_images,), sequence of ids, or None
    params : sequence or mapping, optional
        Values of the parameters in a condition.

    Returns
    -------
    allowed : ndarray of shape (n_slots,), dtype bool, or None

    Raises
    ------
    ValueError or TypeError
        If it is none of these, or there are parameters without a condition.
    UnknownIdError
        If there is no such id.
    """
    if where is None or not isinstance(where, str):
        if params is not None:
            raise ValueError(
                f"params are the values of a condition in SQL, and where is {where!r:.50}: "
                "give where='price < ?', params=(50,)"
            )
        if where is None:
            return None
    allowed = np.zeros(collection.items.n_slots, bool)
    allowed[_slots(collection, where, params)] = True
    return allowed


def _slots(collection: Collection, where: Any, params: Parameters) -> NDArray[np.int64]:
    if isinstance(where, str):
        return collection.records.where(where, params)
    if isinstance(where, bytes) or not hasattr(where, "__iter__"):
        raise TypeError(
            'where must be a condition such as "price < 50", an array of bool with an entry for '
            f"each of {len(collection)} rows, or ids; got {type(where).__name__}"
        )
    entries = where if isinstance(where, np.ndarray) else list(where)
    if _is_mask(entries):
        if len(entries) != len(collection):
            raise ValueError(
                f"where has {len(entries)} entries and the index {len(collection)} rows; a mask "
                "needs one for each"
            )
        living: NDArray[np.int64] = collection.items.living[np.asarray(entries, bool)]
        return living
    return collection.records.slots_of(entries)


def _is_mask(entries: Any) -> bool:
    if isinstance(entries, np.ndarray):
        return entries.dtype == bool and entries.ndim == 1
    return bool(entries) and all(isinstance(entry, (bool, np.bool_)) for entry in entries)
