"""Embedders whose network learns from the user's images, with labels or without."""

from ._finetune import FineTunedEmbedder
from ._moco import MoCoEmbedder
from ._simclr import SimCLREmbedder

__all__ = ["FineTunedEmbedder", "MoCoEmbedder", "SimCLREmbedder"]
