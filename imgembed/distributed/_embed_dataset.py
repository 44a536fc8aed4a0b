"""embed_dataset: many images into shards in a folder; run again, it does only what is missing."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_scalar

from ..base import ImageEmbedder, check_choice
from ..images import ImageReadError, check_images
from ..index.storage._files import create_folder
from ..index.storage._lock import IndexLockedError, exclusive_lock
from ._dataset import EmbeddedDataset
from ._manifest import MANIFEST_NAME, DatasetError, Manifest
from ._shards import (
    FORMATS,
    PART_SUFFIX,
    DatasetWriteError,
    Ids,
    ShardRecord,
    checked_ids,
    pyarrow_for,
    shard_path,
    write_shard,
    write_whole,
)
from ._sources import RemoteImages

_LOCK_NAME = ".lock"


def embed_dataset(
    embedder: ImageEmbedder,
    images: Any,
    out: str | os.PathLike[str],
    *,
    ids: Sequence[str] | Sequence[int] | None = None,
    batch_size: int = 1024,
    format: str = "npy",  # noqa: A002
    storage_options: Mapping[str, Any] | None = None,
) -> EmbeddedDataset:
    """Embed many images into a folder, a shard for each batch.

    In a :func:`joblib.parallel_config` context the work is done by its workers, for example those
    of a Dask cluster; otherwise in this process. Run again with the same arguments, after a crash
    or a full disk, it embeds only what is missing, and nothing if all is there.

    Parameters
    ----------
    embedder : ImageEmbedder
        Fitted, if it learns from images. Its ``on_error`` decides what becomes of images that
        cannot be read, its ``progress`` whether a bar is shown.
    images : sequence of n_images images
        As :meth:`ImageEmbedder.transform` takes them. A str may also be an address that fsspec
        knows (``s3://...``, ``gs://...``, ``https://...``), with the extra ``remote``; it is
        fetched where it is embedded. Paths must be there on the workers.
    out : str or Path
        The folder, on a disk of this computer or one that is mounted: new, empty, or with the
        same dataset. Only this process writes to it.
    ids : sequence of n_images str or int, optional
        One for each image, all different. By default the rows.
    batch_size : int, default=1024
        Images of a shard: what a crash can cost, and what is in memory. Not the ``batch_size`` of
        the embedder.
    format : {"npy", "parquet"}, default="npy"
        "parquet" (extra ``parquet``) has columns id, vector and error, for other programs.
    storage_options : dict of str to object, optional
        For the file systems of addresses, such as credentials. They go to the workers, and
        neither into the folder nor into messages.

    Returns
    -------
    dataset : EmbeddedDataset

    Raises
    ------
    DatasetMismatchError
        If the folder has a dataset of another embedder, of other images, or in other batches.
    DatasetWriteError
        If a shard cannot be written, for example on a full disk. What is whole stays.
    DatasetError
        If the folder holds something else, or another process writes to it.
    ImageReadError
        If an image cannot be read and the embedder has ``on_error="raise"``. Shards that are whole
        stay; with ``on_error="nan"`` the work may go on.
    WorkersLostError
        If workers die again and again.

    See Also
    --------
    ImageEmbedder.transform_to : Vectors of one process in one file.

    Notes
    -----
    Images in files are known by path and size, at addresses by the address, others by their
    content: a file that changes and keeps its size is not noticed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from imgembed import HOGEmbedder, embed_dataset
    >>> images = [np.full((60, 80, 3), level, np.uint8) for level in (0, 100, 200)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dataset = embed_dataset(HOGEmbedder(progress=False), images, folder, ids=list("abc"))
    ...     dataset.ids, dataset.vectors.shape
    (['a', 'b', 'c'], (3, 1764))
    """
    check_scalar(batch_size, "batch_size", int, min_val=1)
    check_choice("format", format, FORMATS)
    if format == "parquet":
        pyarrow_for("format='parquet'")
    checked = check_images(images)
    listed = checked_ids(ids, len(checked))
    manifest = Manifest.of(embedder, checked, listed, batch_size, format)
    folder = Path(out)
    with _only_writer(folder):
        _begin(folder, manifest)
        shards = _Shards(folder, manifest, listed)
        wanted = RemoteImages(checked, storage_options or {})
        missing = shards.missing()
        with closing(embedder._embed_parts(wanted, missing, embedder.on_error)) as parts:
            for rows, vectors, errors in parts:
                shards.take(rows, vectors, errors)
    dataset = EmbeddedDataset.open(folder)
    embedder._warn_of(dataset.errors)
    return dataset


@dataclass
class _Batch:
    """A batch of which parts have come."""

    vectors: NDArray[np.float32]
    n_missing: int
    errors: dict[int, ImageReadError] = field(default_factory=dict)


class _Shards:
    """The shards of a dataset, each written when all its parts are there."""

    def __init__(self, folder: Path, manifest: Manifest, ids: Ids | None) -> None:
        self.folder, self.manifest, self.ids = folder, manifest, ids
        self._begun: dict[int, _Batch] = {}

    def missing(self) -> list[range]:
        """The rows of the shards that are not there, or not whole."""
        return [
            rows
            for number, rows in enumerate(self.manifest.batches)
            if ShardRecord.read(self._path(number)) is None
        ]

    def take(
        self, rows: range, vectors: NDArray[np.float32], errors: dict[int, ImageReadError]
    ) -> None:
        """Take part of a batch, and write the batch if that was the last one."""
        number = rows.start // self.manifest.batch_size
        batch_rows = self.manifest.batches[number]
        batch = self._begun.get(number) or self._new(len(batch_rows))
        self._begun[number] = batch
        start = rows.start - batch_rows.start
        batch.vectors[start : start + len(rows)] = vectors
        batch.errors.update(errors)
        batch.n_missing -= len(rows)
        if batch.n_missing == 0:
            del self._begun[number]
            ids = None if self.ids is None else self.ids[batch_rows.start : batch_rows.stop]
            with _writing(self.folder):
                write_shard(self._path(number), batch.vectors, ids, batch_rows, batch.errors)

    def _new(self, n_rows: int) -> _Batch:
        return _Batch(np.empty((n_rows, self.manifest.n_features), np.float32), n_rows)

    def _path(self, number: int) -> Path:
        return shard_path(self.folder, number, self.manifest.format)


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """The folder is there, is nobody else's, and no other process writes to it."""
    if folder.exists() and not folder.is_dir():
        raise DatasetError(f"out must be a folder, and {str(folder)!r} is a file")
    _check_not_foreign(folder)
    with _writing(folder):
        create_folder(folder)
    try:
        with exclusive_lock(folder / _LOCK_NAME):
            yield
    except IndexLockedError as error:
        raise DatasetError(
            f"another process or thread is writing to {str(folder)!r} right now; wait for it, or "
            "take another folder"
        ) from error


def _check_not_foreign(folder: Path) -> None:
    if not folder.exists() or (folder / MANIFEST_NAME).exists():
        return
    # What a crash leaves before there is a manifest.
    own = {_LOCK_NAME, f"{MANIFEST_NAME}{PART_SUFFIX}"}
    others = sorted(path.name for path in folder.iterdir() if path.name not in own)
    if others:
        raise DatasetError(
            f"{str(folder)!r} holds {others[0]!r} and is no dataset; give a new or an empty folder"
        )


def _begin(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, or see that it is that of this work."""
    before = Manifest.read(folder)
    if before is not None:
        manifest.check_same(before, folder)
    with _writing(folder):
        for part in folder.glob(f"*{PART_SUFFIX}"):  # of a process that was killed
            part.unlink()
        if before is None:
            write_whole(folder / MANIFEST_NAME, manifest.to_json())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say of an error of the operating system what is lost, which is little, and what to do."""
    try:
        yield
    except OSError as error:
        raise DatasetWriteError(
            f"the dataset in {str(folder)!r} cannot be written: {error}. What is whole stays; make "
            "room, or see whether you may write there, and run embed_dataset again"
        ) from error
