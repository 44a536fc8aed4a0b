"""Groups of near-duplicates are those of complete linkage, whatever the order of the pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

from imgembed.index._near_duplicates import complete_linkage_groups

Floats = NDArray[np.float64]


def pairs_within(table: Floats, threshold: float) -> tuple[NDArray[np.int64], ...]:
    first, second = np.nonzero(np.triu(table <= threshold, 1))
    return first, second, table[first, second]


def groups_of(table: Floats, threshold: float) -> list[list[int]]:
    groups = complete_linkage_groups(*pairs_within(table, threshold), len(table))
    return [group.tolist() for group in groups]


def greedy_groups(table: Floats, threshold: float) -> list[list[int]]:
    """By the definition: over and over the nearest two groups, ties by first members."""
    groups = [[item] for item in range(len(table))]
    while True:
        mergeable = [
            (farthest, a[0], b[0], a, b)
            for i, a in enumerate(groups)
            for b in groups[i + 1 :]
            if (farthest := table[np.ix_(a, b)].max()) <= threshold
        ]
        if not mergeable:
            return [group for group in groups if len(group) > 1]
        _, _, _, a, b = min(mergeable, key=lambda each: each[:3])
        groups = sorted([*(g for g in groups if g is not a and g is not b), sorted(a + b)])


def a_table(n_items: int, n_features: int, seed: int, decimals: int) -> Floats:
    points = np.random.default_rng(seed).random((n_items, n_features))
    return squareform(pdist(points).round(decimals))


tables = st.builds(
    a_table,
    n_items=st.integers(2, 14),
    n_features=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    decimals=st.sampled_from([1, 15]),  # with 1 decimal most distances are tied
)
thresholds = st.floats(0, 1.2)


@given(tables, thresholds)
def test_groups_are_those_of_the_definition_ties_included(table: Floats, threshold: float) -> None:
    assert groups_of(table, threshold) == greedy_groups(table, threshold)


@given(st.integers(2, 60), st.integers(1, 4), st.integers(0, 10**6), thresholds)
@settings(max_examples=60)
def test_groups_are_those_of_scipy(n_items: int, width: int, seed: int, threshold: float) -> None:
    condensed = pdist(np.random.default_rng(seed).random((n_items, width)))
    labels = fcluster(linkage(condensed, "complete"), threshold, "distance")
    theirs = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    ours = groups_of(squareform(condensed), threshold)
    assert ours == sorted(group for group in theirs if len(group) > 1)


@given(tables, thresholds)
def test_every_pair_of_a_group_is_near_and_no_two_groups_could_be_one(
    table: Floats, threshold: float
) -> None:
    groups = groups_of(table, threshold)
    grouped = [item for group in groups for item in group]
    assert len(grouped) == len(set(grouped))
    assert all(table[np.ix_(group, group)].max() <= threshold for group in groups)
    alone = [[item] for item in range(len(table)) if item not in grouped]
    for i, a in enumerate(groups + alone):
        for b in (groups + alone)[i + 1 :]:
            assert table[np.ix_(a, b)].max() > threshold


@given(tables, thresholds, st.randoms(use_true_random=False))
def test_the_order_of_pairs_and_of_their_ends_does_not_matter(
    table: Floats, threshold: float, random: st.DataObject
) -> None:
    first, second, distances = pairs_within(table, threshold)
    rng = np.random.default_rng(random.randrange(10**6))
    order, turned = rng.permutation(len(first)), rng.random(len(first)) < 0.5
    first, second = np.where(turned, second, first), np.where(turned, first, second)
    shuffled = complete_linkage_groups(first[order], second[order], distances[order], len(table))
    assert [group.tolist() for group in shuffled] == groups_of(table, threshold)


def test_a_chain_is_cut() -> None:
    items = np.arange(9)
    groups = complete_linkage_groups(items[:-1], items[1:], np.ones(8), 9)
    assert [group.tolist() for group in groups] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_distances_below_zero_are_distances() -> None:
    groups = complete_linkage_groups(np.array([0, 1]), np.array([1, 2]), np.array([0.5, -0.5]), 3)
    assert [group.tolist() for group in groups] == [[1, 2]]


def test_without_pairs_there_are_no_groups() -> None:
    nothing = np.empty(0, dtype=np.int64)
    assert complete_linkage_groups(nothing, nothing, nothing.astype(float), 3) == []
    assert complete_linkage_groups(nothing, nothing, nothing.astype(float), 0) == []


def test_a_thousand_items_nearly_all_near_are_grouped_as_scipy_does() -> None:
    rng = np.random.default_rng(0)
    condensed = rng.permutation(1000 * 999 // 2) / 1000
    threshold = float(np.quantile(condensed, 0.99))
    labels = fcluster(linkage(condensed, "complete"), threshold, "distance")
    theirs = sorted(np.flatnonzero(labels == label).tolist() for label in np.unique(labels))
    ours = groups_of(squareform(condensed), threshold)
    assert ours == [group for group in theirs if len(group) > 1]


def test_a_long_chain_of_ever_longer_steps_takes_no_square_of_time() -> None:
    items = np.arange(60_000)
    groups = complete_linkage_groups(items[:-1], items[1:], items[1:] / 7, len(items))
    assert len(groups) == 30_000


@pytest.mark.parametrize(
    ("first", "second", "distances", "said"),
    [
        ([0], [1], [0.1, 0.2], "1 pairs and 2 distances"),
        ([0], [3], [0.1], "n_items=3"),
        ([-1], [2], [0.1], "from -1 to 2"),
        ([0, 2], [1, 2], [0.1, 0.1], "Item 2 is paired with itself"),
        ([0, 1, 1], [1, 2, 0], [0.1, 0.1, 0.1], "items 0 and 1 is given twice"),
        ([0], [1], [np.nan], "pair 0 is nan"),
        ([0, 1], [1, 2], [0.1, np.inf], "pair 1 is inf"),
    ],
)
def test_wrong_pairs_are_refused(
    first: list[int], second: list[int], distances: list[float], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        complete_linkage_groups(np.array(first), np.array(second), np.array(distances), 3)
