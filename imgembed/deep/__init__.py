"""Networks as embedders: timm backbones with the head removed, and CLIP."""

from ._checkpoints import CheckpointError, CheckpointReport
from ._clip import CLIPEmbedder, RankedCaption
from ._cnn import CNNEmbedder
from ._timm_models import timm_embedder
from ._vit import ViTEmbedder
from ._zero_shot import ZeroShotClassifier

__all__ = [
    "CLIPEmbedder",
    "CNNEmbedder",
    "CheckpointError",
    "CheckpointReport",
    "RankedCaption",
    "ViTEmbedder",
    "ZeroShotClassifier",
    "timm_embedder",
]
