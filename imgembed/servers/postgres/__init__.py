"""The index in PostgreSQL with pgvector."""

from ._index import PostgresIndex

__all__ = ["PostgresIndex"]
