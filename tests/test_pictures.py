"""Pictures of collections: patches over what was seen, maps, sheets, exports, tables."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from imgembed import CheckpointReport, CNNEmbedder, NearestNeighborIndex, RecallCurve, read_image
from imgembed._html import html_table
from imgembed.deep._preprocessing import Preprocessing
from imgembed.evaluation import Evaluation, find_leakage
from imgembed.plotting import (
    export_projector,
    html_contact_sheet,
    patch_contributions,
    patch_similarity,
    plot_contact_sheet,
    plot_map,
    plot_patch_similarity,
    project_2d,
)

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def tiles() -> list[NDArray[np.uint8]]:
    """Images of one colour each."""
    rng = np.random.default_rng(0)
    return [np.full((20, 30, 3), colour, np.uint8) for colour in rng.integers(0, 256, (40, 3))]


# Patches


CENTRED = Preprocessing(
    224, 224, 0.875, False, Image.Resampling.BICUBIC, mean=(0.0,) * 3, std=(1.0,) * 3
)
SQUEEZED = replace(CENTRED, height=160, width=288, squash=True, crop_pct=1)


class Brightness:
    """What a network with one feature would give: the mean of each 32 x 32 pixels of its input."""

    def __init__(self, preprocessing: Preprocessing = CENTRED) -> None:
        self.preprocessing_ = preprocessing

    def patch_tokens(self, X: Any) -> NDArray[np.float32]:
        tokens = []
        for image in X:
            seen = self.preprocessing_.crop(read_image(image)).mean(axis=2)
            rows, columns = seen.shape[0] // 32, seen.shape[1] // 32
            means = seen.reshape(rows, 32, columns, 32).mean(axis=(1, 3)).ravel()
            tokens.append(means[:, np.newaxis])
        return np.array(tokens, np.float32)


@pytest.mark.parametrize("shape", [(300, 300), (200, 450), (470, 210)])
@pytest.mark.parametrize("preprocessing", [CENTRED, SQUEEZED], ids=["centred", "squeezed"])
@pytest.mark.parametrize("corner", ["top left", "bottom right", "top right"])
def test_the_map_lies_over_the_pixels_that_the_network_saw(
    shape: tuple[int, int], preprocessing: Preprocessing, corner: str
) -> None:
    """A bright square somewhere in the picture is below the brightest patches of the map."""
    embedder = Brightness(preprocessing)
    height, width = shape
    left, top, right, bottom = preprocessing.seen_box(width, height)
    edge = 60
    y = int(top) + 8 if "top" in corner else int(bottom) - edge - 8
    x = int(left) + 8 if "left" in corner else int(right) - edge - 8
    image = np.zeros((height, width, 3), np.uint8)
    image[y : y + edge, x : x + edge] = 255
    ax = plot_patch_similarity(embedder, image, image)[0]
    picture, overlay = ax.images
    assert picture.get_array().shape == image.shape
    values = np.asarray(overlay.get_array())
    centre = _centre_of_mass(values, overlay.get_extent())
    # Parts of a patch weigh as if they were in its middle.
    tenth = 0.1 * max((bottom - top) / values.shape[0], (right - left) / values.shape[1])
    assert centre == pytest.approx((x + edge / 2 - 0.5, y + edge / 2 - 0.5), abs=tenth)
    assert ax.get_xlim() == (-0.5, width - 0.5)
    assert ax.get_ylim() == (height - 0.5, -0.5)


def _centre_of_mass(values: NDArray[Any], extent: Any) -> tuple[float, float]:
    left, right, bottom, top = extent
    weights = np.clip(values - np.median(values), 0, None)
    rows, columns = values.shape
    xs = left + (np.arange(columns) + 0.5) * (right - left) / columns
    ys = top + (np.arange(rows) + 0.5) * (bottom - top) / rows
    return (
        float((weights.sum(axis=0) * xs).sum() / weights.sum()),
        float((weights.sum(axis=1) * ys).sum() / weights.sum()),
    )


@pytest.mark.parametrize("shape", [(100, 100), (90, 250), (333, 77)])
def test_the_seen_box_holds_what_the_crop_shows(shape: tuple[int, int]) -> None:
    """Coordinates painted into an image are found at the crop's ends again."""
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)
    image[..., 1] = np.linspace(0, 255, height)[:, np.newaxis]
    seen = CENTRED.crop(image).astype(float)
    left, top, right, bottom = CENTRED.seen_box(width, height)
    columns, rows = seen[..., 0].mean(axis=0), seen[..., 1].mean(axis=1)
    assert columns[0] / 255 * width == pytest.approx(left, abs=1.5)
    assert columns[-1] / 255 * width == pytest.approx(right, abs=1.5)
    assert rows[0] / 255 * height == pytest.approx(top, abs=1.5)
    assert rows[-1] / 255 * height == pytest.approx(bottom, abs=1.5)


