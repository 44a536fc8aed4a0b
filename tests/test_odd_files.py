"""Every odd file behaves as its manifest says, quickly and in little memory."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED_DATA

from imgembed import read_image

ODD = SHARED_DATA / "odd"
# What the reader does where the manifest leaves a choice: these it refuses, the rest it reads.
REFUSED_BY_CHOICE = {
    "float.pfm": "floating point",
    "png_text_dos.png": None,
    "tiff_float.tif": "floating point",
    "truncated_end_chunk.png": None,
    "truncated_last2.jpg": "truncated",
    "ultrahdr.jpg": None,
}

# One process reads them all and says of each how long it took and the most memory so far.
READER = """
import json, sys, time
from pathlib import Path
from imgembed.images import ImageReadError, read_image
for path in sys.stdin.read().splitlines():
    start = time.perf_counter()
    try:
        pixels = read_image(path)
        told = {"shape": pixels.shape, "mean": float(pixels.mean()), "dtype": str(pixels.dtype)}
    except ImageReadError as error:
        told = {"error": str(error)}
    told["seconds"] = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()  # getrusage counts the parent's memory too
    told["megabytes"] = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps(told), flush=True)
"""


def manifest() -> list[Any]:
    if not ODD.is_dir():
        return [pytest.param({"file": "absent"}, id="absent")]
    with open(ODD / "manifest.csv", newline="", encoding="utf-8") as lines:
        return [pytest.param(row, id=row["file"]) for row in csv.DictReader(lines)]


@pytest.fixture(scope="module")
def outcomes(shared_data: Path) -> dict[str, dict[str, Any]]:
    files = [param.values[0]["file"] for param in manifest()]
    done = subprocess.run(
        [sys.executable, "-c", READER],
        input="\n".join(str(ODD / file) for file in files),
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"died at {files[len(lines)]}: {done.stderr[-1000:]}"
    return {file: json.loads(line) for file, line in zip(files, lines, strict=True)}


@pytest.mark.parametrize("row", manifest())
def test_odd_file_behaves_as_its_manifest_says(
    row: dict[str, str], outcomes: dict[str, dict[str, Any]]
) -> None:
    file, wanted = row["file"], row["good_loader"]
    outcome = outcomes[file]
    assert outcome["seconds"] < 5
    assert outcome["megabytes"] < 1024
    must_fail = wanted.startswith(("error", "clear error")) and " or decode" not in wanted
    if must_fail or file in REFUSED_BY_CHOICE:
        assert file in outcome["error"], "the error must name the file"
        assert (REFUSED_BY_CHOICE.get(file) or "") in outcome["error"]
    else:
        assert "error" not in outcome, outcome["error"]
        assert outcome["dtype"] == "uint8"
        assert len(outcome["shape"]) == 3
        assert outcome["shape"][2] == 3


def test_the_eight_orientations_look_alike(shared_data: Path) -> None:
    pictures = [read_image(ODD / f"exif_landscape_{n}.jpg") for n in range(1, 9)]
    for picture in pictures[1:]:
        assert picture.shape == pictures[0].shape
        # Each was compressed by itself, turned.
        assert np.abs(picture.astype(int) - pictures[0]).mean() < 5


def test_portrait_orientations_are_upright(shared_data: Path) -> None:
    shapes = {read_image(ODD / f"exif_portrait_{n}.jpg").shape for n in (1, 3, 6, 8)}
    assert shapes == {(1800, 1200, 3)}


@pytest.mark.parametrize(
    ("file", "mean"),
    [("gray16_photo.png", 101.5), ("flat_black.png", 0.0), ("bilevel.png", None)],
)
def test_brightness_is_kept(shared_data: Path, file: str, mean: float | None) -> None:
    got = read_image(ODD / file).mean()
    assert 0 <= got < 254
    if mean is not None:
        assert got == pytest.approx(mean, abs=1)


def test_cmyk_colours_are_not_inverted(shared_data: Path) -> None:
    pixels = read_image(ODD / "cmyk_photo.jpg")
    plain = read_image(ODD / "progressive.jpg")
    if pixels.shape == plain.shape:
        assert np.corrcoef(pixels.ravel(), plain.ravel())[0, 1] > 0.8
    assert 20 < pixels.mean() < 235
