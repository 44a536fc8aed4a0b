"""MilvusIndex against real servers: the contract of all indexes, and what is its own."""

import pickle
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from milvus_server import MilvusServer
from numpy.typing import NDArray
from pymilvus import MilvusClient

from imgembed import (
    FingerprintError,
    HOGEmbedder,
    ImageSearch,
    MilvusIndex,
    NearestNeighborIndex,
    QueryExpansion,
    ServerError,
    ServerTableError,
    ServerVersionError,
    WhereError,
)
from imgembed.servers import _milvus_decided, _milvus_store
from imgembed.servers._milvus_state import STATES
from imgembed.servers._milvus_store import MilvusStore
from imgembed.testing import check_index

pytestmark = pytest.mark.milvus


@pytest.fixture(scope="module", params=["lite", "core"])
def server(request: pytest.FixtureRequest) -> Iterator[MilvusServer]:
    running = MilvusServer(request.param)
    yield running
    running.stop()


@pytest.fixture
def client(server: MilvusServer) -> Iterator[MilvusClient]:
    connected = MilvusClient(server.uri, dedicated=True)
    yield connected
    connected.close()


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)


def recall(index: MilvusIndex, queries: NDArray[np.float32], **asked: Any) -> float:
    """The share of the ten true neighbours that are found."""
    found = index.kneighbors(queries, 10, **asked)[0]
    exact = index.kneighbors(queries, 10, exact=True, **asked)[0]
    return float((found <= exact[:, -1:] + 1e-6).mean())


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "ip"])
@pytest.mark.parametrize("algorithm", ["auto", "hnsw"])
def test_the_contract_of_all_indexes_holds(
    server: MilvusServer, metric: str, algorithm: str
) -> None:
    check_index(MilvusIndex(server.uri, "contract", metric=metric, algorithm=algorithm))


def test_an_index_is_loaded_with_the_parameters_it_was_fitted_with(
    server: MilvusServer, vectors: NDArray[np.float32]
) -> None:
    fitted = MilvusIndex(server.uri, "loaded", 7, "euclidean", "hnsw", M=8, ef_construction=50).fit(
        vectors, records={"price": range(300)}
    )
    loaded = MilvusIndex.load(server.uri, "loaded")
    assert loaded.get_params() == fitted.get_params()
    assert loaded.columns_ == {"price": "integer"}
    assert np.array_equal(loaded.kneighbors(vectors[:3])[1], fitted.kneighbors(vectors[:3])[1])
    loaded.add(vectors[:1], ids=["new"])
    assert "new" in fitted


def test_there_and_back_all_is_the_same(server: MilvusServer, vectors: NDArray[np.float32]) -> None:
    embedder = HOGEmbedder()
    records = {
        "price": [None, *range(299)],
        "name": [f"n{row}" for row in range(300)],
        "raw": [bytes([row % 256, 0]) for row in range(300)],
        "big": [2**62 + row for row in range(300)],
        "tenth": [row / 10 for row in range(300)],
    }
    ids = [("a", row) for row in range(300)]
    index = NearestNeighborIndex(8).fit(vectors, ids=ids, records=records, embedder=embedder)
    index.remove([("a", 3)])
    there = MilvusIndex.from_index(index, server.uri, "moved")
    back = there.to_index()
    for other in (there, back):
        assert list(other) == list(index)
        assert other.columns_ == index.columns_
        assert other.fingerprint_ == embedder.fingerprint()
        for where in ("price > 20", "raw = x'0500'", f"big > {2**62 + 250}"):
            found = other.search(vectors[:5], where=where)
            wanted = index.search(vectors[:5], where=where)
            assert found.ids == wanted.ids
            assert found.records == wanted.records


def test_image_search_works_over_it(server: MilvusServer) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (40, 40, 3), np.uint8) for _ in range(12)]
    records = [{"price": price} for price in range(12)]
    expansion = QueryExpansion(n_neighbors=2)
    searches = [
        ImageSearch(HOGEmbedder(), index, expansion=expansion).fit(images[:10], records[:10])
        for index in (MilvusIndex(server.uri, "images"), None)
    ]
    for search in searches:
        search.remove([2, 5]).add(images[10:], records[10:]).update_records([1], {"price": [99]})
    for asked in (
        {"images": images[4]},
        {"ids": [1, 11]},
        {"images": images[1], "where": "price > 5"},
    ):
        results = [search.search(**asked) for search in searches]
        assert np.array_equal(results[0].ids, results[1].ids)
        assert results[0].records == results[1].records
    with pytest.raises(TypeError, match="a server holds"):
        searches[0].save("nowhere")
    searches[0].embedder_.set_params(n_orientations=5)
    with pytest.raises(FingerprintError):
        searches[0].search(images[0])


