"""What fine-tuning on labels gains, and a linear classifier on embeddings, on corel1k.

    python benchmarks/finetuning.py [--images ../shared/data] [--loss supcon] [--n-seeds 3]

Prints mean average precision under the cosine metric before and after fine-tuning
``tf_efficientnet_lite0`` with its bundled weights: on images of classes that training has not
seen, and on images of its classes that it has not seen. Each image is searched among the
others that are tested.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality import read_set
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from imgembed import CNNEmbedder, FineTunedEmbedder, ImageEmbedder
from imgembed.evaluation import mean_average_precision

MODEL = "tf_efficientnet_lite0"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"))
    parser.add_argument("--loss", default="supcon")
    parser.add_argument("--n-seeds", type=int, default=3)
    arguments = parser.parse_args()
    paths, labels, _ = read_set(arguments.images / "corel1k", "labels.csv", "label")
    print(f"linear classifier, 5-fold accuracy: {classify(paths, labels)}", flush=True)
    print(f"{'tested on':32}{'seed':>5}{'before':>9}{'after':>9}{'epochs':>8}{'seconds':>9}")
    for tested in ("other classes", "other images of the classes"):
        for seed in range(arguments.n_seeds):
            trained = split(labels, tested, seed)
            print(measure(paths, labels, trained, tested, seed, arguments.loss), flush=True)


def classify(paths: list[Path], labels: NDArray[np.str_]) -> str:
    """Accuracy of a logistic regression on the embeddings of the network as it is."""
    pipeline = make_pipeline(base(), StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = cross_val_score(pipeline, paths, labels, cv=folds)
    return f"{scores.mean():.4f} (folds {scores.min():.3f} to {scores.max():.3f})"


def split(labels: NDArray[np.str_], tested: str, seed: int) -> NDArray[np.bool_]:
    """Which images are trained on: half of the classes, or half of each class."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    if tested == "other classes":
        return np.isin(labels, rng.choice(classes, len(classes) // 2, replace=False))
    trained = np.zeros(len(labels), dtype=bool)
    for one in classes:
        rows = np.flatnonzero(labels == one)
        trained[rng.choice(rows, len(rows) // 2, replace=False)] = True
    return trained


def measure(
    paths: list[Path],
    labels: NDArray[np.str_],
    trained: NDArray[np.bool_],
    tested: str,
    seed: int,
    loss: str,
) -> str:
    """A line of the table."""
    tuned = FineTunedEmbedder(base(), loss, random_state=seed, progress=False)
    start = time.perf_counter()
    tuned.fit([paths[i] for i in np.flatnonzero(trained)], labels[trained])
    seconds = time.perf_counter() - start
    rest = [paths[i] for i in np.flatnonzero(~trained)]
    before, after = (quality(one, rest, labels[~trained]) for one in (base(), tuned))
    n_epochs = len(tuned.history_) - 1
    return f"{tested:32}{seed:5}{before:9.4f}{after:9.4f}{n_epochs:8}{seconds:9.0f}"


def base() -> CNNEmbedder:
    """The network that training starts from."""
    return CNNEmbedder(MODEL, weights="bundled", progress=False)


def quality(embedder: ImageEmbedder, paths: list[Path], labels: NDArray[np.str_]) -> float:
    """Mean average precision of each image searched among the others."""
    vectors = embedder.transform(paths)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    others = ~np.eye(len(labels), dtype=bool)
    similarity = (vectors @ vectors.T)[others].reshape(len(labels), -1)
    relevant = (labels[:, np.newaxis] == labels)[others].reshape(len(labels), -1)
    return mean_average_precision(similarity, relevant)


if __name__ == "__main__":
    main()
