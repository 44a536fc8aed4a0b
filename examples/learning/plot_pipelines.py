"""
Pipelines, grids and tables
===========================

What scikit-learn does with transformers it does with embedders: pipelines, searches of parameters,
unions, tables. A scorer of retrieval says how well images find each other, without a classifier.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from imgembed import HOGEmbedder, NearestNeighborIndex
from imgembed.evaluation import make_retrieval_scorer

digits = load_digits()
images = list((digits.images[:300] * (255 / 16)).astype(np.uint8))
labels = digits.target[:300]

# %%
# Which cells are best, and does PCA harm? Each fold is searched within itself, by mean average
# precision.

pipeline = make_pipeline(HOGEmbedder(size=32), PCA(20, random_state=0))
grid = GridSearchCV(
    pipeline,
    {"hogembedder__cell_size": [4, 8], "pca__n_components": [10, 20, 40]},
    scoring=make_retrieval_scorer("mean_average_precision"),
    cv=3,
)
grid.fit(images, labels)
print(grid.best_params_, round(grid.best_score_, 3))

# %%
# Embeddings as a table, with names of features:

table = HOGEmbedder(size=32).set_output(transform="pandas").fit_transform(images[:3])
table.iloc[:, :4]

# %%
# The index is a transformer too: it gives the sparse graph of neighbours to estimators with
# ``metric="precomputed"``, three times the perplexity and one more for t-SNE.

tsne = TSNE(metric="precomputed", init="random", perplexity=20, random_state=0)
places = make_pipeline(
    HOGEmbedder(size=32, cell_size=8), NearestNeighborIndex(n_neighbors=61), tsne
).fit_transform(images)
_, ax = plt.subplots(figsize=(5, 4), layout="constrained")
points = ax.scatter(*places.T, c=labels, cmap="tab10", s=10)
ax.set(xticks=[], yticks=[])
_ = ax.legend(*points.legend_elements(), fontsize=7, ncols=2)
