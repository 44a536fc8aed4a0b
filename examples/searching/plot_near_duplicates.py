"""
Near-duplicates
===============

``find_duplicates`` groups images that are the same or nearly so, and says which of each group to
keep. It deletes nothing. In a group every image is near every other: there are no chains.
"""

import shutil
import tempfile
from pathlib import Path

from PIL import Image

from imgembed import find_duplicates, read_image
from imgembed.demo import CHANGES, gallery_paths

# %%
# A folder of fourteen photographs, of which four are there again, changed or as they are.

folder = tempfile.TemporaryDirectory()
for path in gallery_paths():
    shutil.copy(path, folder.name)
    picture = Image.fromarray(read_image(path))
    if path.stem in ("astronaut", "coffee"):
        for change in ("resized", "recompressed"):
            CHANGES[change](picture).save(Path(folder.name) / f"{path.stem}-{change}.jpg")
    if path.stem in ("brick", "rocket"):
        shutil.copy(path, Path(folder.name) / f"{path.stem}-again{path.suffix}")

# %%
# Images are compared by the cosine distance of small HOG vectors, or of any embedder that is given.
# How near is near is learned from random pairs of the images where there are enough of them; in so
# small a folder a default is taken.

duplicates = find_duplicates(folder.name)
print(str(duplicates).replace(folder.name + "/", ""))

# %%
# As a picture; ``to_html`` writes a page, ``to_pandas`` a table, and ``remove`` has the rows.

axes = duplicates.plot()
folder.cleanup()
