"""The only place that knows hnswlib. Whatever reaches it has been checked before."""

import hnswlib
import numpy as np
from numpy.typing import NDArray

_SPACES = {"cosine": "ip", "ip": "ip", "euclidean": "l2"}  # cosine: rows are normalised


class HnswGraph:
    """A hierarchical navigable small world graph over the rows of an array [1]_.

    Parameters
    ----------
    vectors : ndarray of shape (n_images, n_features), dtype float32
        Finite, at least one row; normalised for "cosine".
    metric : {"cosine", "euclidean", "ip"}
    M : int
        Links of a node, at least 2.
    ef_construction : int
        Candidates while building.
    seed : int
        Draws the level of each node.
    n_threads : int
        With one the same vectors give the same graph.

    References
    ----------
    .. [1] Y. Malkov and D. Yashunin, "Efficient and robust approximate nearest neighbor
       search using Hierarchical Navigable Small World graphs", TPAMI 2020.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        metric: str,
        M: int,
        ef_construction: int,
        seed: int,
        n_threads: int,
    ) -> None:
        self._graph = hnswlib.Index(space=_SPACES[metric], dim=vectors.shape[1])
        self._graph.init_index(
            max_elements=len(vectors), M=M, ef_construction=ef_construction, random_seed=seed
        )
        self._graph.add_items(vectors, np.arange(len(vectors)), num_threads=n_threads)

    def candidates(
        self, queries: NDArray[np.float32], n_candidates: int, ef: int, n_threads: int
    ) -> NDArray[np.int64] | None:
        """Rows near each query, or None if the graph does not reach that many.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), dtype float32
        n_candidates : int
            At most the number of rows.
        ef : int
            Candidates while searching.
        n_threads : int

        Returns
        -------
        rows : ndarray of shape (n_queries, n_candidates), dtype int64, or None
        """
        self._graph.set_ef(max(ef, n_candidates))
        try:
            rows, _ = self._graph.knn_query(queries, n_candidates, num_threads=n_threads)
        except RuntimeError:  # fewer found than asked for
            return None
        return rows.astype(np.int64)  # type: ignore[no-any-return]
