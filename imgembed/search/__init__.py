"""ImageSearch: an embedder, an index and records under one roof."""

from ._image_search import ImageSearch
from ._result import SearchResult

__all__ = ["ImageSearch", "SearchResult"]
