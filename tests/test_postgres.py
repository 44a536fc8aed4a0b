"""PostgresIndex against a real server: the contract of all indexes, and what is its own."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from postgres_server import PostgresServer
from server_checks import (
    check_a_fit_that_fails_leaves_what_was_there,
    check_equal_vectors_do_not_hide_the_others,
    check_image_search_works_over,
    check_loaded_is_as_fitted,
    check_the_graph_reaches_the_recall_with_filters,
    check_there_and_back,
    check_two_threads_search_while_a_third_changes,
    index_to_move,
    recall,
)
from server_fixtures import postgres, vectors_300_by_16  # noqa: F401
from sklearn.base import clone
from where_checks import (
    check_conditions_mean_the_same,
    check_hostile_conditions_find_no_more,
    check_names_are_only_names,
    fit_what_is_attacked,
)
from where_strategies import CONDITIONS, HOSTILE, SQL_WORDS, attacks

from imgembed import (
    NearestNeighborIndex,
    PostgresIndex,
    ServerTableError,
    ServerVersionError,
    WhereError,
)
from imgembed.testing import check_index

pytestmark = pytest.mark.postgres


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
    )
    fitted.fit(vectors, records={"price": range(300)})
    check_loaded_is_as_fitted(fitted, PostgresIndex.load(server.dsn, "loaded"), vectors)


def test_there_and_back_all_is_the_same(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    index = index_to_move(vectors)
    check_there_and_back(index, PostgresIndex.from_index(index, server.dsn, "moved"), vectors)


def test_image_search_works_over_it(server: PostgresServer) -> None:
    check_image_search_works_over(PostgresIndex(server.dsn, "images"))


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


@pytest.mark.parametrize(
    ("width", "partitions", "n_told"), [(8, 0, 0), (1_100, 0, 1), (1_100, 2, 2)]
)
def test_the_server_may_build_a_graph_of_vectors_beside_the_rows_in_parallel(
    server: PostgresServer, width: int, partitions: int, n_told: int
) -> None:
    """It counts the pages of the rows alone, which are few."""
    wide = np.random.default_rng(0).normal(size=(20, width)).astype(np.float32)
    name = f"workers_{width}_{partitions}"
    PostgresIndex(server.dsn, name, algorithm="hnsw", partitions=partitions).fit(wide)
    told = server.execute(
        f"SELECT 1 FROM pg_class WHERE relname LIKE '{name}%' "
        "AND array_to_string(reloptions, ' ') LIKE '%parallel_workers%'"
    )
    assert len(told) == n_told


def test_half_precision_takes_half(server: PostgresServer, vectors: NDArray[np.float32]) -> None:
    index = PostgresIndex(server.dsn, "half", algorithm="hnsw", storage="float16").fit(vectors)
    index.upsert(vectors[:2], [0, "new"]).add(vectors[:1])
    stored = server.execute("SELECT pg_typeof(imgembed_vector)::text FROM half LIMIT 1")
    assert stored == [("halfvec",)]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.abs(index.vectors_[:300] - unit).max() < 1e-3
    assert recall(index, vectors[:50]) > 0.95


def test_what_half_precision_does_not_hold_is_refused(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    index = PostgresIndex(server.dsn, "beyond", metric="euclidean", storage="float16")
    beyond = vectors * np.float32(1e6)
    with pytest.raises(ValueError, match=r"beyond 65,504.*scale the vectors"):
        index.fit(beyond)
    index.fit(vectors)
    for call in (index.kneighbors, index.add, lambda some: index.upsert(some, [0, 1])):
        with pytest.raises(ValueError, match=r"beyond 65,504.*scale the vectors"):
            call(beyond[:2])
    np.testing.assert_array_equal(index.kneighbors(vectors, 1)[1][:, 0], range(300))


def test_the_graph_reaches_the_recall_with_filters_too(server: PostgresServer) -> None:
    check_the_graph_reaches_the_recall_with_filters(PostgresIndex(server.dsn, "many", 10))


def test_a_filter_that_goes_with_the_vectors_keeps_the_recall(server: PostgresServer) -> None:
    """None of the images near a query is kept, and those that are lie far apart in the graph."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(60, 24))
    kinds = rng.integers(60, size=12_000)
    many = (centres[kinds] + rng.normal(size=(12_000, 24))).astype(np.float32)
    index = PostgresIndex(server.dsn, "kinds", 10, algorithm="hnsw")
    index.fit(many, records={"kind": kinds})
    queries = many[kinds < 30][:50]
    for where in ("kind < 30", "kind >= 30"):
        assert recall(index, queries, where=where) >= 0.99
        alone = [index.kneighbors(query, where=where)[0] for query in queries[:, np.newaxis]]
        found = index.kneighbors(queries, where=where)[0]
        np.testing.assert_allclose(np.concatenate(alone), found, atol=1e-6)


