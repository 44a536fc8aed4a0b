"""Pairs of vectors in an index, from which it learns what distances mean."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._collection import Collection
from ._exact import paired_distances
from .calibration._labelled import LabelledCalibration, calibrate_labelled
from .calibration._random import RandomPairCalibration, calibrate_random

Calibration = LabelledCalibration | RandomPairCalibration

# Random pairs that are drawn at least, and for each item; where there are no more, all are taken.
_N_RANDOM_PAIRS = 100_000
_N_RANDOM_PAIRS_PER_ITEM = 10
_KINDS: dict[str, type[LabelledCalibration] | type[RandomPairCalibration]] = {
    "labelled": LabelledCalibration,
    "random": RandomPairCalibration,
}


def calibrated(collection: Collection, pairs: Any, is_match: Any, prior: Any) -> Calibration:
    """What :meth:`NearestNeighborIndex.calibrate` learns."""
    if collection.nodes.settings.metric == "ip":
        raise ValueError(
            "distances of inner products may be below 0, and equal vectors are not at 0: "
            "calibrate an index with metric='cosine' or 'euclidean'"
        )
    if (pairs is None) != (is_match is None):
        raise ValueError("pairs and is_match belong together: give both, or neither")
    if pairs is None:
        if prior is not None:
            raise ValueError("prior is for labelled pairs: give pairs and is_match too")
        first, second = _random_pairs(collection)
        return calibrate_random(_distances(collection, first, second), len(collection))
    first, second = _labelled_pairs(collection, pairs)
    calibration = calibrate_labelled(_distances(collection, first, second), is_match, prior)
    if calibration.threshold < 0:
        _warn_that_nothing_matches(calibration)
    return calibration


def calibration_to_dict(calibration: Calibration) -> dict[str, Any]:
    """A calibration as JSON."""
    kind = next(name for name, one in _KINDS.items() if isinstance(calibration, one))
    return {"kind": kind, "numbers": calibration.to_dict()}


def calibration_from_dict(fields: Mapping[str, Any]) -> Calibration:
    """The calibration that :func:`calibration_to_dict` gave.

    Raises
    ------
    ValueError, TypeError or KeyError
        If it is another thing.
    """
    return _KINDS[fields["kind"]].from_dict(fields["numbers"])


def _warn_that_nothing_matches(calibration: LabelledCalibration) -> None:
    warnings.warn(
        f"no distance makes a match: with the prior {calibration.prior:.3g} even equal vectors are "
        f"one with a probability of {float(calibration.probability(0.0)):.2g} only, as far as "
        f"{calibration.n_matches} matches and {calibration.n_non_matches} others tell. Label more "
        "pairs, above all such as are hard to tell, or give the prior of the pairs in question",
        UserWarning,
        stacklevel=4,
    )


def _random_pairs(collection: Collection) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Slots of pairs of different items."""
    living = collection.items.living
    n_items = len(living)
    n_pairs = max(_N_RANDOM_PAIRS, _N_RANDOM_PAIRS_PER_ITEM * n_items)
    if n_items * (n_items - 1) // 2 <= n_pairs:
        first, second = np.triu_indices(n_items, 1)
    else:
        rng = np.random.default_rng(collection.nodes.settings.seed)
        first = rng.integers(n_items, size=n_pairs)
        second = (first + rng.integers(1, n_items, size=n_pairs)) % n_items
    return living[first], living[second]


def _labelled_pairs(
    collection: Collection, pairs: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    listed = [tuple(pair) for pair in pairs]
    wrong = next((row for row, pair in enumerate(listed) if len(pair) != 2), None)
    if wrong is not None:
        raise ValueError(
            f"pairs must be pairs of ids; row {wrong} has {len(listed[wrong])} entries"
        )
    firsts, seconds = zip(*listed, strict=True) if listed else ((), ())
    return collection.records.slots_of(firsts), collection.records.slots_of(seconds)


def _distances(
    collection: Collection, first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    step = 10_000
    return np.concatenate(
        [np.empty(0)]
        + [
            paired_distances(
                collection.vectors(first[start : start + step]),
                collection.vectors(second[start : start + step]),
                collection.nodes.settings.metric,
            )
            for start in range(0, len(first), step)
        ]
    )
