"""Workers give what one process gives; datasets in shards survive what happens to their makers."""

import errno
import json
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import cpu_count, parallel_config
from killed_drivers import kill_driver
from mean_colour import MeanColour
from numpy.typing import NDArray
from PIL import Image
from worker_embedders import KillsItsProcess, Noted, Refuses, counts

from imgembed import (
    CNNEmbedder,
    DatasetError,
    DatasetMismatchError,
    DatasetWriteError,
    EmbedBatch,
    EmbeddedDataset,
    EmbeddingCache,
    HOGEmbedder,
    ImageReadError,
    ImageReadWarning,
    SIFTEmbedder,
    SIFTExtractor,
    WorkersLostError,
    embed_dataset,
)
from imgembed import _workers as workers_room
from imgembed._image_chunk import ImageChunk, chunked
from imgembed._on_workers import EmbedTask
from imgembed._workers import (
    PackedTask,
    active_workers,
    in_one_thread,
    kept_to,
    n_threads_here,
    resident,
)
from imgembed.distributed import _shards as shards_room

Pixels = NDArray[np.uint8]
BLACK = np.zeros((60, 80, 3), np.uint8)

# A worker that has loaded torch after other work is taken for one that leaks, and is replaced.
pytestmark = pytest.mark.filterwarnings("ignore:A worker stopped while some jobs:UserWarning")


@pytest.fixture
def loky() -> Iterator[None]:
    """A context of two worker processes; joblib keeps them from test to test."""
    with parallel_config(backend="loky", n_jobs=2):
        yield


@pytest.fixture
def images(make_noise: Callable[..., Pixels]) -> list[Pixels]:
    return [make_noise(seed, 60, 80) for seed in range(12)]


@pytest.fixture
def odd_images(images: list[Pixels], tmp_path: Path) -> list[object]:
    """Images of every kind, and some that cannot be read, in rows 2, 6, 7 and 8."""
    path = tmp_path / "photo.png"
    Image.fromarray(images[0]).save(path)
    content = path.read_bytes()
    return [
        str(path),
        Image.fromarray(images[1]),
        b"this is no image",
        path,
        {"bytes": content, "path": None},
        images[2],
        None,
        "no/such/file.png",
        content[:-60],
        bytearray(content),
    ]


# Workers.


