"""Features made by hand: local descriptors, codebooks and what is built on them."""

from ._embedders import SIFTEmbedder

__all__ = ["SIFTEmbedder"]
