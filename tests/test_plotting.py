"""Pictures of local features and hits: on the right Axes, where they belong, nothing shown."""

from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.patches import Polygon
from numpy.typing import NDArray

from imgembed import LocalFeatures, ORBExtractor, SIFTExtractor, VisualVocabulary, read_image
from imgembed.classical import verify_match
from imgembed.plotting import (
    TextQuery,
    html_hits,
    image_name,
    plot_hits,
    plot_keypoints,
    plot_matches,
    plot_words,
)

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def picture(photographs: list[Path]) -> Pixels:
    return read_image(photographs[4])


def test_rich_keypoints_are_circles_with_a_radius(picture: Pixels) -> None:
    features = SIFTExtractor(40).extract(picture)
    ax = plot_keypoints(picture, features)
    circles, radii = ax.collections
    assert isinstance(circles, EllipseCollection)
    assert isinstance(radii, LineCollection)
    assert np.asarray(circles.get_offsets()) == pytest.approx(features.positions)
    ends = np.array(radii.get_segments())
    assert ends[:, 0] == pytest.approx(features.positions)
    lengths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
    assert lengths == pytest.approx(features.scales / 2, rel=1e-4)
    turns = np.rad2deg(np.arctan2(*(ends[:, 1] - ends[:, 0]).T[::-1])) % 360
    assert turns == pytest.approx(features.angles % 360, abs=0.1)
    # Circles have the scale of the keypoint in pixels of the image, whatever the figure's size.
    ax.figure.canvas.draw()
    paths = circles.get_paths()
    assert len(paths) == 1
    assert circles._widths * 2 == pytest.approx(features.scales, rel=1e-5)
    assert ax.get_title() == "40 keypoints"
    assert ax.get_xlim() == (-0.5, picture.shape[1] - 0.5)


def test_plain_keypoints_are_points_on_given_axes(picture: Pixels) -> None:
    features = ORBExtractor(30).extract(picture)
    _, ax = plt.subplots()
    assert plot_keypoints(picture, features, rich=False, ax=ax) is ax
    assert ax.lines[0].get_xydata() == pytest.approx(features.positions)
    assert len(plt.get_fignums()) == 1


def test_no_keypoints_and_wrong_images(picture: Pixels) -> None:
    flat = np.zeros((40, 60), np.uint8)
    for rich in (True, False):
        ax = plot_keypoints(flat, SIFTExtractor().extract(flat), rich=rich)
        assert ax.get_title() == "0 keypoints"
        ax.figure.canvas.draw()
    with pytest.raises(ValueError, match=r"40 x 60 pixels, and this one has"):
        plot_keypoints(picture, SIFTExtractor().extract(flat))


def test_matches_are_lines_between_the_right_places(picture: Pixels) -> None:
    query = cv2.resize(picture[60:260, 100:340], None, fx=0.7, fy=0.7)
    extractor = SIFTExtractor()
    match = verify_match(extractor.extract(query), extractor.extract(picture))
    ax = plot_matches(query, picture, match)
    outliers, inliers = ax.collections
    assert len(inliers.get_segments()) == match.inliers.sum()
    assert len(outliers.get_segments()) == (~match.inliers).sum()
    # The query is enlarged to the height of the image, which stands to the right of it.
    scale = picture.shape[0] / query.shape[0]
    ends = np.array(inliers.get_segments())
    wanted = (match.query_positions[match.inliers] + 0.5) * scale - 0.5
    assert ends[:, 0] == pytest.approx(wanted, abs=1e-3)
    right = ends[:, 1] - match.image_positions[match.inliers]
    assert right[:, 1] == pytest.approx(np.zeros(len(right)), abs=1e-3)
    assert np.ptp(right[:, 0]) < 1e-2
    assert right[0, 0] > query.shape[1] * scale
    frames = [patch for patch in ax.patches if isinstance(patch, Polygon)]
    assert len(frames) == 2
    outline = frames[1].get_xy()[:4] - right[0]
    found = np.array([[100, 60], [340, 60], [340, 260], [100, 260]])
    assert outline == pytest.approx(found, abs=3)
    assert ax.get_title().endswith(", verified")
    ax.figure.canvas.draw()
    few = plot_matches(query, picture, match, max_matches=10).collections[1]
    assert 5 <= len(few.get_segments()) <= 10


