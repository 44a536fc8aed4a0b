"""ImageSearch: an embedder, an index and records under one roof."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from . import plotting
from ._optional import import_optional
from .base import ImageEmbedder
from .classical import GeometricMatch
from .images import (
    ChosenImages,
    ImageReadError,
    ImageReadWarning,
    check_images,
    is_one_image,
    list_images,
)
from .index import NearestNeighborIndex
from .rerank import GeometricReranker, QueryExpansion

# Queries that a notebook shows of a result; the table and the page have them all.
_SHOWN_IN_NOTEBOOK = 10


class ImageSearch(BaseEstimator):
    """Search a collection of images by image, or by text.

    Parameters
    ----------
    embedder : ImageEmbedder
        Turns images into vectors. One that is fitted, or needs no fit, is used as it is; an
        unfitted one is cloned and fitted to the gallery. Search by text needs one that embeds
        text too: :class:`CLIPEmbedder`.
    index : NearestNeighborIndex, optional
        It is cloned and fitted to the vectors. By default ``NearestNeighborIndex()``, which
        has the cosine metric.
    rerank : GeometricReranker, optional
        It is cloned, fitted to the gallery, and puts the first hits of each search into a
        better order: those whose local features fit the query come first.
    expansion : QueryExpansion, optional
        Search again with a mean of the query and its nearest neighbours. Needs the metric
        "cosine" or "ip". Comes before ``rerank``.

    Attributes
    ----------
    embedder_ : ImageEmbedder
        The fitted embedder.
    index_ : NearestNeighborIndex
        The fitted index.
    images_ : sequence
        The gallery; for a folder, the paths of its images.
    reranker_ : GeometricReranker or None
        The fitted reranker, whose gallery are the readable images.
    rows_ : ndarray of shape (n_indexed,), dtype int64
        The gallery row of each vector in the index.
    errors_ : dict of int to ImageReadError
        The rows that could not be read, and why.
    fingerprint_ : str
        The fingerprint of the embedder at fit.

    See Also
    --------
    NearestNeighborIndex : The index alone.
    GeometricReranker : Verification of the first hits.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import CNNEmbedder, ImageSearch
    >>> gallery = [np.full((40, 40, 3), value, dtype=np.uint8) for value in (0, 120, 250)]
    >>> embedder = CNNEmbedder("tf_efficientnet_lite0", weights="bundled")
    >>> search = ImageSearch(embedder).fit(gallery, records=[{"name": n} for n in "abc"])
    >>> result = search.search(gallery[1], n_neighbors=1)
    >>> result.ids
    array([[1]])
    >>> result.records
    [[{'name': 'b'}]]
    """

    def __init__(
        self,
        embedder: ImageEmbedder,
        index: NearestNeighborIndex | None = None,
        *,
        rerank: GeometricReranker | None = None,
        expansion: QueryExpansion | None = None,
    ) -> None:
        self.embedder = embedder
        self.index = index
        self.rerank = rerank
        self.expansion = expansion

    def fit(self, images: Any, records: Any = None) -> Self:
        """Embed a gallery and index it.

        Parameters
        ----------
        images : str, Path or sequence of n_images images
            A folder, whose images are listed by :func:`imgembed.list_images`, or images
            as :func:`imgembed.read_image` takes them.
        records : DataFrame or sequence of n_images dicts, optional
            What is known of each image; search returns it with the hits, and takes
            conditions on it. Values are those that :meth:`NearestNeighborIndex.fit` takes.

        Returns
        -------
        self : ImageSearch

        Raises
        ------
        ValueError
            If there is no image, none can be read, or records are not one for each, or have
            values that cannot be kept.

        Warns
        -----
        ImageReadWarning
            Once, if images could not be read. They are in ``errors_``; the rest is indexed.
        """
        gallery = _gallery(images)
        checked = _check_records(records, len(gallery))
        index = NearestNeighborIndex() if self.index is None else clone(self.index)
        if self.expansion is not None and index.metric == "euclidean":  # before the long work
            raise ValueError(
                "expansion averages directions, which the metric 'euclidean' does not compare: "
                "take NearestNeighborIndex(metric='cosine')"
            )
        self.embedder_, vectors, errors = _fit_embedder(self.embedder, gallery)
        readable = np.array([row for row in range(len(gallery)) if row not in errors], np.int64)
        if not len(readable):
            raise ValueError(f"none of {len(gallery)} images can be read; the first: {errors[0]}")
        self.reranker_ = None
        if self.rerank is not None:
            self.reranker_ = clone(self.rerank).fit(ChosenImages(gallery, readable))
        self.index_ = index.fit(
            vectors[readable],
            ids=readable.tolist(),
            records=None if checked is None else [checked[row] for row in readable],
            embedder=self.embedder_,
        )
        self.images_, self.rows_, self.errors_, self._records = gallery, readable, errors, checked
        self.fingerprint_ = self.index_.fingerprint_
        if errors:
            _warn_of(errors, len(gallery))
        return self

    def search(
        self,
        images: Any = None,
        n_neighbors: int = 5,
        *,
        text: str | Sequence[str] | None = None,
        where: Any = None,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
    ) -> "SearchResult":
        """Find the images of the gallery that are nearest to each query.

        Parameters
        ----------
        images : an image or a sequence of n_queries images, optional
            The queries, as :func:`imgembed.read_image` takes them.
        n_neighbors : int, default=5
            Hits of a query.
        text : str or sequence of n_queries str, optional
            The queries in words, such as ``"a red shoe"``, in place of images. Texts have no
            local features, so ``rerank`` leaves their hits as they are, and a warning says so.
        where : str, array of bool of shape (n_indexed,) or sequence of ids, optional
            What may be found: a condition in SQL on the records, such as
            ``"price < 50 AND category = 'shoe'"``, a mask of the index, or rows of the gallery.
        params : sequence or mapping, optional
            Values for ``?`` or ``:name`` in the condition.

        Returns
        -------
        result : SearchResult
            Hits of all queries, nearest first; with ``rerank``, verified hits before all
            others. Where the gallery has fewer than ``n_neighbors`` images, the places that
            are left have the id -1.

        Raises
        ------
        NotFittedError
            Before fit.
        TypeError
            If the queries are not either images or text, or are text that the embedder does not
            take.
        ValueError
            If there is no query.
        ImageReadError
            If a query cannot be read.
        FingerprintError
            If the embedder has been changed since fit.
        WhereError
            If the condition is none on the records.
        """
        check_is_fitted(self)
        if (images is None) == (text is None):
            raise TypeError("search needs queries: either images or text=..., and not both")
        self.index_.check_embedder(self.embedder_)
        queries: Sequence[object]
        chosen = _Chosen(where, params)
        if text is None:
            queries, vectors = self._embedded_images(images)
            distances, rows, n_inliers = self._hits(queries, vectors, n_neighbors, chosen)
        else:
            queries, vectors = self._embedded_text(text)
            distances, rows, n_inliers = *self._nearest(vectors, n_neighbors, chosen), None
        ids = np.where(rows < 0, -1, self.rows_[rows])
        return SearchResult(list(queries), ids, distances, self.images_, self._records, n_inliers)

    def explain(self, query: Any, hit: int) -> GeometricMatch:
        """How a query's local features match those of a hit.

        Parameters
        ----------
        query : image
            As :func:`imgembed.read_image` takes it.
        hit : int
            The id of the hit.

        Returns
        -------
        match : GeometricMatch
            Matches, which of them are inliers, and the transformation;
            :func:`imgembed.plotting.plot_matches` draws it.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If the search has no ``rerank``, or no image with this id is in the index.
        """
        check_is_fitted(self)
        if self.reranker_ is None:
            raise ValueError(
                "explain needs local features: make the search with rerank=GeometricReranker()"
            )
        row = int(np.searchsorted(self.rows_, hit))
        if row == len(self.rows_) or self.rows_[row] != hit:
            raise ValueError(f"hit must be the id of an image in the index, got {hit!r}")
        match: GeometricMatch = self.reranker_.explain(query, row)
        return match

    def _embedded_images(self, images: Any) -> tuple[Sequence[object], NDArray[np.float32]]:
        queries = [images] if is_one_image(images) else check_images(images)
        if len(queries) == 0:
            raise ValueError("there is no query; give an image or a sequence of images")
        vectors, errors = self.embedder_.transform_with_errors(queries)
        for error in errors.values():
            raise error
        return queries, vectors

    def _embedded_text(
        self, text: str | Sequence[str]
    ) -> tuple[Sequence[object], NDArray[np.float32]]:
        embedder: Any = self.embedder_
        if not hasattr(embedder, "transform_text"):
            raise TypeError(
                f"{type(embedder).__name__} embeds images only; search by text needs an embedder "
                "of images and text: ImageSearch(CLIPEmbedder())"
            )
        texts = [text] if isinstance(text, str) else list(text)
        vectors = embedder.transform_text(texts)
        if self.reranker_ is not None:
            warnings.warn(
                "text has no local features, so its hits are not verified; rerank does it for "
                "images only",
                UserWarning,
                stacklevel=3,
            )
        return [plotting.TextQuery(text) for text in texts], vectors

    def _nearest(
        self, vectors: NDArray[np.float32], n_neighbors: int, chosen: "_Chosen"
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Distances and rows of the index, after expansion."""
        where, params = chosen
        if self.expansion is not None:
            vectors = self._expanded(vectors, self.expansion, chosen)
        distances, rows = self.index_.kneighbors(vectors, n_neighbors, where=where, params=params)
        return distances, rows

    def _hits(
        self,
        queries: Sequence[object],
        vectors: NDArray[np.float32],
        n_neighbors: int,
        chosen: "_Chosen",
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64] | None]:
        """Distances, rows of the index, and inliers if hits are verified."""
        if self.reranker_ is None:
            return *self._nearest(vectors, n_neighbors, chosen), None
        top = max(n_neighbors, self.reranker_.top)
        distances, rows = self._nearest(vectors, top, chosen)
        order, n_inliers = self.reranker_.rerank(queries, rows)
        first = order[:, :n_neighbors]
        return (
            np.take_along_axis(distances, first, axis=1),
            np.take_along_axis(rows, first, axis=1),
            n_inliers[:, :n_neighbors],
        )

    def _expanded(
        self, vectors: NDArray[np.float32], expansion: QueryExpansion, chosen: "_Chosen"
    ) -> NDArray[np.float32]:
        where, params = chosen
        _, rows = self.index_.kneighbors(vectors, expansion.n_neighbors, where=where, params=params)
        neighbours = self.index_.vectors_[rows]
        neighbours[rows < 0] = np.nan
        return expansion.expand(vectors, neighbours)


