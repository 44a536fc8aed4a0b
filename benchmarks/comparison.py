"""Every method of the project compared on labelled image sets, with one command.

    python benchmarks/comparison.py [--images ../shared/data] [--quick] [--train]
                                     [--only METHOD ...]

Prints the tables of ``compare_embedders`` and the time they took. Methods whose weights are not
to be had, or that OpenCV was built without, are listed with the reason (without a network set
HF_HUB_OFFLINE=1, lest it is tried again and again). ``--quick`` takes a fifth of the images and few
changed copies; ``--train`` adds the methods that are trained on the images, which takes longest.
``--only`` compares some methods, by their names in the table.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality import SETS, read_set

from imgembed import (
    AKAZEEmbedder,
    CLIPEmbedder,
    CNNEmbedder,
    Comparison,
    FineTunedEmbedder,
    HOGEmbedder,
    ImageEmbedder,
    MoCoEmbedder,
    ORBEmbedder,
    SIFTEmbedder,
    SimCLREmbedder,
    SURFEmbedder,
    ViTEmbedder,
    compare_embedders,
)

TUNED = "CNN, fine-tuned"


def cnn(pooling: str = "avg") -> CNNEmbedder:
    """The network whose weights come with the extra ``offline``."""
    return CNNEmbedder("tf_efficientnet_lite0", weights="bundled", pooling=pooling)


METHODS: dict[str, Callable[[], ImageEmbedder]] = {
    "SIFT, 1000 words": lambda: SIFTEmbedder(random_state=0),
    "SIFT, VLAD": lambda: SIFTEmbedder(aggregation="vlad", random_state=0),
    "SIFT, Fisher": lambda: SIFTEmbedder(aggregation="fisher", random_state=0),
    "SURF, 1000 words": lambda: SURFEmbedder(random_state=0),
    "ORB, 1000 words": lambda: ORBEmbedder(random_state=0),
    "AKAZE, 1000 words": lambda: AKAZEEmbedder(random_state=0),
    "HOG": HOGEmbedder,
    "CNN": cnn,
    "CNN, GeM": lambda: cnn("gem"),
    "CNN, random weights": lambda: CNNEmbedder("resnet18", weights=None, random_state=0),
    "ViT": ViTEmbedder,
    "CLIP": CLIPEmbedder,
}
TRAINED: dict[str, Callable[[], ImageEmbedder]] = {
    TUNED: lambda: FineTunedEmbedder(cnn(), epochs=3, random_state=0),
    "CNN, MoCo": lambda: MoCoEmbedder(backbone=cnn(), epochs=3, random_state=0),
    "CNN, SimCLR": lambda: SimCLREmbedder(backbone=cnn(), epochs=3, random_state=0),
}


def main() -> None:
    """Compare on every set and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--train", action="store_true")
    known = [*METHODS, *TRAINED]
    parser.add_argument("--only", nargs="+", choices=known, default=known, metavar="METHOD")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", ".*weights=None", UserWarning)
    warnings.filterwarnings("ignore", ".* failed and is not compared", RuntimeWarning)  # printed
    begun = time.perf_counter()
    for name in SETS:
        comparison = compare(
            arguments.images, name, arguments.quick, arguments.train, arguments.only
        )
        print(f"{name}\n{comparison}\n", flush=True)
    print(f"all: {time.perf_counter() - begun:.0f} s")


def compare(images: Path, name: str, quick: bool, train: bool, only: list[str]) -> Comparison:
    """All methods on one set: its queries against its other images."""
    paths, answers, is_query = read_set(images / name, *SETS[name])
    if quick:
        kept = every_fifth_group(answers) if name != "corel1k" else np.arange(0, len(paths), 5)
        paths, answers, is_query = [paths[row] for row in kept], answers[kept], is_query[kept]
    methods = {**METHODS, **(TRAINED if train else {})}
    if name != "corel1k":  # a single image of a label teaches nothing
        methods.pop(TUNED, None)
    return compare_embedders(
        {method: make() for method, make in methods.items() if method in only},
        paths,
        answers,
        is_query=is_query,
        n_copied=10 if quick else 25,
    )


def every_fifth_group(answers: NDArray[np.str_]) -> NDArray[np.int64]:
    """Rows of whole groups, every fifth of them."""
    return np.flatnonzero(np.isin(answers, np.unique(answers)[::5]))


if __name__ == "__main__":
    main()
