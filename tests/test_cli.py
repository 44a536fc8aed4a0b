"""The command line: what it prints, its errors in one line, its exit status, its files."""

import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imgembed import ImageEmbedder, ImageSearch, list_images, make_embedder
from imgembed.cli import _doctor, main
from imgembed.cli._records import labels_of_folders, read_labels

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory, photographs: list[Path]) -> Path:
    """Four photographs, two in each of two subfolders."""
    folder = tmp_path_factory.mktemp("gallery") / "photos"
    for number, path in enumerate(photographs[:4]):
        place = folder / ("first", "second")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            picture.convert("RGB").resize((200, 200)).save(place / f"{path.stem}.jpg")
    return folder


@pytest.fixture(scope="module")
def query(gallery: Path) -> str:
    return str(gallery / "first" / "astronaut.jpg")


@pytest.fixture(scope="module")
def records(gallery: Path) -> Path:
    table = gallery.parent / "records.csv"
    table.write_text(
        "path,price,label\nfirst/astronaut.jpg,10,man\nsecond/brick.jpg,20.5,wall\n"
        "first/camera.jpg,,man\nsecond/cell.jpg,40,\n"
    )
    return table


@pytest.fixture(scope="module")
def saved(gallery: Path, records: Path) -> Path:
    """An index with records and local features."""
    out = gallery.parent / "saved"
    options = ["--embedder", "hog", "--records", str(records), "--verify"]
    assert main(["index", str(gallery), "--out", str(out), *options]) == 0
    return out


