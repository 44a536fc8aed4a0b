"""Which embedder a timm model wants: by what it returns, without its weights."""

import timm
import torch
from torch import Tensor, nn

from ._backbones import unknown_model
from ._cnn import CNNEmbedder
from ._pooling import returns_tokens, token_layout
from ._timm_embedder import TimmEmbedder
from ._vit import ViTEmbedder


def timm_embedder(model_name: str) -> TimmEmbedder:
    """The embedder for any timm model, with pretrained weights.

    Parameters
    ----------
    model_name : str
        Name of the model in timm.

    Returns
    -------
    embedder : CNNEmbedder or ViTEmbedder
        The first if the model returns feature maps, the second if it returns tokens; with
        ``pooling="own"`` if its tokens cannot be had after a norm. No weights are loaded.

    Raises
    ------
    ValueError
        If timm has no such model.

    Examples
    --------
    >>> from imgembed.deep import timm_embedder
    >>> timm_embedder("resnet18"), timm_embedder("vit_tiny_patch16_224")
    (CNNEmbedder(model_name='resnet18'), ViTEmbedder(model_name='vit_tiny_patch16_224'))
    """
    if not timm.is_model(model_name):
        raise ValueError(unknown_model(model_name))
    network, output = _outline(model_name)
    if not isinstance(output, Tensor):  # several outputs
        return ViTEmbedder(model_name, pooling="own")
    if not returns_tokens(network, output):
        return CNNEmbedder(model_name)
    try:
        token_layout(network, output)
    except ValueError:  # there is no norm before or behind them
        return ViTEmbedder(model_name, pooling="own")
    return ViTEmbedder(model_name)


def _outline(model_name: str) -> tuple[nn.Module, object]:
    """The network and what it returns: shapes without numbers, if it can be built so."""
    try:
        with torch.device("meta"):
            return _built(model_name)
    except RuntimeError:  # some compute numbers while they are built
        return _built(model_name)


def _built(model_name: str) -> tuple[nn.Module, object]:
    # Initial weights are drawn from the global generator, which is given back as it was.
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        network = timm.create_model(model_name, num_classes=0).eval()
        size = network.pretrained_cfg.get("input_size", (3, 224, 224))
        return network, network.forward_features(torch.zeros(1, *size))
