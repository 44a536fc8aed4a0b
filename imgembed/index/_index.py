"""NearestNeighborIndex: the nearest vectors of vectors."""

import threading
import warnings
from typing import Any, Self

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from .._vectors import normalise_rows
from ..base import check_choice
from ._exact import exact_candidates, rank_candidates
from ._hnsw import HnswGraph

# Below this many rows a scan by matrix products is exact and no slower than a graph.
_EXACT_BELOW = 10_000
# Squares of larger entries, summed over any width that fits memory, overflow float32.
_LARGEST = 1e15


class NearestNeighborIndex(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Find the nearest vectors, with hnswlib or exactly.

    Everything is checked before hnswlib sees it, vectors are kept, and the distances that
    come back are exact: computed again from the vectors for all that the graph proposes.

    Parameters
    ----------
    n_neighbors : int, default=5
        Neighbours of a query, where a call does not say otherwise.
    metric : {"cosine", "euclidean", "ip"}, default="cosine"
        "cosine": ``1 - cos``, in 0..2. "euclidean": the L2 distance. "ip": ``1 - a @ b``, which
        is negative for large inner products and not zero for equal vectors.
    algorithm : {"auto", "hnsw", "exact"}, default="auto"
        "hnsw" is a graph: approximate, fast for many vectors. "exact" compares with all. "auto"
        takes exact search below 10,000 vectors.
    M : int, default=16
        Links of a node of the graph. More give better recall and take more memory.
    ef_construction : int, default=200
        Candidates while the graph is built. More give a better graph, slower.
    ef_search : int, default=128
        Candidates while the graph is searched. More give better recall, slower.
    n_jobs : int or None, default=None
        Threads that build and search the graph. With one (None) the same vectors always give
        the same graph; with more they do not.
    mode : {"distance", "connectivity"}, default="distance"
        What :meth:`transform` puts into the graph of neighbours.
    random_state : int, RandomState instance or None, default=0
        Draws the levels of the graph's nodes.

    Attributes
    ----------
    n_samples_fit_ : int
        Vectors in the index.
    n_features_in_ : int
        Their width.
    vectors_ : ndarray of shape (n_images, n_features), dtype float32
        The vectors; for "cosine" scaled to unit length.
    algorithm_ : {"hnsw", "exact"}
        What searches.

    See Also
    --------
    ImageSearch : An embedder and an index under one roof.

    Notes
    -----
    A vector of zeros has the cosine distance 1 to everything, itself included. Vectors and
    queries are float32 inside: entries beyond 1e15 are refused. The graph is not pickled;
    it is built again, the same, when it is first needed (with ``n_jobs`` above one: like it).

    References
    ----------
    .. [1] Y. Malkov and D. Yashunin, "Efficient and robust approximate nearest neighbor
       search using Hierarchical Navigable Small World graphs", TPAMI 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import NearestNeighborIndex
    >>> index = NearestNeighborIndex(metric="euclidean").fit([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]])
    >>> distances, rows = index.kneighbors([[0.0, 1.0]], n_neighbors=2)
    >>> rows
    array([[0, 1]])
    >>> distances.round(3)
    array([[1.   , 4.243]])
    """

    def __init__(
        self,
        n_neighbors: int = 5,
        metric: str = "cosine",
        algorithm: str = "auto",
        *,
        M: int = 16,
        ef_construction: int = 200,
        ef_search: int = 128,
        n_jobs: int | None = None,
        mode: str = "distance",
        random_state: Any = 0,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.algorithm = algorithm
        self.M = M
        self.ef_construction = ef_construction
        self.ef_search = ef_search
        self.n_jobs = n_jobs
        self.mode = mode
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Put vectors into the index, in place of any that are there.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Finite.
        y : ignored
            For the API of scikit-learn.

        Returns
        -------
        self : NearestNeighborIndex

        Raises
        ------
        ValueError
            If X is empty, not finite or not two-dimensional, or a parameter is wrong.
        """
        self._check_parameters()
        vectors = self._checked(X, reset=True)
        self._metric = self.metric
        self.vectors_ = vectors
        self.n_samples_fit_ = self._n_features_out = len(vectors)
        exact = self.algorithm == "exact" or (
            self.algorithm == "auto" and len(vectors) < _EXACT_BELOW
        )
        self.algorithm_ = "exact" if exact else "hnsw"
        self._seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self._lock = threading.Lock()
        self._graph: HnswGraph | None = None if exact else self._build()
        return self

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]] | NDArray[np.int64]:
        """Find the nearest vectors of each query.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), optional
            The queries. By default the vectors of the index, each without itself.
        n_neighbors : int, optional
            How many neighbours; by default the parameter of the index.
        return_distance : bool, default=True
            Whether to return distances too.

        Returns
        -------
        distances : ndarray of shape (n_queries, n_neighbors), dtype float64
            Ascending. Only if ``return_distance``.
        rows : ndarray of shape (n_queries, n_neighbors), dtype int64
            Rows of the fitted vectors. Where ``n_neighbors`` is more than there are vectors,
            the places that are left hold -1, and inf in distances.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If the queries have another width, or are not finite.
        """
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        check_scalar(k, "n_neighbors", (int, np.integer), min_val=1)
        if X is None:
            found = self._search(self.vectors_, k + 1)
            distances, rows = _without_self(*found)
        else:
            distances, rows = self._search(self._checked(X, reset=False), k)
        distances, rows = _padded(distances, rows, k)
        return (distances, rows) if return_distance else rows

    def transform(self, X: Any) -> sparse.csr_matrix:
        """The sparse graph of neighbours, as scikit-learn's KNeighborsTransformer gives it.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            The queries.

        Returns
        -------
        graph : csr_matrix of shape (n_queries, n_images)
            With ``mode="distance"`` it holds ``n_neighbors + 1`` distances a row, because a
            fitted vector counts as its own neighbour; with "connectivity" ``n_neighbors``
            ones. It may be given to estimators that take ``metric="precomputed"``.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If the queries have another width, or are not finite.

        Warns
        -----
        UserWarning
            If the index holds fewer vectors than neighbours are asked for.
        """
        check_is_fitted(self)
        wanted = self.n_neighbors + (self.mode == "distance")
        k = min(wanted, self.n_samples_fit_)
        if k < wanted:
            warnings.warn(
                f"the graph holds {k} neighbours a row, not {wanted}: the index has no more "
                "vectors",
                UserWarning,
                stacklevel=2,
            )
        distances, rows = self._search(self._checked(X, reset=False), k)
        entries = distances if self.mode == "distance" else np.ones_like(distances)
        pointers = np.arange(0, rows.size + 1, k)
        shape = (len(rows), self.n_samples_fit_)
        return sparse.csr_matrix((entries.ravel(), rows.ravel(), pointers), shape=shape)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process: the graph and the lock."""
        state: dict[str, Any] = super().__getstate__()
        return {k: v for k, v in state.items() if k not in ("_graph", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a pickle; the graph is built when it is first needed."""
        super().__setstate__(state)
        if "vectors_" in state:
            self._graph = None
            self._lock = threading.Lock()

    def _check_parameters(self) -> None:
        for name, smallest, largest in (
            ("n_neighbors", 1, None),
            ("M", 2, 10_000),
            ("ef_construction", 1, 1_000_000),
            ("ef_search", 1, None),
        ):
            check_scalar(
                getattr(self, name), name, (int, np.integer), min_val=smallest, max_val=largest
            )
        check_choice("metric", self.metric, ("cosine", "euclidean", "ip"))
        check_choice("algorithm", self.algorithm, ("auto", "hnsw", "exact"))
        check_choice("mode", self.mode, ("distance", "connectivity"))

    def _checked(self, X: Any, *, reset: bool) -> NDArray[np.float32]:
        """X as finite C-contiguous float32 of the right width, normalised for cosine."""
        checked = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32])
        largest = np.abs(checked).max(initial=0)
        if largest > _LARGEST:
            raise ValueError(
                f"X has an entry of magnitude {largest:.3g}; the index works in float32 and takes "
                f"entries up to {_LARGEST:.0e}: scale the vectors"
            )
        metric = self.metric if reset else self._metric
        if metric == "cosine":
            return normalise_rows(checked)
        return np.array(checked, dtype=np.float32, order="C")

    def _build(self) -> HnswGraph:
        return HnswGraph(
            self.vectors_,
            self._metric,
            self.M,
            self.ef_construction,
            self._seed,
            effective_n_jobs(self.n_jobs),
        )

    def _search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The k nearest, or all if there are fewer, with exact distances."""
        k = min(k, self.n_samples_fit_)
        rows = self._graph_candidates(queries, k) if self.algorithm_ == "hnsw" else None
        if rows is None:
            rows = exact_candidates(self.vectors_, queries, k, self._metric)
        distances, rows = rank_candidates(self.vectors_, queries, rows, self._metric)
        return distances[:, :k], rows[:, :k]

    def _graph_candidates(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64] | None:
        with self._lock:  # hnswlib's ef is state of the graph
            if self._graph is None:
                self._graph = self._build()
            n_threads = effective_n_jobs(self.n_jobs)
            return self._graph.candidates(queries, k, self.ef_search, n_threads)


def _without_self(
    distances: NDArray[np.float64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Drop each row's own number, or its last neighbour where equal vectors crowd it out."""
    own = rows == np.arange(len(rows))[:, np.newaxis]
    own[~own.any(axis=1), -1] = True
    shape = (len(rows), rows.shape[1] - 1)
    return distances[~own].reshape(shape), rows[~own].reshape(shape)


def _padded(
    distances: NDArray[np.float64], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    missing = ((0, 0), (0, k - rows.shape[1]))
    return (
        np.pad(distances, missing, constant_values=np.inf),
        np.pad(rows, missing, constant_values=-1),
    )
