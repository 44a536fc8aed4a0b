"""The search page: what it finds, what it refuses, and what a browser may do with it."""

import io
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imgembed import FingerprintError, HOGEmbedder, ImageReadError, ImageSearch
from imgembed.pages import create_app, run_app
from imgembed.pages._rankings import MOST_HITS, ForgottenQueryError, Query, Rankings

flask = pytest.importorskip("flask")
waitress = pytest.importorskip("waitress")

HOSTILE = '"><img src=x onerror=alert(1)>'
N_IMAGES = 30


class WordsEmbedder(HOGEmbedder):
    """Takes text too, for which it gives a vector that the text decides."""

    def transform_text(self, texts: list[str]) -> NDArray[np.float32]:
        """Embed texts."""
        rng = np.random.default_rng(sum(map(ord, "".join(texts))))
        return rng.random((len(texts), self._n_features_out)).astype(np.float32)


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (N_IMAGES, 8, 8, 3), dtype=np.uint8)
    return [np.kron(block, np.ones((8, 8, 1), np.uint8)) for block in blocks]


@pytest.fixture(scope="module")
def gallery(pictures: list[NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "inner").mkdir()
    for row, pixels in enumerate(pictures):
        name = f"inner/{HOSTILE}.png" if row == 0 else f"{row:02}.png"
        (folder / name).write_bytes(encoded(pixels))
    return folder


def searched(gallery: Path, embedder: HOGEmbedder) -> ImageSearch:
    """A search whose images have their number in the records, and a hostile text."""
    paths = [gallery / f"inner/{HOSTILE}.png", *(gallery / f"{i:02}.png" for i in range(1, 30))]
    records = [{"number": i, "note": f"<script>alert({i})</script>"} for i in range(N_IMAGES)]
    return ImageSearch(embedder).fit(paths, records)


@pytest.fixture(scope="module")
def search(gallery: Path) -> ImageSearch:
    return searched(gallery, HOGEmbedder())


@pytest.fixture(scope="module")
def client(search: ImageSearch) -> Any:
    return create_app(search, page_size=6, max_upload_mb=0.25).test_client()


@pytest.fixture(scope="module")
def client_with_words(gallery: Path) -> Any:
    return create_app(searched(gallery, WordsEmbedder()), page_size=6).test_client()


def upload(client: Any, image: bytes, where: str = "", path: str = "/search") -> Any:
    return client.post(path, data={"image": (io.BytesIO(image), "../../x.png"), "where": where})


def ids(answer: Any) -> list[int]:
    return [hit["id"] for hit in answer.get_json()["hits"]]


# What it finds.


def test_an_upload_leads_to_a_page_with_its_hits(
    client: Any, pictures: list[NDArray[np.uint8]]
) -> None:
    answer = upload(client, encoded(pictures[7]))
    assert answer.status_code == 303
    assert answer.location.startswith("/?upload=")
    page = client.get(answer.location)
    assert page.status_code == 200
    assert page.text.index("/thumbnail/7.jpg") == page.text.index("/thumbnail/")
    shown = client.get(page.text.split('<img src="')[1].split('"')[0])
    assert shown.mimetype == "image/jpeg"


def test_json_has_the_hits_that_the_search_finds(
    client: Any, search: ImageSearch, pictures: list[NDArray[np.uint8]]
) -> None:
    wanted = search.search(pictures[7], n_neighbors=6)
    answer = upload(client, encoded(pictures[7]), path="/api/search")
    assert ids(answer) == wanted.ids[0].tolist()
    hits = answer.get_json()["hits"]
    assert [hit["distance"] for hit in hits] == pytest.approx(wanted.distances[0].tolist())
    assert hits[0]["record"] == {"number": 7, "note": "<script>alert(7)</script>"}
    assert hits[0]["name"] == "07.png"


def test_pages_hold_every_hit_once_and_then_end(client: Any, search: ImageSearch) -> None:
    pages = [client.get(f"/api/search?id=3&page={number}") for number in range(1, 6)]
    found = [i for page in pages for i in ids(page)]
    assert found == search.search(ids=3, n_neighbors=29).ids[0].tolist()
    assert [page.get_json()["more"] for page in pages] == [True] * 4 + [False]
    assert client.get("/api/search?id=3&page=6").status_code == 404


def test_pages_in_any_order_hold_every_hit_once(search: ImageSearch) -> None:
    client = create_app(search, page_size=6).test_client()
    found = [
        i for number in (3, 1, 5, 2, 4) for i in ids(client.get(f"/api/search?id=3&page={number}"))
    ]
    assert sorted(found) == sorted(set(range(N_IMAGES)) - {3})


def test_a_hit_leads_to_its_own_hits_under_the_same_condition(client: Any) -> None:
    page = client.get("/?id=3&where=number+<+10")
    assert 'href="/?id=5&amp;where=number+%3C+10"' in page.text
    following = client.get("/?id=5&where=number+<+10")
    assert following.status_code == 200
    assert "Nearest to 05.png" in following.text
    assert "/?id=20" not in following.text


def test_an_upload_is_kept_for_another_condition(
    client: Any, pictures: list[NDArray[np.uint8]]
) -> None:
    answer = upload(client, encoded(pictures[2]), "number > 20", "/api/search").get_json()
    token = answer["query"]["value"]
    assert {hit["id"] > 20 for hit in answer["hits"]} == {True}
    again = client.get(f"/api/search?upload={token}&where=number+=+2")
    assert ids(again) == [2]
    assert not again.get_json()["more"]


def test_a_condition_alone_shows_all_that_satisfy_it(client: Any) -> None:
    address = "/api/search?where=number+>=+20"
    pages = [client.get(f"{address}&page={number}").get_json() for number in (1, 2)]
    assert [hit["id"] for page in pages for hit in page["hits"]] == list(range(20, 30))
    assert {hit["distance"] for page in pages for hit in page["hits"]} == {None}
    assert (pages[0]["query"], pages[0]["more"], pages[1]["more"]) == (None, True, False)
    page = client.get("/?where=number+>=+20&page=2")
    assert page.status_code == 200
    assert [f"/thumbnail/{i}.jpg" in page.text for i in (25, 26, 29)] == [False, True, True]
    assert 'href="/?id=26&amp;where=number+%3E%3D+20"' in page.text
    assert client.get("/?where=number+>=+20&page=3").status_code == 404
    nothing = client.get("/?where=number+>+99").text
    assert "No image satisfies the condition" in nothing
    assert "/thumbnail/" not in nothing


def test_words_find_what_the_embedder_finds(client_with_words: Any, gallery: Path) -> None:
    wanted = searched(gallery, WordsEmbedder()).search(text="a red shoe", n_neighbors=6)
    assert ids(client_with_words.get("/api/search?text=a+red+shoe")) == wanted.ids[0].tolist()
    page = client_with_words.get("/?text=<b>shoe</b>").text
    assert "&lt;b&gt;shoe&lt;/b&gt;" in page
    assert "<b>shoe" not in page


def test_there_is_a_box_for_words_only_where_the_embedder_takes_them(
    client: Any, client_with_words: Any
) -> None:
    assert 'name="text"' in client_with_words.get("/").text
    page = client.get("/").text
    assert 'name="text"' not in page
    assert "CLIPEmbedder" in page
    assert client.get("/?text=shoe").status_code == 400


def test_without_records_there_is_no_filter(pictures: list[NDArray[np.uint8]]) -> None:
    client = create_app(ImageSearch(HOGEmbedder()).fit(pictures)).test_client()
    page = client.get("/").text
    assert 'id="where"' not in page
    assert "image 29" in page


def test_a_saved_search_is_opened(search: ImageSearch, tmp_path: Path) -> None:
    search.save(tmp_path / "saved")
    client = create_app(tmp_path / "saved").test_client()
    assert (
        ids(client.get("/api/search?id=3")) == search.search(ids=3, n_neighbors=24).ids[0].tolist()
    )


def test_records_of_every_kind_fit_into_json(pictures: list[NDArray[np.uint8]]) -> None:
    record = {"size": float("inf"), "file": Path("a/b"), "key": b"abc", "none": None, "yes": True}
    client = create_app(ImageSearch(HOGEmbedder()).fit(pictures[:2], [record] * 2)).test_client()
    hits = client.get("/api/search?id=0").get_json()["hits"]
    wanted = {"size": "inf", "file": "a/b", "key": "3 bytes", "none": None, "yes": True}
    assert hits[0]["record"] == wanted


# What it shows.


def test_hostile_names_and_records_are_escaped(client: Any) -> None:
    for address in ("/", "/?id=1", "/?id=0", "/?id=1&where=" + HOSTILE, "/?id=1&page=5"):
        page = client.get(address).text
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert 'onerror="' not in page
    assert "&lt;script&gt;alert(0)&lt;/script&gt;" in client.get("/?id=1&where=number=0").text


def test_a_name_that_is_not_utf_8_is_shown(
    pictures: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    for name in (b"a\xff.png", b"b.png"):
        path = bytes(tmp_path) + b"/" + name
        with open(path, "wb") as file:
            file.write(encoded(pictures[0]))
    client = create_app(ImageSearch(HOGEmbedder()).fit(tmp_path)).test_client()
    assert "a\\udcff.png" in client.get("/?id=1").text


def test_no_path_of_this_computer_is_on_a_page(client: Any, gallery: Path) -> None:
    for address in ("/", "/?id=1", "/api/search?id=1", "/?id=1&where=nonsense"):
        assert str(gallery) not in client.get(address).text


def test_images_are_sent_as_new_jpegs_of_bounded_size(
    client: Any, pictures: list[NDArray[np.uint8]]
) -> None:
    for kind in ("thumbnail", "image"):
        answer = client.get(f"/{kind}/4.jpg")
        assert answer.mimetype == "image/jpeg"
        pixels = np.asarray(Image.open(io.BytesIO(answer.data)), dtype=float)
        assert np.abs(pixels - pictures[4]).mean() < 12
    large = ImageSearch(HOGEmbedder()).fit([np.zeros((5000, 80, 3), np.uint8)])
    sent = create_app(large).test_client().get("/image/0.jpg")
    assert Image.open(io.BytesIO(sent.data)).height == 4096


def test_where_a_photograph_was_taken_is_not_sent(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    Image.new("RGB", (64, 64)).save(tmp_path / "x.jpg", exif=exif, comment=b"a secret")
    client = create_app(ImageSearch(HOGEmbedder()).fit(tmp_path)).test_client()
    for kind in ("thumbnail", "image"):
        sent = client.get(f"/{kind}/0.jpg").data
        assert b"camera" not in sent
        assert b"secret" not in sent


def test_a_file_that_is_gone_is_said_without_its_path(
    pictures: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    for row in range(3):
        (tmp_path / f"{row}.png").write_bytes(encoded(pictures[row]))
    client = create_app(ImageSearch(HOGEmbedder()).fit(tmp_path)).test_client()
    (tmp_path / "1.png").unlink()
    answer = client.get("/thumbnail/1.jpg")
    assert answer.status_code == 404
    assert str(tmp_path) not in answer.text
    assert len(ids(client.get("/api/search?id=1"))) == 2  # its vector is there


# What it refuses.


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("labl = 1", "no such column"),
        ("1=1; DROP TABLE imgembed_items", "WHERE"),
        ("number IN (SELECT number FROM sqlite_master)", "WHERE"),
        ("number = 1 UNION SELECT 1", "WHERE"),
        ("1=1 -- ", "WHERE"),
        ("load_extension('x')", "WHERE"),
        ("(", "WHERE"),
    ],
)
def test_a_condition_that_is_none_is_said_on_the_page(client: Any, where: str, said: str) -> None:
    page = client.get("/", query_string={"id": 1, "where": where})
    assert page.status_code == 400
    assert 'role="alert"' in page.text
    notice = page.text.split('role="alert">')[1].split("</p>")[0]
    assert notice.strip()
    assert said == "WHERE" or said in notice
    answer = client.get("/api/search", query_string={"id": 1, "where": where})
    assert answer.status_code == 400
    assert answer.get_json()["error"]
    assert len(ids(client.get("/api/search?id=1"))) == 6


@pytest.mark.parametrize(
    "address",
    [
        "/image/../../etc/passwd.jpg",
        "/image/%2e%2e%2f%2e%2e%2fetc%2fpasswd.jpg",
        "/image//etc/passwd.jpg",
        "/image/-1.jpg",
        "/image/30.jpg",
        "/image/1e1.jpg",
        "/image/99999999999999999999999.jpg",
        "/thumbnail/..%5c..%5cx.jpg",
        "/static/../_site.py",
        "/static/%2e%2e/_site.py",
        "/upload/..%2f..%2fsecret.jpg/x",
    ],
)
def test_no_address_leads_out_of_the_gallery(client: Any, address: str) -> None:
    assert client.get(address).status_code == 404


@pytest.mark.parametrize(
    ("question", "status"),
    [
        ("id=30", 404),
        ("id=-1", 400),
        ("id=../x", 400),
        ("id=%C2%B2", 400),
        ("id=" + "9" * 5000, 400),
        ("id=1&text=x", 400),
        ("id=1&page=0", 400),
        ("id=1&page=x", 400),
        (f"id=1&page={10**30}", 400),
        (f"id=1&page={MOST_HITS + 1}", 400),
        ("upload=unknown", 410),
    ],
)
def test_a_question_that_makes_no_sense_has_the_right_status(
    client: Any, question: str, status: int
) -> None:
    assert client.get(f"/?{question}").status_code == status
    answer = client.get(f"/api/search?{question}")
    assert answer.status_code == status
    assert answer.get_json()["error"]


def test_an_answer_without_a_query_says_how_to_ask(client: Any) -> None:
    answer = client.get("/api/search")
    assert answer.status_code == 400
    assert "id" in answer.get_json()["error"]


def test_an_upload_that_is_too_large_is_refused(client: Any) -> None:
    content = bytes(300_000)  # of more, the client itself would make a file
    answer = upload(client, content)
    assert answer.status_code == 413
    assert "0.25 MB" in answer.text
    assert upload(client, content, path="/api/search").status_code == 413


@pytest.mark.parametrize("path", ["/search", "/api/search"])
def test_an_upload_that_is_no_image_is_refused(client: Any, path: str) -> None:
    for content in (b"", b"no image", encoded(np.zeros((64, 64, 3), np.uint8))[:60]):
        answer = upload(client, content, path=path)
        assert answer.status_code == 422
    assert client.post(path, data={"where": ""}).status_code == 422


def test_a_decompression_bomb_is_refused_from_its_header(client: Any) -> None:
    bomb = bytearray(encoded(np.zeros((8, 8, 3), np.uint8)))
    bomb[16:24] = struct.pack(">II", 30_000, 30_000)  # width and height
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    answer = upload(client, bytes(bomb))
    assert answer.status_code == 422
    assert "max_pixels" in answer.text


def test_another_host_is_refused(search: ImageSearch) -> None:
    client = create_app(search, allowed_hosts=["pictures.example"]).test_client()
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8000", "[", "[::2]", ""):
        for path in ("/", "/thumbnail/1.jpg", "/static/pages.css", "/api/search?id=1"):
            answer = client.get(path, headers={"Host": host}, buffered=True)
            assert answer.status_code == 421
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST", "Pictures.example:1"):
        assert client.get("/", headers={"Host": host}).status_code == 200


def test_a_form_from_another_site_is_refused(
    client: Any, pictures: list[NDArray[np.uint8]]
) -> None:
    for origin, status in {"cross-site": 403, "same-site": 403, "same-origin": 303}.items():
        answer = client.post(
            "/search",
            data={"image": (io.BytesIO(encoded(pictures[1])), "x.png")},
            headers={"Sec-Fetch-Site": origin},
        )
        assert answer.status_code == status


def test_uploads_go_by_post_only(client: Any) -> None:
    assert client.get("/search").status_code == 405
    assert client.post("/").status_code == 405


def test_every_answer_forbids_scripts_of_others(client: Any) -> None:
    for path in ("/", "/thumbnail/1.jpg", "/static/search.js", "/nowhere", "/api/search?id=1"):
        headers = client.get(path, buffered=True).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
    page = client.get("/?id=1").text
    assert " style=" not in page
    assert "<style" not in page
    assert page.count("<script") == page.count('<script src="/static/') == 1


def test_an_embedder_that_has_changed_is_refused_at_the_start(
    pictures: list[NDArray[np.uint8]],
) -> None:
    search = ImageSearch(HOGEmbedder()).fit(pictures)
    search.embedder_.set_params(n_orientations=6)
    with pytest.raises(FingerprintError):
        create_app(search)


@pytest.mark.parametrize(
    ("name", "value"), [("max_upload_mb", 0), ("page_size", 0), ("page_size", 101)]
)
def test_wrong_limits_are_named(search: ImageSearch, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        create_app(search, **{name: value})  # type: ignore[arg-type]


# What it keeps.


def test_uploads_stay_in_memory(
    client: Any, pictures: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    for name in ("TemporaryFile", "SpooledTemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(f"tempfile.{name}", refuse)
    monkeypatch.setattr("werkzeug.formparser.SpooledTemporaryFile", refuse)
    assert upload(client, encoded(pictures[1])).status_code == 303


def test_the_oldest_upload_is_forgotten_first(
    search: ImageSearch, pictures: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = encoded(pictures[0])
    monkeypatch.setattr("imgembed.pages._rankings._KEPT_BYTES", 3 * len(image))
    rankings = Rankings(search)
    first, *others = [rankings.keep(image) for _ in range(4)]
    with pytest.raises(ForgottenQueryError, match="again"):
        rankings.first(first, "", 3)
    assert all(rankings.uploaded(query.value) == image for query in others)
    with pytest.raises(ImageReadError, match="too large"):
        rankings.keep(4 * image)


def test_a_page_that_was_seen_is_not_searched_for_again(
    search: ImageSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    rankings = Rankings(search)
    seen = rankings.first(Query("id", "3"), "", 10)
    monkeypatch.setattr(ImageSearch, "search", None)
    assert rankings.first(Query("id", "3"), "", 10) == seen
    assert rankings.first(Query("id", "3"), "", 4) == seen


def test_many_browsers_at_once_get_what_one_gets(search: ImageSearch) -> None:
    app = create_app(search, page_size=5)
    wanted = {i: search.search(ids=i, n_neighbors=5).ids[0].tolist() for i in range(N_IMAGES)}
    wrong: list[int] = []

    def ask(item: int) -> None:
        if ids(app.test_client().get(f"/api/search?id={item}")) != wanted[item]:
            wrong.append(item)

    threads = [threading.Thread(target=ask, args=(i,)) for i in wanted for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Its server.


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Calls run_app with a server that ends at once, and gives how it was made."""
    made: dict[str, Any] = {}

    class Server:
        def run(self) -> None:
            made["ran"] = True

        def close(self) -> None:
            made["closed"] = True

    def create(app: Any, sockets: list[socket.socket], **settings: Any) -> Server:
        made.update(settings, app=app, address=sockets[0].getsockname())
        return Server()

    monkeypatch.setattr(waitress, "create_server", create)

    def run(*arguments: Any, **settings: Any) -> dict[str, Any]:
        run_app(*arguments, port=0, **settings)
        return made

    return run


def test_the_server_is_for_this_computer_by_default(
    served: Callable[..., dict[str, Any]],
    search: ImageSearch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = served(search)
    host, port = made["address"]
    assert host == "127.0.0.1"
    assert f"http://127.0.0.1:{port}/" in capsys.readouterr().out
    assert made["ran"]
    assert made["closed"]
    assert made["inbuf_overflow"] > made["app"].config["MAX_CONTENT_LENGTH"] == 20 * 2**20


def test_a_server_for_other_computers_warns_and_answers_to_allowed_hosts(
    served: Callable[..., dict[str, Any]], search: ImageSearch
) -> None:
    with pytest.warns(UserWarning, match="other computers"):
        made = served(search, "0.0.0.0", allowed_hosts=["pictures.example"])
    client = made["app"].test_client()
    assert client.get("/", headers={"Host": "pictures.example:8000"}).status_code == 200
    assert client.get("/", headers={"Host": "other.example:8000"}).status_code == 421


def test_a_port_that_is_taken_is_named(search: ImageSearch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}.*another port"):
            run_app(search, port=port)
