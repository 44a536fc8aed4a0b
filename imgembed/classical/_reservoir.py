"""A sample of a stream, in bounded memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Reservoir:
    """Rows drawn from a stream, each with the same chance, none twice.

    Each row draws a random key, and the rows with the smallest keys stay. So the sample does
    not depend on how the stream is cut into pieces. At most twice the capacity is held, and
    once more while it is cut down.

    Parameters
    ----------
    capacity : int
        Rows in the sample.
    random_state : RandomState
        Draws the keys.

    References
    ----------
    .. [1] J. Vitter, "Random Sampling with a Reservoir", ACM TOMS 1985.
    """

    def __init__(self, capacity: int, random_state: np.random.RandomState) -> None:
        self.capacity = capacity
        self.n_seen = 0
        self._random_state = random_state
        self._largest_key = np.inf
        self._keys: list[NDArray[np.float64]] = []
        self._rows: list[NDArray[Any]] = []
        self._n_held = 0

    def extend(self, rows: NDArray[Any]) -> None:
        """Let the next rows of the stream go by, of shape (n_rows, n_dimensions)."""
        self.n_seen += len(rows)
        keys = self._random_state.random_sample(len(rows))
        stay = keys < self._largest_key
        if self._rows and not stay.any():  # the first rows tell the width, even if there are none
            return
        self._keys.append(keys[stay])
        self._rows.append(rows[stay])
        self._n_held += len(self._keys[-1])
        if self._n_held >= 2 * self.capacity:
            self._cut_down()

    def sample(self) -> NDArray[Any]:
        """The sample, in the order of the stream; of shape (n_rows, n_dimensions)."""
        self._cut_down()
        return self._rows[0]

    def _cut_down(self) -> None:
        keys, rows = np.concatenate(self._keys), np.concatenate(self._rows)
        if len(keys) > self.capacity:
            smallest = np.sort(np.argpartition(keys, self.capacity - 1)[: self.capacity])
            keys, rows = keys[smallest], rows[smallest]
            self._largest_key = keys.max()
        self._keys, self._rows, self._n_held = [keys], [rows], len(keys)
