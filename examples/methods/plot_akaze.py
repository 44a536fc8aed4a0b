"""
AKAZE: verify that two images show the same
===========================================

AKAZE [1]_ looks for blobs in a scale space that blurs within regions and not across edges, and
describes them by bits. Any extractor can verify hits: here AKAZE does, with a reranker alone,
without an index.

.. [1] P. Alcantarilla, J. Nuevo and A. Bartoli, "Fast Explicit Diffusion for Accelerated Features
   in Nonlinear Scale Spaces", BMVC 2013.
"""

import numpy as np
from PIL import Image

from imgembed import AKAZEEmbedder, AKAZEExtractor, GeometricReranker, read_image
from imgembed.demo import gallery_paths
from imgembed.plotting import plot_matches

# %%
# The query is the astronaut's picture, seen at an angle.

photographs = {path.stem: path for path in gallery_paths()}
gallery = [photographs[name] for name in ("camera", "astronaut", "rocket", "coffee")]
astronaut = Image.fromarray(read_image(photographs["astronaut"]))
corners = (30, 0, -60, 512, 560, 430, 450, 60)  # upper left, lower left, lower right, upper right
query = astronaut.transform((512, 512), Image.Transform.QUAD, corners, Image.Resampling.BICUBIC)

# %%
# ``rerank`` takes a short list of gallery rows for each query, of any search, and gives the order
# in which they should stand, with the number of inliers of each. 0 means that nothing was verified.

reranker = GeometricReranker(extractor=AKAZEExtractor(n_keypoints=500)).fit(gallery)
order, n_inliers = reranker.rerank([query], np.array([[0, 1, 2, 3]]))
print(order, n_inliers)
match = reranker.explain(query, 1)
_ = plot_matches(query, gallery[1], match, max_matches=60)

# %%
# As an embedder AKAZE has words too.

vectors = AKAZEEmbedder(n_words=200, random_state=0).fit_transform(gallery)
print(vectors.shape)
