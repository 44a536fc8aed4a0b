"""A query alone finds the short way what it finds the long way, and is refused as there."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imgembed import NearestNeighborIndex
from imgembed.index._collection import Collection
from imgembed.index._plain_search import PlainSearch

METRICS = ["cosine", "euclidean", "ip"]


@pytest.fixture(scope="module", autouse=True)
def _graphs_of_few_vectors_are_worth_it() -> Iterator[None]:
    with mock.patch("imgembed.index._node_index.vectors_per_candidate", return_value=1.0):
        yield


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    made = np.random.default_rng(0).standard_normal((1500, 12), np.float32)
    made[700:710] = made[3]  # equal ones
    made[20:25] = made[40:45] + 1e-3  # near ones
    return made


@pytest.fixture(params=METRICS)
def index(vectors: NDArray[np.float32], request: pytest.FixtureRequest) -> NearestNeighborIndex:
    return NearestNeighborIndex(
        5, request.param, "hnsw", ef_search=100, random_state=0, progress=False
    ).fit(vectors)


def answered_by_graph(index: NearestNeighborIndex, query: Any, k: int | None = None) -> Any:
    """What is found of a query alone, which must have gone the short way."""
    with mock.patch.object(Collection, "search") as long_way:
        found = index.kneighbors(query, k)
    assert not long_way.called
    return found


def assert_as_the_long_way(index: NearestNeighborIndex, queries: NDArray[np.float32]) -> None:
    for row in range(len(queries)):
        query = queries[row : row + 1]
        distances, rows = index.kneighbors(query)
        with mock.patch.object(PlainSearch, "nearest", return_value=None):
            wanted = index.kneighbors(query)
        np.testing.assert_allclose(distances, wanted[0], rtol=1e-6, atol=2e-6)
        np.testing.assert_array_equal(rows, wanted[1])
        assert (distances.dtype, rows.dtype) == (np.float64, np.int64)


def test_as_the_long_way(index: NearestNeighborIndex, vectors: NDArray[np.float32]) -> None:
    others = np.random.default_rng(1).standard_normal((40, 12), np.float32)
    assert_as_the_long_way(index, np.concatenate([vectors[:60], others, others * 1000]))
    answered_by_graph(index, others[:1])


def test_equal_vectors_are_all_found_at_no_distance(
    index: NearestNeighborIndex, vectors: NDArray[np.float32]
) -> None:
    distances, rows = answered_by_graph(index, vectors[3:4])
    if index.metric != "ip":
        assert set(rows[0]) <= {3, *range(700, 710)}
        np.testing.assert_array_equal(distances, 0.0)


def test_search_takes_the_same_way(
    index: NearestNeighborIndex, vectors: NDArray[np.float32]
) -> None:
    found = index.search(vectors[100:101])
    np.testing.assert_array_equal(found.ids[0], index.kneighbors(vectors[100:101])[1][0])


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_after_any_change(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    metric = data.draw(st.sampled_from(METRICS))
    made = rng.standard_normal((300, 6), np.float32)
    made[::7] = made[0]
    index = NearestNeighborIndex(5, metric, "hnsw", ef_search=150, progress=False).fit(made)
    queries = rng.standard_normal((5, 6)).astype(np.float32)
    answered_by_graph(index, queries[:1])
    for change in data.draw(st.lists(st.sampled_from("arcu"), max_size=4)):
        index.kneighbors(queries[:1])
        ids = list(index)
        if change == "a":
            index.add(rng.standard_normal((int(rng.integers(1, 1200)), 6), np.float32))
        elif change == "r":
            index.remove(ids[: len(ids) // 10])
        elif change == "u":
            index.upsert(queries, ids[-5:])
        else:
            index.compact()
        assert_as_the_long_way(index, queries)


@pytest.mark.parametrize("layout", ["strided", "Fortran", "read-only", "float64", "list"])
def test_any_layout(index: NearestNeighborIndex, vectors: NDArray[np.float32], layout: str) -> None:
    plain = vectors[9:10].copy()
    wide = np.repeat(plain, 2, axis=1)
    read_only = plain.copy()
    read_only.flags.writeable = False
    layouts = {
        "strided": wide[:, ::2],
        "Fortran": np.asfortranarray(np.repeat(plain, 3, axis=0))[1:2],
        "read-only": read_only,
        "float64": plain.astype(np.float64),
        "list": plain.tolist(),
    }
    given, wanted = index.kneighbors(layouts[layout]), index.kneighbors(plain)
    np.testing.assert_allclose(given[0], wanted[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(given[1], wanted[1])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.full((1, 12), np.nan, np.float32), "NaN"),
        (np.full((1, 12), np.inf, np.float32), "infinity"),
        (np.full((1, 12), 1e20, np.float32), "scale the vectors"),
        (np.ones((1, 13), np.float32), "12 features"),
        (np.ones(12, np.float32), "1D array"),
        (np.ones((0, 12), np.float32), "0 sample"),
    ],
)
def test_wrong_queries_are_refused(
    index: NearestNeighborIndex, wrong: NDArray[np.float32], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        index.kneighbors(wrong)


def test_names_of_features_are_asked_for(vectors: NDArray[np.float32]) -> None:
    named = pd.DataFrame(vectors, columns=[f"x{i}" for i in range(12)])
    index = NearestNeighborIndex(algorithm="hnsw", ef_search=50, progress=False).fit(named)
    with pytest.warns(UserWarning, match="feature names"):
        index.kneighbors(vectors[:1])


def test_more_neighbours_than_the_graph_returns(
    index: NearestNeighborIndex, vectors: NDArray[np.float32]
) -> None:
    distances, rows = index.kneighbors(vectors[:1], 300)
    assert distances.shape == rows.shape == (1, 300)
    assert index.kneighbors(vectors[:1], 2000)[1].min() == -1
