"""The graph of an index: it grows, survives being stored, and forged ones are refused."""

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from graph_faults import true_distances, use_forged_graphs_in_a_child
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imgembed.index import _structure
from imgembed.index._hnsw import Graph
from imgembed.index._structure import GraphLinks, check_links


def _vectors(n_vectors: int, n_features: int = 8, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n_vectors, n_features)).astype(np.float32)


def _graph(
    vectors: NDArray[np.float32],
    *,
    space: str = "l2",
    M: int = 4,
    ef_construction: int = 50,
    seed: int = 3,
    n_threads: int = 1,
) -> Graph:
    graph = Graph(vectors.shape[1], space, M, ef_construction, seed)
    graph.add(vectors, n_threads)
    return graph


def _stored(links: GraphLinks) -> GraphLinks:
    """The same links by way of JSON and the format of numpy."""
    fields, arrays = links.parts()
    loaded = {}
    for name, array in arrays.items():
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        file.seek(0)
        loaded[name] = np.load(file, allow_pickle=False)
    return GraphLinks.from_parts(json.loads(json.dumps(fields)), loaded)


def _assert_equal_links(links: GraphLinks, others: GraphLinks) -> None:
    assert links.parts()[0] == others.parts()[0]
    for name, array in links.parts()[1].items():
        np.testing.assert_array_equal(array, others.parts()[1][name], err_msg=name)


