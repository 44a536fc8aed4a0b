"""What embedders are compared by: images, their labels, and changed copies of some of them."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation import LabelProtocol, ListProtocol, evaluate

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Vectors = NDArray[Any]

_FOUND_FIRST = "precision@1"  # a copy's original is found first, or is not


@dataclass(frozen=True)
class Task:
    """What each embedder has to do.

    Parameters
    ----------
    images : sequence of n_images images
        All can be read.
    labels : ndarray of shape (n_images,), dtype object, or None
        None in it: a distractor.
    protocol : LabelProtocol or None
        Which labels are sought; None if there are none.
    database : ndarray of shape (n_database,), dtype int64
        Among which images is searched.
    changes : tuple of str
        How images were changed.
    copies : list of n_copied * n_changes Path
        All copies of the first copied image, then those of the next.
    originals : list of n_copied ndarray
        Of each copied image itself and all that are equal to it: places in ``database``.
    measure, metric : str
    """

    images: Sequence[object]
    labels: NDArray[Any] | None
    protocol: LabelProtocol | None
    database: Rows
    changes: tuple[str, ...]
    copies: list[Path]
    originals: list[Rows]
    measure: str
    metric: str

    @property
    def labelled(self) -> Rows:
        """Rows that are searched and have a label."""
        if self.labels is None:
            return self.database[:0]
        return self.database[[is_label(label) for label in self.labels[self.database]]]

    def judge(self, vectors: Vectors, copies: Vectors) -> tuple[Floats, dict[str, float]]:
        """How good vectors are.

        Parameters
        ----------
        vectors : ndarray of shape (n_images, n_features)
        copies : ndarray of shape (n_copies, n_features)

        Returns
        -------
        per_query : ndarray of shape (n_queries,)
            The measure, by label; without labels of each copied image, the mean over its copies.
        found : dict of str to float
            Of each change, the share of copies whose original is found first.
        """
        by_copies, found = self._by_copies(vectors, copies) if self.changes else (None, {})
        if self.protocol is None:
            assert by_copies is not None
            return by_copies, found
        by_labels = evaluate(
            vectors, self.protocol, metric=self.metric, measures=[self.measure]
        ).per_query[self.measure]
        return by_labels, found

    def _by_copies(self, vectors: Vectors, copies: Vectors) -> tuple[Floats, dict[str, float]]:
        n_changes = len(self.changes)
        protocol = ListProtocol(
            [rows for rows in self.originals for _ in range(n_changes)], n_images=len(self.database)
        )
        measures = dict.fromkeys([self.measure, _FOUND_FIRST])
        values = evaluate(
            vectors[self.database],
            protocol,
            query_vectors=copies,
            metric=self.metric,
            measures=list(measures),
        ).per_query
        shares = values[_FOUND_FIRST].reshape(-1, n_changes).mean(axis=0)
        by_copies = values[self.measure].reshape(-1, n_changes).mean(axis=1)
        return by_copies, dict(zip(self.changes, shares.tolist(), strict=True))


def is_label(label: Hashable) -> bool:
    """Whether an image has a label: neither None nor NaN.

    Parameters
    ----------
    label : hashable

    Returns
    -------
    is_label : bool
    """
    return label is not None and label == label