def test_the_graph_reaches_the_recall_with_filters_too(server: MilvusServer) -> None:
    if server.kind == "lite":
        pytest.skip("filters of milvus-lite say nothing of those of Milvus")
    rng = np.random.default_rng(0)
    many = rng.normal(size=(12_000, 24)).astype(np.float32)
    queries = rng.normal(size=(50, 24)).astype(np.float32)
    index = MilvusIndex(server.uri, "many", 10)
    index.fit(many[:9_999], records={"share": rng.random(9_999)})
    assert index.algorithm_ == "exact"
    index.add(many[9_999:], records={"share": rng.random(2_001)})
    assert index.algorithm_ == "hnsw"
    estimate = index.recall_estimate_
    assert (estimate.n_queries, estimate.n_neighbors) == (100, 10)
    assert estimate.recall >= 0.95
    for share in (1.0, 0.5, 0.1, 0.01, 0.001):
        found = recall(index, queries, where="share < ?", params=(share,))
        assert found >= 0.95, f"with a filter that keeps {share}"
    assert (index.kneighbors(queries, 10, where="share < 0.0005")[1] >= 0).any()


def test_equal_vectors_do_not_hide_the_others(
    server: MilvusServer, vectors: NDArray[np.float32]
) -> None:
    copies = np.concatenate([np.repeat(vectors[:1], 200, axis=0), vectors])
    index = MilvusIndex(server.uri, "copies", algorithm="hnsw").fit(copies)
    rows = index.kneighbors(vectors[:1], 300)[1]
    assert (rows >= 0).all()
    assert len(set(rows[0].tolist())) == 300


def test_awkward_names_are_only_names(server: MilvusServer, vectors: NDArray[np.float32]) -> None:
    names = ['say "x"', "50% off", "like", "é", "a'b", "$meta", "Price", "c_1", "exists", "0"]
    records = {name: list(range(300)) for name in names}
    index = MilvusIndex(server.uri, "names").fit(vectors, records=records)
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        assert index.search(vectors[:1], where=f"{quoted} = 17").ids == [[17]]
    index.upsert(vectors[:1], [0], records={"50% off": [1000]})
    index.update_records([1], {"c_1": [1000]})
    assert index.search(vectors[:1], where='"50% off" = 1000').ids == [[0]]
    assert index.search(vectors[:1], where="c_1 = 1000").ids == [[1]]
    with pytest.raises(ValueError, match="65000 bytes"):
        index.add(vectors[:1], records={"é": [1], "text": ["x" * 70_000]})
    with pytest.raises(ValueError, match="keeps no inf"):
        index.add(vectors[:1], records={"real": [float("inf")]})
    assert len(index) == 300


def test_texts_come_back_and_are_found_as_they_are(
    server: MilvusServer, vectors: NDArray[np.float32]
) -> None:
    texts = [
        '"',
        "'",
        "\\",
        "\n",
        "\r\t",
        "é",
        "\U0001f600",
        "\\n",
        '\\"',
        "",
        " ",
        "\x01",
        "%",
        "]",
    ]
    index = MilvusIndex(server.uri, "texts").fit(
        vectors[: len(texts)], ids=[f"id {one}" for one in texts], records={"text": texts}
    )
    for text in texts:
        for where, value in (("text = ?", text), ("id = ?", f"id {text}"), ("text IN (?)", text)):
            found = index.search(vectors[:1], where=where, params=(value,))
            assert found.ids == [[f"id {text}"]], (where, text)
            assert found.records == [[{"text": text}]]
        assert f"id {text}" in index