def _candidates(
    graph: Graph, queries: NDArray[np.float32], ef: int, n_threads: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    found = graph.candidates(queries, ef, n_threads)
    assert found is not None
    return found


def _recall(graph: Graph, vectors: NDArray[np.float32], ef: int) -> float:
    """The share of the ten nearest of new queries that is among the first ten candidates."""
    queries = _vectors(100, vectors.shape[1], seed=99)
    exact = ((queries[:, None] - vectors) ** 2).sum(axis=2).argsort(axis=1)[:, :10]
    nodes = _candidates(graph, queries, ef)[0][:, :10]
    return float(np.mean([np.isin(*rows).mean() for rows in zip(exact, nodes, strict=True)]))


# What a graph does.


@pytest.mark.parametrize("space", ["ip", "l2"])
def test_candidates_are_nodes_with_their_distances_nearest_first(space: str) -> None:
    vectors, queries = _vectors(500), _vectors(30, seed=1)
    nodes, distances = _candidates(_graph(vectors, space=space), queries, ef=40)
    assert nodes.shape == (30, 40)
    assert nodes.dtype == np.int64
    assert distances.dtype == np.float32
    exact = true_distances(queries, vectors, nodes, space)
    np.testing.assert_allclose(distances, exact, rtol=1e-4, atol=1e-5)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_more_candidates_than_nodes_are_all_nodes() -> None:
    nodes, _ = _candidates(_graph(_vectors(20)), _vectors(3, seed=1), ef=1000)
    np.testing.assert_array_equal(np.sort(nodes), np.tile(np.arange(20), (3, 1)))


@pytest.mark.parametrize("n_threads", [1, 3])
def test_nodes_are_numbered_as_their_vectors_were_added(n_threads: int) -> None:
    vectors = _vectors(600)
    graph = _graph(vectors[:400], M=16, n_threads=n_threads)
    graph.add(vectors[400:], n_threads)
    assert len(graph) == 600
    for some in (graph, Graph.from_links(graph.links(), vectors, "l2")):
        nodes, _ = _candidates(some, vectors, ef=50)
        np.testing.assert_array_equal(nodes[:, 0], np.arange(600))


def test_a_graph_without_nodes_finds_nothing_and_grows_after_it_was_stored() -> None:
    empty = _vectors(0)
    graph = _graph(empty)
    assert len(graph) == 0
    assert _candidates(graph, _vectors(2), ef=5)[0].shape == (2, 0)
    restored = Graph.from_links(_stored(graph.links()), empty, "l2")
    restored.add(_vectors(50), n_threads=1)
    _assert_equal_links(restored.links(), _graph(_vectors(50)).links())


def test_no_queries_have_no_candidates() -> None:
    nodes, distances = _candidates(_graph(_vectors(20)), _vectors(0), ef=5)
    assert nodes.shape == distances.shape == (0, 5)


def test_unreachable_nodes_are_none_and_not_an_error() -> None:
    vectors = _vectors(2)
    links = _graph(vectors, seed=4).links()
    assert links.levels.max() == 0
    links.base[:] = 0  # each node alone
    graph = Graph.from_links(links, vectors, "l2")
    assert graph.candidates(vectors, 2, n_threads=1) is None
    assert _candidates(graph, vectors, ef=1)[0].tolist() == [[links.entry]] * 2


def test_with_one_thread_equal_vectors_give_equal_links() -> None:
    vectors = _vectors(400)
    links = _graph(vectors, M=2).links()
    _assert_equal_links(links, _graph(vectors, M=2).links())
    other = _graph(vectors, M=2, seed=4).links()
    assert not np.array_equal(links.levels, other.levels)


def test_vectors_that_are_added_one_by_one_give_the_links_of_those_added_at_once() -> None:
    vectors = _vectors(300)
    graph = _graph(vectors[:0])
    for row in range(300):
        graph.add(vectors[row : row + 1], n_threads=1)
    _assert_equal_links(graph.links(), _graph(vectors).links())


def test_unused_slots_are_zero() -> None:
    links = _graph(_vectors(500), M=2).links()
    for lists in (links.base, links.upper):
        unused = np.arange(lists.shape[1] - 1) >= lists[:, :1]
        assert unused.any()
        assert not lists[:, 1:][unused].any()


def test_the_largest_number_of_links_overflows_nothing() -> None:
    vectors = _vectors(60)
    graph = _graph(vectors, M=_structure.MAX_M)
    restored = Graph.from_links(graph.links(), vectors, "l2")
    restored.add(_vectors(60, seed=1), n_threads=1)
    nodes, _ = _candidates(restored, vectors, ef=1)
    np.testing.assert_array_equal(nodes[:, 0], np.arange(60))
    assert graph.links().base.shape == (60, 20_001)


def test_threads_that_query_at_once_find_what_one_finds() -> None:
    graph = _graph(_vectors(2000, 16), M=8)
    queries = _vectors(200, 16, seed=1)
    efs = [1, 5, 20, 100] * 8
    alone = {ef: _candidates(graph, queries, ef) for ef in set(efs)}
    with ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda ef: (ef, _candidates(graph, queries, ef, 1 + ef % 3)), efs)
        for ef, (nodes, distances) in together:
            np.testing.assert_array_equal(nodes, alone[ef][0])
            np.testing.assert_array_equal(distances, alone[ef][1])


# Stored and restored.


@settings(deadline=None, max_examples=60)
@given(
    n_nodes=st.integers(1, 40),
    n_features=st.integers(1, 17),
    space=st.sampled_from(["ip", "l2"]),
    M=st.sampled_from([2, 3, 16]),
    seed=st.integers(0, 2**63 - 1),
    n_threads=st.sampled_from([1, 2]),
)
def test_a_restored_graph_has_the_same_links_and_candidates(
    n_nodes: int, n_features: int, space: str, M: int, seed: int, n_threads: int
) -> None:
    vectors = _vectors(n_nodes, n_features, seed % 1000)
    graph = _graph(vectors, space=space, M=M, seed=seed, n_threads=n_threads)
    links = _stored(graph.links())
    check_links(links, n_nodes)
    restored = Graph.from_links(links, vectors, space)
    assert len(restored) == n_nodes
    _assert_equal_links(restored.links(), links)
    queries = _vectors(5, n_features, seed=1)
    found, again = graph.candidates(queries, 7, 1), restored.candidates(queries, 7, 1)
    assert (found is None) == (again is None)
    if found is not None and again is not None:
        np.testing.assert_array_equal(found[1], again[1])
        if len(set(found[1][0])) == found[1].shape[1]:  # ties may come in any order
            np.testing.assert_array_equal(found[0][0], again[0][0])


