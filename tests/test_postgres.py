"""PostgresIndex against a real server: the contract of all indexes, and what is its own."""

import pickle
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from postgres_server import PostgresServer
from sklearn.base import clone
from where_strategies import CONDITIONS, HOSTILE, WORDS

from imgembed import (
    FingerprintError,
    HOGEmbedder,
    ImageSearch,
    NearestNeighborIndex,
    PostgresIndex,
    QueryExpansion,
    ServerTableError,
    ServerVersionError,
    WhereError,
)
from imgembed.testing import check_index

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    running = PostgresServer()
    yield running
    running.stop()


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)


def recall(index: PostgresIndex, queries: NDArray[np.float32], **asked: Any) -> float:
    """The share of the ten true neighbours that are found, as exact search on the server."""
    found = index.kneighbors(queries, 10, **asked)[0]
    exact = index.kneighbors(queries, 10, exact=True, **asked)[0]
    return float((found <= exact[:, -1:] + 1e-6).mean())


@pytest.mark.parametrize(
    "parameters",
    [
        {"metric": "cosine"},
        {"metric": "euclidean"},
        {"metric": "ip"},
        {"metric": "cosine", "algorithm": "hnsw"},
        {"metric": "euclidean", "algorithm": "hnsw", "partitions": 3},
    ],
    ids=str,
)
def test_the_contract_of_all_indexes_holds(
    server: PostgresServer, parameters: dict[str, Any]
) -> None:
    check_index(PostgresIndex(server.dsn, "contract", **parameters))


