"""
A map of a collection
=====================

What an embedder holds for alike stands together on a map: thumbnails at the places that t-SNE [1]_,
PCA or UMAP [2]_ gives their vectors.

.. [1] L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE", JMLR 2008.
.. [2] L. McInnes, J. Healy and J. Melville, "UMAP: Uniform Manifold Approximation and Projection
   for Dimension Reduction", arXiv:1802.03426, 2018.
"""

from imgembed import CNNEmbedder, read_image
from imgembed.demo import gallery_paths
from imgembed.plotting import plot_map, project_2d

# %%
# Nine tiles of each of eight photographs. The frames show from which photograph a tile is; the
# embedder is not told.

names = "astronaut brick chelsea coffee grass gravel hubble_deep_field rocket".split()
tiles, labels = [], []
for path in gallery_paths():
    if path.stem in names:
        image = read_image(path)
        step = min(image.shape[:2]) // 3
        for x in range(3):
            for y in range(3):
                tiles.append(image[y * step :, x * step :][:step, :step])
                labels.append(path.stem)

embedder = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", image_size=160)
vectors = embedder.fit_transform(tiles)
positions = project_2d(vectors, "tsne", random_state=0)
_ = plot_map(positions, tiles, labels, n_cells=16, random_state=0)

# %%
# UMAP (extra ``umap``) keeps neighbours together too.

positions = project_2d(vectors, "umap", random_state=0)
_ = plot_map(positions, tiles, labels, n_cells=16, random_state=0)