def test_contributions_sum_to_the_cosine_of_the_embeddings(photographs: list[Path]) -> None:
    embedder = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", engine="torch")
    pair = photographs[0], photographs[6]
    vectors = embedder.transform(pair).astype(float)
    first, second = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    contributions = patch_contributions(*embedder.patch_tokens(pair))
    assert contributions.query.sum() == pytest.approx(first @ second, abs=1e-4)
    assert contributions.hit.sum() == pytest.approx(first @ second, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_patch_similarity_is_that_of_all_pairs(n: int, m: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    query, hit = rng.normal(size=(n, width)), rng.normal(size=(m, width))
    wanted = [max(a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in hit) for a in query]
    assert patch_similarity(query, hit).query == pytest.approx(wanted)
    assert patch_similarity(hit, query).hit == pytest.approx(wanted)
    # Mean vectors decide: sums of contributions are alike whichever image is the query.
    one, other = patch_contributions(query, hit), patch_contributions(hit, query)
    assert one.query.sum() == pytest.approx(one.hit.sum(), abs=1e-12)
    assert one.query == pytest.approx(other.hit)


def test_a_moved_part_is_found_by_the_best_patches() -> None:
    """Patches of zeros are like nothing, and the one that is there is found where it went."""
    query, hit = np.zeros((9, 4)), np.zeros((9, 4))
    query[0] = hit[8] = [1, 2, 3, 4]
    similarity = patch_similarity(query, hit)
    assert np.flatnonzero(similarity.query) == [0]
    assert np.flatnonzero(similarity.hit) == [8]
    contributions = patch_contributions(query, hit)
    assert contributions.query[0] == pytest.approx(1)
    assert not patch_contributions(query * 0, hit).query.any()


def test_wrong_patches_are_told() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
        patch_similarity(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="must be finite"):
        patch_contributions([[np.nan]], [[1.0]])
    with pytest.raises(ValueError, match="'contribution', 'best', got 'cosine'"):
        plot_patch_similarity(Brightness(), "a.png", "b.png", method="cosine")
    embedder: Any = Brightness()
    embedder.patch_tokens = lambda _: np.ones((2, 47, 3), np.float32)
    image = np.zeros((50, 50, 3), np.uint8)
    with pytest.raises(ValueError, match="47 patches are no grid over an input of 224 x 224"):
        plot_patch_similarity(embedder, image, image)


def test_both_pictures_have_one_scale_of_colours(photographs: list[Path]) -> None:
    pair = photographs[0], photographs[6]
    for method in ("best", "contribution"):
        axes = plot_patch_similarity(Brightness(), *pair, method=method)
        first, second = (ax.images[1] for ax in axes)
        assert first.get_clim() == second.get_clim()
        values = np.concatenate([np.ravel(one.get_array()) for one in (first, second)])
        if method == "best":  # all are 1, since there is one feature
            assert first.get_clim() == pytest.approx((0.99, 1))
        else:
            assert first.get_clim() == (values.min(), values.max())
        assert first.get_array().shape == (7, 7)
        assert axes[1].get_title() == f"hit\n{photographs[6].name}"
    axes[0].figure.canvas.draw()


# Maps


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_projections_keep_groups_together_and_come_again(method: str) -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(3), 20)
    vectors = 5 * np.eye(3, 70)[groups] + rng.normal(0, 0.2, (60, 70))
    positions = project_2d(vectors, method, random_state=0)
    assert positions.shape == (60, 2)
    assert np.array_equal(positions, project_2d(vectors, method, random_state=0))
    distances = np.linalg.norm(positions[:, np.newaxis] - positions, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (groups[distances.argmin(axis=1)] == groups).all()


def test_cosine_maps_forget_lengths() -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 5))
    longer = vectors * np.linspace(1, 9, 12)[:, np.newaxis]
    assert project_2d(longer) == pytest.approx(project_2d(vectors))
    assert not np.allclose(project_2d(longer, metric="euclidean"), project_2d(vectors))


