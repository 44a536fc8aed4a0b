"""PostgresIndex beside NearestNeighborIndex, and beside statements of psycopg written by hand.

``python benchmarks/postgres.py`` starts a server of its own (dependency group ``postgres-test``);
``--dsn`` takes one that is there. The vectors are random, near a subspace of 32 dimensions, as
embeddings of images are near one of few; ``--vectors`` takes others, an array in a file of numpy.
Time is that of the client.

By hand a table is filled whose ids are numbers; and one that is keyed as ``PostgresIndex`` keys
its own, by texts, and by places too.

By hand there are two searches: with the fewest candidates that reach the target, found with the
very queries that are timed; and with the fewest that reach the recall of ``PostgresIndex``, to
whose times are the ratios. Where none do, or that is faster, all rows are compared.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector.psycopg import register_vector
from sklearn.base import clone
from sklearn.decomposition import PCA

from imgembed import NearestNeighborIndex, PostgresIndex

K = 10
# Of the images that may be found; and of those at one end of what varies most among the vectors.
SHARES, ALIKE_SHARES = (1.0, 0.5, 0.1, 0.01, 0.001), (0.5, 0.1)
TARGET = 0.95
N_ROUNDS, N_LOADS = 5, 15
SECONDS = 60
EFS: list[int] = np.unique(np.geomspace(16, 1_000, 40).round().astype(int)).tolist()
Vectors = NDArray[np.float32]


def main() -> None:
    """Measure, and print a line for each."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and the server with it
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", help="address of a server; by default one is started")
    parser.add_argument("--vectors", type=Path, help="an array of shape (n_vectors, n_features)")
    parser.add_argument("--n-images", type=int, default=100_000)
    parser.add_argument("--n-features", type=int, default=512)
    parser.add_argument("--n-queries", type=int, default=100)
    parser.add_argument("--n-fills", type=int, default=3)
    asked = parser.parse_args()
    if asked.vectors is None:
        vectors = random_vectors(asked.n_images + asked.n_queries, asked.n_features)
    else:
        vectors = np.random.default_rng(0).permutation(np.load(asked.vectors).astype(np.float32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with server(asked.dsn) as dsn:
        measure(dsn, vectors[: -asked.n_queries], vectors[-asked.n_queries :], asked.n_fills)


@contextmanager
def server(dsn: str | None) -> Iterator[str]:
    """The address of a server: the given one, or one that ends with this program."""
    if dsn is not None:
        yield dsn
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from postgres_server import PostgresServer

    running = PostgresServer(shared_buffers="2GB")  # for all tables, or they push each other out
    try:
        yield running.dsn
    finally:
        running.stop()


def measure(dsn: str, vectors: Vectors, queries: Vectors, n_fills: int) -> None:
    """Load, build and search all three."""
    records = {"share": np.random.default_rng(1).random(len(vectors)), "alike": places(vectors)}
    exact = NearestNeighborIndex(K, algorithm="exact").fit(vectors, records=records)
    here = NearestNeighborIndex(K, algorithm="hnsw")
    index = PostgresIndex(dsn, "bench", K, algorithm="hnsw")
    by_hand = ByHand(dsn)
    fill(vectors, records, here, index, by_hand, n_fills)
    conditions = [("share", share) for share in SHARES] + [("alike", one) for one in ALIKE_SHARES]
    for column, share in conditions:
        where = None if share == 1.0 else f"{column} < ?"
        params = None if where is None else (share,)
        condition = "" if share == 1.0 else f"WHERE {column} < {share}"
        true = exact.kneighbors(queries, K, where=where, params=params, exact=True)[0]
        alike = ", which are alike" if column == "alike" else ""
        print(f"{share:.1%} of the vectors may be found{alike}", flush=True)
        asked = {"where": where, "params": params}
        searches: dict[str, Callable[[Vectors], NDArray[np.float64]]] = {
            "NearestNeighborIndex": partial(distances, here, asked),
            "PostgresIndex": partial(distances, index, asked),
        }
        reached = recall(distances(index, asked, queries), true)
        wanted = [TARGET, max(TARGET, reached)]
        efs = by_hand.sufficient_efs(condition, queries, true, wanted)
        for name, ef in zip(("the target", "its recall"), efs, strict=True):
            how = f"ef {ef}" if ef else "all rows"
            searches[f"by hand, {name}: {how}"] = partial(by_hand.search, condition, ef)
        compare(searches, queries, true)


def fill(
    vectors: Vectors,
    records: dict[str, NDArray[np.float64]],
    here: NearestNeighborIndex,
    index: PostgresIndex,
    by_hand: "ByHand",
    n_fills: int,
) -> None:
    """Load and build all three, in turns."""
    loaded = clone(index).set_params(table="bench_load", algorithm="exact")

    def fill_by_hand() -> None:
        by_hand.load(vectors, records)
        by_hand.build(index.M, index.ef_construction)

    print("load", flush=True)
    take_turns(
        {
            "PostgresIndex": lambda: loaded.fit(vectors, records=records),
            "by hand, the same keys": lambda: by_hand.load_with_texts(vectors, records),
            "by hand": lambda: by_hand.load(vectors, records),
        },
        N_LOADS,
    )
    print("load and build", flush=True)
    take_turns(
        {
            "NearestNeighborIndex": lambda: here.fit(vectors, records=records),
            "PostgresIndex, and measure": lambda: index.fit(vectors, records=records),
            "by hand": fill_by_hand,
        },
        n_fills,
    )
    print(f"  {index.recall_estimate_}", flush=True)


def take_turns(calls: dict[str, Callable[[], Any]], n_rounds: int) -> None:
    """Print the median seconds of each, and the median of their ratios to the last.

    Their order changes: the server writes down what was before, while the next one runs.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    rng = np.random.default_rng(0)
    for _ in range(n_rounds):
        for name in rng.permutation(list(calls)):
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    against = np.array(times[list(calls)[-1]])
    for name, seconds in times.items():
        print(f"  {name:26} {np.median(seconds):6.1f} s ({np.median(seconds / against):.2f})",
              flush=True)  # fmt: skip


def distances(index: Any, asked: dict[str, Any], queries: Vectors) -> NDArray[np.float64]:
    """Distances of the nearest of each query."""
    found: NDArray[np.float64] = index.kneighbors(queries, K, **asked)[0]
    return found


def random_vectors(n_vectors: int, n_features: int) -> Vectors:
    """Vectors of one distribution."""
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(32, n_features)).astype(np.float32)
    inner = rng.normal(size=(n_vectors, 32)).astype(np.float32)
    vectors: Vectors = inner @ axes
    vectors += rng.normal(size=vectors.shape, scale=0.5).astype(np.float32)
    return vectors


def places(vectors: Vectors) -> NDArray[np.float64]:
    """Of each vector its place, from 0 to 1, along what varies most."""
    along = PCA(1, svd_solver="randomized", random_state=0).fit_transform(vectors)[:, 0]
    ranks: NDArray[np.float64] = along.argsort().argsort() / len(along)
    return ranks


class ByHand:
    """What a user of psycopg and pgvector writes: a table, COPY, an index, one query a call.

    Parameters
    ----------
    dsn : str
    """

    def __init__(self, dsn: str) -> None:
        self.ef = -1
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(self.connection)
        for setting in (
            "SET hnsw.iterative_scan = relaxed_order",
            "SET maintenance_work_mem = '1GB'",
        ):
            self.connection.execute(setting.encode())

    def load(self, vectors: Vectors, records: dict[str, NDArray[np.float64]]) -> None:
        """Copy all rows, which have numbers."""
        columns = {"id": "bigint PRIMARY KEY"}
        self.copy("by_hand", columns, [range(len(vectors))], vectors, records)

    def load_with_texts(self, vectors: Vectors, records: dict[str, NDArray[np.float64]]) -> None:
        """Copy all rows, which have texts for ids, and places."""
        columns = {"id": 'text COLLATE "C" PRIMARY KEY', "place": "bigint UNIQUE"}
        texts = [f"image {number}" for number in range(len(vectors))]
        self.copy("by_texts", columns, [texts, range(len(texts))], vectors, records)

    def copy(
        self,
        table: str,
        columns: dict[str, str],
        keys: list[Any],
        vectors: Vectors,
        records: dict[str, NDArray[np.float64]],
    ) -> None:
        """Fill a new table."""
        run = self.connection.execute
        columns = columns | {"v": f"vector({vectors.shape[1]})"} | dict.fromkeys(records, "float8")
        words = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        run(f"DROP TABLE IF EXISTS {table}".encode())
        run(f"CREATE TABLE {table} ({words})".encode())
        run(f"ALTER TABLE {table} ALTER COLUMN v SET STORAGE PLAIN".encode())
        query = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)".encode()
        with self.connection.cursor().copy(query) as copy:
            copy.set_types([kind.split()[0].split("(")[0] for kind in columns.values()])
            for row in zip(*keys, vectors, *map(np.ndarray.tolist, records.values()), strict=True):
                copy.write_row(row)

    def build(self, m: int, ef_construction: int) -> None:
        """Build the graph."""
        options = f"WITH (m = {m}, ef_construction = {ef_construction})"
        query = f"CREATE INDEX ON by_hand USING hnsw (v vector_ip_ops) {options}"
        self.connection.execute(query.encode())
        self.connection.execute("ANALYZE by_hand")

    def search(self, condition: str, ef: int, queries: Vectors) -> NDArray[np.float64]:
        """Distances of the nearest of each query, inf where fewer are found.

        An ef of 0 compares with all rows.
        """
        if self.ef != ef:
            self.connection.execute(f"SET hnsw.ef_search = {ef or 1}".encode())
            self.ef = ef
        order = "v <#> %(q)s" if ef else "1 + (v <#> %(q)s)"  # of which there is no index
        query = (f"SELECT id, v <#> %(q)s FROM by_hand {condition} "
                 f"ORDER BY {order} LIMIT {K}").encode()  # fmt: skip
        distances = np.full((len(queries), K), np.inf)
        with self.connection.pipeline() if len(queries) > 1 else self.connection.cursor():
            cursors = [self.connection.cursor(binary=True) for _ in queries]
            for cursor, one in zip(cursors, queries, strict=True):
                cursor.execute(query, {"q": one})
            for row, cursor in enumerate(cursors):
                found = cursor.fetchall()
                distances[row, : len(found)] = [1 + one[1] for one in found]
        return distances

    def sufficient_efs(
        self, condition: str, queries: Vectors, true: NDArray[np.float64], wanted: list[float]
    ) -> list[int]:
        """The fewest candidates that reach each recall, ascending; 0 if all rows are no slower."""

        def measured(ef: int) -> tuple[float, float]:
            start = time.perf_counter()
            found = self.search(condition, ef, queries)
            return time.perf_counter() - start, recall(found, true)

        longest, sufficient = min(measured(0), measured(0))[0], list[int]()
        for ef in EFS:
            seconds, reached = measured(ef)
            if seconds >= longest or len(sufficient) == len(wanted):
                break
            sufficient += [ef] * sum(reached >= one for one in wanted[len(sufficient) :])
        return sufficient + [0] * (len(wanted) - len(sufficient))


def recall(found: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """The share of the true neighbours that were found, or others at their distance."""
    last = np.where(np.isfinite(true), true, -np.inf).max(axis=1, keepdims=True)
    hits = np.isfinite(found) & (found <= last + 1e-5)
    return float(hits.sum() / np.isfinite(true).sum())


def compare(
    searches: dict[str, Callable[[Vectors], NDArray[np.float64]]],
    queries: Vectors,
    true: NDArray[np.float64],
) -> None:
    """Print of each its recall, the time of a query alone and among others, and ratios to the last.

    They take turns, for a minute or longer; times and ratios are medians of the rounds.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in searches}
    first, n_rounds = time.perf_counter(), 0
    while n_rounds < N_ROUNDS or time.perf_counter() - first < SECONDS:
        n_rounds += 1
        for name, search in searches.items():
            search(queries)
            start = time.perf_counter()
            for row in range(len(queries)):
                search(queries[row : row + 1])
            middle = time.perf_counter()
            search(queries)
            times[name].append((middle - start, time.perf_counter() - middle))
    against = np.array(times[list(searches)[-1]])
    for name, search in searches.items():
        alone, together = 1000 * np.median(times[name], axis=0) / len(queries)
        ratios = np.median(times[name] / against, axis=0)
        print(f"  {name:31} recall {recall(search(queries), true):.3f}  "
              f"alone {alone:7.2f} ms ({ratios[0]:.2f})  "
              f"batched {together:7.2f} ms ({ratios[1]:.2f})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
