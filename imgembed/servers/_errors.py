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


def older_index(name: str) -> ServerTableError:
    """The error that a state is older than one that was seen.

    Parameters
    ----------
    name : str
        Of the index.

    Returns
    -------
    error : ServerTableError
    """
    return ServerTableError(
        f"the index {name!r} is older than what was written to it: it was restored or is another "
        "one; load it again"
    )


def missing_index(name: str, place: str) -> ServerTableError:
    """The error that there is no index of this name.

    Parameters
    ----------
    name : str
    place : str
        Where it should be: "database" or "server".

    Returns
    -------
    error : ServerTableError
    """
    return ServerTableError(f"the {place} has no index {name!r}; fit one, or look at its address")
