"""Images as vectors, and search by image, with the API of scikit-learn.

The public names load when they are first used: ``import imgembed`` loads neither
torch nor OpenCV nor scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import classical, evaluation, plotting, testing
    from .base import ImageEmbedder
    from .classical import (
        VLAD,
        AKAZEEmbedder,
        AKAZEExtractor,
        BagOfVisualWords,
        FisherVector,
        HOGEmbedder,
        LocalFeatures,
        ORBEmbedder,
        ORBExtractor,
        SIFTEmbedder,
        SIFTExtractor,
        SURFEmbedder,
        SURFExtractor,
        VisualVocabulary,
    )
    from .deep import (
        CheckpointError,
        CheckpointReport,
        CLIPEmbedder,
        CNNEmbedder,
        RankedCaption,
        ViTEmbedder,
        ZeroShotClassifier,
    )
    from .images import ImageReadError, ImageReadWarning, list_images, read_image
    from .index import NearestNeighborIndex
    from .rerank import GeometricReranker, QueryExpansion
    from .search import FingerprintError, ImageSearch, SearchResult
    from .training import FineTunedEmbedder, MoCoEmbedder, SimCLREmbedder

__version__ = "0.1.0"

__all__ = [
    "AKAZEEmbedder",
    "AKAZEExtractor",
    "BagOfVisualWords",
    "CLIPEmbedder",
    "CNNEmbedder",
    "CheckpointError",
    "CheckpointReport",
    "FineTunedEmbedder",
    "FingerprintError",
    "FisherVector",
    "GeometricReranker",
    "HOGEmbedder",
    "ImageEmbedder",
    "ImageReadError",
    "ImageReadWarning",
    "ImageSearch",
    "LocalFeatures",
    "MoCoEmbedder",
    "NearestNeighborIndex",
    "ORBEmbedder",
    "ORBExtractor",
    "QueryExpansion",
    "RankedCaption",
    "SIFTEmbedder",
    "SIFTExtractor",
    "SURFEmbedder",
    "SURFExtractor",
    "SearchResult",
    "SimCLREmbedder",
    "VLAD",
    "ViTEmbedder",
    "VisualVocabulary",
    "ZeroShotClassifier",
    "classical",
    "evaluation",
    "list_images",
    "plotting",
    "read_image",
    "testing",
]

_ROOMS = {"classical", "evaluation", "plotting", "testing"}
_ROOM_OF = {
    "AKAZEEmbedder": "classical",
    "AKAZEExtractor": "classical",
    "BagOfVisualWords": "classical",
    "CLIPEmbedder": "deep",
    "CNNEmbedder": "deep",
    "CheckpointError": "deep",
    "CheckpointReport": "deep",
    "FineTunedEmbedder": "training",
    "FingerprintError": "search",
    "FisherVector": "classical",
    "GeometricReranker": "rerank",
    "HOGEmbedder": "classical",
    "ImageEmbedder": "base",
    "ImageReadError": "images",
    "ImageReadWarning": "images",
    "ImageSearch": "search",
    "LocalFeatures": "classical",
    "MoCoEmbedder": "training",
    "NearestNeighborIndex": "index",
    "ORBEmbedder": "classical",
    "ORBExtractor": "classical",
    "QueryExpansion": "rerank",
    "RankedCaption": "deep",
    "SIFTEmbedder": "classical",
    "SIFTExtractor": "classical",
    "SURFEmbedder": "classical",
    "SURFExtractor": "classical",
    "SearchResult": "search",
    "SimCLREmbedder": "training",
    "VLAD": "classical",
    "ViTEmbedder": "deep",
    "VisualVocabulary": "classical",
    "ZeroShotClassifier": "deep",
    "list_images": "images",
    "read_image": "images",
}


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
