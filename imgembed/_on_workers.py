"""What workers do for embedders: embed chunks of images, or find the local features of each.

Results are those of the work in one process: the same rows, and the same errors in the same rows.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._image_chunk import CarriedError, ImageChunk, chunked
from ._workers import Workers, WorkerTask
from .cache import as_cache
from .images import ImageReadError

# Rows, their vectors, and the errors of those that cannot be read.
EmbeddedRows = tuple[range, NDArray[np.float32], dict[int, ImageReadError]]


@dataclass
class EmbedTask(WorkerTask):
    """Embed images.

    Parameters
    ----------
    embedder : ImageEmbedder
        Ready to transform.
    n_threads : int
        That it may have in a worker.
    """

    embedder: Any
    n_threads: int

    def __post_init__(self) -> None:
        self.max_pixels = self.embedder.max_pixels
        self.folder = os.getcwd()  # where the path of a cache begins

    def load(self) -> None:
        """Load the network, in the worker."""
        embedder = self.embedder
        embedder.n_jobs = self.n_threads
        if embedder.cache is not None:
            cache = as_cache(embedder.cache)
            embedder.cache = replace(cache, path=os.path.join(self.folder, cache.path))
        embedder._load()

    def run(
        self, chunk: ImageChunk, on_error: str
    ) -> tuple[NDArray[np.float32] | None, list[CarriedError]]:
        """The vectors of a chunk, unless one of its errors is to be raised."""
        try:
            vectors, errors = self.embedder._embed_images(chunk, on_error)
        except ImageReadError as error:
            return None, [chunk.carried(error)]
        return vectors, [chunk.carried(error) for error in errors.values()]


@dataclass
class PrepareTask(WorkerTask):
    """Read images, and make something of each.

    Parameters
    ----------
    reader : ImageTransformer
        It has learned nothing, as nothing of that is needed.
    prepare : callable
        Of the pixels of an image.
    n_threads : int
        That it may have in a worker.
    """

    reader: Any
    prepare: Callable[[NDArray[np.uint8]], Any]
    n_threads: int

    def __post_init__(self) -> None:
        self.max_pixels = self.reader.max_pixels

    def load(self) -> None:
        """Set the number of threads, in the worker."""
        self.reader.n_jobs = self.n_threads

    def run(self, chunk: ImageChunk, on_error: str) -> list[Any]:
        """What is made of each image of a chunk, up to an error that is to be raised."""
        made: list[Any] = []
        for one in self.reader._prepared(chunk, self.prepare, "return"):
            made.append(chunk.carried(one) if isinstance(one, ImageReadError) else one)
            if on_error == "raise" and isinstance(one, ImageReadError):
                break
        return made


def embed_on(
    workers: Workers, embedder: Any, images: Sequence[object], batches: Iterable[range],
    on_error: str,
) -> Generator[EmbeddedRows]:  # fmt: skip
    """Embed images on workers.

    Parameters
    ----------
    workers : Workers
    embedder : ImageEmbedder
    images : sequence of images
    batches : iterable of range
        The rows to be embedded.
    on_error : str
        "raise" or "nan".

    Yields
    ------
    rows : range
        Part of a batch, in the order in which they are done.
    vectors : ndarray of shape (n_rows, n_features), dtype float32
    errors : dict of int to ImageReadError

    Raises
    ------
    ImageReadError
        Of the first row that cannot be read, with ``on_error="raise"``, when all that was under
        way is done.
    WorkersLostError
        If workers die again and again.
    """
    # joblib gives up what is under way by killing its processes, and their networks with them: so
    # nothing new is begun after an error, and all that has begun is let end.
    failed: list[ImageReadError] = []
    size = embedder.batch_size

    def chunks() -> Iterator[ImageChunk]:
        for batch in filter(len, batches):
            for rows in chunked(batch, size, images[batch.start]):
                if failed:
                    return
                yield ImageChunk(images, rows)

    task = EmbedTask(embedder, workers.n_threads(embedder.n_jobs))
    with closing(workers.map(task, chunks(), on_error)) as results:
        for rows, (vectors, carried) in results:
            errors = [one.arrived() for one in carried]
            if vectors is None:
                failed += errors
            else:
                yield rows, vectors, {error.row: error for error in errors if error.row is not None}
    if failed:
        raise min(failed, key=_row)


def prepare_on(
    workers: Workers, reader: Any, prepare: Callable[[NDArray[np.uint8]], Any],
    images: Iterable[object], on_error: str,
) -> Generator[Any]:  # fmt: skip
    """Read images on workers, and make something of each there.

    Parameters
    ----------
    workers : Workers
    reader : ImageTransformer
        It has learned nothing.
    prepare : callable
        Of the pixels of an image.
    images : iterable of images
        Also a generator.
    on_error : str
        "raise", or another word for errors that stand in their rows.

    Yields
    ------
    one : object
        What is made of each image, or its ImageReadError, in order of rows.

    Raises
    ------
    ImageReadError
        Of the first row that cannot be read, with ``on_error="raise"``.
    WorkersLostError
        If workers die again and again.
    """
    task = PrepareTask(reader, prepare, workers.n_threads(reader.n_jobs))
    failed: list[ImageReadError] = []
    chunks = takewhile(lambda _: not failed, _chunks_of(images))
    with closing(workers.map(task, chunks, on_error)) as results:
        for made in _in_order(results):
            for one in made if not failed else ():
                arrived = one.arrived() if isinstance(one, CarriedError) else one
                if on_error == "raise" and isinstance(arrived, ImageReadError):
                    failed.append(arrived)  # what is under way is let end, as in embed_on
                    break
                yield arrived
    if failed:
        raise failed[0]


def _in_order(results: Iterable[tuple[range, list[Any]]]) -> Iterator[list[Any]]:
    """Results in the order of their rows, which begin at 0."""
    waiting: dict[int, tuple[range, list[Any]]] = {}
    next_row = 0
    for result in results:
        waiting[result[0].start] = result
        while next_row in waiting:
            rows, made = waiting.pop(next_row)
            next_row = rows.stop
            yield made


# Images in a chunk that is prepared: what comes back of it is megabytes of descriptors.
_N_PREPARED = 16


def _chunks_of(images: Iterable[object]) -> Iterator[ImageChunk]:
    """Chunks of what may be a generator, or have rows and no way to iterate."""
    if isinstance(images, Sized) and hasattr(images, "__getitem__"):
        for rows in chunked(range(len(images)), _N_PREPARED, None):
            yield ImageChunk(images, rows)  # type: ignore[arg-type]
        return
    taken, start = iter(images), 0
    while held := list(islice(taken, _N_PREPARED)):
        yield ImageChunk(held, range(start, start + len(held)), start)
        start += len(held)


def _row(error: ImageReadError) -> int:
    return -1 if error.row is None else error.row
