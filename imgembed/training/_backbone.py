"""Which network a method learns with: the embedder that builds it."""

import os
from typing import Any

import timm
import torch
from sklearn.base import clone
from torch import Tensor

from ..deep._checkpoints import read_checkpoint
from ..deep._cnn import CNNEmbedder
from ..deep._pooling import returns_tokens, token_layout
from ..deep._timm_embedder import TimmEmbedder
from ..deep._vit import ViTEmbedder

Backbone = str | TimmEmbedder
Path = str | os.PathLike[str]

# What training code calls a network that timm has under another name.
_NAMES_IN_TIMM = {  # MoCo v3's
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_large": "vit_large_patch16_224",
}


def resolve_backbone(backbone: Backbone, checkpoint: Path | None = None) -> TimmEmbedder:
    """The embedder that builds the network.

    Parameters
    ----------
    backbone : "auto", str or TimmEmbedder
        "auto" is what the checkpoint says that it is, or ``"resnet50"``; another str is a name
        in timm.
    checkpoint : path or None, default=None
        Where its weights are, in place of its own.

    Returns
    -------
    embedder : TimmEmbedder
        New and not fitted. Where only a name is given, convolutional networks are pooled by
        the average; transformers by the mean of the patch tokens, or with a checkpoint by
        the class token, if there is one.

    Raises
    ------
    TypeError, ValueError
        If there is no such network.
    CheckpointError
        If the checkpoint cannot be read.
    """
    if isinstance(backbone, TimmEmbedder):
        embedder: TimmEmbedder = clone(backbone)
        return embedder if checkpoint is None else embedder.set_params(weights=checkpoint)
    if not isinstance(backbone, str):
        raise TypeError(
            "backbone must be 'auto', the name of a model in timm, a CNNEmbedder or a "
            f"ViTEmbedder; got {backbone!r}"
        )
    weights = "pretrained" if checkpoint is None else checkpoint
    name = _name(checkpoint) if backbone == "auto" else backbone
    if not timm.is_model(name):
        raise ValueError(_not_in_timm(name, checkpoint))
    network, output = _outline(name)
    if not returns_tokens(network, output):
        return CNNEmbedder(name, weights)
    has_cls = token_layout(network, output).has_cls and checkpoint is not None
    return ViTEmbedder(name, weights, "cls" if has_cls else "mean")


def _name(checkpoint: Path | None) -> str:
    architecture = None if checkpoint is None else read_checkpoint(checkpoint).architecture
    name = architecture or "resnet50"
    return _NAMES_IN_TIMM.get(name, name)


def _outline(name: str) -> tuple[Any, Tensor]:
    """A network and its output for one image, without any numbers in them."""
    with torch.device("meta"), torch.no_grad():
        network: Any = timm.create_model(name, num_classes=0).eval()
        return network, network.forward_features(torch.zeros(1, *network.default_cfg["input_size"]))


def _not_in_timm(name: str, checkpoint: Path | None) -> str:
    if checkpoint is None:
        return f"timm has no model {name!r}; timm.list_models() lists all"
    return (
        f"{os.fspath(checkpoint)!r} says that its network is {name!r}, and timm has none of this "
        "name; pass the one that it is as backbone, such as backbone='resnet50'"
    )
