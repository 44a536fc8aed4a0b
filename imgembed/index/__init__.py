"""Nearest neighbours of vectors."""

from ._index import NearestNeighborIndex

__all__ = ["NearestNeighborIndex"]