def test_umap_is_named_if_missing_and_placed_if_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub:
        def __init__(self, n_neighbors: int, init: str, random_state: Any) -> None:
            assert (n_neighbors, init, random_state) == (4, "pca", 7)

        def fit_transform(self, vectors: NDArray[Any]) -> NDArray[Any]:
            return vectors[:, :2].astype(np.float32)

    vectors = np.random.default_rng(0).normal(size=(5, 3))
    module: Any = type(sys)("umap")
    module.UMAP = Stub
    monkeypatch.setitem(sys.modules, "umap", module)
    assert project_2d(vectors, "umap", random_state=7).dtype == np.float64
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"imgembed\[umap\]"):
        project_2d(vectors, "umap")


@pytest.mark.slow
def test_the_real_umap_places_vectors() -> None:
    pytest.importorskip("umap")
    vectors = np.random.default_rng(0).normal(size=(40, 6))
    positions = project_2d(vectors, "umap", random_state=0)
    assert positions.shape == (40, 2)
    assert np.array_equal(positions, project_2d(vectors, "umap", random_state=0))


def test_few_vectors_have_a_map_and_wrong_ones_an_error() -> None:
    for method in ("pca", "tsne"):
        assert project_2d(np.eye(3), method, random_state=0).shape == (3, 2)
        assert np.isfinite(project_2d(np.ones((4, 2)), method, random_state=0)).all()
    with pytest.raises(ValueError, match=r"at least 3 images and 2 features, got shape \(2, 5\)"):
        project_2d(np.ones((2, 5)))
    vectors = np.ones((4, 3))
    vectors[2] = np.nan
    with pytest.raises(ValueError, match="1 vectors are not finite, the first in row 2"):
        project_2d(vectors)
    with pytest.raises(ValueError, match="'pca', 'tsne', 'umap', got 'mds'"):
        project_2d(np.eye(3), "mds")
    with pytest.raises(ValueError, match="'euclidean', got 'ip'"):
        project_2d(np.eye(3), metric="ip")


def test_thumbnails_stand_where_their_positions_are(tiles: list[Any]) -> None:
    positions = np.array([[0, 0], [10, 0], [10, 10], [0, 10]])
    ax = plot_map(positions, tiles[:4], n_cells=5)
    canvas = np.asarray(ax.images[0].get_array())
    assert canvas.shape == (5 * 48, 5 * 48, 4)
    corners = {0: (-24, 24), 1: (-24, -24), 2: (24, -24), 3: (24, 24)}  # y grows upwards
    for row, (y, x) in corners.items():
        assert tuple(canvas[y, x, :3]) == tuple(tiles[row][0, 0])
    assert not canvas[100:140, 100:140, 3].any()
    assert ax.get_title() == "4 of 4 images"


def test_no_thumbnail_lies_on_another(tiles: list[Any]) -> None:
    """Images at one place take the cells around it; for the rest there are points."""
    positions = np.zeros((40, 2))
    positions[0] = [9, 9]
    ax = plot_map(positions, tiles, n_cells=9, random_state=0)
    opaque = np.asarray(ax.images[0].get_array())[24::48, 24::48, 3]
    n_shown = int((opaque > 0).sum())
    assert 2 <= n_shown <= 1 + 3 * 3
    assert ax.get_title() == f"{n_shown} of 40 images"
    assert len(ax.collections[0].get_offsets()) == 40 - n_shown
    again = plot_map(positions, tiles, n_cells=9, random_state=0)
    assert np.array_equal(again.images[0].get_array(), ax.images[0].get_array())
    other = plot_map(positions, tiles, n_cells=9, random_state=1)
    assert not np.array_equal(other.images[0].get_array(), ax.images[0].get_array())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 50))