class _Chosen(NamedTuple):
    """What may be found."""

    where: Any
    params: Sequence[Any] | Mapping[str, Any] | None


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """The hits of a search: a table, a picture, and thumbnails in a notebook.

    Parameters
    ----------
    queries : list of images or texts
        The queries, as they were given; texts as :class:`imgembed.plotting.TextQuery`.
    ids : ndarray of shape (n_queries, n_neighbors), dtype int64
        Rows of the gallery, nearest first; -1 where the gallery has no more.
    distances : ndarray of shape (n_queries, n_neighbors), dtype float64
        The distances, ascending unless hits were verified; inf where the gallery has no more.
    images : sequence of images
        The gallery.
    all_records : list of dict or None
        The record of each image in the gallery.
    n_inliers : ndarray of shape (n_queries, n_neighbors), dtype int64, or None
        Of hits that local features have verified, the inliers; 0 where they have not, -1 where
        they were not tried. None if the search does not verify.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import SearchResult
    >>> gallery = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    >>> SearchResult([gallery[0]], np.array([[2, 0]]), np.array([[0.1, 0.2]]), gallery)
    SearchResult of 1 query, 2 neighbours each:
    array of shape (8, 8, 3) and dtype uint8
      1  0.1000  2
      2  0.2000  0
    """

    queries: list[Any]
    ids: NDArray[np.int64]
    distances: NDArray[np.float64]
    images: Sequence[object]
    all_records: list[dict[str, Any]] | None = None
    n_inliers: NDArray[np.int64] | None = None

    @property
    def records(self) -> list[list[dict[str, Any]]]:
        """The records of each query's hits; empty dicts if there are no records."""
        records = self.all_records
        return [[{} if records is None else records[i] for i in row if i >= 0] for row in self.ids]

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        n_queries, n_neighbors = self.ids.shape
        plural = "query" if n_queries == 1 else "queries"
        lines = [f"SearchResult of {n_queries} {plural}, {n_neighbors} neighbours each:"]
        for query, found in zip(self.queries[:_SHOWN_IN_NOTEBOOK], self.lines(), strict=False):
            lines += [plotting.image_name(query), *found]
        if n_queries > _SHOWN_IN_NOTEBOOK:
            lines.append(f"... and {n_queries - _SHOWN_IN_NOTEBOOK} more queries")
        return "\n".join(lines)

    def lines(self) -> Iterator[list[str]]:
        """The hits as text: of each query a list with a line a hit.

        Yields
        ------
        lines : list of str
            Rank, distance, path or id, and inliers where the hit was verified.
        """
        for q in range(len(self)):
            yield [f"  {h.rank}  {h.distance:.4f}  {h.name}{h.proof}" for h in self._hits(q)]

    def to_pandas(self) -> Any:
        """The hits as a table with a row a hit.

        Returns
        -------
        table : pandas.DataFrame
            Columns query (row of the query), rank (from 1), id, distance, image (its path,
            where the gallery has paths), n_inliers (where hits were verified), and those of
            the records.

        Raises
        ------
        ImportError
            If pandas is not installed (extra ``pandas``).
        """
        pandas = import_optional("pandas", extra="pandas", needed_by="SearchResult.to_pandas")
        rows = [
            {
                "query": q,
                "rank": hit.rank,
                "id": hit.id,
                "distance": hit.distance,
                **({"image": str(hit.image)} if _is_path(hit.image) else {}),
                **({} if hit.n_inliers is None else {"n_inliers": hit.n_inliers}),
                **({} if self.all_records is None else self.all_records[hit.id]),
            }
            for q in range(len(self))
            for hit in self._hits(q)
        ]
        return pandas.DataFrame(rows)

    def plot(self, n_queries: int = 10) -> Any:
        """Draw queries and their hits as a grid, a row a query.

        Parameters
        ----------
        n_queries : int, default=10
            How many queries to draw, from the first.

        Returns
        -------
        axes : ndarray of shape (n_queries, 1 + n_neighbors) of matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed (extra ``plot``).
        """
        n_queries = min(n_queries, len(self))
        return plotting.plot_hits(
            self.queries[:n_queries],
            [[hit.image for hit in self._hits(q)] for q in range(n_queries)],
            [[hit.caption for hit in self._hits(q)] for q in range(n_queries)],
        )

    def to_html(self, title: str = "Search result") -> str:
        """One self-contained page with all hits, thumbnails inside.

        Parameters
        ----------
        title : str, default="Search result"
            The title of the page.

        Returns
        -------
        page : str
            HTML; all text in it is escaped.
        """
        return plotting.html_page(title, self._html_table(len(self)))

    def _repr_html_(self) -> str:
        return self._html_table(min(len(self), _SHOWN_IN_NOTEBOOK))

    def _html_table(self, n_queries: int) -> str:
        return plotting.html_hits(
            self.queries[:n_queries],
            [[hit.image for hit in self._hits(q)] for q in range(n_queries)],
            [[hit.caption for hit in self._hits(q)] for q in range(n_queries)],
            n_more=len(self) - n_queries,
        )

    def _hits(self, query: int) -> Iterator["_Hit"]:
        pairs = zip(self.ids[query], self.distances[query], strict=True)
        for rank, (i, distance) in enumerate(pairs, start=1):
            if i >= 0:
                n_inliers = None
                if self.n_inliers is not None:
                    n_inliers = int(self.n_inliers[query, rank - 1])
                yield _Hit(rank, int(i), float(distance), self.images[int(i)], n_inliers)


