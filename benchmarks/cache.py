"""What a cache of embeddings saves: the first and the second run over the same photographs.

    python benchmarks/cache.py [--images ../shared/data] [--n-images 1000] [--n-runs 5]

The network is the bundled one, loaded before the clock starts. Printed are seconds without a cache,
of the run that fills it, and of runs that find everything in it (medians), and what was found.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from imgembed import CNNEmbedder, EmbeddingCache, list_images


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"))
    parser.add_argument("--n-images", type=int, default=1000)
    parser.add_argument("--n-runs", type=int, default=5)
    arguments = parser.parse_args()
    paths = list_images(arguments.images / "corel1k")[: arguments.n_images]
    with tempfile.TemporaryDirectory() as folder:
        compare(paths, EmbeddingCache(Path(folder, "cache")), arguments.n_runs)


def compare(paths: list[Path], cache: EmbeddingCache, n_runs: int) -> None:
    """Print the seconds of each kind of run, and whether the vectors are the same."""
    options: dict[str, Any] = {"weights": "bundled", "progress": False}
    plain = CNNEmbedder("tf_efficientnet_lite0", **options)
    cached = CNNEmbedder("tf_efficientnet_lite0", cache=cache, **options)
    warm_up = [np.zeros((64, 64, 3), np.uint8)] * 8
    for embedder in (plain, cached):
        embedder.transform(warm_up)
    without, wanted = timed(plain, paths)
    first, filled = timed(cached, paths)
    again = [timed(cached, paths) for _ in range(n_runs)]
    second = statistics.median(seconds for seconds, _ in again)
    same = all(np.array_equal(filled, vectors) for _, vectors in again)
    difference = float(np.abs(filled - wanted).max())
    print(f"{len(paths)} photographs of corel1k, tf_efficientnet_lite0")
    print(f"without a cache {without:7.2f} s")
    print(f"first run       {first:7.2f} s")
    print(f"second run      {second:7.3f} s, {first / second:.0f} times faster")
    print(f"the same vectors each time: {same}; to those without a cache: {difference:.1e}")
    print(cache.info())


def timed(embedder: CNNEmbedder, paths: list[Path]) -> tuple[float, Any]:
    """Seconds of a transform, and its vectors."""
    start = time.perf_counter()
    vectors = embedder.transform(paths)
    return time.perf_counter() - start, vectors


if __name__ == "__main__":
    main()
