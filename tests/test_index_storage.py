"""An index's folder: what was saved is loaded, and nothing else ever is."""

import io
import os
import pickle
import shutil
import subprocess
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import storage_faults as faults
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from storage_faults import forge

from imgembed.index.storage import _folder
from imgembed.index.storage._files import ArrayFile, CorruptIndexError
from imgembed.index.storage._folder import (
    LOCK_NAME,
    IndexChangedError,
    Snapshot,
    read_snapshot,
    write_snapshot,
)
from imgembed.index.storage._lock import IndexLockedError, exclusive_lock
from imgembed.index.storage._manifest import MANIFEST_NAME, MOST_MANIFEST_BYTES

needs_posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX: fork, links, pipes")

META = {"metric": "cosine", "columns": {"b": [1, 2.5, -0.0], "a": None}, "ß": "\ud800", "t": True}
DTYPES = [np.dtype(name) for name in "bool i1 u1 <i2 <u4 <i8 <u8 <f2 <f4 <f8 >f4 >i8".split()]
ARRAYS = hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index."""
    save(tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture(autouse=True)
def _children_work_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the child processes the waiting for a real disk, where there is a disk in memory."""
    if os.access("/dev/shm", os.W_OK):
        monkeypatch.setenv("TMPDIR", "/dev/shm")


def save(folder: Path, fill: float = 1.0, replaces: str | None = None) -> str:
    arrays = {"vectors": np.full((5, 4), fill, np.float32), "kept": np.array([True, False])}
    return write_snapshot(folder, {"fill": fill}, arrays, {"graph": b"node" * 9}, replaces=replaces)


def fill_of(folder: Path) -> float:
    """What a sound index is filled with."""
    snapshot = read_snapshot(folder)
    fill: float = snapshot.meta["fill"]
    np.testing.assert_array_equal(snapshot.arrays["vectors"], np.full((5, 4), fill, np.float32))
    assert snapshot.blobs == {"graph": b"node" * 9}
    return fill


def stored(folder: Path, name: str) -> Path:
    """The path of a file of the only generation."""
    (generation,) = faults.generations(folder)
    return generation / name


def forge_vectors(folder: Path, content: bytes, **entry: Any) -> None:
    """Put another file in the place of vectors.npy, and make the manifest fit."""
    stored(folder, "vectors.npy").write_bytes(content)
    entry["crc32"] = zlib.crc32(content)
    forge(folder, lambda manifest: manifest["arrays"]["vectors"].update(entry))


