"""NodeIndex: distinct vectors, each a node, and how they are searched."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from .._vectors import normalise_rows
from ..base import PROGRESS_DELAY
from ._costs import vectors_per_candidate
from ._exact import exact_neighbors, paired_distances, rank_candidates
from ._found import Distances, Found, allowed_first, fitted, merged, ordered
from ._hnsw import Graph
from ._projection import Projection
from ._rounding import stored_recall
from ._settings import Settings
from ._structure import GraphLinks
from ._tuning import RecallEstimate, RecallPoint, Tuning, measure, smallest_ef
from ._vector_store import VectorStore, first_of_equal, first_places, hash_rows

Floats = NDArray[np.float32]
Nodes = NDArray[np.int64]

# Below this many nodes a scan by matrix products is exact and no slower than a graph.
_EXACT_BELOW = 10_000
# New nodes are scanned beside the graph until there are more than this; then they join it.
_MOST_OUTSIDE = 1000
# The most vectors that are held back from the graph, to measure its recall.
_MOST_HELD_BACK = 500
# The graph is tuned again when it has grown by this factor.
_GROWTH = 1.5
# The share of what lacks to a recall of 1 that is added to the target when an ef is chosen; more
# where the graph's distances are those of projections.
_SPARE, _SPARE_PROJECTED = 0.25, 0.5
# How far strays are moved. The bundled network's vectors of photographs that were unlike all others
# were found about as well as vectors that were moved a third.
_STRAY = 1 / 3
# Where a filter leaves a share of the nodes, chance leaves fewer of some neighbourhoods.
_MARGIN = 1.25
# Nodes added to the graph between two looks at signals such as Ctrl-C.
_NODES_AT_ONCE = 10_000
# Axes of the graph where vectors are stored in little space, and vectors that choose them.
_N_AXES = 256
_N_PROJECTED = 10_000
# The arrays of a graph's links.
_LINKS = ("base", "levels", "upper")
# Candidates that one call may return: 12 MB.
_CANDIDATES_AT_ONCE = 1_000_000
# Cosine distances below this are computed from the vectors.
NEAR = 0.01
# Below this the squares of entries vanish in float32, in which the graph computes.
_SMALLEST = 1e-15


class NodeIndex:
    """Distinct vectors, numbered as they come, with a graph if there are many.

    Parameters
    ----------
    settings : Settings
    n_features : int
    progress : {"auto", True, False}, default="auto"
        Whether to show a progress bar while a graph is built.
    """

    def __init__(self, settings: Settings, n_features: int, progress: bool | str = "auto") -> None:
        self.settings, self.progress = settings, progress
        self.store = VectorStore(n_features, settings.storage, settings.metric == "cosine")
        self.graph: Graph | None = None
        self.tuning: Tuning | None = None
        self.rounding: RecallEstimate | None = None
        self._projection: Projection | None = None
        self._order = np.empty(0, np.int32)  # the node of each vector in the graph
        self._outside = np.empty(0, np.int64)  # nodes that are not in the graph
        self._hashes: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.store)

    def nodes_of(self, vectors: Floats, n_threads: int) -> Nodes:
        """The nodes of vectors; what has none yet gets one.

        Parameters
        ----------
        vectors : ndarray of shape (n, n_features), dtype float32
            Finite; normalised for "cosine".
        n_threads : int
            Threads that extend the graph.

        Returns
        -------
        nodes : ndarray of shape (n,), dtype int64
        """
        codes, scales = self.store.encode(vectors)
        hashes = hash_rows(codes, scales)
        firsts, groups = first_of_equal(codes, scales, hashes)
        nodes = self._known(
            codes[firsts], scales[firsts] if len(scales) else scales, hashes[firsts]
        )
        new = nodes < 0
        nodes[new] = len(self) + np.arange(np.count_nonzero(new))
        is_first = not len(self)
        try:
            self._append(codes, scales, hashes, firsts[new])
            if is_first and self.settings.storage != "float32":
                self._measure_rounding(vectors if len(firsts) == len(vectors) else vectors[firsts])
            self._extend_graph(n_threads)
        except BaseException as error:  # Ctrl-C, too, may have come between two steps
            self._repair(graph_is_whole=not isinstance(error, Exception))
            raise
        return nodes[groups]

    def search(
        self,
        queries: Floats,
        k: int,
        n_threads: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exact: bool = False,
    ) -> Found:
        """The nearest nodes of each query.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), dtype float32
            Finite; normalised for "cosine".
        k : int
        n_threads : int
        allowed : ndarray of shape (n_nodes,), dtype bool, optional
            Which nodes may be found; by default all.
        exact : bool

        Returns
        -------
        distances : ndarray of shape (n_queries, min(k, n_allowed)), dtype float64
            Ascending.
        nodes : ndarray of the same shape, dtype int64
        """
        n_allowed = len(self) if allowed is None else int(np.count_nonzero(allowed))
        k = min(k, n_allowed)
        ef = None if exact or not k else self.planned_ef(k, len(queries), n_allowed)
        if ef is None:
            return self._scanned(queries, k, allowed)
        distances, nodes = self._visited(queries, k, ef, n_threads, allowed)
        short = np.isinf(distances[:, -1])
        if short.any():
            distances[short], nodes[short] = self._scanned(queries[short], k, allowed)
        return distances, nodes

    def planned_ef(self, k: int, n_queries: int, n_allowed: int) -> int | None:
        """Candidates to visit in the graph, or None where a scan is faster or there is none.

        Where only a share of the nodes is allowed, that many more must be visited.
        """
        if self.graph is None:
            return None
        some = n_allowed < len(self)
        more = len(self) / n_allowed * _MARGIN if some else 1
        if self.settings.ef_search is not None:
            ef = round(max(self.settings.ef_search, k) * more)
        elif self.tuning is not None:
            ef = self.tuning.ef(k * more)
        else:
            return None
        dear = vectors_per_candidate(n_queries, self.store.n_features, copied=some)
        return None if n_allowed <= ef * dear else min(ef, len(self.graph))

    def recall_estimate(self) -> RecallEstimate:
        """The recall that was measured for the number of neighbours and the ef in use."""
        k = self.settings.n_neighbors
        if self.graph is None or self.tuning is None:
            return RecallEstimate.exact(k)
        ef = self.settings.ef_search or self.tuning.ef(k)
        return self.tuning.estimate(k, ef)

    def curve(self) -> tuple[RecallPoint, ...]:
        """What was measured when the graph was tuned."""
        return () if self.tuning is None else self.tuning.curve

    def visit(self, queries: Floats, k: int, ef: int, n_threads: int) -> Found:
        """The nearest nodes that the graph finds with an ef, and those outside of it."""
        return self._visited(queries, k, ef, n_threads, None)

    def is_answered_by_graph(self, k: int) -> bool:
        """Whether one query needs the graph alone, which returns k, by distances that hold."""
        if self.graph is None or len(self._outside) or self._projection is not None:
            return False
        ef = self.planned_ef(k, 1, len(self)) if k <= len(self) else None
        return ef is not None and k <= ef <= self.graph.ef

    def in_graph(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """What belongs to each node, in the order of the graph."""
        return numbers[self._order]

    def ranked(self, places: NDArray[np.int64], farness: Floats, queries: Floats) -> Found:
        """Distances and nodes of what the graph has found."""
        nodes = self._order.take(places).astype(np.int64)
        return self._as_distances(farness, nodes, queries)

    def keep_usual_ef(self) -> None:
        """Give the graph the ef of most searches, which then return no more than is wanted."""
        ef = self.planned_ef(self.settings.n_neighbors, 1, len(self))
        if self.graph is not None:
            self.graph.keep_ef(ef or 1)

    def chosen(self, nodes: Nodes, n_threads: int) -> "NodeIndex":
        """An index of some of the nodes, with a graph of its own."""
        chosen = NodeIndex(self.settings, self.store.n_features, self.progress)
        chosen.store, chosen.rounding = self.store.chosen(nodes), self.rounding
        chosen._outside = np.arange(len(nodes))
        chosen._extend_graph(n_threads)
        return chosen

    # Adding.

    def _known(self, codes: NDArray[Any], scales: Floats, hashes: NDArray[np.uint64]) -> Nodes:
        """The nodes that encoded vectors have already; -1 for those that have none."""
        known = np.full(len(codes), -1, np.int64)
        if not len(self):
            return known
        if self._hashes is None:
            self._hashes = hash_rows(*self.store.arrays())
        nodes = first_places(self._hashes, hashes)
        same = np.flatnonzero(self._hashes[nodes] == hashes)
        # Unequal vectors of equal hash: the new one gets a node of its own, which is harmless.
        some = scales[same] if len(scales) else scales
        same = same[self.store.same(nodes[same], codes[same], some)]
        known[same] = nodes[same]
        return known

    def _append(
        self,
        codes: NDArray[Any],
        scales: Floats,
        hashes: NDArray[np.uint64],
        added: NDArray[np.int64],
    ) -> None:
        everything = len(added) == len(codes)
        self._outside = np.concatenate([self._outside, len(self) + np.arange(len(added))])
        self.store.append(
            codes if everything else codes[added],
            scales if everything or not len(scales) else scales[added],
        )
        if self._hashes is not None:
            self._hashes = np.concatenate([self._hashes, hashes[added]])

    def _measure_rounding(self, vectors: Floats) -> None:
        settings = self.settings
        self.rounding = stored_recall(self.store, vectors, settings.metric, settings.n_neighbors)

    def _repair(self, *, graph_is_whole: bool) -> None:
        """Take from the store and the graph what is where."""
        if not graph_is_whole:  # all is scanned, until more nodes come
            self.graph = self.tuning = self._projection = None
        n_inside = 0 if self.graph is None else len(self.graph)
        self._order, self._hashes = self._order[:n_inside], None
        self._outside = self._not_in_order()

    def _not_in_order(self) -> Nodes:
        outside = np.ones(len(self), bool)
        outside[self._order] = False
        return np.flatnonzero(outside)

    def _extend_graph(self, n_threads: int) -> None:
        """Put what is outside into the graph, if there is enough to be worth it."""
        wanted = self.settings.algorithm == "hnsw" or (
            self.settings.algorithm == "auto" and len(self) >= _EXACT_BELOW
        )
        if not wanted or (self.graph is not None and len(self._outside) <= _MOST_OUTSIDE):
            return
        if self.graph is None and not self._is_fit_for_a_graph():
            return
        joining = self._outside
        due = (
            self.tuning is None or len(self._order) + len(joining) >= _GROWTH * self.tuning.n_nodes
        )
        held_back = self._sample(joining) if due else joining[:0]
        first = np.setdiff1d(joining, held_back, assume_unique=True)
        if self.graph is None:
            self._start_graph(first)
        self._insert(first, n_threads)
        if len(held_back) and len(self._order):
            self._tune(held_back, n_threads)
        self._insert(held_back, n_threads)
        self.keep_usual_ef()

    def _is_fit_for_a_graph(self) -> bool:
        return any(np.abs(block).max(initial=0) > _SMALLEST for _, block in self.store.blocks())

    def _start_graph(self, nodes: Nodes) -> None:
        """Begin an empty graph, in axes that are chosen by some of its first nodes."""
        settings, n_features = self.settings, self.store.n_features
        if settings.storage != "float32" and n_features > _N_AXES:
            rng = np.random.default_rng(settings.seed)
            # Of few: axes fit the vectors that chose them better than others, queries among them.
            n_some = max(min(len(nodes) // 4, _N_PROJECTED), 1)
            some = rng.choice(nodes, n_some, replace=False)
            vectors = self.store.take(np.sort(some))
            self._projection = Projection.fitted(vectors, _N_AXES, centred=settings.space == "l2")
            n_features = _N_AXES
        self.graph = Graph(
            n_features, settings.space, settings.M, settings.ef_construction, settings.seed
        )

    def _sample(self, nodes: Nodes) -> Nodes:
        """Nodes that are held back: a part of what the graph will have, or fewer."""
        n_all = len(self._order) + len(nodes)
        n_held_back = min(max(n_all // 200, min(n_all // 10, 250)), _MOST_HELD_BACK, len(nodes))
        rng = np.random.default_rng(self.settings.seed + len(self))
        return np.sort(rng.choice(nodes, n_held_back, replace=False))

    def _insert(self, nodes: Nodes, n_threads: int) -> None:
        assert self.graph is not None
        self.graph.reserve(len(self.graph) + len(nodes))
        for start in self._bar(range(0, len(nodes), _NODES_AT_ONCE)):
            some = nodes[start : start + _NODES_AT_ONCE]
            self._order = np.concatenate([self._order, some.astype(np.int32)])
            self.graph.add(self._graph_vectors(self.store.take(some)), n_threads)
            self._outside = np.setdiff1d(self._outside, some, assume_unique=True)

    def _bar(self, starts: range) -> Any:
        return tqdm(
            starts,
            desc="building the graph",
            disable=None if self.progress == "auto" else not self.progress,
            delay=PROGRESS_DELAY if self.progress == "auto" else 0,
        )

    def _graph_vectors(self, vectors: Floats) -> Floats:
        return (
            np.ascontiguousarray(vectors) if self._projection is None else self._projection(vectors)
        )

    def _tune(self, held_back: Nodes, n_threads: int) -> None:
        """Measure what ef the graph needs, with queries that are not in it yet."""
        assert self.graph is not None
        self.graph.keep_ef(1)  # so that less can be tried
        graph_nodes = np.sort(self._order).astype(np.int64)
        queries = self.store.take(held_back)
        strays = self._strays(queries)
        queries = np.concatenate([queries, strays])
        largest = len(graph_nodes)
        sufficient, curve = {}, tuple[RecallPoint, ...]()
        usual = min(self.settings.n_neighbors, largest)
        numbers = [usual]
        if self.settings.ef_search is None:  # an ef that is given needs no other
            numbers = sorted({usual, min(100, largest)})
        exact = exact_neighbors(self.store, queries, numbers[-1], self.settings.metric, graph_nodes)

        def scans(ef: int) -> bool:
            """Whether one query is compared with all vectors sooner, so that more are too."""
            dear = vectors_per_candidate(1, self.store.n_features, copied=False)
            return ef >= largest or ef * dear >= largest

        for k in numbers:

            def searched(ef: int, k: int = k) -> Distances:
                if scans(ef):
                    return exact[0][:, :k]
                return self._graph_candidates(queries, k, ef, n_threads)[0]

            if self.settings.ef_search is not None:
                ef = min(max(self.settings.ef_search, k), largest)
                points = [measure(searched, exact[0][:, :k], ef, len(strays))]
            else:
                target = self._tuned_target()
                ef, points = smallest_ef(
                    searched, exact[0][:, :k], target, largest, n_strays=len(strays)
                )
            # Where none suffices that is worth it, it stays so while the graph grows.
            sufficient[k] = largest if scans(ef) else ef
            curve = tuple(points) if k == usual else curve
        tuning = Tuning(len(graph_nodes) + len(held_back), len(held_back), sufficient, curve)
        self.tuning = tuning if self.tuning is None else _at_least(tuning, self.tuning)

    def _strays(self, queries: Floats) -> Floats:
        """Every other query, moved towards another: like images that have none of their kind."""
        moved = queries[::2] + _STRAY * (
            np.roll(queries, len(queries) // 3, axis=0)[::2] - queries[::2]
        )
        return normalise_rows(moved) if self.settings.metric == "cosine" else moved

    def _tuned_target(self) -> float:
        """What held back vectors must reach: queries to come may have less near neighbours."""
        target = self.settings.target_recall
        return target + (1 - target) * (_SPARE if self._projection is None else _SPARE_PROJECTED)

    # Searching.

    def _scanned(self, queries: Floats, k: int, allowed: NDArray[np.bool_] | None) -> Found:
        rows = None if allowed is None or allowed.all() else np.flatnonzero(allowed)
        return exact_neighbors(self.store, queries, k, self.settings.metric, rows)

    def _visited(
        self,
        queries: Floats,
        k: int,
        ef: int,
        n_threads: int,
        allowed: NDArray[np.bool_] | None,
    ) -> Found:
        """The nearest k that the graph finds; inf where it finds fewer."""
        if allowed is None:
            distances, nodes = self._graph_candidates(queries, k, ef, n_threads)
        else:
            distances, nodes = self._graph_candidates(queries, ef, ef, n_threads)
            distances, nodes = allowed_first(distances, nodes, allowed, k)
        if not len(self._outside):
            return distances, nodes
        outside = self._outside if allowed is None else self._outside[allowed[self._outside]]
        beside = exact_neighbors(self.store, queries, k, self.settings.metric, outside)
        return merged((distances, nodes), beside, k)

    def _graph_candidates(self, queries: Floats, k: int, ef: int, n_threads: int) -> Found:
        """The first k of ef candidates, by distances of their stored vectors."""
        step = max(1, _CANDIDATES_AT_ONCE // max(ef, k))
        if len(queries) > step:
            blocks = [
                self._graph_candidates(queries[start : start + step], k, ef, n_threads)
                for start in range(0, len(queries), step)
            ]
            distances, nodes = map(np.concatenate, zip(*blocks, strict=True))
            return distances, nodes
        assert self.graph is not None
        # By distances of projections, all are looked at.
        wanted = k if self._projection is None else None
        found = self.graph.candidates(self._graph_vectors(queries), max(ef, k), n_threads, wanted)
        if found is None:  # it reaches fewer
            return np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)
        places, farness = found
        if self._projection is not None:
            nodes = self._order[places].astype(np.int64)
            distances, nodes = rank_candidates(self.store, queries, nodes, self.settings.metric)
            return fitted(distances[:, :k], nodes[:, :k], k)
        return fitted(*self.ranked(places[:, :k], farness[:, :k], queries), k)

    def _as_distances(self, farness: Floats, nodes: Nodes, queries: Floats) -> Found:
        """Distances by the graph's measure, ascending, and their nodes."""
        if self.settings.metric == "euclidean":
            return np.sqrt(farness, dtype=np.float64), nodes
        distances = farness.astype(np.float64)
        if self.settings.metric == "cosine" and distances[:, 0].min(initial=1) < NEAR:
            return self._exact_where_near(distances, nodes, queries)
        return distances, nodes

    def _exact_where_near(self, distances: Distances, nodes: Nodes, queries: Floats) -> Found:
        """Cosine distances without the rounding of 1 - a @ b, which counts where they are small."""
        query, place = np.nonzero(distances < NEAR)
        vectors = self.store.take(nodes[query, place])
        distances[query, place] = paired_distances(vectors, queries[query], "cosine")
        order = np.lexsort((nodes, distances), axis=1)
        return ordered(distances, nodes, order)

    # Storage.

    def parts(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that makes the index, as JSON and arrays."""
        codes, scales = self.store.arrays()
        arrays = {"vectors": codes, "scales": scales, "order": self._order}
        fields: dict[str, Any] = {
            "settings": asdict(self.settings),
            "graph": None,
            "tuning": None,
            "rounding": None if self.rounding is None else asdict(self.rounding),
        }
        if self.tuning is not None:
            fields["tuning"] = self.tuning.to_dict()
        if self._projection is not None:
            arrays |= {"axes": self._projection.axes, "centre": self._projection.centre}
        if self.graph is not None:
            fields["graph"], links = self.graph.links().parts()
            arrays |= {f"graph_{name}": array for name, array in links.items()}
        return fields, arrays

    @classmethod
    def from_parts(cls, fields: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The index that :meth:`parts` came from.

        Raises
        ------
        ValueError, TypeError or KeyError
            If they do not fit together, or the graph could not be followed.
        """
        settings = Settings.from_dict(fields["settings"])
        self = cls(settings, 1)
        unit = settings.metric == "cosine"
        self.store = VectorStore.from_arrays(arrays, settings.storage, unit)
        if fields["rounding"] is not None:
            self.rounding = RecallEstimate.from_dict(fields["rounding"])
        if fields["graph"] is not None:
            self._restore_graph(fields, arrays)
        self._outside = self._not_in_order()
        return self

    def _restore_graph(self, fields: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        order = arrays["order"]
        if order.dtype != np.int32 or order.ndim != 1:
            raise ValueError("the order of the graph's nodes is not a row of int32")
        if len(order) and not 0 <= order.min() <= order.max() < len(self):
            raise ValueError(f"the graph has nodes that are not among the {len(self)} vectors")
        if self.settings.algorithm == "exact":
            raise ValueError("there is a graph, and the search is exact")
        if "axes" in arrays:
            self._projection = Projection.checked(
                arrays["axes"], arrays["centre"], self.store.n_features
            )
        links = GraphLinks.from_parts(
            fields["graph"], {name: arrays[f"graph_{name}"] for name in _LINKS}
        )
        self._order = order
        if len(self._not_in_order()) + len(order) != len(self):
            raise ValueError("the graph has a node twice")
        vectors = _GraphVectors(self, self._projection)
        self.graph = Graph.from_links(links, vectors, self.settings.space)  # type: ignore[arg-type]
        self.tuning = None if fields["tuning"] is None else Tuning.from_dict(fields["tuning"])
        self.keep_usual_ef()

    def rebuild_graph(self, n_threads: int) -> None:
        """Make the graph anew from the vectors."""
        self._repair(graph_is_whole=False)
        self._extend_graph(n_threads)


class _GraphVectors:
    """The vectors of a graph's nodes in its order, computed by the block."""

    def __init__(self, nodes: NodeIndex, projection: Projection | None) -> None:
        self._nodes = nodes
        width = nodes.store.n_features if projection is None else projection.axes.shape[1]
        self.shape = (len(nodes._order), width)

    def __getitem__(self, block: slice) -> Floats:
        return self._nodes._graph_vectors(
            self._nodes.store.take(self._nodes._order[block].astype(np.int64))
        )


def _at_least(new: Tuning, old: Tuning) -> Tuning:
    """New measurements, where no ef falls: they were made with the latest vectors alone."""
    sufficient = {k: max(ef, old.ef(k)) for k, ef in new.sufficient.items()}
    return replace(new, sufficient=sufficient)
