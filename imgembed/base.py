"""ImageEmbedder: what every embedder is. Subclasses write only the core."""

import hashlib
import json
import os
import pickle
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import Tags, check_scalar
from tqdm.auto import tqdm

from ._image_chunk import ImageChunk
from ._on_workers import EmbeddedRows, embed_on, prepare_on
from ._stored_rows import StoredRows
from ._threads import map_ahead
from ._workers import active_workers, in_one_thread, n_threads_here
from .cache import Cache, Known, OpenCache, Unknown, as_cache
from .images import ImageReadError, ImageReadWarning, check_images, image_content, read_image

# Parameters that say how the work is done, or from where weights come, and leave the
# vectors as they are. What the weights are is in the fingerprint by their content.
_NOT_IN_FINGERPRINT = frozenset(
    {
        "batch_size",
        "cache",
        "compile",
        "device",
        "engine",
        "max_pixels",
        "n_jobs",
        "on_error",
        "progress",
        "random_state",
        "weights",
    }
)
# What is made of an image, and of a batch of what comes of it.
Prepare = Callable[[NDArray[np.uint8]], Any]
Describe = Callable[[list[Any]], NDArray[np.float32]]

# Images read ahead for each thread, beyond one batch: enough to keep the network fed.
_READ_AHEAD = 4
# Known vectors that pass with a batch at most, lest they pile up behind it.
_MOST_KNOWN = 256
PROGRESS_DELAY = 2.0  # seconds; shorter work shows no bar


class FingerprintError(ValueError):
    """Vectors of two embedders would be compared."""


class ImageTransformer(TransformerMixin, BaseEstimator, ABC):
    """What reads images in threads and makes something of each.

    Parameters
    ----------
    n_jobs : int or None
        Threads that read and prepare images. -1 means one for each processor, None means 1
        unless in a :func:`joblib.parallel_config` context.
    on_error : str
        What happens to an image that cannot be read: "raise", or what the subclass offers.
    progress : {"auto", True, False}
        Whether to show a progress bar. "auto" shows one in a terminal or notebook for work
        that takes longer than two seconds.
    max_pixels : int
        Larger images are refused before they are decoded.
    """

    n_jobs: int | None
    on_error: str
    progress: bool | str
    max_pixels: int

    # What may be asked for instead of an error.
    _on_error_choices: ClassVar[tuple[str, ...]] = ("raise", "nan")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        return tags

    def _check_parameters(self) -> None:
        check_scalar(self.max_pixels, "max_pixels", int, min_val=1)
        check_choice("on_error", self.on_error, self._on_error_choices)
        check_choice("progress", self.progress, ("auto", True, False))

    def _shortest_edge(self) -> int | None:
        """How many pixels along the shortest edge suffice; None means all of them."""
        return None

    def _prepared(
        self,
        images: Iterable[object],
        prepare: Callable[[NDArray[np.uint8]], Any],
        on_error: str,
        n_beyond: int = 0,
        first_row: int = 0,
        cache: OpenCache | None = None,
    ) -> Iterator[Any]:
        """Each image prepared, in order of rows; an ImageReadError is raised, or stands in its row.

        Threads read ahead of the consumer, by a number of images for each of them and
        ``n_beyond`` more. With a cache Known or Unknown stands for what could be read.
        """

        def read_and_prepare(numbered: tuple[int, object]) -> Any:
            if cache is not None:
                return self._known_or_prepared(*numbered, prepare, cache)
            return self._read_and_prepare(*numbered, prepare)

        n_threads = n_threads_here(self.n_jobs)
        n_images = len(images) if isinstance(images, Sized) else None
        numbered, n_ahead = _numbered(images, first_row), n_beyond + _READ_AHEAD * n_threads
        if in_one_thread():
            results = (read_and_prepare(one) for one in numbered)
        else:
            results = map_ahead(read_and_prepare, numbered, n_threads, n_ahead)
        is_part = isinstance(images, ImageChunk)  # the bar is that of the whole
        with self._bar(n_images, first_row, hidden=is_part) as bar, closing(results):
            for result in results:
                if on_error == "raise" and isinstance(result, ImageReadError):
                    raise result
                yield result
                bar.update()

    def _prepared_anywhere(
        self, images: Iterable[object], prepare: Prepare, on_error: str
    ) -> Iterator[Any]:
        """As ``_prepared``, on the workers that a joblib context names, or here."""
        workers = active_workers(self.n_jobs)
        if workers is None:
            yield from self._prepared(images, prepare, on_error)
            return
        n_images = len(images) if isinstance(images, Sized) else None
        results = prepare_on(workers, clone(self), prepare, images, on_error)
        with self._bar(n_images) as bar, closing(results):
            for result in results:
                yield result
                bar.update()

    def _bar(self, n_images: int | None, n_done: int = 0, hidden: bool = False) -> Any:
        """A progress bar whose steps are images."""
        return tqdm(
            total=n_images,
            initial=n_done,
            desc=type(self).__name__,
            unit="image",
            delay=PROGRESS_DELAY if self.progress == "auto" else 0,
            disable=hidden or (None if self.progress == "auto" else not self.progress),
        )

    def _read_and_prepare(
        self, row: int, image: object, prepare: Callable[[NDArray[np.uint8]], Any]
    ) -> Any:
        if isinstance(image, ImageReadError):  # found already where a chunk was packed
            return image.with_row(row)
        try:
            pixels = read_image(
                image, max_pixels=self.max_pixels, shortest_edge=self._shortest_edge()
            )
        except ImageReadError as error:
            return error.with_row(row)
        try:
            return prepare(pixels)
        except Exception as error:
            error.add_note(f"while preparing the image in row {row}")
            raise

    def _known_or_prepared(
        self,
        row: int,
        image: object,
        prepare: Callable[[NDArray[np.uint8]], Any],
        cache: OpenCache,
    ) -> Known | Unknown | ImageReadError:
        content = image_content(image, max_pixels=self.max_pixels)
        if content is not None:
            found = cache.look_up(content)
            if isinstance(found, Known):
                return found
            # Of the content itself: the file may be another one by now.
            prepared = self._read_and_prepare(row, content, prepare)
            if not isinstance(prepared, ImageReadError):
                return Unknown(found, prepared)
        prepared = self._read_and_prepare(row, image, prepare)  # its error names the file
        return prepared if isinstance(prepared, ImageReadError) else Unknown(None, prepared)

    def _warn_of(self, errors: dict[int, ImageReadError]) -> None:
        if not errors:
            return
        listed = "; ".join(
            f"row {row} ({error.source}): {error.reason}" for row, error in errors.items()
        )
        warnings.warn(
            f"{len(errors)} images cannot be read; nothing, or NaN, stands for them: {listed}",
            ImageReadWarning,
            stacklevel=3,
        )


