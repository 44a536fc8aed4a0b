"""NearestNeighborIndex against hnswlib, faiss, usearch and scikit-learn, in the same run.

    python benchmarks/index.py [--images ../shared/data] [--cache FOLDER] [--only PART ...]

Parts: ``search`` (build, batches and single queries at equal ef), ``recall`` (of the targets, on
queries that the index has not seen), ``filters``, ``storage``, ``disk``, ``memory``, ``costs``
(what the planner takes to be equally fast) and ``growth``, which takes long and runs only if it is
named or with ``--all``. Beside a figure stands the bound that it should keep. Competitors run in
turn; a ratio is the median of those of all rounds.

Vectors, kept in the cache once they are made:

- ``sift``: 100,000 SIFT descriptors of nine tenths of corel1k's images, in whole numbers, and 1,000
  of the others as queries. ``growth`` takes those of smvs_dvd and beer_labels too.
- ``cnn``: 20,000 embeddings of the bundled network, of all images but those that are odd: ten of
  each, flipped, cropped, reduced and with another brightness. Queries are 500 of images that
  are not in the index (though copies of some are) and 500 others of images that are.
- ``random``: 20,000 normal vectors of 128 features.

``--quick`` shows that all runs, on a few vectors: its figures mean nothing. Memory is measured on
Linux alone. Needs faiss-cpu and usearch, and matplotlib for ``--plot``.
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import faiss
import hnswlib
import numpy as np
import usearch.index
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from imgembed import (
    CNNEmbedder,
    NearestNeighborIndex,
    SIFTExtractor,
    list_images,
    read_image,
)
from imgembed.index import _costs, _node_index

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Distances = NDArray[np.float64]
Times = dict[str, NDArray[np.float64]]

K = 10
M = 16
EF_CONSTRUCTION = 200
EFS = (16, 32, 64, 128)
TARGETS = (0.90, 0.95, 0.99)
SHARES = (0.5, 0.1, 0.01, 0.001)
STORAGES = ("float32", "float16", "int8")
SIZES = (10_000, 20_000, 50_000, 100_000, 200_000, 500_000)
N_SINGLE, N_IN_A_TURN = 300, 30  # queries that are timed singly
N_VIEWS = 10  # of each image, for the embeddings
HNSWLIB, OURS, TUNED = "hnswlib", "imgembed, ef given", "imgembed, target 0.95"


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    images: Path
    cache: Path
    n_runs: int
    n_builds: int
    n_threads: int
    quick: bool
    plot: Path | None
    sets: tuple[str, ...] = ()

    def size(self, full: int, quick: int) -> int:
        """How many, in this run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class VectorSet:
    """Vectors and queries that are not among them; of unit length for "cosine"."""

    name: str
    metric: str
    vectors: Floats
    queries: Floats

    def __str__(self) -> str:
        n, width = self.vectors.shape
        n_equal = n - len(np.unique(self.vectors, axis=0))
        return f"{self.name}: {n} x {width}, {self.metric}, {n_equal} of them equal to another"


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "imgembed_bench"))
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", default=[])
    parser.add_argument("--sets", nargs="+", choices=("sift", "cnn", "random"), default=[])
    parser.add_argument("--all", action="store_true", help="growth too")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    parser.add_argument("--n-runs", type=int, default=7)
    parser.add_argument("--n-builds", type=int, default=3)
    parser.add_argument("--n-threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plot", type=Path, help="where growth draws itself")
    given = parser.parse_args()
    options = Options(
        given.images, given.cache, given.n_runs, given.n_builds, given.n_threads, given.quick,
        given.plot, tuple(given.sets),
    )  # fmt: skip
    options.cache.mkdir(parents=True, exist_ok=True)
    faiss.omp_set_num_threads(options.n_threads)
    usual = [name for name in PARTS if given.all or name != "growth"]
    for name in given.only or usual:
        print(f"\n== {name}, {options.n_threads} threads", flush=True)
        PARTS[name](options)


def show(what: object, *figures: str, bound: str = "") -> None:
    """Print a row of a table, and the bound that its figures should keep."""
    print(f"{what!s:38}" + "".join(f"{one:>14}" for one in figures) + f"{bound:>18}", flush=True)


# Vectors.


def sift_set(options: Options) -> VectorSet:
    """SIFT descriptors of corel1k, and of images of it that are not in the index."""
    vectors = descriptors("corel1k", "database", options)[: options.size(100_000, 3000)]
    queries = descriptors("corel1k", "queries", options)[:1000]
    return VectorSet("sift", "euclidean", vectors.astype(np.float32), queries.astype(np.float32))


