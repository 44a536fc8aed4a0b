"""A session with PostgreSQL: one connection that reads and one that writes, made when needed.

A lost server is waited for. What reads is done again; what writes is done again only where it
leaves a mark in the same transaction, by which the second attempt sees whether the first one came
through.
"""

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, NamedTuple, TypeVar

import psycopg
from packaging.version import Version
from pgvector.psycopg import register_vector
from psycopg import IsolationLevel, errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ...index import WhereError
from .._attempts import until_back
from .._credentials import without_password
from .._errors import (
    ServerCredentialsError,
    ServerError,
    ServerTimeoutError,
    ServerUnavailableError,
    ServerVersionError,
)

Connection = psycopg.Connection[Any]


class GraphSettings(NamedTuple):
    """Settings of pgvector that a search decides."""

    ef: str
    order: str


Result = TypeVar("Result")

_OLDEST_EXTENSION = Version("0.8")  # the first with iterative scans
# A host that is gone without a word is noticed in half a minute; who sets these keeps them.
_CONNECTION_DEFAULTS = {
    "application_name": "imgembed",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
}
_WRONG_CREDENTIALS = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    'role "',
)
_BEYOND_HALF = ("out of range for type halfvec", "infinite value not allowed in halfvec")
# A server may be slow, but not for ever.
_READER_SETTINGS = (
    "SET statement_timeout = {timeout}",
    "SET jit = off",
    "SET hnsw.iterative_scan = relaxed_order",
    "SET hnsw.max_scan_tuples = 2147483647",
    "SET hnsw.scan_mem_multiplier = 4",
    "SET default_transaction_read_only = on",
)


class PostgresSession:
    """Connections to a server, or to the servers of one cluster.

    With several hosts, what reads goes to a standby if there is one, and what writes to the
    primary.

    Parameters
    ----------
    dsn : str
    timeout : float
        Seconds that a reading statement may take, and that a lost server is waited for.

    Raises
    ------
    ServerError
        If the address cannot be read.
    """

    def __init__(self, dsn: str, timeout: float) -> None:
        self._parts = _address_parts(dsn)
        self._timeout = timeout
        self._lock = RLock()
        self._connections: dict[str, Connection] = {}
        # What the settings of a connection are, if nobody else has changed them.
        self._set: tuple[Connection, GraphSettings] | None = None
        weakref.finalize(self, _close, self._connections)

    @property
    def has_several_hosts(self) -> bool:
        """Whether readers and writers may be on different servers."""
        return "," in str(self._parts.get("host", self._parts.get("hostaddr", "")))

    def read(self, work: Callable[[Connection], Result], *, on_primary: bool = False) -> Result:
        """Do work that only reads, in a transaction that sees one state; again if need be.

        Parameters
        ----------
        work : callable
            Takes the connection.
        on_primary : bool, default=False
            Read where writes go.

        Returns
        -------
        result : object
            What ``work`` returned.

        Raises
        ------
        ServerError
            Of the kind that fits.
        """
        return self._attempted(lambda: self._reading(on_primary), _in_pipeline(work))

    def ask(self, work: Callable[[Connection], Result], settings: GraphSettings | None) -> Result:
        """Do work whose statements read each by itself, without a transaction; again if need be.

        Parameters
        ----------
        work : callable
            Takes the connection.
        settings : GraphSettings or None
            What the connection should be set to. Where connections are shared with others it may
            not be, which work must see.

        Returns
        -------
        result : object
            What ``work`` returned.

        Raises
        ------
        ServerError
            Of the kind that fits.
        """

        def after_setting(connection: Connection) -> Result:
            if settings is not None and self._set != (connection, settings):
                set_for_graph(connection, settings, local=False)
                self._set = connection, settings
            return work(connection)

        return self._attempted(lambda: self._reading(False), after_setting)

    def forget_settings(self) -> None:
        """Set them anew when they are needed next."""
        self._set = None

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Do work in one transaction; again if the server was lost.

        Parameters
        ----------
        work : callable
            Takes the connection. It must find out by itself whether it was done before.

        Returns
        -------
        result : object
            What ``work`` returned.

        Raises
        ------
        ServerError
            Of the kind that fits.
        """
        return self._attempted(self._writing, _in_transaction(work))

    def close(self) -> None:
        """End the connections; the next call makes new ones."""
        with self._lock:
            _close(self._connections)

    def _attempted(
        self, connected: Callable[[], Connection], work: Callable[[Connection], Result]
    ) -> Result:
        def attempt() -> Result:
            with self._translated_errors():
                connection = connected()
                with _closed_when_lost(connection):
                    return work(connection)

        with self._lock:
            was_there = bool(self._connections)
            return until_back(attempt, self._timeout, lambda: was_there)

    def _reading(self, on_primary: bool) -> Connection:
        if on_primary and self.has_several_hosts:
            return self._writing()
        return self._connection("prefer-standby")

    def _writing(self) -> Connection:
        return self._connection("read-write")

    def _connection(self, wanted: str) -> Connection:
        """The open connection to a server that takes what is wanted."""
        connection = self._connections.get(wanted)
        if connection is None or connection.closed:
            connection = self._connected(wanted)
            self._connections[wanted] = connection
        return connection

    def _set_up_reader(self, connection: Connection) -> None:
        for setting in _READER_SETTINGS:
            connection.execute(setting.format(timeout=int(1000 * self._timeout)).encode())
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.read_only = True

    def _connected(self, wanted: str) -> Connection:
        several = {"target_session_attrs": wanted} if self.has_several_hosts else {}
        address = make_conninfo(**{**_CONNECTION_DEFAULTS, **self._parts, **several})
        connection: Connection = psycopg.Connection.connect(address, autocommit=True)
        # What a filter keeps decides whether the graph is used, so that statements are planned for
        # their values: only those are prepared that say so.
        connection.prepare_threshold = sys.maxsize
        connection.isolation_level = IsolationLevel.READ_COMMITTED  # whatever the server's default
        try:
            _check_extension(connection, may_create=wanted == "read-write")
            register_vector(connection)
            if wanted == "prefer-standby":
                self._set_up_reader(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Errors of psycopg as those of servers, without any password."""
        try:
            yield
        except psycopg.Error as error:
            told = without_password(str(error).strip(), self._parts.get("password"))
            raise _server_error(error, told) from None


