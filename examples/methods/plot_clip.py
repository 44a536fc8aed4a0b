"""
CLIP: text and images in one space
==================================

CLIP [1]_ has learned from images and their captions, and embeds both in one space. So images are
found by words, classified by the names of classes, and captions are ranked.

**The weights here are random**, drawn from a seed, and so are the answers: what the example shows
is how it is called. ``CLIPEmbedder("ViT-B-32")`` downloads trained weights once. Needs the extra
``clip``.

.. [1] A. Radford, J. W. Kim, C. Hallacy et al., "Learning Transferable Visual Models From Natural
   Language Supervision", ICML 2021.
"""

import warnings

from imgembed import CLIPEmbedder, ImageSearch, ZeroShotClassifier
from imgembed.demo import gallery_paths

paths = gallery_paths()
clip = CLIPEmbedder("ViT-S-32-alt", weights=None, engine="torch", random_state=0)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of random weights
    search = ImageSearch(clip).fit(paths)

# %%
# Search by words, and by images as ever.

hits = search.search(text=["a cup of coffee", "a cat"], n_neighbors=3)
axes = hits.plot()

# %%
# Zero-shot classification: the nearest of some names, put into a sentence. It is a classifier of
# scikit-learn.

classifier = ZeroShotClassifier(search.embedder_, ["cat", "person", "texture"]).fit()
print(classifier.predict(paths[:3]))
print(classifier.predict_proba(paths[:3]).round(2))

# %%
# Captions are ranked, not written: the best of those that are given, with cosine and probability.

captions = ["an astronaut", "a wall of bricks", "a page of text"]
for path, ranked in zip(
    paths[:2], search.embedder_.rank_captions(paths[:2], captions), strict=True
):
    print(path.name, [(one.caption, round(one.probability, 2)) for one in ranked])
