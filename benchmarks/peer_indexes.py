"""The indexes that peers.py compares, each used as its own documentation shows.

    python benchmarks/peer_indexes.py NAME FOLDER

loads an index that was saved in a folder, and prints its answers.
"""

import json
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from peer_libraries import NotApplicableError
from peer_weights import Vectors

Answers = tuple[NDArray[Any], NDArray[Any]]


class Index:
    """What the checks ask of an index; an index that cannot be saved alone says so."""

    def __init__(self, vectors: Vectors | None = None) -> None:
        if vectors is not None:
            self.build(vectors)

    def build(self, vectors: Vectors) -> None:
        raise NotImplementedError

    def query(self, queries: Vectors, k: int) -> Answers:
        """Distances or scores, and rows, of shape (n_queries, k)."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotApplicableError("is saved with its embedder only")

    def load(self, folder: Path) -> None:
        raise NotImplementedError


class Imgembed(Index):
    def build(self, vectors: Vectors) -> None:
        from imgembed import NearestNeighborIndex

        self.index: Any = NearestNeighborIndex(algorithm="hnsw", random_state=0).fit(vectors)

    def query(self, queries: Vectors, k: int) -> Answers:
        return cast(Answers, self.index.kneighbors(queries, k))

    def save(self, folder: Path) -> None:
        self.index.save(folder / "index")

    def load(self, folder: Path) -> None:
        from imgembed import NearestNeighborIndex

        self.index = NearestNeighborIndex.load(folder / "index")


class Hnswlib(Index):
    n_features = 16  # loading asks for it

    def build(self, vectors: Vectors) -> None:
        import hnswlib

        self.index: Any = hnswlib.Index("cosine", vectors.shape[1])
        self.index.init_index(len(vectors), random_seed=0)
        self.index.add_items(vectors)

    def query(self, queries: Vectors, k: int) -> Answers:
        rows, distances = self.index.knn_query(queries, k)
        return distances, rows

    def save(self, folder: Path) -> None:
        self.index.save_index(str(folder / "index.bin"))

    def load(self, folder: Path) -> None:
        import hnswlib

        self.index = hnswlib.Index("cosine", self.n_features)
        self.index.load_index(str(folder / "index.bin"))


class Pyvisim(Index):
    def build(self, vectors: Vectors) -> None:
        from pyvisim.retrieval.image_store import HnswIndex

        self.index: Any = HnswIndex(vectors)

    def query(self, queries: Vectors, k: int) -> Answers:
        return cast(Answers, self.index.search(queries, k))


class DeepImageSearch(Index):
    def build(self, vectors: Vectors) -> None:
        from DeepImageSearch import FAISSStore

        self.store: Any = FAISSStore(vectors.shape[1], index_type="hnsw")
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.store.add([str(row) for row in range(len(vectors))], unit)

    def query(self, queries: Vectors, k: int) -> Answers:
        hits = [self.store.search(query, k) for query in queries]
        scores = [[hit["score"] for hit in one] for one in hits]
        return np.array(scores), np.array([[int(hit["id"]) for hit in one] for one in hits])

    def save(self, folder: Path) -> None:
        self.store.save(str(folder))

    def load(self, folder: Path) -> None:
        from DeepImageSearch import FAISSStore

        self.store = FAISSStore(1, index_type="hnsw")
        self.store.load(str(folder))


INDEXES: dict[str, type[Index]] = {
    "imgembed": Imgembed,
    "pyvisim": Pyvisim,
    "DeepImageSearch": DeepImageSearch,
    "hnswlib": Hnswlib,
}


def main(name: str, folder: Path) -> None:
    """Load a saved index and query it; what is damaged may end the process."""
    index = INDEXES[name]()
    index.load(folder)
    distances, rows = index.query(random_vectors(300)[:50], 5)
    print(json.dumps([np.round(distances.astype(float), 4).tolist(), rows.tolist()]))


def random_vectors(n_vectors: int) -> Vectors:
    return np.random.default_rng(0).normal(size=(n_vectors, 16)).astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
