"""The life of an index: whatever is done to it, it holds what a plain model holds."""

import datetime
import inspect
import pickle
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from index_faults import busy_graphs
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError

from imgembed import FingerprintError, NearestNeighborIndex
from imgembed.index import DuplicateIdError, UnknownIdError, WhereError

Floats = NDArray[np.float64]

METRICS = ("cosine", "euclidean", "ip")
# Few vectors, so that copies, ties, opposites and zeros are common.
VECTORS = [
    *np.array(np.meshgrid(*3 * [[-1, 0, 2]])).reshape(3, -1).T.tolist(),
    [4, 0, 0], [0.5, 0, 0], [1e-6, 0, 0], [1000, 0, 1000],
]  # fmt: skip
IDS = [*"abcdefgh", 0, 1, 5, 30, ("t", 1), None]

some_vectors = st.lists(st.sampled_from(VECTORS), min_size=1, max_size=12)
some_ids = st.lists(st.sampled_from(IDS), unique=True, min_size=1, max_size=6)
colours = st.sampled_from(["red", "blue", None])
prices = st.sampled_from([1, 20, 300, None])


def brute_force(vectors: Any, queries: Any, metric: str) -> Floats:
    """All distances, in float64."""
    vectors, queries = np.asarray(vectors, float), np.asarray(queries, float)
    if metric == "euclidean":
        return np.linalg.norm(queries[:, None] - vectors[None], axis=2)
    if metric == "ip":
        return 1 - queries @ vectors.T
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
    return 1 - np.divide(queries @ vectors.T, norms, out=np.zeros_like(norms), where=norms > 0)


