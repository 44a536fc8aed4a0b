"""
Vision transformers
===================

A vision transformer [1]_ cuts an image into patches and passes them as tokens through layers of
attention. ``ViTEmbedder`` takes the mean of the patch tokens, after the final norm, unless told
otherwise.

**The weights here are random**, drawn from a seed, so that the example needs no download: what it
shows is how it is called. Leave ``weights`` out, and timm's trained ones are downloaded at the
first use.

.. [1] A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
   Scale", ICLR 2021.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

from imgembed import VLAD, VisualVocabulary, ViTEmbedder, read_image
from imgembed.demo import gallery_paths

paths = gallery_paths()
vit = ViTEmbedder("vit_tiny_patch16_224", weights=None, engine="torch", random_state=0)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of random weights
    vectors = vit.fit_transform(paths)
print(vectors.shape)

# %%
# Other poolings are a parameter. ``"mean_all"`` agrees with ``last_hidden_state.mean(1)`` of the
# transformers library, ``"cls"`` is the class token, ``"cls+mean"`` joins it and the mean.

for pooling in ("mean", "mean_all", "cls", "cls+mean", "gem"):
    vit.set_params(pooling=pooling)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        print(f"{pooling:9}", vit.fit_transform(paths[:2]).shape)

# %%
# The tokens themselves are local descriptors, which VLAD, Fisher vectors and visual words take.

tokens = vit.patch_tokens(paths)
residuals = VLAD(VisualVocabulary(8, random_state=0)).fit_transform(tokens)
print(tokens.shape, residuals.shape)

# %%
# Where each token comes from: the cosine of all patches to the one that is marked. The network saw
# the centre of the photograph. Random layers keep a little of what a patch looks like; trained ones
# know what it shows.

patches = tokens[[path.stem for path in paths].index("camera")]
patches = patches / np.linalg.norm(patches, axis=1, keepdims=True)
cosines = (patches @ patches[7 * 14 + 6]).reshape(14, 14)
_, (left, right) = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
left.imshow(read_image(next(path for path in paths if path.stem == "camera")))
right.imshow(cosines)
right.plot(6, 7, "r+", markersize=12)
right.set_title("random weights", fontsize=9)
for ax in (left, right):
    ax.set_axis_off()
