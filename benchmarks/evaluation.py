"""How long it takes to evaluate 1,000 queries against 100,000 images, exactly.

    python benchmarks/evaluation.py [--images ../shared/data]

Prints seconds for vectors of 128 to 1,280 dimensions, with few and with many relevant images a
query. With the image sets at hand it then prints the quality of HOG on them, as a check that the
numbers make sense.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np

from imgembed import HOGEmbedder
from imgembed.evaluation import LabelProtocol, bootstrap_interval, evaluate

N_QUERIES, N_IMAGES = 1_000, 100_000
WIDTHS = (128, 512, 1280)
# Images of each label: of an object, and of a class.
GROUPS = (10, 10_000)
# Each set's file of ground truth and its column.
SETS = {"corel1k": ("labels.csv", "label"), "smvs_dvd": ("groups.csv", "group")}


def main() -> None:
    """Measure the time on random vectors, and the quality on real images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"))
    images = parser.parse_args().images
    print(f"{'dimensions':>10}{'relevant':>10}{'seconds':>9}{'mAP':>9}")
    for n_features in WIDTHS:
        for group in GROUPS:
            measure_time(n_features, group)
    for name in SETS:
        if (images / name).is_dir():
            measure_quality(images / name)


def measure_time(n_features: int, group: int) -> None:
    """Print how long one evaluation takes."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((N_QUERIES + N_IMAGES, n_features), dtype=np.float32)
    labels = rng.integers(0, N_IMAGES // group, len(vectors))
    protocol = LabelProtocol(labels, np.arange(len(vectors)) < N_QUERIES)
    start = time.perf_counter()
    means = evaluate(vectors, protocol).means
    seconds = time.perf_counter() - start
    quality = means["mean_average_precision"]
    print(f"{n_features:10}{group:10}{seconds:9.2f}{quality:9.5f}", flush=True)


def measure_quality(folder: Path) -> None:
    """Print the quality of HOG on a set, with its confidence interval."""
    file, column = SETS[folder.name]
    with open(folder / file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    vectors = HOGEmbedder(progress=False).fit_transform([folder / row["path"] for row in rows])
    is_query = [row["query"] == "1" for row in rows]
    found = evaluate(vectors, LabelProtocol([row[column] for row in rows], is_query))
    low, high = bootstrap_interval(found.per_query["mean_average_precision"], random_state=0)
    print(f"{folder.name}: {found}, mAP in {low:.4f}..{high:.4f}")


if __name__ == "__main__":
    main()
