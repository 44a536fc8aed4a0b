"""Export to TensorBoard's Embedding Projector: vectors that one can turn, with their images."""

import math
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..images import check_images
from ..index.records._values import as_columns
from ._grids import image_name
from ._thumbnails import thumbnail_in_square

_CONFIG = "projector_config.pbtxt"
_FILES = {_CONFIG, "tensors.tsv", "metadata.tsv", "sprite.png"}
_LARGEST_SPRITE = 8192  # pixels of an edge, which the projector takes
_EDGE = 64  # pixels of an image in the sprite
_UNREADABLE = 128  # grey
# What ends a cell or a line for the projector or for a reader of text files.
_ENDS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")


def export_projector(
    folder: str | os.PathLike[str],
    vectors: Any,
    images: Sequence[object] | None = None,
    records: Any = None,
) -> Path:
    """Write vectors, their images and records for TensorBoard's Embedding Projector.

    ``tensorboard --logdir FOLDER`` shows them. TensorBoard is not needed for writing.

    Parameters
    ----------
    folder : str or Path
        It is made, or takes the place of an earlier export.
    vectors : array-like of shape (n_images, n_features)
        Finite numbers.
    images : sequence of n_images images, optional
        As :func:`imgembed.read_image` takes them. Their thumbnails become ``sprite.png``,
        and their names a column of the metadata. One that cannot be read is grey.
    records : DataFrame, dict of columns or sequence of n_images dicts, optional
        What is known of each image, for search and colours.

    Returns
    -------
    folder : Path

    Raises
    ------
    ValueError, TypeError
        If vectors are none or not finite, or images or records are not one for each.
    FileExistsError
        If the folder holds other things than an earlier export.

    Notes
    -----
    The folder is written under another name and renamed, so that it is there whole or not at
    all. Tabs and line ends in records become spaces. Vectors are text, since TensorBoard takes
    some binary files for text. The sprite has at most 8192 x 8192 pixels, as the projector wants:
    64 of an image up to 16,384 images, then fewer. The projector shows 100,000 vectors at most,
    and computes PCA, t-SNE and UMAP itself.

    References
    ----------
    .. [1] D. Smilkov et al., "Embedding Projector: Interactive Visualization and Interpretation
       of Embeddings", 2016, arXiv:1611.05469.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from imgembed.plotting import export_projector
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     folder = export_projector(f"{parent}/projector", images.reshape(4, -1), images)
    ...     sorted(path.name for path in folder.iterdir())
    ['metadata.tsv', 'projector_config.pbtxt', 'sprite.png', 'tensors.tsv']
    """
    numbers = _check_vectors(vectors)
    gallery = None if images is None else check_images(images)
    if gallery is not None and len(gallery) != len(numbers):
        raise ValueError(f"got {len(gallery)} images and {len(numbers)} vectors, wanted as many")
    columns = _columns(gallery, records, len(numbers))
    target = Path(folder)
    _check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _write_all(part, numbers, gallery, columns)
        _put_in_place(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _check_vectors(vectors: Any) -> NDArray[np.float32]:
    numbers = np.asarray(vectors, dtype=np.float32)
    if numbers.ndim != 2 or not numbers.size:
        raise ValueError(
            f"vectors must be an array of shape (n_images, n_features), got shape {numbers.shape}"
        )
    unknown = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} vectors are not finite, the first in row {unknown[0]}; those of "
            "images that cannot be read are NaN. Leave out such vectors and their images"
        )
    return numbers


def _columns(images: Sequence[object] | None, records: Any, n: int) -> dict[str, list[Any]]:
    """The columns of the metadata: rows, names of images, and the records'."""
    known = as_columns(records, n)
    own: dict[str, list[Any]] = {"row": list(range(n))}
    if images is not None:
        own["image"] = [image_name(image) for image in images]
    return {_free(name, known): values for name, values in own.items()} | known


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _check_target(target: Path) -> None:
    """Nothing but an earlier export may be replaced."""
    if not target.exists():
        return
    others = {path.name for path in target.iterdir()} - _FILES if target.is_dir() else {"a file"}
    if others:
        raise FileExistsError(
            f"{str(target)!r} is no earlier export, it holds {min(others)!r}; give a new folder"
        )


def _write_all(
    folder: Path,
    vectors: NDArray[np.float32],
    images: Sequence[object] | None,
    columns: dict[str, list[Any]],
) -> None:
    folder.chmod(0o755)  # those of temporary folders are closed to others
    # Nine digits give a float32 again.
    np.savetxt(folder / "tensors.tsv", vectors, fmt="%.9g", delimiter="\t")
    rows = [columns, *zip(*columns.values(), strict=True)]
    text = "".join("\t".join(map(_cell, row)) + "\n" for row in rows)
    # A line of one cell would be no head for the projector: there "row" stands alone.
    if len(columns) == 1:
        text = text.partition("\n")[2]
    (folder / "metadata.tsv").write_text(text, encoding="utf-8", errors="replace", newline="\n")
    edge = 0 if images is None else _write_sprite(folder / "sprite.png", images)
    (folder / _CONFIG).write_text(_config(vectors.shape, edge), encoding="utf-8", newline="\n")


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN
        return ""
    return _ENDS.sub(" ", str(value))


def _write_sprite(path: Path, images: Sequence[object]) -> int:
    """Thumbnails row by row in a square; returns the edge of each."""
    n_columns = math.ceil(math.sqrt(len(images)))
    edge = min(_EDGE, _LARGEST_SPRITE // n_columns)
    n_rows = math.ceil(len(images) / n_columns)
    sprite = np.full((n_rows * edge, n_columns * edge, 3), 255, dtype=np.uint8)
    for row, image in enumerate(images):
        small = thumbnail_in_square(image, edge)
        top, left = row // n_columns * edge, row % n_columns * edge
        sprite[top : top + edge, left : left + edge] = _UNREADABLE if small is None else small
    Image.fromarray(sprite).save(path)
    return edge


def _config(shape: tuple[int, ...], edge: int) -> str:
    """What the projector shows, in protocol buffers' text format."""
    lines = ['tensor_name: "imgembed"', 'tensor_path: "tensors.tsv"']
    lines += [f"tensor_shape: {size}" for size in shape]
    lines += ['metadata_path: "metadata.tsv"']
    if edge:
        dim = f"single_image_dim: {edge}"
        lines += ["sprite {", '  image_path: "sprite.png"', f"  {dim}", f"  {dim}", "}"]
    body = "".join(f"  {line}\n" for line in lines)
    return f"embeddings {{\n{body}}}\n"


def _put_in_place(part: Path, target: Path) -> None:
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        os.replace(target, old / "old")
        os.replace(part, target)
        shutil.rmtree(old)
    else:
        os.replace(part, target)