def test_each_image_is_a_thumbnail_or_a_point(n: int, n_cells: int, seed: int) -> None:
    positions = np.random.default_rng(seed).normal(size=(n, 2)) ** 3
    images = np.zeros((n, 4, 4, 3), np.uint8)
    _, ax = plt.subplots()
    assert plot_map(positions, images, n_cells=n_cells, ax=ax) is ax
    cells = np.asarray(ax.images[0].get_array())[24::48, 24::48, 3]
    points = ax.collections[0].get_offsets()
    assert (cells > 0).sum() + len(points) == n
    assert max(cells.shape) <= n_cells
    assert (np.asarray(points) >= 0).all()
    plt.close("all")


def test_frames_have_the_colour_of_the_legend(tiles: list[Any]) -> None:
    labels = ["$b$", "a", None, float("nan")]
    positions = np.array([[0, 0], [10, 0], [10, 10], [0, 10]])
    ax = plot_map(positions, tiles[:4], labels, n_cells=5)
    entries = {
        text.get_text(): np.round(255 * np.array(patch.get_facecolor()[:3]))
        for text, patch in zip(
            ax.get_legend().get_texts(), ax.get_legend().get_patches(), strict=True
        )
    }
    assert list(entries) == ["$b$", "a"]
    canvas = np.asarray(ax.images[0].get_array())
    assert canvas[-1, 0, :3] == pytest.approx(entries["$b$"])
    assert canvas[-1, -1, :3] == pytest.approx(entries["a"])
    assert canvas[0, 0, :3] == pytest.approx([128, 128, 128])
    ax.figure.canvas.draw()
    many = plot_map(positions[[0] * 30], tiles[:30], [f"label {i}" for i in range(30)])
    assert many.get_legend().get_texts()[-1].get_text() == "... and 10 more"


def test_an_unreadable_image_is_a_point_of_the_map(tiles: list[Any]) -> None:
    ax = plot_map(np.eye(2), [tiles[0], "missing.png"])
    assert ax.get_title() == "1 of 2 images"


def test_wrong_maps_are_told(tiles: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"as project_2d\(vectors\) gives; got shape \(4, 1280\)"):
        plot_map(np.ones((4, 1280)), tiles[:4])
    with pytest.raises(ValueError, match="got 3 images and 4 positions"):
        plot_map(np.ones((4, 2)), tiles[:3])
    with pytest.raises(ValueError, match="got 1 labels and 4 positions"):
        plot_map(np.ones((4, 2)), tiles[:4], ["a"])
    with pytest.raises(ValueError, match="must be finite"):
        plot_map(np.full((4, 2), np.nan), tiles[:4])


# Contact sheets


def test_groups_stand_on_lines_of_their_own(tiles: list[Any]) -> None:
    axes = plot_contact_sheet([range(10), np.array([11, 12])], tiles, keep={3, 11})
    assert axes.shape == (3, 8)
    assert [[len(ax.images) for ax in line].count(1) for line in axes] == [8, 2, 2]
    titles = [ax.get_title().splitlines()[-1] for ax in axes[0]]
    assert titles == ["remove"] * 3 + ["keep"] + ["remove"] * 4
    assert axes[0, 0].get_title().splitlines()[1] == "30 x 20"
    assert tuple(axes[2, 1].images[0].get_array()[0, 0]) == tuple(tiles[12][0, 0])
    assert axes[0, 3].patches[0].get_edgecolor() != axes[0, 2].patches[0].get_edgecolor()
    unmarked = plot_contact_sheet([[0, 1], [2, 3], [4, 5]], tiles, max_groups=1)
    assert unmarked.shape == (1, 2)
    assert not unmarked[0, 0].patches
    assert unmarked[0, 0].figure.get_supxlabel() == "... and 2 more groups"


