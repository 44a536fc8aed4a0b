"""The index among scikit-learn's estimators: the same graphs as theirs, and the same results."""

import warnings
from typing import Any

import joblib
import numpy as np
import pytest
from index_faults import busy_graphs
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.cluster import DBSCAN, SpectralClustering
from sklearn.datasets import make_blobs
from sklearn.manifold import TSNE, Isomap
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsTransformer,
    LocalOutlierFactor,
    NearestNeighbors,
)
from sklearn.pipeline import make_pipeline

from imgembed import NearestNeighborIndex

Floats = NDArray[np.float64]

# Ours for "ip" has no counterpart there.
METRICS = ("euclidean", "cosine")


@pytest.fixture(scope="module")
def blobs() -> tuple[Floats, NDArray[np.int64]]:
    """Four groups of thirty vectors, away from the origin."""
    return make_blobs(120, 6, centers=4, center_box=(5, 15), random_state=0)  # type: ignore[no-any-return]


def theirs(n_neighbors: int, metric: str, mode: str = "distance") -> KNeighborsTransformer:
    """scikit-learn's transformer, by brute force."""
    return KNeighborsTransformer(
        mode=mode, n_neighbors=n_neighbors, metric=metric, algorithm="brute"
    )


@pytest.mark.parametrize("mode", ["distance", "connectivity"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("algorithm", ["exact", "hnsw"])
def test_graphs_are_scikit_learns_row_by_row(
    blobs: Any, metric: str, mode: str, algorithm: str
) -> None:
    vectors = blobs[0]
    queries = vectors[:20] + 0.3
    index = NearestNeighborIndex(7, metric, algorithm, mode=mode, ef_search=100)
    other = theirs(7, metric, mode)
    with busy_graphs():
        ours = (index.fit_transform(vectors), index.transform(queries), index.transform(vectors))
    for graph, wanted in zip(
        ours,
        (other.fit_transform(vectors), other.transform(queries), other.transform(vectors)),
        strict=True,
    ):
        assert graph.format == "csr"
        assert graph.shape == wanted.shape
        assert np.array_equal(graph.indptr, wanted.indptr)
        assert graph.dtype == wanted.dtype
        np.testing.assert_allclose(graph.toarray(), wanted.toarray(), atol=2e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_the_diagonal_holds_explicit_zeros_and_rows_ascend(metric: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 5))
    vectors[10:20] = vectors[:10]
    vectors[29] = 0
    graph = NearestNeighborIndex(4, metric).fit_transform(vectors)
    assert np.array_equal(np.diff(graph.indptr), np.full(30, 5))
    rows, entries = graph.indices.reshape(30, 5), graph.data.reshape(30, 5)
    assert np.array_equal(rows[:, 0], np.arange(30))  # itself before its copy
    assert np.array_equal(entries[:, 0], np.zeros(30))
    assert (np.diff(entries, axis=1) >= 0).all()
    assert (entries >= 0).all()
    assert all(len(set(row)) == 5 for row in rows.tolist())


def test_distance_mode_has_one_neighbour_more() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 5))
    for mode, n in (("distance", 5), ("connectivity", 4)):
        index = NearestNeighborIndex(4, mode=mode).fit(vectors)
        assert (np.diff(index.transform(vectors[:3]).indptr) == n).all()
        assert (
            np.diff(NearestNeighborIndex(4, mode=mode).fit_transform(vectors).indptr) == n
        ).all()


def test_cosine_distances_are_never_below_zero() -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(50, 300)), 2, axis=0) * rng.uniform(1e-3, 1e3, (100, 1))
    for algorithm in ("exact", "hnsw"):
        graph = NearestNeighborIndex(5, "cosine", algorithm).fit(vectors).transform(vectors)
        assert graph.data.min() >= 0


def test_graphs_follow_changes(blobs: Any) -> None:
    vectors = blobs[0]
    index = NearestNeighborIndex(5, "euclidean").fit(vectors[:80])
    index.add(vectors[80:]).remove(range(10))
    wanted = theirs(5, "euclidean").fit(vectors[10:]).transform(vectors)
    np.testing.assert_allclose(index.transform(vectors).toarray(), wanted.toarray(), atol=1e-3)


