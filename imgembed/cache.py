"""Embeddings already computed, kept on disk by an image's content and the embedder's fingerprint.

It is SQLite's work that several processes may write, and that a crash leaves no half of a vector.
"""

import hashlib
import os
import sqlite3
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ._vector_table import DamagedTableError, NoTableError, VectorTable

Vectors = NDArray[np.float32]

_FILE_NAME = "embeddings.sqlite"
# What SQLite has beside its file while it is open, or after a crash.
_BESIDE = ("", "-wal", "-shm")
_SMALLEST_LIMIT = 1_000_000

# Hits and misses of this process, by folder.
_counts: dict[str, Counter[str]] = {}
_counts_lock = threading.Lock()


class CacheError(RuntimeError):
    """A cache of embeddings cannot be opened; the message says why, and what to do."""


class CacheWarning(UserWarning):
    """A cache of embeddings could not do its work; the embeddings are right all the same."""


class CacheInfo(NamedTuple):
    """What is in a cache, and what it was good for.

    Parameters
    ----------
    n_entries : int
        Embeddings in it.
    n_bytes : int
        Bytes that they take, with all that is needed to find them.
    size_limit : int
        Bytes that they may take.
    n_hits : int
        Images whose embedding was found, since this process began.
    n_misses : int
        Images that had to be embedded, since this process began.

    Examples
    --------
    >>> from imgembed import CacheInfo
    >>> CacheInfo(n_entries=2, n_bytes=32768, size_limit=10**9, n_hits=2, n_misses=2).n_entries
    2
    """

    n_entries: int
    n_bytes: int
    size_limit: int
    n_hits: int
    n_misses: int


@dataclass(frozen=True)
class EmbeddingCache:
    """Embeddings already computed, in a folder, for any number of embedders and processes.

    Every embedder takes one as its parameter ``cache``; a path is short for a cache of the
    default size. An embedding is found by the content of its image and the fingerprint of the
    embedder, so that a file may be renamed, and one that has changed is embedded again.

    Parameters
    ----------
    path : str or Path
        The folder. It is made at first use, and must hold nothing else. It belongs on a disk of
        this computer, as SQLite's locks do not work on network file systems.
    size_limit : int, default=4_000_000_000
        Bytes, a million at least. At the limit the tenth of the embeddings that was not used for
        the longest time, to the hour, is forgotten.

    See Also
    --------
    ImageEmbedder.transform_to : Vectors of one collection in one file.

    Notes
    -----
    What SQLite cannot read or write (a full disk, a folder that may only be read, a damaged entry)
    costs time and gives one :class:`CacheWarning`, never a wrong embedding: each
    has a checksum. Nothing in the folder is ever executed or unpickled.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from imgembed import EmbeddingCache, HOGEmbedder
    >>> images = [np.zeros((60, 80, 3), np.uint8), np.full((60, 80, 3), 255, np.uint8)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = EmbeddingCache(folder)
    ...     for _ in range(2):
    ...         vectors = HOGEmbedder(cache=cache).transform(images)
    ...     info = cache.info()
    >>> info.n_entries, info.n_hits, info.n_misses
    (2, 2, 2)
    """

    path: str | os.PathLike[str]
    size_limit: int = 4_000_000_000

    def info(self) -> CacheInfo:
        """Count what is in the cache.

        Returns
        -------
        info : CacheInfo
            Of a cache that was never used all is 0, and no folder is made.

        Raises
        ------
        CacheError
            If the folder is not a cache, or damaged.
        """
        count = _counts_of(self)
        n_entries = n_bytes = 0
        with _errors_explained(self):
            _check_folder(self)
            if _file_of(self).exists():
                with closing(self._table()) as table:
                    n_entries, n_bytes = table.count(), table.size()
        return CacheInfo(n_entries, n_bytes, self.size_limit, count["hits"], count["misses"])

    def clear(self) -> None:
        """Forget all embeddings. Other processes may go on using the cache.

        A damaged file is deleted; then no other process should be using it.

        Raises
        ------
        CacheError
            If the folder holds something else, or cannot be written.
        """
        path = _file_of(self)
        with _errors_explained(self):
            _check_folder(self)
            if not path.exists():
                return
            try:
                with closing(self._table()) as table:
                    table.clear()
            except (DamagedTableError, sqlite3.DatabaseError) as error:
                if isinstance(error, sqlite3.OperationalError):  # locked, or not to be written
                    raise
                for ending in _BESIDE:
                    Path(f"{path}{ending}").unlink(missing_ok=True)

    def _table(self) -> VectorTable:
        return VectorTable(_file_of(self), self.size_limit)


