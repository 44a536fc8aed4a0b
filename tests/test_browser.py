"""The pages in a real browser: what one can do on them, and that nothing goes wrong meanwhile.

IMGEMBED_CHROMIUM is the program, by default that of Debian; pictures of the pages go to the folder
IMGEMBED_SCREENSHOTS if it is set.
"""

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from imgembed import HOGEmbedder, ImageReadWarning, ImageSearch
from imgembed.pages import create_app, write_report

pytestmark = pytest.mark.browser

CHROMIUM = os.environ.get("IMGEMBED_CHROMIUM", "chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGE_SIZE = 6
MAKE_FILES = """([name, kind, encoded]) => {
    const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
    const files = new DataTransfer();
    files.items.add(new File([bytes], name, {type: kind}));
    return files;
}"""


@pytest.fixture(scope="module")
def search(photographs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> ImageSearch:
    folder = tmp_path_factory.mktemp("photographs")
    for path in photographs:
        shutil.copy(path, folder)
    (folder / "damaged.png").write_bytes(b"no image")
    paths = sorted(folder.iterdir())
    records = [{"name": path.stem, "letters": len(path.stem)} for path in paths]
    with pytest.warns(ImageReadWarning):
        return ImageSearch(HOGEmbedder()).fit(paths, records)


@pytest.fixture(scope="module")
def address(search: ImageSearch) -> Iterator[str]:
    waitress = pytest.importorskip("waitress")
    server = waitress.create_server(create_app(search, page_size=PAGE_SIZE), port=0)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.effective_port}/"
    server.close()
    server.task_dispatcher.shutdown()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which(CHROMIUM)
    if program is None:
        pytest.skip(f"there is no browser {CHROMIUM!r}; set IMGEMBED_CHROMIUM")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


class Watched:
    """A page of the browser, with what went wrong on it and what it asked for."""

    def __init__(self, chromium: Any, **settings: Any) -> None:
        self.context = chromium.new_context(**settings)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", lambda request: self.wrong.append(request.url))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def settle(self) -> None:
        """Wait for all pictures, also for those further down."""
        self.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        self.page.wait_for_load_state("networkidle")
        self.page.evaluate("window.scrollTo(0, 0)")

    def broken_pictures(self) -> list[str]:
        """Addresses of pictures that the browser could not show."""
        broken: list[str] = self.page.evaluate(
            "[...document.images].filter((i) => !i.complete || !i.naturalWidth).map((i) => i.src)"
        )
        return broken

    def names(self) -> list[str]:
        """The names of the hits."""
        names: list[str] = self.page.locator(".cards .name").all_text_contents()
        return names

    def shoot(self, name: str) -> None:
        """Take a picture of the page, if one is wanted."""
        if "IMGEMBED_SCREENSHOTS" in os.environ:
            folder = Path(os.environ["IMGEMBED_SCREENSHOTS"])
            folder.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=folder / f"{name}.png", full_page=True)

    def check(self) -> None:
        """Nothing went wrong, and every picture is there."""
        self.settle()
        assert not self.wrong
        assert not self.broken_pictures()


@pytest.fixture
def watched(chromium: Any, address: str) -> Iterator[Watched]:
    watched = Watched(chromium, viewport={"width": 1280, "height": 800})
    watched.page.goto(address)
    yield watched
    watched.context.close()


def files_of(page: Any, path: Path, kind: str = "image/png") -> Any:
    """A file as the browser holds it while it is dragged or pasted."""
    encoded = base64.b64encode(path.read_bytes()).decode()
    return page.evaluate_handle(MAKE_FILES, [path.name, kind, encoded])


@pytest.fixture
def rotated(photographs: list[Path], tmp_path: Path) -> Path:
    """A photograph that is not quite one of the gallery."""
    path = tmp_path / "query.png"
    chelsea = next(path for path in photographs if path.stem == "chelsea")
    Image.open(chelsea).rotate(2).save(path)
    return path


