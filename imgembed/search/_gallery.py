"""The gallery of a search: its images by id, and what is checked before they are indexed."""

import os
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..images import ImageReadError, ImageReadWarning, check_images, list_images


class Gallery(Sequence[object]):
    """Images by id, which a change leaves as they are: it makes a new gallery.

    Parameters
    ----------
    parts : sequence of sequences of images
        One after the other; nothing of them is read or copied.
    removed : frozenset of int
        Ids of images that are gone; None stands for them.
    folders : sequence of str
        Where parts were folders, their absolute paths.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[object]],
        removed: frozenset[int] = frozenset(),
        folders: Sequence[str] = (),
    ) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64).tolist()
        self.removed = removed
        self.folders = tuple(folders)

    @classmethod
    def of(cls, images: Any) -> Self:
        """The gallery of a folder or a sequence of images.

        Raises
        ------
        ValueError
            If there is no image.
        TypeError
            If it is neither.
        """
        if isinstance(images, (str, os.PathLike)):
            paths = list_images(images)
            if not paths:
                raise ValueError(f"there are no images in the folder {os.fspath(images)!r}")
            return cls([paths], folders=[os.path.abspath(os.fsdecode(images))])
        gallery = check_images(images)
        if len(gallery) == 0:
            raise ValueError("the gallery is empty; give a folder or at least one image")
        return cls([gallery])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        i = range(len(self))[int(item)]  # counts from the end, and knows where that is
        if i in self.removed:
            return None
        part = bisect_right(self._ends, i)
        return self._parts[part][i - (self._ends[part - 1] if part else 0)]

    def with_more(self, other: Self) -> Self:
        """A gallery with the images of another one behind."""
        parts, folders = self._parts + other._parts, self.folders + other.folders
        return type(self)(parts, self.removed, folders)

    def without(self, ids: Iterable[int]) -> Self:
        """A gallery without some images; all others keep their ids."""
        return type(self)(self._parts, self.removed | {int(i) for i in ids}, self.folders)

    @property
    def root(self) -> Path | None:
        """The folder that all its files are in; None without files, or with none in common."""
        parents = {os.path.dirname(path) for path in map(absolute_path, self) if path is not None}
        folders = parents.union(self.folders if parents else ())
        try:
            return Path(os.path.commonpath(folders)) if folders else None
        except ValueError:  # of two drives
            return None


def absolute_path(image: object) -> str | None:
    """The absolute path of an image in a file, None of one that is in memory."""
    if isinstance(image, Mapping) and image.get("bytes") is None:
        image = image.get("path")
    if isinstance(image, (str, os.PathLike)):
        return os.path.abspath(os.fsdecode(image))
    return None


def check_records(records: Any, n_images: int) -> list[dict[str, Any]] | None:
    """Records as dicts, one for each image.

    Parameters
    ----------
    records : DataFrame, sequence of dicts, or None
    n_images : int

    Returns
    -------
    records : list of dict or None

    Raises
    ------
    ValueError
        If they are something else, or not one for each.
    """
    if records is None:
        return None
    if hasattr(records, "to_dicts"):  # polars
        records = records.to_dicts()
    elif hasattr(records, "to_dict"):  # pandas
        records = records.to_dict("records")
    if not isinstance(records, Sequence) or not all(isinstance(r, Mapping) for r in records):
        raise ValueError(
            "records must be a DataFrame or a sequence of dicts, one for each image; got a "
            f"{type(records).__name__}"
        )
    if len(records) != n_images:
        raise ValueError(
            f"records must be one for each image: got {len(records)} records and {n_images} images"
        )
    return [dict(record) for record in records]


def readable_rows(n_images: int, errors: Mapping[int, ImageReadError]) -> NDArray[np.int64]:
    """The rows of images that could be read.

    Parameters
    ----------
    n_images : int
    errors : mapping of int to ImageReadError
        By row, those that could not.

    Returns
    -------
    rows : ndarray of shape (n_readable,), dtype int64

    Raises
    ------
    ValueError
        If there is none.
    """
    rows = np.array([row for row in range(n_images) if row not in errors], np.int64)
    if not len(rows):
        raise ValueError(f"none of {n_images} images can be read; the first: {errors[0]}")
    return rows


def warn_of(errors: Mapping[int, ImageReadError], n_images: int) -> None:
    """Warn the caller's caller of images that are not indexed.

    Parameters
    ----------
    errors : mapping of int to ImageReadError
    n_images : int
        In all.
    """
    if not errors:
        return
    first = next(iter(errors.values()))
    warnings.warn(
        f"{len(errors)} of {n_images} images cannot be read and are not indexed; errors_ lists "
        f"them. The first: {first}",
        ImageReadWarning,
        stacklevel=3,
    )
