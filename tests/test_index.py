"""The index: exact against brute force, safe against everything that hnswlib is not."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.exceptions import NotFittedError
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from imgembed import NearestNeighborIndex

METRICS = ("cosine", "euclidean", "ip")


def brute_force(vectors: Any, queries: Any, metric: str) -> NDArray[np.float64]:
    vectors, queries = np.asarray(vectors, np.float64), np.asarray(queries, np.float64)
    if metric == "ip":
        return 1 - queries @ vectors.T
    if metric == "euclidean":
        return cdist(queries, vectors)
    norms = np.linalg.norm(queries, axis=1)[:, np.newaxis] * np.linalg.norm(vectors, axis=1)
    return 1 - np.divide(queries @ vectors.T, norms, out=np.zeros_like(norms), where=norms > 0)


@parametrize_with_checks(
    [NearestNeighborIndex(), NearestNeighborIndex(algorithm="hnsw", metric="euclidean")]
)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


small = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.just(5)),
    elements=st.floats(-100, 100, width=32),
)


@settings(deadline=None)
@given(
    small, small, st.sampled_from(METRICS), st.sampled_from(["exact", "hnsw"]), st.integers(1, 9)
)
def test_distances_are_exact_and_ascending(
    vectors: Any, queries: Any, metric: str, algorithm: str, k: int
) -> None:
    index = NearestNeighborIndex(k, metric, algorithm).fit(vectors)
    distances, rows = index.kneighbors(queries)
    n_found = min(k, len(vectors))
    assert distances.shape == rows.shape == (len(queries), k)
    assert (rows[:, n_found:] == -1).all()
    assert np.isinf(distances[:, n_found:]).all()
    assert (np.diff(distances[:, :n_found], axis=1) >= 0).all()
    assert all(len(set(row)) == n_found for row in rows[:, :n_found].tolist())
    wanted = brute_force(vectors, queries, metric)
    scale = 1 + np.abs(wanted).max()
    chosen = np.take_along_axis(wanted, rows[:, :n_found], axis=1)
    np.testing.assert_allclose(distances[:, :n_found], chosen, atol=1e-4 * scale)
    if algorithm == "exact":
        nearest = np.sort(wanted, axis=1)[:, :n_found]
        np.testing.assert_allclose(distances[:, :n_found], nearest, atol=1e-4 * scale)


@pytest.mark.parametrize("metric", METRICS)
def test_the_graph_finds_nearly_what_exact_search_finds(metric: str) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 32))
    vectors = centres[rng.integers(50, size=4000)] + 0.3 * rng.normal(size=(4000, 32))
    queries = vectors[:200] + 0.1 * rng.normal(size=(200, 32))
    exact = NearestNeighborIndex(10, metric, "exact").fit(vectors)
    graph = NearestNeighborIndex(10, metric, "hnsw").fit(vectors)
    wanted = exact.kneighbors(queries, return_distance=False)
    got = graph.kneighbors(queries, return_distance=False)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(got, wanted, strict=True)])
    assert recall > 0.95


def test_exact_search_keeps_digits_far_from_the_origin() -> None:
    vectors = 10_000 + np.arange(200, dtype=np.float32)[:, np.newaxis] * np.float32(0.125)
    vectors = np.hstack([vectors, vectors])
    rows = NearestNeighborIndex(3, "euclidean").fit(vectors).kneighbors(vectors)[1]
    assert np.array_equal(rows[:, 0], np.arange(200))
    assert (np.abs(rows[:, 1:] - rows[:, :1]) <= 2).all()


@pytest.mark.parametrize("algorithm", ["exact", "hnsw"])
def test_without_queries_no_vector_is_its_own_neighbour(algorithm: str) -> None:
    vectors = np.repeat(np.random.default_rng(0).normal(size=(10, 4)), 5, axis=0)
    distances, rows = NearestNeighborIndex(4, algorithm=algorithm).fit(vectors).kneighbors()
    assert (rows != np.arange(50)[:, np.newaxis]).all()
    assert (distances[:, 0] < 1e-6).all()


def test_the_graph_of_neighbours_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(60, 6)), rng.normal(size=(7, 6))
    for mode in ("distance", "connectivity"):
        ours = NearestNeighborIndex(5, "euclidean", mode=mode).fit(vectors).transform(queries)
        theirs = KNeighborsTransformer(mode=mode, n_neighbors=5).fit(vectors).transform(queries)
        np.testing.assert_allclose(ours.toarray(), theirs.toarray(), atol=1e-5)
    with pytest.warns(UserWarning, match="holds 3 neighbours a row, not 6"):
        NearestNeighborIndex().fit(vectors[:3]).transform(queries)


def test_it_feeds_precomputed_metrics() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 6))
    tsne = TSNE(metric="precomputed", init="random", perplexity=5, max_iter=250)
    index = NearestNeighborIndex(20, "euclidean")
    assert make_pipeline(index, tsne).fit_transform(vectors).shape == (40, 2)


BAD_QUERIES = {
    "another width": np.zeros((2, 7)),
    "one dimension": np.zeros(4),
    "NaN": np.full((2, 4), np.nan),
    "infinite": np.full((2, 4), np.inf),
    "too large for float32": np.full((2, 4), 1e300),
    "words": [["a"] * 4],
    "None": [None],
    "three dimensions": np.zeros((2, 4, 1)),
}


@pytest.mark.parametrize("what", BAD_QUERIES)
@pytest.mark.parametrize("algorithm", ["exact", "hnsw"])
def test_bad_queries_are_errors_and_the_index_lives(what: str, algorithm: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 4))
    index = NearestNeighborIndex(algorithm=algorithm).fit(vectors)
    before = index.kneighbors(vectors)
    for call in (index.kneighbors, index.transform):
        with pytest.raises(ValueError):  # noqa: PT011 (scikit-learn's words differ by kind)
            call(BAD_QUERIES[what])
    if what != "another width" and what != "words":
        with pytest.raises(ValueError):  # noqa: PT011
            NearestNeighborIndex(algorithm=algorithm).fit(BAD_QUERIES[what])
    assert all(map(np.array_equal, index.kneighbors(vectors), before))


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_neighbors", 0), ("metric", "l1"), ("algorithm", "tree"), ("mode", "x"), ("M", 1),
     ("ef_construction", 0), ("ef_search", 0)],
)  # fmt: skip
def test_bad_parameters_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        NearestNeighborIndex(**{name: value}).fit(np.eye(3))


def test_calls_before_fit_say_so() -> None:
    for call in (NearestNeighborIndex().kneighbors, NearestNeighborIndex().transform):
        with pytest.raises(NotFittedError):
            call(np.eye(3))
    with pytest.raises(ValueError, match="n_neighbors"):
        NearestNeighborIndex().fit(np.eye(3)).kneighbors(np.eye(3), 0)


def test_a_failed_fit_leaves_the_old_index() -> None:
    index = NearestNeighborIndex(1).fit(np.eye(3))
    with pytest.raises(ValueError, match="NaN"):
        index.fit(np.full((5, 3), np.nan))
    assert index.kneighbors(np.eye(3))[1].ravel().tolist() == [0, 1, 2]


def test_the_cosine_distance_of_a_zero_vector_is_one() -> None:
    index = NearestNeighborIndex(2).fit([[0.0, 0.0], [1.0, 0.0]])
    assert index.kneighbors([[0.0, 0.0]])[0].tolist() == [[1.0, 1.0]]
    assert index.kneighbors([[5.0, 0.0]])[1].tolist() == [[1, 0]]


def test_tiny_and_huge_vectors_have_cosines() -> None:
    directions = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    for scale in (1e-30, 1e14):
        rows = NearestNeighborIndex(1).fit(directions * np.float32(scale)).kneighbors(directions)[1]
        assert np.array_equal(rows.ravel(), np.arange(20))


@pytest.mark.parametrize("dump", [pickle.dumps, None])
def test_pickles_and_joblib_files_give_the_same_answers(dump: Any, tmp_path: Any) -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 8))
    index = NearestNeighborIndex(algorithm="hnsw").fit(vectors)
    if dump:
        again = pickle.loads(dump(index))
    else:
        joblib.dump(index, tmp_path / "index.joblib")
        again = joblib.load(tmp_path / "index.joblib")
    assert all(map(np.array_equal, again.kneighbors(vectors), index.kneighbors(vectors)))
    assert pickle.loads(pickle.dumps(NearestNeighborIndex())).fit(vectors).n_samples_fit_ == 300


def test_threads_may_query_at_once() -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 8))
    index = NearestNeighborIndex(algorithm="hnsw").fit(vectors)
    wanted = {k: index.kneighbors(vectors, k)[1] for k in (1, 5, 200)}
    with ThreadPoolExecutor(4) as pool:
        for k, got in pool.map(lambda k: (k, index.kneighbors(vectors, k)[1]), [1, 5, 200] * 8):
            assert np.array_equal(got, wanted[k])


def test_large_collections_get_a_graph() -> None:
    vectors = np.random.default_rng(0).normal(size=(10_000, 2))
    assert NearestNeighborIndex(M=4, ef_construction=10).fit(vectors).algorithm_ == "hnsw"
    assert NearestNeighborIndex().fit(vectors[1:]).algorithm_ == "exact"


def test_columns_of_a_table_are_remembered() -> None:
    import pandas

    table = pandas.DataFrame(np.eye(3), columns=["a", "b", "c"])
    index = NearestNeighborIndex().fit(table)
    assert index.feature_names_in_.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names"):
        index.kneighbors(table[["c", "b", "a"]])