@pytest.mark.skipif(sys.platform != "linux", reason="other C++ libraries draw levels otherwise")
def test_a_restored_graph_grows_as_if_it_had_never_been_stored() -> None:
    vectors = _vectors(300)
    graph = _graph(vectors[:100])
    for row in range(100, 300):
        graph = Graph.from_links(_stored(graph.links()), vectors[:row], "l2")
        graph.add(vectors[row : row + 1], n_threads=1)
    _assert_equal_links(graph.links(), _graph(vectors).links())


def test_a_restored_graph_grows_to_the_recall_of_one_built_at_once() -> None:
    vectors = _vectors(3000, 16)
    graph = _graph(vectors[:1000], M=8)
    restored = Graph.from_links(graph.links(), vectors[:1000], "l2")
    restored.add(vectors[1000:1001], n_threads=2)  # beyond the capacity that it was given
    restored.add(vectors[1001:], n_threads=2)
    at_once = _recall(_graph(vectors, M=8), vectors, ef=60)
    assert at_once > 0.9
    assert _recall(restored, vectors, ef=60) > at_once - 0.03


def test_blocks_of_vectors_are_enough_to_restore_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnDisk:
        shape = (100, 8)
        most = 0

        def __getitem__(self, rows: slice) -> NDArray[np.float32]:
            self.most = max(self.most, rows.stop - rows.start)
            return vectors[rows]

    monkeypatch.setattr(_structure, "_BLOCK", 100)
    vectors, on_disk = _vectors(100), OnDisk()
    graph = _graph(vectors)
    restored = Graph.from_links(graph.links(), on_disk, "l2")  # type: ignore[arg-type]
    assert on_disk.most == 100 // 8
    _assert_equal_links(restored.links(), graph.links())
    for found, again in zip(
        _candidates(graph, vectors, ef=10), _candidates(restored, vectors, ef=10), strict=True
    ):
        np.testing.assert_array_equal(found, again)


def test_parts_that_are_missing_are_named() -> None:
    fields, arrays = _graph(_vectors(5)).links().parts()
    for name in fields:
        fewer: dict[str, Any] = {key: part for key, part in fields.items() if key != name}
        with pytest.raises(ValueError, match=f"a graph has .*{name}"):
            GraphLinks.from_parts(fewer, arrays)
    with pytest.raises(ValueError, match="a graph has base, levels, upper"):
        GraphLinks.from_parts(fields, {})
    with pytest.raises(ValueError, match="a graph has entry"):
        GraphLinks.from_parts([1, 2], arrays)  # type: ignore[arg-type]


# Forged.


def _changed(links: GraphLinks, name: str, place: tuple[int, ...], number: int) -> GraphLinks:
    array = links.parts()[1][name].copy()
    array[place] = number
    return replace(links, **{name: array})


N_NODES, M = 300, 4
LINKS = _graph(_vectors(N_NODES), M=M).links()
LOW = int(np.flatnonzero(LINKS.levels == 0)[0])
# The first list above level 0 with a link; and the node that it belongs to.
LIST = int(np.flatnonzero(LINKS.upper[:, 0])[0])
OWNER = int(np.repeat(np.arange(N_NODES), LINKS.levels)[LIST])

