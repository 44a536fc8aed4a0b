"""The same index, held by servers."""

from ._errors import (
    ServerCredentialsError,
    ServerError,
    ServerTableError,
    ServerTimeoutError,
    ServerUnavailableError,
    ServerVersionError,
)
from .clickhouse import ClickHouseIndex
from .milvus import MilvusIndex
from .postgres import PostgresIndex

__all__ = [
    "ClickHouseIndex",
    "MilvusIndex",
    "PostgresIndex",
    "ServerCredentialsError",
    "ServerError",
    "ServerTableError",
    "ServerTimeoutError",
    "ServerUnavailableError",
    "ServerVersionError",
]
