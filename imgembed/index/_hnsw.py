"""The only place that knows hnswlib. Whatever reaches it has been checked before.

hnswlib keeps a graph in two pieces of memory: a record a node, with its links on level 0, its
vector and its label, and the lists of links above. Its Python object gives and takes them when
it is pickled (version 0.8.0), and believes what it is given: sizes, links, levels.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import hnswlib
import numpy as np
from numpy.typing import NDArray

from ._structure import MAX_NODES, GraphLinks, check_links, row_slices

_GROWTH = 1.5  # of the capacity, when nodes are added to a full graph
_N_COPIERS = 2  # threads: memory is not faster for more


class Graph:
    """A hierarchical navigable small world graph that grows [1]_.

    Nodes are numbered from 0 in the order in which their vectors were added. None is ever
    removed. Queries may run in several threads at once, but not while nodes are added.

    Parameters
    ----------
    n_features : int
        At least 1.
    space : {"ip", "l2"}
        Distances are 1 - the inner product, or squared Euclidean distances.
    M : int
        Links of a node above level 0, from 2 to 10,000; on level 0 it has twice as many.
    ef_construction : int
        Candidates when a node is added; below `M` it acts as `M`.
    seed : int
        Draws the level of each node; from 0 to 2 ** 63 - 1.

    Notes
    -----
    With one thread the same vectors give the same links, whether added at once or in parts,
    and also when the graph was stored and restored in between.

    References
    ----------
    .. [1] Y. Malkov and D. Yashunin, "Efficient and robust approximate nearest neighbor
       search using Hierarchical Navigable Small World graphs", TPAMI 2020.
    """

    _n_nodes: int

    def __init__(
        self, n_features: int, space: str, M: int, ef_construction: int, seed: int
    ) -> None:
        index = hnswlib.Index(space, n_features)
        index.init_index(1, M, ef_construction, seed)
        self._hold(index, n_features, n_nodes=0, seed=int(seed))

    @classmethod
    def from_links(cls, links: GraphLinks, vectors: NDArray[np.float32], space: str) -> Self:
        """Restore a graph from its links and the vectors of its nodes.

        Parameters
        ----------
        links : GraphLinks
            In memory; checked here.
        vectors : ndarray of shape (n_nodes, n_features), dtype float32
            Finite. Read a block of rows at a time, so it may be mapped from a file, or be
            anything with a shape whose slices are such arrays.
        space : {"ip", "l2"}

        Raises
        ------
        ValueError
            Says what is wrong with the links.

        Notes
        -----
        While it runs, memory holds the graph twice.
        """
        n_nodes, n_features = vectors.shape
        check_links(links, n_nodes)
        graph = cls(n_features, space, links.M, links.ef_construction, links.seed)
        if n_nodes:
            state = _state(graph._index)
            state.update(_filled_state(links, vectors))
            graph._hold(hnswlib.Index(params=state), n_features, n_nodes, links.seed)
        return graph

    def __len__(self) -> int:
        return self._n_nodes

    def add(self, vectors: NDArray[np.float32], n_threads: int) -> None:
        """Add a node for each vector.

        Parameters
        ----------
        vectors : ndarray of shape (n_vectors, n_features), dtype float32
            Finite and C-contiguous. They become nodes len(self), len(self) + 1, ...
        n_threads : int
            At least 1. With more than one the links differ from run to run.

        Notes
        -----
        After an exception (memory is exhausted) the graph must not be used any more.
        """
        if len(vectors) == 0:  # hnswlib would read a vector nevertheless
            return
        self.reserve(self._n_nodes + len(vectors))
        try:
            self._index.add_items(vectors, None, n_threads)
        finally:  # Ctrl-C while they were added is raised as soon as all have been
            self._n_nodes = int(self._index.get_current_count())

    def keep_ef(self, ef: int) -> None:
        """Set the ef that searches have at least; not while others search."""
        self._index.set_ef(ef)
        self.ef = ef

    def candidates(
        self, queries: NDArray[np.float32], ef: int, n_threads: int, k: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Nodes near each query, nearest first, or None if a query reaches fewer than asked for.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), dtype float32
            Finite and C-contiguous.
        ef : int
            Candidates while searching, at least 1 and those of :meth:`keep_ef`.
        n_threads : int
            At least 1.
        k : int, optional
            How many of them are wanted, at most ef; by default all. More may come.

        Returns
        -------
        nodes : ndarray of shape (n_queries, min(k or ef, len(self))), dtype int64
        distances : ndarray of the same shape, dtype float32

        Notes
        -----
        Each None leaks 12 bytes a candidate and query: hnswlib forgets its result there.
        """
        # A larger ef goes as k, since hnswlib's own is state that parallel queries share.
        asked = ef if k is None or ef > self.ef else k
        try:
            nodes, distances = self._index.knn_query(queries, min(asked, self._n_nodes), n_threads)
        except RuntimeError:  # fewer found than asked for
            return None
        return nodes.view(np.int64), distances

    def nearest(
        self, query: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32]] | None:
        """What :meth:`candidates` finds of one query with the ef that is kept, as it comes.

        Parameters
        ----------
        query : ndarray of shape (1, n_features), dtype float32
            Finite.
        k : int
            At most the ef that is kept.
        """
        try:
            found: tuple[NDArray[np.uint64], NDArray[np.float32]] = self._index.knn_query(
                query, k, 1
            )
        except RuntimeError:
            return None
        return found

    def links(self) -> GraphLinks:
        """The graph without its vectors.

        Notes
        -----
        While it runs, memory holds the graph twice. Unused slots are zero: equal graphs have
        equal arrays.
        """
        state = _state(self._index)
        M = state["M"]
        records = state["data_level0"].view(_record(M, self._n_features))
        levels = state["element_levels"][: self._n_nodes]
        upper = state["link_lists"].view(np.uint32).reshape(-1, 1 + M)
        base, levels, upper = _in_order_of_labels(
            records["links"], levels, upper, records["label"].astype(np.int64)
        )
        entry = int(records["label"][state["enterpoint_node"]]) if self._n_nodes else -1
        return GraphLinks(base, levels, upper, entry, M, state["ef_construction"], self._seed)

    def reserve(self, n_nodes: int) -> None:
        """Make room for as many nodes as are coming.

        It grows geometrically, so that adding one by one copies each node a few times only.
        """
        capacity = self._index.get_max_elements()
        if n_nodes > MAX_NODES:
            raise ValueError(f"a graph has at most {MAX_NODES} nodes; {n_nodes} were asked for")
        if n_nodes > capacity:
            self._index.resize_index(min(max(n_nodes, int(_GROWTH * capacity)), MAX_NODES))

    def _hold(self, index: Any, n_features: int, n_nodes: int, seed: int) -> None:
        self._index = index
        self.keep_ef(1)
        self._n_features = n_features
        self._n_nodes = n_nodes
        self._seed = seed


