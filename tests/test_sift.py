"""SIFT visual words: repeatable, right against what is slow and exact, defined for flat images."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from imgembed import SIFTEmbedder, read_image
from imgembed.classical._aggregation import bag_of_words, inverse_document_frequency
from imgembed.classical._keypoints import detect_sift, rootsift
from imgembed.classical._spill import DescriptorSpill
from imgembed.classical._vocabulary import assign_words, learn_words
from imgembed.demo import write_queries

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def descriptors(photographs: list[Path]) -> NDArray[np.float32]:
    found = [detect_sift(read_image(path), 300, 512) for path in photographs]
    return rootsift(np.concatenate(found))


def test_descriptors_are_opencvs(photographs: list[Path]) -> None:
    image = read_image(photographs[0])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    _, wanted = cv2.SIFT_create(200).detectAndCompute(grey, None)
    got = detect_sift(image, 200, 512)
    assert np.array_equal(got, wanted[:200])
    assert len(detect_sift(image, 7, 512)) == 7


def test_rootsift_distance_is_the_hellinger_distance(photographs: list[Path]) -> None:
    a, b = detect_sift(read_image(photographs[0]), 50, 512)[:2].astype(float)
    p, q = a / a.sum(), b / b.sum()
    roots = rootsift(np.stack([a, b]).astype(np.uint8))
    assert np.linalg.norm(roots, axis=1) == pytest.approx(1, abs=1e-6)
    hellinger = 2 - 2 * np.sqrt(p * q).sum()
    assert ((roots[0] - roots[1]) ** 2).sum() == pytest.approx(hellinger, abs=1e-5)
    assert not rootsift(np.zeros((1, 128), np.uint8)).any()


def test_words_are_the_nearest(descriptors: NDArray[np.float32]) -> None:
    words = descriptors[::37]
    labels, distances = assign_words(descriptors, words)
    exact = cdist(descriptors, words, "sqeuclidean")
    chosen = exact[np.arange(len(labels)), labels]
    assert (chosen <= exact.min(axis=1) + 1e-6).all()
    norms = (descriptors**2).sum(axis=1)
    np.testing.assert_allclose(distances + norms, chosen, atol=1e-5)


def test_codebook_is_about_as_good_as_scikit_learns(descriptors: NDArray[np.float32]) -> None:
    def error(words: NDArray[np.float32]) -> float:
        return float(cdist(descriptors, words, "sqeuclidean").min(axis=1).mean())

    ours = learn_words(descriptors, 100, 20, np.random.RandomState(0))
    reference = KMeans(100, n_init=1, random_state=0).fit(descriptors).cluster_centers_
    random = descriptors[np.random.default_rng(0).choice(len(descriptors), 100)]
    assert error(ours) < 1.05 * error(reference)
    assert error(ours) < 0.9 * error(random)


def test_a_word_that_loses_all_its_descriptors_starts_again() -> None:
    points = np.repeat(np.eye(4, dtype=np.float32), [50, 50, 50, 1], axis=0)
    for seed in range(5):
        words = learn_words(points, 4, 10, np.random.RandomState(seed))
        assert len(np.unique(words, axis=0)) == 4


@given(npst.arrays(np.int64, (3, 5), elements=st.integers(0, 50)))
def test_bags_of_words_have_unit_length_or_none(counts: NDArray[np.int64]) -> None:
    idf = inverse_document_frequency((counts > 0).sum(axis=0), 3)
    vectors = bag_of_words(counts, idf)
    norms = np.linalg.norm(vectors, axis=1)
    wanted = counts.any(axis=1).astype(float)
    np.testing.assert_allclose(norms, wanted, atol=1e-6)
    assert ((vectors > 0) == (counts > 0)).all()
    assert vectors.dtype == np.float32


def test_tf_idf_by_hand() -> None:
    idf = inverse_document_frequency(np.array([1, 3]), 3)
    np.testing.assert_allclose(idf, [np.log(4 / 2) + 1, 1], rtol=1e-6)
    vector = bag_of_words(np.array([[4, 9]]), idf)[0]
    weighted = np.array([2 * (np.log(2) + 1), 3])
    np.testing.assert_allclose(vector, weighted / np.linalg.norm(weighted), rtol=1e-6)


def test_the_spill_gives_back_what_was_put_in() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, (n, 4), dtype=np.uint8) for n in (3, 0, 5)]
    with DescriptorSpill(4) as spill:
        assert len(spill.sample(3, np.random.RandomState(0))) == 0
        for part in parts:
            spill.append(part)
        for got, wanted in zip(spill, parts, strict=True):
            assert np.array_equal(got, wanted)
        sample = spill.sample(6, np.random.RandomState(0))
        assert len(sample) == 6
        assert {bytes(row) for row in sample} <= {bytes(row) for part in parts for row in part}


def test_random_state_fixes_the_vectors_whatever_the_threads(photographs: list[Path]) -> None:
    def vectors(seed: int, n_jobs: int) -> NDArray[np.float32]:
        embedder = SIFTEmbedder(100, 200, random_state=seed, n_jobs=n_jobs)
        return embedder.fit_transform(photographs[:6])

    first = vectors(0, 1)
    assert np.array_equal(first, vectors(0, 3))
    assert not np.array_equal(first, vectors(1, 1))


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (3, 4000), (2000, 1)])
def test_an_image_without_keypoints_has_the_zero_vector(
    shape: tuple[int, int], make_noise: Callable[..., Pixels]
) -> None:
    embedder = SIFTEmbedder(20, random_state=0).fit([make_noise(s) for s in range(3)])
    assert np.array_equal(embedder.transform([np.full(shape, 9, np.uint8)]), np.zeros((1, 20)))


def test_too_few_descriptors_are_an_error(make_noise: Callable[..., Pixels]) -> None:
    with pytest.raises(ValueError, match=r"0 distinct descriptors, too few for n_words=1000"):
        SIFTEmbedder().fit([np.zeros((50, 50), np.uint8)])


@pytest.mark.parametrize("name", ["n_words", "n_keypoints", "longest_edge", "n_iterations"])
def test_parameters_are_checked_at_fit(name: str, make_noise: Callable[..., Pixels]) -> None:
    with pytest.raises(ValueError, match=name):
        SIFTEmbedder(**{name: 0}).fit([make_noise()])
    with pytest.raises(TypeError, match=name):
        SIFTEmbedder(**{name: "many"}).fit([make_noise()])


def test_changed_copies_are_found(photographs: list[Path], tmp_path: Path) -> None:
    embedder = SIFTEmbedder(n_words=500, random_state=0)
    gallery = embedder.fit_transform(photographs)
    queries = embedder.transform(write_queries(photographs, tmp_path))
    found = (queries @ gallery.T).argmax(axis=1) == np.repeat(np.arange(len(gallery)), 4)
    assert found.mean() > 0.75


def test_covers_are_found_in_phone_photos(shared_data: Path) -> None:
    folder = shared_data / "smvs_dvd"
    lines = (folder / "groups.csv").read_text().splitlines()
    columns = lines[0].split(",")
    rows = [dict(zip(columns, line.split(","), strict=True)) for line in lines[1:]]
    groups = sorted({row["group"] for row in rows})[:20]
    rows = [row for row in rows if row["group"] in groups]
    vectors = SIFTEmbedder(n_words=2000, random_state=0).fit_transform(
        [folder / row["path"] for row in rows]
    )
    is_query = np.array([row["query"] == "1" for row in rows])
    group = np.array([row["group"] for row in rows])
    nearest = (vectors[is_query] @ vectors[~is_query].T).argmax(axis=1)
    assert (group[~is_query][nearest] == group[is_query]).mean() > 0.85