class IndexAndModel(RuleBasedStateMachine):
    """An index beside a dict of ids to vectors and records."""

    algorithm = "exact"

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()

    def teardown(self) -> None:
        self.stack.close()

    @initialize(metric=st.sampled_from(METRICS), vectors=some_vectors)
    def fit(self, metric: str, vectors: Any) -> None:
        self.metric = metric
        self.index = NearestNeighborIndex(3, metric, self.algorithm, M=3).fit(vectors)
        self.vectors = dict(enumerate(vectors))
        self.records: dict[Any, dict[str, Any]] = {row: {} for row in self.vectors}
        self.columns: list[str] = []
        self.next_id = len(vectors)

    # Changes.

    @rule(vectors=some_vectors, data=st.data())
    def add(self, vectors: Any, data: Any) -> None:
        records = self.draw_records(data, len(vectors))
        self.index.add(vectors, records=as_given(records, data))
        ids = range(self.next_id, self.next_id + len(vectors))
        self.note(list(ids), vectors, records)

    @rule(ids=some_ids, data=st.data())
    def add_with_ids(self, ids: Any, data: Any) -> None:
        vectors = [data.draw(st.sampled_from(VECTORS)) for _ in ids]
        records = self.draw_records(data, len(ids))
        if self.vectors.keys() & set(ids):
            with pytest.raises(DuplicateIdError):
                self.index.add(vectors, ids=ids, records=as_given(records, data))
        else:
            self.index.add(vectors, ids=ids, records=as_given(records, data))
            self.note(ids, vectors, records)

    @rule(ids=some_ids, data=st.data())
    def upsert(self, ids: Any, data: Any) -> None:
        vectors = [data.draw(st.sampled_from(VECTORS)) for _ in ids]
        records = self.draw_records(data, len(ids))
        self.index.upsert(vectors, ids, records=as_given(records, data))
        self.note(ids, vectors, records)

    @precondition(lambda self: self.vectors)
    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        ids = data.draw(st.lists(st.sampled_from(list(self.vectors)), min_size=1, max_size=8))
        self.index.remove(ids)
        for one in set(ids):
            del self.vectors[one], self.records[one]

    @precondition(lambda self: self.vectors)
    @rule(data=st.data(), price=prices)
    def update_records(self, data: Any, price: Any) -> None:
        ids = data.draw(st.lists(st.sampled_from(list(self.vectors)), unique=True, min_size=1))
        self.index.update_records(ids, [{"price": price}] * len(ids))
        self.learn_columns(["price"])
        for one in ids:
            self.records[one]["price"] = price

    @rule()
    def compact(self) -> None:
        self.index.compact()

    @rule()
    def pickle(self) -> None:
        self.index = pickle.loads(pickle.dumps(self.index))

    @rule(vectors=some_vectors)
    def change_wrongly(self, vectors: Any) -> None:
        """What is refused leaves what the invariants look at."""
        ids = list(self.vectors)
        n = len(vectors)
        bad = [[*vector, 0] for vector in vectors], [[np.nan] * 3] * n, [[np.inf, 0, 0]] * n
        for wrong in bad:
            with pytest.raises(ValueError, match=r"features|NaN|infinity"):
                self.index.add(wrong)
        new = [f"new{row}" for row in range(n)]
        for wrong_ids in (new[:-1], [*new[:-1], np.nan], [*new[:-1], []]):
            with pytest.raises((ValueError, TypeError)):
                self.index.upsert(vectors, wrong_ids)
        with pytest.raises((ValueError, TypeError)):
            self.index.add(vectors, ids=new, records={"price": [1] * n, "size": [len] * n})
        with pytest.raises(UnknownIdError):
            self.index.remove([*ids[:3], "nobody"])
        with pytest.raises(UnknownIdError):
            self.index.update_records([*ids[:1], "nobody"], {"x": [1] * (1 + len(ids[:1]))})

    # Questions.

    @rule(queries=some_vectors, k=st.integers(1, 30), exact=st.booleans(), data=st.data())
    def search(self, queries: Any, k: int, exact: bool, data: Any) -> None:
        where, params, allowed = self.draw_filter(data)
        options = {"where": where, "params": params, "exact": exact}
        found = self.index.search(queries, k, **options)
        distances, rows = self.index.kneighbors(queries, k, **options)
        assert np.array_equal(found.rows, rows)
        assert np.array_equal(found.distances, distances)
        assert distances.shape == rows.shape == (len(queries), k)
        ids, n = list(self.vectors), min(k, len(allowed))
        assert found.ids == [[ids[row] for row in some[:n]] for some in rows]
        assert (rows[:, n:] == -1).all()
        assert np.isinf(distances[:, n:]).all()
        assert (np.diff(distances[:, :n], axis=1) >= 0).all()
        for place, some in enumerate(found.ids):
            assert len(set(some)) == n
            assert set(some) <= allowed
            assert found.records[place] == [self.whole_record(one) for one in some]
            true = self.distances(queries[place : place + 1], some)[0]
            np.testing.assert_allclose(distances[place, :n], true, **self.tolerance(exact))
        if exact or self.algorithm == "exact":
            nearest = np.sort(self.distances(queries, sorted(allowed, key=ids.index)), axis=1)[
                :, :n
            ]
            np.testing.assert_allclose(distances[:, :n], nearest, **self.tolerance(True))

    @rule(k=st.integers(1, 9))
    def search_for_itself(self, k: int) -> None:
        distances, rows = self.index.kneighbors(None, k, exact=True)
        ids, n = list(self.vectors), min(k, len(self.vectors) - 1)
        assert rows.shape == (len(ids), k)
        for row in range(len(ids)):
            others = self.distances([self.vectors[ids[row]]], ids[:row] + ids[row + 1 :])
            assert row not in rows[row]
            assert (rows[row] >= 0).sum() == n
            nearest = np.sort(others, axis=1)[0, :n]
            np.testing.assert_allclose(distances[row, :n], nearest, **self.tolerance(True))

    @rule(queries=some_vectors, data=st.data(), radius=st.sampled_from([-3.1, 0.0, 0.3, 1.6, 1e9]))
    def search_within(self, queries: Any, data: Any, radius: float) -> None:
        where, params, allowed = self.draw_filter(data)
        distances, rows = self.index.radius_neighbors(queries, radius, where=where, params=params)
        ids, slack = list(self.vectors), 1e-3
        true = self.distances(queries, ids)
        keep = np.array([one in allowed for one in ids], bool)
        for place, some in enumerate(rows.tolist()):
            assert (np.diff(distances[place]) >= 0).all()
            assert len(set(some)) == len(some)
            assert set(some) >= set(np.flatnonzero(keep & (true[place] < radius - slack)))
            assert set(some) <= set(np.flatnonzero(keep & (true[place] < radius + slack)))

    @precondition(lambda self: self.metric != "ip")
    @rule()
    def look_for_copies(self) -> None:
        """No two other vectors are so near, so that the groups are known."""
        groups: dict[Any, list[Any]] = {}
        for one, vector in self.vectors.items():
            key: Any = tuple(vector)
            if self.metric == "cosine":
                length = np.linalg.norm(vector)
                key = tuple(np.round(np.divide(vector, length), 4) + 0.0) if length else one
            groups.setdefault(key, []).append(one)
        wanted = [group for group in groups.values() if len(group) > 1]
        assert self.index.near_duplicates(1e-7) == wanted

    # What always holds.

    @invariant()
    def the_same_is_there(self) -> None:
        if not hasattr(self, "index"):
            return
        ids = list(self.vectors)
        assert list(self.index) == ids
        assert len(self.index) == self.index.n_samples_fit_ == len(ids)
        assert all(one in self.index for one in ids)
        assert not any(one in self.index for one in IDS if one not in self.vectors)
        assert list(self.index.columns_) == self.columns
        stored = self.index.vectors_
        wanted = np.array(list(self.vectors.values()), float).reshape(-1, 3)
        if self.metric == "cosine":
            norms = np.linalg.norm(wanted, axis=1, keepdims=True)
            wanted = np.divide(wanted, norms, out=wanted, where=norms > 0)
        np.testing.assert_allclose(stored, wanted, rtol=1e-6, atol=1e-7)

    # The model.

    def note(self, ids: list[Any], vectors: Any, records: list[dict[str, Any]] | None) -> None:
        if records:
            self.learn_columns(records[0])
        for row, one in enumerate(ids):
            self.vectors[one] = vectors[row]
            if records is not None or one not in self.records:
                self.records[one] = dict(records[row]) if records else {}
            if isinstance(one, int):
                self.next_id = max(self.next_id, one + 1)

    def learn_columns(self, names: Any) -> None:
        self.columns += [name for name in names if name not in self.columns]

    def whole_record(self, one: Any) -> dict[str, Any]:
        return {name: self.records[one].get(name) for name in self.columns}

    def draw_records(self, data: Any, n: int) -> list[dict[str, Any]] | None:
        names = data.draw(st.sampled_from([None, ["price"], ["colour"], ["price", "colour"]]))
        if names is None:
            return None
        kinds = {"price": prices, "colour": colours}
        return [{name: data.draw(kinds[name]) for name in names} for _ in range(n)]

    def draw_filter(self, data: Any) -> tuple[Any, Any, set[Any]]:
        """A filter, its parameters, and the ids that it keeps."""
        ids = list(self.vectors)
        kind = data.draw(st.sampled_from(["none", "price", "colour", "mask", "ids"]))
        if kind == "mask":
            mask = np.array([data.draw(st.booleans()) for _ in ids], bool)
            return mask, None, {ids[row] for row in np.flatnonzero(mask)}
        if kind == "ids" and ids:
            chosen = data.draw(st.lists(st.sampled_from(ids), max_size=5))
            if not all(isinstance(one, bool) for one in chosen):
                return chosen, None, set(chosen)
        if kind == "price" and "price" in self.columns:
            cheap = {i for i in ids if (self.records[i].get("price") or 1000) < 100}
            return "price < :most", {"most": 100}, cheap
        if kind == "colour" and "colour" in self.columns:
            others = {i for i in ids if self.records[i].get("colour") != "red"}
            return "colour IS NOT ?", ("red",), others
        return None, None, set(ids)

    def distances(self, queries: Any, ids: list[Any]) -> Floats:
        vectors = np.array([self.vectors[one] for one in ids], float).reshape(-1, 3)
        return brute_force(vectors, queries, self.metric)

    def tolerance(self, exact: bool) -> dict[str, float]:
        # The graph computes in float32: squares, of which it takes the root.
        return {"rtol": 1e-5, "atol": 1e-5} if exact else {"rtol": 1e-4, "atol": 2e-3}


