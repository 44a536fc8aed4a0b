"""Images as vectors, and search by image, with the API of scikit-learn.

The public names load when they are first used: ``import imgembed`` loads neither
torch nor OpenCV nor scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import classical, evaluation, plotting, testing
    from .base import FingerprintError, ImageEmbedder
    from .cache import CacheError, CacheInfo, CacheWarning, EmbeddingCache
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
    from .index import (
        CorruptIndexError,
        DuplicateIdError,
        IndexChangedError,
        IndexLockedError,
        LabelledCalibration,
        NearestNeighborIndex,
        Neighbors,
        RandomPairCalibration,
        RecallCurve,
        RecallEstimate,
        UnknownIdError,
        WhereError,
    )
    from .rerank import GeometricReranker, QueryExpansion
    from .search import ImageSearch, SearchResult
    from .training import FineTunedEmbedder, MoCoEmbedder, SimCLREmbedder

__version__ = "0.1.0"

__all__ = [
    "AKAZEEmbedder",
    "AKAZEExtractor",
    "BagOfVisualWords",
    "CLIPEmbedder",
    "CNNEmbedder",
    "CacheError",
    "CacheInfo",
    "CacheWarning",
    "CheckpointError",
    "CheckpointReport",
    "CorruptIndexError",
    "DuplicateIdError",
    "EmbeddingCache",
    "FineTunedEmbedder",
    "FingerprintError",
    "FisherVector",
    "GeometricReranker",
    "HOGEmbedder",
    "ImageEmbedder",
    "ImageReadError",
    "ImageReadWarning",
    "ImageSearch",
    "IndexChangedError",
    "IndexLockedError",
    "LabelledCalibration",
    "LocalFeatures",
    "MoCoEmbedder",
    "NearestNeighborIndex",
    "Neighbors",
    "ORBEmbedder",
    "ORBExtractor",
    "QueryExpansion",
    "RandomPairCalibration",
    "RankedCaption",
    "RecallCurve",
    "RecallEstimate",
    "SIFTEmbedder",
    "SIFTExtractor",
    "SURFEmbedder",
    "SURFExtractor",
    "SearchResult",
    "SimCLREmbedder",
    "UnknownIdError",
    "VLAD",
    "ViTEmbedder",
    "VisualVocabulary",
    "WhereError",
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
    "CacheError": "cache",
    "CacheInfo": "cache",
    "CacheWarning": "cache",
    "CheckpointError": "deep",
    "CheckpointReport": "deep",
    "CorruptIndexError": "index",
    "DuplicateIdError": "index",
    "EmbeddingCache": "cache",
    "FineTunedEmbedder": "training",
    "FingerprintError": "base",
    "FisherVector": "classical",
    "GeometricReranker": "rerank",
    "HOGEmbedder": "classical",
    "ImageEmbedder": "base",
    "ImageReadError": "images",
    "ImageReadWarning": "images",
    "ImageSearch": "search",
    "IndexChangedError": "index",
    "IndexLockedError": "index",
    "LabelledCalibration": "index",
    "LocalFeatures": "classical",
    "MoCoEmbedder": "training",
    "NearestNeighborIndex": "index",
    "Neighbors": "index",
    "ORBEmbedder": "classical",
    "ORBExtractor": "classical",
    "QueryExpansion": "rerank",
    "RandomPairCalibration": "index",
    "RankedCaption": "deep",
    "RecallCurve": "index",
    "RecallEstimate": "index",
    "SIFTEmbedder": "classical",
    "SIFTExtractor": "classical",
    "SURFEmbedder": "classical",
    "SURFExtractor": "classical",
    "SearchResult": "search",
    "SimCLREmbedder": "training",
    "UnknownIdError": "index",
    "VLAD": "classical",
    "ViTEmbedder": "deep",
    "VisualVocabulary": "classical",
    "WhereError": "index",
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
