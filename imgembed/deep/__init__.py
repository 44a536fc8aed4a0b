"""Networks as embedders: timm backbones with the head removed."""

from ._checkpoints import CheckpointError
from ._embedders import CNNEmbedder, ViTEmbedder

__all__ = ["CNNEmbedder", "CheckpointError", "ViTEmbedder"]