class GraphAndModel(IndexAndModel):
    """The same with a graph that is used and extended all the time."""

    algorithm = "hnsw"

    def __init__(self) -> None:
        super().__init__()
        self.stack.enter_context(busy_graphs())


def as_given(records: list[dict[str, Any]] | None, data: Any) -> Any:
    """Records in one of the forms that users have."""
    if records is None or data.draw(st.booleans()):
        return records
    return {name: [record[name] for record in records] for name in records[0]}


@pytest.mark.parametrize("machine", [IndexAndModel, GraphAndModel])
def test_an_index_holds_what_a_model_holds(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
    )


@pytest.fixture
def shop() -> NearestNeighborIndex:
    """Six points on a line with names, prices and colours."""
    return NearestNeighborIndex(2, "euclidean").fit(
        np.arange(6.0)[:, None],
        ids=list("abcdef"),
        records={"price": [10, 20, 30, 40, 50, None], "colour": ["red", "blue"] * 3},
    )


def test_every_call_before_fit_says_so() -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "add": ([[0.0]],), "upsert": ([[0.0]], ["a"]), "remove": (["a"],), "compact": (),
        "update_records": (["a"], [{}]), "kneighbors": (), "search": ([[0.0]],),
        "radius_neighbors": (), "near_duplicates": (), "calibrate": (), "recall_curve": (),
        "transform": ([[0.0]],), "save": ("nowhere",), "check_embedder": (None,),
        "vectors_at": ([0],), "select": (), "get_feature_names_out": (), "__len__": (),
        "__iter__": (), "__contains__": ("a",),
    }  # fmt: skip
    others = {"fit", "fit_transform", "load", "get_params", "set_params", "set_output",
              "get_metadata_routing"}  # fmt: skip
    public = {
        name
        for name, _ in inspect.getmembers(NearestNeighborIndex, callable)
        if (not name.startswith("_") and not name.startswith("set_")) or name in others
    }
    assert public - others <= set(arguments), "a public method is not tested here"
    for name, given in arguments.items():
        with pytest.raises(NotFittedError):
            getattr(NearestNeighborIndex(), name)(*given)
    attributes = ("n_samples_fit_", "vectors_", "algorithm_", "ef_search_", "recall_estimate_",
                  "columns_", "fingerprint_", "storage_recall_", "n_features_in_")  # fmt: skip
    for name in attributes:
        assert not hasattr(NearestNeighborIndex(), name)