def descriptors(name: str, part: str, options: Options) -> NDArray[np.uint8]:
    """SIFT descriptors of nine tenths of the images of a folder, or of the others, shuffled."""

    def make() -> NDArray[np.uint8]:
        paths = list_images(options.images / name)[:: options.size(1, 25)]
        chosen = [path for i, path in enumerate(paths) if (i % 10 == 0) == (part == "queries")]
        extractor = SIFTExtractor(2000, 640, rootsift=False, progress=False)
        found = np.concatenate([one.descriptors for one in extractor.iterate(chosen)])
        return np.random.default_rng(0).permutation(found)

    found: NDArray[np.uint8] = cached(f"sift_{name}_{part}", make, options)
    return found


def cnn_set(options: Options) -> VectorSet:
    """Embeddings of many views of images, scaled to unit length."""
    rng = np.random.default_rng(0)
    embeddings = unit(cached("cnn", partial(embedded_views, options), options))
    unseen = np.arange(embeddings.shape[1]) % 20 == 0
    known = rng.permutation(embeddings[:, ~unseen].reshape(-1, embeddings.shape[2]))
    others = rng.permutation(embeddings[:, unseen].reshape(-1, embeddings.shape[2]))[:500]
    n_vectors = min(20_000, len(known) - len(others))
    queries = np.concatenate([others, known[n_vectors:][: len(others)]])
    return VectorSet("cnn", "cosine", known[:n_vectors], queries)


def embedded_views(options: Options) -> Floats:
    """Embeddings of shape (n_views, n_images, n_features)."""
    folders = ("corel1k", "smvs_dvd", "beer_labels", "copies_corel")
    paths = [path for name in folders for path in list_images(options.images / name)]
    paths = paths[:: options.size(1, 25)]
    embedder = CNNEmbedder("tf_efficientnet_lite0", "bundled", progress=False)
    rng = np.random.default_rng(0)
    embeddings = []
    for start in range(0, len(paths), 50):  # images of a few paths fit into memory
        images = [read_image(path) for path in paths[start : start + 50]]
        views = [view(image, rng) for _ in range(N_VIEWS) for image in images]
        embeddings.append(embedder.transform(views).reshape(N_VIEWS, len(images), -1))
    return np.concatenate(embeddings, axis=1)


