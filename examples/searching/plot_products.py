"""
Products: records and conditions
================================

A shop knows more of its images than their pixels. Records are kept with the vectors, come back with
the hits, and conditions on them say what may be found. The hits are the nearest of all images that
the condition allows.
"""

import numpy as np
import pandas as pd
from PIL import Image

from imgembed import CNNEmbedder, ImageSearch, read_image
from imgembed.demo import gallery_paths

# %%
# A shop of posters: each of six photographs in four tints.

tints = {"plain": (1, 1, 1), "warm": (1.1, 0.9, 0.6), "cold": (0.6, 0.9, 1.1), "dark": (0.5,) * 3}
posters, records = [], []
for path in gallery_paths():
    if path.stem not in ("astronaut", "camera", "chelsea", "coffee", "retina", "rocket"):
        continue
    pixels = read_image(path, shortest_edge=256)
    for tint, factors in tints.items():
        posters.append(np.clip(pixels * np.array(factors), 0, 255).astype(np.uint8))
        record = {"title": path.stem, "tint": tint, "price": 20 + 3 * len(records) % 17}
        records.append(record | {"stock": len(records) % 3})
table = pd.DataFrame(records)
table.head()

# %%
# A customer's picture: a small part of the rocket.

embedder = CNNEmbedder("tf_efficientnet_lite0", weights="bundled")
search = ImageSearch(embedder).fit(posters, records=table)
rocket = read_image(next(path for path in gallery_paths() if path.stem == "rocket"))
query = Image.fromarray(rocket[60:380, 160:480])
print([(record["title"], record["tint"]) for record in search.search(query).records[0]])

# %%
# What is on stock and cheap enough, and not dark. Values that a customer has typed belong into
# ``params``.

hits = search.search(
    query, n_neighbors=4, where="stock > 0 AND price < ? AND tint <> 'dark'", params=(34,)
)
hits.to_pandas()

# %%
axes = hits.plot()

# %%
# Without a picture a condition selects ids and records, as they come.

search.index_.select("stock > 0 AND price < ?", params=(22,), limit=3)