def test_an_index_is_loaded_with_the_parameters_it_was_fitted_with(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    fitted = PostgresIndex(
        server.dsn, "loaded", 7, "euclidean", "hnsw", M=8, ef_construction=50, partitions=2
    ).fit(vectors, records={"price": range(300)})
    loaded = PostgresIndex.load(server.dsn, "loaded")
    assert loaded.get_params() == fitted.get_params()
    assert loaded.columns_ == {"price": "integer"}
    assert np.array_equal(loaded.kneighbors(vectors[:3])[1], fitted.kneighbors(vectors[:3])[1])
    loaded.add(vectors[:1], ids=["new"])
    assert "new" in fitted


def test_there_and_back_all_is_the_same(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    embedder = HOGEmbedder()
    records = {"price": [None, *range(299)], "name": [f"n{row}" for row in range(300)]}
    ids = [("a", row) for row in range(300)]
    index = NearestNeighborIndex(8).fit(vectors, ids=ids, records=records, embedder=embedder)
    index.remove([("a", 3)])
    there = PostgresIndex.from_index(index, server.dsn, "moved")
    back = there.to_index()
    for other in (there, back):
        assert list(other) == list(index)
        assert other.columns_ == index.columns_
        assert other.fingerprint_ == embedder.fingerprint()
        found = other.search(vectors[:5], where="price > 20")
        assert found.ids == index.search(vectors[:5], where="price > 20").ids
        assert found.records == index.search(vectors[:5], where="price > 20").records


def test_image_search_works_over_it(server: PostgresServer) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (40, 40, 3), np.uint8) for _ in range(12)]
    records = [{"price": price} for price in range(12)]
    expansion = QueryExpansion(n_neighbors=2)
    searches = [
        ImageSearch(HOGEmbedder(), index, expansion=expansion).fit(images[:10], records[:10])
        for index in (PostgresIndex(server.dsn, "images"), None)
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


def test_wide_vectors_have_a_graph_in_half_precision_and_exact_distances(
    server: PostgresServer,
) -> None:
    wide = np.random.default_rng(0).normal(size=(120, 2_048)).astype(np.float32)
    index = PostgresIndex(server.dsn, "wide", metric="euclidean", algorithm="hnsw").fit(wide)
    assert index.algorithm_ == "hnsw"
    definitions = server.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'wide'")
    assert any("halfvec_l2_ops" in str(row[0]) for row in definitions)
    wanted = NearestNeighborIndex(metric="euclidean").fit(wide).kneighbors(wide[:4], 3)
    got = index.kneighbors(wide[:4], 3)
    assert np.array_equal(got[1], wanted[1])
    assert np.allclose(got[0], wanted[0], atol=1e-3)
    too_wide = np.zeros((3, 4_001), np.float32)
    with pytest.raises(ValueError, match=r"4001 features.*up to 4,000.*exact"):
        index.fit(too_wide)
    exact = clone(index).set_params(algorithm="exact", table="wider").fit(too_wide)
    assert exact.algorithm_ == "exact"
    assert len(index) == 120


def test_half_precision_takes_half(server: PostgresServer, vectors: NDArray[np.float32]) -> None:
    index = PostgresIndex(server.dsn, "half", algorithm="hnsw", storage="float16").fit(vectors)
    index.upsert(vectors[:2], [0, "new"]).add(vectors[:1])
    stored = server.execute("SELECT pg_typeof(imgembed_vector)::text FROM half LIMIT 1")
    assert stored == [("halfvec",)]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.abs(index.vectors_[:300] - unit).max() < 1e-3
    assert recall(index, vectors[:50]) > 0.95


def test_the_graph_reaches_the_recall_with_filters_too(server: PostgresServer) -> None:
    rng = np.random.default_rng(0)
    many = rng.normal(size=(12_000, 24)).astype(np.float32)
    queries = rng.normal(size=(50, 24)).astype(np.float32)
    index = PostgresIndex(server.dsn, "many", 10)
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
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    copies = np.concatenate([np.repeat(vectors[:1], 200, axis=0), vectors])
    index = PostgresIndex(server.dsn, "copies", algorithm="hnsw").fit(copies)
    rows = index.kneighbors(vectors[:1], 300)[1]
    assert (rows >= 0).all()
    assert len(set(rows[0].tolist())) == 300


def test_awkward_names_are_only_names(server: PostgresServer, vectors: NDArray[np.float32]) -> None:
    table = 'x"; DROP TABLE loaded; --'
    names = ['say "x"', "50% off", "select", "é", "a'b", "%(v0)s", "Price", "{0}"]
    records = {name: list(range(300)) for name in names}
    index = PostgresIndex(server.dsn, table).fit(vectors, records=records)
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        assert index.search(vectors[:1], where=f"{quoted} = 17").ids == [[17]]
    index.upsert(vectors[:1], [0], records={"50% off": [1000]})
    index.update_records([1], {"%(v0)s": [1000]})
    assert index.search(vectors[:1], where='"50% off" = 1000').ids == [[0]]
    with pytest.raises(ValueError, match="63 bytes"):
        index.add(vectors[:1], records={"é" * 40: [1]})
    with pytest.raises(ValueError, match="own column 'ctid'"):
        index.add(vectors[:1], records={"ctid": [1]})
    with pytest.raises(ValueError, match="NUL"):
        index.add(vectors[:1], records={"é": [1], "text": ["\0"]})
    assert len(index) == 300


def test_values_that_break_a_condition_are_a_where_error(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    records = {"n": [2**62] * 300}
    index = PostgresIndex(server.dsn, "breaks").fit(vectors, records=records)
    with pytest.raises(WhereError, match="out of range"):
        index.search(vectors[:1], where="n * n > 1")
    assert index.search(vectors[:1], where="n / 0 IS NULL").ids[0]


def test_hostile_conditions_change_nothing_and_read_nothing(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    index = PostgresIndex(server.dsn, "hostile", timeout=5).fit(
        vectors[:20], records={"price": range(20), "name": list("abcdefghijklmnopqrst")}
    )
    server.execute("CREATE TABLE secret AS SELECT 'word' AS word")
    before = server.execute("SELECT md5(string_agg(h::text, '' ORDER BY h)) FROM hostile h")
    ids = set(range(20))
    kept = []

    @settings(
        max_examples=1_000,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(st.one_of(st.sampled_from(HOSTILE), st.lists(WORDS, max_size=12).map(" ".join)))
    def attack(condition: str) -> None:
        try:
            found = index.search(vectors[:1], 20, where=condition)
        except WhereError:
            return
        kept.append(condition)
        assert set(found.ids[0]) <= ids
        assert "word" not in repr(found.records)

    attack()
    assert server.execute("SELECT md5(string_agg(h::text, '' ORDER BY h)) FROM hostile h") == before
    assert server.execute("SELECT word FROM secret") == [("word",)]
    assert len(index) == 20


def test_what_both_take_means_the_same_on_the_server_and_here(server: PostgresServer) -> None:
    rng = np.random.default_rng(0)
    texts = ["a", "A", " a ", "É%", "é%", "", "a_b", None]
    records = {
        "n": [None if row % 7 == 0 else row - 12 for row in range(40)],
        "r": [None if row % 9 == 0 else (row - 20) / 4 for row in range(40)],
        "b": [[True, False, None][row % 3] for row in range(40)],
        "t": [texts[row % 8] for row in range(40)],
    }
    vectors = rng.normal(size=(40, 4))
    both = [
        index.fit(vectors, records=records)
        for index in (PostgresIndex(server.dsn, "both"), NearestNeighborIndex())
    ]
    n_compared = 0

    @settings(
        max_examples=500,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(CONDITIONS)
    def compare(condition: str) -> None:
        nonlocal n_compared
        params = [3] * condition.count("?")
        try:
            kept = both[0].search(vectors[:1], 40, where=condition, params=params).ids[0]
        except WhereError:
            return
        n_compared += 1
        wanted = both[1].search(vectors[:1], 40, where=condition, params=params).ids[0]
        assert sorted(kept) == sorted(wanted), condition

    compare()
    assert n_compared > 200


def test_two_threads_search_while_a_third_changes(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    index = PostgresIndex(server.dsn, "threads").fit(vectors)
    other = pickle.loads(pickle.dumps(index))
    failures: list[BaseException] = []

    def search() -> None:
        try:
            for _ in range(20):
                assert (index.kneighbors(vectors[:3], 5)[1] >= 0).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(10):
        other.add(vectors[:2], records={f"new {number}": [1, 2]})
        other.fit(vectors) if number == 5 else None
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert len(index) == 308


def test_a_table_that_is_no_index_is_left_alone(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    server.execute("CREATE TABLE mine AS SELECT 1 AS one")
    with pytest.raises(ServerTableError, match="is no index of imgembed"):
        PostgresIndex(server.dsn, "mine").fit(vectors)
    assert server.execute("SELECT * FROM mine") == [(1,)]
    with pytest.raises(ServerTableError, match="no index 'nowhere'"):
        PostgresIndex.load(server.dsn, "nowhere")


def test_a_fit_that_fails_leaves_what_was_there(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    index = PostgresIndex(server.dsn, "stays").fit(vectors, ids=range(300))
    with pytest.raises(ValueError, match="holds integer values"):
        index.fit(vectors[:2], records={"a": [1, "x"]})
    assert len(index) == 300


def test_an_index_of_a_newer_imgembed_is_refused(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    PostgresIndex(server.dsn, "newer").fit(vectors)
    server.execute(
        "UPDATE imgembed_indexes SET state = jsonb_set(state, '{format}', '2') "
        "WHERE index_name = 'newer'"
    )
    with pytest.raises(ServerVersionError, match="newer imgembed"):
        PostgresIndex.load(server.dsn, "newer")


def test_an_older_extension_is_refused(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    current = server.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")[0][0]
    server.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    try:
        with pytest.raises(ServerVersionError, match=r"pgvector 0.7.4, wanted 0.8"):
            PostgresIndex(server.dsn, "old").fit(vectors)
    finally:
        server.execute(f"UPDATE pg_extension SET extversion = '{current}' WHERE extname = 'vector'")
