"""What a saved index knows of itself besides its vectors: parameters, names, notes."""

from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from sklearn.utils import check_random_state

from ._checks import check_parameters
from ._collection import Collection
from ._fingerprint import FilledBy
from ._pairs import Calibration, calibration_from_dict, calibration_to_dict
from .storage._files import CorruptIndexError

Index = TypeVar("Index")

# Parameters of the estimator that are no settings of its collection.
_OTHER_PARAMETERS = ("n_jobs", "mode", "random_state")
_WRONG = (ValueError, TypeError, KeyError, OverflowError)


def metadata_of(index: Any, filled_by: FilledBy | None) -> dict[str, Any]:
    """What is to be saved of an index besides its collection, as JSON.

    Parameters
    ----------
    index : NearestNeighborIndex
    filled_by : FilledBy or None
    """
    names = getattr(index, "feature_names_in_", None)
    n_jobs, seed, calibration = index.n_jobs, index.random_state, index.calibration_
    return {
        "n_jobs": None if n_jobs is None else int(n_jobs),
        "mode": index.mode,
        "random_state": int(seed) if isinstance(seed, (int, np.integer)) else None,
        "n_features_in": int(index.n_features_in_),
        "feature_names_in": None if names is None else [str(name) for name in names],
        "filled_by": None if filled_by is None else asdict(filled_by),
        "calibration": None if calibration is None else calibration_to_dict(calibration),
    }


def estimator_from(kind: type[Index], meta: dict[str, Any]) -> Index:
    """An index with the parameters of a saved one.

    Raises
    ------
    CorruptIndexError
        If they are none.
    """
    try:
        parameters = dict(meta["collection"]["settings"])
        del parameters["seed"]
        index: Any = kind(**parameters, **{name: meta[name] for name in _OTHER_PARAMETERS})
        check_parameters(index)
        check_random_state(index.random_state)
        index.n_features_in_ = meta["n_features_in"]
        if meta["feature_names_in"] is not None:
            index.feature_names_in_ = np.array(meta["feature_names_in"], dtype=object)
        return index  # type: ignore[no-any-return]
    except _WRONG as error:
        raise CorruptIndexError(f"the parameters of the index are wrong: {error}") from error


def check_features(index: Any, collection: Collection) -> None:
    """Raise a CorruptIndexError if width and names are not those of the vectors."""
    width = collection.nodes.store.n_features
    names = getattr(index, "feature_names_in_", None)
    named = names is None or (
        names.shape == (width,)
        and all(type(name) is str for name in names)
        and len(set(names)) == width
    )
    if index.n_features_in_ != width or not named:
        raise CorruptIndexError(f"the vectors have {width} features, which is not as recorded")


def notes_from(meta: dict[str, Any]) -> tuple[FilledBy | None, Calibration | None]:
    """What filled a saved index, and its calibration.

    Raises
    ------
    CorruptIndexError
        If they are wrong.
    """
    try:
        filled_by, calibration = meta["filled_by"], meta["calibration"]
        if calibration is not None and meta["collection"]["settings"]["metric"] == "ip":
            raise ValueError("a calibration of inner products")
        return (
            None if filled_by is None else FilledBy.from_dict(filled_by),
            None if calibration is None else calibration_from_dict(calibration),
        )
    except _WRONG as error:
        raise CorruptIndexError(f"the notes of the index are wrong: {error}") from error
