"""Extractors: as OpenCV gives them, in pixels of the image as given, defined for odd images."""

import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone

from imgembed import (
    AKAZEExtractor,
    ImageReadError,
    ImageReadWarning,
    LocalFeatures,
    ORBExtractor,
    SIFTExtractor,
    SURFExtractor,
    read_image,
)
from imgembed.classical import LocalFeatureExtractor, surf_available
from imgembed.classical._sift import rootsift

Pixels = NDArray[np.uint8]

EXTRACTORS = [SIFTExtractor, ORBExtractor, AKAZEExtractor]
if surf_available():
    EXTRACTORS.append(SURFExtractor)
every_extractor = pytest.mark.parametrize("extractor", EXTRACTORS)


@pytest.fixture(scope="module")
def photograph(photographs: list[Path]) -> Pixels:
    return read_image(photographs[4])


def grey(image: Pixels) -> Pixels:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def test_sift_is_opencvs(photograph: Pixels) -> None:
    keypoints, wanted = cv2.SIFT_create(200).detectAndCompute(grey(photograph), None)
    got = SIFTExtractor(200, longest_edge=None, rootsift=False).extract(photograph)
    order = np.argsort([-k.response for k in keypoints], kind="stable")[:200]
    assert np.array_equal(got.descriptors, wanted[order])
    assert got.descriptors.dtype == np.uint8
    np.testing.assert_allclose(got.positions, [keypoints[i].pt for i in order], atol=1e-3)
    np.testing.assert_allclose(got.scales, [keypoints[i].size for i in order], rtol=1e-5)
    np.testing.assert_allclose(got.angles, [keypoints[i].angle for i in order], rtol=1e-5)


@every_extractor
def test_features_have_one_form(extractor: type[LocalFeatureExtractor], photograph: Pixels) -> None:
    features = extractor(n_keypoints=150).extract(photograph)
    assert 100 < len(features) <= 150
    assert features.positions.shape == (len(features), 2)
    for column in (features.scales, features.angles, features.responses):
        assert column.shape == (len(features),)
        assert column.dtype == np.float32
    assert (np.diff(features.responses) <= 0).all()
    assert (features.scales > 0).all()
    height, width = features.image_shape
    assert (features.positions >= -0.5).all()
    assert (features.positions <= [width, height]).all()
    assert features.binary == (features.kind in ("orb", "akaze"))
    assert features.nbytes == len(features) * (20 + features.descriptors[0].nbytes)


@every_extractor
def test_positions_are_in_pixels_of_the_image_as_given(
    extractor: type[LocalFeatureExtractor], photograph: Pixels
) -> None:
    """Of an image twice as large, reduced again, the features are at twice the place."""
    size = photograph.shape[1] // 2 * 2, photograph.shape[0] // 2 * 2
    image = cv2.resize(photograph, size)
    large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    longest_edge = max(image.shape)
    small = extractor(longest_edge=longest_edge).extract(image)
    found = extractor(longest_edge=longest_edge).extract(large)
    assert found.image_shape == (2 * small.image_shape[0], 2 * small.image_shape[1])
    assert np.array_equal(found.descriptors, small.descriptors)
    np.testing.assert_allclose(found.positions + 0.5, 2 * (small.positions + 0.5), rtol=1e-5)
    np.testing.assert_allclose(found.scales, 2 * small.scales, rtol=1e-5)


def test_rootsift_distance_is_the_hellinger_distance(photograph: Pixels) -> None:
    plain = SIFTExtractor(50, rootsift=False).extract(photograph).descriptors
    roots = rootsift(plain).astype(float) / 512
    assert np.linalg.norm(roots, axis=1) == pytest.approx(1, abs=0.01)
    p = plain / plain.sum(axis=1, keepdims=True, dtype=float)
    hellinger = 2 - 2 * np.sqrt(p[:1] * p[1:]).sum(axis=1)
    got = ((roots[:1] - roots[1:]) ** 2).sum(axis=1)
    np.testing.assert_allclose(got, hellinger, rtol=0.02)
    assert np.array_equal(SIFTExtractor(50).extract(photograph).descriptors, rootsift(plain))
    assert not rootsift(np.zeros((1, 128), np.uint8)).any()