def test_one_drops_an_image_filters_pages_and_searches_on(watched: Watched, rotated: Path) -> None:
    page = watched.page
    page.dispatch_event(".drop", "dragover", {"dataTransfer": files_of(page, rotated)})
    assert "over" in (page.get_attribute("#upload", "class") or "")
    page.dispatch_event(".drop", "drop", {"dataTransfer": files_of(page, rotated)})
    page.wait_for_url("**/?upload=*")
    assert watched.names()[0] == "chelsea.png"
    assert len(watched.names()) == PAGE_SIZE
    watched.check()
    watched.shoot("hits")

    first = watched.names()
    page.click("text=Next")
    page.wait_for_url("**page=2*")
    assert not set(first) & set(watched.names())
    watched.check()
    page.click("text=Previous")
    page.wait_for_url(lambda url: "page=" not in url)
    assert watched.names() == first

    page.click(".cards .card:nth-child(2) .picture")
    page.wait_for_url("**/?id=*")
    assert f"Nearest to {first[1]}" in page.text_content(".asked")
    assert first[1] not in watched.names()

    page.fill("#where", "letters > 8")
    page.click("text=Filter")
    page.wait_for_url("**where=*")
    assert watched.names()
    assert all(len(Path(name).stem) > 8 for name in watched.names())
    page.click("summary >> nth=0")
    assert page.is_visible("dl >> nth=0")
    watched.check()
    watched.shoot("filter")


def test_an_image_is_pasted(watched: Watched, rotated: Path) -> None:
    page = watched.page
    page.evaluate(
        "(files) => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: files}))",
        files_of(page, rotated),
    )
    page.wait_for_url("**/?upload=*")
    assert watched.names()[0] == "chelsea.png"
    watched.check()


def test_the_condition_that_is_typed_holds_for_the_image_that_is_chosen(
    watched: Watched, rotated: Path
) -> None:
    watched.page.fill("#where", "name LIKE 'c%'")
    watched.page.set_input_files("input[type=file]", rotated)
    watched.page.wait_for_url("**/?upload=*")
    assert all(name.startswith("c") for name in watched.names())
    watched.check()


def test_a_wrong_condition_is_said_and_stays_in_the_box(watched: Watched) -> None:
    page = watched.page
    page.click(".cards .picture >> nth=0")
    page.fill("#where", "leters > 3")
    page.click("text=Filter")
    page.wait_for_url("**leters*")
    assert "no such column" in page.text_content("[role=alert]")
    assert page.input_value("#where") == "leters > 3"
    assert not watched.broken_pictures()
    watched.shoot("wrong_condition")


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(
    watched: Watched, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(21 * 2**20))
    watched.page.set_input_files("input[type=file]", large)
    watched.page.wait_for_selector("[role=alert]:visible")
    assert "20 MB" in watched.page.text_content("[role=alert]")
    assert not [url for url in watched.asked if url.endswith("/search")]


def test_the_large_image_opens(watched: Watched) -> None:
    watched.page.click(".cards .picture >> nth=0")
    with watched.context.expect_page() as opened:
        watched.page.click("text=full size >> nth=0")
    opened.value.wait_for_load_state()
    assert opened.value.url.endswith(".jpg")
    assert opened.value.evaluate("document.images[0].naturalWidth") > 300


def test_the_page_works_without_scripts(chromium: Any, address: str, rotated: Path) -> None:
    watched = Watched(chromium, java_script_enabled=False)
    watched.page.goto(address)
    watched.page.set_input_files("input[type=file]", rotated)
    watched.page.click("#upload button")
    watched.page.wait_for_url("**/?upload=*")
    assert watched.names()[0] == "chelsea.png"
    watched.page.click("text=Next")
    watched.page.wait_for_url("**page=2*")
    assert not watched.wrong
    watched.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_needs_no_scrolling_sideways(
    chromium: Any, address: str, scheme: str
) -> None:
    watched = Watched(chromium, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    for path in ("", "?id=1", "?id=1&where=nonsense"):
        watched.page.goto(address + path)
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= 360
    watched.page.goto(address + "?id=1")
    watched.settle()
    watched.shoot(f"narrow_{scheme}")
    watched.context.close()


def test_the_report_asks_for_nothing_and_shows_every_picture(
    chromium: Any, search: ImageSearch, tmp_path: Path
) -> None:
    path = write_report(search, tmp_path / "report.html", title="Photographs", n_queries=3)
    for width in (1280, 360):
        watched = Watched(chromium, viewport={"width": width, "height": 800})
        watched.page.goto(path.as_uri())
        watched.check()
        assert [url for url in watched.asked if not url.startswith("data:")] == [path.as_uri()]
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
        assert watched.page.evaluate("document.images.length") > 20
        watched.shoot(f"report_{width}")
        watched.context.close()
