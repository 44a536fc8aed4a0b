"""
Visual words, VLAD and Fisher vectors
=====================================

Three ways to make one vector of an image's local features. Visual words are counted [1]_; VLAD adds
up how features differ from their word [2]_; Fisher vectors add how they spread around it [3]_. The
more is kept of each word, the fewer words are needed.

.. [1] J. Sivic and A. Zisserman, "Video Google: A Text Retrieval Approach to Object Matching in
   Videos", ICCV 2003.
.. [2] H. Jegou, M. Douze, C. Schmid and P. Perez, "Aggregating local descriptors into a compact
   image representation", CVPR 2010.
.. [3] F. Perronnin, J. Sanchez and T. Mensink, "Improving the Fisher Kernel for Large-Scale Image
   Classification", ECCV 2010.
"""

import numpy as np
from PIL import Image

from imgembed import (
    VLAD,
    BagOfVisualWords,
    FisherVector,
    SIFTExtractor,
    VisualVocabulary,
    read_image,
)
from imgembed.demo import CHANGES, gallery_paths
from imgembed.plotting import plot_words

# %%
# The gallery, and each of its photographs cropped, rotated, reduced and recompressed.

gallery = gallery_paths()
queries = [
    np.asarray(change(Image.fromarray(read_image(path))))
    for path in gallery
    for change in CHANGES.values()
]
answers = np.repeat(np.arange(len(gallery)), len(CHANGES))

# %%
# Features are found once, and serve all three. One vocabulary may serve several aggregations too;
# here each has as many words as it usually takes.

extractor = SIFTExtractor(n_keypoints=300, longest_edge=320)
gallery_features, query_features = extractor.transform(gallery), extractor.transform(queries)
vocabulary = VisualVocabulary(n_words=500, random_state=0).fit(gallery_features)
aggregations = {
    "500 words, counted": BagOfVisualWords(vocabulary),
    "16 words, VLAD": VLAD(VisualVocabulary(n_words=16, random_state=0)),
    "16 Gaussians, Fisher": FisherVector(16, random_state=0),
}

# %%
# Vectors have unit length, so that their product is the cosine.

for name, aggregation in aggregations.items():
    vectors = aggregation.fit_transform(gallery_features)
    nearest = (aggregation.transform(query_features) @ vectors.T).argmax(axis=1)
    print(f"{name:22} {vectors.shape[1]:5} features, {np.mean(nearest == answers):.0%} found")

# %%
# What a word stands for: the patches nearest to it. Words that occur often are often edges and
# corners.

_ = plot_words(vocabulary, gallery, gallery_features, n_patches=8)
