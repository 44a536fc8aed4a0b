"""Faults of whole saved indexes: damaged files, and forged ones whose checksums are right.

What is forged must be refused, or be an index that answers as its own vectors say. Each fault is a
function of counts and seeds that returns how often each outcome was seen, and fails an assertion
for an outcome that must never be. :func:`in_child` runs one in a process of its own, so that a
crash, a hang and a huge allocation are seen.
"""

import contextlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from storage_faults import mutated

from imgembed import NearestNeighborIndex
from imgembed.index import CorruptIndexError, _node_index
from imgembed.index._snapshot import GRAPH_ARRAYS
from imgembed.index.storage._folder import read_snapshot, write_snapshot
from imgembed.index.storage._manifest import MANIFEST_NAME, encode_manifest

N_FEATURES = 12
# Of the index that faults are done to; few, so that a short test sees each of its parts.
_N_VECTORS = 60
_N_AXES = 6
_SECONDS_A_CASE = 60
_BYTES_A_CHILD = 6 * 2**30
# Loading damaged graphs with ``rebuild=True`` takes longer: so many are left to one.
_REBUILT = 10

FORGED_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**400),
    *(0.5, -0.0, -1.5, 1e-320, 1e308, "", ".", "../..", "a" * 10_000, "\x00", "1"),
    *("cosine", "euclidean", "ip", "float32", "float16", "int8", "exact", "hnsw", "auto"),
    *("distance", "connectivity", "labelled", "random"),
    *([], {}, [0], [[0, 0]], [[1, 2]], [{}], [None] * N_FEATURES, ["a"] * N_FEATURES, {"": {}}),
)


def in_child(fault: Callable[..., Counter[str]], *arguments: Any) -> Counter[str]:
    """Run a function of this file, with arguments that JSON knows, in a process of its own."""
    command = [sys.executable, __file__, fault.__name__, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-5000:]}"
    return Counter(json.loads(done.stdout.splitlines()[-1]))


class Embedder:
    """As much of an embedder as an index asks for."""

    def __init__(self, size: int = 8) -> None:
        self.size = size

    def fingerprint(self) -> str:
        """Differs with the size."""
        return f"{self.size:064x}"

    def fingerprint_parts(self) -> dict[str, Any]:
        """What goes into it."""
        return {"method": "test", "size": self.size}


def full_index(
    metric: str = "cosine", storage: str = "float16", algorithm: str = "hnsw"
) -> NearestNeighborIndex:
    """An index with all that one can hold; under :func:`narrow_graphs` with a projection too."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(_N_VECTORS + 5, N_FEATURES))
    vectors[50:54], vectors[54:56] = vectors[:4], 0
    named = pandas.DataFrame(vectors, columns=[f"x{i}" for i in range(N_FEATURES)])
    index = NearestNeighborIndex(4, metric, algorithm, M=4, ef_construction=20, storage=storage)
    ids = [*map(str, range(30)), *range(30, _N_VECTORS)]
    records = {"price": range(_N_VECTORS), "name": ["hat", None, "shoe"] * (_N_VECTORS // 3)}
    index.fit(named[:_N_VECTORS], ids=ids, records=records, embedder=Embedder())
    index.add(named[_N_VECTORS:], ids=["new", *range(100, 104)])  # which the graph does not have
    index.remove(["3", 40, 100])
    if metric != "ip":
        index.calibrate()
    return index


def table(index: NearestNeighborIndex, vectors: Any) -> Any:
    """Vectors with the names of the columns that the index knows, if it does."""
    names = getattr(index, "feature_names_in_", None)
    return vectors if names is None else pandas.DataFrame(vectors, columns=names)


@contextlib.contextmanager
def narrow_graphs() -> Iterator[None]:
    """Project already vectors of few features, so that files are small."""
    before = _node_index._N_AXES
    _node_index._N_AXES = _N_AXES
    try:
        yield
    finally:
        _node_index._N_AXES = before


def check_answers(index: NearestNeighborIndex) -> None:
    """Assert that all answers are those of the index's own vectors, ids and records."""
    _check_searches(index)
    _check_records(index)
    _check_calibration(index)
    _check_changes(index)