@dataclass(frozen=True)
class _Hit:
    rank: int
    id: int
    distance: float
    image: object
    n_inliers: int | None

    @property
    def name(self) -> str:
        return str(self.image) if _is_path(self.image) else str(self.id)

    @property
    def caption(self) -> str:
        name = Path(os.fsdecode(str(self.image))).name if _is_path(self.image) else self.id
        return f"{name}\n{self.distance:.3f}{self.proof}"

    @property
    def proof(self) -> str:
        return f", {self.n_inliers} inliers" if self.n_inliers and self.n_inliers > 0 else ""


def _is_path(image: object) -> bool:
    return isinstance(image, (str, os.PathLike))


def _gallery(images: Any) -> Sequence[object]:
    if isinstance(images, (str, os.PathLike)):
        paths: Sequence[object] = list_images(images)
        if not paths:
            raise ValueError(f"there are no images in the folder {os.fspath(images)!r}")
        return paths
    gallery = check_images(images)
    if len(gallery) == 0:
        raise ValueError("the gallery is empty; give a folder or at least one image")
    return gallery


def _check_records(records: Any, n_images: int) -> list[dict[str, Any]] | None:
    if records is None:
        return None
    if hasattr(records, "to_dicts"):  # polars
        records = records.to_dicts()
    elif hasattr(records, "to_dict"):  # pandas
        records = records.to_dict("records")
    if not isinstance(records, Sequence) or not all(isinstance(r, Mapping) for r in records):
        raise ValueError(
            "records must be a DataFrame or a sequence of dicts, one for each image; got a "
            f"{type(records).__name__}"
        )
    if len(records) != n_images:
        raise ValueError(
            f"records must be one for each image: got {len(records)} records and {n_images} images"
        )
    return [dict(record) for record in records]


def _fit_embedder(
    embedder: ImageEmbedder, gallery: Sequence[object]
) -> tuple[ImageEmbedder, NDArray[np.float32], dict[int, ImageReadError]]:
    try:
        check_is_fitted(embedder)
    except NotFittedError:
        embedder = clone(embedder)
        return embedder, *embedder.fit_transform_with_errors(gallery)
    return embedder, *embedder.transform_with_errors(gallery)


def _warn_of(errors: dict[int, ImageReadError], n_images: int) -> None:
    first = next(iter(errors.values()))
    warnings.warn(
        f"{len(errors)} of {n_images} images cannot be read and are not indexed; errors_ lists "
        f"them. The first: {first}",
        ImageReadWarning,
        stacklevel=3,
    )