@every_extractor
@pytest.mark.parametrize(
    "shape", [(1, 1), (64, 64), (15, 15), (16, 16), (3, 4000), (2000, 1), (40, 17)]
)
def test_flat_and_tiny_images_have_no_keypoints(
    extractor: type[LocalFeatureExtractor], shape: tuple[int, int]
) -> None:
    width = extractor().extract(np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8))
    for value in (0, 9, 255):
        features = extractor().extract(np.full(shape, value, np.uint8))
        assert len(features) == 0
        assert features.positions.shape == (0, 2)
        assert features.descriptors.shape == (0, width.descriptors.shape[1])
        assert features.descriptors.dtype == width.descriptors.dtype
        assert features.image_shape == shape


@every_extractor
def test_odd_sizes_and_noise_are_taken(
    extractor: type[LocalFeatureExtractor], make_noise: Callable[..., Pixels]
) -> None:
    rng = np.random.default_rng(0)
    for shape in [(16, 16), (17, 300), (31, 33), (63, 64), (600, 20)]:
        features = extractor().extract(rng.integers(0, 256, (*shape, 3), np.uint8))
        assert np.isfinite(features.positions).all()
    huge = np.kron(make_noise(), np.ones((40, 40, 1), np.uint8))  # 4800 x 6400
    features = extractor(n_keypoints=100, longest_edge=256).extract(huge)
    assert 0 < len(features) <= 100
    assert features.positions.max() > 2000


def test_a_lower_contrast_threshold_finds_more(photograph: Pixels) -> None:
    counts = [
        len(SIFTExtractor(10_000, contrast_threshold=threshold).extract(photograph))
        for threshold in (0.08, 0.04, 0.01)
    ]
    assert counts == sorted(set(counts))


@every_extractor
def test_features_survive_a_pickle(
    extractor: type[LocalFeatureExtractor], photograph: Pixels
) -> None:
    features = extractor(n_keypoints=300).extract(photograph)
    stored = pickle.dumps(features)
    assert len(stored) < features.nbytes + 1000
    again = pickle.loads(stored)
    assert np.array_equal(again.positions, features.positions)
    assert np.array_equal(again.descriptors, features.descriptors)
    assert (again.kind, again.image_shape) == (features.kind, features.image_shape)


def test_features_are_a_table(photograph: Pixels) -> None:
    features = ORBExtractor(20).extract(photograph)
    table = features.to_frame()
    assert list(table.columns[:6]) == ["x", "y", "scale", "angle", "response", "d0"]
    assert table.shape == (len(features), 5 + 32)
    assert table["d31"].to_numpy() == pytest.approx(features.descriptors[:, 31])
    assert table["y"].to_numpy() == pytest.approx(features.positions[:, 1])


def test_features_are_chosen_like_rows(photograph: Pixels) -> None:
    features = SIFTExtractor(50).extract(photograph)
    some = features[features.scales > np.median(features.scales)]
    assert 0 < len(some) < 50
    assert len(features[3]) == 1
    assert np.array_equal(features[[4, 2]].positions, features.positions[[4, 2]])
    assert "50 keypoints, rootsift" in repr(features)


def test_extraction_takes_all_kinds_of_images(photographs: list[Path], photograph: Pixels) -> None:
    path = photographs[4]
    routes = [path, str(path), path.read_bytes(), photograph, Image.open(path)]
    first, *others = SIFTExtractor(50).fit_transform(routes)
    for other in others:
        assert np.array_equal(first.descriptors, other.descriptors)


