"""What keeps the search page to itself: hosts, other web sites, headers, uploads in memory."""

from functools import partial
from http import HTTPStatus
from io import BytesIO
from typing import IO, Any
from urllib.parse import urlsplit

from flask import Flask, Request, Response, abort, request

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; "
    "script-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_FOREIGN = ("cross-site", "same-site")  # same-site: another port of this computer


def protect(app: Flask, hosts: frozenset[str], max_upload: int) -> None:
    """Refuse what must not reach an application.

    Parameters
    ----------
    app : Flask
    hosts : frozenset of str
        Names under which it answers, in small letters.
    max_upload : int
        Bytes of a request.
    """
    app.request_class = _RequestInMemory
    app.config.update(MAX_CONTENT_LENGTH=max_upload, MAX_FORM_PARTS=10)
    app.before_request(partial(_refuse_other_hosts, hosts))
    app.before_request(_refuse_other_sites)
    app.after_request(_with_headers)


class _RequestInMemory(Request):
    """A request whose uploads go to no file."""

    def _get_file_stream(self, *_: Any, **__: Any) -> IO[bytes]:
        return BytesIO()


def _refuse_other_hosts(hosts: frozenset[str]) -> None:
    """Let no web site reach the page under a name that it has pointed here (DNS rebinding)."""
    try:
        host = urlsplit(f"//{request.headers.get('Host', '')}").hostname
    except ValueError:  # brackets without an address
        host = None
    if host not in hosts:
        abort(
            HTTPStatus.MISDIRECTED_REQUEST,
            "This page does not answer to that host. Ask for localhost, or start it with "
            "allowed_hosts.",
        )


def _refuse_other_sites() -> None:
    """Let no other web site send forms here; browsers say where a request comes from."""
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site") in _FOREIGN:
        abort(HTTPStatus.FORBIDDEN, "Another web site has sent this form.")


def _with_headers(response: Response) -> Response:
    response.headers.update(_HEADERS)
    return response
