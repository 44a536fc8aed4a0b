"""What happens to a MilvusIndex when its server fails: nothing lost, nothing twice, named."""

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from milvus_server import MilvusServer
from numpy.typing import NDArray
from pymilvus import MilvusClient

from imgembed import (
    FingerprintError,
    HOGEmbedder,
    MilvusIndex,
    ServerCredentialsError,
    ServerTimeoutError,
    ServerUnavailableError,
    ServerVersionError,
)
from imgembed.servers._milvus_collection import MilvusCollection
from imgembed.servers._milvus_session import MilvusSession

pytestmark = pytest.mark.milvus

TOKEN = "root:very-secret-word"


@pytest.fixture(scope="module", params=["lite", "core"])
def server(request: pytest.FixtureRequest) -> Iterator[MilvusServer]:
    running = MilvusServer(request.param)
    yield running
    running.stop()


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)


class Writer(threading.Thread):
    """Upserts two new items and an old one at a time, and keeps what was acknowledged."""

    def __init__(self, index: MilvusIndex) -> None:
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
        end = time.monotonic() + 120
        start = len(self.acknowledged)
        while len(self.acknowledged) < start + n and self.error is None:
            assert time.monotonic() < end, "nothing is acknowledged any more"
            time.sleep(0.01)


@contextmanager
def writing(server: MilvusServer) -> Iterator[Writer]:
    index = MilvusIndex(server.uri, "written", metric="euclidean", timeout=120).fit(
        np.zeros((1, 8)), ids=["old"], records={"number": [-1]}
    )
    writer = Writer(index)
    writer.start()
    try:
        writer.wait_for(6)
        yield writer
        writer.wait_for(6)
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


def test_no_acknowledged_item_is_lost_and_none_is_twice(server: MilvusServer) -> None:
    with writing(server) as writer:
        for _ in range(2):
            server.kill()
            time.sleep(0.3)
            server.start()
            writer.wait_for(6)
    assert_nothing_is_lost_or_twice(writer)


def test_a_change_whose_acknowledgement_was_lost_is_not_made_twice(
    server: MilvusServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = MilvusIndex(server.uri, "twice").fit(vectors)
    attempted = MilvusSession.attempted

    def done_twice(self: MilvusSession, work: Callable[[MilvusClient], Any]) -> Any:
        attempted(self, work)
        return attempted(self, work)

    monkeypatch.setattr(MilvusSession, "attempted", done_twice)
    index.add(vectors[:2]).remove([0]).upsert(vectors[:1], ["new"])
    assert list(index) == [*range(1, 62), "new"]
    assert len(index) == 62


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_change_that_was_interrupted_is_noticed_and_can_be_made_again(
    server: MilvusServer,
    vectors: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    index = MilvusIndex(server.uri, "interrupted", algorithm="exact").fit(vectors)
    write = MilvusCollection.write

    def killed(self: MilvusCollection, *args: Any) -> None:
        if when == "after":
            write(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MilvusCollection, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            index.upsert(vectors[:2], ["a", 3])
    for one in (index, MilvusIndex.load(server.uri, "interrupted")):
        assert len(one) == len(list(one)) == (61 if when == "after" else 60)
        assert len(one.vectors_) == len(one)
        assert (one.kneighbors(vectors[:5], 3)[1] >= 0).all()
    index.upsert(vectors[:2], ["a", 3])
    assert list(index) == [*range(60), "a"]
    assert len(index) == 61
    assert index.search(vectors[1:2], 2).ids == [[1, 3]]


def test_a_fit_that_was_interrupted_changes_nothing(
    server: MilvusServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = MilvusIndex(server.uri, "refitted").fit(vectors)

    def killed(self: MilvusCollection, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MilvusCollection, "make_searchable", killed)
        with pytest.raises(KeyboardInterrupt):
            index.fit(vectors[:5])
    assert list(index) == list(range(60))
    assert list(index.fit(vectors[:5])) == list(range(5))


def test_a_server_that_is_down_is_named_and_waited_for_no_longer_than_told(
    vectors: NDArray[np.float32],
) -> None:
    server = MilvusServer("lite")
    try:
        index = MilvusIndex(server.uri, "down", token=TOKEN, timeout=1.5).fit(vectors)
        server.kill()
        for call in (lambda: index.kneighbors(vectors), lambda: index.add(vectors)):
            start = time.monotonic()
            with pytest.raises(ServerUnavailableError, match="cannot be reached") as caught:
                call()
            assert time.monotonic() - start < 20
            assert_no_token(caught.value)
        with pytest.raises(ServerUnavailableError) as caught:
            MilvusIndex.load(server.uri, "down", token=TOKEN, timeout=1)
        assert_no_token(caught.value)
        server.start()
        assert len(index) == 60
    finally:
        server.stop()


def test_wrong_credentials_are_named_and_no_token_is_shown(
    vectors: NDArray[np.float32],
) -> None:
    server = MilvusServer("guarded")
    try:
        for token in (TOKEN, TOKEN.replace("root", "stranger"), None):
            index = MilvusIndex(server.uri, "guarded", token=token, timeout=5)
            with pytest.raises(ServerCredentialsError) as caught:
                index.fit(vectors)
            assert_no_token(caught.value)
        index = MilvusIndex(server.uri, "guarded", token=server.token).fit(vectors)
        assert len(index) == 60
        assert server.token not in repr(index)
    finally:
        server.stop()


def test_a_search_that_takes_too_long_is_ended(
    server: MilvusServer, vectors: NDArray[np.float32]
) -> None:
    index = MilvusIndex(server.uri, "slow", timeout=2).fit(vectors)
    server.pause()
    try:
        start = time.monotonic()
        with pytest.raises((ServerTimeoutError, ServerUnavailableError)):
            index.kneighbors(vectors)
        assert time.monotonic() - start < 20
    finally:
        server.go_on()
    index.set_params(timeout=60)
    index.close()
    assert len(index.kneighbors(vectors)[1]) == 60


def test_the_collection_of_another_embedder_is_refused(
    server: MilvusServer, vectors: NDArray[np.float32]
) -> None:
    MilvusIndex(server.uri, "filled").fit(vectors, embedder=HOGEmbedder())
    loaded = MilvusIndex.load(server.uri, "filled")
    for call in (
        lambda: loaded.kneighbors(vectors, embedder=HOGEmbedder(n_orientations=5)),
        lambda: loaded.add(vectors, embedder=HOGEmbedder(n_orientations=5)),
    ):
        with pytest.raises(FingerprintError, match="another embedder"):
            call()
    assert len(loaded) == 60


@pytest.mark.parametrize("version", ["v2.2.9", "unknown"])
def test_a_server_that_is_too_old_is_refused(
    server: MilvusServer,
    vectors: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    version: str,
) -> None:
    monkeypatch.setattr(MilvusClient, "get_server_version", lambda *_, **__: version)
    with pytest.raises(ServerVersionError, match=rf"Milvus '{version}', wanted 2.3"):
        MilvusIndex(server.uri, "old").fit(vectors)


def assert_no_token(error: BaseException) -> None:
    """Neither the error nor anything that led to it tells the token."""
    assert TOKEN not in "".join(traceback.format_exception(error))
    assert "very-secret-word" not in repr(error)
