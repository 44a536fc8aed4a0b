"""ImageSearch and its result: a table, a picture, a page."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas
import polars
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from test_embedders import MeanColour

from imgembed import (
    CNNEmbedder,
    FingerprintError,
    GeometricReranker,
    ImageReadError,
    ImageReadWarning,
    ImageSearch,
    NearestNeighborIndex,
    QueryExpansion,
    SIFTEmbedder,
    read_image,
)
from imgembed.plotting import html_page, plot_hits


def cnn() -> CNNEmbedder:
    return CNNEmbedder("tf_efficientnet_lite0", weights="bundled")


@pytest.fixture
def folder(tmp_path: Path, photographs: list[Path]) -> Path:
    """Six photographs, two files that are none, and a name that is HTML."""
    gallery = tmp_path / "gallery"
    (gallery / "sub").mkdir(parents=True)
    for path in photographs[:5]:
        picture = Image.fromarray(read_image(path))
        picture.thumbnail((200, 200))
        picture.save(gallery / "sub" / f"{path.stem}.png")
    picture.save(gallery / "<script>alert(1)<script> & $x$.png")
    (gallery / "broken.jpg").write_bytes(b"no image")
    (gallery / "empty.jpg").touch()
    (gallery / "notes.txt").touch()
    return gallery


@pytest.fixture
def search(folder: Path) -> ImageSearch:
    with pytest.warns(ImageReadWarning, match=r"2 of 8 images.*broken\.jpg"):
        return ImageSearch(cnn()).fit(folder)


def test_a_folder_is_indexed_and_its_broken_files_are_listed(search: ImageSearch) -> None:
    assert {Path(str(search.images_[row])).name for row in search.errors_} == {
        "broken.jpg",
        "empty.jpg",
    }
    assert len(search.rows_) == 6
    assert not set(search.rows_) & set(search.errors_)


def test_every_image_finds_itself_first(search: ImageSearch) -> None:
    queries = [search.images_[row] for row in search.rows_]
    result = search.search(queries, n_neighbors=2)
    assert np.allclose(result.distances[:, 0], 0, atol=1e-5)
    first = [Path(str(search.images_[i])).name for i in result.ids[:, 0]]
    # The picture with the odd name is there twice, under another name too.
    assert sum(a == Path(str(b)).name for a, b in zip(first, queries, strict=True)) >= 5
    assert not set(result.ids.ravel()) & set(search.errors_)


def test_one_query_is_a_result_of_one_row(search: ImageSearch, photographs: list[Path]) -> None:
    for query in (photographs[0], str(photographs[0]), read_image(photographs[0])):
        result = search.search(query, n_neighbors=1)
        assert result.ids.shape == (1, 1)
        assert Path(str(result.images[result.ids[0, 0]])).stem == photographs[0].stem


def test_fewer_images_than_neighbours_are_padded(search: ImageSearch) -> None:
    result = search.search(search.images_[search.rows_[0]], n_neighbors=9)
    assert (result.ids[0, 6:] == -1).all()
    assert np.isinf(result.distances[0, 6:]).all()
    assert len(result.to_pandas()) == len(result.records[0]) == 6
    assert len(repr(result).splitlines()) == 2 + 6


@pytest.mark.parametrize("kind", ["dicts", "pandas", "polars"])
def test_records_come_with_the_hits(kind: str, photographs: list[Path]) -> None:
    table = {"name": [path.stem for path in photographs[:4]], "price": [1, 2, 3, 4]}
    records: Any = {
        "dicts": [{"name": n, "price": p} for n, p in zip(*table.values(), strict=True)],
        "pandas": pandas.DataFrame(table, index=[9, 8, 7, 6]),
        "polars": polars.DataFrame(table),
    }[kind]
    search = ImageSearch(cnn()).fit(photographs[:4], records)
    result = search.search(photographs[2], n_neighbors=2)
    assert result.records[0][0] == {"name": photographs[2].stem, "price": 3}
    frame = result.to_pandas()
    assert frame.columns.tolist() == ["query", "rank", "id", "distance", "image", "name", "price"]
    assert frame["rank"].tolist() == [1, 2]
    assert frame["image"][0] == str(photographs[2])


def test_records_must_be_one_for_each_image(photographs: list[Path]) -> None:
    with pytest.raises(ValueError, match="1 records and 4 images"):
        ImageSearch(cnn()).fit(photographs[:4], [{}])
    with pytest.raises(ValueError, match="sequence of dicts"):
        ImageSearch(cnn()).fit(photographs[:4], ["a"] * 4)


def test_a_changed_embedder_is_refused_with_the_reason(search: ImageSearch) -> None:
    search.embedder_.set_params(pooling="max")
    with pytest.raises(FingerprintError, match=r"pooling was 'avg' and is 'max'"):
        search.search(search.images_[search.rows_[0]])


def test_what_cannot_be_searched_says_why(search: ImageSearch, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        ImageSearch(cnn()).search("query.jpg")
    with pytest.raises(ImageReadError, match="no such file"):
        search.search("query.jpg")
    with pytest.raises(ValueError, match="no query"):
        search.search([])
    with pytest.raises(FileNotFoundError, match="no folder"):
        ImageSearch(cnn()).fit(tmp_path / "absent")
    with pytest.raises(ValueError, match="no images in the folder"):
        ImageSearch(cnn()).fit(Path(__file__).parent)
    with pytest.raises(ValueError, match="none of 2 images can be read"):
        ImageSearch(cnn()).fit([b"a", b"b"])
    with pytest.raises(ValueError, match="gallery is empty"):
        ImageSearch(cnn()).fit([])


def test_an_unfitted_embedder_is_cloned_and_a_fitted_one_used(photographs: list[Path]) -> None:
    embedder = SIFTEmbedder(50, n_keypoints=100, random_state=0)
    search = ImageSearch(embedder, NearestNeighborIndex(metric="euclidean")).fit(photographs[:4])
    assert not hasattr(embedder, "vocabulary_")
    assert search.index_.metric == "euclidean"
    assert search.search(photographs[1], 1).ids.tolist() == [[1]]
    assert ImageSearch(search.embedder_).fit(photographs[4:8]).embedder_ is search.embedder_
    assert not hasattr(clone(search), "index_")


def test_a_pickled_search_answers_the_same(search: ImageSearch) -> None:
    query = search.images_[search.rows_[2]]
    again = pickle.loads(pickle.dumps(search))
    assert np.array_equal(again.search(query).ids, search.search(query).ids)


def test_pages_and_notebooks_escape_everything(search: ImageSearch) -> None:
    result = search.search([search.images_[row] for row in search.rows_], n_neighbors=6)
    for page in (result.to_html("<b>title</b>"), result._repr_html_()):
        assert "&lt;script&gt;alert(1)&lt;script&gt; &amp;" in page
        assert "<script" not in page
        assert "<b>" not in page
        assert page.count("data:image/jpeg;base64,") == 6 * 7
    assert "<title>x</title>" in html_page("x", "")


def test_a_picture_has_a_row_a_query_and_a_cell_a_hit(search: ImageSearch, tmp_path: Path) -> None:
    result = search.search([search.images_[row] for row in search.rows_], n_neighbors=3)
    axes = result.plot(n_queries=2)
    assert axes.shape == (2, 4)
    assert all(axis.images for axis in axes.ravel())
    axes[0, 0].figure.savefig(tmp_path / "grid.png")  # $x$ in a name is no formula
    assert plt.get_fignums() == [axes[0, 0].figure.number]


def test_a_hit_that_is_gone_is_drawn_as_such(photographs: list[Path]) -> None:
    axes = plot_hits([photographs[0]], [["gone.jpg"]], [["gone.jpg"]])
    assert "cannot be read" in axes[0, 1].get_title()
    with pytest.raises(ValueError, match="no queries"):
        plot_hits([], [], [])


def test_the_table_of_a_result_is_readable(search: ImageSearch) -> None:
    row = search.rows_[1]
    lines = repr(search.search(search.images_[row], n_neighbors=2)).splitlines()
    assert lines[0] == "SearchResult of 1 query, 2 neighbours each:"
    assert lines[2].split() == ["1", "0.0000", str(search.images_[row])]


class NamedColours(MeanColour):
    """As little as an embedder of images and text may be: the vector of "red" is red's."""

    def transform_text(self, texts: list[str]) -> NDArray[np.float32]:
        return np.array([np.float32(COLOURS[text.split()[-1]]) for text in texts])


COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "<b>blue</b>": (0, 0, 255)}


def colours() -> list[NDArray[np.uint8]]:
    return [np.full((30, 40, 3), colour, dtype=np.uint8) for colour in COLOURS.values()]


def test_words_find_what_they_name() -> None:
    search = ImageSearch(NamedColours()).fit(colours())
    result = search.search(text="something green", n_neighbors=2)
    assert result.ids.tolist()[0][0] == 1
    assert result.distances[0, 0] == pytest.approx(0, abs=1e-6)
    assert result.queries == ["something green"]
    assert result.n_inliers is None
    several = search.search(text=["<b>blue</b>", "red", "green"], n_neighbors=1)
    assert several.ids.tolist() == [[2], [0], [1]]
    assert repr(several).splitlines()[1:4:2] == ["'<b>blue</b>'", "'red'"]
    assert several.to_pandas()["id"].tolist() == [2, 0, 1]
    again = pickle.loads(pickle.dumps(several))
    assert repr(again) == repr(several)


def test_words_are_shown_where_an_image_would_be(tmp_path: Path) -> None:
    search = ImageSearch(NamedColours()).fit(colours())
    result = search.search(text=["<b>blue</b>", "red"], n_neighbors=1)
    for page in (result.to_html(), result._repr_html_()):
        assert '<div class="text">&lt;b&gt;blue&lt;/b&gt;</div>' in page
        assert "<b>" not in page
        assert page.count("data:image/jpeg;base64,") == 2  # of the hits
        assert "cannot be read" not in page
    axes = result.plot()
    assert [text.get_text() for text in axes[1, 0].texts] == ["red"]
    assert not axes[1, 0].images
    axes[0, 0].figure.savefig(tmp_path / "grid.png")


