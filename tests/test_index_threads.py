"""Wrong calls, calls at the same time, and calls that are cut short: the index stays whole."""

import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from index_faults import (
    OPERATIONS,
    PAIRS,
    Misuse,
    busy_graphs,
    check_misuse,
    misuses,
    run_pair,
    shop_index,
)

from imgembed import NearestNeighborIndex
from imgembed.index._collection import Collection
from imgembed.index._hnsw import Graph
from imgembed.index._items import Items
from imgembed.index._locks import SharedLock
from imgembed.index.records._records import Records

NEW = np.random.default_rng(2).normal(size=(12, 6)).astype(np.float32)
NAMES = [misuse.name for misuse in misuses(shop_index())]


# Wrong calls.


@pytest.mark.parametrize("algorithm", ["exact", "hnsw"])
def test_wrong_calls_are_refused_and_change_nothing(algorithm: str) -> None:
    assert len(NAMES) == len(set(NAMES)) >= 60
    with busy_graphs():
        index = shop_index(algorithm)
        for misuse in misuses(index):
            check_misuse(index, misuse)
    assert len(index) == 40


def test_a_misuse_that_is_taken_is_noticed() -> None:
    index = shop_index()
    for call in (lambda: None, lambda: index.remove(["a1"])):
        with pytest.raises(AssertionError, match="it was taken"):
            check_misuse(index, Misuse("it", call, ValueError))

    def change() -> None:
        index.remove(["a2"])
        raise ValueError("no")

    with pytest.raises(AssertionError, match="yet changed"):
        check_misuse(index, Misuse("it", change, ValueError))


# At the same time.


@pytest.mark.parametrize("first", OPERATIONS)
def test_operations_may_run_at_the_same_time(first: str) -> None:
    for pair in PAIRS:
        if pair[0] == first:
            assert run_pair(*pair, seconds=0.1) >= 2


def test_the_index_may_be_searched_while_it_is_filled_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    narrow, wide = np.eye(3), np.eye(40)
    index = NearestNeighborIndex(1, "euclidean", "hnsw").fit(narrow, ids=["a", "b", "c"])
    add, inside = Collection.add, []

    def searched_meanwhile(collection: Collection, *arguments: Any) -> None:
        add(collection, *arguments)
        inside.append(index.search(narrow).ids)
        with pytest.raises(ValueError, match="40 features"):
            index.search(wide)
        assert index.n_features_in_ == 3

    monkeypatch.setattr(Collection, "add", searched_meanwhile)
    index.fit(wide)
    assert inside == [[["a"], ["b"], ["c"]]]
    assert index.search(wide).ids == [[row] for row in range(40)]


def test_refits_of_another_width_do_not_mix_with_searches() -> None:
    rng = np.random.default_rng(0)
    corpora = {width: rng.normal(size=(50, width)).astype(np.float32) for width in (3, 200)}
    index = NearestNeighborIndex(1, "euclidean", "hnsw", progress=False).fit(corpora[3])
    stop, wrong = threading.Event(), []

    def refit() -> None:
        for turn in range(60):
            index.fit(corpora[(3, 200)[turn % 2]])
        stop.set()

    def search() -> None:
        while not stop.is_set():
            for vectors in corpora.values():
                with suppress(ValueError):  # the index has the other width just now
                    distances, rows = index.kneighbors(vectors)
                    if not np.array_equal(rows.ravel(), np.arange(50)) or distances.max() > 1e-3:
                        wrong.append(rows)

    threads = [threading.Thread(target=work, daemon=True) for work in (refit, search, search)]
    with busy_graphs():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert stop.is_set()
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_readers_hold_the_lock_together_and_writers_alone() -> None:
    lock, events, both = SharedLock(), list[str](), threading.Barrier(2, timeout=20)

    def read() -> None:
        with lock.reading():
            both.wait()  # passes only if another reads at the same time

    def write() -> None:
        with lock.writing():
            events.append("in")
            events.append("out")

    for work in (read, write):
        threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    assert events == ["in", "out"] * 2


