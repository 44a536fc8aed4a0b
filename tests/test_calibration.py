"""Probabilities are those of the law the pairs were drawn from, and bad samples are refused."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from imgembed.index._near_duplicates import complete_linkage_groups
from imgembed.index.calibration._calibration import Calibration
from imgembed.index.calibration._labelled import LabelledCalibration, calibrate_labelled
from imgembed.index.calibration._random import RandomPairCalibration, calibrate_random

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

LABELLED = LabelledCalibration(
    slope=4.0,
    intercept=0.5,
    scale=0.3,
    prior=0.5,
    n_matches=100,
    n_non_matches=100,
    precision=0.95,
    recall=0.9,
)
RANDOM = RandomPairCalibration(
    n_items=1000, false_alarms=0.01, tail_share=0.05, tail_distance=0.4, exponent=6.0
)


def labelled_pairs(n_pairs: int, *, share: float = 0.5, seed: int = 0) -> tuple[Floats, Labels]:
    """Matches of density 3 d^2 and non-matches of 7 d^6 on 0..1: the odds go with d^-4."""
    rng = np.random.default_rng(seed)
    is_match = rng.random(n_pairs) < share
    return rng.random(n_pairs) ** np.where(is_match, 1 / 3, 1 / 7), is_match


def true_probability(distances: Floats, prior: float) -> Floats:
    match, other = prior * 3 * distances**2, (1 - prior) * 7 * distances**6
    return match / (match + other)


@pytest.mark.parametrize("prior", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_probabilities_are_those_of_the_law_at_any_prior(prior: float, share: float) -> None:
    calibration = calibrate_labelled(*labelled_pairs(20_000, share=share), prior=prior)
    distances = np.linspace(0.1, 1, 50)
    truth = true_probability(distances, prior)
    # Where few matches are, the odds hang on the slope, known to some 3 percent.
    tolerance = 0.05 if prior > 0.05 else 0.08
    assert np.abs(calibration.probability(distances) - truth).max() < tolerance


def test_by_default_the_prior_is_the_share_of_matches_given() -> None:
    distances, is_match = labelled_pairs(2000, share=0.3)
    calibration = calibrate_labelled(distances, is_match)
    assert calibration.prior == is_match.mean()
    assert calibration.probability(distances).mean() == pytest.approx(is_match.mean(), abs=1e-3)


def test_at_the_threshold_the_probability_is_one_half() -> None:
    for prior in (0.9, 0.5, 0.01):
        calibration = calibrate_labelled(*labelled_pairs(500), prior=prior)
        assert calibration.threshold > 0
        assert calibration.probability(calibration.threshold) == pytest.approx(0.5)


def test_the_rarer_matches_are_the_smaller_the_threshold_until_nothing_matches() -> None:
    pairs = labelled_pairs(500)
    priors = (0.9, 0.5, 0.1, 0.01, 1e-12)
    thresholds = [calibrate_labelled(*pairs, prior=prior).threshold for prior in priors]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[-1] == -1.0
    assert calibrate_labelled(*pairs, prior=1e-12).recall == 0.0
    assert calibrate_labelled(*pairs, prior=1e-12).precision == 1.0
    assert calibrate_labelled(*pairs, prior=1e-12).probability(0.0) < 0.5


def test_precision_and_recall_are_counted_at_the_threshold() -> None:
    distances, is_match = labelled_pairs(400)
    calibration = calibrate_labelled(distances, is_match)
    called = distances <= calibration.threshold
    assert calibration.recall == called[is_match].mean()
    assert calibration.precision == pytest.approx(is_match[called].mean())
    assert (calibration.n_matches, calibration.n_non_matches) == (is_match.sum(), (~is_match).sum())


def test_precision_falls_with_the_prior() -> None:
    distances, is_match = labelled_pairs(4000)
    calibration = calibrate_labelled(distances, is_match, prior=0.1)
    called = distances <= calibration.threshold
    hits, alarms = 0.1 * called[is_match].mean(), 0.9 * called[~is_match].mean()
    assert calibration.precision == pytest.approx(hits / (hits + alarms))


@pytest.mark.parametrize("n_each", [1, 3, 30])
def test_few_well_separated_pairs_give_no_certainty(n_each: int) -> None:
    distances = np.concatenate([np.full(n_each, 0.1), np.full(n_each, 0.8)])
    calibration = calibrate_labelled(distances, np.arange(2 * n_each) < n_each)
    sure = (n_each + 1) / (n_each + 2)
    assert calibration.probability([0.1, 0.8]) == pytest.approx([sure, 1 - sure], abs=1e-4)
    assert 0.1 < calibration.threshold < 0.8


def test_the_rounding_of_distances_near_zero_does_not_count() -> None:
    distances, is_match = labelled_pairs(300)
    copies = np.arange(300) < 20
    exact = calibrate_labelled(np.where(copies, 0, distances), is_match | copies)
    rounded = calibrate_labelled(np.where(copies, 1e-9, distances), is_match | copies)
    assert exact.threshold == pytest.approx(rounded.threshold, rel=1e-4)


def test_the_unit_of_distances_does_not_count() -> None:
    distances, is_match = labelled_pairs(300)
    one, other = (calibrate_labelled(unit * distances, is_match) for unit in (1, 1e6))
    assert other.threshold == pytest.approx(1e6 * one.threshold)
    assert other.probability(1e6 * distances) == pytest.approx(one.probability(distances))


@pytest.mark.parametrize(
    ("distances", "is_match", "prior", "said"),
    [
        ([0.1, 0.2], [True, True], None, "2 matches only.*both kinds"),
        ([0.1, 0.2], [False, False], None, "2 non-matches only.*random pairs"),
        ([], np.empty(0, dtype=bool), None, "both kinds"),
        ([0.1, 0.2], [1, 0], None, "must be bool"),
        ([0.1, 0.2], [True, False, True], None, r"2 distances.*\(3,\)"),
        ([0.1, np.nan], [True, False], None, "1 of 2 distances are NaN"),
        ([0.1, np.inf], [True, False], None, "1 of 2 distances are inf"),
        ([-0.1, 0.2], [True, False], None, "-0.1.*'cosine'"),
        ([[0.1, 0.2]], [True, False], None, r"\(n_pairs,\)"),
        ([0.5, 0.2], [True, False], None, "not nearer.*0.5 and 0.2"),
        ([0.2, 0.2], [True, False], None, "not nearer"),
        ([0.0, 0.0], [True, False], None, "not nearer"),
        ([0.1, 0.2], [True, False], 1.0, "prior.*1.0"),
        ([0.1, 0.2], [True, False], float("nan"), "prior.*nan"),
    ],
)
def test_wrong_labelled_pairs_are_refused(
    distances: Any, is_match: Any, prior: float | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        calibrate_labelled(distances, is_match, prior)


def power_law(n_pairs: int, exponent: float, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random(n_pairs) ** (1 / exponent)


@pytest.mark.parametrize("exponent", [1.5, 6.0, 20.0])
@pytest.mark.parametrize("n_pairs", [5000, 100_000])
def test_the_threshold_far_below_all_pairs_is_that_of_the_law(
    exponent: float, n_pairs: int
) -> None:
    calibration = calibrate_random(power_law(n_pairs, exponent), 10**6)
    truth = (2 * 0.01 / (10**6 - 1)) ** (1 / exponent)
    tolerance = 0.25 if n_pairs < 10_000 else 0.05  # of the logarithm: 15 digits hang on it
    assert np.log(calibration.threshold) == pytest.approx(np.log(truth), rel=tolerance)


@pytest.mark.parametrize("n_features", [2, 5])
def test_points_without_copies_have_about_as_many_false_pairs_as_said(n_features: int) -> None:
    found, n_items, false_alarms = [], 600, 0.1
    for seed in range(10):
        distances = pdist(np.random.default_rng(seed).random((n_items, n_features)))
        sample = np.random.default_rng(seed).choice(distances, 20_000)
        calibration = calibrate_random(sample, n_items, false_alarms=false_alarms)
        found.append((distances <= calibration.threshold).sum())
    assert 0.5 < np.mean(found) / (false_alarms * n_items) < 2


def test_copies_among_the_random_pairs_only_lower_the_threshold_a_little() -> None:
    clean = power_law(50_000, 8.0)
    mixed = clean.copy()
    mixed[:20] = np.linspace(0, 0.05, 20)  # one copy of every image
    pure, pulled = (calibrate_random(each, 2500).threshold for each in (clean, mixed))
    assert 0.8 * pure < pulled < 1.02 * pure
    assert pulled > 0.05  # the copies are found


def test_a_few_copies_of_every_image_do_not_hide_each_other() -> None:
    """Each of 300 images is there five times: 1 pair in 375 is of copies."""
    rng = np.random.default_rng(0)
    originals = np.repeat(rng.normal(size=(300, 12)), 5, axis=0)
    distances = pdist(originals + rng.normal(scale=0.02, size=originals.shape), "cosine")
    calibration = calibrate_random(rng.choice(distances, 50_000), 1500)
    near = distances <= calibration.threshold
    first, second = (each[near] for each in np.triu_indices(1500, 1))
    groups = complete_linkage_groups(first, second, distances[near], 1500)
    assert [group.tolist() for group in groups] == np.arange(1500).reshape(300, 5).tolist()


def test_classes_of_a_hundred_images_do_not_pass_for_copies() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 64))
    images = np.repeat(centres, 100, axis=0) + 0.6 * rng.normal(size=(2000, 64))
    distances = pdist(images, "cosine")
    calibration = calibrate_random(rng.choice(distances, 50_000), 2000)
    assert (distances <= calibration.threshold).sum() <= 20


def test_the_tail_is_deep_in_large_corpora_and_holds_two_hundred_pairs() -> None:
    distances = power_law(50_000, 4.0)
    sizes = (100, 600, 3000, 10**6)
    shares = [calibrate_random(distances, n_items).tail_share for n_items in sizes]
    assert shares == pytest.approx([0.05, 0.05, 0.01, 0.004])


def test_the_threshold_has_the_false_alarms_asked_for() -> None:
    for false_alarms in (0.001, 0.01, 0.1):
        calibration = calibrate_random(power_law(5000, 4.0), 3000, false_alarms=false_alarms)
        expected = calibration.expected_false_pairs(calibration.threshold)
        assert expected == pytest.approx(3000 * false_alarms)
        nobody = np.exp(-2 * false_alarms)
        assert calibration.probability(calibration.threshold) == pytest.approx(nobody)


def test_the_threshold_never_leaves_the_tail() -> None:
    calibration = calibrate_random(power_law(1000, 4.0), 10, false_alarms=3.0)
    assert calibration.threshold == calibration.tail_distance


def test_no_more_false_pairs_are_expected_than_there_are_pairs() -> None:
    expected = RANDOM.expected_false_pairs([0.0, 2.0, np.inf])
    assert expected == pytest.approx([0.0, 499_500.0, 499_500.0])


@pytest.mark.parametrize(
    ("distances", "n_items", "false_alarms", "said"),
    [
        (np.ones(399), 100, 0.01, "399 random pairs; at least 400"),
        (np.zeros(1000), 100, 0.01, "nearest 50 of 1000.*most 0"),
        (np.ones(1000), 100, 0.01, "at most 1, and the farthest at 1"),
        (np.linspace(-0.1, 1, 1000), 100, 0.01, "-0.1.*'cosine'"),
        (np.linspace(0, np.nan, 1000), 100, 0.01, "NaN"),
        (np.append(np.ones(999), np.inf), 100, 0.01, "1 of 1000 distances are inf"),
        (np.linspace(0.1, 1, 1000), 1, 0.01, "n_items must be at least 2"),
        (np.linspace(0.1, 1, 1000), 100, 0.0, "false_alarms must be above 0"),
        (np.linspace(0.1, 1, 1000), 100, np.inf, "false_alarms must be finite"),
    ],
)
def test_wrong_random_pairs_are_refused(
    distances: Floats, n_items: int, false_alarms: float, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        calibrate_random(distances, n_items, false_alarms=false_alarms)


both = pytest.mark.parametrize("calibration", [LABELLED, RANDOM], ids=["labelled", "random"])


@both
@given(distances=st.lists(st.floats(0, allow_infinity=True), min_size=1))
def test_probabilities_lie_in_0_to_1_and_fall_with_distance(
    calibration: Calibration, distances: list[float]
) -> None:
    probability = calibration.probability(sorted(distances))
    assert probability.dtype == np.float64
    assert ((probability >= 0) & (probability <= 1)).all()
    assert (np.diff(probability) <= 0).all()
    assert (probability[np.isinf(sorted(distances))] == 0).all()


@both
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_probabilities_have_the_shape_of_the_distances(
    calibration: Calibration, shape: tuple[int, ...]
) -> None:
    assert calibration.probability(np.full(shape, 0.1)).shape == shape


@both
def test_no_probability_is_given_for_what_is_no_distance(calibration: Calibration) -> None:
    with pytest.raises(ValueError, match="NaN"):
        calibration.probability([0.1, np.nan])
    with pytest.raises(ValueError, match=r"-0\.5"):
        calibration.probability([-0.5])


@pytest.mark.parametrize(
    "calibrate",
    [
        lambda: calibrate_labelled(*labelled_pairs(100)),
        lambda: calibrate_random(power_law(1000, 3.0), np.int64(50)),
    ],
)
def test_a_calibration_comes_back_from_json(calibrate: Callable[[], Calibration]) -> None:
    calibration = calibrate()
    again = type(calibration).from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again == calibration
    assert again.threshold == calibration.threshold


@both
@pytest.mark.parametrize("wrong", [None, "0.5", float("nan"), float("inf"), True, [1.0], -1])
def test_wrong_numbers_are_refused_by_name(calibration: Calibration, wrong: Any) -> None:
    for name in calibration.to_dict():
        if name == "intercept" and wrong == -1:
            continue
        with pytest.raises(ValueError, match=name):
            type(calibration).from_dict({**calibration.to_dict(), name: wrong})


@both
def test_missing_and_unknown_numbers_are_refused(calibration: Calibration) -> None:
    numbers = calibration.to_dict()
    first = next(iter(numbers))
    missing = {name: number for name, number in numbers.items() if name != first}
    for wrong in (missing, {**numbers, "threshold": 0.1}, {**numbers, 3: 0.1}, None, [1.0]):
        with pytest.raises(ValueError, match="is made from numbers"):
            type(calibration).from_dict(wrong)


@pytest.mark.parametrize("name", ["prior", "precision", "recall"])
def test_shares_lie_in_0_to_1(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be from 0 to 1"):
        LabelledCalibration.from_dict({**LABELLED.to_dict(), name: 1.5})


def test_a_flat_slope_with_a_high_intercept_has_a_finite_threshold() -> None:
    calibration = LabelledCalibration.from_dict({**LABELLED.to_dict(), "slope": 1e-9})
    assert np.isfinite(calibration.threshold)


def test_by_random_pairs_noisy_copies_are_grouped_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    originals = rng.normal(size=(300, 12))
    copies = originals[:60] + rng.normal(scale=0.02, size=(60, 12))
    distances = pdist(np.concatenate([originals, copies]), "cosine")
    first, second = np.triu_indices(360, 1)
    calibration = calibrate_random(rng.choice(distances, 20_000), 360, false_alarms=0.001)
    near = distances <= calibration.threshold
    groups = complete_linkage_groups(first[near], second[near], distances[near], 360)
    assert [group.tolist() for group in groups] == [[i, 300 + i] for i in range(60)]
