"""
SIFT and visual words
=====================

SIFT [1]_ describes small patches of an image so that they are found again when the image is turned,
scaled or cropped. A codebook of *visual words*, learned from the images themselves, makes one
vector of them [2]_. It finds the same thing again and does not know what it is.

.. [1] D. Lowe, "Distinctive Image Features from Scale-Invariant Keypoints", IJCV 2004.
.. [2] J. Sivic and A. Zisserman, "Video Google: A Text Retrieval Approach to Object Matching in
   Videos", ICCV 2003.
"""

import numpy as np
from PIL import Image

from imgembed import GeometricReranker, ImageSearch, SIFTEmbedder, SIFTExtractor, read_image
from imgembed.demo import gallery_paths
from imgembed.plotting import plot_keypoints, plot_matches

# %%
# Fourteen photographs are the gallery. The query is a part of one of them, turned by 25 degrees.

photographs = {path.stem: path for path in gallery_paths()}
coffee = Image.fromarray(read_image(photographs["coffee"]))
query = coffee.rotate(25, Image.Resampling.BICUBIC).crop((170, 60, 480, 330))

# %%
# The keypoints of the query: a circle shows the scale of each, and its radius the orientation.

features = SIFTExtractor(n_keypoints=150).extract(np.asarray(query))
_ = plot_keypoints(query, features)

# %%
# The index finds by words. ``rerank`` compares the keypoints of the first hits with those of the
# query, and looks for one transformation that many of them fit.

search = ImageSearch(
    SIFTEmbedder(n_words=500, random_state=0), rerank=GeometricReranker(top=5)
).fit(list(photographs.values()))
hits = search.search(query, n_neighbors=3)
hits

# %%
# So a hit can be explained. Green lines fit the transformation, and the frame is the query's.

best = int(hits.ids[0, 0])
match = search.explain(query, best)
_ = plot_matches(query, search.images_[best], match)
