"""The search page: which address gives what. Only ``create_app`` loads it, for it needs flask."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

from flask import Flask, Response, abort, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from ..images import ImageReadError
from ..index import WhereError
from ..search import ImageSearch
from ._gallery import Gallery, jpeg, json_value, shown_value
from ._guard import protect
from ._rankings import MOST_HITS, ForgottenQueryError, Hit, Query, Ranking, Rankings

_THUMBNAIL_EDGE = 320  # pixels, twice what is shown, for sharp screens
_LARGE_EDGE = 4096
# What is wrong with a question, and the status that says so.
_REFUSALS: dict[type[Exception], HTTPStatus] = {
    ImageReadError: HTTPStatus.UNPROCESSABLE_ENTITY,
    WhereError: HTTPStatus.BAD_REQUEST,
    ForgottenQueryError: HTTPStatus.GONE,
}


def make_site(
    search: ImageSearch, *, hosts: frozenset[str], max_upload: int, page_size: int
) -> Flask:
    """Make the application.

    Parameters
    ----------
    search : ImageSearch
        A fitted one.
    hosts : frozenset of str
        Names under which it answers.
    max_upload : int
        Bytes of a request.
    page_size : int
        Hits on a page.

    Returns
    -------
    app : Flask
    """
    app = Flask(__package__)
    protect(app, hosts, max_upload)
    app.register_error_handler(HTTPException, _error)
    site = _Site(search, page_size)
    for rule, method, view in site.routes():
        app.add_url_rule(rule, view.__name__, view, methods=[method])
    return app


def _error(error: HTTPException) -> AnyResponse | tuple[Any, int]:
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    if request.path.startswith("/api/"):
        return {"error": error.description}, status
    text = error.description
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        text = f"Uploads of more than {_limit()} are refused. Make the image smaller."
    return render_template("error.html", status=HTTPStatus(status), text=text), status


def _limit() -> str:
    return f"{(request.max_content_length or 0) / 2**20:.3g} MB"


class _Question(NamedTuple):
    """What a browser asks: a query or none yet, a condition, and the number of the page."""

    query: Query | None
    where: str
    number: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return self.query is None and not self.where

    def arguments(self, number: int | None = None) -> dict[str, str | int]:
        """The address of a page of its hits."""
        arguments: dict[str, str | int] = {}
        if self.query is not None:
            arguments[self.query.kind] = self.query.value
        if self.where:
            arguments["where"] = self.where
        if number is not None and number > 1:
            arguments["page"] = number
        return arguments


class _Site:
    """The views, over one search."""

    def __init__(self, search: ImageSearch, page_size: int) -> None:
        self._gallery = Gallery(search)
        self._rankings = Rankings(search)
        self._page_size = page_size
        self._first_choice = self._gallery.spread(page_size)
        self._facts = {
            "n_images": len(self._gallery),
            "embedder": type(search.embedder_).__name__,
            "takes_text": hasattr(search.embedder_, "transform_text"),
            "metric": search.index_.metric,
            "columns": search.index_.columns_,
        }

    def routes(self) -> list[tuple[str, str, Callable[..., Any]]]:
        """Rule, method and view."""
        return [
            ("/", "GET", self.page),
            ("/search", "POST", self.upload),
            ("/api/search", "GET", self.api),
            ("/api/search", "POST", self.api_upload),
            ("/thumbnail/<int:item>.jpg", "GET", self.thumbnail),
            ("/image/<int:item>.jpg", "GET", self.image),
            ("/upload/<token>.jpg", "GET", self.uploaded),
        ]

    def page(self) -> tuple[str, int]:
        """The search page, with the hits of the question in its address."""
        question = self._question()
        try:
            return self._page(question, self._ranking(question)), HTTPStatus.OK
        except tuple(_REFUSALS) as error:
            return self._refused(question, error)

    def upload(self) -> AnyResponse | tuple[str, int]:
        """Keep an uploaded image, and lead to the page with its hits."""
        question = _Question(None, request.form.get("where", "").strip(), 1)
        try:
            question = question._replace(query=self._kept_upload())
            self._ranking(question)
        except tuple(_REFUSALS) as error:
            return self._refused(question._replace(query=None), error)
        address = url_for("page", **question.arguments())  # type: ignore[arg-type]
        return redirect(address, HTTPStatus.SEE_OTHER)

    def api(self) -> tuple[dict[str, Any], int]:
        """The hits of the question in the address, as JSON."""
        return self._answer(self._question())

    def api_upload(self) -> tuple[dict[str, Any], int]:
        """The first hits of an uploaded image, as JSON."""
        question = _Question(None, request.form.get("where", "").strip(), 1)
        try:
            query = self._kept_upload()
        except ImageReadError as error:
            return {"error": _explained(error, question)}, _status_of(error)
        return self._answer(question._replace(query=query))

    def thumbnail(self, item: int) -> Response:
        """A small image of the gallery."""
        return self._picture(item, _THUMBNAIL_EDGE)

    def image(self, item: int) -> Response:
        """An image of the gallery, large."""
        return self._picture(item, _LARGE_EDGE)

    def uploaded(self, token: str) -> Response:
        """An uploaded image, small."""
        try:
            return _jpeg_response(jpeg(self._rankings.uploaded(token), _THUMBNAIL_EDGE))
        except ForgottenQueryError as error:
            abort(HTTPStatus.GONE, str(error))

    def _question(self) -> _Question:
        given = request.args
        queries = [
            Query(kind, given[kind].strip())
            for kind in ("upload", "id", "text")
            if given.get(kind, "").strip()
        ]
        if len(queries) > 1:
            abort(HTTPStatus.BAD_REQUEST, "Ask for one of upload, id and text, not for several.")
        query = queries[0] if queries else None
        if query is not None and query.kind == "id":
            query = Query("id", str(self._item(query.value)))
        if query is not None and query.kind == "text" and not self._facts["takes_text"]:
            abort(HTTPStatus.BAD_REQUEST, f"{self._facts['embedder']} embeds images only.")
        number = given.get("page", "1")
        if not (number.isascii() and number.isdecimal() and 1 <= int(number) <= MOST_HITS):
            abort(HTTPStatus.BAD_REQUEST, f"page must be a whole number in 1..{MOST_HITS}.")
        return _Question(query, given.get("where", "").strip(), int(number))

    def _item(self, text: str) -> int:
        """The id that a browser has sent, if there is such an image."""
        if not (text.isascii() and text.isdecimal() and len(text) < 19):
            abort(HTTPStatus.BAD_REQUEST, "id must be a whole number.")
        if int(text) not in self._gallery:
            abort(HTTPStatus.NOT_FOUND, "There is no image with this id in the index.")
        return int(text)

    def _kept_upload(self) -> Query:
        image = request.files.get("image")
        return self._rankings.keep(image.read() if image is not None else b"")

    def _ranking(self, question: _Question) -> Ranking:
        """The hits up to those of the page, and one more that says whether there is another."""
        if question.is_empty:
            return Ranking((), True)
        n_hits = question.number * self._page_size + 1
        return self._rankings.first(question.query, question.where, n_hits)

    def _on_page(self, question: _Question, ranking: Ranking) -> tuple[list[tuple[int, Hit]], bool]:
        """Rank and hit of those on a page, and whether there is another page."""
        first = (question.number - 1) * self._page_size
        end = first + self._page_size
        if question.number > 1 and first >= len(ranking.hits):
            abort(HTTPStatus.NOT_FOUND, "There is no such page; the hits end before it.")
        ranked = list(enumerate(ranking.hits, start=1))
        return ranked[first:end], end < len(ranking.hits)

    def _page(self, question: _Question, ranking: Ranking, error: str | None = None) -> str:
        hits, more = self._on_page(question, ranking)
        number = question.number
        shows_hits = question.query is not None or not (question.is_empty or error)
        return render_template(
            "search.html",
            **self._facts,
            question=question,
            error=error,
            cards=[self._card(rank, hit) for rank, hit in hits],
            shows_hits=shows_hits,
            choice=[] if shows_hits else self._first_choice,
            previous=question.arguments(number - 1) if number > 1 else None,
            following=question.arguments(number + 1) if more else None,
            name_of=self._gallery.name,
            max_upload=request.max_content_length,
            max_upload_text=_limit(),
        )

    def _refused(self, question: _Question, error: Exception) -> tuple[str, int]:
        """The page without hits, which says what is wrong with the question."""
        empty = Ranking((), True)
        page = self._page(question._replace(number=1), empty, _explained(error, question))
        return page, _status_of(error)

    def _card(self, rank: int, hit: Hit) -> dict[str, Any]:
        return {
            "rank": rank,
            "id": hit.id,
            "name": self._gallery.name(hit.id),
            "distance": hit.distance,
            "n_inliers": hit.n_inliers,
            "record": {key: shown_value(value) for key, value in hit.record.items()},
        }

    def _answer(self, question: _Question) -> tuple[dict[str, Any], int]:
        if question.is_empty:
            abort(
                HTTPStatus.BAD_REQUEST,
                "There is no query: ask with id, text or where, or post image.",
            )
        try:
            ranking = self._ranking(question)
        except tuple(_REFUSALS) as error:
            return {"error": _explained(error, question)}, _status_of(error)
        hits, more = self._on_page(question, ranking)
        return {
            "query": question.query and question.query._asdict(),
            "where": question.where,
            "page": question.number,
            "more": more,
            "metric": self._facts["metric"],
            "hits": [self._json_hit(rank, hit) for rank, hit in hits],
        }, HTTPStatus.OK

    def _json_hit(self, rank: int, hit: Hit) -> dict[str, Any]:
        return {
            "rank": rank,
            "id": hit.id,
            "name": self._gallery.name(hit.id),
            "distance": hit.distance,
            "n_inliers": hit.n_inliers,
            "record": {key: json_value(value) for key, value in hit.record.items()},
            "thumbnail": url_for("thumbnail", item=hit.id),
            "image": url_for("image", item=hit.id),
        }

    def _picture(self, item: int, edge: int) -> Response:
        if item not in self._gallery:
            abort(HTTPStatus.NOT_FOUND, "There is no image with this id in the index.")
        return _jpeg_response(jpeg(self._gallery.image(item), edge))


def _jpeg_response(encoded: bytes | None) -> Response:
    if encoded is None:
        abort(HTTPStatus.NOT_FOUND, "This image cannot be read any more.")
    response = Response(encoded, mimetype="image/jpeg")
    response.headers["Cache-Control"] = "private, max-age=600"
    return response


def _explained(error: Exception, question: _Question) -> str:
    """What is wrong; paths of the gallery are not for browsers."""
    if not isinstance(error, ImageReadError):
        return str(error)
    if question.query is not None and question.query.kind == "id":
        return "This image of the gallery cannot be read any more."
    return f"This image cannot be read: {error.reason}"


def _status_of(error: Exception) -> int:
    return next(status for kind, status in _REFUSALS.items() if isinstance(error, kind))
