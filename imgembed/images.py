"""The one reader: any image that a user has becomes upright RGB pixels.

It is the only place that opens or decodes an image. All routes to the same picture
(path, bytes, PIL image, array) give the same pixels.
"""

import io
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000

# File name endings that list_images takes for images; read_image goes by content.
IMAGE_SUFFIXES = frozenset(
    ".apng .avif .bmp .dib .gif .ico .j2k .jfif .jp2 .jpe .jpeg .jpg .jpx .mpo .pbm .pgm"
    " .png .pnm .ppm .psd .tga .tif .tiff .webp".split()
)

_URL_SCHEMES = ("http://", "https://", "ftp://", "s3://", "gs://", "data:")

_ONE_IMAGE = (str, bytes, bytearray, os.PathLike, Image.Image, Mapping)

# Files of more bytes are not held in memory as a whole.
_LARGEST_HELD = 2**28

# A lazily loaded PIL image may stand in X twice; two threads must not load it at once.
_pil_lock = threading.Lock()


class ImageReadError(ValueError):
    """An image cannot be read.

    The exception that Pillow or the operating system raised, where there is one, is the
    ``__cause__``.

    Parameters
    ----------
    source : str
        The path, or the kind of object where the image has no path.
    reason : str
        What is wrong and what to do.
    row : int, optional
        The position of the image in X.

    Examples
    --------
    >>> from imgembed import ImageReadError, read_image
    >>> try:
    ...     read_image(b"not an image")
    ... except ImageReadError as error:
    ...     print(error)
    cannot read image (12 bytes): its content is no image format that Pillow knows
    """

    def __init__(self, source: str, reason: str, row: int | None = None) -> None:
        super().__init__(source, reason, row)
        self.source = source
        self.reason = reason
        self.row = row

    def __str__(self) -> str:
        where = "" if self.row is None else f" in row {self.row}"
        return f"cannot read image{where} ({self.source}): {self.reason}"

    def with_row(self, row: int) -> "ImageReadError":
        """The same error, with the position of the image in X.

        Parameters
        ----------
        row : int
            The position.

        Returns
        -------
        error : ImageReadError
            A new error with the same source, reason and cause.
        """
        error = ImageReadError(self.source, self.reason, row)
        error.__cause__ = self.__cause__
        return error


class ImageReadWarning(UserWarning):
    """Some images could not be read and their rows hold NaN."""


def read_image(
    image: object, *, max_pixels: int = MAX_PIXELS, shortest_edge: int | None = None
) -> NDArray[np.uint8]:
    """Read one image as upright RGB pixels.

    EXIF orientation is applied (a damaged EXIF block is ignored), transparency is laid
    over white, palette, CMYK, Lab and grey pixels become RGB, 16-bit pixels are scaled
    to 8 bits, and of an animation the first frame is taken. The format is found from the
    content, not from the name.

    Parameters
    ----------
    image : str, Path, bytes, PIL.Image.Image, ndarray or mapping
        A path, an encoded image, a PIL image, an array of shape (height, width),
        (height, width, 1), (height, width, 3) in RGB or (height, width, 4) in RGBA with
        dtype uint8, uint16 or bool, or a Hugging Face cell ``{"bytes": ..., "path": ...}``.
    max_pixels : int, default=100_000_000
        Larger images are refused from their header, before anything is decoded.
    shortest_edge : int, optional
        A hint that the caller needs no more than this many pixels along the shortest
        edge. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, to no less than
        this, which is several times faster. Other formats, and PIL images and arrays,
        are read in full. By default everything is read in full.

    Returns
    -------
    pixels : ndarray of shape (height, width, 3), dtype uint8
        A new array.

    Raises
    ------
    ImageReadError
        If the image is missing, empty, truncated, corrupt, too large, or no image.

    Notes
    -----
    A truncated file is an error, never a half-grey picture. Floating point pixels have
    no agreed range and are refused. ICC profiles are not applied. A PIL image that was
    moved to another frame is read at that frame.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import read_image
    >>> read_image(np.full((2, 3), 65535, dtype=np.uint16))[0, 0]
    array([255, 255, 255], dtype=uint8)
    """
    source = describe_image(image)
    try:
        if isinstance(image, np.ndarray):
            return _read_array(image, max_pixels)
        if isinstance(image, Image.Image):
            with _pil_lock:
                _check_size(image.size, max_pixels)
                return _to_rgb(_upright(image))
        return _read_file(_open_target(image), max_pixels, shortest_edge)
    except _UnreadableError as error:
        raise ImageReadError(source, str(error)) from error.__cause__
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them meet
        raise ImageReadError(source, _explain(error)) from error


