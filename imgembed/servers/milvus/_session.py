"""A session with Milvus: a client that is made when needed, and errors in imgembed's words."""

import logging
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import TypeVar

import grpc
from packaging.version import Version
from pymilvus import MilvusClient, MilvusException

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

# What it logs it raises too: who asks for no log does not see it twice.
logging.getLogger("pymilvus").addHandler(logging.NullHandler())

_OLDEST_SERVER = Version("2.3")  # the first with upsert and count(*)
# Of a server that does not answer while a connection is made.
_LONGEST_CONNECT = 10.0
_VERSION = re.compile(r"\d+(\.\d+)+")
_COLLECTION_NOT_FOUND = 100
_NOT_LOADED = 101
_CONNECT_FAILED = 2
_WRONG_CREDENTIALS = ("auth check failure", "unauthenticated", "permission deny", "not authorized")
_LOST = (
    "unavailable",
    "fail connecting to server",
    "connection refused",
    "node not match",
    "channel not available",
    "channel lacks",
    "no available shard",
    "not loaded",
    "not fully loaded",
    "service not ready",
    "index not found",  # while another program builds one
    "index not exist",
    "closed channel",
)
_SLOW = ("deadline", "timeout", "timed out")
_WRONG_CONDITION = ("cannot parse expression", "failed to create query plan")


class CollectionGoneError(ServerTableError):
    """A collection is not there any more."""


class MilvusSession:
    """A client of a server, made when it is first needed.

    Parameters
    ----------
    uri : str
    token : str or None
    timeout : float
        Seconds that a call may take, and that a lost server is waited for.
    """

    def __init__(self, uri: str, token: str | None, timeout: float) -> None:
        self.timeout = timeout
        self._uri, self._token = uri, token or ""
        self._lock = RLock()
        self._clients: list[MilvusClient] = []
        #: Whether it is milvus-lite, once there was a connection.
        self.is_lite = False
        weakref.finalize(self, _close, self._clients)

    def attempted(self, work: Callable[[MilvusClient], Result]) -> Result:
        """Do work that may be done twice; again if the server was lost.

        Parameters
        ----------
        work : callable
            Takes the client.

        Returns
        -------
        result : object
            What ``work`` returned.

        Raises
        ------
        ServerError
            Of the kind that fits.
        """

        def attempt() -> Result:
            with self._translated_errors():
                return work(self._client())

        with self._lock:
            was_there = bool(self._clients)

            def lost() -> bool:
                nonlocal was_there
                was_there = was_there or bool(self._clients)
                self.close()
                return was_there

            return until_back(attempt, self.timeout, lost)

    def close(self) -> None:
        """End the connection; the next call makes a new one."""
        with self._lock:
            _close(self._clients)

    def _client(self) -> MilvusClient:
        if not self._clients:
            client = MilvusClient(
                self._uri,
                token=self._token,
                timeout=min(self.timeout, _LONGEST_CONNECT),
                dedicated=True,
            )
            self._clients.append(client)
            version = client.get_server_version(timeout=self.timeout)
            self.is_lite = "milvus_lite" in version
            _check_version(version)
        return self._clients[0]

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Errors of pymilvus and gRPC as those of servers, without any token."""
        try:
            yield
        except (MilvusException, grpc.RpcError) as error:
            told = str(getattr(error, "message", "") or error)
            for secret in (self._token, self._token.partition(":")[2]):
                told = without_password(told, secret)
            raise _server_error(error, told) from None


def when_loaded(
    client: MilvusClient, collection: str, timeout: float, work: Callable[[], Result]
) -> Result:
    """Do work that needs a collection in memory, where a server that was restarted has it not.

    Parameters
    ----------
    client : MilvusClient
    collection : str
    timeout : float
    work : callable

    Returns
    -------
    result : object
        What ``work`` returned.
    """
    try:
        return work()
    except MilvusException as error:
        if error.code != _NOT_LOADED:
            raise
    client.load_collection(collection, timeout=timeout)
    return work()


def _close(clients: list[MilvusClient]) -> None:
    while clients:
        clients.pop().close()


def _check_version(told: str) -> None:
    """Raise a ServerVersionError unless the server is new enough."""
    found = _VERSION.search(told)
    if found is None or Version(found[0]) < _OLDEST_SERVER:
        raise ServerVersionError(
            f"the server is Milvus {told!r:.40}, wanted {_OLDEST_SERVER} or newer: update it"
        )


def _is_unauthenticated(error: Exception) -> bool:
    """Whether an error, or what led to it, is that of a user who is not known."""
    # pymilvus raises some errors from themselves, so that their causes go on without an end.
    known = (error, error.__cause__)
    return any(
        isinstance(one, grpc.RpcError) and one.code() is grpc.StatusCode.UNAUTHENTICATED
        for one in known
    )


def _server_error(error: Exception, told: str) -> Exception:
    code, words = getattr(error, "code", None), told.lower()
    code = code() if callable(code) else code
    if any(part in words for part in _WRONG_CREDENTIALS) or _is_unauthenticated(error):
        return ServerCredentialsError(
            f"the server does not let this user in, or not with this token: {told}"
        )
    if any(part in words for part in _WRONG_CONDITION):
        return WhereError(f"the server refuses the condition: {told}")
    if code == _COLLECTION_NOT_FOUND:
        return CollectionGoneError(f"the collection is not there any more: {told}")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return ServerVersionError(f"the server cannot do this; update it: {told}")
    if code in (grpc.StatusCode.UNAVAILABLE, _CONNECT_FAILED) or any(one in words for one in _LOST):
        return ServerUnavailableError(f"the server cannot be reached, or was lost: {told}")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED or any(one in words for one in _SLOW):
        return ServerTimeoutError(f"the server took too long: {told}")
    return ServerError(f"the server refuses: {told}")