def test_rows_close_up_and_ids_stay(shop: NearestNeighborIndex) -> None:
    shop.remove(["b", "e"])
    assert list(shop) == list("acdf")
    distances, rows = shop.kneighbors([[5.0]], 3)
    assert rows.tolist() == [[3, 2, 1]]
    assert distances.tolist() == [[0, 2, 3]]
    assert shop.vectors_.ravel().tolist() == [0, 2, 3, 5]
    assert shop.kneighbors([[5.0]], 4, where=[False, True, True, False])[1].tolist() == [
        [2, 1, -1, -1]
    ]


def test_a_replaced_vector_keeps_its_row_and_is_found_at_its_new_place_only(
    shop: NearestNeighborIndex,
) -> None:
    shop.upsert([[9.0], [7.0]], ["b", "new"], records=[{"price": 1}, {"price": 2}])
    assert list(shop) == [*"abcdef", "new"]
    found = shop.search([[1.0], [9.0]], 2)
    assert found.ids == [["a", "c"], ["b", "new"]]
    assert found.records[1] == [{"price": 1, "colour": None}, {"price": 2, "colour": None}]
    shop.upsert([[8.0]], ["b"])
    assert shop.search([[8.0]], 1).records == [[{"price": 1, "colour": None}]]


def test_default_ids_go_on_after_removals() -> None:
    index = NearestNeighborIndex(1, "euclidean").fit([[0.0], [1.0], [2.0]])
    index.remove([2, 0]).add([[3.0], [4.0]])
    assert list(index) == [1, 3, 4]
    assert list(index.compact().add([[5.0]])) == [1, 3, 4, 5]
    index.add([[6.0]], ids=[100]).add([[7.0]])
    assert list(index)[-2:] == [100, 101]


