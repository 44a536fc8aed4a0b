"""An index's folder on disk: at any moment the old index or the new one, whole.

A folder holds MANIFEST.json, a folder ``gen-<token>`` with the files that the manifest names, and
LOCK, which is empty. A save writes a new generation, then puts its manifest in the place of the old
one, then removes the old generation.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ._files import (
    ArrayFile,
    CorruptIndexError,
    check_storable,
    create_folder,
    damage,
    flush_folder,
    open_regular,
    open_stored,
    read_array,
    read_blob,
    write_file,
    write_parts,
)
from ._lock import IndexLockedError, exclusive_lock
from ._manifest import (
    MANIFEST_NAME,
    MOST_MANIFEST_BYTES,
    Manifest,
    check_meta,
    check_names,
    decode_manifest,
    encode_manifest,
    is_manifest,
    manifest_to_json,
)

LOCK_NAME = "LOCK"
_GENERATION_FOLDER = re.compile(r"gen-[0-9a-f]{32}")
# A read opens its files within a millisecond of the manifest: no saves come this quickly.
_MOST_OVERTAKES = 100


class IndexChangedError(RuntimeError):
    """The folder does not hold the index that this one was loaded from or saved as.

    Another process has saved there since, or the folder was emptied. Nothing was written: a save
    would have undone what the other one has done. Load the index again and repeat the changes, or
    save to another folder.

    Examples
    --------
    >>> from imgembed import IndexChangedError, NearestNeighborIndex
    >>> def add_and_save(folder, vectors):
    ...     while True:
    ...         index = NearestNeighborIndex.load(folder)
    ...         index.add(vectors)
    ...         try:
    ...             return index.save(folder)
    ...         except IndexChangedError:
    ...             continue
    """


@dataclass(frozen=True)
class Snapshot:
    """What a saved index holds.

    Parameters
    ----------
    meta : dict
        JSON.
    arrays : dict of str to ndarray
    blobs : dict of str to bytes
    generation : str
        Token of the save that has written it.
    spared : dict of str to str
        Of damaged arrays and blobs that are not needed: what is wrong.
    """

    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    blobs: dict[str, bytes]
    generation: str
    spared: dict[str, str]


def write_snapshot(
    path: str | os.PathLike[str],
    meta: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    blobs: Mapping[str, bytes],
    *,
    replaces: str | None,
) -> str:
    """Save an index, so that at any moment the old one or the new one is there whole.

    Parameters
    ----------
    path : str or Path
        The folder. It is created, with those above it, if it is not there.
    meta : mapping of str to object
        JSON with finite numbers, up to 16 MiB.
    arrays : mapping of str to ndarray
        Of bool, integers, float16, float32 or float64. Those that are not in C order are copied.
    blobs : mapping of str to bytes
    replaces : str or None
        The generation that must be there; None takes the place of whatever is there.

    Returns
    -------
    generation : str
        Random token of this save.

    Raises
    ------
    ValueError
        If meta is no JSON, an array has another dtype, or a name is no plain token.
    FileExistsError, NotADirectoryError
        If there is a file, or a folder that is neither empty nor an index: it stays as it is.
    IndexChangedError
        If another generation is there than ``replaces``, or none.
    IndexLockedError
        If another process or thread is saving there.
    OSError
        If the disk is full, read-only or broken. The old index is there, and the new files are
        gone; but if the very last step fails, which makes the change of the manifest lasting, the
        new index is there.

    Notes
    -----
    Files and folders are flushed to the disk before the step that needs them. The old files are
    unlinked, not overwritten: on POSIX, readers that have opened or mapped them keep them. Where
    that is not so, they are left to the next save.
    """
    folder = Path(path)
    checked = check_meta(meta)
    contents = _checked_contents(arrays, blobs)
    _check_target(folder)
    _check_replaced(folder, replaces)  # before a folder is created
    create_folder(folder)
    with exclusive_lock(folder / LOCK_NAME):
        _check_replaced(folder, replaces)  # which nobody can change any more
        _remove_leftovers(folder)
        return _write_generation(folder, checked, contents)


def read_snapshot(
    path: str | os.PathLike[str], *, mmap: Collection[str] = (), spared: Collection[str] = ()
) -> Snapshot:
    """Load an index, after all its files were checked.

    Parameters
    ----------
    path : str or Path
        The folder.
    mmap : collection of str
        Arrays to map, read-only. They are read once for their checksum like all others.
    spared : collection of str
        Arrays and blobs that may be damaged or missing.

    Returns
    -------
    snapshot : Snapshot
        Of one generation, also while others save.

    Raises
    ------
    FileNotFoundError
        If there is no index.
    CorruptIndexError
        If anything is wrong in the files.
    ValueError
        If a newer imgembed has written it.
    IndexLockedError
        If saves follow each other so quickly that there is no time to open the files.
    OSError
        If a file cannot be read.

    Notes
    -----
    The checksums are against accidents; somebody who forges files makes them fit. Nothing in a file
    is executed and no symbolic link inside the folder is followed even then, but what the entries
    of arrays and blobs mean is for the caller to check. A file that is cut short while it is mapped
    ends the process when it is used.
    """
    folder = Path(path)
    for _ in range(_MOST_OVERTAKES):
        manifest = _read_manifest(folder)
        try:
            snapshot = _read_generation(folder, manifest, mmap, spared)
        except (CorruptIndexError, OSError):
            if not _is_overtaken(folder, manifest):
                raise
        else:
            if not snapshot.spared or not _is_overtaken(folder, manifest):
                return snapshot
    raise IndexLockedError(
        f"{str(folder)!r} was saved anew {_MOST_OVERTAKES} times while it was being read; try "
        "again when fewer saves go there"
    )


def _checked_contents(
    arrays: Mapping[str, NDArray[Any]], blobs: Mapping[str, bytes]
) -> dict[str, NDArray[Any] | bytes]:
    check_names([*arrays, *blobs])
    contents: dict[str, NDArray[Any] | bytes] = {}
    for name, array in arrays.items():
        contents[name] = in_order = np.asarray(array, order="C")
        check_storable(name, in_order)
    return {**contents, **blobs}


def _check_target(folder: Path) -> None:
    """Refuse a file, and a folder that holds other things than an index."""
    if not folder.is_dir():
        if folder.exists():
            raise NotADirectoryError(
                errno.ENOTDIR, "an index is saved as a folder, and this is a file", str(folder)
            )
        return
    names = set(os.listdir(folder))
    ours = {name for name in names if _GENERATION_FOLDER.fullmatch(name) or name == LOCK_NAME}
    if _has_manifest(folder) or names == ours or (ours and names == ours | {MANIFEST_NAME}):
        return
    raise FileExistsError(
        errno.EEXIST,
        "the folder holds other things than an index; save to an empty or a new folder",
        str(folder),
    )


def _has_manifest(folder: Path) -> bool:
    """Whether there is a manifest of an index, be it damaged."""
    try:
        return is_manifest(_read_manifest_bytes(folder))
    except (CorruptIndexError, FileNotFoundError):
        return False


def _check_replaced(folder: Path, replaces: str | None) -> None:
    if replaces is None:
        return
    try:
        generation = _read_manifest(folder).generation
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        raise _changed(folder, "it is gone, or cannot be read") from error
    if generation != replaces:
        raise _changed(folder, "another one was saved there since")


def _changed(folder: Path, what: str) -> IndexChangedError:
    return IndexChangedError(
        f"{str(folder)!r} does not hold the index that would be replaced: {what}. Nothing was "
        "written; load it again and repeat the changes, or save to another folder"
    )


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed saves have left, to have its room; a damaged index is kept until later."""
    try:
        kept = _read_manifest(folder).generation
    except FileNotFoundError:
        kept = None
    except ValueError:
        return
    _remove_other_generations(folder, kept)


