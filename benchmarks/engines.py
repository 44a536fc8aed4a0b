"""Engines against each other, against embetter, and against what the processor could give.

    python benchmarks/engines.py [--images ../shared/data] [--n-runs 3]

Images are corel1k's (384 x 256 pixels). Of each network and batch size are printed, as medians
of interleaved runs: images a second of the whole transform with torch in eager mode, as everybody
writes it (contiguous tensors, no threads that read), with engine="torch" and with engine="auto";
the ratios of both to the first; and the use of the processor: the CPU time that reading images
and the network take, over the wall time of the transform times the number of threads. That CPU
time is measured in as many processes at once as there are threads, each with one thread and a
part of the images, because a processor that is busy everywhere is slower in each place.

Then embetter's TimmEncoder on the same network and images: it leaves the network in training mode,
in which batch norms normalise by the image itself, and its vectors are other ones.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import timm
import timm.data
import torch
from embetter.vision import TimmEncoder
from numpy.typing import NDArray
from PIL import Image

from imgembed import CNNEmbedder, ImageEmbedder, ViTEmbedder, list_images, read_image

Vectors = NDArray[np.float32]

NETWORKS: dict[str, tuple[type[Any], str | None, int]] = {
    "tf_efficientnet_lite0": (CNNEmbedder, "bundled", 256),
    "resnet50": (CNNEmbedder, None, 64),
    "vit_base_patch16_224": (ViTEmbedder, None, 16),
}
BATCH_SIZES = (1, 8, 32)
_barrier: Any = None  # of the processes that measure together


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"))
    parser.add_argument("--n-runs", type=int, default=3)
    arguments = parser.parse_args()
    paths = list_images(arguments.images / "corel1k")
    n_threads = torch.get_num_threads()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(n_threads)
    print(
        f"{'network':24}{'batch':>6}{'eager':>8}{'torch':>8}{'auto':>8}{'torch/eager':>13}"
        f"{'auto/eager':>12}{'auto/torch':>12}{'use, torch':>12}{'use, auto':>11}"
    )
    with ProcessPoolExecutor(n_threads, context, _begin_alone, (barrier,)) as pool:
        for name, (kind, weights, n_images) in NETWORKS.items():
            chosen = paths[:: len(paths) // n_images][:n_images]
            for batch_size in BATCH_SIZES:
                options = (kind, name, weights, chosen, batch_size, arguments.n_runs)
                print(compare_engines(*options, pool), flush=True)
    for name in ("tf_efficientnet_lite0", "resnet50"):
        _, weights, n_images = NETWORKS[name]
        print(compare_with_embetter(name, weights, paths[:n_images], arguments.n_runs), flush=True)


def compare_engines(
    kind: type[Any],
    name: str,
    weights: str | None,
    paths: list[Path],
    batch_size: int,
    n_runs: int,
    pool: ProcessPoolExecutor,
) -> str:
    """A line of the table."""

    def make(engine: str) -> Any:
        options = {"batch_size": batch_size, "random_state": 0, "progress": False}
        return kind(name, weights, engine=engine, **options)

    embedders: dict[str, ImageEmbedder] = {engine: make(engine) for engine in ("torch", "auto")}
    eager = eager_loop(embedders["torch"].fit(paths[:1]), batch_size)
    ways: dict[str, Callable[[], object]] = {"eager": lambda: eager(paths)}
    for engine, embedder in embedders.items():
        embedder.transform(paths[:batch_size])
        ways[engine] = lambda embedder=embedder: embedder.transform(paths)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(n_runs):
        for way, run in ways.items():
            seconds[way].append(_seconds(run))
    median = {way: statistics.median(runs) for way, runs in seconds.items()}
    rates = {way: len(paths) / one for way, one in median.items()}
    n_threads = torch.get_num_threads()
    uses = {
        engine: cpu_seconds(make(engine), paths, n_runs, pool) / median[engine] / n_threads
        for engine in embedders
    }
    return (
        f"{name:24}{batch_size:6}{rates['eager']:8.1f}{rates['torch']:8.1f}{rates['auto']:8.1f}"
        f"{rates['torch'] / rates['eager']:13.2f}{rates['auto'] / rates['eager']:12.2f}"
        f"{rates['auto'] / rates['torch']:12.2f}{uses['torch']:12.2f}{uses['auto']:11.2f}"
    )


def eager_loop(embedder: Any, batch_size: int) -> Callable[[list[Path]], Vectors]:
    """Open, timm's transform, and a batch through the network as timm builds it."""
    network: Any = timm.create_model(embedder.model_name, num_classes=0).eval()
    network.load_state_dict(embedder.backbone_.state_dict())
    transform: Any = timm.data.create_transform(
        **timm.data.resolve_model_data_config(network), is_training=False
    )

    def loop(paths: list[Path]) -> Vectors:
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(paths), batch_size):
                batch = [transform(Image.open(p)) for p in paths[start : start + batch_size]]
                vectors.append(network(torch.stack(batch)).numpy())
        return np.concatenate(vectors)

    return loop