def test_sheets_are_escaped_and_marked(tmp_path: Path, tiles: list[Any]) -> None:
    names = ["a&b.png", "<i>.png", "c.png", "missing.png"]
    for name, tile in zip(names[:3], tiles, strict=False):
        Image.fromarray(tile).save(tmp_path / name)
    paths = [tmp_path / name for name in names]
    sheet = html_contact_sheet([[0, 1], [2, 3]], paths, keep=np.array([1, 2]))
    assert sheet.count("<img") == 3
    assert "(cannot be read)" in sheet
    assert "&lt;i&gt;.png\n30 x 20" in sheet
    assert "<i>" not in sheet
    assert sheet.count('class="keep"') == sheet.count('class="remove"') == 2
    captions = html_contact_sheet([[0, 1], [2, 3]], paths, captions=[HOSTILE] * 4, max_groups=1)
    assert HOSTILE not in captions
    assert "... and 1 more group<" in captions
    assert 'class="keep"' not in captions
    assert html_contact_sheet([], []).count("<figure") == 0


def test_wrong_sheets_are_told(tiles: list[Any]) -> None:
    with pytest.raises(ValueError, match="no groups"):
        plot_contact_sheet([], tiles)
    for row in (40, -1):
        with pytest.raises(ValueError, match=rf"rows of images, 0\.\.39; got {row}"):
            html_contact_sheet([[0, row]], tiles)
    with pytest.raises(ValueError, match="got 1 captions and 40 images"):
        html_contact_sheet([[0, 1]], tiles, captions=["one"])


# TensorBoard's projector


