"""ClickHouseIndex against ClickHouse, over HTTP and in-process: the contract, and its own."""

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clickhouse_server import ClickHouseServer
from numpy.typing import NDArray
from server_checks import (
    check_a_fit_that_fails_leaves_what_was_there,
    check_a_graph_comes_with_10_000_rows,
    check_equal_vectors_do_not_hide_the_others,
    check_image_search_works_over,
    check_loaded_is_as_fitted,
    check_there_and_back,
    check_two_threads_search_while_a_third_changes,
    index_to_move,
    recall,
)
from server_fixtures import clickhouse, vectors_300_by_16  # noqa: F401

from imgembed import (
    ClickHouseIndex,
    ServerError,
    ServerTableError,
    ServerUnavailableError,
    ServerVersionError,
    UnknownIdError,
)
from imgembed.servers.clickhouse import _search
from imgembed.servers.clickhouse._session import ClickHouseSession
from imgembed.testing import check_index

pytestmark = pytest.mark.clickhouse
SLACK = 1e-5


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of chDB in this process, which opens one folder at a time."""
    yield f"chdb://{tmp_path_factory.mktemp('chdb')}"
    gc.collect()  # the folder is open as long as an index is there


def tables(server: ClickHouseServer, index: str) -> list[str]:
    """The tables that hold the rows of an index."""
    query = f"SELECT name FROM system.tables WHERE startsWith(name, '{index}_imgembed_')"
    return [row[0] for row in server.execute(query)]


@pytest.mark.parametrize("place", ["server", "in_process"])
@pytest.mark.parametrize(
    "parameters",
    [
        {"metric": "cosine"},
        {"metric": "euclidean"},
        {"metric": "ip"},
        {"metric": "cosine", "algorithm": "hnsw"},
        {"metric": "euclidean", "algorithm": "hnsw"},
    ],
    ids=str,
)
def test_the_contract_of_all_indexes_holds(
    request: pytest.FixtureRequest, place: str, parameters: dict[str, Any]
) -> None:
    found = request.getfixturevalue(place)
    dsn = found if isinstance(found, str) else found.dsn
    check_index(ClickHouseIndex(dsn, "contract", **parameters), n_images=100)


def test_an_index_is_loaded_with_the_parameters_it_was_fitted_with(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    fitted = ClickHouseIndex(
        server.dsn, "loaded", 7, "euclidean", "hnsw", M=8, ef_construction=50, storage="bfloat16"
    )
    fitted.fit(vectors, records={"price": range(300)})
    check_loaded_is_as_fitted(fitted, ClickHouseIndex.load(server.dsn, "loaded"), vectors)


def test_there_and_back_all_is_the_same(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = index_to_move(vectors)
    check_there_and_back(index, ClickHouseIndex.from_index(index, server.dsn, "moved"), vectors)


def test_a_column_of_nothing_takes_the_kind_of_what_comes(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = ClickHouseIndex(server.dsn, "nothing").fit(vectors, records={"a": [None] * 300})
    assert index.search(vectors[:1], 300, where="a IS NULL").records[0][0] == {"a": None}
    index.update_records([5], {"a": ["text"]})
    assert index.columns_ == {"a": "text"}
    assert index.search(vectors[:1], where="a = 'text'").ids == [[5]]


def test_image_search_works_over_it(server: ClickHouseServer) -> None:
    check_image_search_works_over(ClickHouseIndex(server.dsn, "images"))


def test_bfloat16_takes_half_and_ranks_by_what_is_kept(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = ClickHouseIndex(
        server.dsn, "half", metric="euclidean", algorithm="hnsw", storage="bfloat16"
    ).fit(vectors)
    index.upsert(vectors[:2], [0, "new"]).add(vectors[:1])
    (table,) = tables(server, "half")
    stored = server.execute(f"SELECT DISTINCT toTypeName(imgembed_vector) FROM {table}")
    assert stored == [["Array(BFloat16)"]]
    assert np.abs(index.vectors_[:300] - vectors).max() < 2**-8 * np.abs(vectors).max()
    for exact in (False, True):
        distances, rows = index.kneighbors(vectors[:50], exact=exact)
        kept = np.linalg.norm(index.vectors_[rows] - vectors[:50, None], axis=2)
        assert np.abs(distances - kept).max() < 1e-4
    assert recall(index, vectors[:50], 1e-4) >= 0.95


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_graph_reaches_the_recall_and_filters_are_exact(
    server: ClickHouseServer, metric: str
) -> None:
    rng = np.random.default_rng(0)
    many = rng.normal(size=(11_000, 16)).astype(np.float32)
    queries = rng.normal(size=(30, 16)).astype(np.float32)
    index = ClickHouseIndex(server.dsn, "many", 10, metric, M=8, ef_construction=50)
    check_a_graph_comes_with_10_000_rows(index, many, rng.random(11_000))
    assert recall(index, queries, SLACK) >= 0.95
    for share in (0.5, 0.01, 0.001):
        assert recall(index, queries, SLACK, where="share < ?", params=(share,)) == 1.0
    plan = server.execute(
        f"EXPLAIN indexes = 1 SELECT imgembed_slot FROM {tables(server, 'many')[0]} ORDER BY "
        f"{'L2' if metric == 'euclidean' else 'cosine'}Distance(imgembed_vector, "
        f"{[1.0] * 16}) LIMIT 3"
    )
    assert any("vector_similarity" in row[0] for row in plan)


def test_broad_conditions_go_through_the_graph_and_reach_the_recall(
    server: ClickHouseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_search, "_FEW_ROWS", 300)
    rng = np.random.default_rng(0)
    many = rng.normal(size=(3_000, 16)).astype(np.float32)
    index = ClickHouseIndex(server.dsn, "broad", 10, "euclidean", "hnsw")
    index.fit(many, records={"share": rng.random(3_000)})
    index.remove(range(0, 3_000, 7))
    statements: list[str] = []
    rows = ClickHouseSession.rows
    monkeypatch.setattr(
        ClickHouseSession,
        "rows",
        lambda self, statement: statements.append(statement) or rows(self, statement),
    )
    for share, has_graph in ((0.9, True), (0.5, True), (0.2, True), (0.05, False)):
        statements.clear()
        found = index.kneighbors(many[:40], where="share < ?", params=(share,))[0]
        assert any("hnsw_candidate" in statement for statement in statements) is has_graph
        exact = index.kneighbors(many[:40], where="share < ?", params=(share,), exact=True)[0]
        assert (found <= exact[:, -1:] + 1e-5).mean() >= 0.95, f"of {share}"


def test_what_others_have_added_is_known_at_once(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = ClickHouseIndex(server.dsn, "others").fit(vectors)
    index.kneighbors(vectors[:1])
    other = ClickHouseIndex.load(server.dsn, "others")
    other.add(vectors[:1], ids=["new"], records={"late": [5]})
    assert index.search(vectors[:1], 1, where="late = 5").ids == [["new"]]
    other.upsert(vectors[:1], ["newer"])
    assert index.search(vectors[:1], 1, where=["newer"]).ids == [["newer"]]
    other.remove(["newer"])
    with pytest.raises(UnknownIdError):
        index.search(vectors[:1], 1, where=["newer"])
    assert index.kneighbors(vectors[:1], where=np.ones(301, bool))[1].shape == (1, 5)


def test_deleted_rows_in_the_graph_hide_no_neighbours(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    # So many candidates that the graph itself misses none.
    index = ClickHouseIndex(
        server.dsn, "deleted", metric="euclidean", algorithm="hnsw", ef_search=200
    ).fit(vectors)
    for _ in range(3):
        nearest = index.search(vectors[:1], 40).ids[0]
        index.remove(nearest)
        index.upsert(vectors[-20:], list(index)[-20:])
        assert recall(index, vectors[:5], SLACK) == 1.0
    assert len(index) == 180


def test_the_graph_of_all_rows_stays_when_some_are_replaced(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = ClickHouseIndex(server.dsn, "graph", algorithm="hnsw").fit(vectors)
    (table,) = tables(server, "graph")
    query = (
        f"SELECT max(rows) FROM system.parts WHERE table = '{table}' AND active "
        "AND secondary_indices_compressed_bytes > 0"
    )
    before = server.execute(query)
    index.upsert(vectors[:3], [0, 1, 2]).remove([5]).update_records([6], {"price": [1]})
    assert server.execute(query) == before
    mutations = f"SELECT command FROM system.mutations WHERE table = '{table}'"
    assert len(server.execute(mutations)) == 1  # that which built the graph


def test_equal_vectors_do_not_hide_the_others(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = ClickHouseIndex(server.dsn, "copies", algorithm="hnsw")
    check_equal_vectors_do_not_hide_the_others(index, vectors)


def test_more_neighbours_than_a_graph_gives_are_all_found(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    many = np.repeat(vectors, 5, axis=0)
    index = ClickHouseIndex(server.dsn, "wide", algorithm="hnsw").fit(many)
    rows = index.kneighbors(vectors[:2], 1_600)[1]
    assert ((rows >= 0).sum(axis=1) == 1_500).all()


def test_many_ids_and_rows_may_be_found_or_changed_at_once(server: ClickHouseServer) -> None:
    many = np.random.default_rng(0).normal(size=(30_000, 4)).astype(np.float32)
    index = ClickHouseIndex(server.dsn, "lists", algorithm="exact").fit(many)
    mask = np.arange(30_000) % 3 > 0
    assert (index.kneighbors(many[:9], 1, where=mask)[1] % 3 > 0).all()
    assert index.kneighbors(many[:1], 1, where=range(20_000, 29_000))[1][0, 0] >= 20_000
    index.upsert(many[:25_000], range(25_000)).remove(range(0, 30_000, 2))
    assert list(index) == list(range(1, 30_000, 2))
    assert index.kneighbors(many[1:2], 1)[1].tolist() == [[0]]


def test_a_view_shows_the_living_rows_to_others(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = ClickHouseIndex(server.dsn, "shown").fit(vectors, records={"price": range(300)})
    index.upsert(vectors[:2], [0, "new"], records={"price": [7, 8]}).remove([1])
    index.update_records(["new"], {"size": [3]})
    query = "SELECT count(), sum(price), sum(size) FROM shown"
    assert [list(map(int, row)) for row in server.execute(query)] == [
        [300, sum(range(300)) - 1 + 15, 3]
    ]
    index.fit(vectors[:10])
    assert [int(row[0]) for row in server.execute("SELECT count() FROM shown")] == [10]
    assert len(tables(server, "shown")) == 1


def test_two_threads_search_while_a_third_changes(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    check_two_threads_search_while_a_third_changes(ClickHouseIndex(server.dsn, "threads"), vectors)


def test_of_two_writers_neither_loses_anything(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = ClickHouseIndex(server.dsn, "writers").fit(vectors, records={"n": range(300)})
    failures: list[BaseException] = []

    def change(name: str, work: Callable[[ClickHouseIndex, str], object]) -> None:
        writer = ClickHouseIndex.load(server.dsn, "writers")
        try:
            for number in range(6):
                work(writer, f"{name} {number}")
        except BaseException as error:
            failures.append(error)

    def add(writer: ClickHouseIndex, name: str) -> None:
        writer.add(vectors[:2], records={"n": [1, 2]})
        writer.upsert(vectors[:2], [name, "shared"], records={"n": [3, 4]})

    threads = [threading.Thread(target=change, args=(name, add)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    ids = list(index)
    assert len(ids) == len(set(ids)) == len(index) == 300 + 24 + 12 + 1
    assert index.search(vectors[:1], 400, exact=True).ids[0].count("shared") == 1
    assert sorted(map(str, ids[300:])) == sorted(
        ["shared", *map(str, range(300, 324)), *(f"{name} {n}" for name in "ab" for n in range(6))]
    )


def test_a_table_that_is_no_index_is_left_alone(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    server.execute("CREATE TABLE mine ENGINE = MergeTree ORDER BY one AS SELECT 1 AS one")
    server.execute("CREATE VIEW looks AS SELECT 1 AS one")
    for name in ("mine", "looks"):
        with pytest.raises(ServerTableError, match="is no index of imgembed"):
            ClickHouseIndex(server.dsn, name).fit(vectors)
        assert server.execute(f"SELECT * FROM {name}") == [[1]]
    with pytest.raises(ServerTableError, match="no index 'nowhere'"):
        ClickHouseIndex.load(server.dsn, "nowhere")


def test_a_fit_that_fails_leaves_what_was_there(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    check_a_fit_that_fails_leaves_what_was_there(ClickHouseIndex(server.dsn, "stays"), vectors)
    assert len(tables(server, "stays")) == 1


def test_rows_that_do_not_belong_to_the_state_are_noticed(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = ClickHouseIndex(server.dsn, "restored").fit(vectors)
    server.execute(f"DELETE FROM {tables(server, 'restored')[0]} WHERE imgembed_slot < 10")
    with pytest.raises(ServerTableError, match=r"should have 300 items.* has 290"):
        ClickHouseIndex.load(server.dsn, "restored")
    server.execute(f"DROP TABLE {tables(server, 'restored')[0]}")
    again = ClickHouseIndex(server.dsn, "restored").fit(vectors)
    assert len(index) == len(again) == 300
    index.add(vectors[:1])
    server.execute("DELETE FROM imgembed_indexes WHERE index_name = 'restored' AND change > 4e7")
    with pytest.raises(ServerTableError, match="older than what was written"):
        len(index)


def test_an_index_of_a_newer_imgembed_is_refused(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    ClickHouseIndex(server.dsn, "newer").fit(vectors)
    server.execute(
        "INSERT INTO imgembed_indexes SELECT * REPLACE (change + 1 AS change, "
        """replace(state, '"format": 1', '"format": 2') AS state) """
        "FROM imgembed_indexes WHERE index_name = 'newer'"
    )
    with pytest.raises(ServerVersionError, match="newer imgembed"):
        ClickHouseIndex.load(server.dsn, "newer")


def test_an_older_server_is_refused(vectors: NDArray[np.float32]) -> None:
    server = ClickHouseServer(version="25.3.6.56")
    try:
        with pytest.raises(ServerVersionError, match=r"ClickHouse 25.3.6.56, wanted 25.8"):
            ClickHouseIndex(server.dsn, "old").fit(vectors)
    finally:
        server.stop()


def test_what_the_server_refuses_is_told(
    server: ClickHouseServer, in_process: str, vectors: NDArray[np.float32], tmp_path: Path
) -> None:
    with pytest.raises(ServerError, match="UNKNOWN_DATABASE"):
        ClickHouseIndex(server.dsn.replace("/default", "/nowhere")).fit(vectors)
    kept = ClickHouseIndex(in_process, "one").fit(vectors)
    with pytest.raises(ServerUnavailableError, match="this process has another one open"):
        ClickHouseIndex(f"chdb://{tmp_path}").fit(vectors)
    assert len(kept) == 300