def test_a_waiting_writer_goes_before_new_readers_and_none_waits_for_ever() -> None:
    lock, order = SharedLock(), list[str]()

    def enter(name: str, hold: Callable[[], Any]) -> threading.Thread:
        def work() -> None:
            with hold():
                order.append(name)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    with lock.reading():
        writer = enter("writer", lock.writing)
        while not lock._n_waiting:
            pass
        reader = enter("reader", lock.reading)
        reader.join(0.05)
        assert order == []
    for thread in (writer, reader):
        thread.join(20)
    assert order == ["writer", "reader"]


def test_readers_come_in_when_a_waiting_writer_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, inside = SharedLock(), threading.Event()

    def read() -> None:
        with lock.reading():
            inside.set()

    def give_up(timeout: float | None = None) -> bool:
        """Let a reader wait for the writer, which is then interrupted."""
        lock._condition.release()
        monkeypatch.undo()
        reader.start()
        while not lock._condition._waiters:  # type: ignore[attr-defined]
            pass
        lock._condition.acquire()
        raise KeyboardInterrupt

    reader = threading.Thread(target=read, daemon=True)
    with lock.reading():
        monkeypatch.setattr(lock._condition, "wait", give_up)
        with pytest.raises(KeyboardInterrupt), lock.writing():
            pass
        assert inside.wait(20)
    reader.join(20)


def test_a_lock_is_free_after_an_exception() -> None:
    index = shop_index()
    for call in (lambda: index.search(NEW, where="nonsense"), lambda: index.remove(["z"])):
        with pytest.raises((ValueError, KeyError)):
            call()
    thread = threading.Thread(target=lambda: index.add(NEW), daemon=True)
    thread.start()
    thread.join(20)
    assert len(index) == 52


# Cut short.

CHANGES: dict[str, Callable[[NearestNeighborIndex], Any]] = {
    "add": lambda index: index.add(
        NEW, ids=[f"n{row}" for row in range(12)], records={"price": range(12)}
    ),
    "add with default ids": lambda index: index.add(NEW, records={"colour": ["red"] * 12}),
    "upsert": lambda index: index.upsert(
        NEW, ["a1", "a2", *(f"n{row}" for row in range(10))], records={"price": range(12)}
    ),
    "remove": lambda index: index.remove(["a1", "a2"]),
    "remove many": lambda index: index.remove([f"a{row}" for row in range(20)]),
    "update": lambda index: index.update_records(["a1", "a2"], {"price": [1, 2]}),
    "compact": lambda index: index.compact(),
    "fit": lambda index: index.fit(NEW),
}

# Where time or memory is spent, so that Ctrl-C and MemoryError come there.
PLACES: dict[str, tuple[type, str]] = {
    "the graph": (Graph, "add"),
    "the records": (Records, "append"),
    "the replacing of records": (Records, "upsert"),
    "the removal of records": (Records, "remove"),
    "the renumbering of records": (Records, "renumber"),
    "the items": (Items, "__init__"),
}


CUTS = [
    *((change, "the graph") for change in ("add", "upsert", "remove many", "fit")),
    *((change, "the items") for change in ("add", "upsert", "remove", "compact", "fit")),
    *((change, "the records") for change in ("add", "add with default ids", "fit")),
    ("upsert", "the replacing of records"),
    ("remove", "the removal of records"),
    ("remove many", "the removal of records"),
    ("remove many", "the renumbering of records"),
    ("compact", "the renumbering of records"),
]


def _cut_short(
    monkeypatch: pytest.MonkeyPatch,
    place: tuple[type, str],
    error: type[BaseException],
    *,
    after: bool,
    nth: int,
) -> None:
    """Raise when a method is called for the nth time, before it has done its work or after."""
    method, n_calls = getattr(*place), [0]

    def cut(*arguments: Any, **options: Any) -> Any:
        n_calls[0] += 1
        result = None
        if after or n_calls[0] != nth:
            result = method(*arguments, **options)
        if n_calls[0] == nth:
            raise error("cut short")
        return result

    monkeypatch.setattr(*place, cut)


