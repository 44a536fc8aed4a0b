"""What training without labels gains on the user's own images.

    python benchmarks/contrastive.py [--images ../shared/data] [--epochs 6] [--n-seeds 1]

Prints mean average precision and precision at 1 under the cosine metric before and after MoCo and
SimCLR have trained ``tf_efficientnet_lite0``, from its bundled weights, on all images of a set,
queries too, without their labels. Photographs of covers are asked for covers, changed
photographs for the originals.
"""

import argparse
import time
from pathlib import Path

from quality import SETS, measure, read_set

from imgembed import CNNEmbedder, MoCoEmbedder, SimCLREmbedder

METHODS = {"MoCo": MoCoEmbedder, "SimCLR": SimCLREmbedder}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--n-seeds", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{'set':14}{'method':10}{'seed':>5}{'mAP':>9}{'P@1':>8}{'loss':>8}{'seconds':>9}")
    for name in ("smvs_dvd", "copies_corel"):
        paths, answers, is_query = read_set(arguments.images / name, *SETS[name])
        start = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", progress=False)
        quality = measure(start.transform(paths), answers, is_query)
        print(f"{name:14}{'start':10}{'':5}{quality[0]:9.4f}{quality[1]:8.4f}", flush=True)
        for method, kind in METHODS.items():
            for seed in range(arguments.n_seeds):
                begun = time.perf_counter()
                trained = kind(
                    backbone=start, epochs=arguments.epochs, random_state=seed, progress=False
                ).fit(paths)
                seconds = time.perf_counter() - begun
                quality = measure(trained.transform(paths), answers, is_query)
                loss = trained.history_[-1]["loss"]
                print(
                    f"{name:14}{method:10}{seed:5}{quality[0]:9.4f}{quality[1]:8.4f}"
                    f"{loss:8.3f}{seconds:9.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