def test_too_many_items_are_not_read_for_a_condition(
    server: MilvusServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = MilvusIndex(server.uri, "read").fit(vectors, records={"n": range(300)})
    monkeypatch.setattr(_milvus_decided, "MOST_READ", 100)
    with pytest.raises(WhereError, match=r"300 items are too many to read \(at most 100\).*AND"):
        index.search(vectors[:1], where="n % 2 = 1")
    found = index.search(vectors[:1], 300, where="n % 2 = 1 AND n < 50")
    assert sorted(found.ids[0]) == list(range(1, 50, 2))


def test_more_neighbours_than_milvus_finds_are_found_here(
    server: MilvusServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = MilvusIndex(server.uri, "manyfound").fit(vectors)
    wanted = index.kneighbors(vectors[:4], 250)
    monkeypatch.setattr("imgembed.servers._milvus_store.LARGEST_K", 200)
    found = index.kneighbors(vectors[:4], 250)
    assert np.array_equal(found[1], wanted[1])
    assert np.allclose(found[0], wanted[0], atol=1e-6)


def test_a_collection_that_is_no_index_is_left_alone(
    server: MilvusServer, client: MilvusClient, vectors: NDArray[np.float32]
) -> None:
    client.create_collection("mine", dimension=4)
    with pytest.raises(ServerTableError, match="is no index of imgembed"):
        MilvusIndex(server.uri, "mine").fit(vectors)
    assert client.describe_collection("mine")["collection_name"] == "mine"
    with pytest.raises(ServerTableError, match="no index 'nowhere'"):
        MilvusIndex.load(server.uri, "nowhere")


def test_a_fit_that_fails_leaves_what_was_there_and_nothing_else(
    server: MilvusServer, client: MilvusClient, vectors: NDArray[np.float32]
) -> None:
    index = MilvusIndex(server.uri, "stays").fit(vectors, ids=range(300))
    with pytest.raises(ValueError, match="holds integer values"):
        index.fit(vectors[:2], records={"a": [1, "x"]})
    assert len(index) == 300
    client.create_collection("stays_imgembed_0123abcd", dimension=4)  # of a fit that was killed
    index.fit(vectors[:5])
    assert len(index) == 5
    own = [name for name in client.list_collections() if name.startswith("stays")]
    assert len(own) == 1


def test_an_index_of_a_newer_imgembed_is_refused(
    server: MilvusServer, client: MilvusClient, vectors: NDArray[np.float32]
) -> None:
    MilvusIndex(server.uri, "newer").fit(vectors)
    row = client.query(STATES, filter='index_name == "newer"', output_fields=["*"])[0]
    row["state"] = row["state"].replace('"format": 1', '"format": 2')
    client.upsert(STATES, [dict(row)])
    with pytest.raises(ServerVersionError, match="newer imgembed"):
        MilvusIndex.load(server.uri, "newer")


def test_another_program_sees_a_fit_a_change_and_a_new_fit(
    server: MilvusServer, vectors: NDArray[np.float32]
) -> None:
    index = MilvusIndex(server.uri, "both").fit(vectors)
    other = pickle.loads(pickle.dumps(index))
    assert len(other) == 300
    index.remove([0, 7]).add(vectors[:2], ids=["a", "b"])
    assert list(other)[-1] == "b"
    assert other.kneighbors(vectors[:1], 1)[1] == [[298]]
    index.fit(vectors[:10])
    assert other.kneighbors(vectors[3:4], 1)[1] == [[3]]
    assert len(other) == 10


def test_a_second_writer_is_noticed_and_told(
    server: MilvusServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = MilvusIndex(server.uri, "writers").fit(vectors)
    other = MilvusIndex.load(server.uri, "writers")
    made = _milvus_store.made
    is_first = True

    def interrupted(*args: Any) -> Any:
        nonlocal is_first
        if is_first:
            is_first = False
            index.upsert(vectors[:2], ["a", "b"])
        return made(*args)

    monkeypatch.setattr(_milvus_store, "made", interrupted)
    with pytest.raises(ServerError, match=r"another program changed.*upsert the same items"):
        other.upsert(vectors[2:4], ["c", "d"])
    other.upsert(vectors[2:4], ["c", "d"])
    for one in (index, other):
        assert set(one) == {*range(300), "a", "b", "c", "d"}
        assert len(one) == 304


def test_two_writers_at_the_same_moment_are_noticed_and_put_in_order(
    server: MilvusServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = MilvusIndex(server.uri, "moment").fit(vectors)
    other = MilvusIndex.load(server.uri, "moment")
    settled = MilvusStore._settled
    is_first = True

    def interrupted(*args: Any) -> Any:
        nonlocal is_first
        state = settled(*args)
        if is_first:
            is_first = False
            index.upsert(vectors[:2], ["a", "b"])
        return state

    monkeypatch.setattr(MilvusStore, "_settled", interrupted)
    with pytest.raises(ServerError, match=r"another program changed.*upsert the same items"):
        other.upsert(vectors[2:4], ["c", "d"])
    other.upsert(vectors[2:4], ["c", "d"])
    for one in (index, other):
        assert set(one) == {*range(300), "a", "b", "c", "d"}
        assert len(one) == 304
        rows = one.kneighbors(vectors[:4], 304, exact=True)[1]
        assert np.array_equal(np.sort(rows, axis=1), np.tile(np.arange(304), (4, 1)))


_WORDS = st.sampled_from(
    "price name id ( ) ' \" ; -- /* */ AND OR NOT IN LIKE = < > 1 'x' ? :v %s {} $meta [ ] :: , . "
    "== && || ! exists imgembed_key imgembed_slot secret json_contains ('x') NULL TRUE \\ \0 + - % "
    "é".split(" ")
)
_HOSTILE = [
    'imgembed_slot >= 0 or name == "x"',
    "name = '\" or imgembed_slot >= 0 or c_name == \"'",
    "name = '\\\" or true or \\\"'",
    "exists $meta",
    "json_contains(name, 'x')",
    "array_length(name) > 0",
    "text_match(name, 'x')",
    "imgembed_key = 'tx'",
    "name IN (SELECT word FROM secret)",
    "1=1); drop; --",
    "name LIKE 'a' ESCAPE '\"'",
    "name == 'x' && 1",
]


def test_hostile_conditions_change_nothing_and_read_nothing(
    server: MilvusServer, vectors: NDArray[np.float32]
) -> None:
    index = MilvusIndex(server.uri, "hostile").fit(
        vectors[:20], records={"price": range(20), "name": list("abcdefghijklmnopqrst")}
    )
    MilvusIndex(server.uri, "secret").fit(vectors[:1], ids=["word"])
    before = list(index), index.vectors_

    @settings(
        max_examples=1_000 if server.kind == "lite" else 200,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(st.one_of(st.sampled_from(_HOSTILE), st.lists(_WORDS, max_size=12).map(" ".join)))
    def attack(condition: str) -> None:
        try:
            found = index.search(vectors[:1], 20, where=condition)
        except WhereError:
            return
        assert set(found.ids[0]) <= set(range(20))
        assert "word" not in repr(found.records)

    attack()
    assert list(index) == before[0]
    assert np.array_equal(index.vectors_, before[1])
    assert list(MilvusIndex.load(server.uri, "secret")) == ["word"]


_NUMBERS = st.sampled_from("n r 0 1 -3 2.5 NULL n+1 abs(r)".split())
_CONDITIONS = st.recursive(
    st.one_of(
        st.tuples(_NUMBERS, st.sampled_from("= <> < <= > >= IS".split()), _NUMBERS).map(" ".join),
        st.tuples(st.just("t"), st.sampled_from("= <> < LIKE IS".split()),
                  st.sampled_from(["'a'", "'É%'", "''", "NULL", "' A'"])).map(" ".join),
        st.tuples(_NUMBERS, _NUMBERS, _NUMBERS).map("{0[0]} BETWEEN {0[1]} AND {0[2]}".format),
        st.sampled_from(["b", "n", "b IS TRUE", "b IS NOT FALSE", "t IS NULL", "n NOT IN (1, 2.5)",
                         "r IN (0.5, 2, -3)", "t NOT IN ('a', '')", "b IN (0, 1)", "id > 3",
                         "id IN (3, 4)", "id <> 5"]),
    ),
    lambda inner: st.one_of(
        inner.map("NOT ({})".format),
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(" ".join).map("({})".format),
    ),
    max_leaves=4,
)  # fmt: skip


def test_what_both_take_means_the_same_on_the_server_and_here(server: MilvusServer) -> None:
    texts = ["a", "A", " a ", "É%", "é%", "", "a_b", None]
    records = {
        "n": [None if row % 7 == 0 else row - 12 for row in range(40)],
        "r": [None if row % 9 == 0 else (row - 20) / 4 for row in range(40)],
        "b": [[True, False, None][row % 3] for row in range(40)],
        "t": [texts[row % 8] for row in range(40)],
    }
    vectors = np.random.default_rng(0).normal(size=(40, 4))
    both = [
        index.fit(vectors, records=records)
        for index in (MilvusIndex(server.uri, "same"), NearestNeighborIndex())
    ]
    n_compared = 0

    @settings(
        max_examples=300 if server.kind == "lite" else 60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(_CONDITIONS)
    def compare(condition: str) -> None:
        nonlocal n_compared
        try:
            kept = both[0].search(vectors[:1], 40, where=condition).ids[0]
        except WhereError:
            return
        n_compared += 1
        wanted = both[1].search(vectors[:1], 40, where=condition).ids[0]
        assert sorted(kept) == sorted(wanted), condition

    compare()
    assert n_compared > 40


def test_two_threads_search_while_a_third_changes(
    server: MilvusServer, vectors: NDArray[np.float32]
) -> None:
    index = MilvusIndex(server.uri, "threads").fit(vectors)
    other = pickle.loads(pickle.dumps(index))
    failures: list[BaseException] = []

    def search() -> None:
        try:
            for _ in range(10):
                assert (index.kneighbors(vectors[:3], 5)[1] >= 0).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(4):
        other.add(vectors[:2], records={f"new {number}": [1, 2]})
        if number == 1:
            other.fit(vectors)
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert len(index) == 304
