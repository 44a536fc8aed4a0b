"""How much an index finds, what it says of that, and how it chooses between graph and scan."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imgembed import NearestNeighborIndex
from imgembed.index import RecallCurve, RecallEstimate, _node_index
from imgembed.index._costs import vectors_per_candidate
from imgembed.index._hnsw import Graph

Floats = NDArray[np.float64]

# A graph of few links, so that its recall depends on what is visited.
POOR = {"algorithm": "hnsw", "M": 6, "ef_construction": 30, "metric": "euclidean"}
VERY_POOR = POOR | {"M": 5, "ef_construction": 12}
# What chance may take from the mean recall of 400 queries.
CHANCE = 0.02


@pytest.fixture(autouse=True)
def _graphs_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Visit the graph where few vectors would be scanned, and extend it often."""
    monkeypatch.setattr(_node_index, "_EXACT_BELOW", 500)
    monkeypatch.setattr(_node_index, "_MOST_OUTSIDE", 50)
    monkeypatch.setattr(_node_index, "vectors_per_candidate", lambda *_, **__: 0.0)


@pytest.fixture(scope="module")
def points() -> tuple[Floats, Floats]:
    """3,000 points in sixty clouds, and 400 queries from the same clouds."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 16))
    cloud = rng.integers(60, size=3400)
    drawn = centres[cloud] + 0.4 * rng.normal(size=(3400, 16))
    return drawn[:3000], drawn[3000:]


def found_share(found: Floats, exact: Floats) -> float:
    """The share of distances that are no larger than the last true one; inf does not count."""
    furthest = exact[:, -1:]
    within = found <= furthest + 1e-6 + 1e-5 * np.abs(furthest)
    return float((within & np.isfinite(found)).sum() / np.isfinite(exact).sum())


def recall(index: NearestNeighborIndex, queries: Any, k: int = 10, **options: Any) -> float:
    """The share of the true neighbours that is found; equal distances are equal."""
    found = index.kneighbors(queries, k, **options)[0]
    exact = index.kneighbors(queries, k, exact=True, **options)[0]
    return found_share(found, exact)


# The recall that was asked for.


@pytest.mark.parametrize("target", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("metric", ["cosine", "euclidean", "ip"])
def test_other_queries_find_what_was_asked_for_and_said(
    points: Any, metric: str, target: float
) -> None:
    vectors, queries = points
    options = POOR | {"metric": metric}
    index = NearestNeighborIndex(10, target_recall=target, **options).fit(vectors)
    estimate, true = index.recall_estimate_, recall(index, queries)
    assert true >= target - CHANCE
    assert estimate.low <= estimate.recall <= estimate.high
    assert estimate.recall >= target
    assert estimate.low - CHANCE <= true <= estimate.high + CHANCE
    assert (estimate.n_neighbors, estimate.ef) == (10, index.ef_search_)
    assert estimate.n_queries == 250


def test_more_recall_takes_more_candidates(points: Any) -> None:
    vectors, queries = points
    efs, found = [], []
    for target in (0.5, 0.9, 0.95, 0.99):
        index = NearestNeighborIndex(10, target_recall=target, **VERY_POOR).fit(vectors)
        efs.append(index.ef_search_)
        found.append(recall(index, queries))
    assert efs == sorted(efs)
    assert len(set(efs)) == 4
    assert found == sorted(found)
    assert found[-1] > 0.98
    assert found[0] < 0.9  # so that the tests above are able to fail


def test_other_numbers_of_neighbours_have_the_recall_too(points: Any) -> None:
    vectors, queries = points
    index = NearestNeighborIndex(10, target_recall=0.95, **POOR).fit(vectors)
    for k in (1, 5, 30, 100, 400):
        assert recall(index, queries[:200], k) >= 0.95 - 1.5 * CHANCE, f"{k} neighbours"


def test_a_given_number_of_candidates_is_kept_and_measured(points: Any) -> None:
    vectors, queries = points
    index = NearestNeighborIndex(10, ef_search=25, **POOR).fit(vectors)
    estimate = index.recall_estimate_
    assert index.ef_search_ == estimate.ef == 25
    assert index._collection.nodes.planned_ef(10, 1, 3000) == 25
    assert abs(recall(index, queries) - estimate.recall) < 2 * CHANCE
    assert index._collection.nodes.planned_ef(60, 1, 3000) == 60


def test_exact_search_is_exact_and_says_so(points: Any) -> None:
    index = NearestNeighborIndex(10, "euclidean", "exact").fit(points[0])
    assert index.recall_estimate_ == RecallEstimate(1.0, 1.0, 1.0, 10, 0, 0)
    assert index.ef_search_ == 0
    assert len(index.recall_curve(points[1])) == len(index.recall_curve()) == 0
    assert recall(index, points[1]) == 1


def test_estimates_outlive_a_pickle(points: Any) -> None:
    import pickle

    index = NearestNeighborIndex(10, **POOR).fit(points[0][:800])
    again = pickle.loads(pickle.dumps(index))
    assert again.recall_estimate_ == index.recall_estimate_
    assert again._collection.nodes.curve() == index._collection.nodes.curve()


# A graph that grows.


def test_a_graph_that_grew_finds_as_much_as_one_built_at_once(points: Any) -> None:
    vectors, queries = points
    at_once = NearestNeighborIndex(10, target_recall=0.95, **POOR).fit(vectors)
    grown = NearestNeighborIndex(10, target_recall=0.95, **POOR).fit(vectors[:600])
    for start in range(600, 3000, 77):
        grown.add(vectors[start : start + 77])
    nodes = grown._collection.nodes
    assert len(nodes.graph) > 2800  # type: ignore[arg-type]
    # With as many candidates for both: the graphs, not the tuning, are compared.
    for ef in (10, 30, 90):
        found = [_found(one, queries, nodes_ef) for one, nodes_ef in ((at_once, ef), (grown, ef))]
        assert abs(found[0] - found[1]) < CHANCE + 0.01, f"{found} with {ef} candidates"
    assert recall(grown, queries) >= 0.95 - CHANCE


def test_it_is_tuned_again_when_it_has_grown_by_half(points: Any) -> None:
    vectors = points[0]
    index = NearestNeighborIndex(10, target_recall=0.95, **POOR).fit(vectors[:600])
    nodes = index._collection.nodes
    first = nodes.tuning
    assert first is not None
    assert first.n_nodes == 600
    index.add(vectors[600:800])
    assert nodes.tuning is first
    index.add(vectors[800:1000])
    assert nodes.tuning is not None
    assert nodes.tuning.n_nodes == 1000
    assert nodes.tuning.n_queries > first.n_queries
    index.add(vectors[1000:])
    assert nodes.tuning.n_nodes == 3000
    assert all(nodes.tuning.ef(k) >= first.ef(k) for k in (10, 100))


def test_vectors_that_are_not_in_the_graph_yet_are_found(points: Any) -> None:
    vectors, queries = points
    index = NearestNeighborIndex(3, target_recall=1.0, **POOR).fit(vectors[:1000])
    index.add(queries[:40])
    nodes = index._collection.nodes
    assert len(nodes.graph) == 1000  # type: ignore[arg-type]
    distances, rows = index.kneighbors(queries[:40], 1)
    assert np.array_equal(rows.ravel(), np.arange(1000, 1040))
    assert distances.max() < 1e-2
    index.add(queries[40:80])
    assert len(nodes.graph) == 1080  # type: ignore[arg-type]


def test_removals_and_replacements_leave_the_recall(points: Any) -> None:
    vectors, queries = points
    index = NearestNeighborIndex(10, target_recall=0.95, **POOR).fit(vectors)
    index.remove(range(0, 1500, 2))  # a quarter: stays in the graph
    assert len(index._collection.nodes) == 3000
    assert recall(index, queries) >= 0.95 - CHANCE
    index.upsert(vectors[1::30] + 2, range(1, 3000, 30))
    assert recall(index, np.vstack([queries, queries[:50] + 2])) >= 0.95 - CHANCE
    index.compact()
    assert len(index._collection.nodes) == len(index) == 2250
    assert recall(index, queries) >= 0.95 - CHANCE


def test_the_seed_decides_the_graph_and_equal_seeds_give_equal_ones(points: Any) -> None:
    vectors = points[0][:900]

    def curve(seed: int) -> Any:
        index = NearestNeighborIndex(10, random_state=seed, **POOR).fit(vectors)
        return index._collection.nodes.curve(), index.kneighbors(points[1][:50])[1].tolist()

    assert curve(0) == curve(0)
    assert curve(0) != curve(1)


# Copies.


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_forty_copies_of_each_image_do_not_hide_the_others(storage: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(600, 8))
    order = rng.permutation(600 * 40)
    vectors = np.repeat(images, 40, axis=0)[order]
    index = NearestNeighborIndex(45, "euclidean", "hnsw", storage=storage).fit(vectors)
    assert index.algorithm_ == "hnsw"
    assert len(index._collection.nodes) == 600
    distances, rows = index.kneighbors(images[:100], 45)
    image_of = order // 40
    for image, (some, far) in enumerate(zip(rows, distances, strict=True)):
        assert (image_of[some[:40]] == image).all(), "all copies come first"
        assert len(set(some.tolist())) == 45
        assert np.ptp(far[:40]) < 1e-5
        assert (far[40:] > far[39] + 1e-3).all()
    # 90 neighbours are three images: the image, and the same two that a scan finds.
    assert recall(index, images[:200], 90) > 0.95


def test_copies_that_come_later_join_their_node(points: Any) -> None:
    vectors = points[0][:700]
    index = NearestNeighborIndex(2, target_recall=1.0, **POOR).fit(vectors)
    graph = index._collection.nodes.graph
    for _ in range(3):
        index.add(vectors[::-1])
    assert len(index) == 2800
    assert len(index._collection.nodes) == len(graph) == 700  # type: ignore[arg-type]
    rows = index.kneighbors(vectors[:5], 4, return_distance=False)
    assert rows.tolist() == [[i, 1399 - i, 2099 - i, 2799 - i] for i in range(5)]
    index.remove(range(700))
    rows = index.kneighbors(vectors[:5], 4, return_distance=False)
    assert rows[:, :3].tolist() == [[699 - i, 1399 - i, 2099 - i] for i in range(5)]


# The planner.


@pytest.fixture
def _usual_costs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def costs(n_queries: int, n_features: int, *, copied: bool) -> float:
        return min(10 * n_queries, 100)

    monkeypatch.setattr(_node_index, "vectors_per_candidate", costs)
    monkeypatch.setattr(_node_index, "_MARGIN", 1.0)
    return


@pytest.mark.usefixtures("_usual_costs")
def test_the_planner_scans_where_few_vectors_are_allowed(points: Any) -> None:
    nodes = NearestNeighborIndex(10, ef_search=20, **POOR).fit(points[0])._collection.nodes
    # One query visits 20 candidates in the time in which a scan compares 200 vectors.
    assert nodes.planned_ef(10, 1, 3000) == 20
    assert nodes.planned_ef(10, 1, 1500) == 40
    assert nodes.planned_ef(10, 1, 776) == 77
    assert nodes.planned_ef(10, 1, 774) is None
    assert nodes.planned_ef(10, 1, 30) is None
    assert nodes.planned_ef(10, 1, 1) is None
    # Many queries share the reading of a scan.
    assert nodes.planned_ef(10, 1000, 3000) == 20
    assert nodes.planned_ef(10, 1000, 2000) is None
    # More neighbours take more candidates.
    assert nodes.planned_ef(200, 1, 3000) == 200
    assert nodes.planned_ef(400, 1, 3000) is None


@pytest.mark.usefixtures("_usual_costs")
@pytest.mark.parametrize("share", [0.5, 0.3, 0.1, 0.01, 0.001])
def test_filters_keep_the_recall(points: Any, share: float) -> None:
    vectors, queries = points
    index = NearestNeighborIndex(10, target_recall=0.95, **POOR).fit(
        vectors, records={"draw": np.random.default_rng(1).random(3000)}
    )
    plans = set()
    for size in (1, 400):  # one by one, and together
        parts = np.split(queries, len(queries) // size)[: 1 if size > 1 else 60]
        shares = [recall(index, part, where="draw < ?", params=(share,)) for part in parts]
        assert np.mean(shares) >= 0.95 - CHANCE - (0.02 if size == 1 else 0)
        plan = index._collection.nodes.planned_ef(10, size, round(3000 * share))
        plans.add(plan is None)
    assert plans == ({True} if share <= 0.1 else {True, False})


def test_filters_that_go_with_the_place_keep_the_recall_in_a_graph(points: Any) -> None:
    """Where the graph finds too little of what lies far away, that is scanned."""
    vectors, queries = points
    index = NearestNeighborIndex(10, target_recall=0.95, **POOR).fit(vectors)
    mask = vectors[:, 0] > 1.5
    assert 50 < mask.sum() < 600
    found = index.kneighbors(queries, where=mask)
    assert mask[found[1]].all()
    assert (found[1] >= 0).all()


def test_exact_search_is_always_possible(points: Any) -> None:
    vectors, queries = points
    index = NearestNeighborIndex(10, ef_search=10, **VERY_POOR).fit(vectors)
    wanted = np.sort(np.linalg.norm(queries[:, None] - vectors[None], axis=2), axis=1)[:, :10]
    np.testing.assert_allclose(index.kneighbors(queries, exact=True)[0], wanted, atol=1e-4)
    assert recall(index, queries) < 0.9


@pytest.mark.usefixtures("_usual_costs")
def test_where_no_visit_suffices_all_is_scanned_also_when_the_graph_grows(points: Any) -> None:
    vectors, queries = points
    options = POOR | {"M": 2, "ef_construction": 2}
    index = NearestNeighborIndex(10, target_recall=0.99, **options).fit(vectors[:2000])
    nodes = index._collection.nodes
    for more in (vectors[2000:2500], vectors[2500:2900]):
        assert nodes.planned_ef(10, 1, len(index)) is None
        assert recall(index, queries) == 1
        assert index.recall_estimate_.recall == 1
        tuning = nodes.tuning
        assert tuning is not None
        assert tuning.ef(10) == 1800  # all that were in the graph
        index.add(more)
        assert nodes.tuning is tuning


def test_where_the_graph_reaches_too_few_all_is_scanned(
    points: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, queries = points
    index = NearestNeighborIndex(10, ef_search=20, **POOR).fit(vectors)
    assert recall(index, queries) < 1
    monkeypatch.setattr(Graph, "candidates", lambda *_: None)
    assert recall(index, queries) == 1
    assert recall(index, queries, where=np.arange(3000) % 2 == 0) == 1
    assert index.recall_curve(queries).recall.tolist() == [1]


# The curve.


def test_the_curve_rises_with_the_candidates(points: Any) -> None:
    vectors, queries = points[0], points[1][:100]
    index = NearestNeighborIndex(10, target_recall=0.95, **POOR).fit(vectors)
    for curve in (
        index.recall_curve(queries),
        index.recall_curve(),
        index.recall_curve(queries, 3),
    ):
        assert isinstance(curve, RecallCurve)
        assert len(curve) > 2
        assert (np.diff(curve.ef) > 0).all()
        assert (np.diff(curve.recall) > -0.01).all()
        assert (curve.low <= curve.recall).all()
        assert (curve.recall <= curve.high).all()
        assert (curve.queries_per_second > 0).all()
        table = curve.to_pandas()
        assert list(table.columns) == ["ef", "recall", "low", "high", "queries_per_second"]
        assert len(table) == len(curve)
    assert index.recall_curve(queries).n_neighbors == 10
    assert index.recall_curve(queries, 3).n_neighbors == 3
    assert index.recall_curve(queries).recall[-1] > 0.99


def test_the_curve_is_what_searches_have(points: Any) -> None:
    vectors, queries = points
    curve = NearestNeighborIndex(10, **POOR).fit(vectors).recall_curve(queries)
    ef, said = int(curve.ef[1]), curve.recall[1]
    index = NearestNeighborIndex(10, ef_search=ef, **POOR).fit(vectors)
    assert recall(index, queries) == pytest.approx(said, abs=0.02)


def test_all_search_is_automatic_by_size() -> None:
    vectors = np.random.default_rng(0).normal(size=(520, 6))
    options = POOR | {"algorithm": "auto"}
    assert NearestNeighborIndex(5, **options).fit(vectors[:499]).algorithm_ == "exact"
    index = NearestNeighborIndex(5, **options).fit(np.repeat(vectors[:260], 2, axis=0))
    assert index.algorithm_ == "exact"  # distinct vectors count
    index.add(vectors[260:])
    assert index.algorithm_ == "hnsw"
    assert index.ef_search_ > 0


def _found(index: NearestNeighborIndex, queries: Any, ef: int) -> float:
    """The recall of the graph alone with so many candidates."""
    found = index._collection.nodes.visit(queries.astype(np.float32), 10, ef, 1)[0]
    return found_share(found, index.kneighbors(queries, 10, exact=True)[0])


def test_a_scan_is_dear_for_one_query_and_for_copied_vectors() -> None:
    costs = [vectors_per_candidate(n, 128, copied=False) for n in (1, 10, 100, 1000)]
    copied = [vectors_per_candidate(n, 128, copied=True) for n in (1, 10, 100, 1000)]
    assert costs == sorted(costs)
    assert all(0 < some < all_ for some, all_ in zip(copied, costs, strict=True))
    assert vectors_per_candidate(1, 1280, copied=False) < costs[0]