def _check_searches(index: NearestNeighborIndex) -> None:
    vectors = np.array(index.vectors_, np.float64)
    queries = np.random.default_rng(1).normal(size=(5, vectors.shape[1])).astype(np.float32)
    wanted = true_distances(vectors, queries.astype(np.float64), index.metric)
    tolerance = 1e-4 * (1 + np.abs(wanted).max(initial=0))
    for k, exact in ((3, True), (3, False), (len(index) + 1, False), (None, False)):
        distances, rows = index.kneighbors(table(index, queries), k, exact=exact)
        n_found = min(distances.shape[1], len(vectors))
        assert (rows[:, n_found:] == -1).all()
        rows = rows[:, :n_found]
        assert all(len(set(row)) == n_found for row in rows.tolist())
        chosen = np.take_along_axis(wanted, rows, axis=1)
        np.testing.assert_allclose(distances[:, :n_found], chosen, atol=tolerance)
        if exact:
            nearest = np.sort(wanted, axis=1)[:, :n_found]
            np.testing.assert_allclose(distances[:, :n_found], nearest, atol=tolerance)


def true_distances(
    vectors: NDArray[np.float64], queries: NDArray[np.float64], metric: str
) -> NDArray[np.float64]:
    """Distances of all vectors to each query, by the definition of the metric."""
    if metric == "ip":
        return 1 - queries @ vectors.T  # type: ignore[no-any-return]
    if metric == "euclidean":
        return cdist(queries, vectors)
    lengths = np.linalg.norm(queries, axis=1)[:, np.newaxis] * np.linalg.norm(vectors, axis=1)
    products = queries @ vectors.T
    return 1 - np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)


def _check_records(index: NearestNeighborIndex) -> None:
    ids = list(index)
    assert len(ids) == len(set(ids)) == len(index) == index.n_samples_fit_
    assert all(item_id in index for item_id in ids)
    if not ids:
        return
    found = index.search(table(index, index.vectors_[:3]), len(index), exact=True)
    rows = {item_id: row for row, item_id in enumerate(ids)}
    for query_ids, query_rows, records in zip(found.ids, found.rows, found.records, strict=True):
        assert [rows[item_id] for item_id in query_ids] == query_rows.tolist()
        assert all(list(record) == list(index.columns_) for record in records)
    some = index.kneighbors(table(index, index.vectors_[:1]), 2, where=ids[-1:])[1]
    assert some.tolist() == [[len(ids) - 1, -1]]


def _check_calibration(index: NearestNeighborIndex) -> None:
    for estimate in (index.recall_estimate_, index.storage_recall_):
        assert 0 <= estimate.low <= estimate.recall <= estimate.high <= 1
    assert index.ef_search_ >= 0
    index.recall_curve()
    if index.fingerprint_ is not None:
        with contextlib.suppress(ValueError):  # a FingerprintError is one
            index.check_embedder(Embedder())
    if index.calibration_ is not None and index.metric != "ip":
        probabilities = index.search(table(index, index.vectors_[:2]), 3).probabilities
        assert ((probabilities >= 0) & (probabilities <= 1)).all()
        assert np.isfinite(index.calibration_.threshold)
        index.near_duplicates()


def _check_changes(index: NearestNeighborIndex) -> None:
    """It can be changed, and saved again."""
    before = len(index)
    new = np.random.default_rng(2).normal(size=(4, index.n_features_in_))
    index.add(table(index, new), ids=[f"added {row}" for row in range(4)])
    index.remove(["added 0"])
    assert len(index) == before + 3
    nearest = index.search(table(index, new[1:]), 1, exact=True).ids
    if index.metric != "ip":
        assert nearest == [["added 1"], ["added 2"], ["added 3"]]
    index.compact()
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        again = NearestNeighborIndex.load(folder)
    assert list(again) == list(index)
    assert np.array_equal(again.vectors_, index.vectors_)


# Identical files.


