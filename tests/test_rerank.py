"""Verification recovers the transformation, believes no chance, and changes a list with reason."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import read_ground_truth
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from imgembed import (
    AKAZEExtractor,
    GeometricReranker,
    HOGEmbedder,
    ImageReadError,
    ImageReadWarning,
    ImageSearch,
    LocalFeatures,
    NearestNeighborIndex,
    ORBExtractor,
    QueryExpansion,
    SIFTEmbedder,
    SIFTExtractor,
    read_image,
)
from imgembed.classical import match_features, verify_match

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def pictures(photographs: list[Path]) -> list[Pixels]:
    return [read_image(path, shortest_edge=300)[:500, :500] for path in photographs]


def warped(image: Pixels, mapping: NDArray[np.float64]) -> Pixels:
    height, width = image.shape[:2]
    return cv2.warpPerspective(image, mapping, (width, height), borderValue=(255, 255, 255))


# Slightly turned, reduced, moved, and seen from the side.
TILTED = np.array([[0.8, -0.15, 60], [0.12, 0.75, 30], [0.0002, 0.0001, 1]])
TURNED = np.array([[0.7, -0.3, 120], [0.3, 0.7, -10], [0, 0, 1]])


def moved(points: NDArray[np.float64], mapping: NDArray[np.float64]) -> NDArray[np.float64]:
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ mapping.T
    return homogeneous[:, :2] / homogeneous[:, 2:]


@pytest.mark.parametrize("extractor", [SIFTExtractor(), AKAZEExtractor(), ORBExtractor()], ids=repr)
def test_a_homography_is_recovered(extractor: SIFTExtractor, pictures: list[Pixels]) -> None:
    image = pictures[0]
    match = verify_match(extractor.extract(image), extractor.extract(warped(image, TILTED)))
    assert match.verified
    assert match.n_inliers > 30
    assert match.homography is not None
    corners = np.array([[50, 50], [450, 60], [400, 440], [60, 400]], float)
    np.testing.assert_allclose(moved(corners, match.homography), moved(corners, TILTED), atol=2)
    inliers = match.query_positions[match.inliers].astype(float)
    errors = moved(inliers, TILTED) - match.image_positions[match.inliers]
    assert np.median(np.linalg.norm(errors, axis=1)) < 1
    assert "verified" in repr(match)


def test_an_affine_map_and_epipolar_lines_are_recovered(pictures: list[Pixels]) -> None:
    extractor = SIFTExtractor()
    image = pictures[0]
    a, b = extractor.extract(image), extractor.extract(warped(image, TURNED))
    affine = verify_match(a, b, "affine")
    assert affine.verified
    np.testing.assert_allclose(affine.homography, TURNED, atol=0.5)
    np.testing.assert_allclose(affine.homography[2], [0, 0, 1])
    # Two planes that move differently fit no homography, and one fundamental matrix.
    left = np.hstack([image, pictures[1][:, :500]])
    shift = np.hstack([np.roll(image, 30, axis=1), np.roll(pictures[1][:, :500], 10, axis=1)])
    extractor = SIFTExtractor(longest_edge=None)
    a, b = extractor.extract(left), extractor.extract(shift)
    scene = verify_match(a, b, "fundamental", threshold=1.0)
    plane = verify_match(a, b, "homography", threshold=1.0)
    assert scene.verified
    assert scene.n_inliers > 1.2 * plane.n_inliers
    assert scene.homography is None
    assert scene.transformation is not None
    rows = scene.inliers
    ones = np.ones((rows.sum(), 1))
    lines = np.hstack([scene.query_positions[rows], ones]) @ scene.transformation.T
    there = np.hstack([scene.image_positions[rows], ones])
    distances = np.abs((lines * there).sum(axis=1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(distances) < 1


def test_different_photographs_are_not_verified(pictures: list[Pixels]) -> None:
    features = SIFTExtractor(500).transform(pictures)
    for i, query in enumerate(features):
        for image in features[i + 1 :]:
            assert not verify_match(query, image).verified


def synthetic(positions: NDArray[np.float64], seed: int = 0) -> LocalFeatures:
    """Features at given places, whose descriptors match one by one."""
    descriptors = np.random.default_rng(seed).integers(0, 256, (len(positions), 128), np.uint8)
    zeros = np.zeros(len(positions), np.float32)
    return LocalFeatures(
        positions.astype(np.float32), zeros + 5, zeros, zeros, descriptors, (480, 640), "rootsift"
    )


def test_what_no_camera_can_see_is_not_verified() -> None:
    places = np.random.default_rng(1).uniform(50, 400, (60, 2))
    query = synthetic(places)
    assert verify_match(query, synthetic(places * 1.5 + 3)).verified
    implausible = {
        "mirrored": places * [-1, 1] + [500, 0],
        "twenty times as large": places * 20,
        "squeezed": places * [1, 0.05],
    }
    for name, there in implausible.items():
        for model in ("homography", "affine"):
            match = verify_match(query, synthetic(there), model, threshold=1.0)
            # OpenCV itself finds no homography that mirrors.
            assert match.n_inliers > 30 or (name, model) == ("mirrored", "homography")
            assert not match.verified, name


def test_many_keypoints_at_one_place_are_one_inlier() -> None:
    places = np.repeat(np.random.default_rng(0).uniform(50, 400, (5, 2)), 10, axis=0)
    match = verify_match(synthetic(places), synthetic(places + 20))
    assert match.n_matches == 50
    assert match.n_inliers <= 5
    assert not match.verified


def test_the_same_pair_gives_the_same_match(pictures: list[Pixels]) -> None:
    a, b = (SIFTExtractor(400).extract(i) for i in (pictures[2], warped(pictures[2], TILTED)))
    first, second = verify_match(a, b), verify_match(a, b)
    assert np.array_equal(first.transformation, second.transformation)
    assert np.array_equal(first.inliers, second.inliers)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 25), st.integers(0, 25), st.floats(0.5, 1), st.integers(0, 99))
def test_matches_are_those_of_the_slow_ratio_test(
    n_query: int, n_image: int, ratio: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = synthetic(np.zeros((n_query, 2)), seed), synthetic(np.zeros((n_image, 2)), seed + 1)
    some = min(n_query, n_image) // 2
    b.descriptors[:some] = np.clip(a.descriptors[:some] + rng.integers(0, 60, (some, 128)), 0, 255)
    pairs = match_features(a, b, ratio)
    assert len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs)
    if n_image < 2:
        assert len(pairs) == 0
        return
    distances = cdist(a.descriptors.astype(float), b.descriptors.astype(float))
    for i in range(n_query):
        first, second = np.sort(distances[i])[:2]
        nearest = distances[i].argmin()
        rivals = [
            r for r in range(n_query)
            if distances[r].argmin() == nearest and distances[r, nearest] < first
            and distances[r, nearest] < ratio * np.sort(distances[r])[1]
        ]  # fmt: skip
        if not np.isclose(first, ratio * second, rtol=1e-4):
            assert ([i, nearest] in pairs.tolist()) == (first < ratio * second and not rivals)


def test_bits_are_matched_by_the_hamming_distance(pictures: list[Pixels]) -> None:
    a, b = (ORBExtractor(300).extract(i) for i in (pictures[0], warped(pictures[0], TURNED)))
    wanted = {
        (m.queryIdx, m.trainIdx)
        for m, n in cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(a.descriptors, b.descriptors, 2)
        # Our points are bits, whose Euclidean distance is the root of the Hamming distance.
        if m.distance < 0.8**2 * n.distance
    }
    got = set(map(tuple, match_features(a, b).tolist()))
    assert got <= wanted
    assert len(got) > 0.8 * len(wanted) > 10


@pytest.fixture(scope="module")
def gallery(pictures: list[Pixels]) -> list[Pixels]:
    return pictures[:6]


@pytest.fixture(scope="module")
def reranker(gallery: list[Pixels]) -> GeometricReranker:
    return GeometricReranker(extractor=SIFTExtractor(400)).fit(gallery)


def test_what_fits_moves_to_the_front_and_the_rest_keeps_its_order(
    reranker: GeometricReranker, gallery: list[Pixels]
) -> None:
    queries = [warped(gallery[4], TILTED), warped(gallery[1], TURNED)]
    ids = np.array([[3, 0, 5, 4, 1, -1], [3, 0, 5, 4, 2, -1]])
    order, n_inliers = reranker.rerank(queries, ids)
    assert np.take_along_axis(ids, order, axis=1).tolist() == [
        [4, 3, 0, 5, 1, -1],
        [3, 0, 5, 4, 2, -1],
    ]
    assert n_inliers[0, 0] > 15
    assert n_inliers[0, 1:].tolist() == [0, 0, 0, 0, -1]
    assert n_inliers[1].tolist() == [0, 0, 0, 0, 0, -1]


def test_only_the_top_is_verified(reranker: GeometricReranker, gallery: list[Pixels]) -> None:
    ids = np.array([[3, 0, 5, 4]])
    short = GeometricReranker(3, extractor=SIFTExtractor(400)).fit(gallery)
    order, n_inliers = short.rerank([gallery[4]], ids)
    assert order.tolist() == [[0, 1, 2, 3]]
    assert n_inliers.tolist() == [[0, 0, 0, -1]]


@pytest.mark.parametrize("parameters", [{"keep_features": False}, {"n_jobs": 1}, {"n_jobs": 3}])
def test_threads_and_kept_features_change_nothing(
    parameters: dict[str, int], reranker: GeometricReranker, gallery: list[Pixels]
) -> None:
    ids = np.array([[3, 0, 4, 2]])
    wanted = reranker.rerank([warped(gallery[4], TILTED)], ids)
    other = clone(reranker).set_params(**parameters).fit(gallery)
    for got, right in zip(other.rerank([warped(gallery[4], TILTED)], ids), wanted, strict=True):
        assert np.array_equal(got, right)


def test_flat_tiny_and_odd_images_change_nothing(reranker: GeometricReranker) -> None:
    ids = np.array([[3, 0, 4]])
    for shape in ((1, 1), (40, 40), (3, 2000)):
        order, n_inliers = reranker.rerank([np.zeros(shape, np.uint8)], ids)
        assert order.tolist() == [[0, 1, 2]]
        assert n_inliers.tolist() == [[0, 0, 0]]
    flat = GeometricReranker().fit([np.zeros((50, 50), np.uint8)])
    assert flat.rerank([np.zeros((50, 50), np.uint8)], np.array([[0]]))[1].tolist() == [[0]]
    assert flat.explain(np.zeros((50, 50), np.uint8), 0).n_matches == 0
    assert reranker.rerank([], np.empty((0, 3), int))[0].shape == (0, 3)


def test_large_originals_are_matched_in_their_own_pixels(gallery: list[Pixels]) -> None:
    large = cv2.resize(gallery[0], None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    reranker = GeometricReranker().fit([large])
    match = reranker.explain(gallery[0][50:, 80:], 0)
    assert match.verified
    np.testing.assert_allclose(match.homography[:2, :2], [[4, 0], [0, 4]], atol=0.1)
    np.testing.assert_allclose(match.homography[:2, 2], [320, 200], atol=8)


def test_wrong_use_is_an_error(reranker: GeometricReranker, gallery: list[Pixels]) -> None:
    with pytest.raises(NotFittedError):
        GeometricReranker().rerank(gallery[:1], np.array([[0]]))
    with pytest.raises(ValueError, match=r"rows of the gallery of 6 images, or -1; got 0 to 6"):
        reranker.rerank(gallery[:1], np.array([[0, 6]]))
    for wrong in (np.array([0]), np.array([[0.5]]), np.array([[0], [1]])):
        with pytest.raises(ValueError, match="ids must be integers of shape"):
            reranker.rerank(gallery[:1], wrong)
    with pytest.raises(ValueError, match="hit"):
        reranker.explain(gallery[0], 6)
    with pytest.raises(ValueError, match="one image"):
        reranker.explain(gallery[:2], 0)
    with pytest.raises(ImageReadError, match=r"no/such\.jpg"):
        reranker.rerank(["no/such.jpg"], np.array([[0]]))
    sift, orb = SIFTExtractor(50).extract(gallery[0]), ORBExtractor(50).extract(gallery[0])
    with pytest.raises(ValueError, match=r"'rootsift'.*'orb'"):
        match_features(sift, orb)
    for parameters in (
        {"top": 0}, {"model": "similarity"}, {"ratio": 0.0}, {"ratio": 1.1}, {"threshold": 0},
        {"min_inliers": 3}, {"keep_features": "yes"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(parameters))):
            GeometricReranker(**parameters).fit(gallery)


def test_a_search_verifies_and_explains_its_hits(
    pictures: list[Pixels], tmp_path: Path, make_noise: Callable[..., Pixels]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.touch()
    images = [broken, *pictures[:5]]
    # HOG of a turned picture finds anything; local features find that picture.
    search = ImageSearch(HOGEmbedder(), rerank=GeometricReranker(top=5))
    with pytest.warns(ImageReadWarning, match="1 of 6"):
        search.fit(images)
    query = np.rot90(pictures[2], 2)
    plain = ImageSearch(HOGEmbedder()).fit(pictures[:5]).search(query, 5)
    assert plain.ids[0, 0] != 2
    assert plain.n_inliers is None
    result = search.search(query, 2)
    assert result.ids[0, 0] == 3
    assert result.n_inliers is not None
    assert result.n_inliers[0, 0] > 30
    assert f"{result.n_inliers[0, 0]} inliers" in repr(result)
    assert "inliers" in result.to_html()
    assert result.to_pandas()["n_inliers"].tolist() == result.n_inliers[0].tolist()
    match = search.explain(query, 3)
    assert match.verified
    assert match.homography[:2, :2] == pytest.approx(np.array([[-1, 0], [0, -1]]), abs=0.05)
    for hit in (0, 6, -1):
        with pytest.raises(ValueError, match=f"hit must be .* got {hit}"):
            search.explain(query, hit)
    with pytest.raises(ValueError, match="rerank=GeometricReranker"):
        ImageSearch(HOGEmbedder()).fit(pictures[:2]).explain(query, 0)
    nothing = search.search(make_noise(), 5)
    assert sorted(nothing.ids[0]) == [1, 2, 3, 4, 5]
    assert (np.diff(nothing.distances[0]) >= 0).all()


def test_expansion_by_hand() -> None:
    queries = np.array([[1.0, 0.0], [0.0, 0.0]])
    neighbours = np.array([[[0.6, 0.8], [-1.0, 0.0]], [[3.0, 4.0], [np.nan, np.nan]]])
    average = QueryExpansion().expand(queries, neighbours)
    np.testing.assert_allclose(average[0], np.array([0.6, 0.8]) / 1, atol=1e-6)
    np.testing.assert_allclose(average[1], [0.6, 0.8], atol=1e-6)
    alpha = QueryExpansion(alpha=2).expand(queries[:1], neighbours[:1])
    wanted = np.array([1 + 0.36 * 0.6, 0.36 * 0.8])
    np.testing.assert_allclose(alpha[0], wanted / np.linalg.norm(wanted), atol=1e-6)


def test_expansion_finds_what_only_neighbours_know() -> None:
    """Along a chain each vector is near the next; the mean reaches further."""
    angles = np.deg2rad([0, 20, 40, 60, 100])
    chain = np.column_stack([np.cos(angles), np.sin(angles)])
    expanded = QueryExpansion(n_neighbors=3).expand(chain[:1], chain[np.newaxis, 1:4])
    assert expanded[0] @ chain[3] > chain[0] @ chain[3]
    with pytest.raises(ValueError, match="shape"):
        QueryExpansion().expand(chain, chain)
    for wrong in ({"n_neighbors": 0}, {"alpha": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            QueryExpansion(**wrong).expand(chain[:1], chain[np.newaxis])


def test_a_search_expands_its_queries(photographs: list[Path]) -> None:
    embedder = SIFTEmbedder(100, random_state=0).fit(photographs)
    search = ImageSearch(embedder, expansion=QueryExpansion(2, alpha=3)).fit(photographs)
    result = search.search(photographs[:4], 3)
    assert result.ids[:, 0].tolist() == [0, 1, 2, 3]
    plain = ImageSearch(embedder).fit(photographs).search(photographs[:4], 3)
    assert not np.allclose(result.distances, plain.distances)
    euclidean = NearestNeighborIndex(metric="euclidean")
    with pytest.raises(ValueError, match="metric='cosine'"):
        ImageSearch(embedder, euclidean, expansion=QueryExpansion()).fit(photographs)


def test_verification_beats_none_on_phone_photos(shared_data: Path) -> None:
    """Labels, of which the words alone find half: with verification, more."""
    folder = shared_data / "beer_labels"
    rows = read_ground_truth(folder / "groups.csv")
    groups = sorted({row["group"] for row in rows})[:25]
    rows = [row for row in rows if row["group"] in groups]
    gallery = [folder / row["path"] for row in rows if row["query"] == "0"]
    queries = [folder / row["path"] for row in rows if row["query"] == "1"]
    answers = [[row["group"] for row in rows if row["query"] == kind] for kind in "01"]
    embedder = SIFTEmbedder(1000, n_keypoints=500, random_state=0)
    reranker = GeometricReranker(20, extractor=SIFTExtractor(500))
    search = ImageSearch(embedder, rerank=reranker).fit(gallery)
    verified = search.search(queries, 1).ids[:, 0]
    search.reranker_ = None
    plain = search.search(queries, 1).ids[:, 0]
    right = [
        np.mean(np.array(answers[0])[ids] == np.array(answers[1])) for ids in (plain, verified)
    ]
    assert right[1] > 0.85
    assert right[1] > right[0] + 0.1
