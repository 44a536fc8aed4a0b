"""ImageChunk: some neighbouring images of a sequence, here or on their way to another process."""

import os
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from .images import ImageReadError, describe_image, read_image

# Of fewer images than this the way to a worker and back takes a noticeable share of the time.
_SMALLEST_CHUNK = 32


class ImageChunk(Sequence[object]):
    """Some neighbouring images of a sequence, which know their rows in it.

    Parameters
    ----------
    images : sequence
        The whole sequence, or a part of it.
    rows : range
        Rows of the whole that belong to the chunk.
    n_before : int, default=0
        Rows of the whole before the first of ``images``.
    """

    def __init__(self, images: Sequence[object], rows: range, n_before: int = 0) -> None:
        self.images, self.rows, self.n_before = images, rows, n_before
        self.given = images  # what errors name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: Any) -> Any:
        return self.images[self.rows[position] - self.n_before]

    def packed(self, max_pixels: int) -> bytes:
        """The chunk as bytes, for another process.

        Parameters
        ----------
        max_pixels : int
            Of PIL images, which travel as their pixels.

        Returns
        -------
        content : bytes
        """
        images = [_portable(image, max_pixels) for image in self]
        return pickle.dumps((images, self.rows, os.getcwd()), protocol=5)

    @classmethod
    def unpacked(cls, content: bytes) -> Self:
        """The chunk in another process, where a path means what it means in the first one.

        Parameters
        ----------
        content : bytes

        Returns
        -------
        chunk : ImageChunk
        """
        images, rows, folder = pickle.loads(content)  # noqa: S301 (of the program that asked)
        chunk = cls(images, rows, rows.start)
        if folder != os.getcwd():
            chunk.images = [_found_from(folder, image) for image in images]
        return chunk

    def carried(self, error: ImageReadError) -> "CarriedError":
        """An error of an image of the chunk, ready to go where the chunk came from.

        Parameters
        ----------
        error : ImageReadError
            With the row of the image.

        Returns
        -------
        carried : CarriedError
        """
        assert error.row is not None
        given = self.given[error.row - self.n_before]
        if isinstance(given, str):
            error.source = describe_image(given)
        return CarriedError(error, error.__cause__ if _can_be_pickled(error.__cause__) else None)


class CarriedError(NamedTuple):
    """An ImageReadError on its way to another process, with its cause, which a pickle forgets.

    Parameters
    ----------
    error : ImageReadError
    cause : exception or None
    """

    error: ImageReadError
    cause: BaseException | None

    def arrived(self) -> ImageReadError:
        """The error as it was.

        Returns
        -------
        error : ImageReadError
        """
        self.error.__cause__ = self.cause
        return self.error


def chunked(rows: range, batch_size: int, image: object) -> list[range]:
    """Rows in chunks for workers: whole batches, and small ones where images travel themselves.

    Parameters
    ----------
    rows : range
    batch_size : int
        Of the embedder.
    image : object
        One of the images.

    Returns
    -------
    chunks : list of range
    """
    n_batches = -(-_SMALLEST_CHUNK // batch_size) if isinstance(image, (str, os.PathLike)) else 1
    size = n_batches * batch_size
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _portable(image: object, max_pixels: int) -> object:
    """An image as it can go to another process, or the error that it gives already here."""
    if isinstance(image, os.PathLike):
        return os.fspath(image)
    if isinstance(image, (str, bytes, bytearray, Mapping)):
        return image
    if isinstance(image, np.ndarray) and image.dtype != object:
        return image
    try:
        return read_image(image, max_pixels=max_pixels)  # a PIL image may hang on an open file
    except ImageReadError as error:
        return error


def _found_from(folder: str, image: object) -> object:
    if isinstance(image, str) and image and "://" not in image and not image.startswith("data:"):
        return os.path.join(folder, image)
    return image


def _can_be_pickled(cause: BaseException | None) -> bool:
    try:
        pickle.loads(pickle.dumps(cause))  # noqa: S301 (written here)
    except Exception:  # whatever the classes of others raise
        return False
    return True
