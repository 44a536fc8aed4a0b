"""The gallery of a search as pages show it: images by id, names, values as text, JPEGs."""

import io
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image
from sklearn.utils.validation import check_is_fitted

from ..plotting import image_name
from ..plotting._thumbnails import thumbnail
from ..search import ImageSearch

_LONGEST_TEXT = 300  # characters of a value that are shown
_QUALITY = 82


def opened(search: ImageSearch | str | os.PathLike[str]) -> ImageSearch:
    """A search that is fitted, opened if it is the folder of a saved one.

    Parameters
    ----------
    search : ImageSearch, str or Path

    Returns
    -------
    search : ImageSearch

    Raises
    ------
    NotFittedError
        If it is not fitted.
    """
    if isinstance(search, (str, os.PathLike)):
        return ImageSearch.load(search)
    check_is_fitted(search)
    return search


class Gallery:
    """The images of a search that are in its index, by their ids.

    Parameters
    ----------
    search : ImageSearch
        A fitted one.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import HOGEmbedder, ImageSearch
    >>> from imgembed.pages._gallery import Gallery
    >>> gallery = Gallery(ImageSearch(HOGEmbedder()).fit(np.zeros((2, 64, 64, 3), np.uint8)))
    >>> list(gallery), 2 in gallery, gallery.name(1)
    ([0, 1], False, 'image 1')
    """

    def __init__(self, search: ImageSearch) -> None:
        self._search = search
        self._root = search.images_root_

    def __iter__(self) -> Iterator[int]:
        """Give the ids, in order."""
        yield from map(int, self._search.rows_)

    def __len__(self) -> int:
        """Return the number of images in the index."""
        return len(self._search.index_)

    def __contains__(self, item: object) -> bool:
        """Say whether an image with this id is in the index."""
        return isinstance(item, int) and item in self._search.index_

    def image(self, item: int) -> object:
        """The image with an id, as it was given."""
        return self._search.images_[item]

    def spread(self, n_images: int) -> list[int]:
        """Some ids, evenly spread over the gallery."""
        ids = list(self)
        chosen = np.linspace(0, len(ids) - 1, min(n_images, len(ids))).round().astype(int)
        return [ids[row] for row in chosen]

    def name(self, item: int) -> str:
        """What a page calls an image: its path below the folder that all share, or its id."""
        image = self.image(item)
        if not isinstance(image, (str, os.PathLike)):
            return f"image {item}"
        return relative_name(image, self._root)


def relative_name(path: str | os.PathLike[str], root: Path | None) -> str:
    """The path of an image below a folder, fit to be written as UTF-8.

    Parameters
    ----------
    path : str or Path
    root : Path or None
        The folder; None leaves the name of the file.

    Returns
    -------
    name : str

    Examples
    --------
    >>> from pathlib import Path
    >>> from imgembed.pages._gallery import relative_name
    >>> relative_name("photos/cats/1.jpg", Path("photos"))
    'cats/1.jpg'
    """
    text = image_name(path) if root is None else os.path.relpath(path, root)
    # A name that is not UTF-8 holds lone surrogates, which no page can hold.
    return PurePath(text).as_posix().encode("utf-8", "backslashreplace").decode()


def jpeg(image: object, longest_edge: int) -> bytes | None:
    """An image as a JPEG that is no larger than wanted.

    Parameters
    ----------
    image : image
        As :func:`imgembed.read_image` takes it.
    longest_edge : int
        In pixels; smaller images are not enlarged.

    Returns
    -------
    encoded : bytes or None
        None if the image cannot be read (any more).

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed.pages._gallery import jpeg
    >>> jpeg(np.zeros((8, 8), np.uint8), 100)[:2]
    b'\\xff\\xd8'
    """
    pixels = thumbnail(image, longest_edge)
    if pixels is None:
        return None
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=_QUALITY)
    return encoded.getvalue()


def shown_value(value: Any) -> str:
    """A value of a record, or a parameter, as a short text.

    Parameters
    ----------
    value : object

    Returns
    -------
    text : str

    Examples
    --------
    >>> from imgembed.pages._gallery import shown_value
    >>> shown_value(None), shown_value(0.30000000000000004), shown_value(b"abc")
    ('', '0.3', '3 bytes')
    """
    if value is None:
        return ""
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."


def json_value(value: Any) -> Any:
    """A value of a record as JSON has it: other kinds than its own become texts.

    Parameters
    ----------
    value : object

    Returns
    -------
    value : str, int, float, bool or None

    Examples
    --------
    >>> from datetime import date
    >>> from imgembed.pages._gallery import json_value
    >>> json_value(date(2024, 2, 29)), json_value(float("inf")), json_value(3)
    ('2024-02-29', 'inf', 3)
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
