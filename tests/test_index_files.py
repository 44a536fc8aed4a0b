"""The index as a whole on disk and in pickles: what was saved comes back, or an exception."""

import copy
import datetime
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import joblib
import make_golden_index
import numpy as np
import pytest
import saved_index_faults as faults
from numpy.typing import NDArray
from saved_index_faults import check_answers, full_index, narrow_graphs, table
from sklearn.exceptions import NotFittedError

from imgembed import NearestNeighborIndex
from imgembed.base import FingerprintError
from imgembed.index import CorruptIndexError, IndexChangedError, IndexLockedError
from imgembed.index._snapshot import GRAPH_ARRAYS
from imgembed.index.storage import _manifest
from imgembed.index.storage._folder import LOCK_NAME, read_snapshot, write_snapshot
from imgembed.index.storage._lock import exclusive_lock
from imgembed.index.storage._manifest import MANIFEST_NAME

needs_posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX: fork, signals")

METRICS = ("cosine", "euclidean", "ip")
STORAGES = ("float32", "float16", "int8")


@pytest.fixture(autouse=True)
def _narrow_graphs() -> Iterator[None]:
    with narrow_graphs():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved index that holds all that one can hold."""
    full_index().save(tmp_path / "index")
    return tmp_path / "index"


def seen(index: NearestNeighborIndex) -> dict[str, Any]:
    """All that a user sees of an index, and that equal indexes show equally."""
    queries = table(index, np.random.default_rng(3).normal(size=(6, index.n_features_in_)))
    found = index.search(queries, len(index) + 2)
    probabilities = None if found.probabilities is None else found.probabilities.tolist()
    return {
        "settings": [
            {**index.get_params(), "progress": None},
            [index.n_samples_fit_, index.n_features_in_, index.algorithm_, index.ef_search_],
            [index.recall_estimate_, index.columns_, index.fingerprint_, index.calibration_],
            index.storage_recall_,
            getattr(index, "feature_names_in_", np.empty(0)).tolist(),
        ],
        "answers": [
            *(part.tolist() for part in index.kneighbors(queries)),
            *(part.tolist() for part in index.kneighbors(queries, exact=True)),
            index.vectors_.tolist(),
        ],
        "records": [
            [repr(item_id) for item_id in index],
            [found.ids, found.distances.tolist(), found.rows.tolist(), found.records],
            probabilities,
        ],
    }


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder, the token of the generation left out."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {path: path.relative_to(folder).as_posix() for path in paths}
    return {
        f"gen/{path.name}" if name.startswith("gen-") else name: path.read_bytes()
        for path, name in names.items()
    }


def stored(folder: Path, name: str) -> Path:
    """The path of a file of the only generation."""
    (path,) = folder.glob(f"gen-*/{name}")
    return path


# What was saved comes back.


@pytest.mark.parametrize("algorithm", ["exact", "hnsw"])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("metric", METRICS)
def test_what_was_saved_is_loaded(
    metric: str, storage: str, algorithm: str, tmp_path: Path
) -> None:
    index = full_index(metric, storage, algorithm)
    wanted = seen(index)
    index.save(tmp_path / "index")
    for mmap in (False, True):
        loaded = NearestNeighborIndex.load(tmp_path / "index", mmap=mmap)
        for part, content in seen(loaded).items():
            assert content == wanted[part]
        assert loaded.algorithm_ == algorithm
        check_answers(loaded)


IDS: dict[str, Any] = {
    "str": ["a", "", "ß\n", "1"],
    "int": [5, -3, 0, 2**63, -(10**40)],
    "float": [0.5, -1e300, float("inf"), 2.0],
    "bool and None": [True, False, None],
    "bytes": [b"", b"\x00\xff"],
    "paths": [Path("a/b.jpg"), PurePosixPath("c"), Path(".")],
    "dates": [
        datetime.date(2020, 2, 29),
        datetime.datetime(2021, 3, 4, 5, 6, 7, 8),
        datetime.datetime(2021, 3, 4, tzinfo=datetime.UTC),
    ],
    "UUIDs": [uuid.UUID(int=1), uuid.UUID(int=2**128 - 1)],
    "tuples": [(), (1, "a"), (1, ("b", None, 2.5)), ("1", "a")],
    "all kinds": ["1", 1, 1.5, None, b"1", (1,), Path("1"), datetime.date(1, 1, 1)],
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_all_kinds_come_back_as_they_were(kind: str, tmp_path: Path) -> None:
    ids = IDS[kind]
    NearestNeighborIndex().fit(np.eye(len(ids)), ids=ids).save(tmp_path / "index")
    loaded = NearestNeighborIndex.load(tmp_path / "index")
    again = list(loaded)
    assert again == ids
    assert list(map(type, again)) == list(map(type, ids))
    assert loaded.search(np.eye(len(ids)), 1).ids == [[item_id] for item_id in ids]
    assert loaded.remove(ids[:1]).n_samples_fit_ == len(ids) - 1


def test_numbered_ids_go_on_after_loading(tmp_path: Path) -> None:
    NearestNeighborIndex().fit(np.eye(3)).remove([2]).save(tmp_path / "index")
    loaded = NearestNeighborIndex.load(tmp_path / "index").add(np.eye(3)[:2])
    assert list(loaded) == [0, 1, 3, 4]


def test_records_of_all_kinds_come_back_as_they_were(tmp_path: Path) -> None:
    record = {
        "text": "it's", "integer": 2**60, "real": -0.25, "boolean": True, "blob": b"\x00",
        "path": Path("x/y"), "date": datetime.date(2000, 1, 1), "nothing": None,
        "time": datetime.datetime(2000, 1, 1, 12), "uuid": uuid.UUID(int=7), "a; DROP": 1,
        "utc": datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC),
    }  # fmt: skip
    index = NearestNeighborIndex().fit(np.eye(2), records=[record, {}])
    index.save(tmp_path / "index")
    loaded = NearestNeighborIndex.load(tmp_path / "index")
    assert loaded.columns_ == index.columns_
    first, second = loaded.search(np.eye(2), 1).records
    assert first == [record]
    assert list(map(type, first[0].values())) == list(map(type, record.values()))
    assert second == [dict.fromkeys(record)]
    assert loaded.kneighbors(np.eye(2), 2, where="integer > 1")[1].tolist() == [[0, -1]] * 2


@pytest.mark.parametrize("algorithm", ["exact", "hnsw"])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("n_kept", [0, 1, 2])
def test_small_and_empty_indexes_come_back(
    n_kept: int, storage: str, algorithm: str, tmp_path: Path
) -> None:
    index = NearestNeighborIndex(2, algorithm=algorithm, storage=storage).fit(np.eye(3, 10))
    index.remove(range(n_kept, 3)).save(tmp_path / "index")
    for mmap in (False, True):
        loaded = NearestNeighborIndex.load(tmp_path / "index", mmap=mmap)
        assert seen(loaded) == seen(index)
        assert len(loaded.add(np.eye(3, 10))) == n_kept + 3
        assert loaded.kneighbors(np.eye(3, 10), 1)[0].max() < 1e-6


def test_an_index_knows_its_embedder_after_loading(folder: Path) -> None:
    loaded = NearestNeighborIndex.load(folder)
    loaded.check_embedder(faults.Embedder())
    with pytest.raises(FingerprintError, match="size was 8 and is 9"):
        loaded.check_embedder(faults.Embedder(9))


def test_a_state_of_randomness_that_is_no_number_is_not_saved(tmp_path: Path) -> None:
    state = np.random.RandomState(3)
    index = NearestNeighborIndex(n_jobs=np.int64(2), random_state=state).fit(np.eye(3))
    index.save(tmp_path / "index")
    loaded = NearestNeighborIndex.load(tmp_path / "index")
    assert (loaded.n_jobs, loaded.random_state) == (2, None)


def test_the_parameters_at_fit_are_saved_and_not_later_ones(tmp_path: Path) -> None:
    index = NearestNeighborIndex(metric="euclidean").fit(np.eye(3))
    index.set_params(metric="cosine", storage="int8", M=5)
    index.save(tmp_path / "index")
    loaded = NearestNeighborIndex.load(tmp_path / "index")
    assert (loaded.metric, loaded.storage, loaded.M) == ("euclidean", "float32", 16)
    assert loaded.kneighbors(3 * np.eye(3), 1)[0].ravel().tolist() == [2.0, 2.0, 2.0]


def test_one_thread_writes_identical_files() -> None:
    trees = [faults.files_of_a_build(0) for _ in range(4)]
    assert all(tree == trees[0] for tree in trees)
    assert len(trees[0]) == 11
    digests = {name: zlib.crc32(content) for name, content in trees[0].items()}
    assert faults.in_child(faults.digests_of_a_build, 0) == digests


# Mapped vectors.


def mapped_arrays(index: NearestNeighborIndex) -> list[NDArray[Any]]:
    """What of the stored vectors lies in a file."""
    codes = index._collection.nodes.store.arrays()[0]
    return [codes] if isinstance(codes, np.memmap) else []


@pytest.mark.parametrize("storage", STORAGES)
def test_mapped_vectors_stay_in_their_file(storage: str, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 8))
    NearestNeighborIndex(storage=storage).fit(vectors).save(tmp_path / "index")
    loaded = NearestNeighborIndex.load(tmp_path / "index", mmap=True)
    (codes,) = mapped_arrays(loaded)
    assert not codes.flags.writeable
    assert Path(codes.filename).name == "vectors.npy"  # type: ignore[attr-defined]
    assert not mapped_arrays(NearestNeighborIndex.load(tmp_path / "index"))
    if storage == "float32":
        assert isinstance(loaded.vectors_, np.memmap)


def test_a_mapped_index_is_changed_in_memory_and_its_files_are_not(folder: Path) -> None:
    before = tree(folder)
    loaded = NearestNeighborIndex.load(folder, mmap=True)
    check_answers(loaded)  # which adds, removes, compacts, and saves elsewhere
    assert tree(folder) == before
    names = loaded.feature_names_in_
    assert list(NearestNeighborIndex.load(folder).feature_names_in_) == list(names)


def test_a_mapped_index_is_saved_over_its_own_files(folder: Path) -> None:
    loaded = NearestNeighborIndex.load(folder, mmap=True)
    loaded.remove(["5"]).save(folder)
    assert seen(NearestNeighborIndex.load(folder, mmap=True)) == seen(loaded)
    assert len(list(folder.glob("gen-*"))) == 1


# Damage.


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [_flip, _cut, Path.unlink])
@pytest.mark.parametrize("name", sorted(GRAPH_ARRAYS))
def test_a_damaged_graph_is_built_again_if_asked(
    folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    sound = NearestNeighborIndex.load(folder)
    damage(stored(folder, f"{name}.npy"))
    with pytest.raises(CorruptIndexError, match=rf"{name}\.npy.*load it with rebuild=True"):
        NearestNeighborIndex.load(folder)
    with pytest.warns(UserWarning, match=rf"{name}\.npy.*built again from the vectors") as warned:
        loaded = NearestNeighborIndex.load(folder, rebuild=True, mmap=True)
    assert warned[0].filename == __file__
    assert loaded.algorithm_ == "hnsw"
    assert seen(loaded)["records"][0] == seen(sound)["records"][0]
    loaded.save(folder)
    assert seen(NearestNeighborIndex.load(folder)) == seen(loaded)
    check_answers(loaded)


def test_a_graph_that_cannot_be_followed_is_built_again_if_asked(folder: Path) -> None:
    snapshot = read_snapshot(folder)
    broken = {**snapshot.arrays, "order": snapshot.arrays["order"][::-1][:-1]}
    write_snapshot(folder, snapshot.meta, broken, snapshot.blobs, replaces=None)
    with pytest.raises(CorruptIndexError, match="rebuild=True"):
        NearestNeighborIndex.load(folder)
    with pytest.warns(UserWarning, match="built again"):
        check_answers(NearestNeighborIndex.load(folder, rebuild=True))


@pytest.mark.parametrize("damage", [_flip, _cut, Path.unlink])
@pytest.mark.parametrize("name", ["vectors.npy", "scales.npy", "node_of.npy", "records.bin"])
def test_what_cannot_be_built_again_is_damaged_for_good(
    folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(stored(folder, name))
    damage(stored(folder, "graph_base.npy"))
    for rebuild in (False, True):
        with pytest.raises(CorruptIndexError, match=name) as caught:
            NearestNeighborIndex.load(folder, rebuild=rebuild)
        assert "rebuild" not in str(caught.value)


def test_a_sound_index_is_not_built_again(folder: Path) -> None:
    wanted = seen(NearestNeighborIndex.load(folder))
    assert seen(NearestNeighborIndex.load(folder, rebuild=True)) == wanted


def test_a_failed_load_leaves_an_index_as_it_is(folder: Path) -> None:
    index = NearestNeighborIndex.load(folder)
    before = seen(index)
    _flip(stored(folder, "vectors.npy"))
    with pytest.raises(CorruptIndexError):
        index.load(folder)
    assert seen(index) == before
    check_answers(index)


FORGED_ARRAYS: dict[str, Callable[[dict[str, Any]], object]] = {
    "vectors of another length": lambda arrays: arrays["scales"].__imul__(2),
    "vectors of NaN": lambda arrays: arrays["vectors"].fill(np.nan),
    "fewer vectors than items": lambda arrays: arrays.update(
        vectors=arrays["vectors"][:-1], scales=arrays["scales"][:-1]
    ),
    "fewer items than records": lambda arrays: arrays.update(node_of=arrays["node_of"][:-1]),
    "a removed item that lives": lambda arrays: np.maximum(
        arrays["node_of"], 0, out=arrays["node_of"]
    ),
    "no vectors at all": lambda arrays: arrays.pop("vectors"),
    "axes that stretch": lambda arrays: arrays["axes"].__imul__(2),
}


@pytest.mark.parametrize("forgery", FORGED_ARRAYS)
def test_parts_that_do_not_fit_are_refused_though_their_checksums_are_right(
    forgery: str, folder: Path
) -> None:
    snapshot = read_snapshot(folder)
    FORGED_ARRAYS[forgery](snapshot.arrays)
    write_snapshot(folder, snapshot.meta, snapshot.arrays, snapshot.blobs, replaces=None)
    with pytest.raises(CorruptIndexError):
        NearestNeighborIndex.load(folder)


# Places.


def test_where_there_is_no_index_none_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "missing", str(tmp_path / "missing" / "too")):
        with pytest.raises(FileNotFoundError, match="no index here"):
            NearestNeighborIndex.load(path)
    with pytest.raises(NotADirectoryError):
        NearestNeighborIndex.load(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_index_is_saved_in_the_place_of_an_index_and_of_nothing_else(tmp_path: Path) -> None:
    index = NearestNeighborIndex().fit(np.eye(3))
    (tmp_path / "file").write_text("precious")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("precious")
    with pytest.raises(NotADirectoryError):
        index.save(tmp_path / "file")
    with pytest.raises(FileExistsError):
        index.save(tmp_path / "photos")
    assert tree(tmp_path) == {"file": b"precious", "photos/a.jpg": b"precious"}
    index.save(str(tmp_path / "new" / "folder"))
    index.add(np.eye(3)).save(tmp_path / "new" / "folder")
    assert len(NearestNeighborIndex.load(tmp_path / "new" / "folder")) == 6
    assert len(list((tmp_path / "new" / "folder").glob("gen-*"))) == 1


def test_an_index_without_vectors_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        NearestNeighborIndex().save(tmp_path / "index")
    assert not (tmp_path / "index").exists()


# Others who save.


SAVES_IN_BETWEEN = """
import sys
from imgembed import NearestNeighborIndex
index = NearestNeighborIndex.load(sys.argv[1])
index.remove([0]).save(sys.argv[1])
"""


def test_what_another_process_has_saved_is_not_undone(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    first = NearestNeighborIndex().fit(np.eye(3))
    first.save(folder)
    second = NearestNeighborIndex.load(folder)
    subprocess.run([sys.executable, "-c", SAVES_IN_BETWEEN, str(folder)], check=True)
    for index in (first, second):
        with pytest.raises(IndexChangedError, match="load it again"):
            index.save(folder)
        index.save(tmp_path / "elsewhere")  # which the next one replaces, never having seen it
        shutil.rmtree(tmp_path / "elsewhere")
    assert list(NearestNeighborIndex.load(folder)) == [1, 2]


def test_the_name_of_the_folder_does_not_matter_to_who_has_saved_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index = NearestNeighborIndex().fit(np.eye(3))
    index.save("index")
    NearestNeighborIndex.load(tmp_path / "index").save(tmp_path / "index")
    with pytest.raises(IndexChangedError):
        index.save(tmp_path / "x" / ".." / "index")


def test_who_comes_while_another_one_saves_is_told(tmp_path: Path) -> None:
    index = NearestNeighborIndex().fit(np.eye(3))
    index.save(tmp_path / "index")
    with exclusive_lock(tmp_path / "index" / LOCK_NAME):
        with pytest.raises(IndexLockedError, match="try again"):
            index.save(tmp_path / "index")
        assert len(NearestNeighborIndex.load(tmp_path / "index")) == 3
    index.save(tmp_path / "index")


def test_what_is_saved_while_others_add_is_an_index_of_one_moment(tmp_path: Path) -> None:
    index = NearestNeighborIndex(metric="euclidean", algorithm="hnsw", M=4)
    index.fit([[0.0, 0.0]], records={"n": [0]})
    stop = threading.Event()

    def grow() -> None:
        while not stop.wait(0.001):
            n = len(index)
            index.add([[n, 0.0], [n + 1, 0.0]], records={"n": [n, n + 1]})

    adding = threading.Thread(target=grow)
    adding.start()
    try:
        for _ in range(5):
            index.save(tmp_path / "index")
            loaded = NearestNeighborIndex.load(tmp_path / "index")
            numbers = list(range(len(loaded)))
            assert list(loaded) == numbers
            assert loaded.vectors_[:, 0].tolist() == numbers
            records = loaded.search(loaded.vectors_[-1:], len(numbers), exact=True).records[0]
            assert [record["n"] for record in records] == numbers[::-1]
    finally:
        stop.set()
        adding.join()
    assert len(loaded) > 1


# Pickles.


def _with_joblib(index: NearestNeighborIndex, folder: Path) -> NearestNeighborIndex:
    joblib.dump(index, folder / "index.joblib")
    loaded: NearestNeighborIndex = joblib.load(folder / "index.joblib")
    return loaded


COPIES: dict[str, Callable[[NearestNeighborIndex, Path], NearestNeighborIndex]] = {
    "pickle": lambda index, _: pickle.loads(pickle.dumps(index)),
    "the first protocol": lambda index, _: pickle.loads(pickle.dumps(index, protocol=0)),
    "joblib": _with_joblib,
    "deepcopy": lambda index, _: copy.deepcopy(index),
    "copy": lambda index, _: copy.copy(index),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("algorithm", ["exact", "hnsw"])
def test_copies_are_equal_and_independent(how: str, algorithm: str, tmp_path: Path) -> None:
    index = full_index(algorithm=algorithm)
    wanted = seen(index)
    again = COPIES[how](index, tmp_path)
    assert seen(again) == wanted
    check_answers(again)  # which changes it
    assert seen(index) == wanted
    check_answers(index)


@pytest.mark.parametrize("how", COPIES)
def test_copies_may_be_made_before_fit(how: str, tmp_path: Path) -> None:
    again = COPIES[how](NearestNeighborIndex(3), tmp_path)
    assert again.fit(np.eye(4)).kneighbors(np.eye(4))[1].shape == (4, 3)


def test_a_pickle_of_a_mapped_index_holds_its_vectors(folder: Path) -> None:
    loaded = NearestNeighborIndex.load(folder, mmap=True)
    wanted, pickled = seen(loaded), pickle.dumps(loaded)
    shutil.rmtree(folder)
    again = pickle.loads(pickled)
    assert not mapped_arrays(again)
    assert seen(again) == wanted


PLAIN = (str, int, float, bool, type(None), bytes, np.ndarray, np.dtype)


def test_the_state_of_a_pickle_has_no_native_objects(folder: Path) -> None:
    pending: list[Any] = [NearestNeighborIndex.load(folder).__getstate__()]
    kinds = set()
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            pending += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple):
            pending += part
        elif not isinstance(part, PLAIN):
            kinds.add(type(part).__name__)
            pending.append(vars(part))
    assert kinds == {"FilledBy", "RandomPairCalibration"}  # dataclasses


def test_a_pickle_does_not_remember_the_folder(folder: Path) -> None:
    index = NearestNeighborIndex.load(folder)
    again = pickle.loads(pickle.dumps(index))
    index.save(folder)
    again.remove(["7"]).save(folder)
    assert "7" not in NearestNeighborIndex.load(folder)


def test_a_pickle_that_does_not_fit_together_is_an_error(folder: Path) -> None:
    state = NearestNeighborIndex.load(folder).__getstate__()
    fields, arrays, blobs = state["_parts"]
    state["_parts"] = fields, {**arrays, "order": arrays["order"] + 1000}, blobs
    with pytest.raises(ValueError, match="not among the"):
        NearestNeighborIndex.__new__(NearestNeighborIndex).__setstate__(state)


# Golden indexes: what any version has written loads for ever.


GOLDEN = [
    (folder.name, name)
    for folder in sorted(make_golden_index.GOLDEN.glob("format_*"))
    for name in make_golden_index.BUILDS
]


def golden_answers(version: str, name: str) -> dict[str, Any]:
    """What a golden index must answer."""
    text = (make_golden_index.GOLDEN / version / "answers.json").read_text()
    answers: dict[str, Any] = json.loads(text)[name]
    return answers


def check_equal(got: Any, wanted: Any) -> None:
    """Assert that answers are the same, up to the rounding of another processor."""
    if isinstance(wanted, dict):
        for key, part in wanted.items():  # later versions may have more to say
            check_equal(got[key], part)
    elif isinstance(wanted, list):
        assert len(got) == len(wanted)
        for got_part, part in zip(got, wanted, strict=True):
            check_equal(got_part, part)
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    else:
        assert got == wanted


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(("version", "name"), GOLDEN)
def test_a_golden_index_loads_for_ever(version: str, name: str, mmap: bool) -> None:
    folder = make_golden_index.GOLDEN / version / name
    before = tree(folder)
    index = NearestNeighborIndex.load(folder, mmap=mmap)
    check_equal(make_golden_index.answers(index), golden_answers(version, name))
    check_answers(index)
    assert tree(folder) == before


def test_there_are_golden_indexes_of_each_version_of_the_format() -> None:
    versions = [f"format_{version}" for version in range(1, _manifest._VERSION + 1)]
    assert sorted({version for version, _ in GOLDEN}) == sorted(versions)
    for version, name in GOLDEN:
        text = (make_golden_index.GOLDEN / version / name / MANIFEST_NAME).read_text()
        assert json.loads(text)["version"] == int(version.removeprefix("format_"))
    files = [path for path in make_golden_index.GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000 * _manifest._VERSION


@pytest.mark.parametrize(("version", "name"), GOLDEN)
def test_what_golden_indexes_were_made_of_gives_the_same_answers(version: str, name: str) -> None:
    """Graphs may differ between versions of hnswlib; what is exact may not."""
    got, wanted = make_golden_index.answers(make_golden_index.BUILDS[name]()), {}
    for key, answer in golden_answers(version, name).items():
        if key not in ("found", "found of some", "ef_search"):
            wanted[key] = answer
    check_equal({key: got[key] for key in wanted}, wanted)


@pytest.mark.parametrize(("version", "name"), GOLDEN)
def test_a_golden_index_is_saved_anew_and_changed(version: str, name: str, tmp_path: Path) -> None:
    shutil.copytree(make_golden_index.GOLDEN / version / name, tmp_path / "index")
    NearestNeighborIndex.load(tmp_path / "index").save(tmp_path / "index")
    index = NearestNeighborIndex.load(tmp_path / "index", mmap=True)
    check_equal(make_golden_index.answers(index), golden_answers(version, name))
    first = next(iter(index))
    index.remove([first]).save(tmp_path / "index")
    assert first not in NearestNeighborIndex.load(tmp_path / "index")


# Faults, in children; the session ``faults`` has more of each.


@needs_posix
def test_code_in_files_is_never_run() -> None:
    outcomes = faults.in_child(faults.hostile_files)
    assert outcomes["refused"] == outcomes.total() == 51


@needs_posix
def test_random_damage_of_any_file_is_found() -> None:
    outcomes = faults.in_child(faults.damage_index, 11, 0)
    assert outcomes.total() == 11 * 11
    rebuilt = {name.partition(".")[0] for name in outcomes if name.endswith("rebuilt")}
    assert rebuilt == set(GRAPH_ARRAYS)


@needs_posix
def test_forged_arrays_are_refused_or_answer_rightly() -> None:
    outcomes = faults.in_child(faults.forge_arrays, 20, 0)
    assert min(outcomes["refused"], outcomes["right"]) > 5


@needs_posix
def test_forged_parameters_are_refused_or_answer_rightly() -> None:
    outcomes = faults.in_child(faults.forge_meta, 40, 0)
    assert min(outcomes["refused"], outcomes["right"]) > 3


@needs_posix
def test_a_killed_save_leaves_the_old_or_the_new_index() -> None:
    assert faults.in_child(faults.kill_saves, 8, 0).total() == 8