def tree(folder: Path) -> dict[str, bytes]:
    """All files under a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(
    arrays=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), ARRAYS, max_size=3
    ),
    blob=st.binary(max_size=300),
    transposed=st.booleans(),
    mapped=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_what_was_saved_is_loaded(
    arrays: dict[str, NDArray[Any]], blob: bytes, transposed: bool, mapped: bool
) -> None:
    saved = {name: array.T if transposed else array for name, array in arrays.items()}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        generation = write_snapshot(name, META, saved, {"blob_1": blob}, replaces=None)
        snapshot = read_snapshot(name, mmap=list(saved) if mapped else [])
    assert (snapshot.meta, snapshot.generation, snapshot.spared) == (META, generation, {})
    assert list(snapshot.meta) == list(META)
    assert snapshot.blobs == {"blob_1": blob}
    assert snapshot.arrays.keys() == saved.keys()
    for key, array in saved.items():
        loaded = snapshot.arrays[key]
        assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
        assert loaded.tobytes() == array.tobytes()


@given(array=ARRAYS)
@settings(deadline=None, max_examples=30)
def test_numpy_reads_the_files_of_arrays(array: NDArray[Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        write_snapshot(name, {}, {"array": array}, {}, replaces=None)
        read = np.load(stored(Path(name), "array.npy"), allow_pickle=False)
    assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize(
    "meta",
    [
        {"x": float("nan")},
        {"x": [float("inf")]},
        {1: "x"},
        {"x": (1, 2)},
        {"x": object()},
        {"x": np.float32(1)},
        {"x": b"bytes"},
        {"x": "long" * (MOST_MANIFEST_BYTES // 4)},
    ],
    ids=lambda meta: repr(meta)[:12],
)
def test_meta_that_would_not_come_back_is_refused(folder: Path, meta: dict[Any, Any]) -> None:
    before = tree(folder)
    with pytest.raises(ValueError, match="meta"):
        write_snapshot(folder, meta, {}, {}, replaces=None)
    assert tree(folder) == before


def test_meta_nested_too_deeply_or_in_itself_is_refused(tmp_path: Path) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"x": deep}
    endless: dict[str, Any] = {}
    endless["x"] = endless
    for meta in (deep, endless):
        with pytest.raises(ValueError, match="meta cannot be written as JSON"):
            write_snapshot(tmp_path / "index", meta, {}, {}, replaces=None)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("dtype", ["O", "U3", "S3", "M8[s]", "c8", "f4,f4", "V2", "longdouble"])
def test_arrays_that_are_not_plain_numbers_are_refused(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"'odd' has dtype .*; an index stores"):
        write_snapshot(tmp_path / "index", {}, {"odd": np.zeros(2, dtype)}, {}, replaces=None)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "Vectors", "a.b", "a\n", "1", "x" * 65])
def test_names_that_are_no_plain_tokens_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a file"):
        write_snapshot(tmp_path / "index", {}, {}, {name: b""}, replaces=None)
    assert not (tmp_path / "index").exists()


def test_an_array_and_a_blob_cannot_share_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same name"):
        write_snapshot(tmp_path, {}, {"x": np.zeros(1)}, {"x": b""}, replaces=None)


def test_mapped_arrays_are_read_only_and_the_others_are_not_mapped(folder: Path) -> None:
    arrays = read_snapshot(folder, mmap=["vectors"]).arrays
    assert isinstance(arrays["vectors"], np.memmap)
    assert not isinstance(arrays["kept"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        arrays["vectors"][0] = 0


@needs_posix
def test_an_index_may_be_saved_over_the_one_that_it_maps(folder: Path) -> None:
    mapped = read_snapshot(folder, mmap=["vectors"])
    for _ in range(3):
        write_snapshot(folder, mapped.meta, mapped.arrays, mapped.blobs, replaces=None)
    assert fill_of(folder) == 1
    assert (mapped.arrays["vectors"] == 1).all()


def test_neither_saving_nor_loading_copies_an_array(tmp_path: Path) -> None:
    array = np.ones((2000, 1000))
    tracemalloc.start()
    write_snapshot(tmp_path, {}, {"array": array}, {}, replaces=None)
    read_snapshot(tmp_path, mmap=["array"])
    _, saving_and_mapping = tracemalloc.get_traced_memory()
    read_snapshot(tmp_path)
    _, loading = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert saving_and_mapping < array.nbytes / 4
    assert loading < array.nbytes * 1.25


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_flip, _cut, _lengthen, _make_folder, Path.unlink])
@pytest.mark.parametrize("name", ["vectors.npy", "kept.npy", "graph.bin", MANIFEST_NAME])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_damaged_file_is_named(
    folder: Path, damage: Callable[[Path], None], name: str, mapped: bool
) -> None:
    path = folder / name if name == MANIFEST_NAME else stored(folder, name)
    damage(path)
    gone = name == MANIFEST_NAME and damage is Path.unlink
    with pytest.raises(FileNotFoundError if gone else CorruptIndexError, match=name):
        read_snapshot(folder, mmap=["vectors", "kept"] if mapped else [])


@needs_posix
@pytest.mark.parametrize("name", ["vectors.npy", MANIFEST_NAME])
def test_a_pipe_in_the_place_of_a_file_does_not_make_the_reader_wait(
    folder: Path, name: str
) -> None:
    path = folder / name if name == MANIFEST_NAME else stored(folder, name)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CorruptIndexError, match="no regular file"):
        read_snapshot(folder)


@pytest.mark.parametrize("damage", [_flip, _cut, _make_folder, Path.unlink])
def test_a_file_that_is_not_needed_may_be_damaged(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(stored(folder, "graph.bin"))
    snapshot = read_snapshot(folder, spared=["graph", "kept", "unknown"])
    assert (snapshot.arrays.keys(), snapshot.blobs) == ({"vectors", "kept"}, {})
    assert list(snapshot.spared) == ["graph"]
    assert "graph.bin' is damaged" in snapshot.spared["graph"]
    damage(stored(folder, "vectors.npy"))
    with pytest.raises(CorruptIndexError, match=r"vectors\.npy"):
        read_snapshot(folder, spared=["graph"])


@needs_posix
@pytest.mark.parametrize("link", ["manifest", "generation", "file"])
def test_symbolic_links_in_the_folder_are_not_followed(folder: Path, link: str) -> None:
    path = {
        "manifest": folder / MANIFEST_NAME,
        "generation": stored(folder, "graph.bin").parent,
        "file": stored(folder, "graph.bin"),
    }[link]
    outside = folder.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(CorruptIndexError, match=r"no regular file|no folder"):
        read_snapshot(folder)


@needs_posix
def test_a_save_follows_no_symbolic_link_in_the_folder(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    (folder / f"gen-{'0' * 32}").symlink_to(outside)
    (folder / f"gen-{'1' * 32}").symlink_to(outside / "file")
    save(folder, 2)
    assert fill_of(folder) == 2
    assert len(faults.generations(folder)) == 1
    (folder / LOCK_NAME).unlink()
    (folder / LOCK_NAME).symlink_to(outside / "lock")
    with pytest.raises(OSError, match="symbolic links"):
        save(folder, 3)
    assert tree(outside) == {str(outside / "file"): b"precious"}
    assert fill_of(folder) == 2


FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another format": lambda m: m.update(format="somebody's index"),
    "version 0": lambda m: m.update(version=0),
    "version true": lambda m: m.update(version=True),
    "no version": lambda m: m.pop("version"),
    "one field more": lambda m: m.update(more=1),
    "generation null": lambda m: m.update(generation=None),
    "meta a list": lambda m: m.update(meta=[]),
    "blobs null": lambda m: m.update(blobs=None),
    "name outside": lambda m: m["blobs"].update({"../../graph": m["blobs"]["graph"]}),
    "absolute name": lambda m: m["blobs"].update({"/etc/passwd": m["blobs"]["graph"]}),
    "a name twice": lambda m: m["blobs"].update(vectors=m["blobs"]["graph"]),
    "entry null": lambda m: m["arrays"].update(vectors=None),
    "objects": lambda m: m["arrays"]["vectors"].update(dtype="|O"),
    "another dtype": lambda m: m["arrays"]["vectors"].update(dtype="<i4"),
    "a dtype of fields": lambda m: m["arrays"]["vectors"].update(dtype="<f4,<f4"),
    "another shape": lambda m: m["arrays"]["vectors"].update(shape=[4, 5]),
    "a shape of the same header": lambda m: m["arrays"]["vectors"].update(shape=[5, True]),
    "a huge shape": lambda m: m["arrays"]["vectors"].update(shape=[2**40, 2**20]),
    "a shape that overflows": lambda m: m["arrays"]["vectors"].update(shape=[2**62, 4]),
    "a huge empty shape": lambda m: m["arrays"]["vectors"].update(shape=[0, 2**63]),
    "a negative shape": lambda m: m["arrays"]["vectors"].update(shape=[-5, -4]),
    "a shape of floats": lambda m: m["arrays"]["vectors"].update(shape=[5.0, 4.0]),
    "too many axes": lambda m: m["arrays"]["vectors"].update(shape=[1] * 100),
    "a checksum too large": lambda m: m["blobs"]["graph"].update(crc32=2**32),
    "another checksum": lambda m: m["blobs"]["graph"].update(crc32=1),
    "a huge blob": lambda m: m["blobs"]["graph"].update(size=2**50),
    "a blob of negative size": lambda m: m["blobs"]["graph"].update(size=-1),
}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_manifest_is_refused(folder: Path, forgery: str, mapped: bool) -> None:
    forge(folder, FORGERIES[forgery])
    with pytest.raises(CorruptIndexError):
        read_snapshot(folder, mmap=["vectors"] if mapped else [])


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("shape", [(2**40, 2**20), (2**62, 4), (2**61, 4), (0, 2**63), (0, 2**80)])
def test_a_shape_that_the_file_claims_too_is_not_believed(
    folder: Path, shape: tuple[int, ...], mapped: bool
) -> None:
    header = ArrayFile(np.dtype(np.float32), shape, 0).header
    forge_vectors(folder, header, shape=list(shape))
    with pytest.raises(CorruptIndexError):
        read_snapshot(folder, mmap=["vectors"] if mapped else [])


def test_a_forged_generation_does_not_lead_out_of_the_folder(folder: Path) -> None:
    generation = stored(folder, "graph.bin").parent
    shutil.copytree(generation, folder.parent / "outside")
    way_out = generation.name.removeprefix("gen-") + "/../../outside"
    assert (folder / f"gen-{way_out}" / "graph.bin").exists()
    forge(folder, lambda manifest: manifest.update(generation=way_out))
    with pytest.raises(CorruptIndexError, match="token"):
        read_snapshot(folder)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"x":' * 100_000,
        b'{"format": "imgembed index", "format": "imgembed index"}',
        b'{"x": NaN}',
        b'{"x": 1e999}',
        b'{"x": ' + b"1" * 10_000 + b"}",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_a_manifest_that_is_no_plain_json_is_damaged(folder: Path, text: bytes) -> None:
    (folder / MANIFEST_NAME).write_bytes(text)
    with pytest.raises(CorruptIndexError, match=MANIFEST_NAME):
        read_snapshot(folder)


def test_a_manifest_of_any_size_is_not_read(folder: Path) -> None:
    with (folder / MANIFEST_NAME).open("ab") as manifest:
        manifest.truncate(MOST_MANIFEST_BYTES + 1)
    with pytest.raises(CorruptIndexError, match=r"MANIFEST\.json' is damaged: it is larger"):
        read_snapshot(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"format": ', b'"format":  '),
        (b'{"fill": 1.0}', b'{"fill": 1.0, "fill": 1.0}'),
        (b'{"fill": 1.0}', b'{"fill": 1.00}'),
        (b'{"fill": 1.0}', b'{"fill": 2.0}'),
        (b'{"fill": 1.0}', b'{"fill": NaN}'),
    ],
)
def test_a_manifest_must_be_as_it_was_written_to_the_byte(
    folder: Path, old: bytes, new: bytes
) -> None:
    content = (folder / MANIFEST_NAME).read_bytes()
    assert content.count(old) == 1
    (folder / MANIFEST_NAME).write_bytes(content.replace(old, new))
    with pytest.raises(CorruptIndexError, match=MANIFEST_NAME):
        read_snapshot(folder)


def test_an_index_of_a_newer_format_is_not_called_damaged(folder: Path) -> None:
    forge(folder, lambda manifest: manifest.update(version=2, more={"new": "things"}))
    with pytest.raises(ValueError, match=r"newer imgembed \(format 2") as raised:
        read_snapshot(folder)
    assert not isinstance(raised.value, CorruptIndexError)


class Bomb:
    """It shows if it was unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def test_pickles_and_arrays_of_objects_are_not_executed(folder: Path, tmp_path: Path) -> None:
    bomb, trace = Bomb(tmp_path / "trace"), tmp_path / "trace"
    objects = _npy(np.array([bomb] * 20, dtype=object).reshape(5, 4))
    hostile = {
        "objects": (objects, {}),
        "objects called numbers": (objects.replace(b"'|O'", b"'<f4'"), {}),
        "objects by name": (objects, {"dtype": "|O"}),
        "a pickle": (pickle.dumps(bomb), {}),
        "a pickle of the right size": (pickle.dumps(bomb).ljust(208, b"."), {}),
        "a header that is code": (b"\x93NUMPY\x01\x00v\x00__import__('os')".ljust(208), {}),
    }
    for content, entry in hostile.values():
        forge_vectors(folder, content, **entry)
        for mmap in ([], ["vectors"]):
            with pytest.raises(CorruptIndexError):
                read_snapshot(folder, mmap=mmap)
    (folder / MANIFEST_NAME).write_bytes(pickle.dumps(bomb))
    with pytest.raises(CorruptIndexError):
        read_snapshot(folder)
    assert not trace.exists()
    pickle.loads(pickle.dumps(bomb))
    assert trace.exists()  # the bomb is one


