"""Images as vectors, and search by image, with the API of scikit-learn.

The public names load when they are first used: ``import imgembed`` loads neither
torch nor OpenCV nor scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import evaluation, plotting, testing
    from .base import ImageEmbedder
    from .classical import SIFTEmbedder
    from .deep import CheckpointError, CNNEmbedder, ViTEmbedder
    from .images import ImageReadError, ImageReadWarning, list_images, read_image
    from .index import NearestNeighborIndex
    from .search import FingerprintError, ImageSearch, SearchResult

__version__ = "0.1.0"

__all__ = [
    "CNNEmbedder",
    "CheckpointError",
    "FingerprintError",
    "ImageEmbedder",
    "ImageReadError",
    "ImageReadWarning",
    "ImageSearch",
    "NearestNeighborIndex",
    "SIFTEmbedder",
    "SearchResult",
    "ViTEmbedder",
    "evaluation",
    "list_images",
    "plotting",
    "read_image",
    "testing",
]

_ROOMS = {"evaluation", "plotting", "testing"}
_ROOM_OF = {
    "CNNEmbedder": "deep",
    "CheckpointError": "deep",
    "FingerprintError": "search",
    "ImageEmbedder": "base",
    "ImageReadError": "images",
    "ImageReadWarning": "images",
    "ImageSearch": "search",
    "NearestNeighborIndex": "index",
    "SIFTEmbedder": "classical",
    "SearchResult": "search",
    "ViTEmbedder": "deep",
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
