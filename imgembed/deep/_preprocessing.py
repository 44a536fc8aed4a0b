"""Preprocessing: how a network was shown images when it was evaluated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import timm.data
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import constants
from torch import Tensor, nn

from ._checkpoints import Convention

Normalisation = str | tuple[Sequence[float], Sequence[float]]

# Means and standard deviations by channel, of pixels in 0..1.
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": (constants.IMAGENET_DEFAULT_MEAN, constants.IMAGENET_DEFAULT_STD),
    "clip": (constants.OPENAI_CLIP_MEAN, constants.OPENAI_CLIP_STD),
    "half": (constants.IMAGENET_INCEPTION_MEAN, constants.IMAGENET_INCEPTION_STD),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Resized images of more than this many times the network's input are computed in part.
_LARGEST_RESIZED = 16


@dataclass(frozen=True)
class Preprocessing:
    """How a network was shown images when it was evaluated.

    Parameters
    ----------
    height, width : int
        Size of the network's input in pixels.
    crop_pct : float
        The share of the resized image's edge that the crop keeps.
    squash : bool
        Whether the image is resized without regard to its aspect ratio.
    resampling : PIL.Image.Resampling
        How it is resized.
    mean, std : tuple of float
        By channel, of pixels in 0..1.
    """

    height: int
    width: int
    crop_pct: float
    squash: bool
    resampling: Image.Resampling
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shortest_edge(self) -> int:
        """Edge in pixels to which an image is resized before the crop."""
        return math.floor(min(self.height, self.width) / self.crop_pct)

    def scaled(self, scale: float, stride: int) -> Self:
        """The same for another size of the network's input.

        Parameters
        ----------
        scale : float
            Of height and width.
        stride : int
            Both become a multiple of it.

        Returns
        -------
        preprocessing : Preprocessing
        """
        if scale == 1:
            return self
        height, width = (
            max(1, round(edge * scale / stride)) * stride for edge in (self.height, self.width)
        )
        return replace(self, height=height, width=width)

    def crop(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize, and crop the centre.

        Of a strip that would become enormous (4000 x 3) only the crop is computed, which may
        differ in the rounding of pixels.

        Parameters
        ----------
        image : ndarray of shape (height, width, 3), dtype uint8

        Returns
        -------
        pixels : ndarray of shape (self.height, self.width, 3), dtype uint8
        """
        picture = Image.fromarray(image)
        resized = self._resized(picture.width, picture.height)
        if resized[0] * resized[1] <= _LARGEST_RESIZED * self.height * self.width:
            left, top = self._corner(resized)
            whole = np.asarray(picture.resize(resized, self.resampling))
            return whole[top : top + self.height, left : left + self.width]
        box = self.seen_box(picture.width, picture.height)
        return np.asarray(picture.resize((self.width, self.height), self.resampling, box=box))

    def seen_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of an image that :meth:`crop` keeps.

        Parameters
        ----------
        width, height : int
            Of the image, in pixels.

        Returns
        -------
        left, top, right, bottom : float
            In pixels of the image; the corner of its first pixel is 0.
        """
        resized = self._resized(width, height)
        left, top = self._corner(resized)
        scale_x, scale_y = width / resized[0], height / resized[1]
        return (
            left * scale_x,
            top * scale_y,
            min((left + self.width) * scale_x, width),
            min((top + self.height) * scale_y, height),
        )

    def _corner(self, resized: tuple[int, int]) -> tuple[int, int]:
        """Left and top of the crop in the resized image."""
        return round((resized[0] - self.width) / 2), round((resized[1] - self.height) / 2)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.squash:
            return math.floor(self.width / self.crop_pct), math.floor(self.height / self.crop_pct)
        edge = self.shortest_edge
        if width <= height:
            return edge, int(edge * height / width)
        return int(edge * width / height), edge

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels as the network takes them.

        Parameters
        ----------
        pixels : Tensor of shape (n, height, width, 3), dtype uint8

        Returns
        -------
        inputs : Tensor of shape (n, 3, height, width), dtype float32
            In the memory format channels_last, as which pixels are there already.
        """
        planes = pixels.permute(0, 3, 1, 2)
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, device=pixels.device).view(shape)
        std = torch.tensor(self.std, device=pixels.device).view(shape)
        return (planes.float() / 255 - mean) / std


def resolve_preprocessing(
    network: nn.Module,
    convention: Convention | None = None,
    normalisation: Normalisation = "auto",
    image_size: tuple[int, int] | None = None,
) -> Preprocessing:
    """The preprocessing that belongs to a network and its weights.

    Parameters
    ----------
    network : torch.nn.Module
        A timm network.
    convention : Convention, optional
        What the training method of a checkpoint did; it comes before timm's own configuration.
    normalisation : str or (mean, std), default="auto"
        What the user asks for; it comes before both.
    image_size : (int, int), optional
        Height and width in place of the network's own.

    Returns
    -------
    preprocessing : Preprocessing

    Raises
    ------
    ValueError
        If the network wants something that is not built here.
    """
    config = timm.data.resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    mode = config["crop_mode"]
    if channels != 3 or mode not in ("center", "squash") or (mode == "center" and height != width):
        raise ValueError(
            f"this network takes {channels} channels of {height} x {width} pixels, crop mode "
            f"{mode!r}; built are 3 channels, crop mode 'squash', and 'center' for squares"
        )
    convention = convention or Convention()
    height, width = image_size or (height, width)
    mean, std = _mean_and_std(config, convention, normalisation)
    return Preprocessing(
        height=height,
        width=width,
        crop_pct=convention.crop_pct or config["crop_pct"],
        squash=mode == "squash",
        resampling=_RESAMPLING[convention.interpolation or config["interpolation"]],
        mean=mean,
        std=std,
    )


def check_normalisation(normalisation: Any) -> None:
    """Raise a ValueError unless it is a name, or a mean and a standard deviation a channel.

    Parameters
    ----------
    normalisation : object
        What was given.
    """
    if isinstance(normalisation, str) and normalisation in ("auto", *NORMALISATIONS):
        return
    if not isinstance(normalisation, str):
        try:
            values = np.asarray(normalisation, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.shape == (2, 3) and np.isfinite(values).all() and (values[1] > 0).all():
            return
    raise ValueError(
        f"normalisation must be 'auto', one of {', '.join(map(repr, NORMALISATIONS))}, or a pair "
        "of three means and three positive standard deviations of pixels in 0..1; got "
        f"{normalisation!r}"
    )


def _mean_and_std(
    config: dict[str, Any], convention: Convention, normalisation: Normalisation
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not isinstance(normalisation, str):
        mean, std = normalisation
        return tuple(map(float, mean)), tuple(map(float, std))
    if normalisation != "auto":
        return NORMALISATIONS[normalisation]
    return tuple(convention.mean or config["mean"]), tuple(convention.std or config["std"])