class ImageEmbedder(ClassNamePrefixFeaturesOutMixin, ImageTransformer):
    """Base class of all transformers from images to vectors.

    A subclass stores its parameters in ``__init__`` (among them the five below), and
    writes ``_load`` (make ready, check parameters), ``_prepare`` (one image, in a
    thread), ``_embed`` (a batch) and ``_n_features_out``. A subclass that learns from
    images also writes ``_fit_images``.

    Parameters
    ----------
    batch_size : int
        Images that go through ``_embed`` at once.
    n_jobs : int or None
        Threads that read and prepare images. -1 means one for each processor, None means 1
        unless in a :func:`joblib.parallel_config` context.
    on_error : {"raise", "nan"}
        What happens to an image that cannot be read: an :class:`ImageReadError` that names
        it, or a row of NaN and one :class:`ImageReadWarning` that lists all such rows.
    progress : {"auto", True, False}
        Whether to show a progress bar. "auto" shows one in a terminal or notebook for work
        that takes longer than two seconds.
    max_pixels : int
        Larger images are refused before they are decoded.
    cache : path, EmbeddingCache or None
        Where embeddings are kept, and found again instead of being computed. A subclass may do
        without this parameter, and has no cache then.
    """

    # Raised when the same parameters begin to give other vectors.
    _vectors_version: ClassVar[int] = 1

    batch_size: int
    cache: Cache = None

    def fit(self, X: Any, y: Any = None) -> Self:
        """Make ready to transform: load the network, or learn the codebook.

        Parameters
        ----------
        X : sequence of n_images images
            Paths, bytes, PIL images, arrays; see :func:`imgembed.read_image`.
        y : ignored
            For the API of scikit-learn.

        Returns
        -------
        self : ImageEmbedder

        Raises
        ------
        ValueError
            If X is empty, or a parameter is wrong.
        ImageReadError
            If an image is needed, cannot be read, and ``on_error="raise"``.
        """
        self._check_parameters()
        self._warn_of(self._fit_images(at_least_one(check_images(X)), self.on_error))
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Embed images.

        Parameters
        ----------
        X : sequence of n_images images
            Paths, bytes, PIL images, arrays; see :func:`imgembed.read_image`.

        Returns
        -------
        vectors : ndarray of shape (n_images, n_features), dtype float32, C-contiguous
            Row i belongs to ``X[i]``. With ``on_error="nan"`` the rows of unreadable images
            are NaN. An empty X gives no rows.

        Raises
        ------
        ImageReadError
            If an image cannot be read and ``on_error="raise"``.
        """
        self._check_parameters()
        self._load()
        vectors, errors = self._embed_anywhere(check_images(X), self.on_error)
        self._warn_of(errors)
        return vectors

    def fit_transform(self, X: Any, y: Any = None) -> NDArray[np.float32]:
        """Fit to images and embed them, reading each no oftener than needed.

        Parameters
        ----------
        X : sequence of n_images images
            As in :meth:`fit`.
        y : ignored
            For the API of scikit-learn.

        Returns
        -------
        vectors : ndarray of shape (n_images, n_features), dtype float32, C-contiguous
            As from :meth:`transform`.
        """
        self._check_parameters()
        vectors, errors = self._fit_embed_images(at_least_one(check_images(X)), self.on_error)
        self._warn_of(errors)
        return vectors

    def transform_with_errors(
        self, X: Any
    ) -> tuple[NDArray[np.float32], dict[int, ImageReadError]]:
        """Embed what can be read, and return the errors instead of raising or warning.

        Parameters
        ----------
        X : sequence of n_images images
            As in :meth:`transform`.

        Returns
        -------
        vectors : ndarray of shape (n_images, n_features), dtype float32
            The rows of unreadable images are NaN.
        errors : dict of int to ImageReadError
            The row of each unreadable image, and why.
        """
        self._check_parameters()
        self._load()
        return self._embed_anywhere(check_images(X), "nan")

    def fit_transform_with_errors(
        self, X: Any, y: Any = None
    ) -> tuple[NDArray[np.float32], dict[int, ImageReadError]]:
        """Fit to what can be read and embed it, as :meth:`transform_with_errors` does.

        Parameters
        ----------
        X : sequence of n_images images
            As in :meth:`fit`.
        y : ignored
            For the API of scikit-learn.

        Returns
        -------
        vectors : ndarray of shape (n_images, n_features), dtype float32
            The rows of unreadable images are NaN.
        errors : dict of int to ImageReadError
            The row of each unreadable image, and why.
        """
        self._check_parameters()
        return self._fit_embed_images(at_least_one(check_images(X)), "nan")

    def transform_to(self, X: Any, path: str | os.PathLike[str]) -> NDArray[np.float32]:
        """Embed images into a file, for collections whose vectors do not fit into memory.

        Run again after a crash, with the same images, it goes on where it had stopped, and does
        nothing if all is done.

        Parameters
        ----------
        X : sequence of n_images images
            As in :meth:`transform`. Images in files are known by path and size, others by
            their content.
        path : str or Path
            The .npy file. Until it is whole it is called ``<path>.part``; ``<path>.json`` records
            how far it is, and of which embedder and images.

        Returns
        -------
        vectors : memmap of shape (n_images, n_features), dtype float32
            The file, mapped into memory, read only. Rows of unreadable images are NaN.

        Raises
        ------
        ValueError
            If there are vectors of another embedder or of other images at ``path``.
        ImageReadError
            If an image cannot be read and ``on_error="raise"``. What is done is kept.
        """
        self._check_parameters()
        self._load()
        images = check_images(X)
        shape = (len(images), self._n_features_out)
        recipe = {
            "fingerprint": self.fingerprint(),
            "images": digest_images(images),
            "n_images": len(images),
            "on_error": self.on_error,
        }
        stored = StoredRows(Path(path), shape, recipe)
        if stored.n_done < len(images):
            self._fill(stored, images)
        self._warn_of({int(row): ImageReadError(*e) for row, e in stored.notes.items()})
        return stored.finish()

    def _fill(self, stored: StoredRows, images: Sequence[object]) -> None:
        prepare, embed = self._steps(len(images))
        try:
            with self._open_cache() as cache:
                batches = self._batches(images, prepare, self.on_error, stored.n_done, cache)
                for rows, batch, failed in batches:
                    size = len(rows) + len(failed), stored.shape[1]
                    vectors = np.full(size, np.nan, np.float32)
                    if batch:
                        done = _describe_batch(batch, embed, cache)
                        vectors[np.subtract(rows, stored.n_done)] = done
                    stored.notes |= {str(row): [e.source, e.reason] for row, e in failed.items()}
                    stored.write(vectors)
        finally:
            stored.keep()

    def fingerprint(self) -> str:
        """What decides the vectors, as one hash.

        Two embedders with the same fingerprint give the same vectors; vectors of
        embedders with different fingerprints must not be compared.

        Returns
        -------
        fingerprint : str
            64 hexadecimal digits, the SHA-256 of :meth:`fingerprint_parts`.

        Raises
        ------
        NotFittedError
            If the embedder learns from images and has not been fitted.
        """
        parts = json.dumps(self.fingerprint_parts(), sort_keys=True, default=repr)
        return hashlib.sha256(parts.encode()).hexdigest()

    def fingerprint_parts(self) -> dict[str, Any]:
        """What goes into the fingerprint, to explain why two of them differ.

        Returns
        -------
        parts : dict of str to object
            The method and its version, the parameters that change the vectors, and a
            digest of weights or codebook.
        """
        self._check_parameters()
        self._load()
        parameters = self.get_params(deep=False)
        return {
            "method": type(self).__qualname__,
            "version": self._vectors_version,
            **{k: v for k, v in parameters.items() if k not in _NOT_IN_FINGERPRINT},
            "learned": self._learned_digest(),
        }

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # always float32
        return tags

    # What a subclass writes.

    @abstractmethod
    def _load(self) -> None:
        """Make ready to transform, or raise NotFittedError."""

    @abstractmethod
    def _prepare(self, image: NDArray[np.uint8]) -> Any:
        """What ``_embed`` needs of one RGB image. Runs in threads."""

    @abstractmethod
    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        """A batch of prepared images as an array of shape (n_images, n_features)."""

    @abstractmethod
    def _learned_digest(self) -> str:
        """A digest of all that was learned or loaded."""

    @property
    @abstractmethod
    def _n_features_out(self) -> int:
        """The width of the vectors."""

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_scalar(self.batch_size, "batch_size", int, min_val=1)
        if self.cache is not None:
            as_cache(self.cache)

    def _steps(self, n_images: int) -> tuple[Prepare, Describe]:
        """What is done to each image in a thread, and to a batch of what comes of it."""
        return self._prepare, self._embed

    def _fit_images(self, images: Sequence[object], on_error: str) -> dict[int, ImageReadError]:
        """Learn from images. What needs only loading learns nothing and reads nothing."""
        self._load()
        return {}

    def _fit_embed_images(
        self, images: Sequence[object], on_error: str
    ) -> tuple[NDArray[np.float32], dict[int, ImageReadError]]:
        self._fit_images(images, on_error)
        return self._embed_anywhere(images, on_error)

    # The way from images to vectors.

    def _embed_anywhere(
        self, images: Sequence[object], on_error: str
    ) -> tuple[NDArray[np.float32], dict[int, ImageReadError]]:
        """Embed images on the workers that a joblib context names, or here."""
        if active_workers(self.n_jobs) is None:
            return self._embed_images(images, on_error)
        vectors = np.full((len(images), self._n_features_out), np.nan, dtype=np.float32)
        errors: dict[int, ImageReadError] = {}
        with closing(self._embed_parts(images, [range(len(images))], on_error)) as parts:
            for rows, part, failed in parts:
                vectors[rows.start : rows.stop] = part
                errors.update(failed)
        return vectors, dict(sorted(errors.items()))

    def _embed_parts(
        self, images: Sequence[object], batches: Sequence[range], on_error: str
    ) -> Generator[EmbeddedRows]:
        """Batches of rows embedded: here each as a whole, on workers by the part, as they come."""
        workers = active_workers(self.n_jobs)
        if workers is None:
            parts = self._embed_batches(images, batches, on_error)
        else:
            parts = embed_on(workers, self, images, batches, on_error)
        with self._bar(sum(map(len, batches))) as bar, closing(parts):
            for part in parts:
                yield part
                bar.update(len(part[0]))

    def _embed_batches(
        self, images: Sequence[object], batches: Sequence[range], on_error: str
    ) -> Generator[EmbeddedRows]:
        for rows in batches:
            vectors, failed = self._embed_images(ImageChunk(images, rows), on_error)
            yield rows, vectors, {rows[row]: error for row, error in failed.items()}

    def _embed_images(
        self, images: Sequence[object], on_error: str
    ) -> tuple[NDArray[np.float32], dict[int, ImageReadError]]:
        """Embed images batch by batch, and leave NaN in the rows of those that cannot be read."""
        prepare, embed = self._steps(len(images))
        shape = (self._n_features_out,)
        with self._open_cache() as cache:
            return self._described(images, prepare, embed, shape, on_error, cache)

    def _open_cache(self) -> AbstractContextManager[OpenCache | None]:
        """The cache, for what this embedder now makes of images."""
        if self.cache is None:
            return nullcontext()
        # The module too: users' classes of one name need not be one method.
        embedder = f"{type(self).__module__} {self.fingerprint()}"
        return OpenCache(as_cache(self.cache), embedder, self._n_features_out)

    def _described(
        self,
        images: Sequence[object],
        prepare: Prepare,
        describe: Describe,
        shape: tuple[int, ...],
        on_error: str,
        cache: OpenCache | None = None,
    ) -> tuple[NDArray[np.float32], dict[int, ImageReadError]]:
        """What ``describe`` says of each batch, NaN for what cannot be read, and the errors."""
        described = np.full((len(images), *shape), np.nan, dtype=np.float32)
        errors: dict[int, ImageReadError] = {}
        for rows, batch, failed in self._batches(images, prepare, on_error, cache=cache):
            if batch:
                described[rows] = _describe_batch(batch, describe, cache)
            errors.update(failed)
        return described, errors

    def _batches(
        self,
        images: Sequence[object],
        prepare: Prepare,
        on_error: str,
        first_row: int = 0,
        cache: OpenCache | None = None,
    ) -> Iterator[tuple[list[int], list[Any], dict[int, ImageReadError]]]:
        """Prepared images by the batch, with their rows, and what cannot be read between them.

        The batch may be empty at the end. Those that are known come in addition.
        """
        rows: list[int] = []
        batch: list[Any] = []
        failed: dict[int, ImageReadError] = {}
        n_known = 0
        prepared = self._prepared(images, prepare, on_error, self.batch_size, first_row, cache)
        for row, one in enumerate(prepared, first_row):
            if isinstance(one, ImageReadError):
                failed[row] = one
            else:
                rows.append(row)
                batch.append(one)
                n_known += isinstance(one, Known)
            if len(batch) - n_known == self.batch_size or n_known == _MOST_KNOWN:
                yield rows, batch, failed
                rows, batch, failed, n_known = [], [], {}, 0
        if batch or failed:
            yield rows, batch, failed


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise a ValueError that lists the choices unless value is one of them.

    Parameters
    ----------
    name : str
        Name of the parameter.
    value : object
        What was given.
    choices : sequence
        What may be given.
    """
    if not any(value is c or (isinstance(c, str) and value == c) for c in choices):
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")


