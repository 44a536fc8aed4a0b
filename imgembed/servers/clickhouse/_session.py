"""A session with ClickHouse: one client that reads and one that writes, made when needed.

A lost server is waited for. What reads is done again; what writes is done again only by a caller
that finds out what came through.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock, RLock
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError
from packaging.version import Version

from ...index import WhereError
from .._attempts import until_back
from .._credentials import without_password
from .._errors import (
    ServerCredentialsError,
    ServerError,
    ServerTableError,
    ServerTimeoutError,
    ServerUnavailableError,
    ServerVersionError,
)

Result = TypeVar("Result")

_OLDEST = Version("25.8")  # the first whose vector index and lightweight updates are no experiment
_SECONDS_TO_CONNECT = 10
# The server ends a statement by itself; who waits longer has lost it.
_SECONDS_TO_ANSWER = 5.0
# Filling and building a graph take as long as they take.
_SECONDS_TO_WRITE = 7 * 24 * 3600
# A list of ids is a text within a statement.
_LONGEST_STATEMENT = str(2**30)
# A row that is written is there when the statement returns; a row that is deleted leaves the graph
# as it is, which any other kind of deletion would build again.
_WRITER_SETTINGS = {
    "async_insert": "0",
    "mutations_sync": "2",
    "alter_sync": "2",
    "lightweight_delete_mode": "lightweight_update_force",
}
_INTERFACES = {"clickhouse": "http", "http": "http", "https": "https", "chdb": "chdb"}

# Numbers of ClickHouse's errors.
UNKNOWN_TABLE = 60
_TIMEOUTS = frozenset({159, 160, 209})
_CREDENTIALS = frozenset({192, 193, 194, 516})
_UNAVAILABLE = frozenset({198, 202, 210, 236, 279})
_OF_CONDITIONS = frozenset({70, 153, 167, 168, 223, 306, 407})


class ClickHouseSession:
    """Clients of a server, or of chDB, which is ClickHouse within this process.

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
        self._dsn, self._address = dsn, _address(dsn)
        self._timeout = timeout
        self._lock, self._connecting = RLock(), Lock()
        self._clients: dict[str, Client] = {}
        weakref.finalize(self, _close, self._clients)

    def attempted(self, work: Callable[[], Result]) -> Result:
        """Do work; again if the server was lost and comes back in time.

        Parameters
        ----------
        work : callable
            It must find out by itself what of it was done before.

        Returns
        -------
        result : object
            What ``work`` returned.

        Raises
        ------
        ServerError
            Of the kind that fits.
        """
        with self._lock:
            was_there = bool(self._clients)

            def lost() -> bool:
                self.close()
                return was_there

            return until_back(work, self._timeout, lost)

    def rows(self, statement: str) -> Sequence[Sequence[Any]]:
        """The rows that a query gives; it cannot change anything.

        Parameters
        ----------
        statement : str

        Returns
        -------
        rows : sequence of tuple
        """
        with self._translated_errors():
            return self._client("read").query(statement).result_rows

    def packed(self, statement: str) -> bytes:
        """The rows that a query gives as ClickHouse's RowBinary.

        Parameters
        ----------
        statement : str

        Returns
        -------
        packed : bytes
        """
        with self._translated_errors():
            return self._client("read").raw_query(statement, fmt="RowBinary")

    def run(self, statement: str) -> None:
        """Run a statement that changes something.

        Parameters
        ----------
        statement : str
        """
        with self._translated_errors():
            self._client("write").command(statement)

    def insert(self, table: str, packed: bytes) -> None:
        """Insert rows.

        Parameters
        ----------
        table : str
            In quotes.
        packed : bytes
            In ClickHouse's RowBinaryWithNamesAndTypes.
        """
        with self._translated_errors():
            client = self._client("write")
            client.raw_insert(table, insert_block=packed, fmt="RowBinaryWithNamesAndTypes")

    def close(self) -> None:
        """End the clients; the next call makes new ones."""
        with self._lock:
            _close(self._clients)

    def _client(self, purpose: str) -> Client:
        with self._connecting:  # of several threads that search, one connects
            if purpose not in self._clients:
                self._clients[purpose] = self._connected(purpose)
            return self._clients[purpose]

    def _connected(self, purpose: str) -> Client:
        reads, interface = purpose == "read", _INTERFACES[self._address.scheme]
        settings = dict(_WRITER_SETTINGS)
        if reads:  # "readonly" comes last, because it ends the setting
            settings = {"max_execution_time": str(self._timeout), "readonly": "2"}
        transport: dict[str, Any] = {
            "connect_timeout": _SECONDS_TO_CONNECT,
            "send_receive_timeout": self._timeout + _SECONDS_TO_ANSWER
            if reads
            else _SECONDS_TO_WRITE,
            "client_name": "imgembed",
            "autogenerate_session_id": False,
        }
        client = clickhouse_connect.get_client(
            dsn=self._dsn, interface=interface, **({} if interface == "chdb" else transport)
        )
        _check_version(client)
        for name, value in {"max_query_size": _LONGEST_STATEMENT, **settings}.items():
            if interface == "chdb":  # its parser must know before it reads a statement
                client.command(f"SET {name} = '{value}'")
            else:
                client.set_client_setting(name, value)
        return client

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Errors of the driver as those of servers, without any password."""
        try:
            yield
        except ClickHouseError as error:
            told = str(error).strip()
            for password in {self._address.password, unquote(self._address.password or "")}:
                told = without_password(told, password)
            raise _server_error(error, told) from None


def _close(clients: dict[str, Client]) -> None:
    for client in clients.values():
        client.close()
    clients.clear()


def _address(dsn: str) -> SplitResult:
    if not isinstance(dsn, str):
        raise TypeError(f"dsn must be a str, got {type(dsn).__name__}")
    try:
        address = urlsplit(dsn)
        if address.scheme in _INTERFACES and (address.port is None or address.port > 0):
            return address
    except ValueError:
        pass
    # The message must not quote the address.
    raise ServerError(
        "dsn cannot be read; wanted 'clickhouse://user@host:8123/database', 'https://...' for one "
        "over TLS, or 'chdb:///folder' (it is not shown, because it may hold a password)"
    )


def _check_version(client: Client) -> None:
    """Raise a ServerVersionError unless the server is new enough."""
    numbers = ".".join(str(client.server_version).split(".")[:2])
    if Version(numbers) < _OLDEST:
        raise ServerVersionError(
            f"the server is ClickHouse {client.server_version}, wanted {_OLDEST} or newer, which "
            "has indexes of vectors: update it"
        )


def _server_error(error: ClickHouseError, told: str) -> Exception:
    code = getattr(error, "code", None)
    if code in _OF_CONDITIONS:
        return WhereError(f"the server refuses the condition for the values it has met: {told}")
    if code in _TIMEOUTS or "Read timed out" in told:
        return ServerTimeoutError(f"the server took too long: {told}")
    if code in _CREDENTIALS:
        return ServerCredentialsError(f"the server does not let this user in: {told}")
    if told.startswith("Unable to open the chdb engine"):
        return ServerUnavailableError(
            "chDB does not open the folder: this process has another one open, or another process "
            f"has this one ({told})"
        )
    if code == UNKNOWN_TABLE:
        return ServerTableError(f"the server has no such table: {told}")
    if code in _UNAVAILABLE or (code is None and isinstance(error, OperationalError)):
        return ServerUnavailableError(f"the server cannot be reached, or was lost: {told}")
    return ServerError(f"the server refuses: {told}")