@pytest.fixture
def as_json(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that must succeed, and reads the document that it prints."""

    def run(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*arguments, "--json"]) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    return run


def child(*arguments: str, code: str = "") -> list[str]:
    """The command line in another process, after some code."""
    run = f"{code}\nimport sys; from imgembed.cli import main; sys.exit(main({list(arguments)!r}))"
    return [sys.executable, "-c", run]


# Errors and help.


@pytest.mark.parametrize(
    ("arguments", "told", "status"),
    [
        (["search", "no/folder", "QUERY"], "no folder 'no/folder'", 1),
        (["search", "QUERY", "QUERY"], "is a file", 1),
        (["search", "GALLERY", "no.jpg"], "no image file 'no.jpg'", 1),
        (["search", "GALLERY", "GALLERY"], "no image file", 1),
        (["search", "GALLERY", "QUERY", "--html", "no/folder/a.html"], "no folder", 1),
        (["search", "GALLERY", "QUERY", "--embedder", "hgo"], "Did you mean 'hog'?", 2),
        (["search", "GALLERY", "QUERY", "--n-neighbors", "0"], "range x>=1", 2),
        (["search", "GALLERY"], "give queries", 2),
        (["search", "GALLERY", "QUERY", "--text", "a dog"], "not both", 2),
        (["search", "GALLERY", "--text", "a dog", "--embedder", "hog"], "CLIPEmbedder()", 1),
        (["search", "GALLERY", "QUERY", "--embedder", "timm:resnet19"], "'resnet18'", 1),
        (["search", "SAVED", "QUERY", "--embedder", "hog"], "leave --embedder out", 1),
        (["search", "SAVED", "QUERY", "--where", "prize < 3"], "no such column", 1),
        (["index", "GALLERY"], "'--out'", 2),
        (["index", "no/folder", "--out", "OUT"], "no folder 'no/folder'", 1),
        (["index", "GALLERY", "--out", "no/folder/out"], "no folder 'no/folder'", 1),
        (["index", "GALLERY", "--out", "SAVED"], "give --replace", 1),
        (["index", "GALLERY", "--out", "GALLERY", "--replace"], "is no index", 1),
        (["index", "GALLERY", "--out", "OUT", "--records", "no.csv"], "no.csv", 1),
        (["report", "GALLERY", "--out", "OUT"], "imgembed index FOLDER", 1),
        (["app", "GALLERY"], "there is no index", 1),
        (["app", "SAVED", "--port", "70000"], "range 0<=x<=65535", 2),
        (["info", "no/folder"], "no folder", 1),
        (["duplicates", "GALLERY", "--threshold", "2"], "got 2.0", 1),
        (["duplicates", "GALLERY", "--embedder", "hog"], "threshold=", 1),
        (["compare", "GALLERY", "--labels", "no.csv"], "no.csv", 1),
        (["compare", "GALLERY", "--method", "x"], "there is no method 'x'", 2),
        ([], "command", 2),
        (["serach"], "'serach'", 2),
    ],
)
def test_errors_are_one_line_and_a_status(
    arguments: list[str],
    told: str,
    status: int,
    gallery: Path,
    saved: Path,
    query: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {
        "GALLERY": str(gallery), "SAVED": str(saved), "QUERY": query, "OUT": str(tmp_path / "out")
    }  # fmt: skip
    capsys.readouterr()
    assert main([places.get(argument, argument) for argument in arguments]) == status
    printed = capsys.readouterr()
    assert printed.err.startswith("imgembed: error: ")
    assert told in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


def test_help_and_version_load_no_library() -> None:
    code = (
        "import atexit, sys\n"
        "heavy = {'torch', 'cv2', 'sklearn', 'numpy', 'matplotlib', 'flask'}\n"
        "atexit.register(lambda: print('loaded', heavy & set(sys.modules)))\n"
    )
    for option in ("--help", "--version"):
        done = subprocess.run(child(option, code=code), capture_output=True, text=True, check=True)
        assert done.stdout.endswith("loaded set()\n")


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    commands = [line.split()[0] for line in listed if line.strip()]
    assert commands == sorted("app compare demo doctor duplicates index info report search".split())
    for command in commands:
        assert main([command, "--help"]) == 0
        assert f"Usage: imgembed {command}" in capsys.readouterr().out


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "imgembed", "search", "absent", "absent.jpg"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "imgembed: error: there is no image file 'absent.jpg'\n"


def test_a_reader_that_leaves_early_is_no_error_to_tell(gallery: Path) -> None:
    command = child("info", str(gallery), code="import time, sys; sys.stdin.read()")
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, told = process.communicate(b"", timeout=60)
    assert told == b""


# Search.


def test_search_in_a_folder_prints_hits_and_writes_a_page(
    gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(gallery, tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").touch()
    queries = [str(gallery / "second" / "brick.jpg"), str(gallery / "first" / "camera.jpg")]
    page = tmp_path / "hits.html"
    options = ["--embedder", "hog", "--n-neighbors", "2", "--html", str(page)]
    assert main(["search", str(tmp_path / "photos"), *queries, *options]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [lines[0], lines[3]] == queries
    assert lines[1].endswith("brick.jpg")
    assert lines[4].endswith("camera.jpg")
    assert len(lines) == 7
    assert page.read_text(encoding="utf-8").count("<img") == 2 * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hits.html", "photos"]
    assert printed.err.count("\n") == 1
    assert "warning: 1 of 5 images" in printed.err


def test_the_bundled_network_is_the_default(
    gallery: Path, query: str, as_json: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def make(name: str) -> ImageEmbedder:
        asked.append(name)
        return make_embedder("hog")  # the demonstration takes the network itself

    monkeypatch.setattr("imgembed.make_embedder", make)
    document = as_json("search", str(gallery), query, "--n-neighbors", "1")
    assert asked == ["lite0"]
    (found,) = document["queries"]
    assert found["query"] == query
    (hit,) = found["hits"]
    assert (hit["rank"], hit["image"]) == (1, query)
    assert hit["distance"] == pytest.approx(0, abs=1e-5)
    assert "n_inliers" not in hit


def test_a_network_without_weights_is_an_error_that_helps(
    gallery: Path, query: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(gallery), query, "--embedder", "vit"]) == 1  # no network here
    assert "weights='bundled'" in capsys.readouterr().err


def test_hits_can_be_verified(
    gallery: Path, query: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = tmp_path / "turned.png"
    with Image.open(query) as picture:
        picture.rotate(180).save(turned)
    options = ["--embedder", "hog", "--n-neighbors", "2", "--verify"]
    assert main(["search", str(gallery), str(turned), *options]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert re.search(r"astronaut\.jpg, \d+ inliers$", first)
    assert "inliers" not in second


def test_an_index_is_searched_with_conditions_and_gives_records(
    saved: Path, query: str, as_json: Run
) -> None:
    document = as_json("search", str(saved), query, "--where", "price > 15", "--n-neighbors", "3")
    hits = document["queries"][0]["hits"]
    assert {Path(hit["image"]).name for hit in hits} == {"brick.jpg", "cell.jpg"}
    assert {hit["record"]["price"] for hit in hits} == {20.5, 40}
    assert all(hit["n_inliers"] == 0 for hit in hits)  # the index verifies
    everything = as_json("search", str(saved), query)
    assert Path(everything["queries"][0]["hits"][0]["image"]).name == "astronaut.jpg"
    assert everything["queries"][0]["hits"][0]["n_inliers"] > 20


def test_an_index_without_local_features_cannot_verify(
    gallery: Path, query: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ImageSearch(make_embedder("hog")).fit(gallery).save(tmp_path / "plain")
    assert main(["search", str(tmp_path / "plain"), query, "--verify"]) == 1
    assert "imgembed index --verify" in capsys.readouterr().err


# Index.


def test_an_index_says_what_is_in_it(gallery: Path, tmp_path: Path, as_json: Run) -> None:
    shutil.copytree(gallery, tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    folder, out = str(tmp_path / "photos"), str(tmp_path / "out")
    document = as_json("index", folder, "--out", out, "--embedder", "hog")
    assert (document["index"], document["embedder"], document["n_images"]) == (out, "hog", 4)
    (unreadable,) = document["unreadable"]
    assert Path(unreadable["image"]).name == "broken.jpg"
    assert "no image format" in unreadable["reason"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]
    assert len(ImageSearch.load(out)) == 4


def test_an_index_can_be_replaced(
    gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    ImageSearch(make_embedder("hog")).fit(gallery / "first").save(out)
    command = ["index", str(gallery), "--out", str(out), "--embedder", "hog"]
    assert main(command) == 1
    assert len(ImageSearch.load(out)) == 2
    assert main([*command, "--replace"]) == 0
    assert capsys.readouterr().out == f"{out}: 4 images by hog\n"
    assert len(ImageSearch.load(out)) == 4


_STAGES = {
    "embedding": "import imgembed; owner = imgembed.HOGEmbedder\nname = '_embed'",
    "saving": "import imgembed; owner = imgembed.ImageSearch\nname = 'save'",
}
# Says when the stage is reached, and stays there.
_HELD = """
import time
kept = getattr(owner, name)
def held(self, *arguments):
    result = kept(self, *arguments)
    print('reached', flush=True)
    time.sleep(60)
    return result
setattr(owner, name, held)
"""


@pytest.mark.parametrize(
    ("stage", "there_before"), [("embedding", False), ("saving", False), ("saving", True)]
)
def test_ctrl_c_leaves_nothing_half_written(
    stage: str, there_before: bool, gallery: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if there_before:
        ImageSearch(make_embedder("hog")).fit(gallery / "first").save(out)
    arguments = ["index", str(gallery), "--out", str(out), "--embedder", "hog", "--replace"]
    process = subprocess.Popen(
        child(*arguments, code=_STAGES[stage] + _HELD),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reached\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "imgembed: interrupted\n")
    assert list(tmp_path.iterdir()) == ([out] if there_before else [])
    if there_before:  # the old one or the new one, whole
        assert len(ImageSearch.load(out)) in (2, 4)


# Records and labels.


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,price\nastronaut.jpg,1\n", "as 'first/astronaut.jpg' is"),
        ("path,price\n", "it has no rows"),
        ("path,price\nfirst/astronaut.jpg,1,2\n", "line 2"),
        ("path,price\nfirst/astronaut.jpg\n", "line 2"),
        ("path\nfirst/astronaut.jpg\nfirst/astronaut.jpg\n", "twice, the second time in line 3"),
        ("path;price\nfirst/astronaut.jpg;1\n", "names no image"),
    ],
)
def test_wrong_tables_are_explained(
    text: str, told: str, gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    table.write_text(text)
    out = tmp_path / "out"
    assert main(["index", str(gallery), "--out", str(out), "--records", str(table)]) == 1
    printed = capsys.readouterr().err
    assert told in printed
    assert printed.count("\n") == 1
    assert not out.exists()


def test_rows_and_images_that_do_not_meet_are_told(
    gallery: Path, tmp_path: Path, as_json: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("\ufeffname,n,size\nfirst/astronaut.jpg,1,2.5\nfirst/none.jpg,x,3\n")
    out = tmp_path / "out"
    options = ["--records", str(table), "--embedder", "hog"]
    assert main(["index", str(gallery), "--out", str(out), *options]) == 0
    missing, strange = capsys.readouterr().err.splitlines()
    assert "3 of 4 images have no row" in missing
    assert "'first/camera.jpg'" in missing
    assert "1 rows" in strange
    assert "'first/none.jpg'" in strange
    index = ImageSearch.load(out).index_
    assert index.columns_ == {"name": "text", "n": "integer", "size": "real"}


def test_numbers_of_a_table_become_numbers(saved: Path, as_json: Run) -> None:
    assert as_json("info", str(saved))["columns"] == {
        "path": "text",
        "price": "real",
        "label": "text",
    }


# The other commands.


def test_methods_are_compared_by_labels_or_without(
    gallery: Path, records: Path, tmp_path: Path, as_json: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    hog = ["--method", "hog", "--n-copied", "2"]
    without = as_json("compare", str(gallery), *hog)
    assert (without["by_labels"], without["n_images"]) == (False, 4)
    (row,) = without["methods"]
    assert (row["name"], row["n_features"]) == ("hog", 1764)
    assert set(row["found"]) >= {"crop", "blur", "jpeg"}
    by_folder = as_json("compare", str(gallery), *hog, "--labels", "folders")
    assert (by_folder["by_labels"], by_folder["n_queries"]) == (True, 4)
    by_table = as_json("compare", str(gallery), *hog, "--labels", str(records))
    assert by_table["by_labels"]
    page = tmp_path / "table.html"
    assert main(["compare", str(gallery), *hog, "--html", str(page)]) == 0
    assert "hog" in capsys.readouterr().out
    assert "<table" in page.read_text(encoding="utf-8")


def test_labels_come_from_the_column_that_is_named_so(gallery: Path, records: Path) -> None:
    images = list_images(gallery)
    assert read_labels(records, gallery, images) == ["man", "man", "wall", None]
    assert labels_of_folders(gallery, images) == ["first", "first", "second", "second"]


def test_labels_that_are_not_there_are_asked_for(
    gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = str(gallery / "first")
    assert main(["compare", first, "--labels", "folders"]) == 1
    assert "lie in no subfolders" in capsys.readouterr().err
    table = tmp_path / "table.csv"
    table.write_text("path,a,b\nastronaut.jpg,1,2\n")
    assert main(["compare", first, "--labels", str(table)]) == 1
    assert "must have a column 'label'" in capsys.readouterr().err.splitlines()[-1]


def test_duplicates_are_listed_with_what_to_keep(
    gallery: Path, query: str, tmp_path: Path, as_json: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(gallery, tmp_path / "photos")
    with Image.open(query) as picture:
        picture.resize((100, 100)).save(tmp_path / "photos" / "small.jpg")
    folder, page = str(tmp_path / "photos"), tmp_path / "page.html"
    document = as_json("duplicates", folder)
    ((kept, other),) = document["groups"]
    assert (Path(kept["image"]).name, kept["keep"]) == ("astronaut.jpg", True)
    assert (Path(other["image"]).name, other["reason"]) == ("small.jpg", "fewer pixels")
    assert (document["n_images"], document["threshold"]) == (5, 0.02)
    assert main(["duplicates", folder, "--html", str(page)]) == 0
    summary, group, first, second, told = capsys.readouterr().out.splitlines()
    assert summary.startswith("1 group of duplicates among 5 images")
    assert group == "group 0"
    assert "keep" in first
    assert "remove" in second
    assert told == f"page: {page}"
    assert page.read_text(encoding="utf-8").count("<img") == 2


def test_info_tells_of_an_index_and_of_a_folder(
    gallery: Path, saved: Path, as_json: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    index = as_json("info", str(saved))
    assert (index["images"], index["embedder"], index["features"]) == (4, "HOGEmbedder()", 1764)
    assert (index["algorithm"], index["recall"], index["verifies"]) == ("exact", 1.0, True)
    assert index["images_root"] == str(gallery)
    assert index["bytes"] > 4 * 1764 * 4
    folder = as_json("info", str(gallery))
    assert (folder["images"], folder["formats"], folder["subfolders"]) == (4, {".jpg": 4}, 2)
    assert main(["info", str(saved)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["features"] == "1,764"
    assert (lines["recall"], lines["verifies"]) == ("1.0", "yes")
    assert lines["columns"] == "path (text), price (real), label (text)"


def test_a_report_is_written_to_a_file(saved: Path, tmp_path: Path, as_json: Run) -> None:
    page = tmp_path / "report.html"
    document = as_json("report", str(saved), "--out", str(page), "--title", "Some <photographs>")
    assert document["n_bytes"] == page.stat().st_size
    assert "Some &lt;photographs&gt;" in page.read_text(encoding="utf-8")


def test_the_search_page_is_served_until_ctrl_c(saved: Path) -> None:
    pytest.importorskip("flask")
    pytest.importorskip("waitress")
    process = subprocess.Popen(
        child("app", str(saved), "--port", "0"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
    try:
        assert found is not None
        with urllib.request.urlopen(found[0], timeout=30) as page:
            assert page.status == 200
    finally:
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    assert "Traceback" not in told


def test_the_demo_finds_photographs_and_writes_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo"), "--photographs", "5"]) == 0
    printed = capsys.readouterr().out
    table = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if "/5" in line}
    assert int(table["CNN"][-1].split("/")[0]) >= 18
    assert int(table["SIFT"][-1].split("/")[0]) >= 14
    for name in ("cnn", "sift"):
        with Image.open(tmp_path / "demo" / f"{name}.png") as picture:
            assert picture.width > 500
        page = (tmp_path / "demo" / f"{name}.html").read_text(encoding="utf-8")
        assert page.count("<tr>") == 20
    assert str(tmp_path / "demo") in printed


# The doctor.


@pytest.fixture
def found(as_json: Run) -> dict[str, dict[str, str]]:
    return {check["part"]: check for check in as_json("doctor")["checks"]}


def test_the_doctor_tells_what_works_here(found: dict[str, dict[str, str]]) -> None:
    working = {part for part, check in found.items() if check["state"] == "works"}
    assert {"python", "imgembed", "opencv", "torch", "bundled weights"} <= working
    assert found["hub of weights"]["fix"] == "unset HF_HUB_OFFLINE"  # as tests have it
    if found["SURF"]["state"] == "absent":
        assert "OPENCV_ENABLE_NONFREE=ON" in found["SURF"]["fix"]


def test_the_doctor_names_what_is_missing_and_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = ["numpy>=999", "pillow", 'absent-package>=2; extra == "some"']
    extras = {"Provides-Extra": ["some"]}
    monkeypatch.setattr(_doctor.metadata, "requires", lambda name: needs)
    monkeypatch.setattr(_doctor.metadata, "metadata", lambda name: _Message(extras))
    assert main(["doctor"]) == 1  # a package that is needed is too old
    lines = capsys.readouterr().out.splitlines()
    packages = next(i for i, line in enumerate(lines) if "packages" in line)
    assert lines[packages].startswith("BROKEN")
    assert "must be >=999" in lines[packages]
    assert "pip install --upgrade imgembed" in lines[packages + 1]
    some = next(i for i, line in enumerate(lines) if "extra some" in line)
    assert "absent-package is missing" in lines[some]
    assert 'pip install "imgembed[some]"' in lines[some + 1]


class _Message(dict[str, list[str]]):
    def get_all(self, name: str) -> list[str]:
        return self[name]


def test_the_doctor_sees_two_opencvs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_doctor, "_version", lambda name: "5.0")
    check = _doctor._one_opencv()
    assert check.state == "broken"
    assert "opencv-python-headless" in check.fix


def test_the_doctor_sees_whether_the_hub_answers(monkeypatch: pytest.MonkeyPatch, hub: str) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub)
    assert _doctor._hub().state == "works"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    unreachable = _doctor._hub()
    assert (unreachable.state, "cannot be reached" in unreachable.told) == ("absent", True)
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    assert _doctor._hub().state == "broken"


@pytest.fixture
def hub() -> Iterator[str]:
    """A server that answers as a hub does, with an error: it has no such page."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
