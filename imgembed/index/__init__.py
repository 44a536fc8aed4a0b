"""Nearest neighbours of vectors."""

from ._file_lock import IndexLockedError
from ._index import NearestNeighborIndex
from ._labelled_calibration import LabelledCalibration
from ._neighbors import Neighbors
from ._random_calibration import RandomPairCalibration
from ._recall import RecallCurve
from ._record_ids import DuplicateIdError
from ._records import UnknownIdError
from ._storage import IndexChangedError
from ._stored_files import CorruptIndexError
from ._tuning import RecallEstimate
from ._where import WhereError

__all__ = [
    "CorruptIndexError",
    "DuplicateIdError",
    "IndexChangedError",
    "IndexLockedError",
    "LabelledCalibration",
    "NearestNeighborIndex",
    "Neighbors",
    "RandomPairCalibration",
    "RecallCurve",
    "RecallEstimate",
    "UnknownIdError",
    "WhereError",
]
