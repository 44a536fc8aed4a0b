"""
Training without labels: MoCo and SimCLR
========================================

Two random views of an image are to be near each other, and far from all other images. MoCo [1]_
tells them from a queue of images that a slowly following copy of the network has seen, SimCLR [2]_
from the other images of the batch. No labels are needed.

.. [1] K. He, H. Fan, Y. Wu, S. Xie and R. Girshick, "Momentum Contrast for Unsupervised Visual
   Representation Learning", CVPR 2020.
.. [2] T. Chen, S. Kornblith, M. Norouzi and G. Hinton, "A Simple Framework for Contrastive Learning
   of Visual Representations", ICML 2020.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from imgembed import CNNEmbedder, MoCoEmbedder, SimCLREmbedder, read_image
from imgembed.demo import gallery_paths

# %%
# Sixty-four tiles of four photographs; what they show is not said.

names = ("astronaut", "coffee", "gravel", "hubble_deep_field")
paths = {path.stem: path for path in gallery_paths()}
tiles = [
    read_image(paths[name])[y : y + 96, x : x + 96]
    for name in names
    for x in range(0, 384, 96)
    for y in range(0, 384, 96)
]

# %%
# Training starts from the bundled weights. A real training has thousands of images and many epochs;
# these settings are for an example.

start = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", image_size=64)
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "moco.pth"
moco = MoCoEmbedder(
    backbone=start, epochs=4, train_batch_size=16, save_path=path, engine="torch", random_state=0
).fit(tiles)
simclr = SimCLREmbedder(
    backbone=start, epochs=4, train_batch_size=16, engine="torch", random_state=0
).fit(tiles)

# %%
# ``save_path`` is written after each epoch, in MoCo's own layout. The same call goes on from it if
# training was stopped, and any embedder reads it.

again = CNNEmbedder("tf_efficientnet_lite0", weights=path, image_size=64, engine="torch")
print(np.allclose(again.fit_transform(tiles[:4]), moco.transform(tiles[:4]), atol=1e-4))
folder.cleanup()

# %%
# What the loss did. The two are not to be compared: they tell an image from different numbers of
# others. MoCo's queue begins with random vectors, which are easily told apart, so that its loss
# rises first.

_, ax = plt.subplots(figsize=(5, 3), layout="constrained")
for name, embedder in {"MoCo": moco, "SimCLR": simclr}.items():
    history = embedder.history_
    ax.plot([e["epoch"] for e in history], [e["loss"] for e in history], "o-", label=name)
ax.set(xlabel="epoch", ylabel="loss", xticks=[e["epoch"] for e in moco.history_])
_ = ax.legend()