def test_equal_vectors_do_not_hide_the_others(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    index = PostgresIndex(server.dsn, "copies", algorithm="hnsw")
    check_equal_vectors_do_not_hide_the_others(index, vectors)


def test_awkward_names_are_only_names(server: PostgresServer, vectors: NDArray[np.float32]) -> None:
    index = PostgresIndex(server.dsn, 'x"; DROP TABLE loaded; --')
    names = ['say "x"', "50% off", "select", "é", "a'b", "%(v0)s", "Price", "{0}"]
    check_names_are_only_names(index, names, "%(v0)s", vectors)
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
    index = fit_what_is_attacked(PostgresIndex(server.dsn, "hostile", timeout=5), vectors)
    server.execute("CREATE TABLE secret AS SELECT 'word' AS word")
    query = "SELECT md5(string_agg(h::text, '' ORDER BY h)) FROM hostile h"
    before = server.execute(query)
    check_hostile_conditions_find_no_more(index, vectors[:1], attacks(HOSTILE, SQL_WORDS))
    assert server.execute(query) == before
    assert server.execute("SELECT word FROM secret") == [("word",)]


def test_what_both_take_means_the_same_on_the_server_and_here(server: PostgresServer) -> None:
    check_conditions_mean_the_same(PostgresIndex(server.dsn, "both"), CONDITIONS)


def executed(index: PostgresIndex, query: NDArray[np.float32]) -> tuple[Any, int]:
    """What a query finds, and how many statements it took."""
    with mock.patch.object(
        psycopg.Cursor, "execute", autospec=True, side_effect=psycopg.Cursor.execute
    ) as execute:
        found = index.kneighbors(query)
    return found, execute.call_count


def test_a_query_alone_is_one_statement(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    index = PostgresIndex(server.dsn, "alone", algorithm="hnsw").fit(vectors)
    index.kneighbors(vectors[:1])
    assert executed(index, vectors[:1])[1] == 1


def test_a_search_goes_by_what_another_client_has_filled_in(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    index = PostgresIndex(server.dsn, "filled_anew", algorithm="hnsw").fit(vectors)
    index.kneighbors(vectors[:1])
    other = PostgresIndex(server.dsn, "filled_anew", algorithm="hnsw").fit(vectors[::-1])
    np.testing.assert_array_equal(index.kneighbors(vectors[:1], 1)[1], [[299]])
    other.add(vectors[:1] + np.float32(1e-3), ids=["new"])
    assert index.search(vectors[:1] + np.float32(1e-3), 1).ids == [["new"]]
    other.remove([299])
    np.testing.assert_array_equal(index.kneighbors(vectors[:1], 1)[1], [[299]])


def test_settings_that_are_lost_are_set_again(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    index = PostgresIndex(server.dsn, "settings", algorithm="hnsw", ef_search=200).fit(vectors)
    wanted = index.kneighbors(vectors, exact=True)
    connection = index._store.session._reading(False)  # type: ignore[attr-defined]
    connection.execute("SET hnsw.ef_search = 1")  # as who shares a connection may do
    for n_statements in (5, 2, 1):
        found, n_executed = executed(index, vectors[:1])
        assert n_executed <= n_statements
        np.testing.assert_array_equal(found[1], wanted[1][:1])


def test_what_is_prepared_may_be_gone_or_of_another_client(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    """As a pooler of connections does that knows nothing of prepared statements."""
    index = PostgresIndex(server.dsn, "pooled", algorithm="hnsw").fit(vectors)
    other = PostgresIndex(server.dsn, "pooled_too", algorithm="hnsw").fit(vectors[::-1])
    connection, of_another = (one._store.session._reading(False) for one in (index, other))  # type: ignore[attr-defined]
    for one in (index, other):
        one.kneighbors(vectors[:1], 1)
    query = "SELECT name, statement FROM pg_prepared_statements"
    ((name, _),) = connection.execute(query).fetchall()
    ((same_name, statement),) = of_another.execute(query).fetchall()
    assert name == same_name
    connection.pgconn.exec_(b"DEALLOCATE ALL")
    connection.pgconn.prepare(name.encode(), statement.encode())
    np.testing.assert_array_equal(index.kneighbors(vectors[:1], 1)[1], [[0]])
    for queries in (vectors[:1], vectors[:3]) * 3:
        connection.pgconn.exec_(b"DEALLOCATE ALL")
        np.testing.assert_array_equal(index.kneighbors(queries, 1)[1][0], [0])


def test_values_are_told_from_equal_ones_of_another_type(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    records = {
        "number": [row % 3 for row in range(300)],
        "is_even": [row % 2 == 0 for row in range(300)],
    }
    here = NearestNeighborIndex().fit(vectors, records=records)
    there = PostgresIndex(server.dsn, "values").fit(vectors, records=records)
    for _ in range(2):
        for where in ("number = ?", "number + ? > 1", "is_even = ?"):
            for value in (1, True, 1.0, 0, False, -0.0):
                asked = {"where": where, "params": (value,), "exact": True}
                wanted = here.kneighbors(vectors[:3], **asked)
                np.testing.assert_array_equal(there.kneighbors(vectors[:3], **asked)[1], wanted[1])


def test_a_filter_asked_again_is_planned_for_its_values_and_kept(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    index = PostgresIndex(server.dsn, "plans").fit(vectors, records={"number": range(300)})
    for value in (200, 200, 200, 3, 3):
        found = index.kneighbors(vectors[:1], 1, where="number < ?", params=(value,))
        np.testing.assert_array_equal(found[1], [[0]])
    connection = index._store.session._reading(False)  # type: ignore[attr-defined]
    query = "SELECT custom_plans FROM pg_prepared_statements WHERE statement LIKE '%number%'"
    assert sorted(connection.execute(query).fetchall()) == [(1,), (2,)]


def test_two_threads_search_while_a_third_changes(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    check_two_threads_search_while_a_third_changes(PostgresIndex(server.dsn, "threads"), vectors)


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
    check_a_fit_that_fails_leaves_what_was_there(PostgresIndex(server.dsn, "stays"), vectors)


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


def test_changes_at_once_are_made_one_after_the_other_whatever_the_isolation_by_default(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    database = psycopg.conninfo.conninfo_to_dict(server.dsn)["dbname"]
    server.execute(f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'")
    try:
        index = PostgresIndex(server.dsn, "isolated").fit(vectors[:100])

        def add(rows: range) -> None:
            own = PostgresIndex.load(server.dsn, "isolated")
            for row in rows:
                own.add(vectors[row : row + 1])

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(add, (range(100, 120), range(120, 140))))
        assert index.n_samples_fit_ == 140
    finally:
        server.execute(f"ALTER DATABASE {database} RESET default_transaction_isolation")


def test_an_index_that_came_empty_is_added_to(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    emptied = NearestNeighborIndex().fit(vectors).remove(range(300))
    index = PostgresIndex.from_index(emptied, server.dsn, "came_empty")
    assert len(index) == 0
    index.add(vectors)
    np.testing.assert_array_equal(index.kneighbors(vectors[7:8], 1)[1], [[7]])