def files_of_a_build(seed: int) -> dict[str, bytes]:
    """The files of an index that is built and changed here, but for the random token."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(500, N_FEATURES))
    index = NearestNeighborIndex(algorithm="hnsw", storage="int8", M=4, ef_construction=20)
    with narrow_graphs(), tempfile.TemporaryDirectory() as folder:
        index.fit(vectors, ids=map(str, range(500)), records={"n": range(500)}).calibrate()
        index.add(vectors[:20] + 1, records={"m": range(20)}).remove(map(str, range(100)))
        index.upsert(vectors[:9] - 1, range(9)).update_records(["200"], {"n": [-1]})
        index.save(folder)
        content = json.loads((Path(folder) / MANIFEST_NAME).read_bytes())
        del content["generation"], content["checksum"]
        files = {path.name: path.read_bytes() for path in Path(folder).glob("gen-*/*")}
    return files | {MANIFEST_NAME: json.dumps(content).encode()}


def digests_of_a_build(seed: int) -> Counter[str]:
    """Checksums of :func:`files_of_a_build`."""
    return Counter({name: zlib.crc32(file) for name, file in files_of_a_build(seed).items()})


# Damaged files.


def damage_index(n_mutations: int, seed: int) -> Counter[str]:
    """Damage each file in random ways. Every load must be refused, or rebuild a damaged graph."""
    outcomes: Counter[str] = Counter()
    with narrow_graphs(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index = full_index()
        index.save(folder)
        for path in [folder / MANIFEST_NAME, *sorted(folder.glob("gen-*/*"))]:
            rng, content = np.random.default_rng(seed), path.read_bytes()
            for number in range(n_mutations):
                path.write_bytes(otherwise(content, rng))
                with _at_most(_SECONDS_A_CASE):
                    outcome = _outcome_of_damage(folder, path, index, number)
                outcomes[f"{path.name}: {outcome}"] += 1
            path.write_bytes(content)
        assert list(NearestNeighborIndex.load(folder)) == list(index)
    return outcomes


def _outcome_of_damage(folder: Path, path: Path, index: NearestNeighborIndex, number: int) -> str:
    try:
        NearestNeighborIndex.load(folder, mmap=number % 2 == 0)
    except CorruptIndexError:
        if number % _REBUILT == 0:
            return _outcome_of_rebuilding(folder, path, index)
        return "refused"
    raise AssertionError(f"damage {number} of {path.name} was not noticed")


def _outcome_of_rebuilding(folder: Path, path: Path, index: NearestNeighborIndex) -> str:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            again = NearestNeighborIndex.load(folder, rebuild=True)
        except CorruptIndexError:
            assert path.stem not in GRAPH_ARRAYS, f"{path.name} was not rebuilt"
            return "refused"
    assert path.stem in GRAPH_ARRAYS
    assert any("is built again" in str(warning.message) for warning in warned)
    assert list(again) == list(index)
    check_answers(again)
    return "rebuilt"


def otherwise(content: bytes, rng: np.random.Generator) -> bytes:
    """Content with one random damage that does not leave it as it was."""
    damaged = mutated(content, rng)
    return damaged if damaged != content else otherwise(content, rng)


# Forged files.


def forge_arrays(n_forgeries: int, seed: int) -> Counter[str]:
    """Change arrays at random, and make their checksums fit."""
    outcomes: Counter[str] = Counter()
    for metric, storage in (("cosine", "float16"), ("euclidean", "float32"), ("ip", "int8")):
        parts = _parts(metric, storage)
        rng = np.random.default_rng(seed)
        for number in range(n_forgeries):
            meta, arrays, blobs = parts
            forged = _forged_arrays(arrays, rng)
            case = f"forgery {number} of {metric}, {storage}, seed {seed}"
            outcomes[_outcome_of_forgery(meta, forged, blobs, case)] += 1
    return outcomes


def forge_meta(n_chosen: int | None, seed: int) -> Counter[str]:
    """Give fields of the meta other values, and make the checksum fit.

    Parameters
    ----------
    n_chosen : int or None
        Forgeries, chosen at random; None does all that there are.
    """
    outcomes: Counter[str] = Counter()
    for metric, storage in (("cosine", "float16"), ("euclidean", "float32")):
        meta, arrays, blobs = _parts(metric, storage)
        forgeries = list(_forgeries_of(meta))
        if n_chosen is not None:
            chosen = np.random.default_rng(seed).choice(len(forgeries), n_chosen, replace=False)
            forgeries = [forgeries[number] for number in chosen]
        for path, value in forgeries:
            case = f"{path} = {value!r:.60} of {metric}, {storage}"
            forged = _with(meta, path, value)
            outcomes[_outcome_of_forgery(forged, arrays, blobs, case)] += 1
    return outcomes


_Parts = tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, bytes]]
_GONE = object()


def _parts(metric: str, storage: str) -> _Parts:
    """What the files of an index hold."""
    with narrow_graphs(), tempfile.TemporaryDirectory() as folder:
        full_index(metric, storage).save(folder)
        snapshot = read_snapshot(folder)
    return snapshot.meta, snapshot.arrays, snapshot.blobs


def _outcome_of_forgery(
    meta: dict[str, Any], arrays: Mapping[str, NDArray[Any]], blobs: dict[str, bytes], case: str
) -> str:
    with tempfile.TemporaryDirectory() as folder, _at_most(_SECONDS_A_CASE):
        write_snapshot(folder, meta, arrays, blobs, replaces=None)
        try:
            try:
                index = NearestNeighborIndex.load(folder)
            except CorruptIndexError:
                return "refused"
            check_answers(index)
        except BaseException as error:
            raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    return "right"


def _forged_arrays(
    arrays: Mapping[str, NDArray[Any]], rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """One or two arrays that are changed a little, or made another shape."""
    forged = dict(arrays)
    for name in rng.choice(sorted(arrays), rng.integers(1, 3), replace=False):
        forge = _ARRAY_FORGERIES[rng.integers(len(_ARRAY_FORGERIES))]
        changed = forge(forged[str(name)], rng)
        if changed is None:
            del forged[str(name)]
        else:
            forged[str(name)] = changed
    return forged


def _with_bit(array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    octets = np.frombuffer(array.tobytes(), np.uint8).copy()
    if len(octets):
        octets[rng.integers(len(octets))] ^= 1 << rng.integers(8)
    return octets.view(array.dtype).reshape(array.shape)


def _with_element(array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Another value at one place: a small one, an extreme one, or one from elsewhere."""
    changed = array.copy()
    if not changed.size:
        return changed
    extreme = [np.nan, np.inf, 3e38, -3e38, 1e-40, 6e4]
    if array.dtype.kind != "f":
        limits = np.iinfo(array.dtype)
        extreme = [limits.min, limits.max, limits.max // 2]
    numbers = [0, 1, 2, len(array), len(array) - 1, changed.flat[rng.integers(changed.size)]]
    values = [*numbers, *extreme]
    with np.errstate(over="ignore"):
        changed.flat[rng.integers(changed.size)] = values[rng.integers(len(values))]
    return changed


_ARRAY_FORGERIES: tuple[Callable[[NDArray[Any], np.random.Generator], Any], ...] = (
    *[_with_bit] * 6,
    *[_with_element] * 12,
    lambda array, rng: np.zeros_like(array),
    lambda array, rng: rng.permutation(array),
    lambda array, rng: array[:-1],
    lambda array, rng: array[:0],
    lambda array, rng: np.concatenate([array, array[:1]]),
    lambda array, rng: array[..., :-1],
    lambda array, rng: array[..., :0],
    lambda array, rng: array[..., np.newaxis],
    lambda array, rng: array.reshape(-1),
    lambda array, rng: array.astype(np.float64),
    lambda array, rng: array.astype(array.dtype.newbyteorder()),
    lambda array, rng: array * array.dtype.type(2),
    lambda array, rng: -array,
    lambda array, rng: array * np.nan,
    lambda array, rng: np.empty((0, 2**50), array.dtype),
    lambda array, rng: None,
)


def _forgeries_of(meta: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for path in _paths(meta):
        yield path, _GONE
        for value in FORGED_VALUES:
            yield path, value


def _paths(part: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each field; of lists to the first and the last element."""
    keys: list[Any] = list(part) if isinstance(part, dict) else sorted({0, len(part) - 1})
    for key in keys:
        yield (*above, key)
        if isinstance(part[key], dict | list) and part[key]:
            yield from _paths(part[key], (*above, key))


def _with(part: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy in which one field has another value."""
    changed = part.copy()
    key, *below = path
    if below:
        changed[key] = _with(part[key], tuple(below), value)
    elif value is _GONE:
        del changed[key]
    else:
        changed[key] = value
    return changed


# Killed saves.


def kill_saves(n_kills: int, seed: int) -> Counter[str]:
    """Kill a process that saves after random times; the old or the new index must be there."""
    rng, outcomes = np.random.default_rng(seed), Counter[str]()
    old = NearestNeighborIndex().fit(rng.normal(size=(3000, 32)))
    new = pickle.loads(pickle.dumps(old)).remove(range(2999)).add(rng.normal(size=(2000, 32)))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(n_kills):
            pickle.loads(pickle.dumps(old)).save(folder)
            child = os.fork()
            if not child:
                with contextlib.suppress(BaseException):
                    new.save(folder)
                os._exit(0)
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            found = NearestNeighborIndex.load(folder)
            name = {3000: "old", 2001: "new"}[len(found)]
            wanted = {"old": old, "new": new}[name]
            assert list(found) == list(wanted)
            assert np.array_equal(found.vectors_, wanted.vectors_)
            outcomes[name] += 1
    return outcomes


# Hostile files.


class Bomb:
    """It leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        """Call Path.touch when unpickled."""
        return Path.touch, (self.trace,)


def hostile_files() -> Counter[str]:
    """Put files that run code when they are unpickled in the place of each, with checksums."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name, narrow_graphs():
        folder, trace = Path(name) / "index", Path(name) / "trace"
        full_index().save(folder)
        for path in sorted(folder.glob("gen-*/*")):
            sound = path.read_bytes(), (folder / MANIFEST_NAME).read_bytes()
            for content in _hostile_contents(Bomb(trace), path, sound[0]):
                path.write_bytes(content)
                _fit_manifest(folder, path)
                outcomes[_outcome_of_hostility(folder)] += 1
            path.write_bytes(sound[0])
            (folder / MANIFEST_NAME).write_bytes(sound[1])
        (folder / MANIFEST_NAME).write_bytes(pickle.dumps(Bomb(trace)))
        outcomes[_outcome_of_hostility(folder)] += 1
        assert not trace.exists(), "code in a file of an index was run"
        pickle.loads(pickle.dumps(Bomb(trace)))
        assert trace.exists()  # it would have left its trace
    return outcomes


def _hostile_contents(bomb: Bomb, path: Path, sound: bytes) -> Iterator[bytes]:
    """Five of them, of the right size where they can be."""
    objects = io.BytesIO()
    np.save(objects, np.array([bomb] * 20, dtype=object), allow_pickle=True)
    archive = io.BytesIO()
    np.savez(archive, **{path.stem: np.array([bomb], dtype=object)})
    code = b"\x93NUMPY\x01\x00v\x00__import__('pathlib').Path('trace').touch()"
    yield objects.getvalue()
    yield pickle.dumps(bomb)
    yield pickle.dumps(bomb).ljust(len(sound), b".")
    yield archive.getvalue()
    yield code.ljust(128) + sound[128:]


def _fit_manifest(folder: Path, path: Path) -> None:
    """Make the checksum, and where there is one the size, of a file fit."""
    content = json.loads((folder / MANIFEST_NAME).read_bytes())
    hostile = path.read_bytes()
    entry = {**content["arrays"], **content["blobs"]}[path.stem]
    entry["crc32"] = zlib.crc32(hostile)
    if "size" in entry:
        entry["size"] = len(hostile)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(content))


def _outcome_of_hostility(folder: Path) -> str:
    for mmap in (False, True):
        try:
            NearestNeighborIndex.load(folder, mmap=mmap)
        except CorruptIndexError:
            continue
        raise AssertionError("a hostile file was taken")
    return "refused"


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """End this process by a signal if it takes longer."""
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _limit_memory() -> None:
    """Let huge allocations fail."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_BYTES_A_CHILD, _BYTES_A_CHILD))


if __name__ == "__main__":
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    _limit_memory()
    warnings.simplefilter("error")
    print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.argv[2]))))