def test_an_index_may_become_empty_and_full_again(shop: NearestNeighborIndex) -> None:
    shop.remove(list("abcdef"))
    assert len(shop) == 0
    assert list(shop) == []
    assert bool(shop)
    distances, rows = shop.kneighbors([[1.0], [2.0]], 3)
    assert (rows == -1).all()
    assert np.isinf(distances).all()
    assert rows.shape == (2, 3)
    found = shop.search([[1.0]], where="price < 5")
    assert (found.ids, found.records) == ([[]], [[]])
    assert shop.kneighbors()[1].shape == (0, 2)
    assert [len(some) for some in shop.radius_neighbors([[1.0]], 5.0)[1]] == [0]
    assert shop.near_duplicates(1.0) == []
    with pytest.warns(UserWarning, match="holds 0 neighbours a row"):
        assert shop.transform([[1.0]]).shape == (1, 0)
    assert shop.vectors_.shape == (0, 1)
    with pytest.raises(ValueError, match="pair"):
        shop.calibrate()
    assert pickle.loads(pickle.dumps(shop)).compact().add([[1.0]], ids=["z"]).search(
        [[1.0]], 1
    ).ids == [["z"]]


def test_filters_may_keep_nothing(shop: NearestNeighborIndex) -> None:
    for nothing in ("price > 1000", [], np.zeros(6, bool), "colour = 'green'", "NULL"):
        found = shop.search([[1.0], [2.0]], 3, where=nothing)
        assert found.ids == [[], []]
        assert (found.rows == -1).all()
        assert [len(some) for some in shop.radius_neighbors([[1.0]], 9.0, where=nothing)[0]] == [0]


def test_a_filter_holds_for_the_own_vectors_too(shop: NearestNeighborIndex) -> None:
    rows = shop.kneighbors(None, 2, False, where="colour = 'red'")
    assert rows.tolist() == [[2, 4], [0, 2], [0, 4], [2, 4], [2, 0], [4, 2]]
    rows = shop.radius_neighbors(None, 2.0, return_distance=False, where=["a", "b"])
    assert [some.tolist() for some in rows] == [[1], [0], [1, 0], [1], [], []]


def test_ids_of_all_kinds_are_found_and_come_back() -> None:
    ids = ["é", 5, -1.5, True, None, b"\x00", ("a", (1, None)), PurePosixPath("x/y.jpg"),
           datetime.date(2020, 1, 2), uuid.UUID(int=7), 2**70, ""]  # fmt: skip
    index = NearestNeighborIndex(1, "euclidean").fit(np.arange(12.0)[:, None], ids=ids)
    again = pickle.loads(pickle.dumps(index))
    for one in (index, again):
        assert list(one) == ids
        assert [type(got) for got in one] == [type(wanted) for wanted in ids]
        assert one.search(np.arange(12.0)[:, None]).ids == [[wanted] for wanted in ids]
    assert 1 in index  # as in a set, where 1 is True
    assert 5.0 in index
    assert [] not in index
    assert float("nan") not in index
    index.remove([1, None])
    assert True not in index
    assert None not in index


def test_more_neighbours_than_there_are_come_padded(shop: NearestNeighborIndex) -> None:
    distances, rows = shop.kneighbors([[0.0]], 10_000)
    assert rows.shape == (1, 10_000)
    assert rows[0, :6].tolist() == list(range(6))
    assert (rows[0, 6:] == -1).all()
    assert np.isinf(distances[0, 6:]).all()


def test_it_compacts_itself_when_more_than_a_third_is_not_in_use() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 4))
    with busy_graphs():
        index = NearestNeighborIndex(5, "euclidean", "hnsw", ef_search=300).fit(vectors)
        nodes = index._collection.nodes
        index.remove(range(90))
        assert index._collection.nodes is nodes
        index.remove(range(90, 101))
        assert index._collection.nodes is not nodes
        assert len(index._collection.nodes) == index._collection.items.n_slots == 199
        assert list(index) == list(range(101, 300))
        wanted = brute_force(vectors[101:], vectors[:20], "euclidean").argsort(axis=1)[:, :5]
        assert np.array_equal(index.kneighbors(vectors[:20])[1], wanted)
        nodes = index._collection.nodes
        index.upsert(vectors[101:] + 1, list(index))
        assert len(index._collection.nodes) == 199
        assert index._collection.nodes is not nodes


