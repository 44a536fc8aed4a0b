"""Images as vectors, and search by image, with the API of scikit-learn.

The public names load when they are first used: ``import imgembed`` loads neither
torch nor OpenCV nor scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import classical, evaluation, pages, plotting, testing
    from ._workers import WorkersLostError
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
    from .comparison import ComparedEmbedder, Comparison, compare_embedders
    from .deep import (
        CheckpointError,
        CheckpointReport,
        CLIPEmbedder,
        CNNEmbedder,
        RankedCaption,
        ViTEmbedder,
        ZeroShotClassifier,
    )
    from .distributed import (
        DatasetError,
        DatasetMismatchError,
        DatasetWriteError,
        EmbedBatch,
        EmbeddedDataset,
        EmbeddedShard,
        embed_dataset,
    )
    from .duplicates import DuplicateImage, Duplicates, find_duplicates
    from .embedder_files import EmbedderFileError, load_embedder, save_embedder
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
    from .methods import make_embedder
    from .rerank import GeometricReranker, QueryExpansion
    from .search import ImageSearch, SearchResult
    from .servers import (
        ClickHouseIndex,
        MilvusIndex,
        PostgresIndex,
        ServerCredentialsError,
        ServerError,
        ServerTableError,
        ServerTimeoutError,
        ServerUnavailableError,
        ServerVersionError,
    )
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
    "ClickHouseIndex",
    "ComparedEmbedder",
    "Comparison",
    "CorruptIndexError",
    "DatasetError",
    "DatasetMismatchError",
    "DatasetWriteError",
    "DuplicateIdError",
    "DuplicateImage",
    "Duplicates",
    "EmbedBatch",
    "EmbedderFileError",
    "EmbeddedDataset",
    "EmbeddedShard",
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
    "MilvusIndex",
    "MoCoEmbedder",
    "NearestNeighborIndex",
    "Neighbors",
    "ORBEmbedder",
    "ORBExtractor",
    "PostgresIndex",
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
    "ServerCredentialsError",
    "ServerError",
    "ServerTableError",
    "ServerTimeoutError",
    "ServerUnavailableError",
    "ServerVersionError",
    "SimCLREmbedder",
    "UnknownIdError",
    "VLAD",
    "ViTEmbedder",
    "VisualVocabulary",
    "WhereError",
    "WorkersLostError",
    "ZeroShotClassifier",
    "classical",
    "compare_embedders",
    "embed_dataset",
    "evaluation",
    "find_duplicates",
    "list_images",
    "load_embedder",
    "make_embedder",
    "pages",
    "plotting",
    "read_image",
    "save_embedder",
    "testing",
]

_ROOMS = {"classical", "evaluation", "pages", "plotting", "testing"}
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
    "ClickHouseIndex": "servers",
    "ComparedEmbedder": "comparison",
    "Comparison": "comparison",
    "CorruptIndexError": "index",
    "DatasetError": "distributed",
    "DatasetMismatchError": "distributed",
    "DatasetWriteError": "distributed",
    "DuplicateIdError": "index",
    "DuplicateImage": "duplicates",
    "Duplicates": "duplicates",
    "EmbedBatch": "distributed",
    "EmbedderFileError": "embedder_files",
    "EmbeddedDataset": "distributed",
    "EmbeddedShard": "distributed",
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
    "MilvusIndex": "servers",
    "MoCoEmbedder": "training",
    "NearestNeighborIndex": "index",
    "Neighbors": "index",
    "ORBEmbedder": "classical",
    "ORBExtractor": "classical",
    "PostgresIndex": "servers",
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
    "ServerCredentialsError": "servers",
    "ServerError": "servers",
    "ServerTableError": "servers",
    "ServerTimeoutError": "servers",
    "ServerUnavailableError": "servers",
    "ServerVersionError": "servers",
    "SimCLREmbedder": "training",
    "UnknownIdError": "index",
    "VLAD": "classical",
    "ViTEmbedder": "deep",
    "VisualVocabulary": "classical",
    "WhereError": "index",
    "WorkersLostError": "_workers",
    "ZeroShotClassifier": "deep",
    "compare_embedders": "comparison",
    "embed_dataset": "distributed",
    "find_duplicates": "duplicates",
    "list_images": "images",
    "load_embedder": "embedder_files",
    "make_embedder": "methods",
    "read_image": "images",
    "save_embedder": "embedder_files",
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
