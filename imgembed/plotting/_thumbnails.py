"""Thumbnails: small pictures of images, for Axes and for pages."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..images import ImageReadError, read_image

THUMBNAIL_EDGE = 128  # pixels


def thumbnail(image: object, edge: int = THUMBNAIL_EDGE) -> NDArray[np.uint8] | None:
    """A thumbnail's pixels, or None if the image cannot be read any more.

    Parameters
    ----------
    image : image
        As :func:`imgembed.read_image` takes it.
    edge : int, default=128
        The most pixels that it is wide or high.

    Returns
    -------
    pixels : ndarray of shape (height, width, 3), dtype uint8, or None
    """
    try:
        pixels = read_image(image, shortest_edge=2 * edge)
    except ImageReadError:
        return None
    picture = Image.fromarray(pixels)
    picture.thumbnail((edge, edge))
    return np.asarray(picture)


def thumbnail_in_square(image: object, edge: int) -> NDArray[np.uint8] | None:
    """A thumbnail in the middle of a white square, or None if the image cannot be read any more.

    Parameters
    ----------
    image : image
        As :func:`imgembed.read_image` takes it.
    edge : int
        Of the square, in pixels.

    Returns
    -------
    pixels : ndarray of shape (edge, edge, 3), dtype uint8, or None
    """
    small = thumbnail(image, edge)
    if small is None:
        return None
    height, width = small.shape[:2]
    top, left = (edge - height) // 2, (edge - width) // 2
    square = np.full((edge, edge, 3), 255, dtype=np.uint8)
    square[top : top + height, left : left + width] = small
    return square


def img_element(image: object, edge: int = THUMBNAIL_EDGE) -> str:
    """An HTML element with a thumbnail inside, or words if the image cannot be read any more.

    Parameters
    ----------
    image : image
        As :func:`imgembed.read_image` takes it.
    edge : int, default=128
        The most pixels that the thumbnail is wide or high.

    Returns
    -------
    element : str
    """
    pixels = thumbnail(image, edge)
    if pixels is None:
        return "(cannot be read)"
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=85)
    encoded = base64.b64encode(jpeg.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{encoded}">'