# What an embedder takes.
Cache = str | os.PathLike[str] | EmbeddingCache | None


class Known(NamedTuple):
    """What stands for an image whose vector is in the cache.

    Parameters
    ----------
    vector : ndarray of shape (n_features,), dtype float32
    """

    vector: Vectors


class Unknown(NamedTuple):
    """What stands for an image whose vector is not.

    Parameters
    ----------
    key : bytes or None
        Under which its vector is to be kept; None if it is not.
    prepared : object
        What the embedder needs of the image.
    """

    key: bytes | None
    prepared: Any


class OpenCache:
    """A cache while an embedder embeds images. Threads may look up, one thread completes batches.

    Parameters
    ----------
    cache : EmbeddingCache
    embedder : str
        What decides the vectors of images.
    n_features : int
        The width of the vectors.

    Raises
    ------
    CacheError
        If the folder is not a cache, or cannot be used.
    """

    def __init__(self, cache: EmbeddingCache, embedder: str, n_features: int) -> None:
        self._cache = cache
        self._n_features = n_features
        self._start = hashlib.blake2b(embedder.encode(), digest_size=32)
        self._count: Counter[str] = Counter()
        # What went wrong, once of a kind: reading, writing.
        self._failed: dict[str, sqlite3.Error] = {}
        with _errors_explained(cache):
            _check_folder(cache)
            Path(cache.path).mkdir(parents=True, exist_ok=True)
            self._table = cache._table()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file, count, and warn of what went wrong, unless something worse did."""
        with suppress(sqlite3.Error):
            self._table.close()
        with _counts_lock:
            _counts_of(self._cache).update(self._count)
        if error is None:
            self._warn()

    def look_up(self, content: bytes | NDArray[np.uint8]) -> Known | bytes:
        """What is known of an image, or the key under which its vector is to be kept.

        Parameters
        ----------
        content : bytes or ndarray of shape (height, width, 3), dtype uint8
            All that decides what the embedder sees: the content of an image's file, or its pixels.

        Returns
        -------
        found : Known or bytes
        """
        key = self._key(content)
        vector = self._get(key)
        if vector is None or len(vector) != 4 * self._n_features:
            return key
        return Known(np.frombuffer(vector, dtype="<f4"))

    def complete(
        self, batch: Sequence[Known | Unknown], embed: Callable[[Any], Vectors]
    ) -> Vectors:
        """The vectors of a batch: those that are known, and the others embedded and kept.

        Parameters
        ----------
        batch : sequence of n_images Known or Unknown
        embed : callable
            Makes an array of shape (n_unknown, n_features) of a list of what is prepared.

        Returns
        -------
        vectors : ndarray of shape (n_images, n_features), dtype float32
        """
        unknown = [one for one in batch if isinstance(one, Unknown)]
        embedded = embed([one.prepared for one in unknown]) if unknown else ()
        self._put([one.key for one in unknown], embedded)
        self._count.update(hits=len(batch) - len(unknown), misses=len(unknown))
        rows = iter(embedded)
        return np.stack([one.vector if isinstance(one, Known) else next(rows) for one in batch])

    def _key(self, content: bytes | NDArray[np.uint8]) -> bytes:
        key = self._start.copy()
        if isinstance(content, np.ndarray):
            key.update(f"pixels {content.shape} ".encode())
            key.update(np.ascontiguousarray(content).data)
        else:
            key.update(b"file ")
            key.update(content)
        return key.digest()

    def _get(self, key: bytes) -> bytes | None:
        if "read" in self._failed:
            return None
        try:
            return self._table.get(key)
        except sqlite3.Error as error:
            self._failed["read"] = error
            return None

    def _put(self, keys: Sequence[bytes | None], vectors: Any) -> None:
        kept = {
            key: np.asarray(vector, dtype="<f4").tobytes()
            for key, vector in zip(keys, vectors, strict=True)
            if key is not None
        }
        if not kept or self._failed:
            return
        try:
            self._table.put(list(kept), list(kept.values()))
        except sqlite3.Error as error:
            self._failed["written"] = error

    def _warn(self) -> None:
        lines = [
            f"it cannot be {what} ({error}), so that images were embedded without it; "
            + _ADVICE[what]
            for what, error in self._failed.items()
        ]
        if self._table.n_damaged:
            lines.append(
                f"{self._table.n_damaged} of its entries are damaged, and their images were "
                "embedded again; the disk may be failing"
            )
        if lines:
            warnings.warn(
                f"the cache of embeddings in {os.fspath(self._cache.path)!r}: {'. '.join(lines)}",
                CacheWarning,
                stacklevel=6,
            )


_ADVICE = {
    "read": "EmbeddingCache(path).clear() makes it anew",
    "written": "make room on the disk, or take a folder that you may write to",
}


def as_cache(cache: str | os.PathLike[str] | EmbeddingCache) -> EmbeddingCache:
    """What an embedder was given as a cache, of whatever kind.

    Parameters
    ----------
    cache : str, Path or EmbeddingCache

    Returns
    -------
    cache : EmbeddingCache

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If its limit is too small.
    """
    if not isinstance(cache, (str, os.PathLike, EmbeddingCache)):
        raise TypeError(
            f"cache must be None, the path of a folder or an EmbeddingCache, got {cache!r}"
        )
    checked = cache if isinstance(cache, EmbeddingCache) else EmbeddingCache(cache)
    if not isinstance(checked.size_limit, int) or checked.size_limit < _SMALLEST_LIMIT:
        raise ValueError(
            f"size_limit of a cache must be an int of at least {_SMALLEST_LIMIT:,} bytes, got "
            f"{checked.size_limit!r}"
        )
    return checked


def _file_of(cache: EmbeddingCache) -> Path:
    return Path(cache.path, _FILE_NAME)


def _counts_of(cache: EmbeddingCache) -> Counter[str]:
    return _counts.setdefault(os.path.realpath(cache.path), Counter())


def _check_folder(cache: EmbeddingCache) -> None:
    """Never make a cache among other files: its owner would not know what may be deleted."""
    folder = Path(cache.path)
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"the cache {str(folder)!r} must be a folder, and is a file")
    if _file_of(cache).exists() or not folder.exists():
        return
    others = [name for name in os.listdir(folder) if not name.startswith(_FILE_NAME)]
    if others:
        raise CacheError(
            f"the folder {str(folder)!r} is no cache: it holds {sorted(others)[0]!r}; give an "
            "empty or a new folder"
        )


@contextmanager
def _errors_explained(cache: EmbeddingCache) -> Iterator[None]:
    where = os.fspath(cache.path)
    try:
        yield
    except DamagedTableError as error:
        raise CacheError(
            f"{_FILE_NAME!r} in {where!r} is no whole cache of embeddings: {error}. "
            "EmbeddingCache(path).clear() makes it anew"
        ) from error
    except NoTableError as error:
        raise CacheError(
            f"{_FILE_NAME!r} in {where!r} is no cache that can be used: {error}. Take another "
            "folder, or delete the file if nobody needs it"
        ) from error
    except (OSError, sqlite3.Error) as error:
        raise CacheError(
            f"the cache of embeddings in {where!r} cannot be used ({error}); see whether the disk "
            "is full, and whether you may write to the folder"
        ) from error
