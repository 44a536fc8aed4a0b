"""The same index, held by servers."""

from ._clickhouse import ClickHouseIndex
from ._errors import (
    ServerCredentialsError,
    ServerError,
    ServerTableError,
    ServerTimeoutError,
    ServerUnavailableError,
    ServerVersionError,
)
from ._milvus import MilvusIndex
from ._postgres import PostgresIndex

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
