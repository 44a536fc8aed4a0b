"""What can go wrong between an index and its server."""


class ServerError(RuntimeError):
    """A server did not do what was asked; the base of the errors of servers."""


class ServerUnavailableError(ServerError):
    """The server cannot be reached, or was lost and did not come back in time."""


class ServerCredentialsError(ServerError):
    """The server does not know this user, or not with this password."""


class ServerVersionError(ServerError):
    """The server, or its extension for vectors, is missing or too old."""


class ServerTimeoutError(ServerError):
    """The server took longer than it may."""


class ServerTableError(ServerError):
    """A table is not there, is no index, or is not the index that was expected."""