def test_what_does_not_match_is_drawn_without_frames(
    picture: Pixels, photographs: list[Path]
) -> None:
    other = read_image(photographs[0])
    extractor = SIFTExtractor()
    a, b = extractor.extract(picture), extractor.extract(other)
    ax = plot_matches(picture, other, verify_match(a, b))
    assert not ax.patches
    assert ax.get_title().endswith("not verified")
    flat = np.zeros((30, 90), np.uint8)
    ax = plot_matches(flat, other, verify_match(extractor.extract(flat), b))
    ax.figure.canvas.draw()
    assert ax.get_title() == "0 inliers of 0 matches, not verified"
    with pytest.raises(ValueError, match="image's features"):
        plot_matches(picture, flat, verify_match(a, b))


def test_words_are_patches_nearest_first(photographs: list[Path]) -> None:
    images = [read_image(path, shortest_edge=200) for path in photographs[:6]]
    features: list[LocalFeatures] = SIFTExtractor(150).transform(images)  # type: ignore[assignment]
    vocabulary = VisualVocabulary(30, random_state=0).fit(features)
    axes = plot_words(vocabulary, images, features, n_patches=4)
    assert axes.shape == (6, 4)
    words = np.concatenate([vocabulary.predict(one) for one in features])
    commonest = np.bincount(words).argmax()
    assert axes[0, 0].get_title(loc="left") == (
        f"word {commonest}: {np.bincount(words).max()} keypoints"
    )
    assert all(len(ax.images) == 1 for ax in axes[0])
    # The first patch is that of the descriptor nearest to the word in all images.
    axes = plot_words(vocabulary, images, features, 7, n_patches=1)
    assert axes.shape == (1, 1)
    for wrong in (30, -1, []):
        with pytest.raises(ValueError, match=r"words must be in 0\.\.29"):
            plot_words(vocabulary, images, features, wrong)
    with pytest.raises(ValueError, match="as many"):
        plot_words(vocabulary, images[:2], features)


def test_patches_are_upright_and_of_one_size() -> None:
    """An image and its copy, turned and enlarged, give the same patches."""
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    image = cv2.GaussianBlur(np.kron(blocks, np.ones((20, 20), np.uint8)), (0, 0), 3)
    turned = np.ascontiguousarray(np.rot90(cv2.resize(image, None, fx=2, fy=2)))
    features = SIFTExtractor(200, longest_edge=None).transform([image, turned])
    match = verify_match(*features)  # type: ignore[arg-type]
    assert match.n_inliers > 20
    vocabulary = VisualVocabulary(20, random_state=0).fit(features[0])
    axes = plot_words(vocabulary, [image, turned], features, range(20), n_patches=2)  # type: ignore[arg-type]
    alike = []
    for first, second in axes:
        if first.images and second.images:
            pair = [np.asarray(ax.images[0].get_array(), float).ravel() for ax in (first, second)]
            alike.append(np.corrcoef(pair)[0, 1])
    assert len(alike) > 10
    assert np.median(alike) > 0.9


def test_pictures_without_matplotlib_name_the_extra(
    picture: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for module in ("matplotlib.pyplot", "matplotlib.collections", "matplotlib.patches"):
        monkeypatch.setitem(sys.modules, module, None)
    features = SIFTExtractor(20).extract(picture)
    vocabulary = VisualVocabulary(5, random_state=0).fit(features)
    for draw in (
        lambda: plot_keypoints(picture, features),
        lambda: plot_matches(picture, picture, verify_match(features, features)),
        lambda: plot_words(vocabulary, [picture], [features]),
    ):
        with pytest.raises(ImportError, match=r"imgembed\[plot\]"):
            draw()


def test_words_are_drawn_in_lines_and_never_as_a_path_or_formula(
    picture: Pixels, photographs: list[Path]
) -> None:
    words = TextQuery("a $very$ long sentence of which a cell " + "shows the beginning " * 20)
    path = str(photographs[0])
    axes = plot_hits([words, TextQuery(path), path], [[picture]] * 3, [["hit"]] * 3)
    drawn = axes[0, 0].texts[0].get_text().splitlines()
    assert drawn[0] == "a $very$ long"
    assert len(drawn) <= 8
    assert drawn[-1].endswith(" ...")
    assert [len(ax.images) for ax in axes[:, 0]] == [0, 0, 1]
    axes[0, 0].figure.canvas.draw()
    table = html_hits([TextQuery(path)], [[picture]], [["hit"]])
    assert f'<div class="text">{path}</div>' in table
    assert table.count("<img") == 1
    assert image_name(TextQuery("photos/cat.jpg")) == "'photos/cat.jpg'"
