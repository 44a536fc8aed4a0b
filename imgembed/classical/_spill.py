"""Descriptors of many images, on disk while a codebook is learned from them.

A million images have hundreds of gigabytes of descriptors; memory stays constant, and no
image is read twice.
"""

import tempfile
from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray


class DescriptorSpill:
    """Append descriptors image by image; sample them, or go through them again.

    They are in a nameless temporary file, which is gone after the ``with`` block or with the
    process.

    Parameters
    ----------
    n_dimensions : int
        Width of a descriptor, in bytes.
    """

    def __init__(self, n_dimensions: int) -> None:
        self.n_dimensions = n_dimensions
        self._file = tempfile.TemporaryFile(prefix="imgembed-")  # noqa: SIM115 (closed by __exit__)
        self._ends = [0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def n_descriptors(self) -> int:
        """The number of descriptors so far."""
        return self._ends[-1]

    def append(self, descriptors: NDArray[np.uint8]) -> None:
        """Add the descriptors of the next image, of shape (n_keypoints, n_dimensions)."""
        self._file.write(np.ascontiguousarray(descriptors).data)
        self._ends.append(self._ends[-1] + len(descriptors))

    def sample(self, n: int, random_state: np.random.RandomState) -> NDArray[np.uint8]:
        """At most n descriptors, each of all images equally likely, none twice."""
        n = min(n, self.n_descriptors)
        rows = random_state.choice(self.n_descriptors, n, replace=False)
        return np.asarray(self._mapped()[np.sort(rows)])

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        mapped = self._mapped()
        for start, end in zip(self._ends, self._ends[1:], strict=False):
            yield np.asarray(mapped[start:end])

    def _mapped(self) -> NDArray[np.uint8]:
        shape = (self.n_descriptors, self.n_dimensions)
        if not self.n_descriptors:  # an empty file cannot be mapped
            return np.empty(shape, dtype=np.uint8)
        self._file.flush()
        return np.memmap(self._file, dtype=np.uint8, mode="r", shape=shape)
