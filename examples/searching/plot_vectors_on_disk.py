"""
More vectors than memory
========================

``transform_to`` writes vectors into a file while it goes, and returns the file mapped into memory.
After a crash the same call goes on where it had stopped.
"""

import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from imgembed import CNNEmbedder, ImageReadError, NearestNeighborIndex
from imgembed.demo import gallery_paths

folder = tempfile.TemporaryDirectory()
paths = [Path(shutil.copy(path, folder.name)) for path in gallery_paths()]
embedder = CNNEmbedder("tf_efficientnet_lite0", weights="bundled")

# %%
# The tenth file is damaged, and stops the work. What is done is kept.

whole = paths[9].read_bytes()
paths[9].write_bytes(bytes(len(whole)))
try:
    embedder.transform_to(paths, folder.name + "/vectors.npy")
except ImageReadError as error:
    print(str(error).replace(folder.name, "..."))
print(sorted(path.name for path in Path(folder.name).glob("vectors*")))

# %%
# With the file repaired the call goes on. Vectors of another embedder or of other images would be
# refused.

paths[9].write_bytes(whole)
stored = embedder.transform_to(paths, folder.name + "/vectors.npy")
print(type(stored).__name__, stored.shape, stored.flags.writeable)

# %%
# The file is a plain .npy file, and what takes arrays takes it.

vectors = np.load(folder.name + "/vectors.npy", mmap_mode="r")
distances, rows = NearestNeighborIndex(storage="int8").fit(vectors).kneighbors(vectors, 2)
_, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.bar([path.stem for path in paths], distances[:, 1])
ax.tick_params(axis="x", rotation=90)
_ = ax.set(ylabel="distance to the nearest other")
del stored, vectors
folder.cleanup()
