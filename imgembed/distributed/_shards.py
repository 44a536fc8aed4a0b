"""Shards: the vectors of one batch in a file, and a record beside it that says the file is whole.

Both are written under other names, seen on the disk, and then renamed, the record last. A shard
without a record, or with another size than the record says, is none.
"""

import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .._optional import import_optional
from ..images import ImageReadError
from ..index.storage._files import flush_folder, write_parts
from ._manifest import DatasetError

FORMATS = ("npy", "parquet")
PART_SUFFIX = ".part"

Ids = list[str] | list[int]


class DatasetWriteError(DatasetError):
    """A shard cannot be written, for example on a full disk. What is whole stays.

    The error of the operating system is the ``__cause__``.
    """


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a shard.

    Parameters
    ----------
    size, crc32 : int
        Bytes of the file, and their checksum.
    errors : dict of str to list of str
        By row, source and reason of each image that cannot be read.
    ids : list of str or int, or None
        None: they are the rows.
    """

    size: int
    crc32: int
    errors: dict[str, list[str]]
    ids: Ids | None

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record of a shard, if the shard is there as a whole.

        Parameters
        ----------
        path : Path
            Of the shard.

        Returns
        -------
        record : ShardRecord or None
        """
        try:
            record = cls(**json.loads(_record_of(path).read_text(encoding="utf-8")))
            return record if record.size == path.stat().st_size else None
        except (OSError, ValueError, TypeError):  # none, or not one of ours
            return None

    def read_errors(self) -> dict[int, ImageReadError]:
        """The errors of images, by row.

        Returns
        -------
        errors : dict of int to ImageReadError
        """
        return {
            int(row): ImageReadError(source, reason, int(row))
            for row, (source, reason) in self.errors.items()
        }


def shard_path(folder: Path, number: int, suffix: str) -> Path:
    """Where a shard is.

    Parameters
    ----------
    folder : Path
        Of the dataset.
    number : int
    suffix : {"npy", "parquet"}

    Returns
    -------
    path : Path
    """
    return folder / f"part-{number:06}.{suffix}"


def write_shard(
    path: Path,
    vectors: NDArray[np.float32],
    ids: Ids | None,
    rows: range,
    errors: dict[int, ImageReadError],
) -> None:
    """Write a shard, as a whole or not at all.

    Parameters
    ----------
    path : Path
        Its suffix decides the format.
    vectors : ndarray of shape (n_rows, n_features), dtype float32
    ids : list of n_rows str or int, or None
    rows : range
        Rows in the dataset.
    errors : dict of int to ImageReadError

    Raises
    ------
    OSError
        If it cannot be written.
    """
    if path.suffix == ".npy":
        content = _as_npy(vectors)
    else:
        content = _as_parquet(vectors, ids if ids is not None else list(rows), rows, errors)
    said = {str(row): [error.source, error.reason] for row, error in sorted(errors.items())}
    record = ShardRecord(len(content), zlib.crc32(content), said, ids)
    write_whole(path, content)
    write_whole(_record_of(path), json.dumps(asdict(record)).encode())


def write_whole(path: Path, content: memoryview | bytes) -> None:
    """Write a file that is there whole, or as it was before.

    Parameters
    ----------
    path : Path
    content : bytes

    Raises
    ------
    OSError
        If it cannot be written. Nothing is left of it.
    """
    part = path.with_name(f"{path.name}{PART_SUFFIX}")
    part.unlink(missing_ok=True)
    try:
        write_parts(part, [memoryview(content)])
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def read_shard(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The vectors of a shard; those of a .npy file are mapped into memory.

    Parameters
    ----------
    path : Path
    shape : tuple of (int, int)
        What is wanted.

    Returns
    -------
    vectors : ndarray of shape (n_rows, n_features), dtype float32

    Raises
    ------
    DatasetError
        If it is damaged.
    """
    try:
        vectors = np.load(path, mmap_mode="r") if path.suffix == ".npy" else _of_parquet(path)
    except (OSError, ValueError) as error:  # those of pyarrow too
        raise DatasetError(_say_damaged(path, str(error))) from error
    if vectors.shape != shape or vectors.dtype != np.float32:
        raise DatasetError(_say_damaged(path, f"it has shape {vectors.shape}, {vectors.dtype}"))
    return vectors


def check_shard(path: Path) -> None:
    """Read a shard's file and compare it with its checksum.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DatasetError
        If it is damaged.
    """
    record = ShardRecord.read(path)
    if record is None:
        raise DatasetError(_say_damaged(path, "it is not whole"))
    if zlib.crc32(path.read_bytes()) != record.crc32:
        raise DatasetError(_say_damaged(path, "its checksum does not fit"))


def _say_damaged(path: Path, what: str) -> str:
    return (
        f"the shard {path.name!r} in {str(path.parent)!r} is damaged: {what}. Delete it, and run "
        "embed_dataset again, which embeds its images only; the disk may be failing"
    )


def _record_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _as_npy(vectors: NDArray[np.float32]) -> memoryview:
    file = io.BytesIO()
    np.save(file, vectors)
    return file.getbuffer()


def _as_parquet(
    vectors: NDArray[np.float32], ids: Ids, rows: range, errors: dict[int, ImageReadError]
) -> memoryview:
    pyarrow = pyarrow_for("format='parquet'")
    from pyarrow import parquet

    width = vectors.shape[1]
    values = pyarrow.array(vectors.reshape(-1))
    messages = [str(errors[row]) if row in errors else None for row in rows]
    table = pyarrow.table(
        {
            "id": pyarrow.array(ids),
            "vector": pyarrow.FixedSizeListArray.from_arrays(values, width),
            "error": pyarrow.array(messages, pyarrow.string()),
        }
    )
    file = io.BytesIO()
    parquet.write_table(table, file, compression="none")  # floats do not compress
    return file.getbuffer()


def _of_parquet(path: Path) -> NDArray[np.float32]:
    pyarrow_for("a dataset in Parquet")
    from pyarrow import parquet

    column = parquet.read_table(path, columns=["vector"]).column("vector").combine_chunks()
    width = column.type.list_size
    vectors: NDArray[np.float32] = column.flatten().to_numpy().reshape(-1, width)
    return vectors


def pyarrow_for(what: str) -> Any:
    """The module pyarrow, or an error that names the extra.

    Parameters
    ----------
    what : str
        What needs it.

    Returns
    -------
    pyarrow : module
    """
    return import_optional("pyarrow", extra="parquet", needed_by=what)


def checked_ids(ids: Sequence[str] | Sequence[int] | None, n_images: int) -> Ids | None:
    """The ids as a list, if they can be those of so many images.

    Parameters
    ----------
    ids : sequence of str or int, or None
    n_images : int

    Returns
    -------
    ids : list of str or int, or None

    Raises
    ------
    ValueError
        If their number is another one, or one is there twice.
    TypeError
        If they are neither all str nor all int.
    """
    if ids is None:
        return None
    listed: list[Any] = [one.item() if isinstance(one, np.generic) else one for one in ids]
    if len(listed) != n_images:
        raise ValueError(f"ids must be one for each of {n_images} images, got {len(listed)}")
    if {type(one) for one in listed} not in ({str}, {int}, set()):
        kinds = sorted({type(one).__name__ for one in listed})
        raise TypeError(f"ids must be all str or all int, got {', '.join(kinds)}")
    if len(set(listed)) < len(listed):
        twice, _ = Counter(listed).most_common(1)[0]
        raise ValueError(f"ids must be different, and {twice!r} is there more than once")
    return listed
