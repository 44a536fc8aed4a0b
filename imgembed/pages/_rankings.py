"""What the search page has found: rankings that grow page by page, for queries that are kept."""

import secrets
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, NamedTuple

from cachetools import LRUCache

from ..images import ImageReadError
from ..search import ImageSearch

MOST_HITS = 1000  # of a ranking; who has not found it by then needs another query
_KEPT_HITS = 50_000  # of all rankings together
_KEPT_BYTES = 128 * 2**20  # of all uploaded images together


class Query(NamedTuple):
    """What is searched for.

    Parameters
    ----------
    kind : {"upload", "id", "text"}
        An uploaded image, one of the gallery, or words.
    value : str
        The token of the upload, the id, or the words.
    """

    kind: Literal["upload", "id", "text"]
    value: str


@dataclass(frozen=True)
class Hit:
    """One image that was found.

    Parameters
    ----------
    id : int
        In the gallery.
    distance : float or None
        To the query, if there is one.
    n_inliers : int or None
        Of a verified hit.
    record : dict
        What is known of the image.
    """

    id: int
    distance: float | None
    n_inliers: int | None
    record: dict[str, Any]


class Ranking(NamedTuple):
    """The first hits of a query, and whether these are all.

    Parameters
    ----------
    hits : tuple of Hit
        Nearest first; without a query as they are in the index.
    complete : bool
        Whether there are no more.
    """

    hits: tuple[Hit, ...]
    complete: bool


class ForgottenQueryError(LookupError):
    """An uploaded image is not kept any more."""


class Rankings:
    """Search for pages of hits, by several threads, and keep what was found for the next page.

    A ranking grows as its pages are asked for; what was on a page stays there, so that no hit
    comes twice. Uploaded images stay in memory, the latest 128 MB of them.

    Parameters
    ----------
    search : ImageSearch
        A fitted one.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import HOGEmbedder, ImageSearch
    >>> from imgembed.pages._rankings import Query, Rankings
    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    >>> rankings = Rankings(ImageSearch(HOGEmbedder()).fit(images))
    >>> len(rankings.first(Query("id", "3"), "", 3).hits)
    3
    >>> rankings.first(Query("id", "3"), "", 9).complete
    True
    """

    def __init__(self, search: ImageSearch) -> None:
        self._search = search
        self._search_lock = Lock()  # one search at a time: embedders are not made for many
        self._upload_lock = Lock()
        self._uploads: LRUCache[str, bytes] = LRUCache(_KEPT_BYTES, getsizeof=len)
        self._rankings: LRUCache[tuple[Query | None, str], Ranking] = LRUCache(
            _KEPT_HITS, getsizeof=lambda ranking: 1 + len(ranking.hits)
        )

    def keep(self, image: bytes) -> Query:
        """Keep an uploaded image.

        Parameters
        ----------
        image : bytes
            The encoded image.

        Returns
        -------
        query : Query
            A token that cannot be guessed stands for the image.

        Raises
        ------
        ImageReadError
            If it has no bytes, or is larger than all that is kept.
        """
        token = secrets.token_urlsafe(16)
        if not image:
            raise ImageReadError("0 bytes", "no file was chosen, or an empty one")
        if len(image) > _KEPT_BYTES:
            raise ImageReadError(f"{len(image)} bytes", "the file is too large to be kept")
        with self._upload_lock:
            self._uploads[token] = image
        return Query("upload", token)

    def uploaded(self, token: str) -> bytes:
        """The uploaded image of a token.

        Parameters
        ----------
        token : str

        Returns
        -------
        image : bytes

        Raises
        ------
        ForgottenQueryError
            If it is not kept (any more).
        """
        with self._upload_lock:
            image: bytes | None = self._uploads.get(token)
        if image is None:
            raise ForgottenQueryError("this image is not kept any more; please choose it again")
        return image

    def first(self, query: Query | None, where: str, n_hits: int) -> Ranking:
        """Find the first hits of a query.

        Parameters
        ----------
        query : Query or None
            None: all images are hits.
        where : str
            A condition on the records; "" for none.
        n_hits : int
            How many; at most 1,000 are given.

        Returns
        -------
        ranking : Ranking
            Of at least so many hits, unless it is complete.

        Raises
        ------
        ForgottenQueryError
            If the uploaded image is not kept any more.
        ImageReadError
            If the image of the query cannot be read.
        TypeError
            If the embedder does not take text.
        WhereError
            If the condition is none on the records.
        """
        n_hits = min(n_hits, MOST_HITS)
        image = self.uploaded(query.value) if query and query.kind == "upload" else None
        with self._search_lock:
            ranking: Ranking = self._rankings.get((query, where), Ranking((), False))
            if len(ranking.hits) < n_hits and not ranking.complete:
                found = self._found(query, image, where, n_hits)
                ranking = _grown(ranking, found, n_hits)
                self._rankings[query, where] = ranking
        return ranking

    def _found(
        self, query: Query | None, image: bytes | None, where: str, n_hits: int
    ) -> list[Hit]:
        """What the search finds, as hits."""
        condition = where or None
        if query is None:
            selected: dict[Any, Any] = self._search.index_.select(condition, limit=n_hits)
            return [Hit(i, None, None, record) for i, record in selected.items()]
        if query.kind == "text":
            result = self._search.search(text=query.value, n_neighbors=n_hits, where=condition)
        elif query.kind == "id":
            result = self._search.search(ids=int(query.value), n_neighbors=n_hits, where=condition)
        else:
            result = self._search.search(image, n_neighbors=n_hits, where=condition)
        inliers = [None] * result.ids.shape[1] if result.n_inliers is None else result.n_inliers[0]
        rows = zip(result.ids[0], result.distances[0], inliers, strict=True)
        living = [row for row in rows if row[0] >= 0]
        return [
            Hit(int(i), float(distance), None if n is None else int(n), record)
            for (i, distance, n), record in zip(living, result.records[0], strict=True)
        ]


def _grown(ranking: Ranking, found: list[Hit], n_hits: int) -> Ranking:
    """A ranking with what was found beyond it."""
    known = {hit.id for hit in ranking.hits}
    hits = ranking.hits + tuple(hit for hit in found if hit.id not in known)
    return Ranking(hits[:MOST_HITS], len(found) < n_hits or len(hits) >= MOST_HITS)
