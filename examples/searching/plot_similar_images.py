"""
Search by image
===============

``ImageSearch`` has an embedder, an index and what is known of the images under one roof. It takes a
folder, paths, bytes, PIL images or arrays.
"""

from PIL import Image, ImageOps

from imgembed import CNNEmbedder, ImageSearch, read_image
from imgembed.demo import gallery_paths

search = ImageSearch(CNNEmbedder("tf_efficientnet_lite0", weights="bundled"))
search.fit(gallery_paths())

# %%
# Three queries: a photograph turned by 15 degrees, a part of one, and one in grey and mirrored.

pictures = {path.stem: Image.fromarray(read_image(path)) for path in gallery_paths()}
queries = [
    pictures["chelsea"].rotate(15, Image.Resampling.BICUBIC, fillcolor="white"),
    pictures["astronaut"].crop((120, 0, 400, 280)),
    ImageOps.mirror(ImageOps.grayscale(pictures["coffee"])),
]
hits = search.search(queries, n_neighbors=4)
print(hits.ids)
print(hits.distances.round(3))

# %%
# A notebook shows hits by themselves; ``to_html`` writes a page, ``to_pandas`` a table, ``plot``
# draws.

axes = hits.plot()
