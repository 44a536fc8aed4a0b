"""
A few labelled images
=====================

With one to ten labelled images of each class there is too little to train a network, and enough for
the nearest mean of embeddings. Which embedding it is then counts the more. On digits the shapes of
HOG are ahead of plain pixels, and a network that was trained on photographs is behind them: try
more than one.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from imgembed import CNNEmbedder, HOGEmbedder

digits = load_digits()
images = list((digits.images[:400] * (255 / 16)).astype(np.uint8))
labels = digits.target[:400]

# %%
# Each image is embedded once; what is tried after that costs nothing.

vectors = {
    "pixels": np.stack(images).reshape(len(images), -1).astype(np.float32),
    "CNN": CNNEmbedder("tf_efficientnet_lite0", weights="bundled", image_size=96).fit_transform(
        images
    ),
    "HOG": HOGEmbedder(size=32, cell_size=8).fit_transform(images),
}

# %%
# The mean of ten draws of the labelled images; all others are classified.


def accuracy(embedded, n_shots, rng):
    """The share of the other images that the nearest class mean gets right."""
    unit = normalize(embedded)
    shots = [rng.choice(np.flatnonzero(labels == c), n_shots, replace=False) for c in range(10)]
    means = np.stack([unit[rows].mean(axis=0) for rows in shots])
    others = np.setdiff1d(np.arange(len(labels)), np.concatenate(shots))
    nearest = KNeighborsClassifier(1).fit(normalize(means), range(10))
    return nearest.score(unit[others], labels[others])


numbers = (1, 2, 5, 10)
_, ax = plt.subplots(figsize=(5, 3.5), layout="constrained")
for name, embedded in vectors.items():
    rng = np.random.default_rng(0)
    means = [np.mean([accuracy(embedded, n, rng) for _ in range(10)]) for n in numbers]
    print(f"{name:7}", *(f"{n:4} shots {mean:.2f}" for n, mean in zip(numbers, means, strict=True)))
    ax.plot(numbers, means, "o-", label=name)
ax.set(xlabel="labelled images a class", ylabel="accuracy", xscale="log", xticks=numbers)
ax.set_xticklabels(numbers)
_ = ax.legend()
