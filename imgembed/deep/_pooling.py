"""From output tokens to one vector: arrays of tokens in, one vector an image out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

POOLINGS = ("mean", "mean_all", "cls", "cls+mean", "max")


@dataclass(frozen=True)
class TokenLayout:
    """What the output tokens of a vision transformer are.

    Parameters
    ----------
    n_prefix_tokens : int
        Tokens before the patch tokens: class, distillation and register tokens.
    has_cls : bool
        Whether the first of them is a class token.
    norm : callable
        The norm that the network puts after pooling; the identity where its final norm
        comes before.
    """

    n_prefix_tokens: int
    has_cls: bool
    norm: Callable[[Tensor], Tensor]


def token_layout(network: Any, output: Tensor) -> TokenLayout:
    """Find out what the output of a network's ``forward_features`` is.

    Parameters
    ----------
    network : torch.nn.Module
        A timm network.
    output : Tensor
        What its forward_features returned for one image.

    Returns
    -------
    layout : TokenLayout

    Raises
    ------
    ValueError
        If the output is no sequence of tokens after the network's final norm.
    """
    name = type(network).__name__
    grid = output.ndim == 4 and str(getattr(network, "output_fmt", "")).endswith("NHWC")
    if not grid and output.ndim != 3:
        raise ValueError(
            f"{name} returns feature maps of shape {tuple(output.shape[1:])}, not tokens; "
            "use CNNEmbedder"
        )
    has_cls = getattr(network, "cls_token", None) is not None
    n_prefix = getattr(network, "num_prefix_tokens", None)
    norms: list[Any] = [getattr(network, attribute, None) for attribute in ("norm", "fc_norm")]
    if not any(_is_norm(norm) for norm in norms) or (has_cls and n_prefix is None):
        raise ValueError(
            f"{name} does not return all its tokens after its final norm, so that pooling them "
            "here would not be what its authors trained; use CNNEmbedder, which takes the "
            "network's own pooled output, or another model"
        )
    after = norms[1] if _is_norm(norms[1]) else nn.Identity()
    return TokenLayout(n_prefix or 0, has_cls and (n_prefix or 0) > 0, after)


def pool_tokens(tokens: Tensor, layout: TokenLayout, pooling: str) -> Tensor:
    """Pool output tokens.

    Parameters
    ----------
    tokens : Tensor of shape (n_images, n_tokens, n_features) or (n_images, height, width, \
n_features)
    layout : TokenLayout
    pooling : {"mean", "mean_all", "cls", "cls+mean", "max"}

    Returns
    -------
    vectors : Tensor of shape (n_images, n_features), twice as wide for "cls+mean"
    """
    if tokens.ndim == 4:
        tokens = tokens.flatten(1, 2)
    pooled = [layout.norm(_POOL[part](tokens, layout)) for part in pooling.split("+")]
    return torch.cat(pooled, dim=1)


def _is_norm(layer: Any) -> bool:
    return layer is not None and not isinstance(layer, nn.Identity)


_POOL: dict[str, Callable[[Tensor, TokenLayout], Tensor]] = {
    "mean": lambda tokens, layout: tokens[:, layout.n_prefix_tokens :].mean(dim=1),
    "mean_all": lambda tokens, layout: tokens.mean(dim=1),
    "cls": lambda tokens, layout: tokens[:, 0],
    "max": lambda tokens, layout: tokens[:, layout.n_prefix_tokens :].amax(dim=1),
}
