"""Objects as bytes: JSON that describes them, and their arrays, in the safetensors format."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from ._kinds import KINDS

Arrays = dict[str, NDArray[Any]]

_FORMAT, _VERSION = "imgembed objects", 1
_PLAIN = (bool, int, float, str, type(None))
# Parameters that may name a file, and what they may name besides.
_FILES = frozenset({"weights", "checkpoint"})
_NO_FILES = ("pretrained", "bundled")
_WRONG = (
    safetensors.SafetensorError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    OverflowError, RecursionError,
)  # fmt: skip


class EmbedderFileError(ValueError):
    """A file holds no embedder, or is damaged, forged, or of a newer imgembed.

    Nothing in it was executed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from imgembed import EmbedderFileError, load_embedder
    >>> path = Path(tempfile.mkdtemp(), "embedder.safetensors")
    >>> _ = path.write_bytes(b"no embedder")
    >>> try:
    ...     load_embedder(path)
    ... except EmbedderFileError:
    ...     print("take the copy")
    take the copy
    """


class UnknownClassError(TypeError):
    """An object is of a class that is not written to files."""


def pack(value: Any) -> bytes:
    """Write objects of imgembed, with the arrays that they have learned.

    Parameters
    ----------
    value : object
        Plain values, arrays, lists, tuples and dicts of them, and objects of the classes
        in :data:`KINDS`.

    Returns
    -------
    packed : bytes
        A whole safetensors file.

    Raises
    ------
    UnknownClassError
        If an object is of another class.
    """
    packer = _Packer()
    content = packer.written(value)
    text = json.dumps({"format": _FORMAT, "version": _VERSION, "content": content})
    metadata = {"imgembed": text, "sha256": _digest(text, packer.arrays)}
    packed: bytes = safetensors.numpy.save(packer.arrays, metadata)
    return packed


def unpack(packed: bytes) -> Any:
    """Make again what :func:`pack` has written; classes outside of the table are refused.

    Parameters
    ----------
    packed : bytes

    Returns
    -------
    value : object

    Raises
    ------
    EmbedderFileError
        If the bytes are something else, damaged, forged, or of a newer imgembed.
    """
    try:
        arrays: Arrays = safetensors.numpy.load(packed)
        length = int.from_bytes(packed[:8], "little")
        metadata = json.loads(packed[8 : 8 + length])["__metadata__"]
        text = metadata["imgembed"]
        if _digest(text, arrays) != metadata["sha256"]:
            raise EmbedderFileError("its checksum is another one")
        told = json.loads(text)
        _check_version(told)
        return _read(told["content"], arrays)
    except EmbedderFileError:
        raise
    except _WRONG as error:
        raise EmbedderFileError(
            f"it cannot be read ({type(error).__name__}: {error})".rstrip()
        ) from error


class _Packer:
    """Values as JSON, and the arrays in them, each once."""

    def __init__(self) -> None:
        self.arrays: Arrays = {}
        self._names: dict[int, str] = {}
        self._held: list[object] = []  # lest another object gets the same id

    def written(self, value: Any) -> Any:
        if type(value) in _PLAIN:
            return value
        if type(value) is list:
            return [self.written(one) for one in value]
        if type(value) is tuple:
            return {"tuple": [self.written(one) for one in value]}
        if isinstance(value, dict):
            return {"dict": {str(key): self.written(one) for key, one in value.items()}}
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(value)
        return self._object(value)

    def _array(self, value: Any) -> Any:
        if value.dtype.kind in "OSU":  # names of classes
            return {"strings": [str(one) for one in value.tolist()]}
        return {"array": self._stored(value, np.ascontiguousarray(value).reshape(value.shape))}

    def _stored(self, value: object, array: NDArray[Any]) -> str:
        if id(value) not in self._names:
            self._names[id(value)] = name = str(len(self.arrays))
            self.arrays[name] = array
            self._held.append(value)
        return self._names[id(value)]

    def _object(self, value: Any) -> dict[str, Any]:
        name = type(value).__name__
        kind = KINDS.get(name)
        if kind is None or kind.load(name) is not type(value):
            raise UnknownClassError(
                f"{type(value).__module__}.{type(value).__qualname__} is no class of imgembed, "
                "and files hold those only"
            )
        parameters = {n: _portable(n, v) for n, v in kind.parameters_of(value).items()}
        if name == "FineTunedEmbedder" and not isinstance(parameters["loss"], str):
            del parameters["loss"]  # a function; it has done its work
        return {
            "object": name,
            "parameters": {n: self.written(v) for n, v in parameters.items()},
            "learned": {n: self.written(v) for n, v in kind.learned_of(value).items()},
        }


def _portable(name: str, value: Any) -> Any:
    """A parameter as another process can take it."""
    if name == "random_state":
        return int(value) if isinstance(value, (int, np.integer)) else None
    if isinstance(value, os.PathLike) or (
        name in _FILES and isinstance(value, str) and value not in _NO_FILES
        and os.path.isfile(value)
    ):  # fmt: skip
        return os.path.abspath(os.fsdecode(value))
    return value


def _digest(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _check_version(told: Any) -> None:
    if told["format"] != _FORMAT:
        raise ValueError(f"its format is {told['format']!r}, not {_FORMAT!r}")
    if told["version"] != _VERSION:
        raise EmbedderFileError(
            f"it was written by a newer imgembed (format {told['version']!r}; this one reads "
            f"{_VERSION}): update imgembed"
        )


def _read(node: Any, arrays: Arrays) -> Any:
    if type(node) in _PLAIN:
        return node
    if isinstance(node, list):
        return [_read(one, arrays) for one in node]
    if "object" in node:
        return _read_object(node, arrays)
    ((tag, content),) = node.items()
    if tag == "tuple":
        return tuple(_read(one, arrays) for one in content)
    if tag == "dict":
        return {key: _read(one, arrays) for key, one in content.items()}
    if tag == "strings":
        return np.array([str(one) for one in content])
    if tag == "array":
        array = arrays[content]
        return array if array.ndim else array[()]
    raise ValueError(f"it holds a {tag!r:.80}")


def _read_object(node: Mapping[str, Any], arrays: Arrays) -> Any:
    name = node["object"]
    if name not in KINDS:
        raise EmbedderFileError(f"it wants an object of {name!r:.80}, which is never made")
    parts = (
        {key: _read(one, arrays) for key, one in node[part].items()}
        for part in ("parameters", "learned")
    )
    return KINDS[name].make(name, *parts)
