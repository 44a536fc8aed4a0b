"""ImageSearch: an embedder, an index and records under one roof."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from .. import plotting
from ..base import ImageEmbedder
from ..classical import GeometricMatch
from ..images import ChosenImages, ImageReadError, check_images, is_one_image
from ..index import NearestNeighborIndex, UnknownIdError
from ..index._locks import SharedLock
from ..rerank import GeometricReranker, QueryExpansion
from ._gallery import Gallery, check_records, readable_rows, warn_of
from ._hits import Chosen, Hits, Rows, Vectors, nearest, verified
from ._inside_reranker import extended, reduced
from ._result import SearchResult
from ._saved import Saved, read_search, write_search


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
        The fitted index. Change it by :meth:`add`, :meth:`remove` and :meth:`update_records`
        only, which keep all in step.
    images_ : sequence
        The gallery: ``images_[id]`` is the image with this id, None where it was removed. Of a
        folder they are the paths of its images.
    images_root_ : Path or None
        The folder that all images are in, where they are files; see :meth:`load`.
    reranker_ : GeometricReranker or None
        The fitted reranker, whose gallery are the images in the index.
    rows_ : ndarray of shape (n_indexed,), dtype int64
        The id of each vector in the index, ascending.
    errors_ : dict of int to ImageReadError
        The ids of images that could not be read, and why.
    fingerprint_ : str
        The fingerprint of the embedder at fit.

    See Also
    --------
    NearestNeighborIndex : The index alone.
    GeometricReranker : Verification of the first hits.
    save_embedder : What :meth:`save` does with the embedder.

    Notes
    -----
    An image's id is its place in the gallery, from 0 on, and stays when others are removed.

    Any number of threads may search at once; a change waits for them and they for it.

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

    # Filling.

    def fit(self, images: Any, records: Any = None) -> Self:
        """Embed a gallery and index it, in place of any that is there.

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
        gallery = Gallery.of(images)
        checked = check_records(records, len(gallery))
        index = NearestNeighborIndex() if self.index is None else clone(self.index)
        if self.expansion is not None and index.metric == "euclidean":  # before the long work
            raise ValueError(
                "expansion averages directions, which the metric 'euclidean' does not compare: "
                "take NearestNeighborIndex(metric='cosine')"
            )
        embedder, vectors, errors = _fit_embedder(self.embedder, gallery)
        rows = readable_rows(len(gallery), errors)
        reranker = self._fitted_reranker(gallery, rows)
        index.fit(vectors[rows], ids=rows.tolist(), records=_at(rows, checked), embedder=embedder)
        with self.__dict__.setdefault("_lock", SharedLock()).writing():
            self.embedder_, self.index_, self.reranker_ = embedder, index, reranker
            self.images_, self.rows_, self.errors_ = gallery, rows, errors
            self.fingerprint_ = index.fingerprint_
            self._generations: dict[str, str] = {}
        warn_of(errors, len(gallery))
        return self

    def add(self, images: Any, records: Any = None) -> Self:
        """Embed more images and index them; their ids go on from those that are there.

        Parameters
        ----------
        images : str, Path or sequence of n_images images
            As in :meth:`fit`. An embedder that learns from images does not learn from these.
        records : DataFrame or sequence of n_images dicts, optional
            They may have new columns; what is not given is None.

        Returns
        -------
        self : ImageSearch

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            As in :meth:`fit`; nothing was added then.
        FingerprintError
            If the embedder has been changed since fit.

        Warns
        -----
        ImageReadWarning
            Once, if images could not be read. They have ids, are in ``errors_``, and are not
            indexed.
        """
        check_is_fitted(self)
        new = Gallery.of(images)
        checked = check_records(records, len(new))
        self.index_.check_embedder(self.embedder_)
        vectors, errors = self.embedder_.transform_with_errors(new)
        rows = readable_rows(len(new), errors)
        reranker = self._fitted_reranker(new, rows)
        with self._lock.writing():
            first = len(self.images_)
            ids = first + rows
            gallery, all_ids = self.images_.with_more(new), np.concatenate([self.rows_, ids])
            if reranker is not None:
                reranker = extended(self.reranker_, reranker, ChosenImages(gallery, all_ids))
            self.index_.add(
                vectors[rows],
                ids=ids.tolist(),
                records=_at(rows, checked),
                embedder=self.embedder_,
            )
            self.images_, self.rows_, self.reranker_ = gallery, all_ids, reranker
            at = {first + row: error.with_row(first + row) for row, error in errors.items()}
            self.errors_ = self.errors_ | at
        warn_of(errors, len(new))
        return self

    def remove(self, ids: ArrayLike) -> Self:
        """Remove images; all others keep their ids, and no later image gets those.

        Parameters
        ----------
        ids : int or sequence of int

        Returns
        -------
        self : ImageSearch

        Raises
        ------
        NotFittedError
            Before fit.
        UnknownIdError
            If no image in the index has one of these ids; then none is removed.
        """
        check_is_fitted(self)
        gone = _as_ids(ids)
        with self._lock.writing():
            self._rows_of(gone)
            kept = np.flatnonzero(~np.isin(self.rows_, gone))
            gallery, rows = self.images_.without(gone), self.rows_[kept]
            reranker = self.reranker_
            if reranker is not None:
                reranker = reduced(reranker, kept, ChosenImages(gallery, rows))
            self.index_.remove(gone.tolist())
            self.images_, self.rows_, self.reranker_ = gallery, rows, reranker
        return self

    def update_records(self, ids: ArrayLike, records: Any) -> Self:
        """Change columns of records, and leave the other columns and the images.

        Parameters
        ----------
        ids : int or sequence of int
        records : DataFrame, dict of columns or sequence of dicts
            One for each id.

        Returns
        -------
        self : ImageSearch

        Raises
        ------
        NotFittedError
            Before fit.
        UnknownIdError
            If no image in the index has one of these ids.
        ValueError
            If records are not one for each, or have values that cannot be kept.
        """
        check_is_fitted(self)
        self.index_.update_records(_as_ids(ids).tolist(), records)
        return self

    # Searching.

    def search(
        self,
        images: Any = None,
        n_neighbors: int = 5,
        *,
        text: str | Sequence[str] | None = None,
        ids: ArrayLike | None = None,
        where: Any = None,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
    ) -> SearchResult:
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
        ids : int or sequence of n_queries int, optional
            The queries as ids of images in the index, in place of images. Their vectors
            are there, so that no image is read, unless ``rerank`` does; none is its own hit.
        where : str, array of bool of shape (n_indexed,) or sequence of ids, optional
            What may be found: a condition in SQL on the records, such as
            ``"price < 50 AND category = 'shoe'"``, a mask of the index, or ids.
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
            If the queries are not either images, text or ids, or are text that the embedder
            does not take.
        ValueError
            If there is no query, or ``n_neighbors`` is below 1.
        ImageReadError
            If a query cannot be read.
        UnknownIdError
            If no image in the index has one of the ids.
        FingerprintError
            If the embedder has been changed since fit.
        WhereError
            If the condition is none on the records.
        """
        check_is_fitted(self)
        if sum(given is not None for given in (images, text, ids)) != 1:
            raise TypeError(
                "search needs queries: either images, text=... or ids=..., and one of them only"
            )
        check_scalar(n_neighbors, "n_neighbors", (int, np.integer), min_val=1)
        chosen = Chosen(where, params)
        if ids is not None:
            wanted = _as_ids(ids)
            with self._lock.reading():
                rows = self._rows_of(wanted)
                queries: Sequence[object] = [self.images_[i] for i in wanted]
                vectors = self.index_.vectors_at(rows)
                return self._found(queries, vectors, n_neighbors, chosen, rows)
        self.index_.check_embedder(self.embedder_)
        embedded = self._embedded_images(images) if text is None else self._embedded_text(text)
        with self._lock.reading():
            return self._found(*embedded, n_neighbors, chosen, verify=text is None)

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
        with self._lock.reading():
            row = int(np.searchsorted(self.rows_, hit))
            if row == len(self.rows_) or self.rows_[row] != hit:
                raise ValueError(f"hit must be the id of an image in the index, got {hit!r}")
            match: GeometricMatch = self.reranker_.explain(query, row)
        return match

    # Storage.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that a search needs to a folder, where at any moment the old or the new is.

        Parameters
        ----------
        path : str or Path
            A folder: a new one, or one that holds an index or a search. Images in files are
            kept as paths, others whole: bytes as they are, arrays and PIL images as PNG. An
            embedder that is none of imgembed's own is not kept: :meth:`load` wants it then.

        Raises
        ------
        NotFittedError
            Before fit.
        TypeError
            If ``rerank`` has an extractor that is none of imgembed's own.
        FileExistsError or NotADirectoryError
            If there is something else.
        IndexLockedError
            If something is being saved there right now.
        IndexChangedError
            If this search was loaded from there or saved there, and another one was saved since.
        OSError
            If the disk is full or the folder cannot be written; what was there stays.
        """
        check_is_fitted(self)
        place = str(Path(path).resolve())
        with self._lock.reading():
            self._generations[place] = write_search(
                path, self._to_save(), replaces=self._generations.get(place)
            )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        embedder: ImageEmbedder | None = None,
        images_root: str | os.PathLike[str] | None = None,
        mmap: bool = False,
        rebuild: bool = False,
    ) -> Self:
        """Read a search from a folder, ready to be used: no image is embedded again.

        A network loads its weights at the first search, from where they were: a hub, a package, a
        file. Nothing in the folder is ever executed.

        Parameters
        ----------
        path : str or Path
            The folder.
        embedder : ImageEmbedder, optional
            Taken in place of the one in the folder, if it gives the same vectors.
        images_root : str or Path, optional
            Where the folder ``images_root_`` is now, if it was moved.
        mmap : bool, default=False
            Leave the vectors in their file and read what is needed.
        rebuild : bool, default=False
            If only the graph is damaged, build it again from the vectors, with a warning.

        Returns
        -------
        search : ImageSearch

        Raises
        ------
        FileNotFoundError
            If there is no search.
        CorruptIndexError
            If it is damaged.
        ValueError
            If a newer imgembed has written it, it is an index without images, or the embedder
            was none of imgembed's own and is not given.
        FingerprintError
            If the embedder that is given makes other vectors than those in the index. The one
            in the folder is compared at the first search.

        Warns
        -----
        UserWarning
            If the graph is built again.
        """
        saved, generation = read_search(
            path, embedder=embedder, images_root=images_root, mmap=mmap, rebuild=rebuild
        )
        search = cls(
            saved.embedder, clone(saved.index), rerank=saved.rerank, expansion=saved.expansion
        )
        search._take(saved)
        search._generations = {str(Path(path).resolve()): generation}
        return search

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock, and what was saved where."""
        state: dict[str, Any] = dict(super().__getstate__())
        for name in ("_lock", "_generations"):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a pickle."""
        super().__setstate__(state)
        if "index_" in self.__dict__:
            self._lock, self._generations = SharedLock(), {}

    # What is there.

    def __len__(self) -> int:
        check_is_fitted(self)
        return len(self.index_)

    def __bool__(self) -> bool:
        return True  # also of a search from which all was removed

    @property
    def images_root_(self) -> Path | None:
        """The folder that all images are in."""
        if "images_" not in self.__dict__:
            raise AttributeError("ImageSearch has images_root_ after fit or load")
        return self.images_.root

    def __sklearn_is_fitted__(self) -> bool:
        return "index_" in self.__dict__

    def _fitted_reranker(self, gallery: Gallery, rows: Rows) -> GeometricReranker | None:
        if self.rerank is None:
            return None
        reranker: GeometricReranker = clone(self.rerank).fit(ChosenImages(gallery, rows))
        return reranker

    def _to_save(self) -> Saved:
        return Saved(
            self.embedder_,
            self.index_,
            self.images_,
            self.errors_,
            self.rerank,
            self.expansion,
            self.reranker_,
        )

    def _take(self, saved: Saved) -> None:
        self._lock = SharedLock()
        self.embedder_, self.index_, self.reranker_ = saved.embedder, saved.index, saved.reranker
        self.images_, self.rows_, self.errors_ = saved.gallery, saved.rows, dict(saved.errors)
        self.fingerprint_ = saved.index.fingerprint_

    def _rows_of(self, ids: Rows) -> Rows:
        """The rows of the index of these ids."""
        rows = np.searchsorted(self.rows_, ids)
        known = rows < len(self.rows_)
        known[known] = self.rows_[rows[known]] == ids[known]
        if not known.all():
            raise UnknownIdError(
                f"no image in the index has the ids {ids[~known][:10].tolist()}; they were "
                "removed, could not be read (errors_), or never were"
            )
        return rows

    def _embedded_images(self, images: Any) -> tuple[Sequence[object], Vectors]:
        queries = [images] if is_one_image(images) else check_images(images)
        if len(queries) == 0:
            raise ValueError("there is no query; give an image or a sequence of images")
        vectors, errors = self.embedder_.transform_with_errors(queries)
        for error in errors.values():
            raise error
        return queries, vectors

    def _embedded_text(self, text: str | Sequence[str]) -> tuple[Sequence[object], Vectors]:
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

    def _found(
        self,
        queries: Sequence[object],
        vectors: Vectors,
        n_neighbors: int,
        chosen: Chosen,
        own_rows: Rows | None = None,
        *,
        verify: bool = True,
    ) -> SearchResult:
        """Hits as a result; the lock must be held."""
        reranker = self.reranker_ if verify else None
        top = n_neighbors if reranker is None else max(n_neighbors, reranker.top)
        hits = nearest(self.index_, vectors, top, chosen, self.expansion, own_rows)
        if reranker is not None:
            hits = verified(hits, reranker, queries, n_neighbors)
        return self._result(queries, hits)

    def _result(self, queries: Sequence[object], hits: Hits) -> SearchResult:
        ids = np.full(hits.rows.shape, -1, np.int64)
        ids[hits.rows >= 0] = self.rows_[hits.rows[hits.rows >= 0]]
        records = [
            [known[int(i)] for i in row if i >= 0]
            for row, known in zip(ids, hits.known, strict=True)
        ]
        return SearchResult(
            list(queries), ids, hits.distances, self.images_, records, hits.n_inliers
        )


def _at(rows: Rows, records: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    return None if records is None else [records[row] for row in rows]


def _as_ids(ids: ArrayLike) -> Rows:
    array = np.atleast_1d(np.asarray(ids))
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise ValueError(f"ids must be one or more integers, as a search returns them; got {ids!r}")
    return array.astype(np.int64)


def _fit_embedder(
    embedder: ImageEmbedder, gallery: Sequence[object]
) -> tuple[ImageEmbedder, Vectors, dict[int, ImageReadError]]:
    try:
        check_is_fitted(embedder)
    except NotFittedError:
        embedder = clone(embedder)
        return embedder, *embedder.fit_transform_with_errors(gallery)
    return embedder, *embedder.transform_with_errors(gallery)
