"""Files of weights: what torch.save, torch.jit.save and safetensors write, and their mistakes.

The only place that reads and writes them. Nothing in a file is ever executed.
"""

import io
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from ._pickles import Machine, StandIn, UnsafePickleError

# How torch.save has begun before version 1.6, and since then when asked: its magic number.
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_START = 512  # bytes that tell what a file is
_LONGEST_NAME = 1000  # of a tensor; bounds the work that a hostile tree of modules can make


class CheckpointError(RuntimeError):
    """Weights cannot be loaded, or do not fit the network.

    Examples
    --------
    >>> from imgembed import CheckpointError, CNNEmbedder
    >>> try:
    ...     CNNEmbedder("resnet18", weights="no/such/file.pth").fit(["image.jpg"])
    ... except CheckpointError as error:
    ...     print(error)
    there is no weights file 'no/such/file.pth'
    """


def read_archive(path: str | os.PathLike[str]) -> Any:
    """Read what a file of weights holds.

    Parameters
    ----------
    path : str or Path
        A file written by torch.save (of any age), torch.jit.save or safetensors.

    Returns
    -------
    content : object
        Dicts, lists, tuples, plain values, tensors on the CPU, and :class:`StandIn` for all
        else. Of TorchScript the dict of the module's parameters and buffers.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, no checkpoint, or wants code to be run.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"there is no weights file {os.fspath(path)!r}")
    try:
        with open(path, "rb") as file:
            return _read(file, Path(path))
    except CheckpointError:
        raise
    except UnsafePickleError as error:
        raise CheckpointError(
            f"{os.fspath(path)!r} is not read: {error}, which is never done. If you trust where it "
            "comes from, load it there and save the network's state_dict() alone."
        ) from error
    except Exception as error:  # whatever damage does to zip files, pickles and JSON
        told = str(error).splitlines() or ["no message"]
        raise CheckpointError(
            f"cannot read weights from {os.fspath(path)!r}: it is damaged or cut short, or no "
            f"checkpoint ({type(error).__name__}: {told[0]}). Download or copy it again, and "
            "compare its size with the original's."
        ) from error


def write_checkpoint(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write a file that :func:`read_checkpoint` reads; it is there whole or not at all.

    Parameters
    ----------
    path : str or Path
        Replaced if it is there.
    content : dict of str to object
        Tensors and plain values, in dicts, lists and tuples.
    """
    part = f"{os.fspath(path)}.part"
    with open(part, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as a safetensors file; it is there whole or not at all.

    Parameters
    ----------
    path : str or Path
        Replaced if it is there.
    tensors : mapping of str to Tensor
    """
    part = f"{os.fspath(path)}.part"
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, part)
    os.replace(part, path)


def _read(file: IO[bytes], path: Path) -> Any:
    start = file.read(_START)
    file.seek(0)
    if start.startswith(b"PK"):
        return _read_zip(file, path)
    if start.startswith(_LEGACY_START):
        return _read_legacy(file)
    for looks_so, what in _MISTAKES:
        if looks_so(start, path.name):
            raise CheckpointError(f"{os.fspath(path)!r} is {what}")
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return safetensors.torch.load_file(path)
    raise CheckpointError(
        f"{os.fspath(path)!r} is no checkpoint of a kind that is read here: torch.save, "
        "torch.jit.save, safetensors"
    )


# What gets downloaded or passed in place of a checkpoint, and what to do about it.
_MISTAKES: list[tuple[Callable[[bytes, str], object], str]] = [
    (lambda start, name: not start, "empty (0 bytes). Download or copy it again."),
    (
        lambda start, name: start.startswith(b"version https://git-lfs"),
        "a Git LFS pointer, which stands for the file. Run `git lfs pull` where it comes from, "
        "or download the file itself.",
    ),
    (
        lambda start, name: start.lstrip().startswith(b"<"),
        "an HTML or XML page, which a server sent in place of the file. Download it again; the "
        "link may want a login or a confirmation.",
    ),
    (
        lambda start, name: start.startswith(b"\x89HDF"),
        "an HDF5 file (Keras or TensorFlow). Weights of PyTorch are needed.",
    ),
    (
        lambda start, name: re.search(r"\.(pb|index|meta)$|\.data-\d+-of-\d+$", name),
        "a file of TensorFlow. Weights of PyTorch are needed; convert it first.",
    ),
    (
        lambda start, name: start.startswith(b"\x93NUMPY"),
        "a NumPy array. A state_dict saved with torch.save or safetensors is needed.",
    ),
    (
        lambda start, name: start.startswith(b"\x1f\x8b") or start[257:262] == b"ustar",
        "a compressed file or a tar archive. Unpack it and pass the checkpoint in it.",
    ),
    (lambda start, name: start.lstrip().startswith(b"{"), "JSON text, which holds no weights."),
    (
        lambda start, name: re.match(rb"\x80[\x02-\x05]", start),
        "a pickle that torch.save did not write. Pickles can run code and are not read: save the "
        "network's state_dict() with torch.save or safetensors.",
    ),
]


def _read_zip(file: IO[bytes], path: Path) -> Any:
    entries = {entry.filename: entry for entry in zipfile.ZipFile(file).infolist()}
    pickles = [name for name in entries if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
    if not pickles:
        numpy = any(name.endswith(".npy") for name in entries)
        raise CheckpointError(
            f"{os.fspath(path)!r} is {'an archive of NumPy' if numpy else 'a zip archive'}, not a "
            f"checkpoint (it holds {', '.join([*entries][:3]) or 'nothing'}). If a checkpoint is "
            "in it, unpack it first; else save the network's state_dict() with torch.save."
        )
    root = pickles[0].removesuffix("data.pkl")
    byteorder = entries.get(f"{root}byteorder")
    if byteorder and _read_entry(file, byteorder).decode() != sys.byteorder:
        raise ValueError("its numbers are in the byte order of another kind of processor")

    def fill(key: str, flat: Tensor) -> None:
        _read_entry_into(file, entries[f"{root}data/{key}"], _bytes_of(flat))

    machine = Machine(_size(file), fill)
    content = machine.run(io.BytesIO(_read_entry(file, entries[pickles[0]])))
    is_torchscript = f"{root}constants.pkl" in entries
    return _module_tensors(content) if is_torchscript else content


def _read_entry(file: IO[bytes], entry: zipfile.ZipInfo) -> bytearray:
    if entry.file_size > _size(file):
        raise ValueError(f"{entry.filename} claims to be larger than the file")
    content = bytearray(entry.file_size)
    _read_entry_into(file, entry, memoryview(content))
    return content


def _read_entry_into(file: IO[bytes], entry: zipfile.ZipInfo, target: memoryview) -> None:
    """Read an entry as torch does: its checksum may be left out, and is then 0."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != target.nbytes:
        raise ValueError(f"{entry.filename} is compressed, or has another size than is claimed")
    file.seek(entry.header_offset)
    n_name, n_extra = struct.unpack("<26x2H", file.read(30))
    file.seek(n_name + n_extra, os.SEEK_CUR)
    _read_into(file, target)
    if entry.CRC not in (0, zlib.crc32(target)):
        raise ValueError(f"the checksum of {entry.filename} is wrong")


def _read_legacy(file: IO[bytes]) -> Any:
    """Four pickles (magic number, version, machine, content), the storages' keys, the storages."""
    machine = Machine(_size(file), lambda key, flat: None)
    _, version, saved_on, content = (machine.run(file) for _ in range(4))
    keys = machine.run(file)
    if version != 1001 or not saved_on["little_endian"] or sorted(keys) != sorted(machine.storages):
        raise ValueError("it is of another version, or its storages are not those of its tensors")
    for key in keys:
        flat = machine.storages[key]
        if struct.unpack("<q", file.read(8)) != (flat.numel(),):
            raise ValueError(f"storage {key} has another size than is claimed")
        _read_into(file, _bytes_of(flat))
    return content


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _bytes_of(flat: Tensor) -> memoryview:
    return flat.view(torch.uint8).numpy().data


def _read_into(file: IO[bytes], target: memoryview) -> None:
    if file.readinto(target) != target.nbytes:  # type: ignore[attr-defined]  # of open files
        raise ValueError("it ends too early")


def _module_tensors(module: Any) -> dict[str, Tensor]:
    """The tensors in a tree of TorchScript's modules, each module taken once."""
    tensors: dict[str, Tensor] = {}
    waiting, seen = [("", module)], set()
    while waiting:
        prefix, found = waiting.pop()
        if isinstance(found, Tensor):
            tensors[prefix] = found
        elif isinstance(found, StandIn) and id(found) not in seen:
            seen.add(id(found))
            names = [n for n in found if len(prefix) + len(str(n)) < _LONGEST_NAME]
            waiting += [(f"{prefix}.{n}" if prefix else str(n), found[n]) for n in names[::-1]]
    return tensors
