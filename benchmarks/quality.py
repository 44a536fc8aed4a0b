"""How well each embedder finds the right images, on labelled image sets.

    python benchmarks/quality.py [--images ../shared/data]

Prints mean average precision and precision at 1 of queries against database images under the
cosine metric, and how long fit and transform of all images took.
"""

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgembed import CNNEmbedder, ImageEmbedder, NearestNeighborIndex, SIFTEmbedder
from imgembed.evaluation import mean_average_precision, precision_at_k

METHODS: dict[str, Callable[[], ImageEmbedder]] = {
    "CNNEmbedder tf_efficientnet_lite0 bundled": lambda: CNNEmbedder(
        "tf_efficientnet_lite0", weights="bundled"
    ),
    "SIFTEmbedder 1000 words": lambda: SIFTEmbedder(n_words=1000, random_state=0),
    "SIFTEmbedder 4000 words": lambda: SIFTEmbedder(n_words=4000, random_state=0),
}
# Each set's file of ground truth and its column.
SETS = {
    "corel1k": ("labels.csv", "label"),
    "copies_corel": ("groups.csv", "group"),
    "smvs_dvd": ("groups.csv", "group"),
}


def main() -> None:
    """Measure every method on every set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"))
    images = parser.parse_args().images
    print(f"{'set':14}{'method':44}{'mAP':>8}{'P@1':>8}{'images':>8}{'seconds':>9}")
    for name, (file, column) in SETS.items():
        paths, answers, is_query = read_set(images / name, file, column)
        for method, make in METHODS.items():
            start = time.perf_counter()
            vectors = make().set_params(progress=False).fit_transform(paths)
            seconds = time.perf_counter() - start
            quality = measure(vectors, answers, is_query)
            print(
                f"{name:14}{method:44}{quality[0]:8.4f}{quality[1]:8.4f}{len(paths):8}{seconds:9.1f}",
                flush=True,
            )


def read_set(
    folder: Path, file: str, column: str
) -> tuple[list[Path], NDArray[np.str_], NDArray[np.bool_]]:
    """Paths of a set, what each image shows, and which are queries."""
    with open(folder / file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    answers = np.array([row[column] for row in rows])
    is_query = np.array([row["query"] == "1" for row in rows])
    return [folder / row["path"] for row in rows], answers, is_query


def measure(
    vectors: NDArray[np.float32], answers: NDArray[np.str_], is_query: NDArray[np.bool_]
) -> tuple[float, float]:
    """Mean average precision and precision at 1 of queries against database images."""
    database = vectors[~is_query]
    index = NearestNeighborIndex(algorithm="exact").fit(database)
    distances, rows = index.kneighbors(vectors[is_query], len(database))
    relevant = answers[~is_query][rows] == answers[is_query][:, np.newaxis]
    return mean_average_precision(-distances, relevant), precision_at_k(-distances, relevant, 1)


if __name__ == "__main__":
    main()