def view(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The image flipped or not, cropped, reduced and with another brightness."""
    height, width = image.shape[:2]
    kept = rng.uniform(0.7, 1.0)  # of each edge
    rows, columns = round(kept * height), round(kept * width)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    crop = image[top : top + rows, left : left + columns, :: rng.choice([-1, 1])]
    scale = rng.uniform(0.5, 1.0)
    size = max(1, round(scale * columns)), max(1, round(scale * rows))
    small = cv2.resize(np.ascontiguousarray(crop), size, interpolation=cv2.INTER_AREA)
    bright: NDArray[np.uint8] = np.clip(small * rng.uniform(0.7, 1.3), 0, 255).astype(np.uint8)
    return bright


def random_set(options: Options) -> VectorSet:
    """Normal vectors, the hardest that there are."""
    n = options.size(20_000, 2000)
    vectors = np.random.default_rng(0).standard_normal((n + 1000, 128), np.float32)
    return VectorSet("random", "euclidean", vectors[:n], vectors[n:])


def wide_set(points: VectorSet, n_features: int = 2048) -> VectorSet:
    """Embeddings behind one more layer, random and rectified, to the width of a ResNet-50's.

    No ResNet-50 with real weights is to be had without a network. The layer does not add to what
    the embeddings know: their intrinsic dimension stays.
    """
    width = points.vectors.shape[1]
    weights = np.random.default_rng(0).standard_normal((width, n_features), np.float32)
    centre = points.vectors.mean(axis=0)

    def widened(vectors: Floats) -> Floats:
        return unit(np.maximum((vectors - centre) @ weights, 0))

    name = f"{points.name} behind a random layer"
    return VectorSet(name, points.metric, widened(points.vectors), widened(points.queries))


def chosen(options: Options, **makers: Callable[[Options], VectorSet]) -> Iterator[VectorSet]:
    """The sets that were asked for, or all."""
    for name, make in makers.items():
        if not options.sets or name in options.sets:
            yield make(options)


def unit(vectors: Floats) -> Floats:
    """Vectors of length one."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)  # type: ignore[no-any-return]


def cached(name: str, make: Callable[[], Any], options: Options) -> Any:
    """An array from the cache, made if it is not there."""
    file = options.cache / f"{name}{'_quick' if options.quick else ''}.npy"
    if not file.exists():
        print(f"making {file}", flush=True)
        partly = file.with_suffix(f".{os.getpid()}.npy")
        np.save(partly, make())
        partly.replace(file)
    return np.load(file)


# Truth and time.


def furthest(points: VectorSet, rows: Rows | None = None) -> Distances:
    """The distance of the last of the K true neighbours, among all vectors or some."""
    vectors = points.vectors if rows is None else points.vectors[rows]
    flat = faiss.IndexFlatL2(vectors.shape[1])
    flat.add(vectors)
    # A few more than K, since faiss rounds.
    _, found = flat.search(points.queries, min(K + 16, len(vectors)))
    ordered = np.sort(distances_to(vectors, points.queries, found), axis=1)
    return ordered[:, min(K, len(vectors)) - 1]


def recall(points: VectorSet, found: Rows, limit: Distances) -> float:
    """The share of true neighbours among the first K; those at equal distance are equal."""
    found = np.sort(found[:, :K], axis=1)
    once = np.diff(found, axis=1, prepend=-1) > 0
    near = distances_to(points.vectors, points.queries, found) <= limit[:, np.newaxis] * (1 + 1e-6)
    n_true = min(K, len(points.vectors))
    return float((near & once & (found >= 0)).sum(axis=1).mean()) / n_true


def distances_to(vectors: Floats, queries: Floats, found: Rows) -> Distances:
    """Euclidean distances of each query to the rows that were found for it."""
    distances = np.empty(found.shape)
    for i, (query, rows) in enumerate(zip(queries, found, strict=True)):
        distances[i] = np.linalg.norm(vectors[rows].astype(np.float64) - query, axis=1)
    return distances


def in_turn(
    ways: dict[str, Callable[[], Any]], n_runs: int, before: Callable[[], Any] = bool
) -> Times:
    """The seconds of each way in each round, after a round that does not count.

    What is done before each does not count either.
    """
    for run in ways.values():
        run()
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(n_runs):
        for way, run in ways.items():
            before()
            times[way].append(seconds(run))
    return {way: np.array(runs) for way, runs in times.items()}


def in_turn_singly(
    ways: dict[str, Callable[[Floats], Any]], queries: Floats, n_rounds: int = 3
) -> Times:
    """The median seconds of single queries in each round, after one that does not count.

    The ways take turns after a few queries, in an order that is drawn: what else the machine does
    falls on all, and each runs in a loop.
    """
    rng = np.random.default_rng(0)
    medians: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(1 + n_rounds):
        times: dict[str, list[float]] = {way: [] for way in ways}
        for start in range(0, len(queries), N_IN_A_TURN):
            for way in rng.permutation(list(ways)):
                for row in range(start, min(start + N_IN_A_TURN, len(queries))):
                    times[way].append(seconds(partial(ways[way], queries[row : row + 1])))
        for way, found in times.items():
            medians[way].append(statistics.median(found))
    return {way: np.array(runs[1:]) for way, runs in medians.items()}


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(times: Times, way: str, to: str) -> float:
    """How many times as long one way takes as the other."""
    return float(np.median(times[way] / times[to]))


# The competitors.


@dataclass(frozen=True)
class Rival:
    """A built index: how its ef is set, and how it finds the rows of K neighbours."""

    set_ef: Callable[[int], None]
    search: Callable[[Floats], Rows]


def build_hnswlib(points: VectorSet, n_threads: int) -> Rival:
    """Raw hnswlib."""
    index = raw_graph(points, n_threads)
    return Rival(index.set_ef, lambda queries: index.knn_query(queries, K, n_threads)[0])


def raw_graph(points: VectorSet, n_threads: int) -> Any:
    """An index of hnswlib, as its own examples make it."""
    n, width = points.vectors.shape
    index = hnswlib.Index("cosine" if points.metric == "cosine" else "l2", width)
    index.init_index(n, M, EF_CONSTRUCTION)
    index.add_items(points.vectors, num_threads=n_threads)
    return index


def ours(points: VectorSet, n_threads: int, **parameters: Any) -> NearestNeighborIndex:
    """An index of ours with a graph, filled."""
    index = NearestNeighborIndex(
        K, points.metric, "hnsw", M=M, ef_construction=EF_CONSTRUCTION, n_jobs=n_threads,
        progress=False, **parameters,
    )  # fmt: skip
    return index.fit(points.vectors)


def build_ours(points: VectorSet, n_threads: int) -> Rival:
    """Ours with an ef, which may be another one for each search."""
    index = ours(points, n_threads, ef_search=EFS[0])

    def set_ef(ef: int) -> None:
        nodes = index._collection.nodes
        nodes.settings = replace(nodes.settings, ef_search=ef)
        for n_queries in (1, len(points.queries)):
            planned = nodes.planned_ef(K, n_queries, len(nodes))
            assert planned == ef, f"ef {planned} in place of {ef}"
        nodes.keep_usual_ef()
        index._collection.plain_search = None

    return Rival(set_ef, lambda queries: index.kneighbors(queries)[1])


def build_tuned(points: VectorSet, n_threads: int) -> Rival:
    """Ours with a target, and with the planner."""
    index = ours(points, n_threads)
    return Rival(lambda ef: None, lambda queries: index.kneighbors(queries)[1])


def build_faiss(points: VectorSet, n_threads: int) -> Rival:
    """The graph of faiss; for vectors of unit length L2 orders as the cosine does."""
    index = faiss.IndexHNSWFlat(points.vectors.shape[1], M)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    index.add(points.vectors)

    def set_ef(ef: int) -> None:
        index.hnsw.efSearch = ef

    return Rival(set_ef, lambda queries: index.search(queries, K)[1])


def build_usearch(points: VectorSet, n_threads: int) -> Rival:
    """The graph of usearch."""
    index: Any = usearch.index.Index(
        ndim=points.vectors.shape[1], metric="cos" if points.metric == "cosine" else "l2sq",
        dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCTION,
    )  # fmt: skip
    index.add(np.arange(len(points.vectors)), points.vectors, threads=n_threads)

    def set_ef(ef: int) -> None:
        index.expansion_search = ef

    def search(queries: Floats) -> Rows:
        found = index.search(queries, K, threads=n_threads).keys
        return np.asarray(found).astype(np.int64).reshape(len(queries), K)

    return Rival(set_ef, search)


def brute_force(points: VectorSet, n_threads: int) -> Callable[[Floats], Rows]:
    """scikit-learn's exact search."""
    index = NearestNeighbors(
        n_neighbors=K, algorithm="brute", metric=points.metric, n_jobs=n_threads
    ).fit(points.vectors)
    return lambda queries: index.kneighbors(queries)[1]


BUILDERS: dict[str, Callable[[VectorSet, int], Rival]] = {
    HNSWLIB: build_hnswlib,
    OURS: build_ours,
    TUNED: build_tuned,
    "faiss HNSW": build_faiss,
    "usearch": build_usearch,
}


def graph_alone() -> AbstractContextManager[object]:
    """A planner that takes the graph always: a scanned vector costs as much as none."""
    return mock.patch.object(_node_index, "vectors_per_candidate", return_value=0.0)


def plan(index: NearestNeighborIndex, n_queries: int, n_allowed: int | None = None) -> str:
    """What the planner takes."""
    nodes = index._collection.nodes
    ef = nodes.planned_ef(K, n_queries, len(nodes) if n_allowed is None else n_allowed)
    return "scan" if ef is None else f"ef {ef}"


# Build and search.


def measure_search(options: Options) -> None:
    """Build time, and speed and recall at equal ef."""
    for points in chosen(options, sift=sift_set, cnn=cnn_set):
        print(f"\n{points}")
        with graph_alone():
            rivals = compare_builds(points, options)
        compare_searches(points, rivals, options)


def compare_builds(points: VectorSet, options: Options) -> dict[str, Rival]:
    """Build all in turn, those that are no baseline once."""
    rivals: dict[str, Rival] = {}
    times: dict[str, list[float]] = {name: [] for name in BUILDERS}
    for round_ in range(options.n_builds):
        for name in list(BUILDERS)[: 3 if round_ else None]:
            rivals.pop(name, None)  # its memory is free before the next is built
            start = time.perf_counter()
            rivals[name] = BUILDERS[name](points, options.n_threads)
            times[name].append(time.perf_counter() - start)
    show("build", "seconds", "/ hnswlib")
    for name, runs in times.items():
        against = np.median(np.divide(runs, times[HNSWLIB][: len(runs)]))
        bound = "<= 1.10" if name in (OURS, TUNED) else ""
        show(name, f"{np.median(runs):.2f}", f"{against:.3f}", bound=bound)
    return {name: rivals[name] for name in BUILDERS}


def compare_searches(points: VectorSet, rivals: dict[str, Rival], options: Options) -> None:
    """Search in batches and singly: graphs at equal ef, then those that choose themselves."""
    limit = furthest(points)
    show("search", "queries/s", "/ hnswlib", "single, us", "- hnswlib, us", f"recall@{K}")
    graphs = {name: rival for name, rival in rivals.items() if name != TUNED}
    with graph_alone():  # and set_ef makes sure of it
        for ef in EFS:
            for rival in graphs.values():
                rival.set_ef(ef)
            searches = {name: rival.search for name, rival in graphs.items()}
            compare(points, searches, limit, options, f", {ef}")
    others = {
        TUNED: rivals[TUNED].search,
        "scikit-learn brute force": brute_force(points, options.n_threads),
    }
    compare(points, others, limit, options)


def compare(
    points: VectorSet,
    searches: dict[str, Callable[[Floats], Rows]],
    limit: Distances,
    options: Options,
    suffix: str = "",
) -> None:
    """Rows of the table of searches."""
    queries = points.queries
    batch = in_turn({name: partial(one, queries) for name, one in searches.items()}, options.n_runs)
    single = in_turn_singly(searches, queries[:N_SINGLE])
    for name, search in searches.items():
        against = more = ""
        if HNSWLIB in searches:
            against = f"{ratio(batch, HNSWLIB, name):.3f}"
            more = f"{1e6 * np.median(single[name] - single[HNSWLIB]):.1f}"
        show(
            name + suffix, f"{len(queries) / np.median(batch[name]):.0f}", against,
            f"{1e6 * np.median(single[name]):.1f}", more,
            f"{recall(points, search(queries), limit):.4f}",
            bound=">= .95, < 30 us" if name == OURS else "",
        )  # fmt: skip


# Recall.


def measure_recall(options: Options) -> None:
    """What a target gives, by the index's own measurement and on other queries."""
    show("target", "estimate", "interval", "ef", f"recall@{K}", "planner, 1", "planner, 1000")
    for points in chosen(options, sift=sift_set, cnn=cnn_set, random=random_set):
        limit = furthest(points)
        for target in TARGETS:
            index = ours(points, options.n_threads, target_recall=target)
            with graph_alone():
                found = index.kneighbors(points.queries)[1]
            one = index.recall_estimate_
            show(
                f"{points.name}, {target:.2f}", f"{one.recall:.4f}",
                f"{one.low:.4f}-{one.high:.4f}", str(one.ef),
                f"{recall(points, found, limit):.4f}", plan(index, 1), plan(index, 1000),
                bound=f">= {target - 0.01:.2f}",
            )  # fmt: skip
            if points.name == "cnn":
                show_halves(points, found, limit)


def show_halves(points: VectorSet, found: Rows, limit: Distances) -> None:
    """The recall of queries from images that are not in the index, and that are."""
    middle = len(points.queries) // 2
    for name, half in (("other", slice(None, middle)), ("the same", slice(middle, None))):
        part = replace(points, queries=points.queries[half])
        figure = f"{recall(part, found[half], limit[half]):.4f}"
        show(f"    queries of {name} images", "", "", "", figure)


# Filters.


def measure_filters(options: Options) -> None:
    """Conditions that keep little, against the callback of hnswlib."""
    points = sift_set(options)
    n = len(points.vectors)
    numbers = np.random.default_rng(0).permutation(n)
    index = ours(points, options.n_threads)
    index.update_records(range(n), {"number": numbers})
    raw = raw_graph(points, options.n_threads)
    raw.set_ef(index.ef_search_)
    print("single queries are given the condition in SQL, and then its mask; hnswlib / single")
    show(
        "kept", f"recall@{K}", "planner, 1", "planner, 1000", "batch, ms", "single, ms",
        "mask, ms", "hnswlib, ms", "its recall", "/ batch", "/ single",
    )  # fmt: skip
    for share in SHARES:
        compare_filters(points, index, raw, numbers, max(1, round(share * n)), options)


def compare_filters(
    points: VectorSet,
    index: NearestNeighborIndex,
    raw: Any,
    numbers: Rows,
    n_kept: int,
    options: Options,
) -> None:
    """A row of the table of filters."""
    mask = numbers < n_kept
    limit = furthest(points, np.flatnonzero(mask))
    some = points.queries[: options.size(100, 20)]
    condition = partial(index.kneighbors, where="number < ?", params=(n_kept,))
    times = in_turn(
        {"batch": lambda: condition(points.queries), HNSWLIB: lambda: filtered(raw, some, mask)},
        options.n_runs,
    )
    single = in_turn_singly(
        {"condition": condition, "mask": partial(index.kneighbors, where=mask)}, some
    )
    batch, one = (np.median(times["batch"]) / len(points.queries), np.median(single["condition"]))
    theirs = np.median(times[HNSWLIB]) / len(some)
    found = filtered(raw, some, mask)
    part = replace(points, queries=some)
    ms = [f"{1000 * t:.4f}" for t in (batch, one, np.median(single["mask"]), theirs)]
    show(
        f"{n_kept / len(mask):.3%}",
        f"{recall(points, condition(points.queries)[1], limit) * K / min(K, n_kept):.4f}",
        plan(index, 1, n_kept), plan(index, len(points.queries), n_kept), *ms,
        f"{recall(part, found, limit[: len(some)]) * K / min(K, n_kept):.4f}",
        f"{theirs / batch:.1f}", f"{theirs / one:.1f}",
        bound=">= .95" + (", >= 100" if n_kept == round(0.01 * len(mask)) else ""),
    )  # fmt: skip


def filtered(raw: Any, queries: Floats, mask: NDArray[np.bool_]) -> Rows:
    """What hnswlib finds with a callback; -1 where it finds fewer than K and raises."""
    found = np.full((len(queries), K), -1)
    kept = mask.tolist().__getitem__  # the fastest callback that there is in Python
    for i in range(len(queries)):
        try:  # a callback needs one thread
            found[i] = raw.knn_query(queries[i : i + 1], K, 1, kept)[0][0]
        except RuntimeError:
            continue
    return found


# Storage.


def measure_storage(options: Options) -> None:
    """Vectors in less space: what it costs in recall and brings in speed."""
    show(
        "storage", "exact recall", f"recall@{K}", "estimate", "ef", "vector, bytes", "disk, bytes",
        "batch, q/s", "single, us", "exact, q/s",
    )  # fmt: skip
    narrow = cnn_set(options)
    for points in (narrow, wide_set(narrow)):
        print(points)
        limit = furthest(points)
        for storage in STORAGES:
            show_storage(points, storage, limit, options)


def show_storage(points: VectorSet, storage: str, limit: Distances, options: Options) -> None:
    """A row of the table of storages."""
    index = ours(points, options.n_threads, storage=storage)
    queries = points.queries
    exact = partial(index.kneighbors, queries, exact=True)
    with graph_alone():
        times = in_turn({"graph": partial(index.kneighbors, queries)}, options.n_runs)
        single = in_turn_singly({"graph": index.kneighbors}, queries[:200])
        found = index.kneighbors(queries)[1]
    times |= in_turn({"exact": exact}, options.n_runs)
    with tempfile.TemporaryDirectory(dir=options.cache) as folder:
        index.save(folder)
        on_disk = size_of(Path(folder)) / len(index)
    show(
        storage, f"{recall(points, exact()[1], limit):.4f}", f"{recall(points, found, limit):.4f}",
        f"{index.recall_estimate_.recall:.4f}", str(index.ef_search_),
        f"{index._collection.nodes.store.n_bytes / len(index):.0f}", f"{on_disk:.0f}",
        f"{len(queries) / np.median(times['graph']):.0f}",
        f"{1e6 * np.median(single['graph']):.0f}",
        f"{len(queries) / np.median(times['exact']):.0f}",
    )  # fmt: skip


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


# Disk.


def measure_disk(options: Options) -> None:
    """Save and load with all checks, against bytes written and read by numpy."""
    shape = options.size(100_000, 2000), 512
    vectors = np.random.default_rng(0).standard_normal(shape, np.float32)
    points = VectorSet("normal", "euclidean", vectors, vectors[:1])
    index = ours(points, options.n_threads, ef_search=64)
    raw = index._collection.nodes.graph._index  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(dir=options.cache) as name:
        folder = Path(name)
        index.save(folder / "index")
        everything = np.ones(size_of(folder / "index"), np.uint8)
        megabytes = [f"{array.nbytes / 1e6:.0f} MB" for array in (vectors, everything)]
        print("{} of vectors, {} of all".format(*megabytes))
        saves: dict[str, Callable[[], Any]] = {
            "save": partial(index.save, folder / "index"),
            "vectors": partial(write, folder / "vectors.npy", vectors),
            "everything": partial(write, folder / "everything.npy", everything),
            "hnswlib": partial(raw.save_index, str(folder / "raw.bin")),
        }
        show_disk("to the disk", in_turn(saves, options.n_runs))
        loads: dict[str, Callable[[], Any]] = {
            "load": partial(NearestNeighborIndex.load, folder / "index"),
            "load, mmap": partial(NearestNeighborIndex.load, folder / "index", mmap=True),
            "vectors": partial(np.load, folder / "vectors.npy"),
            "everything": partial(np.load, folder / "everything.npy"),
            "hnswlib": partial(load_raw, folder / "raw.bin", points),
        }
        show_disk("from the system's memory", in_turn(loads, options.n_runs))
        forget = partial(leave_the_cache, folder)
        show_disk("from the disk", in_turn(loads, options.n_runs, before=forget))


def write(file: Path, array: NDArray[Any]) -> None:
    """np.save, and wait for the disk."""
    with open(file, "wb") as stream:
        np.save(stream, array)
        stream.flush()
        os.fsync(stream.fileno())


def load_raw(file: Path, points: VectorSet) -> Any:
    """An index of hnswlib from its file."""
    index = hnswlib.Index("cosine" if points.metric == "cosine" else "l2", points.vectors.shape[1])
    index.load_index(str(file))
    return index


def leave_the_cache(folder: Path) -> None:
    """Have the system forget the files of a folder, so that they are read from the disk."""
    for file in filter(Path.is_file, folder.rglob("*")):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def show_disk(where: str, times: Times) -> None:
    """A table of writing or reading."""
    show(where, "seconds", "/ vectors", "/ everything", "/ hnswlib")
    for way, runs in times.items():
        against = [f"{ratio(times, way, to):.2f}" for to in ("vectors", "everything", "hnswlib")]
        bound = "<= 3" if way in ("save", "load", "load, mmap") else ""
        show(way, f"{np.median(runs):.3f}", *against, bound=bound)


# Memory.


def measure_memory(options: Options) -> None:
    """Resident bytes a vector of a process that has loaded an index and searched in it."""
    print("own: what the process alone holds; in use: without what malloc keeps for later; file:")
    print("pages of mapped files, which the system takes back where it needs them")
    for points in (sift_set(options), cnn_set(options)):
        print(points)
        show("memory", "own", "in use", "file", "own / hnswlib", "in use / hn.", "all / hnswlib")
        with tempfile.TemporaryDirectory(dir=options.cache) as name:
            compare_memory(points, Path(name), options)


def compare_memory(points: VectorSet, folder: Path, options: Options) -> None:
    """A child process for each way to hold the vectors."""
    raw_graph(points, options.n_threads).save_index(str(folder / "raw.bin"))
    for storage in STORAGES:
        ours(points, options.n_threads, storage=storage).save(folder / storage)
    ways = {HNSWLIB: ("raw.bin", False), "load": ("float32", False)}
    ways |= {f"load, mmap, {storage}": (storage, True) for storage in STORAGES}
    ways |= {f"load, {storage}": (storage, False) for storage in STORAGES[1:]}
    baseline = np.zeros(3)
    for way, (file, mmap) in ways.items():
        path, (n, width) = str(folder / file), points.vectors.shape
        loaded = in_child(f"loaded_bytes({path!r}, {points.metric!r}, {width}, {mmap})")
        own, in_use, mapped = each = np.array(loaded) / n
        baseline = baseline if baseline.any() else np.array([own, in_use, own])
        ratios = np.array([own, in_use, own + mapped]) / baseline
        bound = "<= 1.15" if way == "load, mmap, float32" else ""
        show(way, *(f"{b:.0f}" for b in each), *(f"{r:.3f}" for r in ratios), bound=bound)


def in_child(expression: str) -> Any:
    """The value of an expression of this module in a new process."""
    code = f"import json, index; print(json.dumps(index.{expression}))"
    command = [sys.executable, "-c", code]
    folder = str(Path(__file__).resolve().parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, *sys.path])}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def loaded_bytes(path: str, metric: str, n_features: int, mmap: bool) -> list[int]:
    """Bytes that an index takes, loaded and searched: the process's own, in use, and mapped."""
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((100, n_features), np.float32)
    some = VectorSet("warm", metric, rng.standard_normal((500, n_features), np.float32), queries)
    warm_up(some)
    free_what_malloc_keeps()
    before = resident_bytes()
    if Path(path).is_file():
        raw = load_raw(Path(path), some)
        raw.set_ef(100)
        search: Callable[[Floats], Any] = partial(raw.knn_query, k=K)
    else:
        search = NearestNeighborIndex.load(path, mmap=mmap).kneighbors
    with graph_alone():
        for i in range(len(queries)):
            search(queries[i : i + 1])
    gc.collect()
    after = resident_bytes()
    free_what_malloc_keeps()
    in_use = resident_bytes()[0]
    return [after[0] - before[0], in_use - before[0], after[1] - before[1]]


