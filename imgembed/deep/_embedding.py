"""Modules from inputs to vectors: a network, what is taken of it, and how that is pooled."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ._pooling import TokenLayout, pool_maps, pool_tokens


class Embedding(nn.Module):
    """What makes vectors of a network's inputs.

    Parameters
    ----------
    network : torch.nn.Module
        A timm network without classifier.
    pooling : str
        How feature maps or tokens become one vector; "own" is the network's own way.
    layer : int or None
        The stage or block that is taken, from 0 or, if negative, from the end; None is the
        network's output.
    """

    def __init__(self, network: nn.Module, pooling: str, layer: int | None) -> None:
        super().__init__()
        self.network: Any = network
        self.pooling = pooling
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        """Vectors of shape (n_images, n_features), dtype float32."""
        if self.pooling == "own":
            vectors: Tensor = self.network(inputs).float()
            return vectors
        return self.pooled(inputs)

    def pooled(self, inputs: Tensor) -> Tensor:
        """Vectors that are pooled here."""
        raise NotImplementedError

    def patches(self, inputs: Tensor) -> Tensor:
        """Local descriptors of shape (n_images, n_patches, n_features), row by row."""
        raise NotImplementedError

    def _intermediate(self, inputs: Tensor, **options: Any) -> Any:
        """What leaves a stage or block, before any norm at the network's end."""
        return self.network.forward_intermediates(
            inputs, indices=[self.layer], intermediates_only=True, stop_early=True, **options
        )[0]


class MapEmbedding(Embedding):
    """Of a network that returns feature maps."""

    def pooled(self, inputs: Tensor) -> Tensor:
        """Vectors of pooled feature maps."""
        return pool_maps(self._maps(inputs), self.pooling)

    def patches(self, inputs: Tensor) -> Tensor:
        """The places of the feature maps."""
        return self._maps(inputs).flatten(2).transpose(1, 2)

    def _maps(self, inputs: Tensor) -> Tensor:
        if self.layer is None:
            maps: Tensor = self.network.forward_features(inputs)
        else:
            maps = self._intermediate(inputs, output_fmt="NCHW")
        return maps


class TokenEmbedding(Embedding):
    """Of a network that returns tokens.

    Parameters
    ----------
    network : torch.nn.Module
    pooling : str
    layer : int or None
        As above.
    layout : TokenLayout
        What the tokens are.
    """

    def __init__(
        self, network: nn.Module, pooling: str, layer: int | None, layout: TokenLayout
    ) -> None:
        super().__init__(network, pooling, layer)
        # The norm of a layer within is not the one at the network's end.
        self.layout = layout if layer is None else replace(layout, norm=nn.Identity())

    def pooled(self, inputs: Tensor) -> Tensor:
        """Vectors of pooled tokens."""
        return pool_tokens(self._tokens(inputs), self.layout, self.pooling)

    def patches(self, inputs: Tensor) -> Tensor:
        """The patch tokens."""
        return self._tokens(inputs)[:, self.layout.n_prefix_tokens :]

    def _tokens(self, inputs: Tensor) -> Tensor:
        if self.layer is None:
            tokens: Tensor = self.network.forward_features(inputs)
            return tokens.flatten(1, 2) if tokens.ndim == 4 else tokens
        if self.layout.n_prefix_tokens == 0:
            maps: Tensor = self._intermediate(inputs, output_fmt="NCHW")
            return maps.flatten(2).transpose(1, 2)
        patches, prefix = self._intermediate(inputs, output_fmt="NLC", return_prefix_tokens=True)
        return torch.cat([prefix, patches], dim=1)