def test_a_pickle_in_a_blob_comes_back_as_bytes(tmp_path: Path) -> None:
    blob = pickle.dumps(Bomb(tmp_path / "trace"))
    write_snapshot(tmp_path / "index", {}, {}, {"blob": blob}, replaces=None)
    assert read_snapshot(tmp_path / "index").blobs == {"blob": blob}
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("mapped", [False, True])
def test_truth_values_other_than_0_and_1_are_damage(folder: Path, mapped: bool) -> None:
    path = stored(folder, "kept.npy")
    content = path.read_bytes()[:-1] + b"\x02"
    path.write_bytes(content)
    forge(folder, lambda manifest: manifest["arrays"]["kept"].update(crc32=zlib.crc32(content)))
    with pytest.raises(CorruptIndexError, match="truth values"):
        read_snapshot(folder, mmap=["kept"] if mapped else [])


def test_a_file_is_not_replaced_by_an_index(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    for path in (tmp_path / "file", tmp_path / "file" / "index"):
        with pytest.raises(NotADirectoryError):
            save(path)
    assert tree(tmp_path) == {str(tmp_path / "file"): b"precious"}


@pytest.mark.parametrize(
    "names", [["photo.jpg"], [MANIFEST_NAME], ["photo.jpg", MANIFEST_NAME], [LOCK_NAME, "a.jpg"]]
)
def test_a_folder_of_other_things_is_left_as_it_is(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"{}")
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match="other things than an index"):
        save(tmp_path)
    assert tree(tmp_path) == before