FORGED = [
    (replace(LINKS, entry=N_NODES), r"entry of the graph is node 300; there are 300 nodes"),
    (replace(LINKS, entry=-1), "entry of the graph is node -1"),
    (replace(LINKS, entry=LOW), f"entry of the graph is node {LOW} on level 0; .* highest"),
    (replace(LINKS, entry=1.0), "entry of the graph is 1.0; a whole number"),
    (replace(LINKS, entry=True), "entry of the graph is True"),
    (replace(LINKS, entry=None), "entry of the graph is None"),
    (replace(LINKS, M=1), "M of the graph is 1; a whole number from 2 to 10000"),
    (replace(LINKS, M=10_001), "M of the graph is 10001"),
    (replace(LINKS, M=5), r"base of the graph is uint32 of shape \(300, 9\); .* \(300, 11\)"),
    (replace(LINKS, ef_construction=0), "ef_construction of the graph is 0"),
    (replace(LINKS, ef_construction=2**31), "ef_construction of the graph is 2147483648"),
    (replace(LINKS, seed=-1), "seed of the graph is -1"),
    (replace(LINKS, seed="1"), "seed of the graph is '1'"),
    (replace(LINKS, base=LINKS.base[:-1]), r"base .* shape \(299, 9\)"),
    (replace(LINKS, base=LINKS.base.astype(np.int32)), "base of the graph is int32"),
    (replace(LINKS, base=LINKS.base.astype(">u4")), "base of the graph is >u4"),
    (replace(LINKS, base=LINKS.base.tolist()), "base of the graph is a list"),
    (replace(LINKS, levels=LINKS.levels[:-1]), r"levels .* shape \(299,\)"),
    (replace(LINKS, levels=LINKS.levels.astype(object)), "levels of the graph is object"),
    (replace(LINKS, upper=LINKS.upper[:-1]), "upper of the graph is uint32 of shape"),
    (replace(LINKS, upper=LINKS.upper.ravel()), "upper of the graph is uint32 of shape"),
    (_changed(LINKS, "levels", (LOW,), 1), "upper of the graph"),
    (_changed(LINKS, "levels", (LOW,), -1), f"node {LOW} of the graph is on level -1"),
    (_changed(LINKS, "levels", (LOW,), 25), "on level 25; levels go from 0 to 24"),
    (_changed(LINKS, "levels", (LOW,), 2**31 - 1), "on level 2147483647"),
    (_changed(LINKS, "base", (7, 0), 9), "node 7 of the graph has more than 8 links on level 0"),
    (_changed(LINKS, "base", (7, 0), 2**16 + 1), "node 7 .* more than 8 links"),  # deleted
    (_changed(LINKS, "base", (7, 0), 2**31), "node 7 .* more than 8 links"),
    (_changed(LINKS, "base", (7, 1), 300), "node 7 .* a link beyond the 300 nodes on level 0"),
    (_changed(LINKS, "base", (7, 1), 2**32 - 1), "node 7 .* a link beyond the 300 nodes"),
    (_changed(LINKS, "base", (7, 1), 7), "node 7 of the graph has a link to itself on level 0"),
    (_changed(LINKS, "upper", (LIST, 0), 5), f"node {OWNER} .* more than 4 links on level 1"),
    (_changed(LINKS, "upper", (LIST, 1), 300), f"node {OWNER} .* beyond the 300 nodes on level 1"),
    (_changed(LINKS, "upper", (LIST, 1), OWNER), f"node {OWNER} .* to itself on level 1"),
    (_changed(LINKS, "upper", (LIST, 1), LOW), f"node {OWNER} .* a link to a node below it"),
]


@pytest.mark.parametrize(("links", "message"), FORGED)
def test_forged_links_are_refused(links: GraphLinks, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Graph.from_links(links, _vectors(N_NODES), "l2")


@pytest.mark.parametrize("n_vectors", [0, 299, 301])
def test_links_of_another_number_of_vectors_are_refused(n_vectors: int) -> None:
    with pytest.raises(ValueError, match="levels of the graph is int32 of shape"):
        Graph.from_links(LINKS, _vectors(n_vectors), "l2")


def test_a_wrong_link_is_found_in_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_structure, "_BLOCK", 50)
    check_links(LINKS, N_NODES)
    for node in (0, 123, N_NODES - 1):
        with pytest.raises(ValueError, match=f"node {node} of the graph has a link beyond"):
            check_links(_changed(LINKS, "base", (node, 2), N_NODES), N_NODES)


def test_forged_graphs_kill_nothing_and_those_let_through_answer_rightly() -> None:
    n_refused, n_used = use_forged_graphs_in_a_child(400, seed=1)
    assert n_refused > 100
    assert n_used > 50
