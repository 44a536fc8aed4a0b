"""Parts of a network: which of its parameters are trained, and which stay as they are."""

from typing import Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn

PARTS = ("last_block", "head", "all")


def trainable_names(
    network: Any, part: str, embedding: nn.Module, inputs: Tensor
) -> frozenset[str]:
    """The names of the parameters that belong to a part of a network.

    Only parameters that have a say in the embedding are named: what lies behind the layer that
    is taken, or in a head that the pooling goes around, would be trained in vain.

    Parameters
    ----------
    network : torch.nn.Module
        A timm network without classifier, in evaluation mode.
    part : {"last_block", "head", "all"}
        "last_block" is the last stage of a convolutional network, or the last block of a
        transformer, as timm groups them, and all that comes behind it. Of the "head", which is
        not the network's, it has none.
    embedding : torch.nn.Module
        From inputs to vectors; it contains the network.
    inputs : Tensor of shape (1, 3, height, width)
        To see what has a say.

    Returns
    -------
    names : frozenset of str
    """
    if part == "head":
        return frozenset()
    used = _behind(network, embedding, inputs)
    if part == "all":
        return used
    # A hidden layer of a head, which timm may count apart, is no block of its own; nor is a norm.
    body = used & _behind(network, network.forward_features, inputs)
    parameters, group_of = dict(network.named_parameters()), _groups(network)
    last = max(group_of[name] for name in body if parameters[name].ndim > 1)
    return frozenset(name for name in used if group_of[name] >= last)


def train_only(network: nn.Module, names: frozenset[str]) -> None:
    """Make some parameters trainable, and leave all else as in evaluation.

    Layers that own none of them stay in evaluation mode: their batch norms keep their
    statistics, and dropout does nothing.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place.
    names : frozenset of str
        Of the parameters that are trained.
    """
    network.eval()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in names)
    for layer in network.modules():
        own = list(layer.parameters(recurse=False))
        layer.training = bool(own) and all(parameter.requires_grad for parameter in own)


def _behind(network: nn.Module, forward: Any, inputs: Tensor) -> frozenset[str]:
    """The names of the parameters that an output depends on."""
    names, parameters = zip(
        *((name, one) for name, one in network.named_parameters() if one.requires_grad), strict=True
    )
    with torch.enable_grad():
        gradients = torch.autograd.grad(forward(inputs).sum(), parameters, allow_unused=True)
    return frozenset(n for n, one in zip(names, gradients, strict=True) if one is not None)


def _groups(network: Any) -> dict[str, int]:
    """The number of each parameter's stage or block, which rises along the network."""
    try:
        groups: dict[str, int] = group_parameters(
            network, network.group_matcher(coarse=True), reverse=True
        )
    except (AssertionError, AttributeError):  # some families have none, and name their last stage
        names = [name for name, _ in network.named_parameters()]
        last = f"{network.feature_info[-1]['module']}."
        first = next(i for i, name in enumerate(names) if name.startswith(last))
        groups = {name: int(i >= first) for i, name in enumerate(names)}
    return groups
