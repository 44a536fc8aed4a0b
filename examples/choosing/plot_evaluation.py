"""
How good is a search?
=====================

``evaluate`` takes vectors and what each image shows, and returns measures, also of each query, from
which intervals and tests follow.
"""

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from imgembed import CNNEmbedder, HOGEmbedder, SIFTEmbedder, read_image
from imgembed.demo import CHANGES, gallery_paths
from imgembed.evaluation import LabelProtocol, bootstrap_interval, evaluate, permutation_test

# %%
# The queries are fourteen photographs in four changed copies each. A query is answered by the
# photograph that it was made from.

gallery = [read_image(path) for path in gallery_paths()]
copies = [
    np.asarray(change(Image.fromarray(pixels))) for pixels in gallery for change in CHANGES.values()
]
shown = [*range(len(gallery)), *np.repeat(range(len(gallery)), len(CHANGES))]
is_query = np.arange(len(shown)) >= len(gallery)
protocol = LabelProtocol(np.array(shown), is_query)

# %%
# Codebooks are learned from the gallery, never from the queries.

embedders = {
    "CNN": CNNEmbedder("tf_efficientnet_lite0", weights="bundled"),
    "SIFT": SIFTEmbedder(n_words=300, n_keypoints=300, longest_edge=320, random_state=0),
    "HOG": HOGEmbedder(),
}
precisions = {}
for name, embedder in embedders.items():
    vectors = np.concatenate([embedder.fit_transform(gallery), embedder.transform(copies)])
    found = evaluate(vectors, protocol, measures=["mean_average_precision", "hit_rate@1"])
    precisions[name] = found.per_query["mean_average_precision"]
    print(f"{name:5} {found.means}")

# %%
# Is one better than the other, or was it luck? Queries that come from one photograph are not
# independent: average over each photograph first.

means = {name: values.reshape(len(gallery), -1).mean(axis=1) for name, values in precisions.items()}
print(permutation_test(means["CNN"], means["HOG"], random_state=0))
print(permutation_test(means["CNN"], means["SIFT"], random_state=0))

# %%
_, ax = plt.subplots(figsize=(5, 2.4), layout="constrained")
for row, values in enumerate(means.values()):
    interval = bootstrap_interval(values, random_state=0)
    ax.plot([interval.low, interval.high], [row, row], "k-")
    ax.plot(values.mean(), row, "o")
ax.set(xlabel="mean average precision, with a confidence of 0.95", ylim=(-0.5, len(means) - 0.5))
_ = ax.set_yticks(range(len(means)), means)