def free_what_malloc_keeps() -> None:
    """Have the C library give freed memory back to the system."""
    ctypes.CDLL(None).malloc_trim(0)


def warm_up(points: VectorSet) -> None:
    """Load what both libraries load when they are first used."""
    with tempfile.TemporaryDirectory() as folder:
        index = ours(points, 1)
        index.save(folder)
        NearestNeighborIndex.load(folder, mmap=True).kneighbors(points.queries)
        index.kneighbors(points.queries, exact=True)
    raw_graph(points, 1).knn_query(points.queries, K)


def resident_bytes() -> tuple[int, int]:
    """Memory of this process: its own, and pages of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    own, mapped = (1024 * int(fields[name].split()[0]) for name in ("RssAnon", "RssFile"))
    return own, mapped


# Growth.


def measure_growth(options: Options) -> None:
    """Build, search and memory from 10,000 to 500,000 real descriptors."""
    parts = [("corel1k", "database"), ("smvs_dvd", "database"), ("beer_labels", "database")]

    def make() -> NDArray[np.uint8]:
        found = np.concatenate([descriptors(*part, options) for part in parts])
        return np.random.default_rng(0).permutation(found)

    n_there = len(cached("sift_all", make, options))
    sizes = [n // options.size(1, 50) for n in SIZES]
    sizes = [n for n in sizes if n <= n_there]
    files = [options.cache / f"{name}{'_quick' if options.quick else ''}.npy"
             for name in ("sift_all", "sift_corel1k_queries")]  # fmt: skip
    descriptors("corel1k", "queries", options)
    show("vectors", *GROWING, "ef", f"recall@{K}")
    rows = []
    for n in sizes:
        arguments = f"{str(files[0])!r}, {str(files[1])!r}, {n}, {options.n_threads}"
        rows.append(in_child(f"grown({arguments})"))
        figures = [f"{rows[-1][name]:.4g}" for name in GROWING]
        show(n, *figures, str(rows[-1]["ef"]), f"{rows[-1]['recall']:.4f}")
    exponents = {name: fitted_exponent(sizes, [row[name] for row in rows]) for name in GROWING}
    show("exponent", *(f"{exponent:.3f}" for exponent in exponents.values()))
    if options.plot is not None:
        draw_growth(options.plot, sizes, rows, exponents)


GROWING = ("build, s", "batch, us", "single, us", "ef 64, us", "memory, MB")


def grown(file: str, queries_file: str, n: int, n_threads: int) -> dict[str, float]:
    """What an index of the first n descriptors takes; in a process of its own."""
    vectors = np.load(file, mmap_mode="r")[:n].astype(np.float32)
    queries = np.load(queries_file, mmap_mode="r")[:1000].astype(np.float32)
    points = VectorSet("grown", "euclidean", vectors, queries)
    warm_up(replace(points, vectors=vectors[:500]))
    free_what_malloc_keeps()
    before = resident_bytes()[0]
    start = time.perf_counter()
    index = ours(points, n_threads)
    build = time.perf_counter() - start
    with graph_alone():
        batch = in_turn({"batch": partial(index.kneighbors, queries)}, 5)["batch"]
        single = in_turn_singly({"single": index.kneighbors}, queries)["single"]
        found = index.kneighbors(queries)[1]
        free_what_malloc_keeps()
        memory = resident_bytes()[0] - before
        nodes = index._collection.nodes
        ef, nodes.settings = index.ef_search_, replace(nodes.settings, ef_search=64)
        fixed = in_turn({"batch": partial(index.kneighbors, queries)}, 5)["batch"]
    per_query = 1e6 / len(queries)
    figures = (
        build, per_query * np.median(batch), 1e6 * np.median(single),
        per_query * np.median(fixed), memory / 1e6,
    )  # fmt: skip
    measured = dict(zip(GROWING, map(float, figures), strict=True))
    return measured | {"ef": ef, "recall": recall(points, found, furthest(points))}


def fitted_exponent(sizes: list[int], figures: list[float]) -> float:
    """The power of the number of vectors with which a figure grows."""
    return float(np.polyfit(np.log(sizes), np.log(figures), 1)[0])


def draw_growth(
    file: Path, sizes: list[int], rows: list[dict[str, float]], exponents: dict[str, float]
) -> None:
    """A plot of all that grows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(GROWING), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(GROWING)), GROWING, strict=True):
        axes.loglog(sizes, [row[name] for row in rows], "o-")
        axes.set(xlabel="vectors", title=f"{name}: exponent {exponents[name]:.2f}")
        axes.grid(which="both", alpha=0.3)
    figure.savefig(file)
    print(f"drawn in {file}")


