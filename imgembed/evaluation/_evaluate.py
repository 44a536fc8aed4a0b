"""Vectors and a protocol in, the quality of their search out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from .._html import html_table
from .._threads import map_ahead, one_blas_thread
from .._workers import n_threads_here
from ._distances import check_vectors, farness, prepare_vectors, query_blocks
from ._measures import mean_over_queries
from ._protocols import RetrievalProtocol
from ._ranks import Floats, RelevantRanks, join_ranks, measure_ranks, parse_measure, rank_relevant


@dataclass(frozen=True)
class Evaluation:
    """How well the vectors of images answer the queries of a protocol.

    Parameters
    ----------
    per_query : dict of str to ndarray of shape (n_queries,), dtype float64
        The values of each measure; NaN for queries that nothing answers.
    n_images : int
        How many images were searched.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed.evaluation import Evaluation
    >>> Evaluation({"recall@5": np.array([1.0, 0.5, np.nan])}, n_images=9).means
    {'recall@5': 0.75}
    """

    per_query: dict[str, Floats]
    n_images: int

    @property
    def means(self) -> dict[str, float]:
        """The mean of each measure over the queries that something answers."""
        return {name: mean_over_queries(values) for name, values in self.per_query.items()}

    @property
    def n_queries(self) -> int:
        """How many queries there are, those that nothing answers included."""
        return len(next(iter(self.per_query.values())))

    def __repr__(self) -> str:
        means = ", ".join(f"{name}={mean:.4f}" for name, mean in self.means.items())
        return f"Evaluation({means}; {self.n_queries} queries, {self.n_images} images)"

    def _repr_html_(self) -> str:
        caption = f"{self.n_queries} queries, {self.n_images} images"
        return html_table(("measure", "mean"), list(self.means.items()), caption=caption)


def evaluate(
    vectors: Any,
    protocol: RetrievalProtocol,
    *,
    query_vectors: Any = None,
    metric: str = "cosine",
    measures: Sequence[str] | None = None,
    n_jobs: int | None = -1,
) -> Evaluation:
    """Search for each query among all images, exactly, and measure what is found.

    Parameters
    ----------
    vectors : array-like of shape (n_images, n_features)
        Vectors of the images that the protocol speaks of, in its order.
    protocol : RetrievalProtocol
        Which are queries and what answers them, as ``LabelProtocol(labels)``.
    query_vectors : array-like of shape (n_queries, n_features), optional
        Vectors of the queries, for protocols whose queries are no images of the database.
    metric : {"cosine", "euclidean", "ip"}, default="cosine"
    measures : sequence of str, optional
        See :func:`per_query`; by default those of the protocol.
    n_jobs : int or None, default=-1
        Threads. -1 means one for each processor, None means 1 unless in a
        :func:`joblib.parallel_config` context.

    Returns
    -------
    evaluation : Evaluation

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, there is no such measure, query vectors are
        missing or not wanted, or nothing answers any query.

    Notes
    -----
    Products are computed in the precision of the vectors, float32 or float64, in blocks
    of queries. Images that are equally far, as copies of one vector are, are ranked with the
    relevant ones last; different vectors at the same distance may differ by rounding. Memory is
    two copies of the vectors, and some 200 MB a thread.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed.evaluation import LabelProtocol, evaluate
    >>> labels = np.repeat(np.arange(10), 10)
    >>> vectors = np.eye(10)[labels] + np.random.default_rng(0).normal(0, 0.1, (100, 10))
    >>> evaluate(vectors, LabelProtocol(labels), measures=["mean_average_precision", "recall@5"])
    Evaluation(mean_average_precision=1.0000, recall@5=0.5556; 100 queries, 100 images)
    """
    names = tuple(protocol.measures if measures is None else measures)
    if not names:
        raise ValueError("measures must name at least one measure; got none")
    for name in names:
        parse_measure(name)
    queries, database = _split(vectors, query_vectors, protocol)
    ranks = _ranks(queries, database, protocol, metric, n_threads_here(n_jobs))
    found = {name: measure_ranks(name, ranks, len(database)) for name in names}
    mean_over_queries(found[names[0]])  # since means of nothing would be found out too late
    return Evaluation(found, len(database))


def _split(
    vectors: Any, query_vectors: Any, protocol: RetrievalProtocol
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Vectors of the queries and of the database."""
    vectors = check_vectors(vectors, "vectors")
    if len(vectors) != protocol.n_images:
        raise ValueError(
            f"the protocol speaks of {protocol.n_images} images; got {len(vectors)} vectors"
        )
    if (protocol.query_rows is None) == (query_vectors is None):
        told = (
            "they have vectors of their own: give"
            if query_vectors is None
            else ("they are among the images: do not give")
        )
        raise ValueError(f"the protocol says of its queries that {told} query_vectors")
    database = vectors
    if len(protocol.database_rows) < len(vectors):
        database = vectors[protocol.database_rows]
    if protocol.query_rows is not None:
        return vectors[protocol.query_rows], database
    queries = check_vectors(query_vectors, "query_vectors")
    if len(queries) != protocol.n_queries:
        raise ValueError(
            f"the protocol has {protocol.n_queries} queries; got {len(queries)} query_vectors"
        )
    return queries, database


def _ranks(
    queries: NDArray[Any],
    database: NDArray[Any],
    protocol: RetrievalProtocol,
    metric: str,
    n_threads: int,
) -> RelevantRanks:
    queries, database = prepare_vectors(queries, database, metric)

    def rank(block: slice) -> RelevantRanks:
        relevant, ignored = protocol.answers(block)
        return rank_relevant(farness(queries[block], database, metric), relevant, ignored)

    blocks = query_blocks(len(queries), len(database))
    with one_blas_thread():
        return join_ranks(list(map_ahead(rank, blocks, n_threads, n_threads)))