def _remove_other_generations(folder: Path, kept: str | None) -> None:
    """Remove all generations but one. What cannot be removed now is left to the next save."""
    flush_folder(folder)  # lest a power cut bring back a manifest whose files are gone
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if _GENERATION_FOLDER.fullmatch(name) and name != f"gen-{kept}":
                _remove(folder / name)


def _remove(path: Path) -> None:
    """Remove what has the name of a generation; of a link the link only."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_generation(
    folder: Path, meta: dict[str, Any], contents: dict[str, NDArray[Any] | bytes]
) -> str:
    generation = secrets.token_hex(16)
    try:
        _write_files(folder, generation, meta, contents)
        os.replace(folder / f"gen-{generation}" / MANIFEST_NAME, folder / MANIFEST_NAME)
        _remove_other_generations(folder, generation)
    except BaseException:
        _undo(folder, generation)
        raise
    return generation


def _write_files(
    folder: Path, generation: str, meta: dict[str, Any], contents: dict[str, NDArray[Any] | bytes]
) -> None:
    """Write all the files, the manifest last, and see them on the disk."""
    new = folder / f"gen-{generation}"
    new.mkdir()
    files = {name: write_file(new, name, content) for name, content in contents.items()}
    encoded = encode_manifest(manifest_to_json(Manifest(generation, meta, files)))
    if len(encoded) > MOST_MANIFEST_BYTES:
        raise ValueError(
            f"the manifest takes {len(encoded)} bytes, and {MOST_MANIFEST_BYTES} are the most: "
            "put large parts of meta into arrays or blobs"
        )
    write_parts(new / MANIFEST_NAME, [memoryview(encoded)])
    flush_folder(new)
    flush_folder(folder)


def _undo(folder: Path, generation: str) -> None:
    """Remove a new generation, unless its manifest is in place, or nobody knows."""
    with contextlib.suppress(OSError):
        if not _is_in_place(folder, generation):
            shutil.rmtree(folder / f"gen-{generation}", ignore_errors=True)


def _is_in_place(folder: Path, generation: str) -> bool:
    try:
        return _read_manifest(folder).generation == generation
    except (ValueError, FileNotFoundError):
        return False


def _read_manifest(folder: Path) -> Manifest:
    encoded = _read_manifest_bytes(folder)
    try:
        return decode_manifest(encoded)
    except CorruptIndexError as error:
        raise damage(folder / MANIFEST_NAME, str(error)) from error


def _read_manifest_bytes(folder: Path) -> bytes:
    path = folder / MANIFEST_NAME
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            errno.ENOENT, f"there is no index here: no {MANIFEST_NAME}", str(folder)
        ) from None
    with file:
        if os.fstat(file.fileno()).st_size > MOST_MANIFEST_BYTES:
            raise damage(path, f"it is larger than {MOST_MANIFEST_BYTES} bytes")
        return file.read()


def _is_overtaken(folder: Path, manifest: Manifest) -> bool:
    """Whether a save has put another generation in place."""
    return _read_manifest(folder).generation != manifest.generation


def _read_generation(
    folder: Path, manifest: Manifest, mmap: Collection[str], spared: Collection[str]
) -> Snapshot:
    """Open all files, lest a save remove them, then read and check one after the other."""
    new = Snapshot(manifest.meta, {}, {}, manifest.generation, {})
    with contextlib.ExitStack() as stack:
        opened: dict[str, BinaryIO] = {}
        for name, said in manifest.files.items():
            with _sparing(name, spared, new.spared):
                path = folder / f"gen-{manifest.generation}" / (name + said.suffix)
                opened[name] = stack.enter_context(open_stored(path, said.size))
        for name, file in opened.items():
            said = manifest.files[name]
            with _sparing(name, spared, new.spared):
                if isinstance(said, ArrayFile):
                    new.arrays[name] = read_array(file, said, mapped=name in mmap)
                else:
                    new.blobs[name] = read_blob(file, said)
    return new


@contextlib.contextmanager
def _sparing(name: str, spared: Collection[str], wrong: dict[str, str]) -> Iterator[None]:
    """Note what is wrong with a file that is not needed, instead of raising."""
    try:
        yield
    except (CorruptIndexError, OSError) as error:
        if name not in spared:
            raise
        wrong[name] = str(error)