def set_for_graph(connection: Connection, settings: GraphSettings, *, local: bool) -> None:
    """Set how graphs are searched, until the transaction ends or for longer.

    Parameters
    ----------
    connection : Connection
    settings : GraphSettings
    local : bool
        Only for this transaction.
    """
    connection.execute(
        "SELECT set_config('hnsw.ef_search', %s, %s), set_config('hnsw.iterative_scan', %s, %s)",
        (settings.ef, local, settings.order, local),
    )


def _in_pipeline(work: Callable[[Connection], Result]) -> Callable[[Connection], Result]:
    """Work whose statements are sent without waiting for each, until a result is asked for."""

    def pipelined(connection: Connection) -> Result:
        with connection.pipeline(), connection.transaction():
            return work(connection)

    return pipelined


def _in_transaction(work: Callable[[Connection], Result]) -> Callable[[Connection], Result]:
    def whole(connection: Connection) -> Result:
        with connection.transaction():
            return work(connection)

    return whole


def _close(connections: dict[str, Connection]) -> None:
    for connection in connections.values():
        connection.close()
    connections.clear()


def _address_parts(dsn: str) -> dict[str, Any]:
    if not isinstance(dsn, str):
        raise TypeError(f"dsn must be a str, got {type(dsn).__name__}")
    try:
        return dict(conninfo_to_dict(dsn))
    except psycopg.Error:
        # The message would quote the address.
        raise ServerError(
            "dsn cannot be read; wanted 'postgresql://user@host:5432/database' or "
            "'host=... dbname=... user=...' (it is not shown, because it may hold a password)"
        ) from None


@contextmanager
def _closed_when_lost(connection: Connection) -> Iterator[None]:
    """Close a connection that cannot be used any more."""
    try:
        yield
    except BaseException as error:
        if _is_lost(error) or not isinstance(error, Exception):
            connection.close()
        raise


def _is_lost(error: BaseException) -> bool:
    kinds = (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow)
    if isinstance(error, kinds):
        return True
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None


def _check_extension(connection: Connection, *, may_create: bool) -> None:
    """Raise a ServerVersionError unless pgvector is there and new enough."""
    query = b"SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    found = connection.execute(query).fetchone()
    if found is None and may_create:
        try:
            connection.execute(b"CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error as error:
            if _is_lost(error):
                raise
            raise ServerVersionError(
                "the server has no extension 'vector' and this user cannot create it: install "
                f"pgvector {_OLDEST_EXTENSION} or newer, and CREATE EXTENSION vector ({error})"
            ) from None
        found = connection.execute(query).fetchone()
    if found is None:
        raise ServerVersionError(
            "the database has no extension 'vector': fit an index in it, or CREATE EXTENSION vector"
        )
    if Version(found[0]) < _OLDEST_EXTENSION:
        raise ServerVersionError(
            f"the database has pgvector {found[0]}, wanted {_OLDEST_EXTENSION} or newer: update "
            "it on the server, then ALTER EXTENSION vector UPDATE"
        )


def _server_error(error: psycopg.Error, told: str) -> Exception:
    if isinstance(error, errors.DataError) and any(words in told for words in _BEYOND_HALF):
        return ValueError(
            "a vector has an entry beyond 65,504, the largest number in half precision: scale the "
            "vectors, or take storage='float32' (with a graph: for up to 2,000 features)"
        )
    if isinstance(error, (errors.DataError, errors.StatementTooComplex)):
        return WhereError(f"the server refuses the condition for the values it has met: {told}")
    if isinstance(error, errors.QueryCanceled):
        return ServerTimeoutError(f"the server took too long: {told}")
    if isinstance(error, errors.InvalidAuthorizationSpecification) or (
        error.sqlstate is None and any(words in told for words in _WRONG_CREDENTIALS)
    ):
        return ServerCredentialsError(f"the server does not let this user in: {told}")
    if _is_lost(error):
        return ServerUnavailableError(f"the server cannot be reached, or was lost: {told}")
    return ServerError(f"the server refuses: {told}")
