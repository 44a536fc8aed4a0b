"""Feed: images read and augmented in threads, in a seeded order, epoch after epoch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._threads import map_ahead
from .._workers import n_threads_here
from ..base import ImageTransformer
from ..images import ImageReadError

Augment = Callable[[NDArray[np.uint8], np.random.Generator], Any]

# Batches that are read ahead of the network.
_READ_AHEAD = 2


class Feed:
    """Reads and augments images in threads, in a seeded order, epoch after epoch.

    The order, and what an image becomes, depend on the seed, the number of the epoch and the
    row of the image, and not on threads.

    Parameters
    ----------
    reader : ImageTransformer
        Says how images are read, and in how many threads.
    images : sequence of images
        As :func:`imgembed.read_image` takes them.
    augment : callable
        What is made of the pixels of an image, given a generator of random numbers.
    batch_size : int
        Images in a batch.
    seed : int
        Of order and augmentation.
    drop_last : bool, default=True
        Whether a last batch that is not full is left out.
    on_error : {"raise", "nan"}, optional
        Whether an unreadable image raises, or is left out; by default as the reader says.

    Attributes
    ----------
    errors : dict of int to ImageReadError
        The rows that cannot be read.
    """

    def __init__(
        self,
        reader: ImageTransformer,
        images: Sequence[object],
        augment: Augment,
        batch_size: int,
        seed: int,
        *,
        drop_last: bool = True,
        on_error: str | None = None,
    ) -> None:
        self.reader = reader
        self.images = images
        self.augment = augment
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.on_error = reader.on_error if on_error is None else on_error
        self.errors: dict[int, ImageReadError] = {}

    def epoch(
        self, number: int, rows: NDArray[np.intp] | None = None
    ) -> Iterator[tuple[NDArray[np.intp], list[Any]]]:
        """The batches of an epoch.

        Parameters
        ----------
        number : int
            Of the epoch, from 0.
        rows : ndarray of shape (n_rows,), dtype intp, optional
            The images that take part; by default all.

        Yields
        ------
        rows : ndarray of shape (n_in_batch,), dtype intp
            Of the images.
        augmented : list of length n_in_batch
            What was made of each.
        """
        chosen = np.arange(len(self.images)) if rows is None else np.asarray(rows)
        return self.ordered(number, np.random.default_rng([self.seed, number]).permutation(chosen))

    def ordered(
        self, number: int, rows: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], list[Any]]]:
        """The batches of an epoch whose order is given.

        Parameters
        ----------
        number : int
            Of the epoch, from 0.
        rows : ndarray of shape (n_rows,), dtype intp
            The images, in order.

        Yields
        ------
        rows, augmented
            As of :meth:`epoch`.
        """
        n_threads = n_threads_here(self.reader.n_jobs)
        n_ahead = _READ_AHEAD * self.batch_size + n_threads
        done, batch = list[int](), list[Any]()
        results = map_ahead(partial(self._read, number), rows, n_threads, n_ahead)
        with closing(results):
            for row, result in zip(rows.tolist(), results, strict=True):
                if isinstance(result, ImageReadError):
                    self._refuse(row, result)
                    continue
                done.append(row)
                batch.append(result)
                if len(batch) == self.batch_size:
                    yield np.array(done), batch
                    done, batch = [], []
        if batch and not self.drop_last:
            yield np.array(done), batch

    def _read(self, number: int, row: np.intp) -> Any:
        rng = np.random.default_rng([self.seed, number, int(row)])
        return self.reader._read_and_prepare(
            int(row), self.images[int(row)], lambda pixels: self.augment(pixels, rng)
        )

    def _refuse(self, row: int, error: ImageReadError) -> None:
        if self.on_error == "raise":
            raise error
        self.errors[row] = error


def find_unreadable(
    reader: ImageTransformer, images: Sequence[object]
) -> dict[int, ImageReadError]:
    """Read all images once.

    Parameters
    ----------
    reader : ImageTransformer
        Says how images are read, and in how many threads.
    images : sequence of images

    Returns
    -------
    errors : dict of int to ImageReadError
        The rows that cannot be read, and why.
    """
    feed = Feed(reader, images, lambda pixels, rng: None, 1, 0, on_error="nan")
    for _ in feed.ordered(0, np.arange(len(images))):
        pass
    return dict(sorted(feed.errors.items()))
