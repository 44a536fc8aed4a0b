"""The index in Milvus."""

from ._index import MilvusIndex

__all__ = ["MilvusIndex"]
