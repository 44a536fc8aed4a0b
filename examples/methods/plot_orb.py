"""
ORB: binary features
====================

ORB [1]_ finds corners and describes each by 256 comparisons of two pixels: bits, which are compared
by counting those that differ. It is several times as fast as SIFT and finds changed copies.

.. [1] E. Rublee, V. Rabaud, K. Konolige and G. Bradski, "ORB: an efficient alternative to SIFT or
   SURF", ICCV 2011.
"""

from PIL import Image

from imgembed import ImageSearch, ORBEmbedder, ORBExtractor, read_image
from imgembed.demo import gallery_paths
from imgembed.plotting import plot_keypoints

photographs = {path.stem: path for path in gallery_paths()}
rocket = read_image(photographs["rocket"])

# %%
# A descriptor is 32 bytes; its words are words of bits.

features = ORBExtractor(n_keypoints=300).extract(rocket)
print(features.descriptors.shape, features.descriptors.dtype, features.binary)
_ = plot_keypoints(rocket, features)

# %%
# Search is as with any other embedder: here by photographs at two thirds of their size.

search = ImageSearch(ORBEmbedder(n_words=300, random_state=0)).fit(list(photographs.values()))
queries = [
    picture.resize((picture.width * 2 // 3, picture.height * 2 // 3))
    for picture in (
        Image.fromarray(read_image(photographs[name])) for name in ("rocket", "chelsea")
    )
]
search.search(queries, n_neighbors=3)
