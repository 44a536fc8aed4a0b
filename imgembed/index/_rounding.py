"""What storing vectors in little space costs: the recall of exact search over what is stored."""

import numpy as np

from ._exact import exact_neighbors, paired_distances
from ._tuning import Distances, RecallEstimate, measure
from ._vector_store import Floats, VectorStore

# Vectors that are looked for.
_N_QUERIES = 500


def stored_recall(store: VectorStore, vectors: Floats, metric: str, k: int) -> RecallEstimate:
    """The recall of a store against the vectors that it was made of.

    Parameters
    ----------
    store : VectorStore
    vectors : ndarray of shape (n_images, n_features), dtype float32
        As they were before they were rounded, row by row; at least one.
    metric : {"cosine", "euclidean", "ip"}
    k : int
        Neighbours of each vector, besides itself.

    Returns
    -------
    estimate : RecallEstimate
    """
    rows = np.unique(np.linspace(0, len(vectors) - 1, _N_QUERIES).astype(np.int64))
    k = min(k, len(vectors) - 1)
    if k < 1:
        return RecallEstimate.exact(k)
    whole = VectorStore(vectors.shape[1], "float32", unit=False)
    whole.append(*whole.encode(vectors))
    queries = vectors[rows]
    # Each finds itself first, which tells nothing.
    wanted = exact_neighbors(whole, queries, k + 1, metric)[0][:, 1:]

    def found(_: int) -> Distances:
        """Distances, before rounding, of what is found after it."""
        near = exact_neighbors(store, queries, k + 1, metric)[1]
        distances = [
            np.sort(paired_distances(vectors[some], query[np.newaxis], metric))
            for some, query in zip(near, queries, strict=True)
        ]
        return np.array(distances)[:, 1:]

    return measure(found, wanted, 0).as_estimate(k, len(rows))
