"""What happens to a MilvusIndex when its server fails: nothing lost, nothing twice, named."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from acknowledged_writes import assert_nothing_is_lost_or_twice, writing
from milvus_server import MilvusServer
from numpy.typing import NDArray
from pymilvus import MilvusClient
from server_fault_checks import (
    check_another_embedder_is_refused,
    check_that_its_server_is_down,
    raises_and_hides,
)
from server_fixtures import milvus, vectors_60_by_8  # noqa: F401

from imgembed import (
    HOGEmbedder,
    MilvusIndex,
    ServerCredentialsError,
    ServerTimeoutError,
    ServerUnavailableError,
    ServerVersionError,
)
from imgembed.servers.milvus._collection import MilvusCollection
from imgembed.servers.milvus._session import MilvusSession

pytestmark = pytest.mark.milvus

SECRET = "very-secret-word"
TOKEN = f"root:{SECRET}"


def test_no_acknowledged_item_is_lost_and_none_is_twice(server: MilvusServer) -> None:
    index = MilvusIndex(server.uri, "written", metric="euclidean", timeout=120)
    with writing(index, patience=120) as writer:
        for _ in range(2):
            server.kill()
            time.sleep(0.3)
            server.start()
            writer.wait_for(6)
    assert_nothing_is_lost_or_twice(index, writer.acknowledged)


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
        check_that_its_server_is_down(
            index,
            lambda: MilvusIndex.load(server.uri, "down", token=TOKEN, timeout=1),
            vectors,
            SECRET,
        )
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
            with raises_and_hides(SECRET, ServerCredentialsError):
                index.fit(vectors)
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
    check_another_embedder_is_refused(MilvusIndex.load(server.uri, "filled"), vectors)


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