def test_a_search_has_either_images_or_words() -> None:
    search = ImageSearch(NamedColours()).fit(colours())
    for images, text in ((None, None), (colours(), "red")):
        with pytest.raises(TypeError, match=r"either images, text=\.\.\. or ids=\.\.\., and one"):
            search.search(images, text=text)
    with pytest.raises(NotFittedError):
        ImageSearch(NamedColours()).search(text="red")
    search.embedder_.set_params(scale=2.0)
    with pytest.raises(FingerprintError, match="scale"):
        search.search(text="red")
    with pytest.raises(TypeError, match=r"MeanColour embeds images only.*CLIPEmbedder"):
        ImageSearch(MeanColour()).fit(colours()).search(text="red")


def test_words_are_expanded_but_not_verified() -> None:
    expanded = ImageSearch(NamedColours(), expansion=QueryExpansion(1)).fit(colours())
    assert expanded.search(text="red", n_neighbors=1).ids.tolist() == [[0]]
    verified = ImageSearch(NamedColours(), rerank=GeometricReranker()).fit(colours())
    with pytest.warns(UserWarning, match="text has no local features.*not verified"):
        result = verified.search(text="green", n_neighbors=1)
    assert result.ids.tolist() == [[1]]
    assert result.n_inliers is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert verified.search(colours()[1], 1).n_inliers is not None
