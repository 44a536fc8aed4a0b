"""Forged graphs: whatever the check lets through must be safe to search and to extend.

The same file is the child process in which they are used, since the one mistake that matters
ends the process: ``python graph_faults.py seed first last``.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from imgembed.index._hnsw import Graph
from imgembed.index._structure import GraphLinks

N_FEATURES = 3
_FRESH_MEMORY = "165"  # glibc fills it with this byte, so that nothing works by chance


def use_forged_graphs_in_a_child(n: int, seed: int) -> tuple[int, int]:
    """Forge graphs, and use those that are not refused.

    Parameters
    ----------
    n : int
        Number of forged graphs.
    seed : int

    Returns
    -------
    n_refused, n_used : int

    Raises
    ------
    AssertionError
        With the output of the child, if it was killed or an answer was wrong.
    """
    child = subprocess.run(
        [sys.executable, __file__, str(seed), "0", str(n)],
        env=os.environ | {"MALLOC_PERTURB_": _FRESH_MEMORY},
        capture_output=True,
        text=True,
    )
    lines = child.stdout.split()
    assert child.returncode == 0, (
        f"the child ended with {child.returncode} at graph {len(lines)} of seed {seed}\n"
        f"{child.stderr}"
    )
    assert len(lines) == n
    return lines.count("refused"), lines.count("used")


def use_forged_graphs(seed: int, first: int, last: int) -> None:
    """Use forged graphs here; a line for each says what became of it."""
    originals = [_original(number) for number in range(12)]
    for number in range(first, last):
        rng = np.random.default_rng([seed, number])
        links, vectors, space = originals[rng.integers(len(originals))]
        links = _forged(links, rng)
        try:
            graph = Graph.from_links(links, vectors, space)
        except ValueError:
            print("refused", flush=True)
            continue
        _use(graph, vectors, space, rng)
        print("used", flush=True)


def _original(number: int) -> tuple[GraphLinks, NDArray[np.float32], str]:
    """A whole graph: small ones and larger ones, with few links and with many."""
    rng = np.random.default_rng(number)
    n_nodes = (1, 2, 5, 30, 100, 300)[number % 6]
    vectors = rng.normal(size=(n_nodes, N_FEATURES)).astype(np.float32)
    space, M = ("ip", 2) if number < 6 else ("l2", 5)
    graph = Graph(N_FEATURES, space, M, ef_construction=20, seed=number)
    graph.add(vectors, n_threads=1)
    return graph.links(), vectors, space


def _forged(links: GraphLinks, rng: np.random.Generator) -> GraphLinks:
    """A few changes at random places, and at times another shape."""
    for _ in range(rng.integers(1, 5)):
        forge = _FORGERIES[rng.integers(len(_FORGERIES))]
        links = forge(links, rng)
    return _forge_shape(links, rng) if rng.random() < 0.1 else links


def _forge_number(links: GraphLinks, rng: np.random.Generator) -> GraphLinks:
    """Another entry, M, ..."""
    name = str(rng.choice(["entry", "M", "ef_construction", "seed"]))
    n_nodes = len(links.levels)
    numbers = [-1, 0, 1, 2, n_nodes - 1, n_nodes, 2**31 - 1, 2**32, int(rng.integers(n_nodes))]
    return replace(links, **{name: numbers[rng.integers(len(numbers))]})  # type: ignore[arg-type]


def _forge_element(links: GraphLinks, rng: np.random.Generator) -> GraphLinks:
    """Another link, count or level: one that is near the limit, or one that there is."""
    name = str(rng.choice(["base", "levels", "upper"]))
    array = getattr(links, name).copy()
    if array.size:
        n_nodes = len(links.levels)
        numbers = [0, 1, array.shape[-1] - 1, array.shape[-1], n_nodes, 2**16, 2**16 + 1, 2**31 - 1]
        likely = int(rng.integers(max(1, n_nodes)))
        number = likely if rng.random() < 0.6 else numbers[rng.integers(len(numbers))]
        array.flat[rng.integers(array.size)] = number
    return replace(links, **{name: array})


def _forge_count(links: GraphLinks, rng: np.random.Generator) -> GraphLinks:
    """A list that is longer or shorter than it was."""
    name = str(rng.choice(["base", "upper"]))
    array = getattr(links, name).copy()
    if array.size:
        array[rng.integers(len(array)), 0] = rng.integers(array.shape[1] + 1)
    return replace(links, **{name: array})


def _forge_links(links: GraphLinks, rng: np.random.Generator) -> GraphLinks:
    """All links of a level, at random between the nodes."""
    base = links.base.copy()
    base[:, 1:] = rng.integers(len(base), size=base[:, 1:].shape)
    own = base[:, 1:] == np.arange(len(base))[:, None]
    base[:, 1:][own] = (np.nonzero(own)[0] + 1) % len(base)
    base[:, 0] = rng.integers(base.shape[1], size=len(base)) if len(base) > 1 else 0
    return replace(links, base=base)


def _forge_bit(links: GraphLinks, rng: np.random.Generator) -> GraphLinks:
    """One bit."""
    name = str(rng.choice(["base", "levels", "upper"]))
    array = getattr(links, name).copy()
    if array.size:
        octets = array.reshape(-1).view(np.uint8)
        octets[rng.integers(len(octets))] ^= 1 << rng.integers(8)
    return replace(links, **{name: array})


def _forge_shape(links: GraphLinks, rng: np.random.Generator) -> GraphLinks:
    """Rows that are missing or in another order, or another kind of number."""
    name = str(rng.choice(["base", "levels", "upper"]))
    array = getattr(links, name)
    changes: Sequence[Callable[[NDArray[np.generic]], NDArray[np.generic]]] = [
        lambda array: array[:-1],
        lambda array: np.concatenate([array, array[:1]]),
        lambda array: array[::-1],
        lambda array: array.astype(np.int64),
        lambda array: array.astype(array.dtype.newbyteorder()),
        lambda array: array[..., None],
        lambda array: np.asfortranarray(array),
    ]
    return replace(links, **{name: changes[rng.integers(len(changes))](array)})


_FORGERIES = (
    _forge_number,
    _forge_element,
    _forge_element,
    _forge_count,
    _forge_links,
    _forge_bit,
)


def _use(graph: Graph, vectors: NDArray[np.float32], space: str, rng: np.random.Generator) -> None:
    """Search, extend, search again; the answers are true distances to nodes, nearest first."""
    queries = rng.normal(size=(20, N_FEATURES)).astype(np.float32)
    _search(graph, vectors, queries, space)
    more = rng.normal(size=(int(rng.integers(1, 60)), N_FEATURES)).astype(np.float32)
    graph.add(more, n_threads=int(rng.integers(1, 3)))
    vectors = np.concatenate([vectors, more])
    _search(graph, vectors, queries, space)
    _search(Graph.from_links(graph.links(), vectors, space), vectors, queries, space)


def _search(
    graph: Graph, vectors: NDArray[np.float32], queries: NDArray[np.float32], space: str
) -> None:
    for ef in (1, 10, len(vectors)):
        found = graph.candidates(queries, ef, n_threads=2)
        if found is None:  # a forged graph need not reach all nodes
            continue
        nodes, distances = found
        assert nodes.shape == distances.shape == (len(queries), min(ef, len(vectors)))
        assert all(len(set(row)) == len(row) for row in nodes.tolist())
        np.testing.assert_allclose(
            distances, true_distances(queries, vectors, nodes, space), rtol=1e-4, atol=1e-5
        )
        assert (np.diff(distances, axis=1) >= 0).all()


def true_distances(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    nodes: NDArray[np.int64],
    space: str,
) -> NDArray[np.float64]:
    """Distances of each query to its nodes, without hnswlib."""
    rows, near = queries[:, None].astype(np.float64), vectors[nodes].astype(np.float64)
    if space == "ip":
        return 1 - (rows * near).sum(axis=2)  # type: ignore[no-any-return]
    return ((rows - near) ** 2).sum(axis=2)  # type: ignore[no-any-return]


if __name__ == "__main__":
    use_forged_graphs(*map(int, sys.argv[1:]))
