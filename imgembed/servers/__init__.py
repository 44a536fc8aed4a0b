"""The same index, held by servers."""

from ._errors import (
    ServerCredentialsError,
    ServerError,
    ServerTableError,
    ServerTimeoutError,
    ServerUnavailableError,
    ServerVersionError,
)
from ._postgres import PostgresIndex

__all__ = [
    "PostgresIndex",
    "ServerCredentialsError",
    "ServerError",
    "ServerTableError",
    "ServerTimeoutError",
    "ServerUnavailableError",
    "ServerVersionError",
]
