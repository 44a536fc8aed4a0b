"""Bags of words, VLAD and Fisher vectors: by hand, by slow reference, and of nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from imgembed import (
    VLAD,
    BagOfVisualWords,
    FisherVector,
    LocalFeatures,
    ORBExtractor,
    SIFTExtractor,
    VisualVocabulary,
)
from imgembed.classical._aggregation import Aggregator

Array = NDArray[np.float32]

AGGREGATORS: list[Aggregator] = [
    BagOfVisualWords(VisualVocabulary(20, random_state=0)),
    BagOfVisualWords(VisualVocabulary(20, random_state=0), n_nearest=3),
    VLAD(VisualVocabulary(6, random_state=0)),
    VLAD(
        VisualVocabulary(6, random_state=0),
        intra_normalisation=False,
        power=0.5,
        normalise_residuals=True,
    ),
    FisherVector(5, n_dimensions=8, random_state=0),
    FisherVector(5, n_dimensions=None, random_state=0),
]
every_aggregator = pytest.mark.parametrize("aggregator", AGGREGATORS, ids=repr)


@pytest.fixture(scope="module")
def features(photographs: list[Path]) -> list[LocalFeatures]:
    return SIFTExtractor(200).fit_transform(photographs)


@pytest.fixture(scope="module")
def corners() -> VisualVocabulary:
    """Words at (0, 0), (10, 0), (0, 10), in some order."""
    points = np.array([[0, 0], [10, 0], [0, 10]], dtype=np.float32)
    return VisualVocabulary(3, random_state=0).fit(points)


def image_of(vocabulary: VisualVocabulary, counts: list[int]) -> Array:
    """Descriptors at the words, each so often."""
    return np.repeat(vocabulary.words_, counts, axis=0)


def unit(vector: Any) -> NDArray[Any]:
    return np.asarray(vector) / np.linalg.norm(vector)


@pytest.mark.parametrize(
    ("tf", "weights"),
    [
        ("count", [4, 9, 1]),
        ("sqrt", [2, 3, 1]),
        ("log", np.log([5, 10, 2])),
        ("binary", [1, 1, 1]),
    ],
)
def test_tf_idf_by_hand(tf: str, weights: Any, corners: VisualVocabulary) -> None:
    images = [image_of(corners, counts) for counts in ([1, 1, 0], [2, 0, 0], [3, 0, 0])]
    bags = BagOfVisualWords(corners, tf=tf).fit(images)
    idf = np.log(4 / np.array([4, 2, 1])) + 1
    np.testing.assert_allclose(bags.idf_, idf, rtol=1e-6)
    vector = bags.transform([image_of(corners, [4, 9, 1])])[0]
    np.testing.assert_allclose(vector, unit(weights * idf), rtol=1e-5)
    plain = BagOfVisualWords(corners, tf=tf, idf=False).fit(images)
    vector = plain.transform([image_of(corners, [4, 9, 1])])[0]
    np.testing.assert_allclose(vector, unit(weights), rtol=1e-5)


def test_soft_assignment_by_hand(corners: VisualVocabulary) -> None:
    point = np.array([[1, 2]], dtype=np.float32)
    distances = np.square(corners.words_ - point).sum(axis=1)
    weights = np.exp(-distances / (2 * 5**2))
    farthest = distances.argmax()
    bags = BagOfVisualWords(corners, tf="count", idf=False, n_nearest=3, sigma=5).fit([point])
    np.testing.assert_allclose(bags.transform([point])[0], unit(weights), rtol=1e-5)
    weights[farthest] = 0
    bags.set_params(n_nearest=2).fit([point])
    np.testing.assert_allclose(bags.transform([point])[0], unit(weights), rtol=1e-5)


def test_soft_assignment_becomes_hard_as_sigma_falls(features: list[LocalFeatures]) -> None:
    vocabulary = VisualVocabulary(50, random_state=0).fit(features)
    hard = BagOfVisualWords(vocabulary).fit_transform(features)
    soft = BagOfVisualWords(vocabulary, n_nearest=4, sigma=1.0)
    np.testing.assert_allclose(soft.fit_transform(features), hard, atol=0.05)
    # Far from all words weights must neither vanish nor become NaN.
    far = np.full((3, 128), 255, np.uint8)
    assert np.linalg.norm(soft.transform([far])[0]) == pytest.approx(1)
    automatic = BagOfVisualWords(vocabulary, n_nearest=2).fit(features)
    nearest = np.concatenate([vocabulary.assign(one)[1] for one in features])
    assert 0.1 < automatic.sigma_ / np.sqrt(nearest.mean()) < 0.3


def test_a_burst_counts_less_than_its_length(corners: VisualVocabulary) -> None:
    images = [image_of(corners, counts) for counts in ([1, 1, 1], [100, 1, 1])]
    even, burst = BagOfVisualWords(corners, idf=False).fit_transform(images)
    _, plain = BagOfVisualWords(corners, tf="count", idf=False).fit_transform(images)
    assert even @ burst > even @ plain


def test_sparse_output_is_the_same(features: list[LocalFeatures]) -> None:
    vocabulary = VisualVocabulary(100, random_state=0).fit(features)
    dense = BagOfVisualWords(vocabulary).fit(features)
    sparse = BagOfVisualWords(vocabulary, sparse_output=True)
    vectors = sparse.fit_transform(features)
    assert vectors.format == "csr"
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors.toarray(), dense.transform(features))
    assert np.array_equal(sparse.transform(features).toarray(), dense.transform(features))
    assert sparse.digest() == dense.digest()


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("normalise_residuals", [True, False])
@pytest.mark.parametrize("intra_normalisation", [True, False])
def test_vlad_is_the_slow_sum_of_residuals(
    power: float,
    normalise_residuals: bool,
    intra_normalisation: bool,
    features: list[LocalFeatures],
) -> None:
    vocabulary = VisualVocabulary(8, random_state=0).fit(features)
    sums = np.zeros((8, 128))
    for descriptor in features[0].descriptors.astype(float):
        residuals = descriptor - vocabulary.words_
        word = np.linalg.norm(residuals, axis=1).argmin()
        residual = residuals[word]
        sums[word] += unit(residual) if normalise_residuals else residual
    sums = np.sign(sums) * np.abs(sums) ** power
    if intra_normalisation:
        sums = np.stack([unit(one) if one.any() else one for one in sums])
    vlad = VLAD(
        vocabulary,
        power=power,
        normalise_residuals=normalise_residuals,
        intra_normalisation=intra_normalisation,
    )
    got = vlad.fit_transform(features)[0]
    np.testing.assert_allclose(got, unit(sums.ravel()), atol=1e-5)


def test_fisher_vector_is_the_gradient_of_the_likelihood(features: list[LocalFeatures]) -> None:
    fisher = FisherVector(4, n_dimensions=6, power=1, random_state=0).fit(features)
    mixture = fisher.mixture_
    points = fisher._projected(features[0].descriptors.astype(float))

    def likelihood(means: Any, deviations: Any) -> Any:
        variances = deviations**2
        exponents = ((points[:, None] - means) ** 2 / variances + np.log(variances)).sum(axis=2)
        densities = np.exp(-exponents / 2 - 3 * np.log(2 * np.pi))
        return np.log(densities @ mixture.weights_).sum()

    means, deviations = mixture.means_, np.sqrt(mixture.covariances_)
    scale = deviations / np.sqrt(mixture.weights_)[:, None]
    step = 1e-5
    gradients = np.zeros((2, 4, 6))
    for place in np.ndindex(4, 6):
        change = np.zeros((4, 6))
        change[place] = step
        for part, changes in enumerate(((change, 0), (0, change))):
            above = likelihood(means + changes[0], deviations + changes[1])
            below = likelihood(means - changes[0], deviations - changes[1])
            gradients[part][place] = (above - below) / (2 * step)
    gradients *= np.stack([scale, scale / np.sqrt(2)])
    np.testing.assert_allclose(fisher.encode(features[0]), unit(gradients.ravel()), atol=1e-5)


@every_aggregator
def test_vectors_have_one_form(aggregator: Aggregator, features: list[LocalFeatures]) -> None:
    aggregator = clone(aggregator)
    vectors = aggregator.fit_transform(features)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    names = aggregator.get_feature_names_out()
    assert vectors.shape == (len(features), len(names))
    np.testing.assert_allclose(aggregator.transform(features), vectors, atol=1e-6)
    np.testing.assert_allclose(aggregator.encode(features[3]), vectors[3], atol=1e-6)
    assert aggregator.set_output(transform="pandas").transform(features).shape == vectors.shape


@every_aggregator
def test_nothing_has_the_zero_vector(aggregator: Aggregator, features: list[LocalFeatures]) -> None:
    aggregator = clone(aggregator).fit([*features, features[0][:0]])
    vectors = aggregator.transform([features[0][:0], features[1][:1]])
    assert not vectors[0].any()
    assert np.linalg.norm(vectors[1]) == pytest.approx(1, abs=1e-5)


@every_aggregator
def test_the_order_of_keypoints_and_the_threads_do_not_matter(
    aggregator: Aggregator, features: list[LocalFeatures]
) -> None:
    one = clone(aggregator).set_params(n_jobs=1).fit(features)
    three = clone(aggregator).set_params(n_jobs=3).fit(features)
    vectors = one.transform(features)
    assert np.array_equal(vectors, three.transform(features))
    assert one.digest() == three.digest()
    shuffled = [f[np.random.default_rng(0).permutation(len(f))] for f in features]
    np.testing.assert_allclose(one.transform(shuffled), vectors, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9).map(lambda s: (s[0], 3)),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_any_descriptors_have_unit_length_or_none(descriptors: Array) -> None:
    rng = np.random.default_rng(0)
    learned = rng.normal(size=(4, 30, 3)).astype(np.float32)
    for aggregator in AGGREGATORS[:1] + AGGREGATORS[2:4]:
        vector = (
            clone(aggregator).set_params(vocabulary__n_words=4).fit(learned).encode(descriptors)
        )
        assert vector.dtype == np.float32
        norm = np.linalg.norm(vector.astype(float))
        assert norm == pytest.approx(1, abs=1e-4) or not vector.any()


def test_tokens_of_a_network_are_taken() -> None:
    tokens = np.random.default_rng(0).normal(size=(6, 49, 16)).astype(np.float32)
    for aggregator in AGGREGATORS:
        assert len(clone(aggregator).fit_transform(tokens)) == 6


def test_extractor_aggregation_and_classifier_make_a_pipeline(photographs: list[Path]) -> None:
    pipeline = make_pipeline(
        SIFTExtractor(100),
        BagOfVisualWords(VisualVocabulary(30, random_state=0)),
        LogisticRegression(),
    )
    labels = [i % 2 for i in range(len(photographs))]
    clone(pipeline).fit(photographs, labels)
    pipeline.set_params(bagofvisualwords__vocabulary__n_words=40).fit(photographs, labels)
    assert pipeline.score(photographs, labels) > 0.9


def test_a_fitted_vocabulary_is_used_and_an_unfitted_one_cloned(
    features: list[LocalFeatures],
) -> None:
    fitted = VisualVocabulary(10, random_state=0).fit(features[:7])
    assert BagOfVisualWords(fitted).fit(features).vocabulary_ is fitted
    unfitted = VisualVocabulary(10, random_state=0)
    bags = BagOfVisualWords(unfitted).fit(features)
    assert bags.vocabulary_ is not unfitted
    assert not hasattr(unfitted, "n_features_in_")
    default = VLAD(random_state=0).fit(features)
    assert default.vocabulary_.n_words == 64


@every_aggregator
def test_wrong_descriptors_are_errors(
    aggregator: Aggregator, features: list[LocalFeatures], photographs: list[Path]
) -> None:
    with pytest.raises(NotFittedError):
        clone(aggregator).transform(features)
    fitted = clone(aggregator).fit(features)
    orb = ORBExtractor(50).fit_transform(photographs[:2])
    with pytest.raises(ValueError, match=r"'rootsift'.*'orb'.*same extractor"):
        fitted.transform(orb)
    with pytest.raises(ValueError, match=r"128 columns"):
        fitted.transform([np.zeros((5, 7), np.float32)])
    with pytest.raises(ValueError, match="same extractor"):
        clone(aggregator).fit([*features, *orb])
    with pytest.raises(ValueError, match="must be finite") as caught:
        fitted.transform([features[0].descriptors, np.full((5, 128), np.nan)])
    assert caught.value.__notes__ == ["in row 1 of X"]
    with pytest.raises(ValueError, match="X is empty"):
        clone(aggregator).fit([])
    with pytest.raises(ValueError, match=r"could not be read"):
        fitted.transform([None])
    for wrong in (features[0], iter(features), 5):
        with pytest.raises(TypeError, match="X must"):
            clone(aggregator).fit(wrong)
    with pytest.raises(ValueError, match=r"too few for n_(words|components)="):
        clone(aggregator).fit([features[0][:2]])


@pytest.mark.parametrize(
    "wrong",
    [
        BagOfVisualWords(tf="tf"),
        BagOfVisualWords(idf="yes"),
        BagOfVisualWords(n_nearest=0),
        BagOfVisualWords(sigma=0),
        BagOfVisualWords(sparse_output=None),
        VLAD(power=2),
        VLAD(intra_normalisation=1),
        FisherVector(0),
        FisherVector(n_dimensions=0),
        FisherVector(power=-1),
        FisherVector(subsample=3),
    ],
    ids=repr,
)
def test_parameters_are_checked_at_fit(wrong: Aggregator, features: list[LocalFeatures]) -> None:
    with pytest.raises(ValueError, match=r"must be|==|>="):
        wrong.fit(features)


def test_a_digest_tells_what_changes_vectors(features: list[LocalFeatures]) -> None:
    vocabulary = VisualVocabulary(10, random_state=0).fit(features)
    same = [BagOfVisualWords(vocabulary, n_jobs=n).fit(features).digest() for n in (1, 2)]
    assert same[0] == same[1]
    others = {
        BagOfVisualWords(vocabulary, tf="count").fit(features).digest(),
        BagOfVisualWords(vocabulary).fit(features[:5]).digest(),
        BagOfVisualWords(vocabulary, n_nearest=2).fit(features).digest(),
        VLAD(vocabulary).fit(features).digest(),
        VLAD(vocabulary, power=0.5).fit(features).digest(),
        FisherVector(4, random_state=0).fit(features).digest(),
        FisherVector(4, random_state=1).fit(features).digest(),
    }
    assert len(others - set(same)) == 7
