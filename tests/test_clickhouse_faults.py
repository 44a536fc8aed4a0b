"""What happens to a ClickHouseIndex when ClickHouse fails: nothing lost, nothing twice, named."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from acknowledged_writes import assert_nothing_is_lost_or_twice, writing
from clickhouse_server import PASSWORD, USER, ClickHouseServer
from numpy.typing import NDArray
from server_fault_checks import (
    check_a_change_is_whole_or_not_at_all,
    check_another_embedder_is_refused,
    check_that_its_server_is_down,
    raises_and_hides,
)
from server_fixtures import clickhouse, vectors_60_by_8  # noqa: F401

from imgembed import (
    ClickHouseIndex,
    HOGEmbedder,
    ServerCredentialsError,
    ServerError,
    ServerTimeoutError,
    ServerUnavailableError,
)
from imgembed.servers.clickhouse import _ledger, _session
from imgembed.servers.clickhouse._session import ClickHouseSession

pytestmark = pytest.mark.clickhouse


def test_no_acknowledged_row_is_lost_and_none_is_twice(server: ClickHouseServer) -> None:
    index = ClickHouseIndex(server.dsn, "killed", metric="euclidean")
    with writing(index) as writer:
        for _ in range(4):
            server.kill()
            time.sleep(0.2)
            server.start()
            writer.wait_for(6)
    assert_nothing_is_lost_or_twice(index, writer.acknowledged)


_UPSERTS = """
import sys
import numpy as np
from imgembed import ClickHouseIndex

index = ClickHouseIndex(sys.argv[1], "alone", metric="euclidean")
if sys.argv[2] == "new":
    index.fit(np.zeros((1, 8)), ids=["old"], records={"number": [-1]})
else:
    index = ClickHouseIndex.load(sys.argv[1], "alone")
number = (len(index) - 1) // 2
while True:
    ids = [f"{number} a", f"{number} b", "old"]
    index.upsert(np.full((3, 8), number + 1), ids, records={"number": [number] * 3})
    print(f"{number} a,{number} b", flush=True)
    number += 1
"""


def upserted_until_killed(dsn: str, how: str, n_lines: int) -> list[str]:
    """What a process acknowledged that has ClickHouse within it, and is killed at any moment."""
    with subprocess.Popen(
        [sys.executable, "-c", _UPSERTS, dsn, how], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(n_lines)]
        time.sleep(np.random.default_rng(n_lines).random() / 10)
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
    whole = [line for line in lines if line.endswith("\n")]
    return [one for line in whole for one in line.strip().split(",")]


def test_what_chdb_has_acknowledged_is_there_after_its_process_was_killed(tmp_path: Path) -> None:
    dsn = f"chdb://{tmp_path}"
    acknowledged = []
    for n_lines, how in ((4, "new"), (5, "again"), (6, "again")):
        acknowledged += upserted_until_killed(dsn, how, n_lines)
    index = ClickHouseIndex.load(dsn, "alone")
    assert_nothing_is_lost_or_twice(index, acknowledged, n_unsure=6)
    index.upsert(np.zeros((1, 8)), ["old"], records={"number": [-1]})
    assert_nothing_is_lost_or_twice(index, acknowledged, n_unsure=6)
    index.close()


def lost_after(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the acknowledgement of the next call of a function be lost."""
    real: Callable[..., object] = getattr(_ledger, name)
    is_lost = iter([True])

    def done_and_lost(*args: object, **kwargs: object) -> object:
        result = real(*args, **kwargs)
        if next(is_lost, False):
            raise ServerUnavailableError("lost")
        return result

    monkeypatch.setattr(_ledger, name, done_and_lost)