# What the planner takes to be equally fast.


def measure_costs(options: Options) -> None:
    """Vectors that a scan compares while the graph visits one candidate."""
    print("believed: what the planner takes for all vectors, and for a tenth")
    print("scanned: all vectors; a tenth: those that a mask allows, a tenth of all")
    show(
        "queries", "ef", "candidate, us", "scanned, ns", "a tenth, ns", "vectors/cand.",
        "a tenth/cand.", bound="believed",
    )  # fmt: skip
    for points in (sift_set(options), cnn_set(options), random_set(options)):
        nodes = ours(points, options.n_threads, ef_search=64)._collection.nodes
        for n_queries in (1, 8, 32, 1000):
            for ef in (64, 256):
                costs = partial(_costs.vectors_per_candidate, n_queries, nodes.store.n_features)
                believed = f"{costs(copied=False):.1f}, {costs(copied=True):.1f}"
                show_costs(f"{points.name}, {n_queries}", nodes, points.queries[:n_queries], ef,
                           believed, options)  # fmt: skip


def show_costs(
    what: str,
    nodes: _node_index.NodeIndex,
    queries: Floats,
    ef: int,
    believed: str,
    options: Options,
) -> None:
    """A row of the table of costs."""
    n = len(nodes)
    allowed = np.random.default_rng(0).permutation(n) < n // 10
    n_threads, n_calls = options.n_threads, 1 if len(queries) > 100 else 20
    ways: dict[str, Callable[[], Any]] = {
        "graph": partial(nodes.visit, queries, K, ef, n_threads),
        "all": partial(nodes.search, queries, K, n_threads, exact=True),
        "tenth": partial(nodes.search, queries, K, n_threads, allowed=allowed, exact=True),
    }
    times = in_turn({way: partial(repeat, run, n_calls) for way, run in ways.items()}, 5)
    calls = n_calls * len(queries)
    candidate, scanned, tenth = (
        float(np.median(times[way])) / calls / count
        for way, count in (("graph", ef), ("all", n), ("tenth", n // 10))
    )
    show(
        what, str(ef), f"{1e6 * candidate:.3f}", f"{1e9 * scanned:.2f}", f"{1e9 * tenth:.2f}",
        f"{candidate / scanned:.1f}", f"{candidate / tenth:.1f}", bound=believed,
    )  # fmt: skip


def repeat(run: Callable[[], Any], n_calls: int) -> None:
    """Run several times."""
    for _ in range(n_calls):
        run()


PARTS: dict[str, Callable[[Options], None]] = {
    "search": measure_search,
    "recall": measure_recall,
    "filters": measure_filters,
    "storage": measure_storage,
    "disk": measure_disk,
    "memory": measure_memory,
    "costs": measure_costs,
    "growth": measure_growth,
}

if __name__ == "__main__":
    main()
