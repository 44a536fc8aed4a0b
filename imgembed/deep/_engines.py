"""Engines: what runs an embedding, torch or ONNX Runtime."""

import gc
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..base import check_choice
from ._preprocessing import Preprocessing

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]
Function = Callable[[Tensor], Tensor]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ENGINES = ("auto", "torch", "onnxruntime")


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


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The type of numbers that a network computes in.

    Parameters
    ----------
    dtype : {"float32", "bfloat16", "float16"}
    device : torch.device

    Returns
    -------
    dtype : torch.dtype

    Raises
    ------
    ValueError
        If there is no such type, or it is float16 on a CPU.
    """
    check_choice("dtype", dtype, tuple(DTYPES))
    if dtype == "float16" and device.type == "cpu":
        raise ValueError(
            "dtype='float16' gains nothing on a CPU and loses precision; use 'float32', or "
            "'bfloat16' where the processor computes in it (AMX, AVX512-BF16)"
        )
    return DTYPES[dtype]


class TorchEngine:
    """Run a function of inputs in torch's inference mode.

    Batches that do not fit into a device's memory are halved until they do, and a warning says
    so once.

    Parameters
    ----------
    preprocessing : Preprocessing
        It normalises pixels.
    device : torch.device
    dtype : torch.dtype
        Of the inputs.
    """

    def __init__(
        self, preprocessing: Preprocessing, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.preprocessing = preprocessing
        self.device = device
        self.dtype = dtype
        self.most_images: int | None = None

    def run(self, function: Function, pixels: Pixels) -> Vectors:
        """Pixels through a function, in as many parts as memory needs.

        Parameters
        ----------
        function : callable
            From inputs of shape (n_images, 3, height, width) to a tensor with a row an image.
        pixels : ndarray of shape (n_images, height, width, 3), dtype uint8

        Returns
        -------
        output : ndarray with a row an image, dtype float32
        """
        done: list[Vectors] = []
        while len(pixels):
            part = pixels[: self.most_images]
            output = self._try(function, part)
            if output is None:
                self._shrink(len(part))
                continue
            done.append(output)
            pixels = pixels[len(part) :]
        return np.concatenate(done)

    def _try(self, function: Function, pixels: Pixels) -> Vectors | None:
        """The output, or None if memory does not suffice for several images."""
        try:
            with torch.inference_mode():
                on_device = torch.from_numpy(pixels).to(self.device)
                inputs = self.preprocessing.normalise(on_device).to(self.dtype)
                return function(inputs).float().cpu().numpy()
        except RuntimeError as error:  # CUDA's has a type of its own, MPS's has not
            if "out of memory" not in str(error).lower() or len(pixels) == 1:
                raise
        return None  # here the error, which holds on to tensors, is gone

    def _shrink(self, n_images: int) -> None:
        self.most_images = n_images // 2
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"{n_images} images do not fit into the memory of {self.device}; going on with "
            f"{self.most_images} at once. Set batch_size={self.most_images} to spare the try",
            UserWarning,
            stacklevel=4,
        )
