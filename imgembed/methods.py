"""Embedders by short names: for the command line, and wherever a word chooses the method."""

import difflib
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .base import ImageEmbedder

_TIMM = "timm:"


def make_embedder(name: str) -> "ImageEmbedder":
    """Make an embedder from a short name.

    Parameters
    ----------
    name : str
        One of :data:`imgembed.methods.METHODS`, or ``timm:MODEL`` for any model of timm, such as
        ``timm:convnext_tiny``.

    Returns
    -------
    embedder : ImageEmbedder
        Not fitted, without its weights; where something is drawn at random, ``random_state``
        is 0.

    Raises
    ------
    ValueError
        If there is no such name, or timm has no such model.

    Examples
    --------
    >>> from imgembed import make_embedder
    >>> make_embedder("sift-vlad")
    SIFTEmbedder(aggregation='vlad', random_state=0)
    >>> make_embedder("timm:resnet18")
    CNNEmbedder(model_name='resnet18')
    """
    check_method(name)
    made: ImageEmbedder
    if name.startswith(_TIMM):
        made = _room("deep").timm_embedder(name.removeprefix(_TIMM))
        return made
    method = _TABLE[name]
    made = getattr(_room(method.room), method.embedder)(**method.parameters)
    return made


def check_method(name: str) -> None:
    """Check that :func:`make_embedder` knows a name, without loading anything.

    Parameters
    ----------
    name : str
        What follows ``timm:`` is not looked at.

    Raises
    ------
    ValueError
        If it does not.
    """
    if name not in _TABLE and not name.startswith(_TIMM):
        raise ValueError(_unknown_name(name))


class _Method(NamedTuple):
    words: str
    room: str
    embedder: str
    parameters: dict[str, Any]


_SEEDED: dict[str, Any] = {"random_state": 0}
_LITE0 = {"model_name": "tf_efficientnet_lite0", "weights": "bundled"}
_VLAD = {"aggregation": "vlad", **_SEEDED}
_FISHER = {"aggregation": "fisher", **_SEEDED}
# Classes by name, so that naming the methods loads none of their libraries.
_TABLE = {
    "lite0": _Method("EfficientNet-Lite0, needs no network", "deep", "CNNEmbedder", _LITE0),
    "cnn": _Method("ResNet-50", "deep", "CNNEmbedder", {}),
    "vit": _Method("ViT-B/16, mean of its patch tokens", "deep", "ViTEmbedder", {}),
    "sift": _Method("visual words of SIFT", "classical", "SIFTEmbedder", _SEEDED),
    "sift-vlad": _Method("VLAD of SIFT", "classical", "SIFTEmbedder", _VLAD),
    "sift-fisher": _Method("Fisher vectors of SIFT", "classical", "SIFTEmbedder", _FISHER),
    "surf": _Method("visual words of SURF", "classical", "SURFEmbedder", _SEEDED),
    "orb": _Method("visual words of ORB", "classical", "ORBEmbedder", _SEEDED),
    "akaze": _Method("visual words of AKAZE", "classical", "AKAZEEmbedder", _SEEDED),
    "hog": _Method("histograms of oriented gradients", "classical", "HOGEmbedder", {}),
    "clip": _Method("CLIP ViT-B/32, images and text", "deep", "CLIPEmbedder", {}),
}
METHODS: Mapping[str, str] = MappingProxyType({n: m.words for n, m in _TABLE.items()})
"""The names that :func:`make_embedder` knows, and in a few words what each is."""


def _room(name: str) -> Any:
    return import_module(f"{__package__}.{name}")


def _unknown_name(name: str) -> str:
    close = difflib.get_close_matches(name, _TABLE, n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return (
        f"there is no method {name!r}.{hint} There are {', '.join(_TABLE)}, and timm:MODEL for any "
        "model of timm, such as timm:convnext_tiny"
    )
