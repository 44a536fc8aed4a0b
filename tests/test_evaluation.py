"""Measures of rankings, by hand, by plain loops from the papers, and by scikit-learn."""

from collections.abc import Callable
from math import log2
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, ndcg_score
from sklearn.neighbors import KNeighborsClassifier

import imgembed
from imgembed.evaluation import (
    average_precision,
    hit_rate_at_k,
    knn_accuracy,
    knn_correct,
    mean_average_precision,
    mean_average_precision_at_r,
    ndcg,
    ndcg_per_query,
    per_query,
    precision_at_k,
    r_precision,
    recall_at_k,
    trapezoidal_mean_average_precision,
    ukbench_score,
)

MEASURES = [
    "mean_average_precision",
    "trapezoidal_mean_average_precision",
    "mean_average_precision_at_r",
    "r_precision",
    "ndcg",
    "ukbench_score",
    "precision@3",
    "recall@3",
    "hit_rate@3",
    "ndcg@3",
    "revisited_precision@3",
]
# Relevant at ranks 2, 3 and 5 of 6.
SCORES = [[6, 5, 4, 3, 2, 1]]
RELEVANT = [[0, 1, 1, 0, 1, 0]]


@pytest.mark.parametrize(
    ("measure", "by_hand"),
    [
        ("mean_average_precision", (1 / 2 + 2 / 3 + 3 / 5) / 3),
        (
            "trapezoidal_mean_average_precision",
            ((0 / 1 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 4 + 3 / 5) / 2) / 3,
        ),
        ("mean_average_precision_at_r", (1 / 2 + 2 / 3) / 3),
        ("r_precision", 2 / 3),
        ("ndcg", (1 / log2(3) + 1 / 2 + 1 / log2(6)) / (1 + 1 / log2(3) + 1 / 2)),
        ("ndcg@2", (1 / log2(3)) / (1 + 1 / log2(3))),
        ("ukbench_score", 2),
        ("precision@2", 1 / 2),
        ("precision@6", 1 / 2),
        ("recall@2", 1 / 3),
        ("hit_rate@1", 0),
        ("hit_rate@2", 1),
        ("revisited_precision@2", 1 / 2),
        ("revisited_precision@6", 3 / 5),  # the last relevant image is the fifth
    ],
)
def test_measures_are_what_they_are_by_hand(measure: str, by_hand: float) -> None:
    np.testing.assert_allclose(per_query(measure, SCORES, RELEVANT), by_hand)


@pytest.mark.parametrize(
    ("function", "measure"),
    [
        (mean_average_precision, "mean_average_precision"),
        (trapezoidal_mean_average_precision, "trapezoidal_mean_average_precision"),
        (mean_average_precision_at_r, "mean_average_precision_at_r"),
        (r_precision, "r_precision"),
        (ndcg, "ndcg"),
        (ukbench_score, "ukbench_score"),
        (lambda s, r: ndcg(s, r, 2), "ndcg@2"),
        (lambda s, r: precision_at_k(s, r, 2), "precision@2"),
        (lambda s, r: recall_at_k(s, r, 2), "recall@2"),
        (lambda s, r: hit_rate_at_k(s, r, 2), "hit_rate@2"),
    ],
)
def test_functions_are_means_of_the_measures(
    function: Callable[[Any, Any], float], measure: str
) -> None:
    rng = np.random.default_rng(0)
    scores, relevant = rng.random((30, 8)), rng.random((30, 8)) < 0.2
    values = per_query(measure, scores, relevant)
    assert np.isnan(values).any()
    assert function(scores, relevant) == pytest.approx(np.nanmean(values))


def test_average_precision_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(30.0), (20, 1)), axis=1)
    relevant = rng.random((20, 30)) < 0.2
    relevant[:, 0] = True
    wanted = [average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(average_precision(scores, relevant), wanted)


@pytest.mark.parametrize("k", [None, 1, 5])
def test_graded_gains_are_those_of_scikit_learn(k: int | None) -> None:
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(12.0), (20, 1)), axis=1)
    relevance = rng.integers(0, 4, (20, 12))
    assert ndcg(scores, relevance, k) == pytest.approx(ndcg_score(relevance, scores, k=k))


