"""Changed copies of images, which a good embedder finds the originals of."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import cos, radians, sin, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from .._threads import map_ahead
from .._workers import n_threads_here
from ..images import read_image

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels], Pixels]

_KEPT_AREA = 0.5
_DEGREES = 20
_SCALE = 0.25
_BLUR = 0.012  # standard deviation, as a share of the shortest edge
_JPEG_QUALITY = 8
_GAIN = 1.7
# Larger photographs are made as small as this before they are changed. Embedders look
# at no more, and hundreds of copies fit on a disk.
_LONGEST_EDGE = 1024
_AS_GOOD_AS_LOSSLESS = 95


def write_copies(
    images: Sequence[object], rows: NDArray[np.int64], changes: Mapping[str, Change], folder: Path
) -> Iterator[Path]:
    """Write a copy of some images for each change.

    Parameters
    ----------
    images : sequence of n_images images
    rows : ndarray of shape (n_copied,), dtype int64
        Of the images that are copied.
    changes : mapping of str to callable
        As :data:`COPIES`.
    folder : Path

    Yields
    ------
    path : Path
        All copies of the first image, in the order of the changes, then those of the next.
    """

    def write(row: int) -> list[Path]:
        original = _fitting(read_image(images[row], shortest_edge=_LONGEST_EDGE))
        paths = [folder / f"{row}-{number}.jpg" for number in range(len(changes))]
        for path, (name, change) in zip(paths, changes.items(), strict=True):
            _save(_changed(original, name, change), path)
        return paths

    n_threads = n_threads_here(-1)
    for paths in map_ahead(write, rows.tolist(), n_threads, 2 * n_threads):
        yield from paths


def choose_copies(copies: Sequence[str] | Mapping[str, Change] | None) -> dict[str, Change]:
    """The changes that are asked for.

    Parameters
    ----------
    copies : sequence of str, mapping of str to callable, or None
        Names in :data:`COPIES`, or the user's own; None for all of them.

    Returns
    -------
    changes : dict of str to callable

    Raises
    ------
    ValueError
        If there is no such change.
    """
    if copies is None:
        return dict(COPIES)
    if isinstance(copies, Mapping):
        return dict(copies)
    unknown = [copies] if isinstance(copies, str) else [n for n in copies if n not in COPIES]
    if unknown:
        raise ValueError(
            f"copies must be a list of names out of {list(COPIES)}, or a dict of names and "
            f"functions; got {unknown}"
        )
    return {name: COPIES[name] for name in copies}


def _fitting(pixels: Pixels) -> Pixels:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_LONGEST_EDGE, _LONGEST_EDGE), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _changed(original: Pixels, name: str, change: Change) -> Pixels:
    try:
        return read_image(change(original.copy()))
    except Exception as error:
        error.add_note(f"while making the changed copy {name!r}")
        raise


def _save(pixels: Pixels, path: Path) -> None:
    Image.fromarray(pixels).save(path, "JPEG", quality=_AS_GOOD_AS_LOSSLESS, subsampling=0)


def _crop(pixels: Pixels) -> Pixels:
    """Half of the area, from the lower right of the middle."""
    height, width = (max(1, round(n * sqrt(_KEPT_AREA))) for n in pixels.shape[:2])
    top, left = (
        (n - kept) * 2 // 3 for n, kept in zip(pixels.shape, (height, width), strict=False)
    )
    return pixels[top : top + height, left : left + width]


def _rotate(pixels: Pixels) -> Pixels:
    """As if the camera had been held askew: what is left has no empty corners."""
    picture = Image.fromarray(pixels)
    width, height = picture.size
    turned = np.asarray(picture.rotate(_DEGREES, Image.Resampling.BICUBIC))
    # The largest rectangle of the same shape around the centre that lies inside.
    sine, cosine = sin(radians(_DEGREES)), cos(radians(_DEGREES))
    share = 1 / (cosine + sine * max(width / height, height / width))
    kept_height, kept_width = max(1, int(height * share)), max(1, int(width * share))
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    return turned[top : top + kept_height, left : left + kept_width]


def _turn(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(np.rot90(pixels))


def _mirror(pixels: Pixels) -> Pixels:
    return np.asarray(ImageOps.mirror(Image.fromarray(pixels)))


def _scale(pixels: Pixels) -> Pixels:
    height, width = (max(1, round(n * _SCALE)) for n in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _blur(pixels: Pixels) -> Pixels:
    radius = _BLUR * min(pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _jpeg(pixels: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY)
    return read_image(file.getvalue())


def _brightness(pixels: Pixels) -> Pixels:
    brighter: Pixels = np.clip(pixels * np.float32(_GAIN), 0, 255).astype(np.uint8)
    return brighter


COPIES: dict[str, Change] = {
    "crop": _crop,
    "rotate": _rotate,
    "turn": _turn,
    "mirror": _mirror,
    "scale": _scale,
    "blur": _blur,
    "jpeg": _jpeg,
    "brightness": _brightness,
}
"""What becomes of an image, from RGB pixels to RGB pixels: half of its area, rotated by 20 degrees
without corners, turned by a quarter, mirrored, at a quarter of its size, blurred by 1.2 % of
its shortest edge, JPEG at quality 8, 1.7 times as bright."""
