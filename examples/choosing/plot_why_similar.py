"""
Why is this a hit?
==================

The cosine of two images is a sum over pairs of their patches, for networks that average them. Drawn
over the images, each patch's share shows what makes them similar.
"""

from PIL import Image

from imgembed import CNNEmbedder, read_image
from imgembed.demo import gallery_paths
from imgembed.plotting import plot_patch_similarity

photographs = {path.stem: read_image(path) for path in gallery_paths()}
embedder = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", image_size=448)

# %%
# A part of the coffee, turned, and the whole photograph.

query = Image.fromarray(photographs["coffee"]).rotate(20).crop((180, 60, 480, 340))
axes = plot_patch_similarity(embedder, query, photographs["coffee"])

# %%
# For local features the question has an exact answer: see
# :ref:`sphx_glr_auto_examples_methods_plot_sift.py`.
