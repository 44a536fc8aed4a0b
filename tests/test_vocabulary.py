"""The codebook: right against what is slow and exact, repeatable, bounded, safe."""

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from threadpoolctl import threadpool_info, threadpool_limits

from imgembed import LocalFeatures, ORBExtractor, SIFTExtractor, VisualVocabulary
from imgembed._threads import one_blas_thread
from imgembed.classical._reservoir import Reservoir

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def features(photographs: list[Path]) -> list[LocalFeatures]:
    return SIFTExtractor(300).fit_transform(photographs)


@pytest.fixture(scope="module")
def descriptors(features: list[LocalFeatures]) -> NDArray[np.uint8]:
    return np.concatenate([one.descriptors for one in features])


def error(descriptors: NDArray[np.uint8], words: Array) -> float:
    return float(cdist(descriptors.astype(float), words, "sqeuclidean").min(axis=1).mean())


def test_it_is_about_as_good_as_scikit_learns_kmeans(descriptors: NDArray[np.uint8]) -> None:
    ours = VisualVocabulary(100, n_iterations=20, random_state=0).fit(descriptors).words_
    reference = KMeans(100, n_init=1, random_state=0).fit(descriptors).cluster_centers_
    drawn = descriptors[np.random.default_rng(0).choice(len(descriptors), 100)].astype(np.float32)
    assert error(descriptors, ours) < 1.03 * error(descriptors, reference)
    assert error(descriptors, ours) < 0.9 * error(descriptors, drawn)


@pytest.mark.parametrize("assignment", ["exact", "approximate"])
@pytest.mark.parametrize("n_nearest", [1, 3])
def test_assigned_words_are_the_nearest(
    assignment: str, n_nearest: int, descriptors: NDArray[np.uint8]
) -> None:
    vocabulary = VisualVocabulary(500, assignment=assignment, random_state=0).fit(descriptors)
    labels, distances = vocabulary.assign(descriptors, n_nearest)
    exact = cdist(descriptors.astype(float), vocabulary.words_, "sqeuclidean")
    chosen = np.take_along_axis(exact, labels, axis=1)
    np.testing.assert_allclose(distances, chosen, rtol=1e-3, atol=1)
    wanted = np.sort(exact, axis=1)[:, :n_nearest]
    found = np.isclose(chosen, wanted, rtol=1e-6).all(axis=1).mean()
    if assignment == "exact":
        assert found == 1
        assert vocabulary.agreement_ == 1
    else:
        assert found > (0.98 if n_nearest == 1 else 0.9)
        assert 0.98 < vocabulary.agreement_ <= 1
        assert vocabulary._assigner.n_probes < 11  # not all of the cells


def test_words_do_not_depend_on_threads_or_pieces(descriptors: NDArray[np.uint8]) -> None:
    first = VisualVocabulary(200, subsample=2000, random_state=0, n_jobs=1).fit(descriptors)
    threads = clone(first).set_params(n_jobs=3).fit(descriptors)
    assert np.array_equal(first.words_, threads.words_)
    pieces = clone(first)
    for start in range(0, len(descriptors), 777):
        pieces.partial_fit(descriptors[start : start + 777])
    assert np.array_equal(first.words_, pieces.words_)
    assert pieces.n_descriptors_seen_ == len(descriptors)
    other = clone(first).set_params(random_state=1).fit(descriptors)
    assert not np.array_equal(first.words_, other.words_)


def test_partial_fit_goes_on_after_words_were_used(descriptors: NDArray[np.uint8]) -> None:
    half = len(descriptors) // 2
    vocabulary = VisualVocabulary(50, random_state=0).partial_fit(descriptors[:half])
    early = vocabulary.words_.copy()
    vocabulary.partial_fit(descriptors[half:])
    assert not np.array_equal(early, vocabulary.words_)
    whole = VisualVocabulary(50, random_state=0).fit(descriptors)
    assert np.array_equal(whole.words_, vocabulary.words_)