def test_radius_neighbors_are_scikit_learns(blobs: Any) -> None:
    vectors = blobs[0]
    index = NearestNeighborIndex(metric="euclidean").fit(vectors)
    other = NearestNeighbors(metric="euclidean", algorithm="brute").fit(vectors)
    for queries in (vectors[:9] + 0.1, None):
        distances, rows = index.radius_neighbors(queries, 3.0)
        wanted = other.radius_neighbors(queries, 3.0, sort_results=queries is not None)
        assert distances.dtype == rows.dtype == object
        for ours, by_theirs in zip(rows, wanted[1], strict=True):
            assert sorted(ours) == sorted(by_theirs)
        for ours, by_theirs in zip(distances, wanted[0], strict=True):
            np.testing.assert_allclose(ours, np.sort(by_theirs), atol=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_classifiers_say_the_same_on_either_graph(blobs: Any, metric: str) -> None:
    vectors, labels = blobs
    train, test = np.arange(0, 120, 2), np.arange(1, 120, 2)
    answers = []
    for transformer in (NearestNeighborIndex(6, metric), theirs(6, metric)):
        classifier = KNeighborsClassifier(5, metric="precomputed")
        pipeline = make_pipeline(transformer, classifier).fit(vectors[train], labels[train])
        answers.append(pipeline.predict(vectors[test]))
    assert np.array_equal(*answers)
    direct = KNeighborsClassifier(5, metric=metric, algorithm="brute")
    assert np.array_equal(
        answers[0], direct.fit(vectors[train], labels[train]).predict(vectors[test])
    )


def test_dbscan_and_outliers_are_the_same_on_either_graph(blobs: Any) -> None:
    vectors = blobs[0]
    clusters, outliers = [], []
    for transformer in (NearestNeighborIndex(20, "euclidean"), theirs(20, "euclidean")):
        dbscan = DBSCAN(eps=2.2, min_samples=4, metric="precomputed")
        clusters.append(make_pipeline(transformer, dbscan).fit_predict(vectors))
        factor = LocalOutlierFactor(10, metric="precomputed", contamination=0.05)
        outliers.append(make_pipeline(clone(transformer), factor).fit_predict(vectors))
    assert np.array_equal(*clusters)
    assert np.array_equal(*outliers)
    assert len(set(clusters[0])) > 3


def test_spectral_clustering_finds_the_groups(blobs: Any) -> None:
    vectors, labels = blobs
    spectral = SpectralClustering(
        4, affinity="precomputed_nearest_neighbors", n_neighbors=20, random_state=0
    )
    answers = []
    with warnings.catch_warnings():  # the groups are not connected, which it says
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        for transformer in (NearestNeighborIndex(20, "euclidean"), theirs(20, "euclidean")):
            answers.append(make_pipeline(transformer, clone(spectral)).fit_predict(vectors))
    assert adjusted_rand_score(answers[0], labels) > 0.95
    assert adjusted_rand_score(*answers) == pytest.approx(1.0)


def test_isomap_gives_the_same_map_on_either_graph() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 3))
    ours, wanted = (
        make_pipeline(graph, Isomap(n_neighbors=12, metric="precomputed")).fit_transform(vectors)
        for graph in (NearestNeighborIndex(20, "euclidean"), theirs(20, "euclidean"))
    )
    # The same up to the signs of axes, which distances do not show.
    np.testing.assert_allclose(_distances(ours), _distances(wanted), atol=1e-2)


def test_tsne_keeps_the_groups_apart(blobs: Any) -> None:
    vectors, labels = blobs[0][:60], blobs[1][:60]
    tsne = TSNE(
        metric="precomputed", init="random", perplexity=5, max_iter=500, random_state=0, n_jobs=1
    )
    with busy_graphs():
        index = NearestNeighborIndex(20, "euclidean", "hnsw")
        places = make_pipeline(index, tsne).fit_transform(vectors)
    assert _neighbours_of_the_same(places, labels) > 0.9


