"""What a second worker gains, and what shards cost: the bundled network on a Dask cluster and here.

    python benchmarks/cluster.py [--images ../shared/data] [--n-images 2000] [--n-runs 5]

Two clusters of this computer, of one worker and of two, with one thread each, embed the same
photographs by turns; both have loaded the network before the clock starts. Then transform and
embed_dataset in this process, by turns, the latter into a new folder each time. Printed are
medians, and the ratios of runs that followed one another.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster
from joblib import parallel_config

from imgembed import CNNEmbedder, embed_dataset, list_images


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"))
    parser.add_argument("--n-images", type=int, default=2000)
    parser.add_argument("--n-runs", type=int, default=5)
    arguments = parser.parse_args()
    # Photographs come again if there are fewer of them.
    paths = list(islice(cycle(list_images(arguments.images / "corel1k")), arguments.n_images))
    embedder = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", progress=False)
    print(f"{len(paths)} photographs of corel1k, tf_efficientnet_lite0")
    with tempfile.TemporaryDirectory() as folder:
        compare_workers(embedder, paths, arguments.n_runs, folder)
        compare_shards(embedder, paths, arguments.n_runs, Path(folder))


def compare_workers(embedder: CNNEmbedder, paths: list[Path], n_runs: int, folder: str) -> None:
    """Print the seconds of one worker and of two, and how many times faster two are."""
    with cluster_of(1, folder) as one, cluster_of(2, folder) as two:

        def embed_on(client: Any) -> Any:
            with parallel_config(backend="dask", client=client):
                return embedder.transform(paths)

        same = float(np.abs(embed_on(one) - embed_on(two)).max())  # and both are warm
        alone, both = take_turns(lambda: embed_on(one), lambda: embed_on(two), n_runs)
    print_seconds("1 worker of 1 thread", alone, len(paths))
    print_seconds("2 workers of 1 thread", both, len(paths))
    ratios = [a / b for a, b in zip(alone, both, strict=True)]
    print(f"{'':32}{spread(ratios)} times faster; vectors differ by {same:.1e}", flush=True)


def compare_shards(embedder: CNNEmbedder, paths: list[Path], n_runs: int, folder: Path) -> None:
    """Print the seconds of transform and of embed_dataset, and what the latter takes more."""
    number = iter(range(n_runs + 1))

    def embed_into_shards() -> Any:
        return embed_dataset(embedder, paths, folder / str(next(number)), batch_size=500).vectors

    difference = float(np.abs(embedder.transform(paths) - embed_into_shards()).max())
    plain, sharded = take_turns(lambda: embedder.transform(paths), embed_into_shards, n_runs)
    print_seconds("transform, this process", plain, len(paths))
    print_seconds("embed_dataset, this process", sharded, len(paths))
    costs = [100 * (b / a - 1) for a, b in zip(plain, sharded, strict=True)]
    print(f"{'':32}{spread(costs)} % more time; vectors differ by {difference:.1e}", flush=True)


@contextmanager
def cluster_of(n_workers: int, folder: str) -> Iterator[Any]:
    """A client of a cluster of this computer, whose workers have a process and a thread each."""
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def take_turns(
    first: Callable[[], object], second: Callable[[], object], n_runs: int
) -> tuple[list[float], list[float]]:
    """Seconds of both, in turns, so that whatever else the machine does meets both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(n_runs):
        for run, seconds in zip((first, second), times, strict=True):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return times


def print_seconds(name: str, seconds: list[float], n_images: int) -> None:
    """Print the median, and images a second."""
    median = statistics.median(seconds)
    print(f"{name:32}{median:7.2f} s, {n_images / median:6.1f} images a second", flush=True)


def spread(values: list[float]) -> str:
    """The median, the least and the most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