def test_fit_takes_a_generator_of_images(
    photographs: list[Path], features: list[LocalFeatures]
) -> None:
    def images() -> Iterator[Path]:
        yield from photographs

    streamed = VisualVocabulary(100, random_state=0).fit(SIFTExtractor(300).iterate(images()))
    assert np.array_equal(
        streamed.words_, VisualVocabulary(100, random_state=0).fit(features).words_
    )
    assert streamed.kind_ == "rootsift"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 30), st.integers(0, 9))
def test_a_reservoir_does_not_depend_on_the_pieces(
    sizes: list[int], capacity: int, seed: int
) -> None:
    rows = np.arange(sum(sizes))[:, np.newaxis]
    whole = Reservoir(capacity, np.random.RandomState(seed))
    whole.extend(rows)
    pieces = Reservoir(capacity, np.random.RandomState(seed))
    for piece in np.split(rows, np.cumsum(sizes)[:-1]):
        pieces.extend(piece)
        assert pieces._n_held < 2 * capacity or len(piece) > capacity
    if len(rows):
        sample = whole.sample()
        assert np.array_equal(sample, pieces.sample())
        assert len(np.unique(sample)) == len(sample) == min(capacity, len(rows))


def test_a_reservoir_draws_all_rows_alike() -> None:
    counts = np.zeros(50)
    for seed in range(400):
        reservoir = Reservoir(10, np.random.RandomState(seed))
        for start in range(0, 50, 7):
            reservoir.extend(np.arange(start, min(start + 7, 50))[:, np.newaxis])
        counts[reservoir.sample()[:, 0]] += 1
    # Binomial with n = 400 and p = 0.2: standard deviation 8.
    assert counts.sum() == 4000
    assert (np.abs(counts - 80) < 36).all()


def test_binary_words_are_means_of_bits_and_distances_are_hamming(photographs: list[Path]) -> None:
    features = ORBExtractor(300).fit_transform(photographs[:8])
    vocabulary = VisualVocabulary(50, random_state=0).fit(features)
    assert vocabulary.words_.shape == (50, 256)
    assert (vocabulary.words_ >= 0).all()
    assert (vocabulary.words_ <= 1).all()
    packed = np.array([[0b10000001] * 4, [0] * 4, [0xFF] * 4], dtype=np.uint8)
    words = VisualVocabulary(3, metric="hamming", random_state=0).fit(packed)
    labels, distances = words.assign(packed, 3)
    assert sorted(labels[:, 0]) == [0, 1, 2]
    np.testing.assert_allclose(distances, [[0, 8, 24], [0, 8, 32], [0, 24, 32]], atol=1e-4)


def test_float_descriptors_of_any_origin_are_taken() -> None:
    tokens = np.random.default_rng(0).normal(size=(4, 60, 12))
    vocabulary = VisualVocabulary(10, random_state=0).fit(tokens)
    assert vocabulary.words_.dtype == np.float32
    assert vocabulary.kind_ is None
    assert vocabulary.predict(tokens[0]).shape == (60,)
    assert vocabulary.predict(tokens[0][:0]).shape == (0,)


@pytest.mark.parametrize("n_words", [1, 2, 3, 7])
def test_few_words_and_many_duplicates(n_words: int) -> None:
    points = np.repeat(np.eye(7, dtype=np.float32), [50, 50, 50, 1, 1, 1, 1], axis=0)
    for seed in range(5):
        words = VisualVocabulary(n_words, random_state=seed).fit(points).words_
        assert len(np.unique(words, axis=0)) == n_words
    if n_words == 7:
        assert error(points, words) == pytest.approx(0, abs=1e-10)


def test_more_words_than_descriptors_is_an_error(descriptors: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"5 distinct descriptors, too few for n_words=6"):
        VisualVocabulary(6).fit(np.repeat(descriptors[:5], 10, axis=0))
    with pytest.raises(ValueError, match=r"0 distinct descriptors"):
        VisualVocabulary(6).fit([np.empty((0, 128), np.uint8)])


