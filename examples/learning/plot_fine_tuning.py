"""
Fine-tuning on labels
=====================

``FineTunedEmbedder`` trains the last block of a network so that images with the same label come to
lie near each other. Its loss is by default the supervised contrastive one [1]_; the head that it
needs is removed again.

.. [1] P. Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020.
"""

import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA

from imgembed import CNNEmbedder, FineTunedEmbedder, read_image
from imgembed.demo import gallery_paths
from imgembed.evaluation import LabelProtocol, evaluate

# %%
# Which photograph is this tile from? Six photographs are cut into 36 tiles each. Of a chess board
# the white squares are for training, and the black ones are then searched among each other.

names = ["astronaut", "camera", "chelsea", "coffee", "hubble_deep_field", "rocket"]
tiles, labels, is_black = [], [], []
for path in gallery_paths():
    if path.stem in names:
        image = read_image(path, shortest_edge=300)
        edge = min(image.shape[:2]) // 6
        for row, column in np.ndindex(6, 6):
            tiles.append(image[row * edge :, column * edge :][:edge, :edge])
            labels.append(names.index(path.stem))
            is_black.append((row + column) % 2 == 1)
labels, is_black = np.array(labels), np.array(is_black)
train, test = ([tiles[i] for i in np.flatnonzero(side)] for side in (~is_black, is_black))

# %%
# A hundred images make three steps an epoch: the learning rate is high here, and nothing is held
# out to say when to stop. ``blend=1`` keeps nothing of the start, as no other classes will be
# searched for. Real sets want the defaults first.

base = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", image_size=64)
tuned = FineTunedEmbedder(
    base,
    epochs=15,
    learning_rate=2e-3,
    blend=1.0,
    validation_fraction=0,
    engine="torch",
    random_state=0,
).fit(train, labels[~is_black])
print("loss", [round(epoch["loss"], 1) for epoch in tuned.history_[1:]])

# %%
# Mean average precision of the tiles that it has not seen, before and after:

vectors = {"before": base.fit_transform(test), "after": tuned.transform(test)}
for name, embedded in vectors.items():
    found = evaluate(embedded, LabelProtocol(labels[is_black]), measures=["mean_average_precision"])
    print(f"{name:7} {found.means['mean_average_precision']:.3f}")

# %%
# ``save`` writes a folder that ``load`` reads without anything else.

with tempfile.TemporaryDirectory() as folder:
    tuned.save(folder + "/tiles")
    again = FineTunedEmbedder.load(folder + "/tiles")
    print(again.fingerprint() == tuned.fingerprint())

# %%
# Two principal components of both:

_, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for ax, (name, embedded) in zip(axes, vectors.items(), strict=True):
    places = PCA(2, random_state=0).fit_transform(embedded)
    points = ax.scatter(*places.T, c=labels[is_black], cmap="tab10", s=12)
    ax.set(title=name, xticks=[], yticks=[])
_ = ax.legend(points.legend_elements()[0], names, fontsize=7)
