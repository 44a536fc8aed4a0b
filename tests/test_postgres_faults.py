"""What happens to a PostgresIndex when its server fails: nothing lost, nothing twice, named."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from postgres_server import PASSWORD, PostgresServer

from imgembed import (
    FingerprintError,
    HOGEmbedder,
    PostgresIndex,
    ServerCredentialsError,
    ServerError,
    ServerTimeoutError,
    ServerUnavailableError,
)
from imgembed.servers._postgres_session import PostgresSession

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    running = PostgresServer()
    yield running
    running.stop()


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)


class Writer(threading.Thread):
    """Upserts two new items and an old one at a time, and keeps what was acknowledged."""

    def __init__(self, index: PostgresIndex) -> None:
        super().__init__()
        self.index = index
        self.acknowledged: list[str] = []
        self.error: BaseException | None = None
        self.has_enough = threading.Event()

    def run(self) -> None:
        number = 0
        try:
            while not self.has_enough.is_set():
                ids = [f"{number} a", f"{number} b", "old"]
                vectors = np.full((3, 8), number + 1, np.float32)
                self.index.upsert(vectors, ids, records={"number": [number] * 3})
                self.acknowledged += ids[:2]
                number += 1
        except BaseException as error:
            self.error = error

    def wait_for(self, n: int) -> None:
        end = time.monotonic() + 60
        start = len(self.acknowledged)
        while len(self.acknowledged) < start + n and self.error is None:
            assert time.monotonic() < end, "nothing is acknowledged any more"
            time.sleep(0.01)


@contextmanager
def writing(server: PostgresServer, table: str) -> Iterator[Writer]:
    index = PostgresIndex(server.dsn, table, metric="euclidean").fit(
        np.zeros((1, 8)), ids=["old"], records={"number": [-1]}
    )
    writer = Writer(index)
    writer.start()
    try:
        writer.wait_for(10)
        yield writer
        writer.wait_for(10)
    finally:
        writer.has_enough.set()
        writer.join()


def assert_nothing_is_lost_or_twice(writer: Writer) -> None:
    assert writer.error is None, repr(writer.error)
    ids = list(writer.index)
    assert len(ids) == len(set(ids)) == len(writer.index)
    assert set(writer.acknowledged) <= set(ids)
    assert len(ids) == len(writer.acknowledged) + 1
    wanted = {f"{row} {letter}": row for row in range(len(ids)) for letter in "ab"}
    found = writer.index.search(np.zeros((1, 8)), len(ids), exact=True)
    for one, record in zip(found.ids[0], found.records[0], strict=True):
        assert one == "old" or record["number"] == wanted[str(one)]


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
    with writing(server, fault.__name__) as writer:
        for _ in range(3):
            fault(server)
            writer.wait_for(10)
    assert_nothing_is_lost_or_twice(writer)


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
    index = PostgresIndex(server.dsn, "whole", timeout=1).fit(vectors)
    with pytest.raises(ValueError, match="holds integer"):
        index.add(vectors, records={"new": [1] * 59 + ["text"]})
    assert index.columns_ == {}
    assert len(index) == 60


def test_a_server_that_is_down_is_named_and_waited_for_no_longer_than_told(
    vectors: NDArray[np.float32],
) -> None:
    server = PostgresServer()
    try:
        index = PostgresIndex(server.dsn, "down", timeout=0.5).fit(vectors)
        server.kill()
        for call in (lambda: index.kneighbors(vectors), lambda: index.add(vectors)):
            start = time.monotonic()
            with pytest.raises(ServerUnavailableError, match="cannot be reached") as caught:
                call()
            assert time.monotonic() - start < 20
            assert_no_password(caught.value)
        with pytest.raises(ServerUnavailableError) as caught:
            PostgresIndex.load(server.dsn, "down")
        assert_no_password(caught.value)
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
        index = PostgresIndex(dsn, "credentials")
        with pytest.raises(ServerCredentialsError) as caught:
            index.fit(vectors)
        assert_no_password(caught.value)
    with pytest.raises(ServerError) as caught_other:
        PostgresIndex(server.dsn + "-no-database").fit(vectors)
    assert_no_password(caught_other.value)


def test_the_table_of_another_embedder_is_refused(
    server: PostgresServer, vectors: NDArray[np.float32]
) -> None:
    PostgresIndex(server.dsn, "filled").fit(vectors, embedder=HOGEmbedder())
    loaded = PostgresIndex.load(server.dsn, "filled")
    for call in (
        lambda: loaded.kneighbors(vectors, embedder=HOGEmbedder(n_orientations=5)),
        lambda: loaded.add(vectors, embedder=HOGEmbedder(n_orientations=5)),
    ):
        with pytest.raises(FingerprintError, match="another embedder"):
            call()
    assert len(loaded) == 60


def assert_no_password(error: BaseException) -> None:
    """Neither the error nor anything that led to it tells the password."""
    assert PASSWORD not in "".join(traceback.format_exception(error))
    assert PASSWORD not in repr(error)
