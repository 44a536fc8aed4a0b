"""save_embedder and load_embedder: one file that needs no code of the user."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

from .._differences import differences
from ..base import FingerprintError, ImageEmbedder
from ._packing import EmbedderFileError, UnknownClassError, pack, unpack


def save_embedder(embedder: ImageEmbedder, path: str | os.PathLike[str]) -> None:
    """Write a fitted embedder as one file, from which :func:`load_embedder` makes it again.

    Kept are its class, its parameters and all that it has learned: codebooks, weights that
    were trained here. Weights that came from elsewhere are kept as the name or path that they
    came from, and as their digest.

    Parameters
    ----------
    embedder : ImageEmbedder
        Of any class of imgembed.
    path : str or Path
        The file, a safetensors file; one that is there is replaced whole.

    Raises
    ------
    TypeError
        If it, or a part of it, is of a class that is none of imgembed's.
    NotFittedError
        If it learns from images and has not been fitted.
    OSError
        If the file cannot be written; one that was there stays.

    See Also
    --------
    ImageSearch.save : An embedder with its index.

    Notes
    -----
    Not kept: ``device``, ``cache`` and ``save_path``, which belong to a computer; a
    ``random_state`` that is no integer; a ``loss`` that is a function; the sample of a vocabulary
    that :meth:`VisualVocabulary.partial_fit` would go on with.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from imgembed import SIFTEmbedder, load_embedder, save_embedder
    >>> blocks = np.random.default_rng(0).integers(0, 256, (4, 15, 20), dtype=np.uint8)
    >>> images = [np.kron(one, np.ones((8, 8), np.uint8)) for one in blocks]
    >>> embedder = SIFTEmbedder(n_words=20, random_state=0).fit(images)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_embedder(embedder, f"{folder}/sift.safetensors")
    ...     again = load_embedder(f"{folder}/sift.safetensors")
    >>> np.array_equal(again.transform(images), embedder.transform(images))
    True
    """
    told = {
        "embedder": embedder,
        "fingerprint": embedder.fingerprint(),
        "parts": {name: repr(part) for name, part in embedder.fingerprint_parts().items()},
    }
    try:
        packed = pack(told)
    except UnknownClassError as error:
        raise TypeError(
            f"{error}; pickle it, or keep what it has learned in a file of its own"
        ) from error
    _replace(Path(path), packed)


def load_embedder(path: str | os.PathLike[str]) -> Any:
    """Load an embedder that :func:`save_embedder` has written.

    Nothing in the file is executed, and only classes of imgembed are made.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    embedder : ImageEmbedder
        Ready to transform. A network loads its weights from where they were.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    EmbedderFileError
        If the file is something else, damaged, or of a newer imgembed.
    CheckpointError
        If weights cannot be had, or are others than those that it was saved with.
    FingerprintError
        If this version of imgembed makes other vectors than the one that has saved it.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from imgembed import HOGEmbedder, load_embedder, save_embedder
    >>> embedder = HOGEmbedder(cell_size=32).fit(np.zeros((1, 40, 40, 3), np.uint8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_embedder(embedder, f"{folder}/hog.safetensors")
    ...     load_embedder(f"{folder}/hog.safetensors")
    HOGEmbedder(cell_size=32)
    """
    try:
        told = unpack(Path(path).read_bytes())
        embedder, fingerprint, parts = told["embedder"], told["fingerprint"], dict(told["parts"])
        if not isinstance(embedder, ImageEmbedder):
            raise EmbedderFileError(f"it holds a {type(embedder).__name__}, no embedder")
    except (ValueError, TypeError, KeyError) as error:
        raise EmbedderFileError(
            f"cannot load an embedder from {os.fspath(path)!r}: {error}. Take a copy of the file, "
            "or save it again"
        ) from error
    if embedder.fingerprint() != fingerprint:
        raise FingerprintError(_changed(os.fspath(path), parts, embedder.fingerprint_parts()))
    return embedder


def _replace(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _changed(path: str, before: dict[str, Any], parts: dict[str, Any]) -> str:
    now = {name: repr(part) for name, part in parts.items()}
    return (
        f"the embedder in {path!r} makes other vectors now than when it was saved, which must not "
        f"be compared: {differences(before, now, str)}. Take the imgembed that has saved it, or "
        "fit it anew and embed all images again"
    )
