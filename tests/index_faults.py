"""Faults of use: wrong calls, and calls at the same time.

The tests run each once and shortly. This file is also the child process in which the nox session
``faults`` runs them, since the one mistake that matters ends the process:
``python index_faults.py misuses ALGORITHM`` and ``python index_faults.py pairs SECONDS``.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import combinations_with_replacement, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgembed import NearestNeighborIndex
from imgembed.index import (
    DuplicateIdError,
    IndexChangedError,
    IndexLockedError,
    UnknownIdError,
    WhereError,
    _node_index,
)

_FRESH_MEMORY = "165"  # glibc fills it with this byte, so that nothing works by chance
_N_FEATURES = 6
# A thread that has not ended so long after it was told to is taken for a deadlock.
_PATIENCE = 60.0

Index = NearestNeighborIndex
Exceptions = type[Exception] | tuple[type[Exception], ...]


def misuse_in_a_child(algorithm: str) -> int:
    """Call an index wrongly in every way in a child process; how many ways there are.

    Parameters
    ----------
    algorithm : {"auto", "hnsw", "exact"}

    Raises
    ------
    AssertionError
        With the output of the child, if it was killed, or a wrong call was taken, raised
        another exception, or changed the index.
    """
    lines = _in_a_child("misuses", algorithm)
    assert lines.count("refused") == len(lines) > 60
    return len(lines)


def pair_in_a_child(first: str, second: str, seconds: float) -> int:
    """Run two operations at the same time in a child process.

    Parameters
    ----------
    first, second : str
        Of :data:`OPERATIONS`.
    seconds : float

    Returns
    -------
    n_done : int
        How many operations were done.

    Raises
    ------
    AssertionError
        With the output of the child, if it was killed, an answer was wrong, or they waited for
        each other for ever.
    """
    (n_done,) = _in_a_child("pair", first, second, str(seconds))
    return int(n_done)


def _in_a_child(*arguments: str) -> list[str]:
    child = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=os.environ | {"MALLOC_PERTURB_": _FRESH_MEMORY},
        capture_output=True,
        text=True,
    )
    lines = child.stdout.splitlines()
    assert child.returncode == 0, (
        f"the child ended with {child.returncode} after line {len(lines)}, {lines[-1:]}\n"
        f"{child.stderr}"
    )
    return lines


def _visiting_is_free(*_: int, **__: bool) -> float:
    return 0.0


@contextmanager
def busy_graphs() -> Iterator[None]:
    """Use graphs for few vectors, where else all would be scanned, and extend them often."""
    busy = {"_EXACT_BELOW": 20, "_MOST_OUTSIDE": 7, "vectors_per_candidate": _visiting_is_free}
    usual = {name: getattr(_node_index, name) for name in busy}
    try:
        for name, value in busy.items():
            setattr(_node_index, name, value)
        yield
    finally:
        for name, value in usual.items():
            setattr(_node_index, name, value)


# Misuses.


class Misuse(NamedTuple):
    """A wrong call, and what it must raise."""

    name: str
    call: Callable[[], Any]
    expected: Exceptions


def misuses(index: Index) -> Iterator[Misuse]:
    """Wrong calls of the index that :func:`shop_index` makes; none may change it."""
    for name, call, expected in _WRONG_CALLS:
        yield Misuse(name, partial(call, index), expected)
    for what, vectors in _BAD_VECTORS.items():
        for call_name, call in _CALLS_WITH_VECTORS.items():
            yield Misuse(f"{call_name} {what}", partial(call, index, vectors), _REFUSED)


def check_misuse(index: Index, misuse: Misuse) -> None:
    """Call wrongly, and find the exception that is expected and the index as it was."""
    before = state_of(index)
    try:
        result = misuse.call()
    except misuse.expected as error:
        words = str(error)
    else:
        raise AssertionError(f"{misuse.name} was taken, and gave {result!r:.200}")
    assert words, f"{misuse.name} was refused without a word"
    assert state_of(index) == before, f"{misuse.name} was refused, and yet changed the index"


def shop_index(algorithm: str = "auto") -> Index:
    """Forty vectors with ids "a0", "a1", ..., prices and categories; the last ten are copies."""
    vectors = np.random.default_rng(0).normal(size=(40, _N_FEATURES))
    vectors[30:] = vectors[:10]
    records = {"price": np.arange(40), "category": ["shoe", "hat"] * 20}
    index = NearestNeighborIndex(metric="euclidean", algorithm=algorithm)
    return index.fit(vectors, ids=[f"a{row}" for row in range(40)], records=records)


def state_of(index: Index) -> str:
    """All that a user sees of an index; equal texts are equal states."""
    queries = np.random.default_rng(1).normal(size=(3, index.n_features_in_))
    everything = index.search(queries, n_neighbors=len(index) + 1, exact=True)
    return repr(
        [
            list(index),
            index.vectors_.tolist(),
            [part.tolist() for part in index.kneighbors(queries, 5)],
            [everything.ids, everything.distances.tolist(), everything.records],
            [index.columns_, index.get_params(), index.calibration_, index.fingerprint_],
            [index.algorithm_, index.recall_estimate_, index.n_features_in_],
        ]
    )


_REFUSED = (ValueError, TypeError)
_ONE = np.zeros((1, _N_FEATURES), np.float32)
_TWO = np.zeros((2, _N_FEATURES), np.float32)

_BAD_VECTORS: Mapping[str, Any] = {
    "of another width": np.zeros((2, _N_FEATURES + 1), np.float32),
    "of no width": np.zeros((2, 0), np.float32),
    "of a huge width": np.zeros((1, 1_000_000), np.float32),
    "in one dimension": np.zeros(_N_FEATURES, np.float32),
    "in three dimensions": np.zeros((2, _N_FEATURES, 1), np.float32),
    "with NaN": np.full((2, _N_FEATURES), np.nan, np.float32),
    "with infinity": np.full((2, _N_FEATURES), -np.inf, np.float32),
    "too large": np.full((2, _N_FEATURES), 1e30, np.float32),
    "too large for float32": np.full((2, _N_FEATURES), 1e300),
    "of complex numbers": np.zeros((2, _N_FEATURES), complex),
    "of words": [["a"] * _N_FEATURES],
    "of unequal widths": [[0.0] * _N_FEATURES, [0.0]],
    "which are none": np.zeros((0, _N_FEATURES), np.float32),
    "which are a number": 5,
}
_CALLS_WITH_VECTORS: Mapping[str, Callable[[Index, Any], Any]] = {
    "a search": lambda index, vectors: index.kneighbors(vectors),
    "a search for records": lambda index, vectors: index.search(vectors),
    "a search within a radius": lambda index, vectors: index.radius_neighbors(vectors, 1.0),
    "a graph of neighbours": lambda index, vectors: index.transform(vectors),
    "a curve": lambda index, vectors: index.recall_curve(vectors),
    "an addition": lambda index, vectors: index.add(vectors),
    "an upsert": lambda index, vectors: index.upsert(vectors, ["a0", "new"]),
}


def _with_parameter(name: str, value: Any) -> Callable[[Index], Any]:
    """A fit with a parameter that is wrong; the parameter goes back afterwards."""

    def fit(index: Index) -> None:
        before = index.get_params()[name]
        try:
            index.set_params(**{name: value}).fit(np.eye(_N_FEATURES))
        finally:
            index.set_params(**{name: before})

    return fit


def _where(condition: Any, params: Any = None) -> Callable[[Index], Any]:
    return lambda index: index.kneighbors(_ONE, where=condition, params=params)


_WRONG_CALLS: list[tuple[str, Callable[[Index], Any], Exceptions]] = [
    # Questions.
    ("no neighbours", lambda index: index.kneighbors(_ONE, 0), ValueError),
    ("minus one neighbour", lambda index: index.search(_ONE, -1), ValueError),
    ("half a neighbour", lambda index: index.kneighbors(_ONE, 1.5), TypeError),
    ("a word of neighbours", lambda index: index.kneighbors(_ONE, "5"), TypeError),
    (
        "more neighbours than memory",
        lambda index: index.kneighbors(_ONE, 2**62),
        (ValueError, MemoryError, OverflowError),
    ),
    ("no queries for records", lambda index: index.search(None), _REFUSED),
    ("no radius", lambda index: index.radius_neighbors(_ONE), ValueError),
    ("NaN as radius", lambda index: index.radius_neighbors(_ONE, np.nan), ValueError),
    ("a word as radius", lambda index: index.radius_neighbors(_ONE, "far"), _REFUSED),
    ("no threshold", lambda index: index.near_duplicates(), ValueError),
    ("NaN as threshold", lambda index: index.near_duplicates(np.nan), ValueError),
    ("probability uncalibrated", lambda index: index.search(_ONE, min_probability=0.5), ValueError),
    ("a curve of k alone", lambda index: index.recall_curve(n_neighbors=3), ValueError),
    ("writing into vectors", lambda index: index.vectors_.fill(0), ValueError),
    # Conditions.
    ("an unknown column", _where("colour = 'red'"), WhereError),
    ("an empty condition", _where(""), WhereError),
    ("half a condition", _where("price <"), WhereError),
    ("a second statement", _where("1; DROP TABLE imgembed_items"), WhereError),
    ("a union", _where("price IN (SELECT 1 UNION SELECT 2)"), WhereError),
    ("a schema", _where("(SELECT sql FROM sqlite_master) IS NOT NULL"), WhereError),
    ("a closed bracket", _where("1) OR (1"), WhereError),
    ("a comment", _where("1 -- "), WhereError),
    ("an extension", _where("load_extension('x')"), WhereError),
    ("a pragma", _where("PRAGMA writable_schema = 1"), WhereError),
    ("an attachment", _where("ATTACH 'x' AS y"), WhereError),
    ("a hidden column", _where("rowid = 1"), WhereError),
    ("a missing value", _where("price < ?"), WhereError),
    ("a value too many", _where("price < ?", (1, 2)), WhereError),
    ("a value of no kind", _where("price < ?", (object(),)), (WhereError, TypeError)),
    ("values without condition", _where(None, (1,)), ValueError),
    ("a mask that is too short", _where([True] * 39), ValueError),
    ("a mask that is too long", _where(np.ones(41, bool)), ValueError),
    ("a mask of a table", _where(np.ones((40, 1), bool)), (ValueError, TypeError, UnknownIdError)),
    ("a filter by unknown ids", _where(["a0", "z"]), UnknownIdError),
    ("a number as filter", _where(5), TypeError),
    ("bytes as filter", _where(b"price < 5"), TypeError),
    # Additions.
    ("an id that is there", lambda index: index.add(_ONE, ids=["a0"]), DuplicateIdError),
    ("an id twice", lambda index: index.add(_TWO, ids=["n", "n"]), DuplicateIdError),
    ("too few ids", lambda index: index.add(_TWO, ids=["n"]), ValueError),
    ("an unhashable id", lambda index: index.add(_ONE, ids=[["n"]]), TypeError),
    ("NaN as id", lambda index: index.add(_ONE, ids=[np.nan]), TypeError),
    ("a function as id", lambda index: index.add(_ONE, ids=[len]), TypeError),
    ("a word as ids", lambda index: index.add(_ONE, ids="n"), _REFUSED),
    ("too few records", lambda index: index.add(_TWO, records=[{"price": 1}]), ValueError),
    ("too long a column", lambda index: index.add(_ONE, records={"price": [1, 2]}), ValueError),
    ("a word as price", lambda index: index.add(_ONE, records={"price": ["low"]}), _REFUSED),
    ("a number as column", lambda index: index.add(_ONE, records={5: [1]}), _REFUSED),
    ("records that are none", lambda index: index.add(_ONE, records=5), _REFUSED),
    ("an object in a record", lambda index: index.add(_ONE, records=[{"x": object()}]), _REFUSED),
    # Other changes.
    ("upsert of an id twice", lambda index: index.upsert(_TWO, ["a0", "a0"]), DuplicateIdError),
    ("upsert of too few ids", lambda index: index.upsert(_TWO, ["a0"]), ValueError),
    ("upsert without ids", lambda index: index.upsert(_TWO, None), _REFUSED),
    (
        "upsert of a bad record",
        lambda index: index.upsert(_TWO, ["a0", "n"], records={"price": [1, "low"]}),
        _REFUSED,
    ),
    ("removal of an unknown id", lambda index: index.remove(["a0", "z"]), UnknownIdError),
    ("removal of an unhashable id", lambda index: index.remove([{}]), TypeError),
    ("removal of a word", lambda index: index.remove("a0"), _REFUSED),
    ("removal of nothing", lambda index: index.remove(None), _REFUSED),
    (
        "update of an unknown id",
        lambda index: index.update_records(["a0", "z"], {"price": [1, 2]}),
        UnknownIdError,
    ),
    ("update too short", lambda i: i.update_records(["a0", "a1"], {"price": [1]}), ValueError),
    ("update with a word", lambda i: i.update_records(["a0"], [{"price": "low"}]), _REFUSED),
    # Fits.
    ("a fit with NaN", lambda index: index.fit(np.full((3, 3), np.nan)), ValueError),
    ("a fit with nothing", lambda index: index.fit(np.empty((0, 3))), ValueError),
    ("a fit with an id twice", lambda index: index.fit(np.eye(2), ids=[1, True]), DuplicateIdError),
    ("a fit with bad records", lambda i: i.fit(np.eye(2), records={"x": [1]}), ValueError),
    ("M of 1", _with_parameter("M", 1), ValueError),
    ("M of a million", _with_parameter("M", 1_000_000), ValueError),
    ("M of None", _with_parameter("M", None), TypeError),
    ("ef_construction of 0", _with_parameter("ef_construction", 0), ValueError),
    ("ef_search of -1", _with_parameter("ef_search", -1), ValueError),
    ("a recall of 2", _with_parameter("target_recall", 2.0), ValueError),
    ("a recall of NaN", _with_parameter("target_recall", float("nan")), ValueError),
    ("an unknown metric", _with_parameter("metric", "l1"), ValueError),
    ("a storage of bits", _with_parameter("storage", "int1"), ValueError),
    ("n_jobs of 0", _with_parameter("n_jobs", 0), ValueError),
    ("a random state of words", _with_parameter("random_state", "seed"), ValueError),
    # Calibrations and files.
    ("pairs of unknown ids", lambda i: i.calibrate([("a0", "z")], [True]), UnknownIdError),
    ("pairs that all match", lambda i: i.calibrate([("a0", "a1")] * 20, [1] * 20), ValueError),
    ("pairs without answers", lambda i: i.calibrate([("a0", "a1")] * 20), _REFUSED),
    ("answers without pairs", lambda i: i.calibrate(None, [True, False]), _REFUSED),
    ("a file in the place of the folder", lambda index: index.save(__file__), OSError),
    ("a folder of other files", lambda index: index.save(Path(__file__).parent), OSError),
    ("loading what is not there", lambda index: type(index).load("/nowhere/at/all"), OSError),
]


# Pairs of operations at the same time.


class Crowd:
    """An index that several threads use at once, and whose answers tell whether they are true.

    Each vector belongs to an owner and a version, which its record names too. Ids from 0 are
    upserted with other versions; those called "fixed" stay, two of them with equal vectors and
    notes that change together; those from 1000 come once, go, and never come back.
    """

    n_mutable, n_fixed = 20, 20

    def __init__(self, folder: Path) -> None:
        fixed = [f"fixed{n}" for n in range(self.n_fixed)]
        self.permanent = [*range(self.n_mutable), *fixed]
        owners = list(range(self.n_mutable)) + [-1 - n for n in range(self.n_fixed)]
        owners[-1] = owners[-2]
        self.twins = fixed[-2:]
        self.index = NearestNeighborIndex(3, "euclidean", "hnsw", target_recall=0.99, n_jobs=2)
        vectors = np.array([self.vector(owner, 0) for owner in owners])
        records = {"owner": owners, "version": [0] * len(owners), "note": [0] * len(owners)}
        self.index.fit(vectors, ids=self.permanent, records=records)
        self.folder, self.fresh, self.versions = folder, count(1000), count(1)
        self.removed: set[int] = set()

    @staticmethod
    def vector(owner: int, version: int) -> Any:
        """The vector of an owner and a version, and of no others."""
        return np.random.default_rng([owner + 10_000, version]).normal(size=4).astype(np.float32)

    def query(self, **options: Any) -> None:
        """Every answer is one that was true at one moment."""
        removed = set(self.removed)
        queries = np.array([self.vector(owner, 0) for owner in (-1, -self.n_fixed, -5)])
        found = self.index.search(queries, n_neighbors=6, **options)
        assert [ids[0] for ids in found.ids][::2] == ["fixed0", "fixed4"]
        for row, query in enumerate(queries):
            ids, distances = found.ids[row], found.distances[row]
            assert len(ids) == len(set(ids)) == 6, f"{ids} have doubles"
            assert not removed & set(ids), f"{removed & set(ids)} had been removed"
            assert (np.diff(distances) >= 0).all()
            self._check_records(ids, found.records[row])
            true = [self._distance(query, record) for record in found.records[row]]
            np.testing.assert_allclose(distances, true, atol=1e-3)
        notes = {one["note"] for i, one in _flat(found) if i in self.twins}
        assert len(notes) <= 1, f"the notes of the twins are of two moments: {notes}"

    def exact_query(self) -> None:
        """The same by a scan."""
        self.query(exact=True)

    def filtered_query(self) -> None:
        """With a condition that keeps what stays and half of what comes and goes."""
        self.query(where="owner < 0 OR owner % 2 = ?", params=(1,))

    def add(self) -> None:
        """What was added is there at once; the oldest goes when there are many."""
        number = next(self.fresh)
        self.index.add([self.vector(number, 0)], ids=[number], records=[_record(number, 0)])
        assert number in self.index
        found = self.index.search([self.vector(number, 0)], 1, exact=True)
        assert found.ids == [[number]]
        if number % 100 == 0:
            # Not the latest, which another thread may be looking for right now.
            old = range(number - 200, number - 100)
            self._remove([n for n in old if n in self.index])

    def upsert(self) -> None:
        """Some get new vectors and records together."""
        version = next(self.versions)
        owners = [version % self.n_mutable, (7 * version + 3) % self.n_mutable]
        owners = sorted(set(owners))
        vectors = np.array([self.vector(owner, version) for owner in owners])
        records = [_record(owner, version) for owner in owners]
        self.index.upsert(vectors, owners, records=records)

    def remove(self) -> None:
        """What comes and is removed does not come back."""
        numbers = [next(self.fresh) for _ in range(5)]
        vectors = np.array([self.vector(number, 0) for number in numbers])
        self.index.add(vectors, ids=numbers, records=[_record(n, 0) for n in numbers])
        self._remove(numbers)
        assert not any(number in self.index for number in numbers)

    def update_records(self) -> None:
        """The notes of the twins change together."""
        self.index.update_records(self.twins, {"note": 2 * [next(self.versions)]})

    def compact(self) -> None:
        """All stays as it was."""
        self.index.compact()

    def save(self) -> None:
        """What is written is an index of one moment; of two that write one may be told."""
        try:
            self.index.save(self.folder)
        except (IndexLockedError, IndexChangedError):
            return
        if next(self.versions) % 4 == 0:
            self.check(NearestNeighborIndex.load(self.folder))

    def pickle(self) -> None:
        """A pickle is an index of one moment."""
        self.check(pickle.loads(pickle.dumps(self.index)))

    def near_duplicates(self) -> None:
        """The twins are, and nothing else."""
        assert self.index.near_duplicates(1e-4) == [self.twins]

    def iterate(self) -> None:
        """All that stays is there once."""
        ids = list(self.index)
        assert len(ids) == len(set(ids))
        assert set(self.permanent) <= set(ids)
        assert len(self.index) >= len(self.permanent)

    def check(self, index: Index) -> None:
        """An index that nobody changes: each id once, with its record and its vector."""
        ids = list(index)
        assert len(ids) == len(set(ids)) == len(index) == len(index.vectors_)
        assert set(self.permanent) <= set(ids)
        found = index.search(index.vectors_, len(index), exact=True)
        records = dict(_flat(found))
        self._check_records(ids, [records[one] for one in ids])
        own = [self.vector(records[one]["owner"], records[one]["version"]) for one in ids]
        np.testing.assert_array_equal(index.vectors_, own)

    def _check_records(self, ids: list[Any], records: list[dict[str, Any]]) -> None:
        for one, record in zip(ids, records, strict=True):
            number = -1 - int(one[5:]) if isinstance(one, str) else one
            assert record["owner"] == (number + (one == self.twins[1])), f"{one} has {record}"

    def _distance(self, query: Any, record: dict[str, Any]) -> float:
        return float(np.linalg.norm(query - self.vector(record["owner"], record["version"])))

    def _remove(self, numbers: list[int]) -> None:
        try:
            self.index.remove(numbers)
        except UnknownIdError:  # the other thread came first
            return
        self.removed.update(numbers)


def _record(owner: int, version: int) -> dict[str, int]:
    return {"owner": owner, "version": version, "note": 0}


def _flat(found: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    for ids, records in zip(found.ids, found.records, strict=True):
        yield from zip(ids, records, strict=True)


OPERATIONS = (
    "query", "exact_query", "filtered_query", "add", "upsert", "remove", "update_records",
    "compact", "save", "pickle", "near_duplicates", "iterate",
)  # fmt: skip
PAIRS = tuple(combinations_with_replacement(OPERATIONS, 2))


def run_pair(first: str, second: str, seconds: float) -> int:
    """Do two operations in two threads again and again; how many were done.

    Raises
    ------
    AssertionError
        If an answer was wrong, an operation failed, or both wait for ever.
    """
    with busy_graphs(), tempfile.TemporaryDirectory() as folder:
        crowd = Crowd(Path(folder) / "index")
        end, n_done, errors = time.monotonic() + seconds, [0, 0], list[BaseException]()

        def repeat(place: int, operation: str) -> None:
            try:
                while n_done[place] == 0 or (time.monotonic() < end and not errors):
                    getattr(crowd, operation)()
                    n_done[place] += 1
            except BaseException as error:
                errors.append(error)

        threads = [
            threading.Thread(target=repeat, args=pair, daemon=True)
            for pair in enumerate((first, second))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + _PATIENCE)
        assert not any(thread.is_alive() for thread in threads), f"{first} and {second} wait"
        if errors:
            raise AssertionError(f"{first} and {second}: {errors[0]!r}") from errors[0]
        crowd.check(crowd.index)
        return sum(n_done)


if __name__ == "__main__":
    if sys.argv[1] == "misuses":
        with busy_graphs():
            misused = shop_index(sys.argv[2])
            for misuse in misuses(misused):
                check_misuse(misused, misuse)
                print("refused", flush=True)
    else:
        print(run_pair(sys.argv[2], sys.argv[3], float(sys.argv[4])), flush=True)
