"""
A cache of embeddings
=====================

``cache=`` gives any embedder a folder where it keeps what it has computed. An embedding is found
again by the content of the image and the fingerprint of the embedder, whatever the file is called.
"""

import tempfile
import time

import matplotlib.pyplot as plt

from imgembed import CNNEmbedder, EmbeddingCache
from imgembed.demo import gallery_paths

folder = tempfile.TemporaryDirectory()
cache = EmbeddingCache(folder.name, size_limit=100_000_000)
embedder = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", cache=cache)
embedder.fit(gallery_paths())  # loads the network, and learns nothing

# %%
# The second time the files are only read and hashed.

seconds = []
for _ in range(2):
    start = time.perf_counter()
    vectors = embedder.transform(gallery_paths())
    seconds.append(time.perf_counter() - start)
print(cache.info())

# %%
# An embedder with other parameters has another fingerprint, and shares the folder without a
# mistake.

other = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", pooling="gem", cache=cache)
print(other.fit_transform(gallery_paths()).shape, cache.info().n_entries, "entries")
cache.clear()
folder.cleanup()

# %%
_, ax = plt.subplots(figsize=(5, 1.6), layout="constrained")
ax.barh(["again", "first"], seconds[::-1])
_ = ax.set(xlabel="seconds for 14 photographs, when this page was built")
