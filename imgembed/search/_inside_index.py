"""What a search needs of an index beyond its public methods: the parts that are saved."""

from typing import Any

from numpy.typing import NDArray

from ..index import NearestNeighborIndex
from ..index._metadata import check_features, estimator_from, metadata_of, notes_from
from ..index._snapshot import unpack
from ..index.storage._folder import Snapshot

Parts = tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, bytes]]


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

    Raises
    ------
    TypeError
        If a server holds the index.
    """
    if not isinstance(index, NearestNeighborIndex):
        raise TypeError(
            f"the index is a {type(index).__name__}, which a server holds, so that a search over "
            "it cannot be saved to a folder; fit it again with NearestNeighborIndex() to save it"
        )
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
