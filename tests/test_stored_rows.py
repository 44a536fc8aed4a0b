"""transform_to: vectors on disk, found again after a crash, never mixed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from test_embedders import MeanColour

from imgembed import ImageReadError, ImageReadWarning
from imgembed import _stored_rows as stored_rows

N_IMAGES = 25


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    (tmp_path / "images").mkdir()
    made = []
    for i in range(N_IMAGES):
        made.append(tmp_path / "images" / f"{i:02}.png")
        Image.fromarray(np.full((8, 8, 3), 10 * i, dtype=np.uint8)).save(made[-1])
    return made


class Counting(MeanColour):
    """It counts the images that it embeds, takes its time, and stops after some."""

    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        time.sleep(getattr(self, "seconds", 0))
        self.n_embedded = getattr(self, "n_embedded", 0) + len(prepared)
        if self.n_embedded > getattr(self, "stops_after", N_IMAGES):
            raise KeyboardInterrupt
        return super()._embed(prepared)


def test_the_file_holds_what_transform_returns(paths: list[Path], tmp_path: Path) -> None:
    embedder = MeanColour()
    got = embedder.transform_to(paths, tmp_path / "vectors.npy")
    assert isinstance(got, np.memmap)
    assert np.array_equal(got, embedder.transform(paths))
    assert np.array_equal(np.load(tmp_path / "vectors.npy"), got)
    assert sorted(p.name for p in tmp_path.glob("vectors*")) == ["vectors.npy", "vectors.npy.json"]


def test_an_interrupted_run_goes_on_where_it_was(paths: list[Path], tmp_path: Path) -> None:
    stopped = Counting()
    stopped.stops_after = 11
    with pytest.raises(KeyboardInterrupt):
        stopped.transform_to(paths, tmp_path / "vectors.npy")
    assert not (tmp_path / "vectors.npy").exists()
    resumed = Counting()
    got = resumed.transform_to(paths, tmp_path / "vectors.npy")
    assert resumed.n_embedded == N_IMAGES - 10  # batches of two: ten images were done
    assert np.array_equal(got, MeanColour().transform(paths))
    again = Counting()
    assert np.array_equal(again.transform_to(paths, tmp_path / "vectors.npy"), got)
    assert not hasattr(again, "n_embedded"), "what is done was done again"


_KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import imgembed._stored_rows
from test_stored_rows import Counting

imgembed._stored_rows._SECONDS_BETWEEN_RECORDS = 0
slow = Counting()
slow.seconds = 0.05
slow.transform_to(sorted(Path({images!r}).iterdir()), {path!r})
"""


def test_a_killed_process_costs_what_was_not_recorded(paths: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    names = {"tests": os.path.dirname(__file__), "images": str(paths[0].parent), "path": str(path)}
    child = subprocess.Popen([sys.executable, "-c", _KILLED.format(**names)])
    record = Path(f"{path}.json")
    deadline = time.monotonic() + 60
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.wait()
    n_done = json.loads(record.read_text())["n_done"]
    assert 0 < n_done < N_IMAGES
    resumed = Counting()
    got = resumed.transform_to(paths, path)
    assert resumed.n_embedded == N_IMAGES - n_done
    assert np.array_equal(got, MeanColour().transform(paths))


@pytest.mark.parametrize("what", ["fingerprint", "images", "size of a file", "unknown file"])
def test_vectors_of_another_origin_are_never_mixed_in(
    what: str, paths: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "vectors.npy"
    MeanColour().transform_to(paths, path)
    before = path.read_bytes()
    if what == "size of a file":
        Image.fromarray(np.zeros((99, 99, 3), dtype=np.uint8)).save(paths[3])
    if what == "unknown file":
        Path(f"{path}.json").unlink()
    embedder = MeanColour(scale=2.0 if what == "fingerprint" else 1.0)
    told = {"unknown file": "no record", "fingerprint": "fingerprint was"}.get(what, "images was")
    with pytest.raises(ValueError, match=told):
        embedder.transform_to(paths[::-1] if what == "images" else paths, path)
    assert path.read_bytes() == before


def test_unreadable_images_are_rows_of_nan_and_are_told_again(
    paths: list[Path], tmp_path: Path
) -> None:
    paths[0].write_bytes(b"no image")
    paths[-1].write_bytes(b"no image")
    for _ in range(2):
        with pytest.warns(ImageReadWarning, match=r"row 0 .*row 24 "):
            got = MeanColour(on_error="nan").transform_to(paths, tmp_path / "vectors.npy")
    assert np.isnan(got[[0, -1]]).all()
    assert np.isfinite(got[1:-1]).all()


def test_what_is_done_is_kept_when_an_image_cannot_be_read(
    paths: list[Path], tmp_path: Path
) -> None:
    size = paths[20].stat().st_size
    whole = paths[20].read_bytes()
    paths[20].write_bytes(b"x" * size)
    with pytest.raises(ImageReadError, match="row 20"):
        Counting().transform_to(paths, tmp_path / "vectors.npy")
    paths[20].write_bytes(whole)
    resumed = Counting()
    got = resumed.transform_to(paths, tmp_path / "vectors.npy")
    assert resumed.n_embedded == 5
    assert np.array_equal(got, MeanColour().transform(paths))


def test_arrays_and_an_empty_sequence_can_be_stored(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)
    got = MeanColour().transform_to(images, tmp_path / "arrays.npy")
    assert np.array_equal(got, MeanColour().transform(images))
    with pytest.raises(ValueError, match="images was"):
        MeanColour().transform_to(255 - images, tmp_path / "arrays.npy")
    assert MeanColour().transform_to([], tmp_path / "empty.npy").shape == (0, 3)


def test_a_damaged_record_of_unfinished_work_means_to_start_again(
    paths: list[Path], tmp_path: Path
) -> None:
    stopped = Counting()
    stopped.stops_after = 11
    with pytest.raises(KeyboardInterrupt):
        stopped.transform_to(paths, tmp_path / "vectors.npy")
    (tmp_path / "vectors.npy.json").write_text("{")
    resumed = Counting()
    got = resumed.transform_to(paths, tmp_path / "vectors.npy")
    assert resumed.n_embedded == N_IMAGES
    assert np.array_equal(got, MeanColour().transform(paths))


def test_records_are_not_written_after_each_batch(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    keep = stored_rows.StoredRows.keep
    monkeypatch.setattr(stored_rows.StoredRows, "keep", lambda self: (kept.append(1), keep(self)))
    MeanColour().transform_to(paths, tmp_path / "vectors.npy")
    assert len(kept) <= 3
