"""Photographs of 1 to 2 megapixels a second, against the obvious loop.

    python benchmarks/throughput.py [--images ../shared/data] [--model NAME] [--n-runs 5]

The obvious loop opens an image, applies the network's own transform from timm (exact resize),
and passes a batch of one through the same network in inference mode, in the same process. Runs
of both are interleaved; printed are medians, the ratio, and the cosine between the vectors of
both. Then each stage alone, to see which one is the limit.

The photographs are large JPEG files of the image sets and of scikit-image, and sheets of 16
small photographs each, which have a large photograph's detail everywhere.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import timm.data
import torch
from numpy.typing import NDArray
from PIL import Image

from imgembed import CNNEmbedder, list_images, read_image
from imgembed.demo import gallery_paths

SMALLEST, LARGEST = 900_000, 2_500_000  # pixels
N_SHEETS = 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--n-runs", type=int, default=5)
    arguments = parser.parse_args()
    weights = "bundled" if arguments.model == "tf_efficientnet_lite0" else None
    embedder = CNNEmbedder(arguments.model, weights, random_state=0, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        photographs = large_photographs(arguments.images)
        sheets = write_sheets(arguments.images / "corel1k", Path(folder))
        print(f"{arguments.model}, {torch.get_num_threads()} threads of torch")
        compare("photographs", photographs, embedder, arguments.n_runs)
        compare("sheets", sheets, embedder, arguments.n_runs)
        time_stages(photographs + sheets, embedder)


def large_photographs(images: Path) -> list[Path]:
    """JPEG files of 1 to 2 megapixels, from the image sets and scikit-image."""
    candidates = [*list_images(images / "odd"), *gallery_paths()]
    return [path for path in candidates if path.suffix == ".jpg" and _is_large(path)]


def _is_large(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
            return SMALLEST <= image.width * image.height <= LARGEST
    except Exception:  # the odd files are odd
        return False


def write_sheets(folder: Path, output: Path) -> list[Path]:
    """Sheets of 4 x 4 photographs of 384 x 256 pixels, 1.6 megapixels each, as JPEG files."""
    photographs = [p for p in list_images(folder) if _is_landscape(p)]
    paths = []
    for sheet in range(N_SHEETS):
        picture = Image.new("RGB", (4 * 384, 4 * 256))
        for cell in range(16):
            # From all over the set, so that a sheet is not of one kind.
            photograph = photographs[(sheet + cell * 61) % len(photographs)]
            place = cell % 4 * 384, cell // 4 * 256
            picture.paste(Image.fromarray(read_image(photograph)), place)
        paths.append(output / f"sheet{sheet:02}.jpg")
        picture.save(paths[-1], quality=90)
    return paths


def _is_landscape(path: Path) -> bool:
    with Image.open(path) as image:
        return image.size == (384, 256)


def compare(name: str, paths: list[Path], embedder: CNNEmbedder, n_runs: int) -> None:
    """Time both ways on the same photographs, and compare their vectors."""
    loop = obvious_loop(embedder)
    wanted, got = loop(paths), embedder.fit_transform(paths)  # warm up both
    times: dict[str, list[float]] = {"loop": [], "imgembed": []}
    for _ in range(n_runs):
        times["loop"].append(_seconds(lambda: loop(paths)))
        times["imgembed"].append(_seconds(lambda: embedder.transform(paths)))
    rates = {way: len(paths) / statistics.median(runs) for way, runs in times.items()}
    ratios = [a / b for a, b in zip(times["loop"], times["imgembed"], strict=True)]
    cosine = _cosines(got, wanted)
    print(
        f"{name}: {len(paths)} files. loop {rates['loop']:.1f}, imgembed {rates['imgembed']:.1f} "
        f"images a second; ratio {statistics.median(ratios):.2f} (runs {min(ratios):.2f} to "
        f"{max(ratios):.2f}); cosine {cosine.mean():.5f} mean, {cosine.min():.5f} worst",
        flush=True,
    )


def obvious_loop(embedder: CNNEmbedder) -> Callable[[list[Path]], NDArray[np.float32]]:
    """The loop that everybody writes, with the weights of the embedder."""
    embedder.fit([np.zeros((8, 8, 3), dtype=np.uint8)])
    network: Any = timm.create_model(embedder.model_name, num_classes=0).eval()
    network.load_state_dict(embedder.backbone_.state_dict())
    config = timm.data.resolve_model_data_config(network)
    transform: Any = timm.data.create_transform(**config, is_training=False)

    def loop(paths: list[Path]) -> NDArray[np.float32]:
        vectors = []
        with torch.inference_mode():
            for path in paths:
                image = transform(Image.fromarray(_open(path)))
                vectors.append(network(image[None])[0].numpy())
        return np.stack(vectors)

    return loop


def _open(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return read_image(path) if 0x0112 in image.getexif() else np.asarray(image.convert("RGB"))


def time_stages(paths: list[Path], embedder: CNNEmbedder) -> None:
    """Milliseconds an image of each stage alone, on one thread but for the network."""
    edge = 2 * embedder.preprocessing_.shortest_edge
    pixels = [read_image(path, shortest_edge=edge) for path in paths]
    crops = [embedder.preprocessing_.crop(image) for image in pixels]
    stages: dict[str, Callable[[], object]] = {
        "decode in full": lambda: [read_image(path) for path in paths],
        "decode, reduced": lambda: [read_image(path, shortest_edge=edge) for path in paths],
        "resize and crop": lambda: [embedder.preprocessing_.crop(image) for image in pixels],
        "network, as configured": lambda: embedder.set_params(n_jobs=1).transform(crops),
        "all together": lambda: embedder.set_params(n_jobs=-1).transform(paths),
    }
    print("milliseconds an image of each stage alone (median of 3):")
    for stage, run in stages.items():
        seconds = statistics.median(_seconds(run) for _ in range(3))
        print(f"  {stage:24}{1000 * seconds / len(paths):8.1f}", flush=True)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    cosines: NDArray[np.float32] = (a * b).sum(1) / (
        np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    )
    return cosines


if __name__ == "__main__":
    main()