@pytest.mark.parametrize(("change", "place"), CUTS)
def test_a_change_that_is_cut_short_is_made_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, change: str, place: str
) -> None:
    with busy_graphs():
        stored = pickle.dumps(shop_index("hnsw"))
        whole = pickle.loads(stored)
        states = [_contents(whole), _contents(CHANGES[change](whole))]
        for error, after, nth in (
            (KeyboardInterrupt, False, 1), (KeyboardInterrupt, True, 1), (MemoryError, False, 1),
            (MemoryError, False, 2), (MemoryError, True, 3),
        ):  # fmt: skip
            index = pickle.loads(stored)
            with monkeypatch.context() as patched:
                _cut_short(patched, PLACES[place], error, after=after, nth=nth)
                with suppress(error):
                    CHANGES[change](index)
            assert _contents(index) in states, f"{error.__name__}, after={after}, nth={nth}"
            _use(index)


def test_the_graph_is_whole_when_ctrl_c_comes_as_soon_as_nodes_are_in_it() -> None:
    class Interrupted:
        """hnswlib's index, where a signal has come during the addition."""

        def __init__(self, index: Any) -> None:
            self.index = index

        def __getattr__(self, name: str) -> Any:
            return getattr(self.index, name)

        def add_items(self, *arguments: Any) -> None:
            self.index.add_items(*arguments)
            raise KeyboardInterrupt

    with busy_graphs():
        index = shop_index("hnsw")
        graph = index._collection.nodes.graph
        assert graph is not None
        before, graph._index = _contents(index), Interrupted(graph._index)
        with pytest.raises(KeyboardInterrupt):
            index.add(NEW)
        graph._index = graph._index.index
        assert _contents(index) == before
        _use(index)


def test_records_are_whole_when_ctrl_c_comes_as_soon_as_they_are_written() -> None:
    class Interrupted:
        """A connection where a signal has come during the commit."""

        def __init__(self, connection: Any) -> None:
            self.connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self.connection, name)

        def execute(self, statement: str, *arguments: Any) -> Any:
            result = self.connection.execute(statement, *arguments)
            if statement in ("BEGIN", "COMMIT"):
                raise KeyboardInterrupt
            return result

    for name in ("add", "upsert", "remove", "update"):
        index = shop_index()
        for _ in range(2):  # at the beginning, then at the end
            records = index._collection.records
            connection = records._connection
            states = {_contents(index)}
            records._connection = Interrupted(connection)  # type: ignore[assignment]
            with pytest.raises(KeyboardInterrupt):
                CHANGES[name](index)
            records._connection = connection
            assert _contents(index) in states
            _use(index)


def _contents(index: NearestNeighborIndex) -> str:
    """All that is in an index, whatever searches it."""
    found = index.search(NEW[:3, : index.n_features_in_], len(index), exact=True)
    distances = found.distances.round(4).tolist()
    return repr([list(index), index.vectors_.tolist(), distances, found.records, index.columns_])


def _use(index: NearestNeighborIndex) -> None:
    """All goes on: what is added is found by graph and scan, what is removed is not."""
    vectors = np.random.default_rng(3).normal(size=(3, 6)) + 20
    if "u0" in index:
        index.remove(["u0", "u2"])
    index.add(vectors, ids=["u0", "u1", "u2"])
    for exact in (False, True):
        assert index.search(vectors, 1, exact=exact).ids == [["u0"], ["u1"], ["u2"]]
    index.remove(["u1"])
    assert "u1" not in index
    assert index.search(vectors[1:2], 1).ids != [["u1"]]
    state = _contents(index)
    assert _contents(index.compact()) == state
    assert _contents(pickle.loads(pickle.dumps(index))) == state