@pytest.mark.parametrize("step", ["publish", "settle", "create_states", "new_tag", "following"])
def test_a_change_whose_acknowledgement_was_lost_is_made_once(
    server: ClickHouseServer,
    vectors: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    index = ClickHouseIndex(server.dsn, "once").fit(vectors)
    for change in (
        lambda: index.add(vectors[:2]),
        lambda: index.remove([0]),
        lambda: index.upsert(vectors[:2], ["new", 5]),
    ):
        lost_after(step, monkeypatch)
        change()
        monkeypatch.undo()
    assert list(index) == [*range(1, 62), "new"]
    assert len(index.kneighbors(exact=True, n_neighbors=61)[1]) == 62


@pytest.mark.parametrize("error", [ServerTimeoutError("slow"), ServerError("disk full")])
def test_a_change_that_is_published_is_made_whatever_comes_after(
    server: ClickHouseServer,
    vectors: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    error: ServerError,
) -> None:
    index = ClickHouseIndex(server.dsn, "after").fit(vectors, records={"n": range(60)})

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(_ledger, "settle", fails)
    index.upsert(vectors[:1], [0], records={"n": [77]})
    monkeypatch.undo()
    rows, is_first = ClickHouseSession.rows, iter([True])

    def slow(self: ClickHouseSession, statement: str) -> object:
        if "SELECT DISTINCT" in statement and next(is_first, False):
            raise ServerTimeoutError("slow")
        return rows(self, statement)

    for query in (vectors[:1], vectors[5:6]):
        found = index.search(query, 100, exact=True)
        assert sorted(found.ids[0]) == list(range(60))
        assert 0 not in [record["n"] for record in found.records[0]]
    monkeypatch.setattr(ClickHouseSession, "rows", slow)
    index.add(vectors[:2])
    assert next(is_first, False) is False
    assert list(index) == list(range(62))


def test_a_change_in_which_the_table_is_replaced_is_made_in_the_new_one(
    server: ClickHouseServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = ClickHouseIndex(server.dsn, "meanwhile").fit(vectors)
    other = ClickHouseIndex.load(server.dsn, "meanwhile")
    insert, is_first = ClickHouseSession.insert, iter([True])

    def meanwhile(self: ClickHouseSession, table: str, packed: bytes) -> None:
        if next(is_first, False):
            other.fit(vectors[:20])
        insert(self, table, packed)

    monkeypatch.setattr(ClickHouseSession, "insert", meanwhile)
    index.add(vectors[:2])
    assert next(is_first, False) is False
    assert list(index) == list(other) == list(range(22))


def test_rows_that_were_sent_twice_are_there_once(
    server: ClickHouseServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = ClickHouseIndex(server.dsn, "sent").fit(vectors)
    insert, is_first = ClickHouseSession.insert, iter([True])

    def twice(self: ClickHouseSession, table: str, packed: bytes) -> None:
        insert(self, table, packed)
        if next(is_first, False):  # as the driver does, if the server closes the connection
            insert(self, table, packed)

    monkeypatch.setattr(ClickHouseSession, "insert", twice)
    index.add(vectors[:2])
    assert next(is_first, False) is False
    assert list(index) == list(range(62))


def test_a_writer_that_died_leaves_nothing_that_is_seen(
    server: ClickHouseServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = ClickHouseIndex(server.dsn, "died").fit(vectors, records={"n": range(60)})

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("publish", "settle"):
        writer = ClickHouseIndex.load(server.dsn, "died")
        monkeypatch.setattr(_ledger, step, dies)
        monkeypatch.setattr(_ledger.ClickHouseLedger, "_discard", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            writer.upsert(vectors[:2], [0, "new"], records={"n": [77, 78], "more": ["x", "y"]})
        monkeypatch.undo()
        is_published = step == "settle"
        assert ("new" in index) is is_published
        found = index.search(vectors[:1], 100, exact=True)
        assert len(found.ids[0]) == len(set(found.ids[0])) == 60 + is_published == len(index)
        assert (77 in [record["n"] for record in found.records[0]]) is is_published
    index.remove(["new"])
    assert list(index) == list(ClickHouseIndex.load(server.dsn, "died")) == list(range(60))
    query = "SELECT count() FROM died"
    assert [int(row[0]) for row in server.execute(query)] == [60]


def test_a_change_is_whole_or_not_at_all(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    check_a_change_is_whole_or_not_at_all(ClickHouseIndex(server.dsn, "whole", timeout=5), vectors)


def test_a_server_that_is_down_is_named_and_waited_for_no_longer_than_told(
    vectors: NDArray[np.float32],
) -> None:
    server = ClickHouseServer()
    try:
        index = ClickHouseIndex(server.dsn, "down", timeout=0.5).fit(vectors)
        server.kill()
        check_that_its_server_is_down(
            index, lambda: ClickHouseIndex.load(server.dsn, "down"), vectors, PASSWORD
        )
        server.start()
        assert len(index) == 60
    finally:
        server.stop()


def test_a_server_that_does_not_answer_is_left_after_a_while(
    vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_session, "_SECONDS_TO_ANSWER", 0.5)
    server = ClickHouseServer()
    try:
        index = ClickHouseIndex(server.dsn, "slow", timeout=1).fit(vectors)
        server.pause()
        try:
            with raises_and_hides(PASSWORD, ServerTimeoutError, "took too long"):
                index.kneighbors(vectors)
        finally:
            server.go_on()
        assert len(index.kneighbors(vectors)[1]) == 60
    finally:
        server.stop()


def test_a_search_that_takes_too_long_is_ended_by_the_server(server: ClickHouseServer) -> None:
    many = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
    ClickHouseIndex(server.dsn, "long", algorithm="exact").fit(many)
    index = ClickHouseIndex.load(server.dsn, "long").set_params(timeout=0.02)
    index.close()
    hasty = index._new_store()
    index._kept_store = hasty
    with pytest.raises(ServerTimeoutError, match="took too long"):
        index.kneighbors(many[:2_000], 1_000)


def test_wrong_credentials_are_named_and_no_password_is_shown(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    wrong = server.dsn.replace(PASSWORD, f"{PASSWORD}-and-wrong")
    stranger = server.dsn.replace(f"//{USER}:", "//stranger:")
    for dsn in (wrong, stranger):
        with raises_and_hides(PASSWORD, ServerCredentialsError):
            ClickHouseIndex(dsn, "credentials").fit(vectors)
    with raises_and_hides(PASSWORD, ServerError):
        ClickHouseIndex(server.dsn + "-no-database").fit(vectors)


def test_the_table_of_another_embedder_is_refused(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    ClickHouseIndex(server.dsn, "filled").fit(vectors, embedder=HOGEmbedder())
    check_another_embedder_is_refused(ClickHouseIndex.load(server.dsn, "filled"), vectors)