def test_umap_takes_the_neighbours(blobs: Any) -> None:
    vectors, labels = blobs
    index = NearestNeighborIndex(15, "euclidean").fit(vectors)
    distances, rows = index.kneighbors(vectors)
    assert np.array_equal(rows[:, 0], np.arange(120))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value 1 overridden")
        warnings.filterwarnings("ignore", message=".*precomputed_knn.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of numba and TensorFlow
        umap = pytest.importorskip("umap")
        reducer = umap.UMAP(
            15, precomputed_knn=(rows, distances, None), init="random", random_state=0, n_epochs=50
        )
        places = reducer.fit_transform(vectors)
    assert np.isfinite(places).all()
    assert _neighbours_of_the_same(places, labels) > 0.95


def test_parameters_are_searched_and_validated(blobs: Any) -> None:
    vectors, labels = blobs
    pipeline = make_pipeline(
        NearestNeighborIndex(9, "euclidean"), KNeighborsClassifier(5, metric="precomputed")
    )
    assert cross_val_score(pipeline, vectors, labels, cv=3).min() > 0.9
    grid = {"nearestneighborindex__metric": ["euclidean", "cosine"]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(vectors, labels)
    assert search.best_estimator_.predict(vectors[:2]).shape == (2,)


def test_clones_have_the_parameters_and_nothing_else(blobs: Any) -> None:
    index = NearestNeighborIndex(
        7, "ip", "hnsw", M=5, ef_construction=30, ef_search=40, target_recall=0.9,
        storage="float16", n_jobs=2, mode="connectivity", progress=False, random_state=3,
    ).fit(blobs[0])  # fmt: skip
    again = clone(index)
    assert again.get_params() == index.get_params()
    assert not hasattr(again, "n_features_in_")
    assert "n_neighbors=7" in repr(again)
    again.set_params(metric="cosine")
    assert index.metric == "ip"
    with pytest.raises(ValueError, match="Invalid parameter"):
        again.set_params(neighbours=3)


def test_parameters_set_after_fit_wait_for_the_next_fit(blobs: Any) -> None:
    vectors = blobs[0]
    index = NearestNeighborIndex(3, "euclidean").fit(vectors)
    before = index.kneighbors(vectors[:5])
    index.set_params(metric="cosine", storage="int8")
    assert all(map(np.array_equal, index.kneighbors(vectors[:5]), before))
    index.add(vectors[:5] + 1)
    changed = NearestNeighborIndex(3, "cosine", storage="int8").fit(vectors)
    wanted = changed.kneighbors(vectors[:5])
    assert all(map(np.array_equal, index.fit(vectors).kneighbors(vectors[:5]), wanted))


def test_outputs_have_names(blobs: Any) -> None:
    index = NearestNeighborIndex(3).fit(blobs[0][:30])
    names = index.get_feature_names_out()
    assert len(names) == 30
    assert names[0] == "nearestneighborindex0"
    index.set_output(transform="default")
    assert index.transform(blobs[0][:3]).shape == (3, 30)


@pytest.mark.parametrize("compress", [0, 3])
def test_joblib_files_and_workers_give_the_same_answers(
    blobs: Any, tmp_path: Any, compress: int
) -> None:
    vectors = blobs[0]
    index = NearestNeighborIndex(4, "euclidean", "hnsw").fit(
        vectors, ids=[f"x{row}" for row in range(120)], records={"place": range(120)}
    )
    index.remove(["x3"]).add(vectors[:2] * 2, ids=["new", ("t", 1)])
    joblib.dump(index, tmp_path / "index.joblib", compress=compress)
    again = joblib.load(tmp_path / "index.joblib")
    where = "place > 50 OR place IS NULL"
    wanted = index.search(vectors, where=where)
    got = again.search(vectors, where=where)
    assert got.ids == wanted.ids
    assert got.records == wanted.records
    assert np.array_equal(got.distances, wanted.distances)
    assert list(again) == list(index)
    parts = joblib.Parallel(2)(joblib.delayed(index.kneighbors)(part) for part in (vectors[:60],))
    assert all(map(np.array_equal, parts[0], index.kneighbors(vectors[:60])))


def _distances(places: Floats) -> Floats:
    return np.linalg.norm(places[:, None] - places[None], axis=2).ravel()


def _neighbours_of_the_same(places: Floats, labels: NDArray[np.int64]) -> float:
    """The share of places whose nearest other is of the same group."""
    nearest = NearestNeighbors(n_neighbors=1).fit(places).kneighbors(return_distance=False)[:, 0]
    return float((labels[nearest] == labels).mean())
