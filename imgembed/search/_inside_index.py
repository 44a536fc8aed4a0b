"""What a search needs of an index beyond its public methods: its parts, and vectors of rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..index import NearestNeighborIndex
from ..index._metadata import check_features, estimator_from, metadata_of, notes_from
from ..index._snapshot import unpack
from ..index._storage import Snapshot

Parts = tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, bytes]]


def vectors_at(index: NearestNeighborIndex, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Copies of some vectors of an index, of which the others are not touched.

    Parameters
    ----------
    index : NearestNeighborIndex
    rows : ndarray of shape (n_rows,), dtype int64

    Returns
    -------
    vectors : ndarray of shape (n_rows, n_features), dtype float32
    """
    with index._lock.reading():
        collection = index._collection
        return np.array(collection.vectors(collection.items.living[rows]))


def index_parts(index: NearestNeighborIndex) -> Parts:
    """What is saved of an index: JSON, arrays, and blobs.

    Parameters
    ----------
    index : NearestNeighborIndex

    Returns
    -------
    meta : dict
    arrays : dict of str to ndarray
    blobs : dict of str to bytes
    """
    with index._lock.reading():
        fields, arrays, blobs = index._collection.parts()
        meta = {**metadata_of(index, index._filled_by), "collection": fields}
    return meta, dict(arrays), dict(blobs)


def index_from(snapshot: Snapshot, *, rebuild: bool) -> NearestNeighborIndex:
    """The index that :func:`index_parts` was taken from.

    Parameters
    ----------
    snapshot : Snapshot
        It may hold more.
    rebuild : bool
        Build a damaged graph again.

    Returns
    -------
    index : NearestNeighborIndex

    Raises
    ------
    CorruptIndexError
        If parts are missing or do not fit together.
    """
    index = estimator_from(NearestNeighborIndex, snapshot.meta)
    collection = unpack(snapshot, index._n_threads(), rebuild=rebuild)
    check_features(index, collection)
    index._hold(collection, *notes_from(snapshot.meta))
    return index