def test_unreadable_images_are_named_or_none(
    tmp_path: Path, make_noise: Callable[..., Pixels]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    images = [make_noise(), broken, make_noise(1)]
    with pytest.raises(ImageReadError, match=r"row 1.*broken\.jpg"):
        SIFTExtractor().transform(images)
    with pytest.warns(ImageReadWarning, match=r"1 images cannot.*row 1.*broken"):
        features = SIFTExtractor(on_error="none").transform(images)
    assert [one is None for one in features] == [False, True, False]
    with pytest.warns(ImageReadWarning, match="broken"):
        assert len(list(SIFTExtractor(on_error="none").iterate(iter(images)))) == 2


def test_a_generator_is_read_only_a_little_ahead(make_noise: Callable[..., Pixels]) -> None:
    n_made = 0

    def images() -> Iterator[Pixels]:
        nonlocal n_made
        for seed in range(100):
            n_made += 1
            yield make_noise(seed)

    features = SIFTExtractor(10, n_jobs=2).iterate(images())
    first = next(features)
    assert n_made < 20
    assert isinstance(first, LocalFeatures)
    features.close()
    assert n_made < 20


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (SIFTExtractor(0), ValueError),
        (SIFTExtractor("many"), TypeError),
        (SIFTExtractor(longest_edge=8), ValueError),
        (SIFTExtractor(contrast_threshold=-1), ValueError),
        (SIFTExtractor(rootsift="yes"), ValueError),
        (SIFTExtractor(on_error="nan"), ValueError),
        (ORBExtractor(fast_threshold=0), ValueError),
        (AKAZEExtractor(hessian_threshold=-1.0), ValueError),
        (SURFExtractor(n_dimensions=65), ValueError),
    ],
)
def test_parameters_are_checked(wrong: LocalFeatureExtractor, error: type[Exception]) -> None:
    clone(wrong)
    with pytest.raises(error, match=r"n_keypoints|longest_edge|threshold|rootsift|on_err|n_dimen"):
        wrong.fit()


@pytest.mark.skipif(surf_available(), reason="this build of OpenCV has SURF")
def test_without_surf_the_error_says_why_and_what_to_do(make_noise: Callable[..., Pixels]) -> None:
    SURFExtractor(upright=True)
    for use in (lambda e: e.fit(), lambda e: e.transform([make_noise()])):
        with pytest.raises(RuntimeError, match=r"patented.*NONFREE=ON.*SIFTExtractor"):
            use(SURFExtractor())


class StandInForSURF:
    """With SIFT inside, and the signature and the output of OpenCV's SURF."""

    def __init__(
        self, hessianThreshold: float = 100, nOctaves: int = 4, nOctaveLayers: int = 3,
        extended: bool = False, upright: bool = False,
    ) -> None:  # fmt: skip
        self.width = 128 if extended else 64
        self.upright = upright

    def descriptorSize(self) -> int:  # noqa: N802 (as OpenCV names it)
        return self.width

    def detectAndCompute(  # noqa: N802
        self, image: Pixels, mask: None
    ) -> tuple[object, object]:
        keypoints, descriptors = cv2.SIFT_create(500).detectAndCompute(image, mask)
        if descriptors is None:
            return keypoints, None
        if self.upright:
            for keypoint in keypoints:
                keypoint.angle = 270
        return keypoints, descriptors[:, : self.width] / 512


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("n_dimensions", [64, 128])
def test_surf_where_the_build_has_it(
    n_dimensions: int, upright: bool, photograph: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For real if the build has it; else what is ours around it."""
    if not surf_available():
        monkeypatch.setattr(cv2.xfeatures2d, "SURF_create", StandInForSURF)
        monkeypatch.setattr("imgembed.classical._surf.surf_available", lambda: True)
    extractor = SURFExtractor(100, n_dimensions=n_dimensions, upright=upright).fit()
    features = extractor.extract(photograph)
    assert features.kind == f"surf{n_dimensions}"
    assert features.descriptors.shape == (100, n_dimensions)
    assert features.descriptors.dtype == np.float32
    assert (features.angles == -1).all() == upright
    assert extractor.extract(np.zeros((50, 50), np.uint8)).descriptors.shape == (0, n_dimensions)


@every_extractor
def test_odd_files_have_features_or_a_named_error(
    extractor: type[LocalFeatureExtractor], shared_data: Path
) -> None:
    paths = [p for p in sorted((shared_data / "odd").rglob("*")) if p.is_file()]
    with warnings.catch_warnings(record=True) as caught:  # Pillow warns of some, too
        warnings.simplefilter("always")
        features = extractor(100, on_error="none").transform(paths)
    assert sum(issubclass(one.category, ImageReadWarning) for one in caught) == 1
    found = [one for one in features if one is not None]
    assert len(found) > len(paths) / 2
    for one in found:
        assert np.isfinite(one.positions).all()
        assert (one.positions >= -0.5).all()
        assert (one.positions <= np.array(one.image_shape[::-1])).all()