def _state(index: Any) -> dict[str, Any]:
    """What hnswlib pickles, copied."""
    (state,) = index.__getstate__()
    return dict(state)


def _record(M: int, n_features: int) -> np.dtype[np.void]:
    """What hnswlib keeps of a node in one place; its label is not aligned."""
    return np.dtype(
        [
            ("links", np.uint32, (1 + 2 * M,)),
            ("vector", np.float32, (n_features,)),
            ("label", np.uint64),
        ]
    )


def _filled_state(links: GraphLinks, vectors: NDArray[np.float32]) -> dict[str, Any]:
    """The part of the state in which a full graph differs from an empty one."""
    n_nodes = len(links.levels)
    nodes = np.arange(n_nodes, dtype=np.uint64)
    return {
        "seed": _generator_state(links.seed, n_nodes),
        "ep_added": True,  # an entry exists
        "max_elements": n_nodes,
        "cur_element_count": n_nodes,
        "max_level": int(links.levels.max()),
        "enterpoint_node": links.entry,
        "label_lookup_external": nodes,
        "label_lookup_internal": nodes.astype(np.uint32),
        "element_levels": links.levels,
        "data_level0": _records(links, vectors),
        "link_lists": np.ascontiguousarray(links.upper).reshape(-1).view(np.int8),
    }


def _records(links: GraphLinks, vectors: NDArray[np.float32]) -> NDArray[np.int8]:
    """Records of all nodes, as bytes."""
    n_nodes, n_features = vectors.shape
    records = np.empty(n_nodes, dtype=_record(links.M, n_features))

    def fill(block: slice) -> None:
        records["links"][block] = links.base[block]
        records["vector"][block] = vectors[block]

    with ThreadPoolExecutor(_N_COPIERS) as pool:
        list(pool.map(fill, row_slices(n_nodes, n_features)))
    records["label"] = np.arange(n_nodes)
    return records.view(np.int8)


def _generator_state(seed: int, n_nodes: int) -> int:
    """The seed that continues the drawing of levels after `n_nodes` nodes.

    The C++ library of GCC draws from a Lehmer generator [1]_, twice a node; its seed is its
    state. Elsewhere the result is one more seed, which differs with the number of nodes, so
    that nodes added one at a time, each to a restored graph, do not all get one level.

    References
    ----------
    .. [1] S. Park and K. Miller, "Random number generators: good ones are hard to find",
       Communications of the ACM 1988.
    """
    multiplier, modulus = 16_807, 2**31 - 1
    return (seed % modulus or 1) * pow(multiplier, 2 * n_nodes, modulus) % modulus


def _in_order_of_labels(
    base: NDArray[np.uint32],
    levels: NDArray[np.int32],
    upper: NDArray[np.uint32],
    labels: NDArray[np.int64],
) -> tuple[NDArray[np.uint32], NDArray[np.int32], NDArray[np.uint32]]:
    """Copies in which node i is the one with label i: threads add nodes in any order.

    Parameters
    ----------
    base, levels, upper
        As in `GraphLinks`, in the order of hnswlib's nodes.
    labels : ndarray of shape (n_nodes,), dtype int64
        Of hnswlib's nodes.
    """
    nodes = np.argsort(labels)
    owners = np.repeat(labels, levels)
    lists = np.argsort(owners, kind="stable")  # the lists of a node stay in order of level
    return _relabelled(base[nodes], labels), levels[nodes], _relabelled(upper[lists], labels)


def _relabelled(lists: NDArray[np.uint32], labels: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Lists whose links are labels, with zeros in the unused slots; changed in place."""
    names = labels.astype(np.uint32)
    for block in row_slices(*lists.shape):
        counts, linked = lists[block, :1], lists[block, 1:]
        unused = np.arange(linked.shape[1], dtype=np.uint32) >= counts
        linked[unused] = 0
        linked[...] = names[linked]
        linked[unused] = 0
    return lists
