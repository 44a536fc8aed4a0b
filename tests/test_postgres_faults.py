"""What happens to a PostgresIndex when its server fails: nothing lost, nothing twice, named."""

import os
import signal
import time
from collections.abc import Callable

import numpy as np
import psycopg
import pytest
from acknowledged_writes import assert_nothing_is_lost_or_twice, writing
from numpy.typing import NDArray
from postgres_server import PASSWORD, PostgresServer
from server_fault_checks import (
    check_a_change_is_whole_or_not_at_all,
    check_another_embedder_is_refused,
    check_that_its_server_is_down,
    raises_and_hides,
)
from server_fixtures import postgres, vectors_60_by_8  # noqa: F401

from imgembed import (
    HOGEmbedder,
    PostgresIndex,
    ServerCredentialsError,
    ServerError,
    ServerTimeoutError,
)
from imgembed.servers.postgres._session import PostgresSession

pytestmark = pytest.mark.postgres


def kill_and_start(server: PostgresServer) -> None:
    server.kill()
    time.sleep(0.3)
    server.start()


def backends(server: PostgresServer) -> list[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'imgembed'"
    return [int(str(row[0])) for row in server.execute(query)]


def kill_one_backend(server: PostgresServer) -> None:
    os.kill(backends(server)[0], signal.SIGKILL)


def end_all_backends(server: PostgresServer) -> None:
    for pid in backends(server):
        server.execute(f"SELECT pg_terminate_backend({pid})")


@pytest.mark.parametrize("fault", [kill_and_start, kill_one_backend, end_all_backends])
def test_no_acknowledged_row_is_lost_and_none_is_twice(
    server: PostgresServer, fault: Callable[[PostgresServer], None]
) -> None:
    index = PostgresIndex(server.dsn, fault.__name__, metric="euclidean")
    with writing(index, 10) as writer:
        for _ in range(3):
            fault(server)
            writer.wait_for(10)
    assert_nothing_is_lost_or_twice(index, writer.acknowledged)


def test_a_change_whose_acknowledgement_was_lost_is_not_made_twice(
    server: PostgresServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = PostgresIndex(server.dsn, "twice").fit(vectors)
    write = PostgresSession.write

    def written_twice(self: PostgresSession, work: Callable[[object], object]) -> object:
        write(self, work)
        return write(self, work)

    monkeypatch.setattr(PostgresSession, "write", written_twice)
    index.add(vectors[:2]).remove([0]).upsert(vectors[:1], ["new"])
    assert list(index) == [*range(1, 62), "new"]
    assert len(index) == 62


def test_a_change_is_whole_or_not_at_all(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    check_a_change_is_whole_or_not_at_all(PostgresIndex(server.dsn, "whole", timeout=1), vectors)


def test_a_server_that_is_down_is_named_and_waited_for_no_longer_than_told(
    vectors: NDArray[np.float32],
) -> None:
    server = PostgresServer()
    try:
        index = PostgresIndex(server.dsn, "down", timeout=0.5).fit(vectors)
        server.kill()
        check_that_its_server_is_down(
            index, lambda: PostgresIndex.load(server.dsn, "down"), vectors, PASSWORD
        )
        server.start()
        assert len(index) == 60
    finally:
        server.stop()


def test_searches_go_to_the_standby_and_never_see_less_than_was_written(
    vectors: NDArray[np.float32],
) -> None:
    primary = PostgresServer()
    try:
        standby = PostgresServer(primary)
        try:
            both = (
                f"host=127.0.0.1,127.0.0.1 port={primary.port},{standby.port} user=postgres "
                f"dbname=postgres password={PASSWORD}"
            )
            index = PostgresIndex(both, "both", timeout=20).fit(vectors)
            assert index.kneighbors(vectors[:1])[1][0, 0] == 0
            end = time.monotonic() + 60
            while not backends(standby):
                assert len(index) == 60
                assert time.monotonic() < end
            standby.execute("SELECT pg_wal_replay_pause()")
            index.add(vectors[:3])
            assert len(index) == 63
            assert index.kneighbors(vectors[:1], 63)[1].max() == 62
            standby.execute("SELECT pg_wal_replay_resume()")
            standby.kill()
            assert index.kneighbors(vectors[:1], 63)[1].max() == 62
        finally:
            standby.stop()
    finally:
        primary.stop()


def test_a_search_that_takes_too_long_is_ended(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    index = PostgresIndex(server.dsn, "slow", timeout=0.3).fit(vectors)
    with psycopg.connect(server.dsn) as other:
        other.execute("LOCK TABLE slow IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(ServerTimeoutError, match="took too long"):
            index.kneighbors(vectors)
    assert len(index.kneighbors(vectors)[1]) == 60


def test_wrong_credentials_are_named_and_no_password_is_shown(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    wrong = server.dsn.replace(PASSWORD, f"{PASSWORD}-and-wrong")
    stranger = server.dsn.replace("//postgres:", "//stranger:")
    for dsn in (wrong, stranger):
        with raises_and_hides(PASSWORD, ServerCredentialsError):
            PostgresIndex(dsn, "credentials").fit(vectors)
    with raises_and_hides(PASSWORD, ServerError):
        PostgresIndex(server.dsn + "-no-database").fit(vectors)


def test_the_table_of_another_embedder_is_refused(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    PostgresIndex(server.dsn, "filled").fit(vectors, embedder=HOGEmbedder())
    check_another_embedder_is_refused(PostgresIndex.load(server.dsn, "filled"), vectors)