def image_content(
    image: object, *, max_pixels: int = MAX_PIXELS
) -> bytes | NDArray[np.uint8] | None:
    """All that decides the pixels of an image, in memory; it is an image with the same pixels.

    Parameters
    ----------
    image : object
        As :func:`read_image` takes it.
    max_pixels : int, default=100_000_000
        Of PIL images and arrays.

    Returns
    -------
    content : bytes, ndarray of shape (height, width, 3) or None
        What is in the file; of PIL images and arrays the RGB pixels. None if it cannot be had,
        for which :func:`read_image` has the reason, or is too large to be held.
    """
    if isinstance(image, Mapping):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    try:
        if isinstance(image, (np.ndarray, Image.Image)):
            return read_image(image, max_pixels=max_pixels)
        if not isinstance(image, (str, os.PathLike)) or not os.path.isfile(image):
            return None
        if os.path.getsize(image) > _LARGEST_HELD:
            return None
        return Path(os.fsdecode(image)).read_bytes()
    except (ImageReadError, OSError, ValueError):  # ValueError: a path with a null byte
        return None


def list_images(folder: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """List the image files of a folder, by their names, in a stable order.

    Hidden files and folders (their names start with a dot) are left out; links to
    folders are not followed.

    Parameters
    ----------
    folder : str or Path
        The folder.
    recursive : bool, default=True
        Whether to go into the folders below.

    Returns
    -------
    paths : list of Path
        Sorted by the parts of the path. Empty if there are no images.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, PermissionError
        If the folder, or one below it, cannot be listed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from imgembed import list_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.jpg", "a.PNG", "notes.txt"):
    ...         Path(folder, name).touch()
    ...     [path.name for path in list_images(folder)]
    ['a.PNG', 'b.jpg']
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"there is no folder {str(root)!r}")
    if not root.is_dir():
        raise NotADirectoryError(f"{str(root)!r} is a file; give the folder that holds the images")
    found: list[Path] = []
    for parent, folders, files in os.walk(root, onerror=_raise):
        folders[:] = [f for f in folders if recursive and not f.startswith(".")]
        found += [Path(parent, f) for f in files if _is_image_name(f)]
    return sorted(found, key=lambda path: path.parts)


def check_images(X: Any) -> Sequence[object]:
    """Check that X is a sequence of images and return it, ready to be indexed by row.

    Nothing is read or copied: a 4-D array, a list or a lazy sequence stays what it is.

    Parameters
    ----------
    X : sequence of images
        See :func:`read_image` for what an image may be; or a column (Series, or a
        DataFrame of one column) of a pandas or polars table.

    Returns
    -------
    images : sequence
        ``images[row]`` is one image, ``len(images)`` their number.

    Raises
    ------
    TypeError
        If X is one image, a generator, a set or anything else that has no rows.
    """
    if isinstance(X, _ONE_IMAGE):
        raise TypeError(
            f"X must be a sequence of images, got one {_kind(X)}. Wrap it in a list: [image]; "
            "for a folder use list_images(folder)."
        )
    if hasattr(X, "columns") and hasattr(X, "shape"):  # a pandas or polars DataFrame
        return _only_column(X)
    if isinstance(X, np.ndarray):
        return _rows_of_array(X)
    if hasattr(X, "to_list"):  # a pandas or polars Series: its own [] may go by label
        return list(X.to_list())
    if not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        raise TypeError(
            f"X must be a sequence of images, got a {_kind(X)}, which has no length or no "
            "order. Make a list of it: list(X)."
        )
    return X  # type: ignore[no-any-return]


class ChosenImages(Sequence[object]):
    """Some of a sequence of images, which are not read for that.

    Parameters
    ----------
    images : sequence of images
    rows : ndarray of shape (n_chosen,), dtype int64
        Of those that are chosen.
    """

    def __init__(self, images: Sequence[object], rows: NDArray[np.int64]) -> None:
        self.images = images
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Any) -> Any:
        return self.images[int(self.rows[row])]


def is_one_image(X: object) -> bool:
    """Whether X is a single image, not a sequence of images.

    Parameters
    ----------
    X : object
        An image or a sequence of images.

    Returns
    -------
    one : bool
    """
    return isinstance(X, _ONE_IMAGE) or (
        isinstance(X, np.ndarray) and X.ndim in (2, 3) and X.dtype.kind in "buif"
    )


def describe_image(image: object) -> str:
    """A short name of an image for messages: its path, or its kind and size."""
    if isinstance(image, (str, os.PathLike)):
        return repr(os.fspath(image))
    if isinstance(image, (bytes, bytearray)):
        return f"{len(image)} bytes"
    if isinstance(image, np.ndarray):
        return f"array of shape {image.shape} and dtype {image.dtype}"
    if isinstance(image, Image.Image):
        return f"PIL image, mode {image.mode}, {image.width} x {image.height}"
    if isinstance(image, Mapping) and isinstance(image.get("path"), str):
        return repr(image["path"])
    return _kind(image)


class _UnreadableError(Exception):
    """A reason that is already worded for the user."""


def _raise(error: OSError) -> None:
    raise error


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _kind(value: object) -> str:
    return type(value).__name__


def _only_column(frame: Any) -> Sequence[object]:
    if frame.shape[1] != 1:
        raise TypeError(
            f"X is a table of {frame.shape[1]} columns: {list(frame.columns)[:10]}. Give the one "
            'column that holds the images, for example X["path"].'
        )
    return list(frame[frame.columns[0]].to_list())


def _rows_of_array(X: NDArray[Any]) -> Sequence[object]:
    if X.ndim in (1, 4):
        return X  # type: ignore[return-value]
    if X.ndim == 2 and X.shape[1] == 1 and X.dtype.kind in "OSUT":
        return X[:, 0]  # type: ignore[return-value]
    raise TypeError(
        f"X must be a sequence of images, got an array of shape {X.shape} and dtype {X.dtype}. "
        "One image goes into a list: [image]; many of one size into an array of shape "
        "(n_images, height, width, 3)."
    )


def _open_target(image: object) -> str | io.BytesIO:
    """What Image.open is given, with the mistakes that can be named without opening."""
    if isinstance(image, Mapping):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if isinstance(image, (bytes, bytearray)):
        if not image:
            raise _UnreadableError("it has no bytes")
        return io.BytesIO(image)
    if not isinstance(image, (str, os.PathLike)):
        raise _UnreadableError(
            f"an image is a path, bytes, a PIL image or an array, got {_kind(image)}"
            + (", a missing value" if image is None or image != image else "")
        )
    path = os.fspath(image)
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if path.startswith(_URL_SCHEMES):
        raise _UnreadableError("it is an address, not a file; download it first and give the bytes")
    _check_file(path)
    return path


def _check_file(path: str) -> None:
    if not os.path.exists(path):
        raise _UnreadableError(
            "the path is empty" if not path else "there is no such file"
        ) from FileNotFoundError(path)
    if os.path.isdir(path):
        raise _UnreadableError(
            "it is a folder; use list_images(folder) to list its images"
        ) from IsADirectoryError(path)
    if not os.path.isfile(path):  # a pipe would block for ever
        raise _UnreadableError("it is not a regular file")
    if os.path.getsize(path) == 0:
        raise _UnreadableError("the file is empty (0 bytes)")


def _read_file(
    target: str | io.BytesIO, max_pixels: int, shortest_edge: int | None
) -> NDArray[np.uint8]:
    with Image.open(target) as image:
        _check_size(image.size, max_pixels)
        if shortest_edge is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (shortest_edge, shortest_edge))
        return _to_rgb(_upright(image))


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise _UnreadableError(f"it has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise _UnreadableError(
            f"it has {width} x {height} = {width * height:,} pixels, more than "
            f"max_pixels={max_pixels:,}; raise max_pixels if you trust the file"
        )


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # decoding errors must not be taken for EXIF errors below
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return image


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise _UnreadableError(_NO_FLOATS)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _deep_grey_to_rgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


_NO_FLOATS = (
    "its pixels are floating point numbers, whose range is not known; scale them to 0..255 "
    "and convert to uint8"
)


def _deep_grey_to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65535:
        raise _UnreadableError(
            f"its integer pixels range from {grey.min()} to {grey.max()}, not within 0..65535; "
            "scale them to 0..255 and convert to uint8"
        )
    transparent = image.info.get("transparency")
    eight_bit = _scale_16_bit(grey)
    if isinstance(transparent, int):
        eight_bit[grey == transparent] = 255
    return np.repeat(eight_bit[:, :, np.newaxis], 3, axis=2)


def _scale_16_bit(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _read_array(pixels: NDArray[Any], max_pixels: int) -> NDArray[np.uint8]:
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        channels_first = pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4)
        raise _UnreadableError(
            "an array must have shape (height, width), (height, width, 3) in RGB or "
            "(height, width, 4) in RGBA"
            + (
                "; this one has its channels first: use array.transpose(1, 2, 0)"
                if channels_first
                else ""
            )
        )
    _check_size((pixels.shape[1], pixels.shape[0]), max_pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return _to_rgb(Image.fromarray(_as_uint8(pixels)))


def _as_uint8(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint16:
        return _scale_16_bit(pixels)
    if pixels.dtype.kind == "f":
        raise _UnreadableError(_NO_FLOATS)
    raise _UnreadableError(
        f"pixels must have dtype uint8, uint16 or bool, got {pixels.dtype}; convert to uint8"
    )


def _explain(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its content is no image format that Pillow knows"
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"Pillow's own limit for decompression bombs: {error} "
            "Raise PIL.Image.MAX_IMAGE_PIXELS as well as max_pixels if you trust the file"
        )
    return f"{_kind(error)}: {error}" if str(error) else _kind(error)