def test_an_export_holds_what_was_given(tmp_path: Path, tiles: list[Any]) -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) * 1e-5
    records = [{"name": "a\tb\nc\u2028d", "price": 3}, {"price": None, "row": "own"}, {}, {}, {}]
    folder = export_projector(tmp_path / "new" / "out", vectors, tiles[:5], records)
    read = np.loadtxt(folder / "tensors.tsv", delimiter="\t", dtype=np.float32)
    assert np.array_equal(read, vectors)
    lines = (folder / "metadata.tsv").read_text(encoding="utf-8").split("\n")
    assert len(lines) == 1 + 5 + 1
    assert lines[0] == "row_\timage\tname\tprice\trow"
    assert lines[1].split("\t")[2:] == ["a b c d", "3", ""]
    assert lines[2].split("\t")[2:] == ["", "", "own"]
    sprite = np.asarray(Image.open(folder / "sprite.png"))
    assert sprite.shape == (2 * 64, 3 * 64, 3)
    for row in range(5):
        place = sprite[row // 3 * 64 + 32, row % 3 * 64 + 32]
        assert tuple(place) == tuple(tiles[row][0, 0])
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_the_configuration_names_the_files_as_the_projector_reads_it(
    tmp_path: Path, tiles: list[Any]
) -> None:
    folder = export_projector(tmp_path / "out", np.ones((5, 3)), tiles[:5])
    text = (folder / "projector_config.pbtxt").read_text()
    values = _read_with_tensorboard(text) or _read_as_text(text)
    assert values == {
        "tensor_path": ["tensors.tsv"],
        "metadata_path": ["metadata.tsv"],
        "tensor_shape": [5, 3],
        "image_path": ["sprite.png"],
        "single_image_dim": [64, 64],
    }


def _read_with_tensorboard(text: str) -> dict[str, list[Any]] | None:
    try:
        from google.protobuf import text_format
        from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
    except ImportError:
        return None
    [embedding] = text_format.Parse(text, ProjectorConfig()).embeddings
    return {
        "tensor_path": [embedding.tensor_path],
        "metadata_path": [embedding.metadata_path],
        "tensor_shape": list(embedding.tensor_shape),
        "image_path": [embedding.sprite.image_path],
        "single_image_dim": list(embedding.sprite.single_image_dim),
    }


def _read_as_text(text: str) -> dict[str, list[Any]]:
    assert text.count("{") == text.count("}") == 2
    found: dict[str, list[Any]] = {}
    for line in text.splitlines():
        name, colon, value = line.strip().partition(": ")
        if colon and name != "tensor_name":
            found.setdefault(name, []).append(value.strip('"') if '"' in value else int(value))
    return found


def test_a_column_alone_has_no_head(tmp_path: Path) -> None:
    """The projector takes a first line without tabs for a value."""
    folder = export_projector(tmp_path / "out", np.ones((2, 3)))
    assert (folder / "metadata.tsv").read_text() == "0\n1\n"
    assert not (folder / "sprite.png").exists()
    assert "sprite" not in (folder / "projector_config.pbtxt").read_text()


def test_the_sprite_keeps_to_the_limit(
    tmp_path: Path, tiles: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgembed.plotting._projector._LARGEST_SPRITE", 100)
    images = [*tiles[:24], "missing.png"]
    folder = export_projector(tmp_path / "out", np.ones((25, 2)), images)
    sprite = np.asarray(Image.open(folder / "sprite.png"))
    assert sprite.shape == (100, 100, 3)
    assert "single_image_dim: 20" in (folder / "projector_config.pbtxt").read_text()
    assert tuple(sprite[90, 90]) == (128, 128, 128)


def test_an_export_replaces_an_export_and_nothing_else(
    tmp_path: Path, tiles: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export_projector(out, np.ones((2, 3)), tiles[:2])
    export_projector(out, np.zeros((4, 3)))
    assert len((out / "tensors.tsv").read_text().splitlines()) == 4
    assert not (out / "sprite.png").exists()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr("imgembed.plotting._projector._config", fail)
        with pytest.raises(OSError, match="disk full"):
            export_projector(out, np.ones((9, 3)))
    assert len((out / "tensors.tsv").read_text().splitlines()) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"it holds 'thesis.txt'; give a new folder"):
        export_projector(out, np.ones((2, 3)))
    with pytest.raises(FileExistsError, match="no earlier export"):
        export_projector(out / "thesis.txt", np.ones((2, 3)))


def test_wrong_exports_are_told(tmp_path: Path, tiles: list[Any]) -> None:
    with pytest.raises(ValueError, match="1 vectors are not finite, the first in row 1"):
        export_projector(tmp_path / "out", [[1.0], [np.nan]])
    with pytest.raises(ValueError, match="got 3 images and 2 vectors"):
        export_projector(tmp_path / "out", np.ones((2, 3)), tiles[:3])
    with pytest.raises(ValueError, match="got 1 records for 2 items"):
        export_projector(tmp_path / "out", np.ones((2, 3)), None, [{}])
    assert not list(tmp_path.iterdir())


# Tables in notebooks


def test_tables_are_escaped_and_say_what_is_left_out() -> None:
    table = html_table(["<a>", "b"], [[HOSTILE, 0.12345], [None, np.float32(2)]], n_more=3)
    assert HOSTILE not in table
    assert "<th>&lt;a&gt;</th>" in table
    assert "<td>0.1235</td>" in table or "<td>0.1234</td>" in table
    assert "<td></td><td>2.0000</td>" in table
    assert "... and 3 more rows" in table


def test_results_are_tables_in_notebooks() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 4))
    index = NearestNeighborIndex().fit(vectors, records=[{"name": HOSTILE}] * 30)
    found = index.search(vectors[:20], n_neighbors=3)
    shown = found._repr_html_()
    assert HOSTILE not in shown
    assert "<caption>60 neighbours of 20 queries</caption>" in shown
    assert "<th>query</th><th>rank</th><th>id</th><th>distance</th><th>name</th>" in shown
    assert shown.count("<tr>") == 1 + 50
    assert "... and 10 more rows" in shown

    curve = RecallCurve(*(np.array([1, 2]),) * 5, n_neighbors=7)
    assert "recall of 7 neighbours" in curve._repr_html_()

    evaluation = Evaluation({HOSTILE: np.array([1.0, 0.5])}, n_images=9)._repr_html_()
    assert HOSTILE not in evaluation
    assert "<td>0.7500</td>" in evaluation
    assert "2 queries, 9 images" in evaluation

    leakage = find_leakage(vectors, vectors[:25], threshold=1e-6)
    assert leakage._repr_html_().count("<tr>") == 1 + 20
    assert "... and 5 more rows" in leakage._repr_html_()
    assert repr(leakage).startswith("LeakageReport(25 of 25 test images, 100.0%, are within")

    report = CheckpointReport(HOSTILE, "MoCo v2", prefix="module.", n_used=318, dropped=("head",))
    assert HOSTILE not in report._repr_html_()
    assert "<td>318 tensors, from module.*</td>" in report._repr_html_()
    assert "<td>dropped</td><td>head</td>" in report._repr_html_()
