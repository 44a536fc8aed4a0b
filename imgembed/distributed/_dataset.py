"""EmbeddedDataset: what embed_dataset has written, read shard by shard or as one array."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..images import ImageReadError
from ._manifest import MANIFEST_NAME, DatasetError, Manifest
from ._shards import Ids, ShardRecord, check_shard, read_shard, shard_path


class EmbeddedShard(NamedTuple):
    """The part of a dataset that is in one file.

    Parameters
    ----------
    rows : range
        Rows of the dataset.
    ids : list of n_rows str or int
    vectors : ndarray of shape (n_rows, n_features), dtype float32
        Those of a .npy file are mapped into memory, read only.
    errors : dict of int to ImageReadError
        By row of the dataset.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import EmbeddedShard
    >>> EmbeddedShard(range(2, 4), ["c", "d"], np.zeros((2, 5), np.float32), {}).ids
    ['c', 'd']
    """

    rows: range
    ids: Ids
    vectors: NDArray[np.float32]
    errors: dict[int, ImageReadError]


@dataclass(frozen=True)
class EmbeddedDataset:
    """Vectors of many images, in shards in a folder, made by :func:`embed_dataset`.

    Use :meth:`open`. The length is the number of images; iterating gives an
    :class:`EmbeddedShard` at a time, with which memory stays small.

    Parameters
    ----------
    path : Path
        The folder.
    manifest : Manifest
        What decides the vectors.
    records : tuple of ShardRecord
        One for each shard.

    See Also
    --------
    embed_dataset : Make one.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from imgembed import EmbeddedDataset, HOGEmbedder, embed_dataset
    >>> images = [np.full((60, 80, 3), level, np.uint8) for level in (0, 100, 200)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = embed_dataset(HOGEmbedder(progress=False), images, folder, batch_size=2)
    ...     dataset = EmbeddedDataset.open(folder)
    ...     len(dataset), dataset.ids, [shard.rows for shard in dataset]
    (3, [0, 1, 2], [range(0, 2), range(2, 3)])
    """

    path: Path
    manifest: Manifest
    records: tuple[ShardRecord, ...]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a dataset that is whole. The size of each shard is compared with its record.

        Parameters
        ----------
        path : str or Path
            The folder.

        Returns
        -------
        dataset : EmbeddedDataset

        Raises
        ------
        DatasetError
            If there is none, or shards are missing or not whole.
        """
        folder = Path(path)
        manifest = Manifest.read(folder)
        if manifest is None:
            raise DatasetError(
                f"there is no dataset in {str(folder)!r}: it has no {MANIFEST_NAME!r}; "
                "embed_dataset makes one"
            )
        found = [ShardRecord.read(path) for path in _paths(folder, manifest)]
        records = tuple(record for record in found if record is not None)
        if len(records) < len(found):
            missing = [number for number, record in enumerate(found) if record is None]
            raise DatasetError(
                f"of {len(found)} shards in {str(folder)!r} {len(missing)} are missing or not "
                f"whole, the first is {missing[0]}; run embed_dataset again with the same "
                "arguments, which embeds their images only"
            )
        return cls(folder, manifest, records)

    def __len__(self) -> int:
        return self.manifest.n_images

    def __repr__(self) -> str:
        return (
            f"EmbeddedDataset({str(self.path)!r}: {len(self)} images, {self.n_features} features, "
            f"{len(self.records)} shards)"
        )

    def __iter__(self) -> Iterator[EmbeddedShard]:
        for number, (rows, record) in enumerate(
            zip(self.manifest.batches, self.records, strict=True)
        ):
            path = shard_path(self.path, number, self.manifest.format)
            vectors = read_shard(path, (len(rows), self.n_features))
            ids = list(rows) if record.ids is None else record.ids
            yield EmbeddedShard(rows, ids, vectors, record.read_errors())

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """All vectors in one array of shape (n_images, n_features), dtype float32.

        It is put together in memory when it is first asked for; a single .npy shard is mapped.
        Rows of images that cannot be read are NaN.
        """
        shards = [shard.vectors for shard in self]
        if len(shards) == 1:
            return shards[0]
        empty = np.empty((0, self.n_features), np.float32)
        return np.concatenate([empty, *shards])

    @property
    def ids(self) -> Ids:
        """The id of each image: what embed_dataset was given, or the rows."""
        ids: list[Any] = []
        for rows, record in zip(self.manifest.batches, self.records, strict=True):
            ids += rows if record.ids is None else record.ids
        return ids

    @property
    def errors(self) -> dict[int, ImageReadError]:
        """The images that could not be read, by row."""
        return {
            row: error for record in self.records for row, error in record.read_errors().items()
        }

    @property
    def n_features(self) -> int:
        """The width of the vectors."""
        return self.manifest.n_features

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the embedder; :class:`NearestNeighborIndex` takes it."""
        return self.manifest.fingerprint

    def verify(self) -> None:
        """Read all files, and compare them with their checksums.

        Raises
        ------
        DatasetError
            If a file is damaged.
        """
        for path in _paths(self.path, self.manifest):
            check_shard(path)


def _paths(folder: Path, manifest: Manifest) -> list[Path]:
    return [shard_path(folder, number, manifest.format) for number in range(len(manifest.batches))]
