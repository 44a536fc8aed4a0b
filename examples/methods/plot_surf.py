"""
SURF, where OpenCV has it
=========================

SURF [1]_ does what SIFT does with sums over boxes, and faster. It was patented until 2020, and the
wheels of OpenCV on PyPI are built without it. The library says so and says what to do; nothing
takes its place without a word.

.. [1] H. Bay, A. Ess, T. Tuytelaars and L. Van Gool, "Speeded-Up Robust Features (SURF)", CVIU
   2008.
"""

from imgembed import SIFTExtractor, SURFEmbedder, SURFExtractor, read_image
from imgembed.classical import surf_available
from imgembed.demo import gallery_paths
from imgembed.plotting import plot_keypoints

paths = gallery_paths()
print("SURF is in this build of OpenCV:", surf_available())

# %%
# With an OpenCV of the kind that this error describes, the same lines give vectors.

try:
    vectors = SURFEmbedder(n_words=200, random_state=0).fit_transform(paths)
    print(vectors.shape)
except RuntimeError as error:
    print(error)

# %%
# Until then SIFT is nearest to it.

extractor = SURFExtractor(200) if surf_available() else SIFTExtractor(200)
image = read_image(paths[4])
_ = plot_keypoints(image, extractor.extract(image))
