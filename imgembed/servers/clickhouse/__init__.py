"""The index in ClickHouse."""

from ._index import ClickHouseIndex

__all__ = ["ClickHouseIndex"]
