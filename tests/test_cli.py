"""The command line: what it prints, its errors in one line, its exit status."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from imgembed import ImageEmbedder
from imgembed.cli import EMBEDDERS, main


@pytest.fixture
def gallery(tmp_path: Path, photographs: list[Path]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in photographs[:4]:
        with Image.open(path) as picture:
            picture.convert("RGB").resize((200, 200)).save(folder / f"{path.stem}.jpg")
    return folder


def test_search_prints_hits_and_writes_a_page(
    gallery: Path, photographs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (gallery / "broken.jpg").touch()
    page = tmp_path / "hits.html"
    options = ["--n-neighbors", "2", "--html", str(page)]
    status = main(["search", str(gallery), str(photographs[1]), str(photographs[2]), *options])
    printed = capsys.readouterr()
    assert status == 0
    lines = printed.out.splitlines()
    assert lines[0] == str(photographs[1])
    assert lines[1].endswith(f"{photographs[1].stem}.jpg")
    assert lines[3] == str(photographs[2])
    assert lines[4].endswith(f"{photographs[2].stem}.jpg")
    assert len(lines) == 7
    assert page.read_text(encoding="utf-8").count("<img") == 2 * 3
    assert printed.err.count("\n") == 1
    assert "warning: 1 of 5 images" in printed.err


@pytest.mark.parametrize(
    ("arguments", "told", "status"),
    [
        (["search", "no/folder", "QUERY"], "no folder 'no/folder'", 1),
        (["search", "QUERY", "QUERY"], "is a file", 1),
        (["search", "GALLERY", "no.jpg"], "no image file 'no.jpg'", 1),
        (["search", "GALLERY", "GALLERY"], "no image file", 1),
        (["search", "GALLERY", "QUERY", "--html", "no/folder/a.html"], "no folder", 1),
        (["search", "GALLERY", "QUERY", "--embedder", "x"], "invalid choice: 'x'", 2),
        (["search", "GALLERY", "QUERY", "--n-neighbors", "0"], "at least 1", 2),
        (["search", "GALLERY"], "QUERY", 2),
        ([], "COMMAND", 2),
        (["serach"], "'serach'", 2),
    ],
)
def test_errors_are_one_line_and_a_status(
    arguments: list[str],
    told: str,
    status: int,
    gallery: Path,
    photographs: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"GALLERY": str(gallery), "QUERY": str(photographs[0])}
    try:
        got = main([places.get(argument, argument) for argument in arguments])
    except SystemExit as leaving:
        got = leaving.code  # type: ignore[assignment]
    printed = capsys.readouterr()
    assert got == status
    assert printed.err.startswith("imgembed: error: ")
    assert told in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_embedders_can_be_chosen(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = str(gallery / "astronaut.jpg")
    too_few = main(["search", str(gallery), query, "--embedder", "sift"])
    printed = capsys.readouterr()
    assert too_few == 0 or "n_words" in printed.err
    assert main(["search", str(gallery), query, "--embedder", "vit"]) == 1  # no network here
    assert "weights='bundled'" in capsys.readouterr().err
    assert main(["search", str(gallery), query, "--embedder", "hog", "--n-neighbors", "1"]) == 0
    assert "astronaut.jpg" in capsys.readouterr().out.splitlines()[1]
    for make in EMBEDDERS.values():
        assert isinstance(make(), ImageEmbedder)


def test_hits_can_be_verified(
    gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = tmp_path / "turned.png"
    with Image.open(gallery / "astronaut.jpg") as picture:
        picture.rotate(180).save(turned)
    options = ["--embedder", "hog", "--n-neighbors", "2", "--verify"]
    assert main(["search", str(gallery), str(turned), *options]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert re.search(r"astronaut\.jpg, \d+ inliers$", first)
    assert "inliers" not in second


def test_the_demo_finds_photographs_and_writes_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 0
    printed = capsys.readouterr().out
    table = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if "/14" in line}
    assert int(table["CNN"][-1].split("/")[0]) >= 50
    assert int(table["SIFT"][-1].split("/")[0]) >= 42
    for name in ("cnn", "sift"):
        with Image.open(tmp_path / "demo" / f"{name}.png") as picture:
            assert picture.width > 500
        page = (tmp_path / "demo" / f"{name}.html").read_text(encoding="utf-8")
        assert page.count("<tr>") == 56
    assert str(tmp_path / "demo") in printed


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "imgembed", "search", "absent", "absent.jpg"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "imgembed: error: there is no image file 'absent.jpg'\n"
