"""
The life of an index
====================

An index lives on: vectors are added, replaced and removed, records change, and it is saved and
loaded. It takes vectors of any origin; here they are HOG vectors of digits.
"""

import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from imgembed import HOGEmbedder, NearestNeighborIndex

digits = load_digits()
images = list((digits.images * (255 / 16)).astype(np.uint8))
vectors = HOGEmbedder(size=32, cell_size=8).fit_transform(images)
ids = [f"digit{row}" for row in range(len(vectors))]
records = {"digit": digits.target.tolist()}

# %%
# Fill it, with ids and records, and search.

index = NearestNeighborIndex(metric="cosine").fit(
    vectors[:1500], ids=ids[:1500], records={"digit": records["digit"][:1500]}
)
found = index.search(vectors[1500:1502], n_neighbors=3)
print(found.ids, found.records)

# %%
# Add, replace, change records, remove.

index.add(vectors[1500:], ids=ids[1500:], records={"digit": records["digit"][1500:]})
index.upsert(vectors[:1], ["digit0"])
index.update_records(["digit0"], {"checked": [True]})
index.remove(["digit1", "digit2"])
print(len(index), "digit1" in index, index.columns_)
print(index.search(vectors[:1], n_neighbors=2, where="digit = 8 AND checked IS NULL").ids)

# %%
# ``save`` writes a folder that holds the old index or the new one whole at any moment, and ``load``
# checks all that it reads. Nothing in it is executed.

with tempfile.TemporaryDirectory() as folder:
    index.save(folder + "/digits")
    again = NearestNeighborIndex.load(folder + "/digits")
print(len(again), "vectors")

# %%
# From 10,000 vectors on, or if asked to, the index searches a graph. It knows its recall, and how
# many candidates it has to visit to reach the one that was asked for.

graph = NearestNeighborIndex(algorithm="hnsw", target_recall=0.95, progress=False).fit(vectors)
print(graph.recall_estimate_)
curve = graph.recall_curve().to_pandas()
_, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(curve["ef"], curve["recall"], "o-")
_ = ax.set(xlabel="candidates (ef)", ylabel="recall of 5 neighbours")