def test_other_files_in_the_folder_of_an_index_stay(folder: Path) -> None:
    (folder / "notes.txt").write_bytes(b"precious")
    save(folder, 2)
    assert fill_of(folder) == 2
    assert (folder / "notes.txt").read_bytes() == b"precious"


def test_the_leftovers_of_a_first_save_that_was_killed_are_no_obstacle(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()
    with pytest.raises(FileNotFoundError, match="no index here"):
        read_snapshot(folder)
    save(folder, 2)
    assert fill_of(folder) == 2
    assert len(faults.generations(folder)) == 1


@pytest.mark.parametrize("damage", [_flip, _cut, lambda path: path.write_bytes(b"")])
def test_a_damaged_index_can_be_replaced(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / MANIFEST_NAME)
    save(folder, 2)
    assert fill_of(folder) == 2
    assert len(faults.generations(folder)) == 1


def test_a_save_that_fails_leaves_a_damaged_index_as_it_was(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    _flip(folder / MANIFEST_NAME)
    before = tree(folder)
    write_file = _folder.write_file

    def break_down(to: Path, name: str, content: Any) -> Any:
        if name == "graph":
            raise OSError("the disk is broken")
        return write_file(to, name, content)

    monkeypatch.setattr(_folder, "write_file", break_down)
    with pytest.raises(OSError, match="broken"):
        save(folder, 2)
    assert tree(folder) == before
    assert len(faults.generations(folder)) == 1


def test_what_a_killed_save_has_left_is_gone_before_its_room_is_needed(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    leftover = folder / f"gen-{'0' * 32}"
    leftover.mkdir()
    (leftover / "vectors.npy").write_bytes(b"half")
    write_file, seen = _folder.write_file, []

    def look(to: Path, name: str, content: Any) -> Any:
        seen.append(leftover.exists())
        return write_file(to, name, content)

    monkeypatch.setattr(_folder, "write_file", look)
    save(folder, 2)
    assert seen == [False, False, False]


def test_missing_folders_are_created(tmp_path: Path) -> None:
    save(tmp_path / "a" / "b" / "index")
    assert fill_of(tmp_path / "a" / "b" / "index") == 1


def test_where_no_index_is_none_is_found(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match="no index here"):
            read_snapshot(path)


def test_an_index_that_another_one_has_replaced_is_not_saved_over_it(folder: Path) -> None:
    first = read_snapshot(folder).generation
    second = save(folder, 2, replaces=first)
    with pytest.raises(IndexChangedError, match="another one was saved"):
        save(folder, 3, replaces=first)
    assert fill_of(folder) == 2
    save(folder, 3, replaces=second)
    assert fill_of(folder) == 3


def test_an_index_that_is_gone_is_not_saved_anew_by_mistake(folder: Path) -> None:
    generation = read_snapshot(folder).generation
    shutil.rmtree(folder)
    with pytest.raises(IndexChangedError, match="gone"):
        save(folder, 2, replaces=generation)
    assert not folder.exists()


def test_of_two_threads_that_save_at_once_one_is_told(folder: Path) -> None:
    with exclusive_lock(folder / LOCK_NAME), ThreadPoolExecutor(1) as pool:
        before = tree(folder)
        with pytest.raises(IndexLockedError, match="being saved"):
            pool.submit(save, folder, 2).result()
        assert tree(folder) == before
    save(folder, 2)
    assert fill_of(folder) == 2


@needs_posix
def test_a_saving_process_holds_the_lock_until_it_is_killed(folder: Path) -> None:
    command = faults.child_command(faults.hold_lock, str(folder))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"saving\n"
            assert fill_of(folder) == 1
            with pytest.raises(IndexLockedError, match="being saved"):
                save(folder, 2)
        finally:
            child.kill()
    assert len(faults.generations(folder)) == 2
    save(folder, 3)
    assert fill_of(folder) == 3
    assert len(faults.generations(folder)) == 1


def _overtake(monkeypatch: pytest.MonkeyPatch, folder: Path, n_times: int) -> None:
    """Let saves come between the reading of a manifest and the opening of its files."""
    open_stored, fills = _folder.open_stored, iter(range(2, n_times + 2))

    def overtaken(path: Path, size: int) -> Any:
        for fill in fills:
            save(folder, fill)
            break
        return open_stored(path, size)

    monkeypatch.setattr(_folder, "open_stored", overtaken)


@pytest.mark.parametrize("spared", [[], ["graph"], ["graph", "vectors", "kept"]])
def test_a_reader_that_a_save_has_overtaken_begins_again(
    monkeypatch: pytest.MonkeyPatch, folder: Path, spared: list[str]
) -> None:
    _overtake(monkeypatch, folder, n_times=10)
    snapshot: Snapshot = read_snapshot(folder, spared=spared)
    assert (snapshot.meta["fill"], snapshot.spared) == (11, {})
    assert (snapshot.arrays["vectors"] == 11).all()


def test_a_reader_does_not_begin_again_for_ever(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    _overtake(monkeypatch, folder, n_times=1_000_000)
    monkeypatch.setattr(_folder, "_MOST_OVERTAKES", 3)
    with pytest.raises(IndexLockedError, match="saved anew 3 times"):
        read_snapshot(folder)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_all_is_on_the_disk_before_the_step_that_needs_it(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    steps: list[str] = []
    for name in ("replace", "fsync"):
        monkeypatch.setattr(os, name, _noting(steps, name, getattr(os, name)))
    monkeypatch.setattr(shutil, "rmtree", _noting(steps, "rmtree", shutil.rmtree))
    (old,) = faults.generations(folder)
    save(folder, 2)
    (new,) = faults.generations(folder)
    files = ["vectors.npy", "kept.npy", "graph.bin", MANIFEST_NAME]
    assert steps[-6 - len(files) + 1 :] == [
        *(f"fsync {new / name}" for name in files),
        f"fsync {new}",
        f"fsync {folder}",
        f"replace {new / MANIFEST_NAME}",
        f"fsync {folder}",
        f"rmtree {old}",
    ]


def _noting(steps: list[str], name: str, step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, which notes in passing what it is done to."""

    def noting(target: Any, *arguments: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target
        steps.append(f"{name} {path}")
        return step(target, *arguments)

    return noting


@needs_posix
def test_a_random_damage_of_any_file_is_found() -> None:
    outcomes = faults.in_child(faults.damage_files, 100, 0)
    assert outcomes["CorruptIndexError"] > 350


@needs_posix
def test_a_random_forgery_of_the_manifest_loads_nothing_wrong() -> None:
    outcomes = faults.in_child(faults.forge_manifests, 300, 0)
    assert outcomes["CorruptIndexError"] > 200


@needs_posix
def test_after_a_kill_at_any_time_the_old_or_the_new_index_is_there() -> None:
    outcomes = faults.in_child(faults.kill_at_random, 20, 0)
    assert outcomes.total() == 20


@needs_posix
def test_after_a_kill_at_any_write_the_old_or_the_new_index_is_there() -> None:
    outcomes = faults.in_child(faults.kill_at_points)
    assert outcomes["old"] > 15
    assert outcomes["new"] > 3


@needs_posix
@pytest.mark.parametrize("lasting", [False, True])
def test_if_any_write_fails_the_old_or_the_new_index_is_there(lasting: bool) -> None:
    outcomes = faults.in_child(faults.raise_at_points, lasting)
    assert outcomes["old, OSError"] > 15
    assert outcomes["new, OSError"] <= 2  # of the flush that makes the new manifest lasting
    assert outcomes["new, saved"] > 3


@needs_posix
def test_a_full_disk_leaves_the_old_index() -> None:
    if os.getuid() != 0:
        pytest.skip("only root may mount a small disk")
    outcomes = faults.in_child(faults.save_to_full_disks, 8)
    assert min(outcomes["old"], outcomes["new"]) > 0


@needs_posix
def test_a_file_that_must_not_grow_leaves_the_old_index() -> None:
    outcomes = faults.in_child(faults.save_with_short_files, 8)
    assert min(outcomes["old"], outcomes["new"]) > 0


@needs_posix
def test_a_read_only_folder_is_read_and_not_written() -> None:
    assert faults.in_child(faults.save_without_rights) == {"old": 1}


@needs_posix
def test_readers_get_one_whole_version_while_another_process_saves() -> None:
    assert faults.in_child(faults.read_while_saving, 100, 2)["reads"] > 10


@needs_posix
def test_of_processes_that_save_at_once_none_undoes_what_another_has_saved() -> None:
    outcomes = faults.in_child(faults.count_together, 20, 3)
    assert outcomes["saved"] == 60
    assert outcomes["IndexLockedError"] + outcomes["IndexChangedError"] > 0