def test_a_compaction_without_memory_is_left_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    index = NearestNeighborIndex(1, "euclidean").fit(np.arange(9.0)[:, None])
    with monkeypatch.context() as patched:

        def fail(*_: Any) -> None:
            raise MemoryError

        patched.setattr(type(index._collection), "compact", fail)
        index.remove(range(5))
        assert list(index) == [5, 6, 7, 8]
        with pytest.raises(MemoryError):
            index.compact()
    assert index.kneighbors([[6.0]])[1].tolist() == [[1]]
    index.remove([5])
    assert index._collection.items.n_slots == 3


def test_the_same_life_gives_the_same_bytes() -> None:
    def lived() -> bytes:
        rng = np.random.default_rng(0)
        with busy_graphs():
            index = NearestNeighborIndex(3, algorithm="hnsw", ef_construction=30)
            index.fit(rng.normal(size=(60, 5)), records={"x": range(60)})
            index.add(rng.normal(size=(30, 5))).remove([3, 61]).upsert(
                rng.normal(size=(5, 5)), [1, 2, 4, 5, 200]
            )
            index.update_records([1], {"x": [7]})
        return pickle.dumps(index._collection.parts())

    assert lived() == lived()


# What distances mean.


def test_calibrated_searches_may_find_no_good_match() -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(40, 16)), 2, axis=0) + 0.02 * rng.normal(size=(80, 16))
    index = NearestNeighborIndex(3, "cosine").fit(vectors, ids=[f"v{row}" for row in range(80)])
    copies = [(f"v{row}", f"v{row + 1}") for row in range(0, 80, 2)]
    others = [(f"v{row}", f"v{(row + 9) % 80}") for row in range(80)]
    calibration = index.calibrate([*copies, *others], [True] * 40 + [False] * 80)
    assert index.calibration_ is calibration
    strange = rng.normal(size=(1, 16))
    found = index.search(np.vstack([vectors[:1], strange]), min_probability=0.5)
    assert found.ids == [["v0", "v1"], []]
    assert (found.rows[1] == -1).all()
    assert found.probabilities is not None
    assert (found.probabilities[0, :2] > 0.9).all()
    assert found.probabilities[0, 2] == found.probabilities[1].max() == 0
    assert index.near_duplicates() == [list(pair) for pair in copies]
    rows = index.radius_neighbors(vectors[:2], return_distance=False)
    assert [some.tolist() for some in rows] == [[0, 1], [1, 0]]
    everything = index.search(strange)
    assert everything.probabilities is not None
    assert (np.diff(everything.probabilities) <= 0).all()
    assert list(everything.to_pandas().columns) == [
        "query", "rank", "id", "distance", "probability",
    ]  # fmt: skip


def test_random_pairs_calibrate_without_labels() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 24))
    vectors[200:250] = vectors[:50] + 0.02 * rng.normal(size=(50, 24))
    index = NearestNeighborIndex().fit(vectors)
    index.calibrate()
    assert index.near_duplicates() == [[row, row + 200] for row in range(50)]
    assert pickle.loads(pickle.dumps(index)).near_duplicates() == index.near_duplicates()
    index.add(vectors[:1])
    assert index.near_duplicates()[0] == [0, 200, 300]
    assert index.fit(vectors).calibration_ is None


# Who filled it.


class Painter:
    """What an index asks of an embedder."""

    def __init__(self, **parts: Any) -> None:
        self.parts = parts

    def fingerprint_parts(self) -> dict[str, Any]:
        return self.parts

    def fingerprint(self) -> str:
        return f"{sorted(self.parts.items())}".encode().hex()


def test_vectors_of_another_embedder_are_refused_with_the_difference() -> None:
    one, other = Painter(brush="wide", paint=3), Painter(brush="fine", paint=3)
    index = NearestNeighborIndex(1).fit(np.eye(3), embedder=one)
    assert index.fingerprint_ == one.fingerprint()
    query = np.eye(3)
    calls: list[Callable[[Any], Any]] = [
        lambda embedder: index.kneighbors(query, embedder=embedder),
        lambda embedder: index.search(query, embedder=embedder),
        lambda embedder: index.radius_neighbors(query, 0.5, embedder=embedder),
        lambda embedder: index.upsert(query, [0, 1, 2], embedder=embedder),
        lambda embedder: index.add(query, embedder=embedder),
        lambda embedder: index.check_embedder(embedder),
    ]
    for call in calls:
        with pytest.raises(FingerprintError, match=r"brush was .wide. and is .fine.") as caught:
            call(other)
        assert "paint" not in str(caught.value)
    assert len(index) == 3
    for call in calls:
        call(Painter(brush="wide", paint=3))
        call(None)
    again = pickle.loads(pickle.dumps(index))
    with pytest.raises(FingerprintError):
        again.search(query, embedder=other)
    index.fit(query, embedder=other).search(query, embedder=other)
    assert NearestNeighborIndex().fit(query).fingerprint_ is None