def digest_images(images: Sequence[object]) -> str:
    """A hash of all images: paths and sizes of files, the content of others.

    Parameters
    ----------
    images : sequence of n_images images

    Returns
    -------
    digest : str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for _, image in _numbered(images, 0):
        digest.update(hashlib.sha256(_identity(image)).digest())
    return digest.hexdigest()


def _describe_batch(batch: list[Any], describe: Describe, cache: OpenCache | None) -> Any:
    return describe(batch) if cache is None else cache.complete(batch, describe)


def _numbered(images: Any, first_row: int) -> Iterator[tuple[int, object]]:
    """Images with their rows; what has rows need not be able to iterate."""
    if isinstance(images, ImageChunk):
        return zip(images.rows, images, strict=True)
    if hasattr(images, "__getitem__"):
        return ((row, images[row]) for row in range(first_row, len(images)))
    return islice(enumerate(images), first_row, None)


def _identity(image: object) -> bytes:
    if isinstance(image, (str, os.PathLike)):
        size = os.path.getsize(image) if os.path.isfile(image) else None
        return f"{os.fspath(image)} {size}".encode()
    return pickle.dumps(image)


def at_least_one(images: Sequence[object]) -> Sequence[object]:
    """The images, or a ValueError if there are none.

    Parameters
    ----------
    images : sequence of images

    Returns
    -------
    images : sequence of images
    """
    if len(images) == 0:
        raise ValueError("X is empty; fit needs at least one image")
    return images