def cpu_seconds(
    embedder: ImageEmbedder, paths: list[Path], n_runs: int, pool: ProcessPoolExecutor
) -> float:
    """CPU time of reading and preparing images, and of the network, on one thread each."""
    n_parts = torch.get_num_threads()
    parts = [paths[part::n_parts] for part in range(n_parts)]
    waiting = [pool.submit(_cpu_seconds, embedder, part, n_runs) for part in parts]
    runs = zip(*(one.result() for one in waiting), strict=True)
    return float(statistics.median(sum(run) for run in runs))


def _begin_alone(barrier: Any) -> None:
    """Make a process ready whose network has one thread."""
    global _barrier
    _barrier = barrier
    torch.set_num_threads(1)


def _cpu_seconds(embedder: Any, paths: list[Path], n_runs: int) -> list[float]:
    """The CPU times of several runs in this process, which all begin together."""
    embedder.set_params(n_jobs=1, batch_size=8).fit(paths[:1])
    embedder._embed([embedder._prepare(read_image(paths[0]))])
    edge, seconds = embedder._shortest_edge(), []
    for _ in range(n_runs):
        _barrier.wait()
        start = time.process_time()
        crops = [embedder._prepare(read_image(p, shortest_edge=edge)) for p in paths]
        for first in range(0, len(crops), 8):
            embedder._embed(crops[first : first + 8])
        seconds.append(time.process_time() - start)
    return seconds


def compare_with_embetter(name: str, weights: str | None, paths: list[Path], n_runs: int) -> str:
    """How many times as fast, and how alike the vectors are."""
    embedder = CNNEmbedder(name, weights, random_state=0, progress=False).fit(paths[:1])
    encoder: Any = TimmEncoder.__new__(TimmEncoder)  # its __init__ would download weights
    network: Any = timm.create_model(name, num_classes=0)
    network.load_state_dict(embedder.backbone_.state_dict())
    state = {k: v.clone() for k, v in network.state_dict().items()}
    encoder.name, encoder.encode_predictions, encoder.model = name, False, network
    encoder.transform_img = timm.data.create_transform(
        **timm.data.resolve_data_config({}, model=network)
    )
    images = [Image.open(path).convert("RGB") for path in paths]
    arrays = [np.asarray(image) for image in images]
    theirs, ours = encoder.transform(images), embedder.transform(arrays)
    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(n_runs):
        times["theirs"].append(_seconds(lambda: encoder.transform(images)))
        times["ours"].append(_seconds(lambda: embedder.transform(arrays)))
    changed = sum(not torch.equal(v, state[k]) for k, v in network.state_dict().items())
    ratio = statistics.median(times["theirs"]) / statistics.median(times["ours"])
    cosines = (theirs * ours).sum(1) / np.linalg.norm(theirs, axis=1) / np.linalg.norm(ours, axis=1)
    return (
        f"embetter's TimmEncoder, {name}: imgembed is {ratio:.2f} times as fast; cosine of the "
        f"vectors {cosines.mean():.3f} mean, {cosines.min():.3f} worst; its training mode changed "
        f"{changed} of the network's {len(state)} tensors"
    )


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
