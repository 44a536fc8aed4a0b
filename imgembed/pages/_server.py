"""The search page as a web application, and its server."""

import os
import socket
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._optional import import_optional
from ..search import ImageSearch
from ._gallery import opened

if TYPE_CHECKING:
    from flask import Flask

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_THREADS = 8  # a browser asks for six pictures at once
_CONNECTIONS = 32


def create_app(
    search: ImageSearch | str | os.PathLike[str],
    *,
    allowed_hosts: Sequence[str] = (),
    max_upload_mb: float = 20.0,
    page_size: int = 24,
) -> "Flask":
    """Make the search page, a web application for a server of one's own; or take :func:`run_app`.

    One drops an image or types words, may set a condition on the records, pages through the
    hits, and clicks one to search on from it. ``/api/search`` gives the same as JSON.

    Parameters
    ----------
    search : ImageSearch, str or Path
        A fitted search, or the folder of a saved one.
    allowed_hosts : sequence of str, optional
        Names under which browsers may ask for the page, besides localhost, 127.0.0.1 and ::1.
        Others are refused, so that no web site can reach the page by a name of its own.
    max_upload_mb : float, default=20.0
        Larger uploads are refused.
    page_size : int, default=24
        Hits on a page.

    Returns
    -------
    app : flask.Flask

    Raises
    ------
    ImportError
        If flask is not installed (extra ``app``).
    FingerprintError
        If the embedder of the search is not the one that filled its index.
    ValueError
        If ``max_upload_mb`` is not above 0, or ``page_size`` not in 1..100.

    Notes
    -----
    No path comes from the browser: images go by the number of their row, through
    :func:`imgembed.read_image`, and are sent as new JPEGs. Uploads stay in memory. The page
    holds no script but its own file. It knows no users: whoever reaches it sees all images.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import HOGEmbedder, ImageSearch
    >>> from imgembed.pages import create_app
    >>> search = ImageSearch(HOGEmbedder()).fit(np.zeros((3, 64, 64, 3), np.uint8))
    >>> app = create_app(search)
    >>> answer = app.test_client().get("/api/search?id=1").get_json()
    >>> [hit["id"] for hit in answer["hits"]]
    [0, 2]
    """
    import_optional("flask", extra="app", needed_by="create_app")
    import_optional("cachetools", extra="app", needed_by="create_app")
    if not max_upload_mb > 0:
        raise ValueError(f"max_upload_mb must be above 0, got {max_upload_mb!r}")
    if not 1 <= page_size <= 100:
        raise ValueError(f"page_size must be in 1..100, got {page_size!r}")
    from ._site import make_site  # needs flask

    search = opened(search)
    search.index_.check_embedder(search.embedder_)  # loads its weights, which may fail, now
    return make_site(
        search,
        hosts=_LOCAL_HOSTS | {host.lower().strip("[]") for host in allowed_hosts},
        max_upload=int(max_upload_mb * 2**20),
        page_size=page_size,
    )


def run_app(
    search: ImageSearch | str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    allowed_hosts: Sequence[str] = (),
    max_upload_mb: float = 20.0,
    page_size: int = 24,
) -> None:
    """Serve the search page until Ctrl-C.

    Parameters
    ----------
    search : ImageSearch, str or Path
        A fitted search, or the folder of a saved one.
    host : str, default="127.0.0.1"
        The address to listen at. By default only this computer can reach the page.
    port : int, default=8000
        0 takes one that is free.
    allowed_hosts : sequence of str, optional
        As for :func:`create_app`; ``host`` is allowed too.
    max_upload_mb : float, default=20.0
        Larger uploads are refused.
    page_size : int, default=24
        Hits on a page.

    Raises
    ------
    ImportError
        If flask or waitress is not installed (extra ``app``).
    OSError
        If the address cannot be had, for example because the port is taken.
    ValueError
        As for :func:`create_app`.

    Warns
    -----
    UserWarning
        If ``host`` lets other computers reach the page.

    Examples
    --------
    >>> from imgembed.pages import run_app
    >>> run_app("photos.index")  # doctest: +SKIP
    search page: http://127.0.0.1:8000/ (Ctrl-C ends it)
    """
    waitress = import_optional("waitress", extra="app", needed_by="run_app")
    app = create_app(
        search,
        allowed_hosts=(host, *allowed_hosts),
        max_upload_mb=max_upload_mb,
        page_size=page_size,
    )
    if host.lower() not in _LOCAL_HOSTS:
        _warn_of(host)
    room = app.config["MAX_CONTENT_LENGTH"] + 2**20  # the application refuses first, with a page
    with _listening(host, port) as listener:
        server = waitress.create_server(
            app,
            sockets=[listener],
            threads=_THREADS,
            connection_limit=_CONNECTIONS,
            max_request_body_size=room,
            inbuf_overflow=room,  # below it nothing goes to a file
            ident=None,
        )
        address = f"http://{_in_brackets(host)}:{listener.getsockname()[1]}/"
        print(f"search page: {address} (Ctrl-C ends it)", flush=True)
        try:
            server.run()
        finally:
            server.close()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(
            f"cannot listen at {_in_brackets(host)}:{port}: {error.strerror}. Give another port; "
            "port 0 takes one that is free"
        ) from error


def _in_brackets(host: str) -> str:
    """A host as an address has it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _warn_of(host: str) -> None:
    warnings.warn(
        f"host={host!r} lets other computers see all images of this search and upload to it; "
        "the page knows no passwords. Browsers must ask for it by a name in allowed_hosts",
        UserWarning,
        stacklevel=3,
    )
