"""
Weights from a checkpoint file
==============================

Training codes write checkpoints in layouts of their own, with prefixes, heads and optimisers.
``weights=path`` recognises the layout (MoCo, SimCLR, DINO, MAE, CLIP and many others), takes the
backbone out, and wants all of it. Nothing in a file is executed.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import timm
import torch

from imgembed import CheckpointError, CNNEmbedder, MoCoEmbedder
from imgembed.demo import gallery_paths

# %%
# Here is a file as MoCo's code writes it, of a network that was not trained, to have one without a
# download: two encoders, a queue, an optimiser.

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "moco.pth.tar"
torch.manual_seed(0)
network = timm.create_model("resnet18", num_classes=128, zero_init_last=False)
encoders = {
    f"module.encoder_{key}.{name}": tensor
    for key in "qk"
    for name, tensor in network.state_dict().items()
}
queue = {"module.queue": torch.zeros(128, 64), "module.queue_ptr": torch.zeros(1).long()}
torch.save(
    {"epoch": 200, "arch": "resnet18", "state_dict": encoders | queue, "optimizer": {}}, path
)

# %%
# The report says what was recognised, used and dropped.

paths = gallery_paths()
cnn = CNNEmbedder("resnet18", weights=path, engine="torch")
vectors = cnn.fit_transform(paths)
print(vectors.shape)
cnn.checkpoint_report_

# %%
# Most of such a file is not the network: the second encoder, heads, the queue.

report = cnn.checkpoint_report_
_, ax = plt.subplots(figsize=(5, 1.4), layout="constrained")
ax.barh(["dropped", "used"], [len(report.dropped), report.n_used])
_ = ax.set(xlabel="tensors")

# %%
# For files of MoCo and SimCLR there is a short way, as they name the architecture themselves.

moco = MoCoEmbedder(path, engine="torch")
print(abs(moco.fit_transform(paths[:2]) - vectors[:2]).max())

# %%
# A file that would leave a part of the network random is refused.

encoders.pop("module.encoder_q.layer4.0.conv1.weight")
torch.save({"arch": "resnet18", "state_dict": encoders}, path)
try:
    CNNEmbedder("resnet18", weights=path).fit(paths)
except CheckpointError as error:
    print(error)
folder.cleanup()