@pytest.mark.parametrize("method", ["hog", "sift", pytest.param("network", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*random weights:UserWarning")
def test_workers_give_the_vectors_of_one_process(method: str, images: list[Pixels]) -> None:
    embedder = {
        "hog": HOGEmbedder(batch_size=5, progress=False),
        "sift": SIFTEmbedder(20, batch_size=5, progress=False, random_state=0),
        "network": CNNEmbedder("resnet10t", None, image_size=64, batch_size=5, progress=False,
                               random_state=0, engine="torch"),
    }[method]  # fmt: skip
    wanted = embedder.fit(images).transform(images)
    with parallel_config(backend="loky", n_jobs=2):
        got = embedder.transform(images)
        empty = embedder.transform([])
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert got.flags.c_contiguous
    assert empty.shape == (0, wanted.shape[1])


@pytest.mark.usefixtures("loky")
def test_a_codebook_is_learned_from_features_that_workers_have_found(images: list[Pixels]) -> None:
    options: dict[str, Any] = {"progress": False, "random_state": 0}
    got = SIFTEmbedder(20, **options)
    vectors = got.fit_transform(images)
    found = SIFTExtractor(progress=False).transform(images)
    streamed = list(SIFTExtractor(progress=False).iterate(image for image in images))
    with parallel_config(backend="threading"):
        wanted = SIFTEmbedder(20, **options).fit(images)
        np.testing.assert_allclose(vectors, wanted.transform(images), atol=1e-6)
        alone = SIFTExtractor(progress=False).transform(images)
    assert got.fingerprint() == wanted.fingerprint()
    for one, other, again in zip(found, alone, streamed, strict=True):
        assert np.array_equal(one.descriptors, other.descriptors)
        assert np.array_equal(again.positions, other.positions)


def test_workers_name_unreadable_images_as_one_process_does(odd_images: list[object]) -> None:
    embedder = HOGEmbedder(batch_size=3, progress=False)
    vectors, errors = embedder.transform_with_errors(odd_images)
    with parallel_config(backend="loky", n_jobs=2):
        got, told = embedder.transform_with_errors(odd_images)
        with pytest.raises(ImageReadError, match="in row 2 "):
            embedder.transform(odd_images)
        with pytest.warns(ImageReadWarning, match="4 images cannot be read.*row 2 .*row 8 "):
            again = embedder.set_params(on_error="nan").transform(odd_images)
    np.testing.assert_array_equal(got, vectors)
    np.testing.assert_array_equal(again, vectors)
    assert list(told) == list(errors) == [2, 6, 7, 8]
    for row, error in errors.items():
        assert str(told[row]) == str(error)
        assert told[row].row == row
        assert type(told[row].__cause__) is type(error.__cause__)


@pytest.mark.usefixtures("loky")
def test_the_first_unreadable_row_is_raised_whichever_worker_is_first(
    images: list[Pixels], tmp_path: Path
) -> None:
    X: list[object] = [*images, b"broken", *images, b"broken too"]
    for extractor in (SIFTExtractor(progress=False), HOGEmbedder(batch_size=1, progress=False)):
        with pytest.raises(ImageReadError, match="in row 12 "):
            extractor.transform(X)
    found = SIFTExtractor(on_error="none", progress=False)
    with pytest.warns(ImageReadWarning, match="row 12 .*row 25 "):
        assert [row for row, one in enumerate(found.transform(X)) if one is None] == [12, 25]


def test_a_fault_in_a_worker_names_its_row(images: list[Pixels]) -> None:
    chunk = ImageChunk([*images, BLACK], range(8, 13)).packed(10_000)
    with pytest.raises(ZeroDivisionError, match="black") as caught:
        EmbedTask(Refuses(batch_size=4), 1).run(ImageChunk.unpacked(chunk), "raise")
    assert "while preparing the image in row 12" in getattr(caught.value, "__notes__", [])


@pytest.mark.usefixtures("loky")
def test_a_worker_loads_once_whatever_the_number_of_chunks(
    images: list[Pixels], tmp_path: Path
) -> None:
    embedder = Noted(str(tmp_path), batch_size=1)
    for _ in range(2):
        embedder.transform(images)
    loaded, n_embedded = counts(tmp_path, but=os.getpid())
    assert set(loaded) == {1}
    assert n_embedded == 2 * len(images)


@pytest.mark.slow
@pytest.mark.usefixtures("loky")
def test_a_killed_worker_is_survived(images: list[Pixels], tmp_path: Path) -> None:
    X = [*images, BLACK, *images]
    (tmp_path / "life0").touch()
    vectors = KillsItsProcess(str(tmp_path), batch_size=1).transform(X)
    assert not (tmp_path / "life0").exists(), "nobody was killed"
    with parallel_config(backend="threading"):
        np.testing.assert_array_equal(vectors, MeanColour().transform(X))


@pytest.mark.slow
@pytest.mark.usefixtures("loky")
def test_an_image_that_kills_every_worker_is_named(images: list[Pixels], tmp_path: Path) -> None:
    for life in range(50):
        (tmp_path / f"life{life}").touch()
    with pytest.raises(WorkersLostError, match="enough memory"):
        KillsItsProcess(str(tmp_path), batch_size=1).transform([*images, BLACK, *images])


@pytest.mark.usefixtures("loky")
def test_one_bar_counts_the_images_of_all_workers(
    images: list[Pixels], capsys: pytest.CaptureFixture[str]
) -> None:
    HOGEmbedder(batch_size=2, progress=True).transform(images)
    shown = capsys.readouterr().err
    assert "12/12" in shown
    assert shown.count("\n") == 1


@pytest.mark.usefixtures("loky")
def test_workers_share_a_cache(images: list[Pixels], tmp_path: Path) -> None:
    cached = HOGEmbedder(batch_size=2, progress=False, cache=tmp_path / "cache")
    first = cached.transform(images)
    with parallel_config(backend="threading"):
        before = cached.transform(images)
    np.testing.assert_array_equal(first, before)
    info = EmbeddingCache(tmp_path / "cache").info()
    assert info.n_entries == len(images)
    assert info.n_hits == len(images)  # those of this process, which found what workers had kept


def test_a_relative_path_means_the_same_in_a_worker_elsewhere(
    images: list[Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(images[0]).save(tmp_path / "photo.png")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    names = ["photo.png", "", "missing.png", "s3://bucket/photo.png"]
    packed = ImageChunk([*range(5), *names], range(5, 9)).packed(10_000)
    monkeypatch.chdir(tmp_path / "elsewhere")
    chunk = ImageChunk.unpacked(packed)
    vectors, errors = MeanColour()._embed_images(chunk, "nan")
    np.testing.assert_allclose(vectors[0], images[0].mean(axis=(0, 1)), rtol=1e-6)
    told = [str(chunk.carried(error).arrived()) for error in errors.values()]
    assert [text.split(":")[0] for text in told] == [
        "cannot read image in row 6 ('')",
        "cannot read image in row 7 ('missing.png')",
        "cannot read image in row 8 ('s3",
    ]


@given(st.integers(0, 300), st.integers(0, 200), st.integers(1, 70), st.booleans())
def test_chunks_are_whole_batches_and_hold_every_row_once(
    start: int, n_rows: int, batch_size: int, paths: bool
) -> None:
    rows = range(start, start + n_rows)
    chunks = chunked(rows, batch_size, "a path" if paths else None)
    assert [row for chunk in chunks for row in chunk] == list(rows)
    assert all(len(chunk) % batch_size == 0 for chunk in chunks[:-1])


def test_threads_are_those_of_this_process_and_a_worker_has_its_share() -> None:
    assert active_workers(-1) is None
    with parallel_config(n_jobs=2):
        assert active_workers(-1) is None
        assert n_threads_here(None) == 2
    with parallel_config(backend="loky", n_jobs=1):
        assert active_workers(-1) is None
    with parallel_config(backend="loky", n_jobs=2):
        workers = active_workers(-1)
        assert workers is not None
        assert workers.n_workers == 2
        assert workers.n_threads(-1) == max(1, cpu_count() // 2)
        assert n_threads_here(-1) == cpu_count()
        assert not in_one_thread()
        with kept_to(1):  # what a worker does
            assert active_workers(-1) is None
            assert in_one_thread()
            assert n_threads_here(-1) == 1
        with kept_to(3):
            assert n_threads_here(3) == 3


def test_a_process_keeps_few_embedders(tmp_path: Path) -> None:
    for scale in range(4):
        packed = PackedTask.of(EmbedTask(MeanColour(float(scale)), 1))
        first = resident(packed.token, [packed.content])
        assert resident(packed.token, [b"not needed"]) is first
    assert len(workers_room._residents) == 2


# Datasets.


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_dataset_holds_the_vectors_of_transform(
    kind: str, images: list[Pixels], tmp_path: Path
) -> None:
    X: list[object] = [*images, b"broken"]
    names = [f"image {row}" for row in range(13)]
    embedder = HOGEmbedder(progress=False, on_error="nan")
    with pytest.warns(ImageReadWarning, match="row 12 "):
        made = embed_dataset(embedder, X, tmp_path / "a" / "b", ids=names, batch_size=5,
                             format=kind)  # fmt: skip
    dataset = EmbeddedDataset.open(tmp_path / "a" / "b")
    dataset.verify()
    wanted = embedder.transform_with_errors(X)[0]
    for one in (made, dataset):
        np.testing.assert_array_equal(one.vectors, wanted)
        assert one.vectors.dtype == np.float32
        assert (len(one), one.n_features) == wanted.shape
        assert one.ids == names
        assert {row: error.row for row, error in one.errors.items()} == {12: 12}
        assert one.fingerprint == embedder.fingerprint()
    shards = list(dataset)
    assert [shard.rows for shard in shards] == [range(5), range(5, 10), range(10, 13)]
    assert [name for shard in shards for name in shard.ids] == names
    assert list(shards[2].errors) == [12]
    np.testing.assert_array_equal(np.concatenate([s.vectors for s in shards]), wanted)


def test_parquet_shards_are_tables_for_other_programs(images: list[Pixels], tmp_path: Path) -> None:
    from pyarrow import parquet

    embedder = HOGEmbedder(progress=False, on_error="nan")
    with pytest.warns(ImageReadWarning):
        embed_dataset(embedder, [images[0], b"x"], tmp_path, ids=[7, 9], format="parquet")
    table = parquet.read_table(tmp_path / "part-000000.parquet")
    assert table.column("id").to_pylist() == [7, 9]
    assert table.column("error").to_pylist()[0] is None
    assert "in row 1 (1 bytes)" in table.column("error").to_pylist()[1]
    np.testing.assert_array_equal(table.column("vector")[0].as_py(),
                                  embedder.transform(images[:1])[0])  # fmt: skip


@pytest.mark.usefixtures("loky")
def test_workers_make_the_same_dataset(images: list[Pixels], tmp_path: Path) -> None:
    X: list[object] = [*images, b"broken", *images]
    embedder = HOGEmbedder(batch_size=2, progress=False, on_error="nan")
    with pytest.warns(ImageReadWarning, match="row 12 "):
        dataset = embed_dataset(embedder, X, tmp_path / "out", batch_size=10)
    with parallel_config(backend="threading"):
        wanted, _ = embedder.transform_with_errors(X)
    np.testing.assert_array_equal(dataset.vectors, wanted)
    assert list(dataset.errors) == [12]
    assert not list((tmp_path / "out").glob("*.part"))


@settings(max_examples=25, deadline=None)
@given(n_images=st.integers(0, 9), batch_size=st.integers(1, 11))
def test_any_number_of_images_and_any_size_of_batch_give_all_rows(
    n_images: int, batch_size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    X = np.arange(n_images * 12, dtype=np.uint8).reshape(n_images, 2, 2, 3)
    out = tmp_path_factory.mktemp("dataset")
    dataset = embed_dataset(MeanColour(), X, out, batch_size=batch_size)
    np.testing.assert_array_equal(dataset.vectors, MeanColour().transform(X))
    assert dataset.ids == list(range(n_images))
    assert [row for shard in dataset for row in shard.rows] == list(range(n_images))


def test_what_is_there_is_not_done_again(images: list[Pixels], tmp_path: Path) -> None:
    embedder = Noted(str(tmp_path))
    out = tmp_path / "out"
    for deleted, n_embedded in (((), 12), ((), 12), (("part-000001.npy",), 17),
                                (("part-000002.json",), 19)):  # fmt: skip
        for name in deleted:
            (out / name).unlink()
        dataset = embed_dataset(embedder, images, out, batch_size=5)
        assert counts(tmp_path, but=0)[1] == n_embedded
    np.testing.assert_array_equal(dataset.vectors, MeanColour().transform(images))


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_half_a_shard_is_never_read(kind: str, images: list[Pixels], tmp_path: Path) -> None:
    wanted = embed_dataset(MeanColour(), images, tmp_path, batch_size=5, format=kind)
    shard = tmp_path / f"part-000001.{kind}"
    whole = shard.read_bytes()
    for n_bytes in (0, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:n_bytes])
        with pytest.raises(DatasetError, match=r"of 3 shards .* 1 are missing or not whole.* is 1"):
            EmbeddedDataset.open(tmp_path)
    (tmp_path / "part-000000.json").write_text('{"size": 3')
    with pytest.raises(DatasetError, match="2 are missing"):
        EmbeddedDataset.open(tmp_path)
    again = embed_dataset(MeanColour(), images, tmp_path, batch_size=5, format=kind)
    np.testing.assert_array_equal(again.vectors, wanted.vectors)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_damaged_shard_is_found(kind: str, images: list[Pixels], tmp_path: Path) -> None:
    dataset = embed_dataset(MeanColour(), images, tmp_path, format=kind)
    shard = tmp_path / f"part-000000.{kind}"
    content = bytearray(shard.read_bytes())
    content[-20] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DatasetError, match=r"checksum does not fit.*Delete it, and run"):
        dataset.verify()
    shard.write_bytes(bytes(len(content)))
    with pytest.raises(DatasetError, match="is damaged"):
        _ = EmbeddedDataset.open(tmp_path).vectors


def test_other_work_is_never_mixed_in(images: list[Pixels], tmp_path: Path) -> None:
    embed_dataset(MeanColour(), images, tmp_path, batch_size=5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    others: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "scale was 1.0 and is 2.0": (MeanColour(2.0), images, {}),
        "method was 'MeanColour' and is 'HOGEmbedder'": (HOGEmbedder(), images, {}),
        "list of images is another one": (MeanColour(), images[::-1], {}),
        "number of images was 12 and is 11": (MeanColour(), images[:11], {}),
        "the ids are others": (MeanColour(), images, {"ids": [*range(12)]}),
        "batch_size was 5 and is 6": (MeanColour(), images, {"batch_size": 6}),
        "format was 'npy' and is 'parquet'": (MeanColour(), images, {"format": "parquet"}),
    }
    for message, (embedder, X, options) in others.items():
        with pytest.raises(DatasetMismatchError, match=message):
            embed_dataset(embedder, X, tmp_path, **{"batch_size": 5, **options})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # What changes no vector may change.
    embed_dataset(MeanColour(batch_size=7, on_error="nan", n_jobs=2), images, tmp_path,
                  batch_size=5)  # fmt: skip


def test_a_folder_of_something_else_is_left_alone(images: list[Pixels], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DatasetError, match=r"holds 'thesis\.tex'"):
        embed_dataset(MeanColour(), images, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(DatasetError, match="is a file"):
        embed_dataset(MeanColour(), images, tmp_path / "thesis.tex")
    with pytest.raises(DatasetError, match="there is no dataset"):
        EmbeddedDataset.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"kind": "another"}', '{"kind": "imgembed dataset 1"}']
)
def test_a_damaged_manifest_is_named(content: str, images: list[Pixels], tmp_path: Path) -> None:
    embed_dataset(MeanColour(), images, tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DatasetError, match=r"'manifest.json' in .* is damaged"):
        EmbeddedDataset.open(tmp_path)
    with pytest.raises(DatasetError, match=r"'manifest.json' in .* is damaged"):
        embed_dataset(MeanColour(), images, tmp_path)


def test_a_manifest_that_asks_for_the_absurd_is_damaged(tmp_path: Path) -> None:
    embed_dataset(MeanColour(), np.zeros((3, 4, 4, 3), np.uint8), tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    for name, value in (("batch_size", 0), ("n_images", -1), ("n_features", "x")):
        (tmp_path / "manifest.json").write_text(json.dumps({**content, name: value}))
        with pytest.raises(DatasetError, match=f"{name} is"):
            EmbeddedDataset.open(tmp_path)


@pytest.mark.parametrize("n_written", range(6))
def test_a_full_disk_loses_no_whole_shard(
    n_written: int, images: list[Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = n_written

    def write_until_full(path: Path, parts: Any) -> int:
        nonlocal left
        if not left:
            path.write_bytes(bytes(parts[0][:10]))
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        left -= 1
        return really_write(path, parts)

    really_write = shards_room.write_parts
    with monkeypatch.context() as full:
        full.setattr(shards_room, "write_parts", write_until_full)
        with pytest.raises(
            DatasetWriteError, match=r"No space left.*What is whole stays"
        ) as caught:
            embed_dataset(MeanColour(), images, tmp_path, batch_size=5)
    assert isinstance(caught.value.__cause__, OSError)
    assert not list(tmp_path.glob("*.part"))
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("part-*.json")}
    assert len(kept) == max(0, n_written - 1) // 2
    dataset = embed_dataset(MeanColour(), images, tmp_path, batch_size=5)
    np.testing.assert_array_equal(dataset.vectors, MeanColour().transform(images))
    for name, written in kept.items():
        assert (tmp_path / name).stat().st_mtime_ns == written


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_an_unreadable_image_stops_the_work_and_what_is_whole_stays(
    backend: str, images: list[Pixels], tmp_path: Path
) -> None:
    X: list[object] = [*images, b"broken", *images]
    with parallel_config(backend=backend, n_jobs=2):
        with pytest.raises(ImageReadError, match="in row 12 "):
            embed_dataset(MeanColour(), X, tmp_path, batch_size=5)
        assert (tmp_path / "part-000001.json").exists()
        assert not (tmp_path / "part-000002.json").exists()
        with pytest.warns(ImageReadWarning, match="1 images cannot be read.*row 12 "):
            dataset = embed_dataset(MeanColour(on_error="nan"), X, tmp_path, batch_size=5)
    assert [row for row in range(25) if np.isnan(dataset.vectors[row]).any()] == [12]


def test_two_do_not_write_at_once(images: list[Pixels], tmp_path: Path) -> None:
    class Nosy(MeanColour):
        def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
            with pytest.raises(DatasetError, match="another process or thread is writing"):
                embed_dataset(Nosy(), images, tmp_path)
            return super()._embed(prepared)

    assert len(embed_dataset(Nosy(), images, tmp_path)) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": [1, 2]}, "ids must be one for each of 12 images, got 2"),
        ({"ids": [0] * 12}, "0 is there more than once"),
        ({"ids": [*range(11), "x"]}, "all str or all int, got int, str"),
        ({"batch_size": 0}, "batch_size"),
        ({"format": "csv"}, "format must be one of 'npy', 'parquet'"),
    ],
)
def test_wrong_arguments_are_refused_before_a_folder_is_made(
    options: dict[str, Any], message: str, images: list[Pixels], tmp_path: Path
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        embed_dataset(MeanColour(), images, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


DRIVER = """
import sys
import numpy as np
from imgembed import embed_dataset
from worker_embedders import Noted
images = np.arange(120 * 12, dtype=np.uint8).reshape(120, 2, 2, 3)
print("Dask is loaded" if "distributed" in sys.modules else "ready", flush=True)
embed_dataset(Noted(sys.argv[1], seconds=0.005), images, sys.argv[2], batch_size=5)
"""


def test_a_killed_driver_loses_at_most_the_batch_that_was_running(tmp_path: Path) -> None:
    rng = np.random.default_rng()
    moments = rng.uniform(0.0, 0.3, 2)
    out = tmp_path / "out"
    X = np.arange(120 * 12, dtype=np.uint8).reshape(120, 2, 2, 3)
    for moment in moments:
        kill_driver(DRIVER, [str(tmp_path), str(out)], moment)
    dataset = embed_dataset(Noted(str(tmp_path)), X, out, batch_size=5)
    np.testing.assert_array_equal(dataset.vectors, MeanColour().transform(X))
    dataset.verify()
    assert not list(out.glob("*.part"))
    _, n_embedded = counts(tmp_path, but=0)
    assert n_embedded <= 120 + 5 * len(moments), f"killed after {moments} s"


# Addresses.


@pytest.fixture
def bucket(images: list[Pixels], tmp_path: Path) -> Iterator[str]:
    """A folder in the memory of this process, with two images."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for row in range(2):
        Image.fromarray(images[row]).save(tmp_path / "photo.png")
        files.pipe_file(f"/bucket/{row}.png", (tmp_path / "photo.png").read_bytes())
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


def test_images_at_addresses_are_fetched(bucket: str, images: list[Pixels], tmp_path: Path) -> None:
    local = tmp_path / "photo.png"
    X = [f"{bucket}/0.png", str(local), f"{bucket}/1.png", f"{bucket}/2.png", "nofs://x/y"]
    with pytest.warns(ImageReadWarning) as caught:
        dataset = embed_dataset(MeanColour(on_error="nan"), X, tmp_path / "out",
                                storage_options={"token": "secret"})  # fmt: skip
    wanted = MeanColour().transform([images[0], images[1], images[1]])
    np.testing.assert_allclose(dataset.vectors[:3], wanted, rtol=1e-6)
    assert {row: error.source for row, error in dataset.errors.items()} == {
        3: f"'{bucket}/2.png'",
        4: "'nofs://x/y'",
    }
    assert "FileNotFoundError" in dataset.errors[3].reason
    written = b"".join(p.read_bytes() for p in (tmp_path / "out").iterdir())
    assert b"secret" not in written
    assert "secret" not in str(caught[0].message)


@pytest.mark.usefixtures("loky")
def test_addresses_are_fetched_by_workers(images: list[Pixels], tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    for row, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{row}.png")
    X = [f"file://{tmp_path}/{row}.png" for row in range(12)]
    dataset = embed_dataset(MeanColour(), X, tmp_path / "out", batch_size=5)
    np.testing.assert_allclose(dataset.vectors, [i.mean(axis=(0, 1)) for i in images], rtol=1e-6)


def test_an_address_without_fsspec_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ImportError, match=r"fsspec.*imgembed\[remote\]"):
        embed_dataset(MeanColour(), ["s3://bucket/a.png"], tmp_path / "out")


# Batches of tables.


def test_a_batch_of_every_kind_gets_a_column_of_vectors(
    images: list[Pixels], tmp_path: Path
) -> None:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    contents = []
    for image in images[:3]:
        Image.fromarray(image).save(tmp_path / "photo.png")
        contents.append((tmp_path / "photo.png").read_bytes())
    embed: EmbedBatch = pickle.loads(pickle.dumps(EmbedBatch(MeanColour(), out="vector")))
    wanted = MeanColour().transform(images[:3])
    arrays = embed({"image": np.stack(images[:3]), "price": np.arange(3)})
    np.testing.assert_array_equal(arrays["vector"], wanted)
    assert arrays["price"].tolist() == [0, 1, 2]
    frame = pandas.DataFrame({"image": contents, "price": [0, 1, 2]}, index=[5, 3, 1])
    np.testing.assert_array_equal(np.stack(embed(frame)["vector"]), wanted)
    assert list(frame.columns) == ["image", "price"]
    table = embed(pyarrow.table({"image": contents}))
    np.testing.assert_array_equal(table.column("vector").to_pylist(), wanted)
    assert "MeanColour" in repr(embed)


def test_a_batch_loads_its_embedder_once_and_names_unreadable_rows(
    images: list[Pixels], tmp_path: Path
) -> None:
    embed = EmbedBatch(Noted(str(tmp_path)))
    for _ in range(3):
        again: EmbedBatch = pickle.loads(pickle.dumps(embed))
        again({"image": np.stack(images[:2])})
    assert counts(tmp_path, but=0)[0] == [2]  # here first, and once as a task of the process
    with pytest.raises(ImageReadError, match="in row 1 "):
        embed({"image": [images[0], b"x"]})
    tolerant = EmbedBatch(Noted(str(tmp_path), on_error="nan"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vectors = tolerant({"image": np.array([b"x", None], dtype=object)})["embedding"]
    assert np.isnan(vectors).all()
    assert [w.category for w in caught] == [ImageReadWarning]


@pytest.mark.slow
def test_the_code_in_the_guide_runs(
    images: list[Pixels],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "photos").mkdir()
    for row, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "photos" / f"{row:02}.png")
    monkeypatch.chdir(tmp_path)
    guide = Path(__file__).parents[1] / "docs" / "distributed.md"
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(code, guide.name, "exec"), names)
    assert "12 (12, 1280) {}" in capsys.readouterr().out
    assert names["dataset"].ids[:2] == ["00.png", "01.png"]
