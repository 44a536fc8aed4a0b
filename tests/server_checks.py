"""What must hold of an index, whichever server holds it, beside the contract of all indexes."""

import pickle
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imgembed import (
    FingerprintError,
    HOGEmbedder,
    ImageSearch,
    NearestNeighborIndex,
    QueryExpansion,
)
from imgembed.servers._server_index import ServerIndex

Vectors = NDArray[np.float32]


def recall(index: ServerIndex, queries: Vectors, slack: float = 1e-6, **asked: Any) -> float:
    """The share of the ten true neighbours that are found, as exact search on the server."""
    found = index.kneighbors(queries, 10, **asked)[0]
    exact = index.kneighbors(queries, 10, exact=True, **asked)[0]
    return float((found <= exact[:, -1:] + slack).mean())


def check_loaded_is_as_fitted(fitted: ServerIndex, loaded: ServerIndex, vectors: Vectors) -> None:
    """Of an index that holds the vectors and their prices, which are integers."""
    assert loaded.get_params() == fitted.get_params()
    assert loaded.columns_ == {"price": "integer"}
    assert np.array_equal(loaded.kneighbors(vectors[:3])[1], fitted.kneighbors(vectors[:3])[1])
    loaded.add(vectors[:1], ids=["new"])
    assert "new" in fitted


def index_to_move(vectors: Vectors) -> NearestNeighborIndex:
    """300 vectors, but for one that was removed, with records of many kinds."""
    records = {
        "price": [None, *range(299)],
        "name": [f"n{row}" for row in range(300)],
        "raw": [bytes([row % 256, 0]) for row in range(300)],
        "longer": [bytes([row % 256, 0, 255]) for row in range(300)],
        "big": [2**62 + row for row in range(300)],
        "tenth": [row / 10 for row in range(300)],
        "nothing": [None] * 300,
    }
    ids = [("a", row) for row in range(300)]
    index = NearestNeighborIndex(8).fit(vectors, ids=ids, records=records, embedder=HOGEmbedder())
    return index.remove([("a", 3)])


def check_there_and_back(index: NearestNeighborIndex, there: ServerIndex, vectors: Vectors) -> None:
    """Of what index_to_move gives, and what a server holds of it."""
    for other in (there, there.to_index()):
        assert list(other) == list(index)
        assert other.columns_ == index.columns_
        assert other.fingerprint_ == HOGEmbedder().fingerprint()
        for where in ("price > 20", "raw = x'0500'", f"big > {2**62 + 250}"):
            found = other.search(vectors[:5], where=where)
            wanted = index.search(vectors[:5], where=where)
            assert found.ids == wanted.ids
            assert found.records == wanted.records


def check_image_search_works_over(index: ServerIndex) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (40, 40, 3), np.uint8) for _ in range(12)]
    records = [{"price": price} for price in range(12)]
    expansion = QueryExpansion(n_neighbors=2)
    searches = [
        ImageSearch(HOGEmbedder(), each, expansion=expansion).fit(images[:10], records[:10])
        for each in (index, None)
    ]
    for search in searches:
        search.remove([2, 5]).add(images[10:], records[10:]).update_records([1], {"price": [99]})
    for asked in (
        {"images": images[4]},
        {"ids": [1, 11]},
        {"images": images[1], "where": "price > 5"},
    ):
        results = [search.search(**asked) for search in searches]
        assert np.array_equal(results[0].ids, results[1].ids)
        assert results[0].records == results[1].records
    with pytest.raises(TypeError, match="a server holds"):
        searches[0].save("nowhere")
    searches[0].embedder_.set_params(n_orientations=5)
    with pytest.raises(FingerprintError):
        searches[0].search(images[0])


def check_a_graph_comes_with_10_000_rows(
    index: ServerIndex, many: Vectors, share: NDArray[np.float64]
) -> None:
    """And it reaches the recall; ``share`` becomes the column of that name."""
    index.fit(many[:9_999], records={"share": share[:9_999]})
    assert index.algorithm_ == "exact"
    index.add(many[9_999:], records={"share": share[9_999:]})
    assert index.algorithm_ == "hnsw"
    estimate = index.recall_estimate_
    assert (estimate.n_queries, estimate.n_neighbors) == (100, 10)
    assert estimate.recall >= 0.95


def check_the_graph_reaches_the_recall_with_filters(index: ServerIndex) -> None:
    rng = np.random.default_rng(0)
    many = rng.normal(size=(12_000, 24)).astype(np.float32)
    queries = rng.normal(size=(50, 24)).astype(np.float32)
    check_a_graph_comes_with_10_000_rows(index, many, rng.random(12_000))
    for share in (1.0, 0.5, 0.1, 0.01, 0.001):
        found = recall(index, queries, where="share < ?", params=(share,))
        assert found >= 0.95, f"with a filter that keeps {share}"
    assert (index.kneighbors(queries, 10, where="share < 0.0005")[1] >= 0).any()


def check_equal_vectors_do_not_hide_the_others(index: ServerIndex, vectors: Vectors) -> None:
    copies = np.concatenate([np.repeat(vectors[:1], 200, axis=0), vectors])
    rows = index.fit(copies).kneighbors(vectors[:1], 300)[1]
    assert (rows >= 0).all()
    assert len(set(rows[0].tolist())) == 300


def check_two_threads_search_while_a_third_changes(
    index: ServerIndex,
    vectors: Vectors,
    n_searches: int = 20,
    n_changes: tuple[int, int] = (6, 4),
) -> None:
    """The third adds items, fits all anew, and adds some again."""
    index.fit(vectors)
    other = pickle.loads(pickle.dumps(index))
    failures: list[BaseException] = []

    def search() -> None:
        try:
            for _ in range(n_searches):
                assert (index.kneighbors(vectors[:3], 5)[1] >= 0).all()
        except BaseException as error:
            failures.append(error)

    def add(numbers: range) -> None:
        for number in numbers:
            other.add(vectors[:2], records={f"new {number}": [1, 2]})

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    before, after = n_changes
    add(range(before))
    other.fit(vectors)
    add(range(before, before + after))
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert len(index) == len(vectors) + 2 * after


def check_a_fit_that_fails_leaves_what_was_there(index: ServerIndex, vectors: Vectors) -> None:
    index.fit(vectors, ids=range(len(vectors)))
    with pytest.raises(ValueError, match="holds integer values"):
        index.fit(vectors[:2], records={"a": [1, "x"]})
    assert len(index) == len(vectors)
