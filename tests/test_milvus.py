"""MilvusIndex against real servers: the contract of all indexes, and what is its own."""

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from milvus_server import MilvusServer
from numpy.typing import NDArray
from pymilvus import MilvusClient
from server_checks import (
    check_a_fit_that_fails_leaves_what_was_there,
    check_equal_vectors_do_not_hide_the_others,
    check_image_search_works_over,
    check_loaded_is_as_fitted,
    check_the_graph_reaches_the_recall_with_filters,
    check_there_and_back,
    check_two_threads_search_while_a_third_changes,
    index_to_move,
)
from server_fixtures import milvus, vectors_300_by_16  # noqa: F401
from where_checks import (
    check_conditions_mean_the_same,
    check_hostile_conditions_find_no_more,
    check_names_are_only_names,
    fit_what_is_attacked,
)
from where_strategies import PLAIN_CONDITIONS, attacks

from imgembed import (
    MilvusIndex,
    ServerError,
    ServerTableError,
    ServerVersionError,
    WhereError,
)
from imgembed.servers.milvus import _decided, _store
from imgembed.servers.milvus._state import STATES
from imgembed.servers.milvus._store import MilvusStore
from imgembed.testing import check_index

pytestmark = pytest.mark.milvus


@pytest.fixture
def client(server: MilvusServer) -> Iterator[MilvusClient]:
    connected = MilvusClient(server.uri, dedicated=True)
    yield connected
    connected.close()


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "ip"])
@pytest.mark.parametrize("algorithm", ["auto", "hnsw"])
def test_the_contract_of_all_indexes_holds(
    server: MilvusServer, metric: str, algorithm: str
) -> None:
    check_index(MilvusIndex(server.uri, "contract", metric=metric, algorithm=algorithm))


def test_an_index_is_loaded_with_the_parameters_it_was_fitted_with(
    server: MilvusServer, vectors: NDArray[np.float32]
) -> None:
    fitted = MilvusIndex(server.uri, "loaded", 7, "euclidean", "hnsw", M=8, ef_construction=50)
    fitted.fit(vectors, records={"price": range(300)})
    check_loaded_is_as_fitted(fitted, MilvusIndex.load(server.uri, "loaded"), vectors)


def test_there_and_back_all_is_the_same(server: MilvusServer, vectors: NDArray[np.float32]) -> None:
    index = index_to_move(vectors)
    check_there_and_back(index, MilvusIndex.from_index(index, server.uri, "moved"), vectors)


def test_image_search_works_over_it(server: MilvusServer) -> None:
    check_image_search_works_over(MilvusIndex(server.uri, "images"))


def test_the_graph_reaches_the_recall_with_filters_too(server: MilvusServer) -> None:
    if server.kind == "lite":
        pytest.skip("filters of milvus-lite say nothing of those of Milvus")
    check_the_graph_reaches_the_recall_with_filters(MilvusIndex(server.uri, "many", 10))


def test_equal_vectors_do_not_hide_the_others(
    server: MilvusServer, vectors: NDArray[np.float32]
) -> None:
    index = MilvusIndex(server.uri, "copies", algorithm="hnsw")
    check_equal_vectors_do_not_hide_the_others(index, vectors)


def test_awkward_names_are_only_names(server: MilvusServer, vectors: NDArray[np.float32]) -> None:
    index = MilvusIndex(server.uri, "names")
    names = ['say "x"', "50% off", "like", "é", "a'b", "$meta", "Price", "c_1", "exists", "0"]
    check_names_are_only_names(index, names, "c_1", vectors)
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
    monkeypatch.setattr(_decided, "MOST_READ", 100)
    with pytest.raises(WhereError, match=r"300 items are too many to read \(at most 100\).*AND"):
        index.search(vectors[:1], where="n % 2 = 1")
    found = index.search(vectors[:1], 300, where="n % 2 = 1 AND n < 50")
    assert sorted(found.ids[0]) == list(range(1, 50, 2))


def test_more_neighbours_than_milvus_finds_are_found_here(
    server: MilvusServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = MilvusIndex(server.uri, "manyfound").fit(vectors)
    wanted = index.kneighbors(vectors[:4], 250)
    monkeypatch.setattr("imgembed.servers.milvus._store.LARGEST_K", 200)
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
    index = MilvusIndex(server.uri, "stays")
    check_a_fit_that_fails_leaves_what_was_there(index, vectors)
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


def check_the_second_writer_is_told(
    first: MilvusIndex, second: MilvusIndex, vectors: NDArray[np.float32]
) -> None:
    """Of two of an index of 300 items, the first upserts a and b while the second changes it."""
    with pytest.raises(ServerError, match=r"another program changed.*upsert the same items"):
        second.upsert(vectors[2:4], ["c", "d"])
    second.upsert(vectors[2:4], ["c", "d"])
    for one in (first, second):
        assert set(one) == {*range(300), "a", "b", "c", "d"}
        assert len(one) == 304
        rows = one.kneighbors(vectors[:4], 304, exact=True)[1]
        assert np.array_equal(np.sort(rows, axis=1), np.tile(np.arange(304), (4, 1)))


def test_a_second_writer_is_noticed_and_told(
    server: MilvusServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = MilvusIndex(server.uri, "writers").fit(vectors)
    other = MilvusIndex.load(server.uri, "writers")
    made, is_first = _store.made, iter([True])

    def interrupted(*args: Any) -> Any:
        if next(is_first, False):
            index.upsert(vectors[:2], ["a", "b"])
        return made(*args)

    monkeypatch.setattr(_store, "made", interrupted)
    check_the_second_writer_is_told(index, other, vectors)


def test_two_writers_at_the_same_moment_are_noticed_and_put_in_order(
    server: MilvusServer, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = MilvusIndex(server.uri, "moment").fit(vectors)
    other = MilvusIndex.load(server.uri, "moment")
    settled, is_first = MilvusStore._settled, iter([True])

    def interrupted(*args: Any) -> Any:
        state = settled(*args)
        if next(is_first, False):
            index.upsert(vectors[:2], ["a", "b"])
        return state

    monkeypatch.setattr(MilvusStore, "_settled", interrupted)
    check_the_second_writer_is_told(index, other, vectors)


_WORDS = "$meta [ ] == && ! exists imgembed_key imgembed_slot json_contains ('x')"
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
    index = fit_what_is_attacked(MilvusIndex(server.uri, "hostile"), vectors)
    MilvusIndex(server.uri, "secret").fit(vectors[:1], ids=["word"])
    before = list(index), index.vectors_
    n_examples = 1_000 if server.kind == "lite" else 200
    conditions = attacks(_HOSTILE, _WORDS)
    check_hostile_conditions_find_no_more(index, vectors[:1], conditions, n_examples)
    assert list(index) == before[0]
    assert np.array_equal(index.vectors_, before[1])
    assert list(MilvusIndex.load(server.uri, "secret")) == ["word"]


def test_what_both_take_means_the_same_on_the_server_and_here(server: MilvusServer) -> None:
    index = MilvusIndex(server.uri, "same")
    n_examples = 300 if server.kind == "lite" else 60
    check_conditions_mean_the_same(index, PLAIN_CONDITIONS, n_examples, n_wanted=40)


def test_two_threads_search_while_a_third_changes(
    server: MilvusServer, vectors: NDArray[np.float32]
) -> None:
    check_two_threads_search_while_a_third_changes(
        MilvusIndex(server.uri, "threads"), vectors, n_searches=10, n_changes=(2, 2)
    )
