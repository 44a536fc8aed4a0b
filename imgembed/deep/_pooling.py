"""From feature maps and tokens to one vector an image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# The exponent and the least activation of Radenovic et al. 2018.
_GEM_POWER = 3.0
_GEM_LEAST = 1e-6
# Scales of R-MAC's regions, and how much neighbours overlap (Tolias et al. 2016).
_RMAC_SCALES = 3
_RMAC_OVERLAP = 0.4
_RMAC_MOST_EXTRA = 6  # regions along the longer side beyond those along the shorter one


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
        If the output is no sequence of tokens that the network's final norm precedes or follows.
    """
    name = type(network).__name__
    if not returns_tokens(network, output):
        raise ValueError(
            f"{name} returns feature maps of shape {tuple(output.shape[1:])}, not tokens; "
            "use CNNEmbedder"
        )
    has_cls = getattr(network, "cls_token", None) is not None
    n_prefix = getattr(network, "num_prefix_tokens", None)
    candidates = (getattr(network, "fc_norm", None), getattr(_head(network), "norm", None))
    after: list[Any] = [norm for norm in candidates if _is_norm(norm)]
    if not (after or _is_norm(getattr(network, "norm", None))) or (has_cls and n_prefix is None):
        raise ValueError(
            f"{name} does not return all its tokens just before or after its final norm, so that "
            "pooling them here would not be what its authors trained; take pooling='own', the "
            "network's own pooled output, or another model"
        )
    norm = after[0] if after else nn.Identity()
    return TokenLayout(n_prefix or 0, has_cls and (n_prefix or 0) > 0, norm)


def returns_tokens(network: Any, output: Tensor) -> bool:
    """Whether a network's ``forward_features`` returns tokens, not feature maps.

    Parameters
    ----------
    network : torch.nn.Module
        A timm network.
    output : Tensor
        What its forward_features returned.

    Returns
    -------
    tokens : bool
    """
    return output.ndim == 3 or (
        output.ndim == 4 and str(getattr(network, "output_fmt", "")).endswith("NHWC")
    )


def pool_tokens(tokens: Tensor, layout: TokenLayout, pooling: str) -> Tensor:
    """Pool output tokens.

    Parameters
    ----------
    tokens : Tensor of shape (n_images, n_tokens, n_features)
    layout : TokenLayout
    pooling : {"mean", "mean_all", "cls", "cls+mean", "max", "gem"}

    Returns
    -------
    vectors : Tensor of shape (n_images, n_features), dtype float32
        Twice as wide for "cls+mean".
    """
    exact = tokens.float()  # sums of half precision are not
    pooled = [_POOL_TOKENS[part](exact, layout).to(tokens.dtype) for part in pooling.split("+")]
    return torch.cat([layout.norm(one).float() for one in pooled], dim=1)


def pool_maps(maps: Tensor, pooling: str) -> Tensor:
    """Pool feature maps.

    Parameters
    ----------
    maps : Tensor of shape (n_images, n_features, height, width)
    pooling : {"avg", "mac", "gem", "rmac"}
        "max" is "mac" under its other name.

    Returns
    -------
    vectors : Tensor of shape (n_images, n_features), dtype float32
    """
    return _POOL_MAPS[pooling](maps.float())


def rmac_regions(height: int, width: int) -> list[tuple[int, int, int]]:
    """The square regions of R-MAC.

    At scale l of 1, 2, 3 they have an edge of ``2 * min(height, width) / (l + 1)``; l of them lie
    along the shorter side, and along the longer one as many more as bring the overlap of
    neighbours at the first scale nearest to 40 %.

    Parameters
    ----------
    height, width : int
        Of the feature maps.

    Returns
    -------
    regions : list of (int, int, int)
        Top, left, and edge.
    """
    shorter, longer = min(height, width), max(height, width)
    n_extra = 0
    if longer > shorter:
        overlaps = [1 - (longer - shorter) / n / shorter for n in range(1, _RMAC_MOST_EXTRA + 1)]
        nearest = min(range(_RMAC_MOST_EXTRA), key=lambda i: abs(overlaps[i] - _RMAC_OVERLAP))
        n_extra = nearest + 1
    regions = []
    for scale in range(1, _RMAC_SCALES + 1):
        edge = max(1, 2 * shorter // (scale + 1))
        tops = _starts(height, edge, scale + (n_extra if height > width else 0))
        lefts = _starts(width, edge, scale + (n_extra if width > height else 0))
        regions += [(top, left, edge) for top in tops for left in lefts]
    return regions


def _starts(length: int, edge: int, n_regions: int) -> list[int]:
    """Where regions begin that are spread evenly from end to end."""
    if n_regions == 1:
        return [(length - edge) // 2]
    return [i * (length - edge) // (n_regions - 1) for i in range(n_regions)]


def _rmac(maps: Tensor) -> Tensor:
    """The sum of the regions' maxima, each of unit length, again of unit length."""
    total = torch.zeros(maps.shape[:2], dtype=maps.dtype, device=maps.device)
    for top, left, edge in rmac_regions(*maps.shape[2:]):
        region = maps[:, :, top : top + edge, left : left + edge]
        total = total + functional.normalize(region.amax(dim=(2, 3)), dim=1)
    return functional.normalize(total, dim=1)


def _gem(values: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """The generalised mean: between the mean (power 1) and the maximum."""
    powered: Tensor = values.clamp(min=_GEM_LEAST) ** _GEM_POWER
    return powered.mean(dim=dim) ** (1 / _GEM_POWER)


def _head(network: Any) -> Any:
    return getattr(network, "head", None)


def _is_norm(layer: Any) -> bool:
    return isinstance(layer, nn.Module) and not isinstance(layer, (nn.Identity, nn.ModuleList))


def _patches(tokens: Tensor, layout: TokenLayout) -> Tensor:
    return tokens[:, layout.n_prefix_tokens :]


_POOL_TOKENS: dict[str, Callable[[Tensor, TokenLayout], Tensor]] = {
    "mean": lambda tokens, layout: _patches(tokens, layout).mean(dim=1),
    "mean_all": lambda tokens, layout: tokens.mean(dim=1),
    "cls": lambda tokens, layout: tokens[:, 0],
    "max": lambda tokens, layout: _patches(tokens, layout).amax(dim=1),
    "gem": lambda tokens, layout: _gem(_patches(tokens, layout), 1),
}
_POOL_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda maps: maps.mean(dim=(2, 3)),
    "max": lambda maps: maps.amax(dim=(2, 3)),
    "mac": lambda maps: maps.amax(dim=(2, 3)),
    "gem": lambda maps: _gem(maps, (2, 3)),
    "rmac": _rmac,
}
