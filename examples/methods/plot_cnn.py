"""
Convolutional networks
======================

A network that has learned to tell a thousand kinds of things has learned to see; without its
classifier it turns images into vectors in which the same kind of thing lies near [1]_. Any
convolutional network of timm can be taken by its name. ``weights="bundled"`` needs no network: the
extra ``offline`` installs them.

.. [1] A. Babenko, A. Slesarev, A. Chigorin and V. Lempitsky, "Neural Codes for Image Retrieval",
   ECCV 2014.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA

from imgembed import CNNEmbedder, read_image
from imgembed.demo import gallery_paths

# %%
# One row an image, float32. ``CNNEmbedder("resnet50")`` or ``"convnext_tiny.fb_in22k"`` are the
# same with weights that timm downloads.

photographs = {path.stem: path for path in gallery_paths()}
cnn = CNNEmbedder("tf_efficientnet_lite0", weights="bundled")
vectors = cnn.fit_transform(list(photographs.values()))
print(vectors.shape, vectors.dtype)

# %%
# Alone, in a batch or after pickling, an image has the same vector.

alone = cnn.transform([photographs["coffee"]])
print(np.allclose(alone[0], vectors[list(photographs).index("coffee")], rtol=1e-4, atol=1e-5))

# %%
# Poolings say how the last feature maps become a vector. The average is right for search by
# content; R-MAC and GeM suit objects that fill a part of the image.

for pooling in ("avg", "gem", "rmac"):
    embedder = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", pooling=pooling)
    print(pooling, embedder.fit_transform([photographs["coffee"]]).shape)

# %%
# What is pooled are descriptors of places in the image. Their three principal components, as red,
# green and blue, show what the network holds for alike, here at twice its usual input size.

large = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", image_size=448)
tokens = large.patch_tokens([photographs["chelsea"]])[0]
components = PCA(3, random_state=0).fit_transform(tokens).reshape(14, 14, 3)
low, high = components.min(axis=(0, 1)), components.max(axis=(0, 1))
_, (left, right) = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
left.imshow(read_image(photographs["chelsea"]))
right.imshow((components - low) / (high - low))
for ax in (left, right):
    ax.set_axis_off()
