"""Nearest neighbours of vectors."""

from ._index import NearestNeighborIndex
from ._neighbors import Neighbors
from ._recall import RecallCurve
from ._tuning import RecallEstimate
from .calibration._labelled import LabelledCalibration
from .calibration._random import RandomPairCalibration
from .records._ids import DuplicateIdError
from .records._records import UnknownIdError
from .records._where import WhereError
from .storage._files import CorruptIndexError
from .storage._folder import IndexChangedError
from .storage._lock import IndexLockedError

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
