"""What every calibration is: a threshold, probabilities, and numbers to keep."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration(ABC):
    """What distances mean: from which on a pair is a match, and how surely.

    Subclasses are frozen dataclasses of finite numbers, and set ``threshold`` from them.

    Attributes
    ----------
    threshold : float
        A pair at or below this distance is called a match; -1.0 if none ever is.
    """

    threshold: float = field(init=False)

    def __post_init__(self) -> None:
        for name, kind in _parameters(type(self)).items():
            _check_number(name, getattr(self, name), kind)

    @abstractmethod
    def probability(self, distances: ArrayLike) -> Floats:
        """How surely a pair at each distance is a match: from 0 to 1, and 0 for inf."""

    def to_dict(self) -> dict[str, float]:
        """The numbers that make it, fit for JSON.

        Returns
        -------
        numbers : dict of str to float or int
        """
        return {name: getattr(self, name) for name in _parameters(type(self))}

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> Self:
        """Make it again from :meth:`to_dict`.

        Parameters
        ----------
        numbers : mapping of str to float or int

        Returns
        -------
        calibration : Calibration
            Of the class on which this was called.

        Raises
        ------
        ValueError
            If a number is missing, unknown, not finite or out of range.
        """
        wanted = _parameters(cls)
        if not isinstance(numbers, Mapping) or set(numbers) != set(wanted):
            got = sorted(map(str, numbers)) if isinstance(numbers, Mapping) else numbers
            raise ValueError(f"{cls.__name__} is made from numbers {sorted(wanted)}; got {got!r}.")
        return cls(**numbers)

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0; got {getattr(self, name)!r}.")


def check_distances(distances: ArrayLike) -> Floats:
    """Distances as float64, refused if NaN or below 0.

    Parameters
    ----------
    distances : array-like of any shape

    Returns
    -------
    distances : ndarray of the same shape, dtype float64

    Raises
    ------
    ValueError
        If a distance is NaN or below 0.
    """
    checked = np.asarray(distances, dtype=np.float64)
    if np.isnan(checked).any():
        raise ValueError(f"{np.isnan(checked).sum()} of {checked.size} distances are NaN.")
    if checked.size and checked.min() < 0:
        raise ValueError(
            f"Got a distance of {checked.min():.6g}; distances must be at least 0. Those of "
            "inner products ('ip') can be below: normalise the vectors and use 'cosine'."
        )
    return checked


def check_sample(distances: ArrayLike) -> Floats:
    """Distances of pairs to learn from: one a pair, finite and at least 0.

    Parameters
    ----------
    distances : array-like of shape (n_pairs,)

    Returns
    -------
    distances : ndarray of shape (n_pairs,), dtype float64

    Raises
    ------
    ValueError
        If the shape is another, or a distance is not finite or below 0.
    """
    checked = check_distances(distances)
    if checked.ndim != 1:
        raise ValueError(f"Distances must have the shape (n_pairs,); got {checked.shape}.")
    if np.isinf(checked).any():
        raise ValueError(
            f"{np.isinf(checked).sum()} of {checked.size} distances are inf; leave these pairs out."
        )
    return checked


def _parameters(kind: type[Calibration]) -> dict[str, Any]:
    """The type of each parameter, by its name."""
    return {each.name: each.type for each in fields(kind) if each.init}


def _check_number(name: str, value: object, kind: type[int] | type[float]) -> None:
    wanted = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise ValueError(f"{name} must be of type {kind.__name__}; got {value!r}.")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite; got {value!r}.")
