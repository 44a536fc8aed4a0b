"""An index as JSON, arrays and bytes, for a folder and for a pickle."""

import warnings
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ._collection import Collection
from .storage._files import CorruptIndexError
from .storage._folder import Snapshot

# What can be made again from the vectors.
GRAPH_ARRAYS = frozenset({"order", "graph_base", "graph_levels", "graph_upper", "axes", "centre"})


def unpack(snapshot: Snapshot, n_threads: int, *, rebuild: bool) -> Collection:
    """The collection of a snapshot whose checksums are right; its sense is checked here.

    Parameters
    ----------
    snapshot : Snapshot
    n_threads : int
        Threads that build a graph.
    rebuild : bool
        Make a graph anew, with a warning, that is damaged or cannot be followed.

    Raises
    ------
    CorruptIndexError
        If the parts do not fit together, or only the graph is damaged and ``rebuild`` is false.
    """
    wrong = "; ".join(f"{name}: {what}" for name, what in snapshot.spared.items())
    fields = snapshot.meta.get("collection")
    if not wrong:
        try:
            return _collection(fields, snapshot.arrays, snapshot.blobs)
        except CorruptIndexError as error:
            wrong = str(error)
    arrays = {k: v for k, v in snapshot.arrays.items() if k not in GRAPH_ARRAYS}
    collection = _collection(_without_graph(fields), arrays, snapshot.blobs)
    if not rebuild:
        raise CorruptIndexError(
            f"the graph of the index is damaged ({wrong}), and the rest is whole: load it with "
            "rebuild=True, and the graph is built again from the vectors"
        )
    warnings.warn(
        f"the graph of the index is damaged ({wrong}) and is built again from the vectors; save "
        "the index to keep it",
        UserWarning,
        stacklevel=3,
    )
    collection.nodes.rebuild_graph(n_threads)
    return collection


def _collection(
    fields: Any, arrays: Mapping[str, NDArray[Any]], blobs: Mapping[str, bytes]
) -> Collection:
    try:
        return Collection.from_parts(fields, arrays, blobs)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise CorruptIndexError(
            f"the parts of the index do not fit together ({type(error).__name__}: {error})"
        ) from error


def _without_graph(fields: Any) -> Any:
    return {**fields, "graph": None, "tuning": None} if isinstance(fields, dict) else fields
