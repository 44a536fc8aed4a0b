"""Rows are what users see: the slots of items, without gaps. And what a store remembers."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Rows:
    """The rows of an index in one state.

    Parameters
    ----------
    living : ndarray of shape (n_items,), dtype int64, or None
        The slots of all items, ascending; None if there are no gaps between them.
    """

    living: Slots | None

    def slots_at(self, rows: NDArray[np.int64]) -> Slots:
        """The slots of rows."""
        return rows if self.living is None else self.living[rows]

    def of_slots(self, slots: Slots) -> NDArray[np.int64]:
        """The rows of slots; -1 stays."""
        if self.living is None:
            return slots
        return np.where(slots >= 0, np.searchsorted(self.living, slots), -1)


class Remembered(Generic[Value]):
    """Answers that were computed, of which the oldest are forgotten.

    Parameters
    ----------
    n_most : int
        How many are kept.
    """

    def __init__(self, n_most: int) -> None:
        self._n_most = n_most
        self._answers: dict[Hashable, Value] = {}

    def get(self, question: Hashable) -> Value | None:
        """The answer, if it is known."""
        return self._answers.get(question)

    def of(self, question: Hashable, answer: Callable[[], Value]) -> Value:
        """The answer, which is computed if it is not known."""
        found = self._answers.get(question)
        if found is None:
            found = answer()
            while len(self._answers) >= self._n_most:
                del self._answers[next(iter(self._answers))]
            self._answers[question] = found
        return found