@st.composite
def rankings(draw: Any) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]:
    """Scores with ties, what is relevant and what is ignored."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(3, 12)))
    scores = draw(arrays(np.int64, shape, elements=st.integers(-4, 4)))
    relevant, ignored = (draw(arrays(bool, shape)) for _ in range(2))
    return scores, relevant, ignored


def plainly_ranked(scores: Any, relevant: Any, ignored: Any) -> list[bool]:
    """Relevance in the order of falling scores, relevant ones last, without the ignored."""
    kept = [(-s, r) for s, r, out in zip(scores, relevant, ignored, strict=True) if not out]
    return [bool(r) for _, r in sorted(kept)]


def plain_average_precision(ranked: list[bool], first: int | None = None) -> float:
    """Mean of the precision at each relevant image, among the first few."""
    precisions = [sum(ranked[: i + 1]) / (i + 1) for i in range(len(ranked[:first])) if ranked[i]]
    return sum(precisions) / sum(ranked)


def plain_trapezoids(ranked: list[bool]) -> float:
    """Area under precision over recall, position by position, as Philbin et al. compute it."""
    area, recall, precision = 0.0, 0.0, 1.0
    for i in range(len(ranked)):
        new_recall = sum(ranked[: i + 1]) / sum(ranked)
        new_precision = sum(ranked[: i + 1]) / (i + 1)
        area += (new_recall - recall) * (precision + new_precision) / 2
        recall, precision = new_recall, new_precision
    return area


def plain_revisited_precision(ranked: list[bool], k: int) -> float:
    """Precision at k, or at the rank of the last positive if that comes before."""
    last = max(i + 1 for i, right in enumerate(ranked) if right)
    return sum(ranked[: min(last, k)]) / min(last, k)


def plain_gain(ranked: list[bool], k: int) -> float:
    return sum(1 / log2(i + 2) for i, right in enumerate(ranked[:k]) if right)


PLAIN: dict[str, Callable[[list[bool]], float]] = {
    "mean_average_precision": plain_average_precision,
    "trapezoidal_mean_average_precision": plain_trapezoids,
    "mean_average_precision_at_r": lambda ranked: plain_average_precision(ranked, sum(ranked)),
    "r_precision": lambda ranked: sum(ranked[: sum(ranked)]) / sum(ranked),
    "ndcg": lambda r: plain_gain(r, len(r)) / plain_gain(sorted(r, reverse=True), len(r)),
    "ukbench_score": lambda ranked: sum(ranked[:4]),
    "precision@3": lambda ranked: sum(ranked[:3]) / 3,
    "recall@3": lambda ranked: sum(ranked[:3]) / sum(ranked),
    "hit_rate@3": lambda ranked: any(ranked[:3]),
    "ndcg@3": lambda ranked: plain_gain(ranked, 3) / plain_gain(sorted(ranked, reverse=True), 3),
    "revisited_precision@3": lambda ranked: plain_revisited_precision(ranked, 3),
}


@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=40, deadline=None)
@given(ranking=rankings())
def test_measures_are_those_of_plain_loops(measure: str, ranking: Any) -> None:
    ranked = [plainly_ranked(*each) for each in zip(*ranking, strict=True)]
    wanted = [PLAIN[measure](each) if any(each) else np.nan for each in ranked]
    np.testing.assert_allclose(per_query(measure, *ranking), wanted, atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=20, deadline=None)
@given(ranking=rankings())
def test_only_the_order_of_scores_matters(measure: str, ranking: Any) -> None:
    scores, relevant, ignored = ranking
    plain = per_query(measure, scores, relevant, ignored)
    np.testing.assert_array_equal(per_query(measure, np.exp(scores), relevant, ignored), plain)
    order = np.random.default_rng(0).permutation(scores.shape[1])
    shuffled = per_query(measure, scores[:, order], relevant[:, order], ignored[:, order])
    np.testing.assert_array_equal(shuffled, plain)


@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=20, deadline=None)
@given(ranking=rankings())
def test_a_perfect_ranking_is_best_and_a_wrong_one_worst(measure: str, ranking: Any) -> None:
    scores, relevant, ignored = ranking
    best = per_query(measure, relevant.astype(float), relevant, ignored)
    worst = per_query(measure, -relevant.astype(float), relevant, ignored)
    values = per_query(measure, scores, relevant, ignored)
    some = ~np.isnan(values)
    assert (worst[some] >= 0).all()
    assert (worst[some] <= values[some] + 1e-12).all()
    assert (values[some] <= best[some] + 1e-12).all()
    n_relevant = (relevant & ~ignored).sum(axis=1)[some]
    limits = {
        "ukbench_score": np.minimum(n_relevant, 4),
        "precision@3": np.minimum(n_relevant, 3) / 3,
        "recall@3": np.minimum(n_relevant, 3) / np.maximum(n_relevant, 1),
    }
    np.testing.assert_allclose(best[some], limits.get(measure, 1))


@settings(max_examples=20, deadline=None)
@given(ranking=rankings())
def test_gains_of_yes_and_no_are_those_of_the_measure(ranking: Any) -> None:
    scores, relevant, _ = ranking
    wanted = per_query("ndcg@2", scores, relevant)
    np.testing.assert_allclose(ndcg_per_query(scores, relevant, 2), wanted)


def test_equal_scores_gain_nothing() -> None:
    np.testing.assert_allclose(average_precision([[1, 1, 1]], [[1, 0, 0]]), 1 / 3)
    assert precision_at_k([[1, 1, 1]], [[1, 0, 0]], 1) == 0
    assert ndcg([[1, 1, 1]], [[3, 2, 1]]) == ndcg([[3, 2, 1]], [[1, 2, 3]])


def test_infinite_scores_have_ranks() -> None:
    scores, relevant = [[np.inf, -np.inf, 0, -np.inf]], [[0, 1, 1, 0]]
    np.testing.assert_allclose(average_precision(scores, relevant), (1 / 2 + 2 / 4) / 2)


def test_queries_without_answers_do_not_count() -> None:
    assert mean_average_precision([[2, 1], [2, 1]], [[1, 0], [0, 0]]) == 1
    assert precision_at_k([[2, 1], [2, 1]], [[1, 0], [0, 0]], 1) == 1
    for measure in (mean_average_precision, ndcg):
        with pytest.raises(ValueError, match="no query has a relevant image"):
            measure([[1, 2]], [[0, 0]])


@pytest.mark.parametrize(
    ("scores", "relevant", "told"),
    [([[1]], [[1, 0]], "shape"), ([1], [1], "shape"), ([[np.nan]], [[1]], "NaN"),
     (np.zeros((0, 3)), np.zeros((0, 3)), "at least one")],
)  # fmt: skip
def test_bad_scores_are_errors(scores: Any, relevant: Any, told: str) -> None:
    for measure in (average_precision, ndcg):
        with pytest.raises(ValueError, match=told):
            measure(scores, relevant)


def test_ignored_images_must_fit() -> None:
    with pytest.raises(ValueError, match="scores and ignored must both have shape"):
        per_query("ndcg", SCORES, RELEVANT, [[True]])


@pytest.mark.parametrize("k", [-1, 0, 3])
def test_k_out_of_range_is_an_error(k: int) -> None:
    for measure in (precision_at_k, recall_at_k, hit_rate_at_k, ndcg):
        with pytest.raises(ValueError, match=f"k must be from 1 to .*2.* got {k}"):
            measure([[1, 2]], [[1, 0]], k)


@pytest.mark.parametrize("measure", ["map", "precision", "r_precision@5", "precision@x", None])
def test_an_unknown_measure_is_told_the_known_ones(measure: Any) -> None:
    with pytest.raises(ValueError, match=r"no measure .*mean_average_precision.*recall@k"):
        per_query(measure, SCORES, RELEVANT)


@pytest.mark.parametrize("relevance", [[[-1, 0]], [[np.inf, 0]]])
def test_gains_must_be_finite_and_not_negative(relevance: Any) -> None:
    with pytest.raises(ValueError, match="relevance must be finite"):
        ndcg([[1, 2]], relevance)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("n_neighbors", [1, 3, 7])
def test_knn_accuracy_is_that_of_scikit_learn(metric: str, n_neighbors: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 24)  # of two, an odd number of neighbours has no draws
    vectors = rng.normal(size=(24, 5)) + labels[:, np.newaxis]
    right = []
    for i in range(24):
        rest = np.arange(24) != i
        classifier = KNeighborsClassifier(n_neighbors, metric=metric, algorithm="brute")
        classifier.fit(vectors[rest], labels[rest])
        right.append(classifier.predict(vectors[i : i + 1])[0] == labels[i])
    np.testing.assert_array_equal(knn_correct(vectors, labels, n_neighbors, metric=metric), right)
    assert knn_accuracy(vectors, labels, n_neighbors, metric=metric) == np.mean(right)


@settings(max_examples=40, deadline=None)
@given(
    places=arrays(np.int64, (9, 2), elements=st.integers(-2, 2)),
    labels=arrays(np.int64, 9, elements=st.integers(0, 3)),
    k=st.integers(1, 8),
)
def test_equal_distances_and_draws_do_not_help_a_neighbour_classifier(
    places: NDArray[Any], labels: NDArray[Any], k: int
) -> None:
    wanted = []
    for i in range(9):
        others = [j for j in range(9) if j != i]
        others.sort(key=lambda j: (-(places[j] @ places[i]), labels[j] == labels[i]))
        votes = [labels[j] for j in others[:k]]
        most = max((votes.count(each) for each in set(votes) - {labels[i]}), default=0)
        wanted.append(votes.count(labels[i]) > most)
    np.testing.assert_array_equal(knn_correct(places, labels, k, metric="ip"), wanted)


@pytest.mark.parametrize(
    ("labels", "k", "told"),
    [("ab", 1, "needs a label; got 2"), ("abc", 3, "from 1 to 2"), ("abc", 0, "from 1")],
)
def test_wrong_labels_and_neighbours_are_errors(labels: str, k: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        knn_accuracy(np.eye(3), labels, k)


def test_the_room_is_there_by_its_old_names() -> None:
    assert imgembed.evaluation.mean_average_precision is mean_average_precision
    assert set(imgembed.evaluation.__all__) <= set(dir(imgembed.evaluation))
