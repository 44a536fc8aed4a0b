"""Encoder: a network with a projection behind it, as contrastive methods train it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


class Encoder(nn.Module):
    """A network, and what projects its vectors to where they are compared: two linear layers.

    Parameters
    ----------
    embedding : torch.nn.Module
        From inputs to vectors; its ``network`` is the backbone.
    n_features : int
        The width of its vectors.
    n_projection : int or None
        The width of the projections; None compares the vectors themselves.
    """

    def __init__(self, embedding: nn.Module, n_features: int, n_projection: int | None) -> None:
        super().__init__()
        self.embedding = embedding
        self.n_projection = n_projection or n_features
        self.projection: nn.Module = nn.Identity()
        if n_projection is not None:
            self.projection = nn.Sequential(
                nn.Linear(n_features, n_features), nn.ReLU(), nn.Linear(n_features, n_projection)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Projections of unit length, of shape (n_images, n_projection)."""
        return functional.normalize(self.projection(self.embedding(inputs)), dim=1)


def set_training(network: nn.Module, *, freeze_statistics: bool) -> None:
    """Put a network into training mode.

    Parameters
    ----------
    network : torch.nn.Module
    freeze_statistics : bool
        Whether batch norms normalise by the statistics that they have, as in evaluation.
    """
    network.train()
    for layer in network.modules():
        if freeze_statistics and isinstance(layer, _BatchNorm):
            layer.eval()


def has_batch_norm(network: nn.Module) -> bool:
    """Whether images in a batch see each other.

    Parameters
    ----------
    network : torch.nn.Module

    Returns
    -------
    has : bool
    """
    return any(isinstance(layer, _BatchNorm) for layer in network.modules())


def to_file(learner: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The tensors of what learns, under the names that they have in a checkpoint.

    Parameters
    ----------
    learner : torch.nn.Module
        With encoders in it.
    prefix : str
        What stands before every name.

    Returns
    -------
    tensors : dict of str to Tensor
        On the CPU.
    """
    return {prefix + _in_file(name): value.cpu() for name, value in learner.state_dict().items()}


def from_file(learner: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Fill what learns with the tensors of a checkpoint.

    Parameters
    ----------
    learner : torch.nn.Module
        Changed in place.
    tensors : mapping of str to Tensor
        As :func:`to_file` made them.
    prefix : str
        What stands before every name.
    """
    names = {name: prefix + _in_file(name) for name in learner.state_dict()}
    with torch.no_grad():
        learner.load_state_dict({name: tensors[there] for name, there in names.items()})


def _in_file(name: str) -> str:
    """Backbone and projection are one network there, whose classifier ``fc`` is the projection."""
    return name.replace("embedding.network.", "").replace("projection.", "fc.")
