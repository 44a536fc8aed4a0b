"""
HOG: shapes and layouts
=======================

Histograms of oriented gradients [1]_ divide an image into cells and count in each which way its
edges run. Nothing is learned, and nothing moves: it compares shapes that stand at the same place,
such as digits.

.. [1] N. Dalal and B. Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from imgembed import HOGEmbedder, ImageSearch

# %%
# Scikit-learn's digits have 8 x 8 pixels with values up to 16. Images are uint8 arrays, in a list.

digits = load_digits()
images = list((digits.images[:800] * (255 / 16)).astype(np.uint8))
labels = digits.target[:800]

# %%
# The embedder is a transformer like any other of scikit-learn, and its images come to it through a
# pipeline.

hog = HOGEmbedder(size=32, cell_size=8)
classifier = make_pipeline(hog, KNeighborsClassifier(1))
print(f"accuracy: {cross_val_score(classifier, images, labels, cv=4).mean():.3f}")

# %%
# The nearest of the others to four digits:

search = ImageSearch(hog).fit(images[4:])
axes = search.search(images[:4], n_neighbors=6).plot()
