"""SIFT, SURF, ORB, AKAZE and HOG as embedders: what they find, and odd input."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import read_ground_truth
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from imgembed import (
    VLAD,
    AKAZEEmbedder,
    BagOfVisualWords,
    FisherVector,
    HOGEmbedder,
    ImageEmbedder,
    ImageSearch,
    ORBEmbedder,
    ORBExtractor,
    SIFTEmbedder,
    SIFTExtractor,
    SURFEmbedder,
    VisualVocabulary,
    read_image,
)
from imgembed.classical import surf_available
from imgembed.demo import write_queries

Pixels = NDArray[np.uint8]

LOCAL = [SIFTEmbedder, ORBEmbedder, AKAZEEmbedder]
if surf_available():
    LOCAL.append(SURFEmbedder)
every_local = pytest.mark.parametrize("embedder", LOCAL)


def test_an_embedder_is_its_parts(photographs: list[Path]) -> None:
    features = SIFTExtractor(200).fit_transform(photographs)
    parts: dict[str, Any] = {
        "bovw": BagOfVisualWords(VisualVocabulary(40, random_state=0)),
        "vlad": VLAD(VisualVocabulary(40, random_state=0)),
        "fisher": FisherVector(40, random_state=0),
    }
    for aggregation, aggregator in parts.items():
        whole = SIFTEmbedder(40, aggregation, n_keypoints=200, random_state=0)
        vectors = whole.fit_transform(photographs)
        np.testing.assert_allclose(vectors, aggregator.fit_transform(features), atol=1e-6)
        given = SIFTEmbedder(aggregation=aggregator, n_keypoints=200)
        np.testing.assert_allclose(given.fit_transform(photographs), vectors, atol=1e-6)


@pytest.mark.parametrize("aggregation", ["bovw", "vlad", "fisher"])
@every_local
def test_changed_copies_are_found(
    embedder: type[Any], aggregation: str, photographs: list[Path], tmp_path: Path
) -> None:
    n_words = 500 if aggregation == "bovw" else 16
    fitted = embedder(n_words, aggregation, n_keypoints=500, random_state=0)
    gallery = fitted.fit_transform(photographs)
    queries = fitted.transform(write_queries(photographs, tmp_path))
    found = (queries @ gallery.T).argmax(axis=1) == np.repeat(np.arange(len(gallery)), 4)
    assert found.mean() > 0.7


def test_random_state_fixes_the_vectors_whatever_the_threads(photographs: list[Path]) -> None:
    def vectors(seed: int, n_jobs: int) -> NDArray[np.float32]:
        embedder = SIFTEmbedder(100, n_keypoints=200, random_state=seed, n_jobs=n_jobs)
        return embedder.fit_transform(photographs[:6])

    first = vectors(0, 1)
    assert np.array_equal(first, vectors(0, 3))
    assert not np.array_equal(first, vectors(1, 1))


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (3, 4000), (2000, 1), (15, 400)])
@every_local
def test_an_image_without_keypoints_has_the_zero_vector(
    embedder: type[Any], shape: tuple[int, int], make_noise: Callable[..., Pixels]
) -> None:
    fitted = embedder(20, random_state=0).fit([make_noise(s, 240, 320) for s in range(3)])
    assert np.array_equal(fitted.transform([np.full(shape, 9, np.uint8)]), np.zeros((1, 20)))


@every_local
def test_a_single_image_and_too_few_descriptors(
    embedder: type[Any], make_noise: Callable[..., Pixels]
) -> None:
    image = make_noise(0, 240, 320)
    vectors = embedder(5, random_state=0).fit_transform([image])
    assert np.linalg.norm(vectors) == pytest.approx(1, abs=1e-5)
    flat = np.zeros((50, 50), np.uint8)
    for aggregation in ("bovw", "vlad"):
        with pytest.raises(
            ValueError, match=r"0 distinct descriptors, too few for n_words=6;.*few"
        ):
            embedder(6, aggregation).fit([flat])
        with pytest.raises(ValueError, match=r"distinct descriptors, too few for n_words=60000"):
            embedder(60_000, aggregation).fit([image, flat])
    with pytest.raises(ValueError, match=r"0 descriptors, too few for n_components=6"):
        embedder(6, "fisher").fit([flat])


def test_a_vocabulary_of_another_extractor_is_refused(photographs: list[Path]) -> None:
    words = VisualVocabulary(10, random_state=0).fit(ORBExtractor(50).transform(photographs[:3]))
    with pytest.raises(ValueError, match=r"'orb'.*'rootsift'.*same extractor"):
        SIFTEmbedder(aggregation=BagOfVisualWords(words)).fit(photographs[:3])
    plain = VisualVocabulary(10, random_state=0).fit(
        SIFTExtractor(50, rootsift=False).transform(photographs[:3])
    )
    with pytest.raises(ValueError, match=r"'sift'.*'rootsift'"):
        SIFTEmbedder(aggregation=VLAD(plain)).fit(photographs[:3])


def test_a_fitted_vocabulary_is_used_and_its_aggregator_left_alone(
    photographs: list[Path],
) -> None:
    words = VisualVocabulary(10, random_state=0).fit(SIFTExtractor(50).transform(photographs[:5]))
    bags = BagOfVisualWords(words, sparse_output=True)
    embedder = SIFTEmbedder(aggregation=bags, n_keypoints=50)
    vectors = embedder.fit_transform(photographs[:5])
    assert isinstance(vectors, np.ndarray)
    np.testing.assert_allclose(embedder.transform(photographs[:5]), vectors, atol=1e-6)
    assert embedder.aggregator_.vocabulary_ is words
    assert not hasattr(bags, "vocabulary_")


def test_fingerprints_differ_where_vectors_do(photographs: list[Path]) -> None:
    def fingerprint(**parameters: Any) -> str:
        embedder = SIFTEmbedder(
            **{"n_words": 10, "n_keypoints": 50, "random_state": 0, **parameters}
        )
        return embedder.fit(photographs[:3]).fingerprint()

    first = fingerprint()
    assert first == fingerprint(n_jobs=1, batch_size=2)
    others = [
        {"aggregation": "vlad"},
        {"aggregation": "fisher", "n_words": 4},
        {"n_words": 11},
        {"n_keypoints": 49},
        {"longest_edge": 300},
        {"contrast_threshold": 0.03},
        {"rootsift": False},
        {"random_state": 1},
        {"aggregation": BagOfVisualWords(VisualVocabulary(10, random_state=0)), "n_words": None},
        {
            "aggregation": BagOfVisualWords(VisualVocabulary(10, random_state=0), tf="count"),
            "n_words": None,
        },
    ]
    found = [fingerprint(**other) for other in others]
    assert len({first, *found[:-2], found[-1]}) == len(others)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("n_words", 0, ValueError),
        ("n_words", "many", TypeError),
        ("n_keypoints", 0, ValueError),
        ("n_keypoints", "many", TypeError),
        ("longest_edge", 0, ValueError),
        ("contrast_threshold", -1, ValueError),
        ("rootsift", "no", ValueError),
        ("aggregation", "sum", ValueError),
    ],
)
def test_parameters_are_checked_at_fit(
    name: str, value: Any, error: type[Exception], make_noise: Callable[..., Pixels]
) -> None:
    with pytest.raises(error, match=name):
        SIFTEmbedder(**{name: value}).fit([make_noise()])


def test_words_beside_an_aggregation_of_ones_own_are_refused(
    make_noise: Callable[..., Pixels],
) -> None:
    with pytest.raises(ValueError, match=r"n_words=5 has no effect"):
        SIFTEmbedder(5, VLAD()).fit([make_noise()])


def test_an_aggregation_is_cloned_with_the_embedder_and_searched(photographs: list[Path]) -> None:
    embedder = SIFTEmbedder(
        aggregation=BagOfVisualWords(VisualVocabulary(10, random_state=0)), n_keypoints=50
    )
    copy = clone(embedder).set_params(aggregation__vocabulary__n_words=12, aggregation__tf="log")
    assert copy.fit_transform(photographs[:4]).shape == (4, 12)
    assert embedder.aggregation.vocabulary.n_words == 10
    pipeline = make_pipeline(copy, LogisticRegression())
    labels = [0, 1, 0, 1]
    assert pipeline.fit(photographs[:4], labels).predict(photographs[:4]).shape == (4,)


@pytest.mark.skipif(surf_available(), reason="this build of OpenCV has SURF")
def test_without_surf_the_embedder_says_so(make_noise: Callable[..., Pixels]) -> None:
    embedder = SURFEmbedder()
    clone(embedder)
    with pytest.raises(RuntimeError, match=r"patented.*NONFREE=ON.*SIFTExtractor"):
        embedder.fit([make_noise()])


def test_covers_are_found_in_phone_photos(shared_data: Path) -> None:
    folder = shared_data / "smvs_dvd"
    rows = read_ground_truth(folder / "groups.csv")
    groups = sorted({row["group"] for row in rows})[:20]
    rows = [row for row in rows if row["group"] in groups]
    gallery = [row for row in rows if row["query"] == "0"]
    queries = [row for row in rows if row["query"] == "1"]
    embedder = SIFTEmbedder(n_words=4000, random_state=0)
    search = ImageSearch(embedder).fit([folder / row["path"] for row in gallery])
    hits = search.search([folder / row["path"] for row in queries], 1).ids[:, 0]
    right = [gallery[hit]["group"] == row["group"] for hit, row in zip(hits, queries, strict=True)]
    assert np.mean(right) > 0.85


# Histograms of oriented gradients.


def striped(turn: float, width: int = 128) -> Pixels:
    """Stripes whose gradients point in a direction, in degrees."""
    y, x = np.mgrid[:width, :width]
    along = x * np.cos(np.deg2rad(turn)) + y * np.sin(np.deg2rad(turn))
    return np.uint8(127 + 100 * np.sin(along / 3))  # type: ignore[return-value]


def test_hog_finds_the_direction_of_stripes() -> None:
    vectors = HOGEmbedder(n_orientations=9).transform([striped(10 + 20 * i) for i in range(9)])
    energy = (vectors**2).reshape(9, -1, 9).sum(axis=1)
    # Bins are centred on 10, 30, ... 170 degrees.
    assert energy.argmax(axis=1).tolist() == list(range(9))
    assert (energy.max(axis=1) > 0.6).all()


def test_hog_levels_have_the_same_weight_and_their_widths(photographs: list[Path]) -> None:
    image = read_image(photographs[0])
    single = [HOGEmbedder(cell_size=c).transform([image])[0] for c in (16, 32)]
    both = HOGEmbedder(n_levels=2).transform([image])[0]
    np.testing.assert_allclose(both * np.sqrt(2), np.concatenate(single), atol=1e-5)
    assert [len(one) for one in single] == [7 * 7 * 4 * 9, 3 * 3 * 4 * 9]


def test_hog_ignores_brightness_and_contrast(photographs: list[Path]) -> None:
    image = read_image(photographs[0])
    dark = np.uint8(image * 0.5 + 20)
    a, b = HOGEmbedder().transform([image, dark])
    assert a @ b > 0.98
    assert not HOGEmbedder().transform([np.full((50, 50), 7, np.uint8)]).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 100}, {"size": 16}, {"cell_size": 0}, {"n_orientations": 0}, {"n_levels": 0},
        {"n_levels": 4}, {"size": 128.0},
    ],
)  # fmt: skip
def test_hog_parameters_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        HOGEmbedder(**wrong).fit([np.zeros((9, 9), np.uint8)])


def test_hog_takes_tiny_and_long_images() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, np.uint8) for shape in [(1, 1), (1, 500), (700, 2)]]
    vectors = HOGEmbedder(n_levels=3).transform(images)
    assert np.isfinite(vectors).all()
    before = cv2.getNumThreads()
    HOGEmbedder(n_jobs=2).transform(images)
    assert cv2.getNumThreads() == before


def test_all_embedders_are_image_embedders() -> None:
    for embedder in (*LOCAL, SURFEmbedder, HOGEmbedder):
        assert issubclass(embedder, ImageEmbedder)
        assert repr(embedder()) == f"{embedder.__name__}()"