# Less space.


@pytest.mark.parametrize(
    ("storage", "bytes_each", "least"), [("float16", 2, 0.99), ("int8", 1, 0.9)]
)
@pytest.mark.parametrize("metric", METRICS)
def test_small_storage_takes_little_space_and_finds_nearly_the_same(
    metric: str, storage: str, bytes_each: int, least: float
) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 300)) + 0.5
    queries = vectors[:50] + 0.5 * rng.normal(size=(50, 300))
    with busy_graphs():
        index = NearestNeighborIndex(10, metric, "hnsw", storage=storage, ef_search=200)
        index.fit(vectors[:350]).add(vectors[350:])
        distances, rows = index.kneighbors(queries)
        scanned = index.kneighbors(queries, exact=True)[1]
    assert index._collection.nodes.store.arrays()[0].nbytes == 400 * 300 * bytes_each
    # The distances are those to what is stored, also of what the graph found on fewer axes.
    stored = brute_force(index.vectors_, queries, metric)
    chosen = np.take_along_axis(stored, rows, axis=1)
    np.testing.assert_allclose(distances, chosen, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(index.vectors_, _as_stored(vectors, metric), atol=0.05)
    wanted = brute_force(vectors, queries, metric).argsort(axis=1)[:, :10]
    assert _overlap(scanned, wanted) >= least
    assert _overlap(rows, wanted) >= least - 0.05


def test_copies_are_copies_in_small_storage() -> None:
    vectors = np.repeat(np.random.default_rng(0).normal(size=(8, 5)), 3, axis=0)
    for storage in ("float16", "int8"):
        index = NearestNeighborIndex(3, storage=storage).fit(vectors)
        assert len(index._collection.nodes) == 8
        index.remove([0, 4]).add(vectors[:2])
        assert index.near_duplicates(1e-6)[0] == [1, 2, 24, 25]
        assert index.kneighbors(vectors[:1])[0].max() < 1e-3


def test_conditions_cannot_do_anything_else(shop: NearestNeighborIndex) -> None:
    for attack in (
        "1; DELETE FROM imgembed_items", "price = (SELECT max(price) FROM imgembed_items)",
        "randomblob(1000000000) IS NOT NULL", "writefile('x', 'y')", "1 UNION SELECT 1",
        "price < 1) OR EXISTS (SELECT 1", "colour = 'red'; --", "key = 1", "c0 = 1",
    ):  # fmt: skip
        with pytest.raises(WhereError):
            shop.search([[0.0]], where=attack)
    name = "x' OR '1' = '1"
    assert shop.search([[0.0]], where="colour = ?", params=(name,)).ids == [[]]
    assert len(shop) == 6


def _as_stored(vectors: Floats, metric: str) -> Floats:
    return (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if metric == "cosine" else vectors
    )


def _overlap(found: Any, wanted: Any) -> float:
    shares = [len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted, strict=True)]
    return float(np.mean(shares))


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("metric", ["euclidean", "ip"])
def test_vectors_of_one_direction_and_other_lengths_are_not_equal(
    metric: str, storage: str
) -> None:
    vectors = np.array([[1.0, 2.0], [2.0, 4.0], [1.0, 2.0], [-0.0, 3.0], [0.0, 3.0]])
    index = NearestNeighborIndex(metric=metric, storage=storage).fit(vectors)
    assert index._collection.items.node_of.tolist() == [0, 1, 0, 2, 2]
    np.testing.assert_allclose(index.vectors_, vectors, rtol=0.01)
    index.add(4 * vectors[:2])
    assert index._collection.items.node_of.tolist() == [0, 1, 0, 2, 2, 3, 4]
