"""Local features of many images, on disk while a codebook is learned from them.

A million images have hundreds of gigabytes of descriptors; memory stays constant, and no
image is read twice.
"""

import pickle
import tempfile
from collections.abc import Iterator
from typing import Self

from ._features import LocalFeatures


class FeatureSpill:
    """Append the features of image after image; go through them as often as needed.

    They are in a nameless temporary file, which nobody else can write to and which is gone
    after the ``with`` block or with the process.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="imgembed-")  # noqa: SIM115 (closed by __exit__)
        self._n_images = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._n_images

    def append(self, features: LocalFeatures) -> None:
        """Add the features of the next image."""
        pickle.dump(features, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._n_images += 1

    def __iter__(self) -> Iterator[LocalFeatures]:
        self._file.seek(0)
        for _ in range(self._n_images):
            yield pickle.load(self._file)  # noqa: S301 (written above)
