"""check_index: it passes for the embedded index, and finds what is wrong in others."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from imgembed import NearestNeighborIndex, Neighbors
from imgembed.testing import check_index


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "ip"])
def test_the_embedded_index_keeps_the_contract(metric: str) -> None:
    check_index(NearestNeighborIndex(metric=metric), 100)


def test_graphs_keep_the_contract() -> None:
    check_index(NearestNeighborIndex(algorithm="hnsw"), 100)


class WithoutConditions(NearestNeighborIndex):
    """Takes every condition for a true one."""

    def search(self, X: Any, n_neighbors: int | None = None, **asked: Any) -> Neighbors:
        if isinstance(asked.get("where"), str) and "LIKE" in asked["where"]:
            asked |= {"where": "1", "params": None}
        return super().search(X, n_neighbors, **asked)


class WithOtherRows(NearestNeighborIndex):
    """Counts rows from one."""

    def search(self, X: Any, n_neighbors: int | None = None, **asked: Any) -> Neighbors:
        found = super().search(X, n_neighbors, **asked)
        return Neighbors(found.ids, found.distances, found.rows + 1, found.records)


class WithoutOrder(NearestNeighborIndex):
    """Selects what was added last first."""

    def select(self, where: Any = None, **asked: Any) -> Any:
        return dict(reversed(super().select(where, **asked).items()))


class WithPartialRemoval(NearestNeighborIndex):
    """Removes the ids that it knows before it says that it does not know the others."""

    def remove(self, ids: Sequence[Any]) -> Any:
        super().remove([one for one in ids if one in self])
        return super().remove([one for one in ids if one not in self and one == "item x"])


class WithoutFingerprint(NearestNeighborIndex):
    """Takes the vectors of any embedder."""

    def check_embedder(self, embedder: Any) -> None:
        pass


class WithPoorRecall(NearestNeighborIndex):
    """Finds the second nearest first, unless it must be exact."""

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, *a: Any, **asked: Any
    ) -> Any:
        distances, rows = super().kneighbors(X, n_neighbors, *a, **asked)
        if X is None or asked.get("exact"):
            return distances, rows
        return np.roll(distances, -1, axis=1) * 3, np.roll(rows, -1, axis=1)


@pytest.mark.parametrize(
    ("index", "check", "message"),
    [
        (WithoutConditions(), "check_conditions", "LIKE"),
        (WithOtherRows(), "check_exact_search", "rows are others"),
        (WithoutOrder(), "check_conditions", r"select\('price < 50'"),
        (WithPartialRemoval(), "check_wrong_input", "has changed the index"),
        (WithoutFingerprint(), "check_fingerprint", "must raise FingerprintError"),
        (WithPoorRecall(), "check_recall", "the recall where None"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_wrong_is_named_with_its_check(index: Any, check: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        check_index(index, 100)
    assert any(check in note for note in caught.value.__notes__)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 100 images, got 3"):
        check_index(NearestNeighborIndex(), 3)