def test_wrong_descriptors_are_errors(
    features: list[LocalFeatures], photographs: list[Path]
) -> None:
    orb = ORBExtractor(50).fit_transform(photographs[:1])
    plain = SIFTExtractor(50, rootsift=False).fit_transform(photographs[:1])
    vocabulary = VisualVocabulary(20, random_state=0).fit(features)
    for wrong in (orb[0], plain[0]):
        with pytest.raises(ValueError, match=r"'rootsift'.*'(orb|sift)'.*same extractor"):
            vocabulary.predict(wrong)
    with pytest.raises(ValueError, match=r"128 columns.*these have 32"):
        vocabulary.predict(orb[0].descriptors)
    with pytest.raises(ValueError, match=r"image 1 have 5"):
        VisualVocabulary(2).fit([np.zeros((3, 4)), np.zeros((3, 5))])
    with pytest.raises(ValueError, match=r"must be finite in float32; those of image 1 are not"):
        VisualVocabulary(2).fit([np.zeros((3, 4)), np.full((3, 4), np.nan)])
    with pytest.raises(ValueError, match="finite in float32; those of image 0"):
        VisualVocabulary(2).fit(np.full((3, 4), 1e300))
    with pytest.raises(ValueError, match="must be uint8, eight bits a byte"):
        VisualVocabulary(2, metric="hamming").fit(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="could not be read"):
        VisualVocabulary(2).fit([features[0], None])
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        VisualVocabulary(2).fit([np.zeros(3)])
    with pytest.raises(ValueError, match="X is empty"):
        VisualVocabulary(2).fit([])
    with pytest.raises(TypeError, match="iterable"):
        VisualVocabulary(2).fit(3)


def test_before_and_after_fit(features: list[LocalFeatures]) -> None:
    for use in (
        lambda v: v.predict(features[0]),
        lambda v: v.words_,
        lambda v: v.agreement_,
        lambda v: v.points(features[0]),
    ):
        with pytest.raises(NotFittedError):
            use(VisualVocabulary())
    vocabulary = VisualVocabulary(20, random_state=0).fit(features)
    with pytest.raises(ValueError, match="learned by fit, which keeps no sample"):
        vocabulary.partial_fit(features)
    with pytest.raises(ValueError, match="n_nearest"):
        vocabulary.assign(features[0], 21)
    assert vocabulary.fit(features[:3]).n_descriptors_seen_ == sum(map(len, features[:3]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_words": 0}, {"n_words": 65_537}, {"n_iterations": 0}, {"assignment": "fast"},
        {"metric": "cosine"}, {"subsample": 5},
    ],
)  # fmt: skip
def test_parameters_are_checked_at_fit(
    wrong: dict[str, object], descriptors: NDArray[np.uint8]
) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VisualVocabulary(**{"n_words": 10, **wrong}).fit(descriptors)


def test_a_pickle_gives_the_same_words(features: list[LocalFeatures]) -> None:
    for assignment in ("exact", "approximate"):
        vocabulary = VisualVocabulary(60, assignment=assignment, random_state=0).fit(features)
        again = pickle.loads(pickle.dumps(vocabulary))
        assert np.array_equal(again.predict(features[0]), vocabulary.predict(features[0]))
    growing = VisualVocabulary(60, random_state=0).partial_fit(features[:5])
    again = pickle.loads(pickle.dumps(growing)).partial_fit(features[5:])
    assert np.array_equal(again.words_, growing.partial_fit(features[5:]).words_)


def blas_threads() -> list[int]:
    return [
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    ]


def test_the_threads_of_blas_are_restored_whoever_leaves_last(
    make_noise: Callable[..., object],
) -> None:
    with threadpool_limits(3, "blas"):
        before = blas_threads()
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        assert set(blas_threads()) == {1}
        first.__exit__(None, None, None)
        assert set(blas_threads()) == {1}
        second.__exit__(None, None, None)
        assert blas_threads() == before


def test_several_threads_may_ask_one_vocabulary(features: list[LocalFeatures]) -> None:
    vocabulary = VisualVocabulary(200, random_state=0).fit(features)
    wanted = [vocabulary.predict(one) for one in features]
    before = blas_threads()
    with ThreadPoolExecutor(4) as pool:
        for got, labels in zip(pool.map(vocabulary.predict, features * 5), wanted * 5, strict=True):
            assert np.array_equal(got, labels)
    assert blas_threads() == before
