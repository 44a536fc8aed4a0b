"""The manifest of a saved index: what its files are, and whether it may be believed."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._files import (
    MOST_DIMENSIONS,
    STORABLE_DTYPES,
    ArrayFile,
    BlobFile,
    CorruptIndexError,
)

MANIFEST_NAME = "MANIFEST.json"
# Larger things than parameters belong into arrays and blobs.
MOST_MANIFEST_BYTES = 16 * 2**20

_FORMAT, _VERSION = "imgembed index", 1
_KEYS = ("format", "version", "generation", "meta", "arrays", "blobs")
_TOKEN = re.compile(r"[0-9a-f]{32}")
# Lower case only: some file systems hold A and a for one name.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Manifest:
    """What a saved index consists of.

    Parameters
    ----------
    generation : str
        Random token of the save; names the folder of the files.
    meta : dict
        JSON.
    files : dict of str to (ArrayFile or BlobFile)
        By name, without suffix.
    """

    generation: str
    meta: dict[str, Any]
    files: dict[str, ArrayFile | BlobFile]


def check_names(names: list[str]) -> None:
    """Check the names of arrays and blobs.

    Parameters
    ----------
    names : list of str

    Raises
    ------
    ValueError
        If one is no plain token, or comes twice.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot name a file of an index; take a lower-case letter, then "
                "letters, digits and underscores, 64 at most"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"an array and a blob have the same name, in {sorted(names)}")


def check_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Check that meta comes back from JSON as it is.

    Parameters
    ----------
    meta : mapping of str to object

    Returns
    -------
    meta : dict

    Raises
    ------
    ValueError
        If it holds a number that is not finite, a key that is no string, a tuple, or an object
        that JSON does not have; or if it is nested too deeply.
    """
    checked = dict(meta)
    try:
        back = json.loads(_dump(checked))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"meta cannot be written as JSON: {error}") from error
    if back != checked:
        raise ValueError(
            "meta changes on its way through JSON; use dicts with keys of str, lists (no "
            "tuples), str, int, finite float, bool and None"
        )
    return checked


def encode_manifest(manifest: Mapping[str, Any]) -> bytes:
    """Write a manifest as JSON, the checksum of all the rest at its end.

    The way of the checksum is the same in all versions of the format: a reader believes the
    version only if the checksum is right.

    Parameters
    ----------
    manifest : mapping
        JSON, as :func:`manifest_to_json` gives it.

    Returns
    -------
    encoded : bytes
    """
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    checksum = hashlib.sha256(_dump(body).encode("ascii")).hexdigest()
    return _dump({**body, "checksum": checksum}).encode("ascii")


def manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as dicts, lists and plain values.

    Parameters
    ----------
    manifest : Manifest

    Returns
    -------
    content : dict
    """
    arrays: dict[str, Any] = {}
    blobs: dict[str, Any] = {}
    for name, file in manifest.files.items():
        if isinstance(file, ArrayFile):
            shape = list(file.shape)
            arrays[name] = {"dtype": file.dtype.str, "shape": shape, "crc32": file.crc32}
        else:
            blobs[name] = {"size": file.size, "crc32": file.crc32}
    values = (_FORMAT, _VERSION, manifest.generation, manifest.meta, arrays, blobs)
    return dict(zip(_KEYS, values, strict=True))


def decode_manifest(encoded: bytes) -> Manifest:
    """Read and check a manifest.

    Parameters
    ----------
    encoded : bytes

    Returns
    -------
    manifest : Manifest

    Raises
    ------
    CorruptIndexError
        If it is not one that :func:`encode_manifest` has written, or a field is wrong.
    ValueError
        If it is of a newer version.
    """
    content = _checked_json(encoded)
    _require(content.get("format") == _FORMAT, f"its format is not {_FORMAT!r}")
    _check_version(content.get("version"))
    _require(tuple(content) == (*_KEYS, "checksum"), "its fields are not those of this format")
    generation, meta, arrays, blobs = (content[key] for key in _KEYS[2:])
    _require(
        isinstance(generation, str) and _TOKEN.fullmatch(generation),
        "a generation that is no token",
    )
    _require(
        all(isinstance(part, dict) for part in (meta, arrays, blobs)), "a part that is no object"
    )
    files: dict[str, ArrayFile | BlobFile] = {}
    files.update({name: _array_file(name, entry) for name, entry in arrays.items()})
    files.update({name: _blob_file(name, entry) for name, entry in blobs.items()})
    try:
        check_names([*arrays, *blobs])
    except ValueError as error:
        raise CorruptIndexError(str(error)) from error
    return Manifest(generation, meta, files)


def is_manifest(encoded: bytes) -> bool:
    """Whether these bytes are meant as a manifest of an index, of whatever version or state.

    Parameters
    ----------
    encoded : bytes

    Returns
    -------
    meant : bool
    """
    return f'"format": "{_FORMAT}"'.encode() in encoded


def _dump(content: dict[str, Any]) -> str:
    return json.dumps(content, allow_nan=False)


def _checked_json(encoded: bytes) -> dict[str, Any]:
    """The content, if writing it again gives the same bytes, its checksum among them.

    That leaves no room for keys that come twice, NaN, or two ways of writing a number.
    """
    try:
        content = json.loads(encoded.decode("ascii"))
        same = isinstance(content, dict) and encode_manifest(content) == encoded
    except (ValueError, RecursionError) as error:
        raise CorruptIndexError(f"it cannot be read: {error}") from error
    _require(same, "it does not fit its own checksum")
    checked: dict[str, Any] = content
    return checked


def _check_version(version: Any) -> None:
    _require(_is_count(version) and version >= 1, "its version is no number from 1")
    if version > _VERSION:
        raise ValueError(
            f"the index was written by a newer imgembed (format {version}; this one reads up to "
            f"{_VERSION}): update imgembed"
        )


def _array_file(name: str, entry: Any) -> ArrayFile:
    """The entry of an array; no size in it can overflow, or be larger than an array may be."""
    what = f"a wrong entry of array {name!r}"
    _require(isinstance(entry, dict) and tuple(entry) == ("dtype", "shape", "crc32"), what)
    dtype, shape, crc32 = entry.values()
    _require(isinstance(dtype, str) and dtype in STORABLE_DTYPES, what)
    _require(isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS, what)
    _require(all(map(_is_count, shape)) and _is_crc32(crc32), what)
    n_bytes = math.prod(max(n, 1) for n in shape) * np.dtype(dtype).itemsize
    _require(n_bytes < 2**63, f"array {name!r} of impossible shape")
    return ArrayFile(np.dtype(dtype), tuple(shape), crc32)


def _blob_file(name: str, entry: Any) -> BlobFile:
    what = f"a wrong entry of blob {name!r}"
    _require(isinstance(entry, dict) and tuple(entry) == ("size", "crc32"), what)
    size, crc32 = entry.values()
    _require(_is_count(size) and _is_crc32(crc32), what)
    return BlobFile(size, crc32)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0  # a bool is an int too


def _is_crc32(value: Any) -> bool:
    return _is_count(value) and value < 2**32


def _require(condition: object, what_is_wrong: str) -> None:
    if not condition:
        raise CorruptIndexError(what_is_wrong)
