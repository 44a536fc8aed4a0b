"""The files of a saved index: written with a checksum, read only if it fits, never a pickle."""

import errno
import math
import os
import stat
import zlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

STORABLE_DTYPES = frozenset(
    np.dtype(code).newbyteorder(order).str for code in "?bBhHiIlLqQefd" for order in ("<", ">")
)
MOST_DIMENSIONS = 32  # of NumPy 1.26
# Small enough that a block is still in the processor's cache when its checksum is taken.
_BLOCK = 2**20


class CorruptIndexError(ValueError):
    """The files of a saved index are damaged, incomplete or forged.

    Nothing was loaded, and nothing in the files was executed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from imgembed import CorruptIndexError, NearestNeighborIndex
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "MANIFEST.json").write_text("{")
    >>> try:
    ...     NearestNeighborIndex.load(folder)
    ... except CorruptIndexError:
    ...     print("take the copy")
    take the copy
    """


@dataclass(frozen=True)
class ArrayFile:
    """What is known of a .npy file.

    Parameters
    ----------
    dtype : numpy.dtype
    shape : tuple of int
    crc32 : int
        Of the whole file.
    """

    suffix: ClassVar[str] = ".npy"

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    crc32: int

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + math.prod(self.shape) * self.dtype.itemsize

    @property
    def header(self) -> bytes:
        """The first bytes of a .npy file of format 1.0, up to the entries in C order.

        Made here, because NumPy's own differ in length from version to version. A reader compares
        them with those of the file, so that no header from a file is ever parsed.
        """
        text = f"{{'descr': {self.dtype.str!r}, 'fortran_order': False, 'shape': {self.shape!r}, }}"
        # The magic string and the length take 10 bytes, and the whole is a multiple of 64.
        length = -(-(10 + len(text) + 1) // 64) * 64 - 10
        return (
            b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + f"{text:{length - 1}}\n".encode()
        )


@dataclass(frozen=True)
class BlobFile:
    """What is known of a .bin file.

    Parameters
    ----------
    size : int
        Bytes.
    crc32 : int
    """

    suffix: ClassVar[str] = ".bin"

    size: int
    crc32: int


def check_storable(name: str, array: NDArray[Any]) -> None:
    """Check that an array can be stored without pickle.

    Parameters
    ----------
    name : str
    array : ndarray

    Raises
    ------
    ValueError
        If the dtype is not bool, an integer or float16, float32, float64, or if there are more
        than 32 dimensions.
    """
    if array.dtype.str not in STORABLE_DTYPES:
        raise ValueError(
            f"array {name!r} has dtype {array.dtype}; an index stores bool, integers, float16, "
            "float32 and float64"
        )
    if array.ndim > MOST_DIMENSIONS:
        raise ValueError(f"array {name!r} has {array.ndim} axes; {MOST_DIMENSIONS} are the most")


def write_file(folder: Path, name: str, content: NDArray[Any] | bytes) -> ArrayFile | BlobFile:
    """Write an array to NAME.npy, or bytes to NAME.bin, and see them on the disk.

    Parameters
    ----------
    folder : Path
    name : str
    content : ndarray in C order, or bytes

    Returns
    -------
    written : ArrayFile or BlobFile
    """
    if isinstance(content, np.ndarray):
        header = ArrayFile(content.dtype, content.shape, 0).header
        crc32 = write_parts(folder / f"{name}.npy", [memoryview(header), _memory(content)])
        return ArrayFile(content.dtype, content.shape, crc32)
    crc32 = write_parts(folder / f"{name}.bin", [memoryview(content)])
    return BlobFile(len(content), crc32)


def write_parts(path: Path, parts: Sequence[memoryview]) -> int:
    """Write a new file, and see it on the disk.

    Parameters
    ----------
    path : Path
        Where nothing is yet.
    parts : sequence of memoryview
        Of bytes.

    Returns
    -------
    crc32 : int
        Of the whole file.
    """
    crc32 = 0
    with open(path, "xb") as file:
        for part in parts:
            for start in range(0, len(part), _BLOCK):
                block = part[start : start + _BLOCK]
                crc32 = zlib.crc32(block, crc32)
                file.write(block)
        file.flush()
        os.fsync(file.fileno())
        size, wanted = os.fstat(file.fileno()).st_size, sum(map(len, parts))
    if size != wanted:
        raise OSError(errno.EIO, f"{size} of {wanted} bytes were written", str(path))
    return crc32


def create_folder(folder: Path) -> None:
    """Create a folder and those above it that are missing, and see them on the disk.

    Parameters
    ----------
    folder : Path
    """
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        flush_folder(new.parent)


def flush_folder(folder: Path) -> None:
    """See on the disk which files a folder has; Windows has no such call.

    Parameters
    ----------
    folder : Path
    """
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_stored(path: Path, size: int) -> BinaryIO:
    """Open a file of a generation, if it has the size that the manifest says.

    Parameters
    ----------
    path : Path
    size : int

    Returns
    -------
    file : binary file

    Raises
    ------
    CorruptIndexError
        If it is missing, has another size, or is no regular file in a regular folder.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path.parent).st_mode):
            raise damage(path.parent, "it is no folder")
        file = open_regular(path)
    except FileNotFoundError as error:
        raise damage(path, "it is missing") from error
    found = os.fstat(file.fileno()).st_size
    if found != size:
        file.close()
        raise damage(path, f"it has {found} bytes, and its manifest says {size}")
    return file


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, if it is one: no link, no pipe that would wait for a writer.

    Parameters
    ----------
    path : Path

    Returns
    -------
    file : binary file

    Raises
    ------
    CorruptIndexError
        If it is something else.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise damage(path, "it is no regular file")
    extra = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # if it is exchanged now
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | extra))


def read_array(file: BinaryIO, said: ArrayFile, *, mapped: bool) -> NDArray[Any]:
    """Read or map an array, and check it.

    Parameters
    ----------
    file : binary file
        From :func:`open_stored`.
    said : ArrayFile
        What the manifest says of it.
    mapped : bool
        Whether to map it, read-only.

    Returns
    -------
    array : ndarray or memmap

    Raises
    ------
    CorruptIndexError
        If the file is not as the manifest says.
    """
    header = said.header
    if file.read(len(header)) != header:
        raise damage(_path(file), f"it does not begin as {said.dtype} of shape {said.shape} does")
    if mapped:
        crc32 = _checksum_rest(file, zlib.crc32(header))
        array: NDArray[Any] = np.memmap(file, said.dtype, "r", len(header), said.shape)
    else:
        array = np.empty(said.shape, said.dtype)
        crc32 = _read_into(file, _memory(array), zlib.crc32(header))
    _check_crc32(file, crc32, said.crc32)
    if said.dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:
        raise damage(_path(file), "it has truth values other than 0 and 1")
    return array


def read_blob(file: BinaryIO, said: BlobFile) -> bytes:
    """Read bytes, and check them.

    Parameters
    ----------
    file : binary file
        From :func:`open_stored`.
    said : BlobFile
        What the manifest says of it.

    Returns
    -------
    blob : bytes

    Raises
    ------
    CorruptIndexError
        If the file is not as the manifest says.
    """
    blob = file.read(said.size)
    _check_crc32(file, zlib.crc32(blob), said.crc32)
    return blob


def damage(path: Path, what: str) -> CorruptIndexError:
    """The exception for a file in which something is wrong.

    Parameters
    ----------
    path : Path
    what : str

    Returns
    -------
    error : CorruptIndexError
    """
    return CorruptIndexError(
        f"{str(path)!r} is damaged: {what}. Take a copy of the index, or make it anew"
    )


def _memory(array: NDArray[Any]) -> memoryview:
    """The bytes of an array in C order, not copied."""
    return array.reshape(-1).view(np.uint8).data


def _checksum_rest(file: BinaryIO, crc32: int) -> int:
    while block := file.read(_BLOCK):
        crc32 = zlib.crc32(block, crc32)
    return crc32


def _read_into(file: BinaryIO, memory: memoryview, crc32: int) -> int:
    """Fill memory from a file, and go on with its checksum; what was not there is not in it."""
    with ThreadPoolExecutor(1) as pool:  # which takes a block's while the next is read
        taken: Future[int] | None = None
        for start in range(0, len(memory), _BLOCK):
            block = memory[start : start + _BLOCK]
            n_read = file.readinto(block)  # type: ignore[attr-defined]
            crc32 = crc32 if taken is None else taken.result()
            taken = pool.submit(zlib.crc32, block[:n_read], crc32)
        return crc32 if taken is None else taken.result()


def _check_crc32(file: BinaryIO, found: int, wanted: int) -> None:
    if found != wanted:
        raise damage(_path(file), "its checksum is another one")


def _path(file: BinaryIO) -> Path:
    return Path(file.name)
