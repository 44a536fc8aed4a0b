"""The report: what is on it, that it needs nothing else, and that it does no harm."""

import base64
import importlib
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.exceptions import NotFittedError

import imgembed
from imgembed import HOGEmbedder, ImageReadWarning, ImageSearch, NearestNeighborIndex
from imgembed.pages import report_html, write_report

HOSTILE = "<script>alert(1)</script>"
HOSTILE_NAME = '"><img src=x onerror=alert(2)>.png'
N_IMAGES = 40


class Seen(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> list[Image.Image]:
        """The decoded pictures of the page."""
        sources = [of["src"] or "" for tag, of in self.elements if tag == "img"]
        assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(s.partition(",")[2]))) for s in sources]


def noise(n_images: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (n_images, 8, 8, 3), dtype=np.uint8)
    return [np.kron(block, np.ones((8, 8, 1), np.uint8)) for block in blocks]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection")
    pictures = noise(N_IMAGES)
    pictures[5] = pictures[3]  # a copy
    for row, pixels in enumerate(pictures):
        name = HOSTILE_NAME if row == 0 else f"{row:02}.png"
        Image.fromarray(pixels).save(folder / name)
    (folder / "damaged<b>.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def search(folder: Path) -> ImageSearch:
    paths = sorted(folder.iterdir())
    records = [{"number": row, HOSTILE: f"{HOSTILE}{row}"} for row in range(len(paths))]
    with pytest.warns(ImageReadWarning):
        return ImageSearch(HOGEmbedder(n_orientations=8)).fit(paths, records)


@pytest.fixture(scope="module")
def page(search: ImageSearch) -> str:
    return report_html(search, title=HOSTILE, n_queries=4, n_hits=5)


@pytest.fixture
def _without_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map takes most of the time of a report, and has its own tests."""
    monkeypatch.setattr("imgembed.pages._collection._FEWEST_MAPPED", 10**9)


without_map = pytest.mark.usefixtures("_without_map")


def test_the_report_says_what_is_in_the_collection(page: str) -> None:
    text = Seen(page).text
    assert re.search(r"40\s+images in the index", text)
    assert re.search(r"1\s+group of near duplicates", text)
    assert re.search(r"1\s+file that cannot be read", text)
    for said in ("HOGEmbedder", "n_orientations", "exact", "cosine", "no image format"):
        assert said in text


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    for tag, attributes in Seen(page).elements:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base")
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?://|url\(|@import", page)


def test_hostile_names_records_columns_and_titles_are_escaped(page: str) -> None:
    assert HOSTILE not in page
    assert "<img src=x" not in page
    assert "<b>" not in page
    seen = Seen(page)
    assert f"{HOSTILE}1" in seen.text
    assert any(of.get("alt") == HOSTILE_NAME for _, of in seen.elements)


def test_no_path_of_this_computer_is_on_it(page: str, folder: Path) -> None:
    assert str(folder.parent) not in page


def test_every_picture_can_be_decoded_and_is_small(page: str) -> None:
    pictures = Seen(page).images()
    *thumbnails, largest = sorted(pictures, key=lambda picture: max(picture.size))
    # 4 queries with 5 hits, a group of 2, a record each, and the map.
    assert len(thumbnails) == 4 * 6 + 2 + N_IMAGES
    assert max(max(picture.size) for picture in thumbnails) <= 160
    assert max(largest.size) > 400
    for picture in pictures:
        picture.load()


def test_the_samples_show_what_the_search_finds(search: ImageSearch, page: str) -> None:
    rows = re.findall(r'<ol class="row">.*?</ol>', page, re.DOTALL)
    assert len(rows) == 4
    for row in rows:
        first, *others = re.findall(r'<p class="name" title="(\d+)\.png">', row)
        paths = [Path(str(search.images_[i])) for i in search.rows_]
        query = next(i for i, path in zip(search.rows_, paths, strict=True) if path.stem == first)
        result = search.search(ids=query, n_neighbors=5)
        wanted = [Path(str(search.images_[i])).stem for i in result.ids[0]]
        assert others == [stem for stem in wanted if stem.isdecimal()]
        assert re.findall(r'score">([\d.]+)', row) == [f"{d:.3f}" for d in result.distances[0]]


def test_the_same_seed_gives_the_same_page_and_another_one_other_queries(
    search: ImageSearch, page: str
) -> None:
    assert report_html(search, title=HOSTILE, n_queries=4, n_hits=5) == page
    assert report_html(search, title=HOSTILE, n_queries=4, n_hits=5, random_state=1) != page


@without_map
def test_the_size_does_not_grow_with_the_collection() -> None:
    small, large = (
        ImageSearch(HOGEmbedder()).fit(noise(n), [{"n": "x" * 9000} for _ in range(n)])
        for n in (50, 150)
    )
    sizes = [len(report_html(search, n_queries=2, n_hits=2)) for search in (small, large)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    assert sizes[1] < 300_000


def test_the_index_stays_as_calibrated_as_it_was(search: ImageSearch, page: str) -> None:
    assert page
    assert search.index_.calibration_ is None


@without_map
def test_a_threshold_decides_what_a_duplicate_is(search: ImageSearch) -> None:
    groups = report_html(search, n_queries=2, n_groups=1, threshold=2.0)
    assert "and 34 more" in groups
    assert "within 2 (cosine)" in groups


@without_map
def test_a_collection_too_small_for_all_of_it_says_why() -> None:
    text = Seen(report_html(ImageSearch(HOGEmbedder()).fit(noise(3)))).text
    assert "They were not looked for" in text
    assert "A map needs at least" in text
    assert "Records" not in text


@without_map
def test_a_metric_without_distances_says_why_there_are_no_duplicates() -> None:
    index = NearestNeighborIndex(metric="ip")
    page = report_html(ImageSearch(HOGEmbedder(), index).fit(noise(12)), n_queries=2, n_hits=3)
    assert "They were not looked for" in page


@without_map
def test_an_image_that_is_gone_is_said(tmp_path: Path) -> None:
    for row, pixels in enumerate(noise(4)):
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
    search = ImageSearch(HOGEmbedder()).fit(tmp_path)
    (tmp_path / "2.png").unlink()
    assert "cannot be read any more" in report_html(search)


@without_map
def test_a_removed_image_is_not_on_it(folder: Path) -> None:
    search = ImageSearch(HOGEmbedder()).fit(sorted(folder.glob("[0-9]*.png")))
    page = report_html(search.remove([0, 2]), n_queries=37, n_hits=1, n_records=50)
    assert "37</strong> images" in page
    assert "01.png" not in page


@without_map
def test_the_file_is_written_and_replaced(search: ImageSearch, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    assert write_report(search, out, n_queries=2, n_hits=3) == out
    assert out.read_text(encoding="utf-8") == report_html(search, n_queries=2, n_hits=3)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@without_map
def test_a_report_that_fails_leaves_what_was_there(
    search: ImageSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("imgembed.pages._report.os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_report(search, out, n_queries=2, n_hits=3)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_is_not_there_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_report(tmp_path / "no search", tmp_path / "missing" / "report.html")


@without_map
def test_a_saved_search_is_opened(search: ImageSearch, tmp_path: Path) -> None:
    search.save(tmp_path / "saved")
    assert report_html(tmp_path / "saved", n_queries=2, n_hits=3) == report_html(
        search, n_queries=2, n_hits=3
    )


def test_what_is_not_fitted_and_wrong_numbers_are_refused(search: ImageSearch) -> None:
    with pytest.raises(NotFittedError):
        report_html(ImageSearch(HOGEmbedder()))
    with pytest.raises(ValueError, match="n_hits"):
        report_html(search, n_hits=0)
    with pytest.raises(ValueError, match="n_groups"):
        report_html(search, n_groups=-1)


def test_without_matplotlib_there_is_a_report_without_a_map(
    search: ImageSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert "imgembed[plot]" in report_html(search, n_queries=2, n_hits=3)


def test_the_report_needs_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imgembed, "pages", imgembed.pages)  # for afterwards
    for name in list(sys.modules):
        if name.startswith("imgembed.pages"):
            monkeypatch.delitem(sys.modules, name)
    for name in ("flask", "waitress", "cachetools"):
        monkeypatch.setitem(sys.modules, name, None)
    pages = importlib.import_module("imgembed.pages")
    assert "A map needs" in pages.report_html(ImageSearch(HOGEmbedder()).fit(noise(2)))
    with pytest.raises(ImportError, match=r"imgembed\[app\]"):
        pages.create_app("unused")
