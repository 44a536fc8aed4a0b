"""Confidence intervals, tests of differences, and leakage."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from imgembed import HOGEmbedder, read_image
from imgembed.evaluation import (
    _distances,
    bootstrap_interval,
    find_leakage,
    permutation_test,
)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_intervals_cover_the_true_mean_as_often_as_they_say(method: str) -> None:
    samples = np.random.default_rng(0).beta(2, 1, (300, 40))  # skewed, with mean 2/3
    covered = [
        low <= 2 / 3 <= high
        for low, high in (
            bootstrap_interval(each, method=method, confidence=0.9, n_resamples=400, random_state=i)
            for i, each in enumerate(samples)
        )
    ]
    assert 0.85 <= np.mean(covered) <= 0.94


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_intervals_are_those_of_scipy(method: str) -> None:
    sample = np.random.default_rng(1).exponential(size=25)
    wanted = scipy.stats.bootstrap(
        (sample,), np.mean, method=method, n_resamples=20_000, rng=np.random.default_rng(0)
    ).confidence_interval
    found = bootstrap_interval(sample, method=method, n_resamples=20_000, random_state=0)
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_intervals_repeat_and_leave_out_what_nothing_answers() -> None:
    sample = np.random.default_rng(0).random(20)
    first = bootstrap_interval(sample, random_state=3)
    assert first == bootstrap_interval(np.append(sample, np.nan), random_state=3)
    assert first != bootstrap_interval(sample, random_state=4)
    assert first.low < sample.mean() < first.high


def test_equal_values_have_no_width() -> None:
    assert bootstrap_interval([0.3]) == bootstrap_interval([0.3] * 5) == (0.3, 0.3)


@settings(max_examples=40, deadline=None)
@given(
    sample=st.lists(st.floats(0, 1), min_size=1, max_size=9),
    method=st.sampled_from(["bca", "percentile"]),
)
def test_intervals_stay_among_the_values(sample: list[float], method: str) -> None:
    low, high = bootstrap_interval(sample, method=method, n_resamples=50, random_state=0)
    assert min(sample) - 1e-12 <= low <= high <= max(sample) + 1e-12


@pytest.mark.parametrize(
    ("values", "settings", "told"),
    [([], {}, "at least one"), ([np.nan], {}, "at least one"), ([np.inf], {}, "no inf"),
     ([[1]], {}, "shape"), ([1], {"confidence": 95}, "confidence"),
     ([1], {"method": "normal"}, "method"), ([1], {"n_resamples": 0}, "n_resamples")],
)  # fmt: skip
def test_wrong_samples_are_errors(values: Any, settings: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        bootstrap_interval(values, **settings)


@settings(max_examples=40, deadline=None)
@given(pairs=arrays(np.int64, st.tuples(st.integers(1, 8), st.just(2)), elements=st.integers(0, 4)))
def test_few_queries_are_tested_with_every_exchange(pairs: NDArray[Any]) -> None:
    first, second = pairs.T / 4
    sums = [np.dot(signs, first - second) for signs in product((1, -1), repeat=len(first))]
    wanted = np.mean(np.abs(sums) >= abs((first - second).sum()) - 1e-9)
    found = permutation_test(first, second)
    assert found.exact
    assert found.p_value == pytest.approx(wanted)
    assert found.difference == pytest.approx((first - second).mean())


def test_many_queries_are_tested_as_by_scipy() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(50), rng.random(50) + 0.1
    wanted = scipy.stats.permutation_test(
        (first, second),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        rng=np.random.default_rng(1),
    ).pvalue
    found = permutation_test(first, second, random_state=0)
    assert not found.exact
    assert found.p_value == pytest.approx(wanted, abs=0.02)
    assert found == permutation_test(first, second, random_state=0)


def test_where_nothing_differs_small_p_values_are_rare() -> None:
    rng = np.random.default_rng(0)
    p_values = [
        permutation_test(*rng.random((2, 30)), n_permutations=300, random_state=i).p_value
        for i in range(400)
    ]
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.09
    assert permutation_test([0.1, 0.2], [0.1, 0.2]).p_value == 1


def test_a_clear_difference_is_found() -> None:
    rng = np.random.default_rng(0)
    second = rng.random(200)
    found = permutation_test(second + rng.random(200) / 5, second, random_state=0)
    assert found.p_value == pytest.approx(1 / 10_001)
    assert found.n_queries == 200


def test_queries_that_nothing_answers_are_left_out_of_the_test() -> None:
    with_nan = permutation_test([0.9, np.nan, 0.8], [0.1, np.nan, 0.2])
    assert with_nan == permutation_test([0.9, 0.8], [0.1, 0.2])
    with pytest.raises(ValueError, match="NaN in one"):
        permutation_test([0.9, np.nan], [0.1, 0.2])


@pytest.mark.parametrize(
    ("first", "second", "n", "told"),
    [
        ([1], [1, 2], 9, "same queries"),
        ([], [], 9, "at least one"),
        ([1], [1], 0, "n_permutations"),
    ],
)
def test_values_that_do_not_pair_are_errors(first: Any, second: Any, n: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        permutation_test(first, second, n_permutations=n)


def test_planted_copies_leak_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(2, 200, 32)).astype(np.float32)
    test[7] = train[3]
    test[9] = 5 * train[4] + rng.normal(size=32) * 0.1
    for metric, wanted in (("cosine", [7, 9]), ("euclidean", [7])):
        report = find_leakage(train, test, metric=metric)
        assert report.leaked.tolist() == wanted
        assert report.train_rows[0] == 3
        assert report.distances[0] == 0
        assert report.share == len(wanted) / 200
        assert f"{len(wanted)} of 200 test images" in repr(report)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), threshold=st.floats(0, 3))
def test_leakage_is_what_all_pairs_say(metric: str, seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    train, test = rng.normal(size=(9, 3)), rng.normal(size=(7, 3))
    test[:2] = train[:2]
    near, far = (
        (each / np.linalg.norm(each, axis=1, keepdims=True) if metric == "cosine" else each)
        for each in (train, test)
    )
    all_pairs = np.linalg.norm(near[:, np.newaxis] - far, axis=2)
    if metric == "cosine":
        all_pairs = all_pairs**2 / 2
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(_distances, "_BLOCK_ENTRIES", 20)  # two test images at a time
        report = find_leakage(train, test, threshold=threshold, metric=metric)
    pairs = set(zip(report.train_rows.tolist(), report.test_rows.tolist(), strict=True))
    surely = {tuple(each) for each in np.argwhere(all_pairs <= threshold - 1e-9).tolist()}
    perhaps = {tuple(each) for each in np.argwhere(all_pairs <= threshold + 1e-9).tolist()}
    assert surely <= pairs <= perhaps
    assert (np.diff(report.distances) >= 0).all()


def test_small_and_dim_copies_of_photographs_leak(photographs: list[Path]) -> None:
    images = [read_image(path) for path in photographs]
    copies = [(image[::2, ::2] * 0.9).astype(np.uint8) for image in images[:3]]
    embedder = HOGEmbedder(progress=False)
    report = find_leakage(embedder.fit_transform(images), embedder.fit_transform([*copies]))
    assert report.leaked.tolist() == [0, 1, 2]
    assert (report.train_rows == report.test_rows).all()


@pytest.mark.parametrize(
    ("train", "settings", "told"),
    [(np.eye(3), {}, "3 features and test 2"), (np.eye(2), {"metric": "ip"}, "metric"),
     (np.eye(2), {"threshold": -1}, "threshold"), (np.eye(2), {"threshold": np.nan}, "threshold"),
     ([[np.nan, 1]], {}, "1 rows of train hold NaN"), (["a"], {}, "train must be numbers"),
     ([1, 2], {}, "train must have shape")],
)  # fmt: skip
def test_wrong_vectors_are_told(train: Any, settings: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        find_leakage(train, np.eye(2), **settings)
