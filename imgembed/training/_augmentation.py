"""Augmentation: an image changed at random in ways that leave what it shows as it was.

Functions of pixels and a generator of random numbers, which is all they draw from, so that they
can run in threads.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

Pixels = NDArray[np.uint8]

_N_TRIES = 10  # to find a crop that fits, as Inception's training did
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def random_view(
    pixels: Pixels,
    rng: np.random.Generator,
    height: int,
    width: int,
    resampling: Image.Resampling,
    *,
    smallest: float = 0.2,
    strength: float = 0.5,
) -> Pixels:
    """A view of an image as contrastive methods take two of: crop, jitter, grey, blur, mirror.

    MoCo v2 [1]_ has ``smallest=0.2, strength=0.5``, SimCLR [2]_ ``smallest=0.08, strength=1``.

    Parameters
    ----------
    pixels : ndarray of shape (image_height, image_width, 3), dtype uint8
    rng : numpy.random.Generator
    height, width : int
        Size of the view.
    resampling : PIL.Image.Resampling
        How the crop is resized.
    smallest : float, default=0.2
        The smallest share of the image's area that a crop has.
    strength : float, default=0.5
        Of the colour jitter: brightness, contrast and saturation change by up to 0.8 times it,
        the hue by up to 0.2 times it.

    Returns
    -------
    view : ndarray of shape (height, width, 3), dtype uint8

    Notes
    -----
    SimCLR's kernel of a tenth of the edge cuts the blur's Gaussian off beyond five standard
    deviations at 224 pixels; here it is not cut off.

    References
    ----------
    .. [1] X. Chen, H. Fan, R. Girshick and K. He, "Improved Baselines with Momentum Contrastive
       Learning", 2020.
    .. [2] T. Chen, S. Kornblith, M. Norouzi and G. Hinton, "A Simple Framework for Contrastive
       Learning of Visual Representations", ICML 2020, appendix A.
    """
    view = random_resized_crop(
        pixels, rng, height, width, scale=(smallest, 1.0), resampling=resampling
    )
    colours = 0.8 * strength
    view = colour_jitter(view, rng, colours, colours, colours, 0.2 * strength)
    return mirror(gaussian_blur(greyscale(view, rng), rng), rng)


def random_resized_crop(
    pixels: Pixels,
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
) -> Pixels:
    """A crop of random area, aspect ratio and place, resized.

    Parameters
    ----------
    pixels : ndarray of shape (image_height, image_width, 3), dtype uint8
    rng : numpy.random.Generator
    height, width : int
        Size of the result.
    scale : (float, float), default=(0.2, 1.0)
        The smallest and largest share of the image's area.
    ratio : (float, float), default=(3 / 4, 4 / 3)
        The smallest and largest width of the crop by its height.
    resampling : PIL.Image.Resampling, default=BICUBIC
        How the crop is resized.

    Returns
    -------
    crop : ndarray of shape (height, width, 3), dtype uint8
        Where no crop is found that fits, as in a strip, the largest one in the centre.

    References
    ----------
    .. [1] C. Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6.
    """
    box = _random_box(pixels.shape[0], pixels.shape[1], rng, scale, ratio)
    return np.asarray(Image.fromarray(pixels).resize((width, height), resampling, box=box))


def mirror(pixels: Pixels, rng: np.random.Generator, probability: float = 0.5) -> Pixels:
    """Exchange left and right, or not.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, 3), dtype uint8
    rng : numpy.random.Generator
    probability : float, default=0.5

    Returns
    -------
    mirrored : ndarray of shape (height, width, 3), dtype uint8
    """
    return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < probability else pixels


def colour_jitter(
    pixels: Pixels,
    rng: np.random.Generator,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    probability: float = 0.8,
) -> Pixels:
    """Change brightness, contrast, saturation and hue, in random order, or leave them.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, 3), dtype uint8
    rng : numpy.random.Generator
    brightness, contrast, saturation : float, default=0.4
        Each is multiplied by a factor between 1 less this, or 0, and 1 and this.
    hue : float, default=0.1
        How far it is turned at most, in turns of the colour circle.
    probability : float, default=0.8

    Returns
    -------
    jittered : ndarray of shape (height, width, 3), dtype uint8
    """
    if rng.random() >= probability:
        return pixels
    picture = Image.fromarray(pixels)
    amounts = (brightness, contrast, saturation, hue)
    for which in rng.permutation(len(amounts)):
        amount = amounts[which]
        if which == len(_ENHANCERS):
            picture = _turn_hue(picture, rng.uniform(-amount, amount))
        else:
            factor = rng.uniform(max(0.0, 1 - amount), 1 + amount)
            picture = _ENHANCERS[which](picture).enhance(factor)
    return np.asarray(picture)


def greyscale(pixels: Pixels, rng: np.random.Generator, probability: float = 0.2) -> Pixels:
    """Take the colours away, or not.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, 3), dtype uint8
    rng : numpy.random.Generator
    probability : float, default=0.2

    Returns
    -------
    grey : ndarray of shape (height, width, 3), dtype uint8
        With three equal channels.
    """
    if rng.random() >= probability:
        return pixels
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


def gaussian_blur(
    pixels: Pixels,
    rng: np.random.Generator,
    sigma: tuple[float, float] = (0.1, 2.0),
    probability: float = 0.5,
) -> Pixels:
    """Blur with a Gaussian of random width, or not.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, 3), dtype uint8
    rng : numpy.random.Generator
    sigma : (float, float), default=(0.1, 2.0)
        Its smallest and largest standard deviation in pixels.
    probability : float, default=0.5

    Returns
    -------
    blurred : ndarray of shape (height, width, 3), dtype uint8
    """
    if rng.random() >= probability:
        return pixels
    blur = ImageFilter.GaussianBlur(rng.uniform(*sigma))
    return np.asarray(Image.fromarray(pixels).filter(blur))


def _random_box(
    image_height: int,
    image_width: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a crop."""
    for _ in range(_N_TRIES):
        area = image_height * image_width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*np.log(ratio)))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= image_width and 0 < height <= image_height:
            left = int(rng.integers(image_width - width + 1))
            top = int(rng.integers(image_height - height + 1))
            return left, top, left + width, top + height
    width = max(1, min(image_width, round(image_height * ratio[1])))
    height = max(1, min(image_height, round(image_width / ratio[0])))
    left, top = (image_width - width) // 2, (image_height - height) // 2
    return left, top, left + width, top + height


def _turn_hue(picture: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int16) + round(turns * 256)) % 256
    bands = (Image.fromarray(turned.astype(np.uint8)), saturation, value)
    return Image.merge("HSV", bands).convert("RGB")
