"""
Which method for these images?
==============================

``compare_embedders`` measures methods on your own images: quality, speed, memory, and what each
fails on. Without labels, each image is found again after it was cropped, turned, blurred and so on.
"""

from imgembed import CNNEmbedder, HOGEmbedder, ORBEmbedder, SIFTEmbedder, compare_embedders
from imgembed.demo import gallery_paths

comparison = compare_embedders(
    {
        "CNN": CNNEmbedder("tf_efficientnet_lite0", weights="bundled"),
        "SIFT": SIFTEmbedder(n_words=300, n_keypoints=300, longest_edge=320, random_state=0),
        "ORB": ORBEmbedder(n_words=300, n_keypoints=300, longest_edge=320, random_state=0),
        "HOG": HOGEmbedder(),
    },
    gallery_paths(),
)
comparison

# %%
# Quality against speed. Speeds are those of the computer that built this page, while it did other
# things too.

_ = comparison.plot()
