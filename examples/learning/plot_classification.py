"""
A classifier on embeddings
==========================

An embedder is a transformer of scikit-learn, so that a pipeline of it and a linear model is a
classifier of images. The network stays as it is; only the linear model learns, in seconds and from
few images.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from imgembed import CNNEmbedder, read_image
from imgembed.demo import gallery_paths

# %%
# Six surfaces, cut into tiles. The left half of each photograph is for training and the right half
# for testing, so that no tile is in both.

surfaces = ("brick", "cell", "grass", "gravel", "hubble_deep_field", "retina")
paths = {path.stem: path for path in gallery_paths()}
tiles, labels, is_right = [], [], []
for surface in surfaces:
    image = read_image(paths[surface], shortest_edge=512)[:512, :512]
    for x in range(0, 512, 64):
        for y in range(0, 512, 128):
            tiles.append(image[y : y + 64, x : x + 64])
            labels.append(surface)
            is_right.append(x >= 256)
labels, is_right = np.array(labels), np.array(is_right)
train, test = ([tiles[i] for i in np.flatnonzero(side)] for side in (~is_right, is_right))

# %%
# Features of any embedder may differ in scale by much: a linear model likes them standardised.

classifier = make_pipeline(
    CNNEmbedder("tf_efficientnet_lite0", weights="bundled", image_size=96),
    StandardScaler(),
    LogisticRegression(max_iter=1000),
)
classifier.fit(train, labels[~is_right])
print(f"accuracy: {classifier.score(test, labels[is_right]):.3f} of {len(test)} tiles")

# %%
# What is taken for what:

display = ConfusionMatrixDisplay.from_predictions(
    labels[is_right], classifier.predict(test), xticks_rotation=90, colorbar=False
)
display.figure_.tight_layout()
