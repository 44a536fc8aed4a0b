"""NearestNeighborIndex: the nearest vectors of vectors."""

import os
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted

from .._workers import n_threads_here
from ._checks import check_limit, check_parameters, check_vectors
from ._collection import Collection
from ._filters import Parameters, allowed_slots
from ._fingerprint import FilledBy
from ._locks import SharedLock
from ._metadata import check_features, estimator_from, metadata_of, notes_from
from ._near_duplicates import complete_linkage_groups
from ._neighbors import Neighbors
from ._pairs import Calibration, calibrated
from ._recall import RecallCurve, measured_curve
from ._settings import Settings
from ._snapshot import GRAPH_ARRAYS, unpack
from ._sparse import neighbour_graph, rows_of_pairs, without_self
from ._tuning import RecallEstimate
from .storage._folder import read_snapshot, write_snapshot

Distances = NDArray[np.float64]
Rows = NDArray[np.int64]

# More gain nothing, and thousands would end the process.
_MOST_THREADS = os.cpu_count() or 1


class NearestNeighborIndex(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Find the nearest vectors, with hnswlib or exactly.

    Vectors may have ids and records, may be added, replaced and removed, and are searched with
    conditions on the records. Everything is checked before hnswlib sees it; a call ends with a
    result or with an exception, and then the index is as it was before.

    Parameters
    ----------
    n_neighbors : int, default=5
        Neighbours of a query, where a call does not say otherwise.
    metric : {"cosine", "euclidean", "ip"}, default="cosine"
        "cosine": ``1 - cos``, in 0..2. "euclidean": the L2 distance. "ip": ``1 - a @ b``, which
        is negative for large inner products and not zero for equal vectors.
    algorithm : {"auto", "hnsw", "exact"}, default="auto"
        "hnsw" is a graph: approximate, fast for many vectors. "exact" compares with all. "auto"
        takes exact search below 10,000 distinct vectors. A search that would visit so much of
        the graph that a scan is faster, scans; so does one whose filter keeps little.
    M : int, default=16
        Links of a node of the graph. More give better recall and take more memory.
    ef_construction : int, default=200
        Candidates while the graph is built. More give a better graph, slower.
    ef_search : int, optional
        Candidates while the graph is searched. By default as few as ``target_recall`` needs,
        measured when the graph is built and when it has grown by half.
    target_recall : float, default=0.95
        The share of the true neighbours that a search finds in the mean.
    storage : {"float32", "float16", "int8"}, default="float32"
        How vectors are kept. The small ones take a half and a quarter, and round the distances;
        for vectors of more than 256 features the graph then lies in the 256 axes of the largest
        variance, and what it finds is ranked by the stored vectors.
    n_jobs : int or None, default=None
        Threads that build and search the graph. With one (None) the same vectors always give
        the same graph and the same files; with more (-1: all processors) it is built faster.
    mode : {"distance", "connectivity"}, default="distance"
        What :meth:`transform` puts into the graph of neighbours.
    progress : {"auto", True, False}, default="auto"
        Whether to show a progress bar while a graph is built. "auto" shows one in a terminal or
        notebook for work that takes longer than two seconds.
    random_state : int, RandomState instance or None, default=0
        Draws the levels of the graph's nodes, and what is measured.

    Attributes
    ----------
    n_samples_fit_ : int
        Vectors in the index, as ``len(index)``.
    n_features_in_ : int
        Their width.
    vectors_ : ndarray of shape (n_images, n_features), dtype float32
        The vectors, row by row, read-only; for "cosine" scaled to unit length.
    algorithm_ : {"hnsw", "exact"}
        What searches where there is no filter.
    ef_search_ : int
        Candidates that are visited for ``n_neighbors``; 0 without a graph.
    recall_estimate_ : RecallEstimate
        What was measured for ``n_neighbors``.
    storage_recall_ : RecallEstimate
        The recall of exact search over what is stored, against the vectors that were given to
        fit: what float16 or int8 costs. It is not part of ``recall_estimate_``.
    columns_ : dict of str to str
        The columns of the records and their kinds.
    fingerprint_ : str or None
        The fingerprint of the embedder that filled the index, if it was told.
    calibration_ : LabelledCalibration, RandomPairCalibration or None
        What :meth:`calibrate` has learned.

    See Also
    --------
    ImageSearch : An embedder and an index under one roof.

    Notes
    -----
    Equal vectors share a node of the graph, so that many copies of one image cannot hide the
    others. A vector of zeros has the cosine distance 1 to everything, itself included. Vectors
    and queries are float32 inside: entries beyond 1e15 are refused.

    Any number of threads may search at once; a change waits for them and they for it. Removed
    vectors are not found from then on. Their memory is used again when :meth:`compact` is
    called, and that happens by itself when more than a third are removed.

    References
    ----------
    .. [1] Y. Malkov and D. Yashunin, "Efficient and robust approximate nearest neighbor
       search using Hierarchical Navigable Small World graphs", TPAMI 2020.

    Examples
    --------
    >>> from imgembed import NearestNeighborIndex
    >>> index = NearestNeighborIndex(metric="euclidean").fit([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]])
    >>> distances, rows = index.kneighbors([[0.0, 1.0]], n_neighbors=2)
    >>> rows
    array([[0, 1]])
    >>> distances.round(3)
    array([[1.   , 4.243]])

    With ids, records and a condition:

    >>> shop = NearestNeighborIndex(metric="euclidean").fit(
    ...     [[0.0], [1.0], [2.0]], ids=["x", "y", "z"], records={"price": [70, 20, 30]}
    ... )
    >>> shop.search([[0.0]], n_neighbors=1, where="price < ?", params=(50,)).ids
    [['y']]
    """

    def __init__(
        self,
        n_neighbors: int = 5,
        metric: str = "cosine",
        algorithm: str = "auto",
        *,
        M: int = 16,
        ef_construction: int = 200,
        ef_search: int | None = None,
        target_recall: float = 0.95,
        storage: str = "float32",
        n_jobs: int | None = None,
        mode: str = "distance",
        progress: bool | str = "auto",
        random_state: Any = 0,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.algorithm = algorithm
        self.M = M
        self.ef_construction = ef_construction
        self.ef_search = ef_search
        self.target_recall = target_recall
        self.storage = storage
        self.n_jobs = n_jobs
        self.mode = mode
        self.progress = progress
        self.random_state = random_state

    # Filling.

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        ids: Sequence[Hashable] | None = None,
        records: Any = None,
        embedder: Any = None,
    ) -> Self:
        """Put vectors into the index, in place of any that are there.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Finite.
        y : ignored
            For the API of scikit-learn.
        ids : sequence of n_images hashables, optional
            Names of the vectors: str, int, float, bool, None, bytes, paths, dates, UUIDs, and
            tuples of them. By default 0, 1, 2, ...
        records : DataFrame, dict of columns or sequence of n_images dicts, optional
            What is known of each vector.
        embedder : ImageEmbedder, optional
            What made the vectors. Queries that name another one are refused.

        Returns
        -------
        self : NearestNeighborIndex

        Raises
        ------
        ValueError
            If X is empty, not finite or not two-dimensional, a parameter is wrong, or records
            are not one for each.
        DuplicateIdError
            If an id comes twice.
        """
        check_parameters(self)
        checked = NearestNeighborIndex()  # takes the width; this one may be searched meanwhile
        vectors = check_vectors(checked, X, self.metric, reset=True)
        collection = Collection.empty(self._new_settings(), vectors.shape[1])
        collection.nodes.progress = self.progress
        collection.add(vectors, ids, records, self._n_threads())
        filled_by = FilledBy.of(embedder)
        with self.__dict__.setdefault("_lock", SharedLock()).writing():
            self._take_features(checked)
            self._hold(collection, filled_by, None)
        return self

    def add(
        self,
        X: Any,
        *,
        ids: Sequence[Hashable] | None = None,
        records: Any = None,
        embedder: Any = None,
    ) -> Self:
        """Add vectors, in rows after those that are there.

        Parameters
        ----------
        X : array-like of shape (n_new, n_features)
            Finite.
        ids : sequence of n_new hashables, optional
            By default integers that go on from the largest default one.
        records : DataFrame, dict of columns or sequence of n_new dicts, optional
            They may have new columns; what is not given is None.
        embedder : ImageEmbedder, optional
            What made the vectors.

        Returns
        -------
        self : NearestNeighborIndex

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If X has another width or is not finite, or records are not one for each.
        DuplicateIdError
            If an id is there already, or comes twice. :meth:`upsert` replaces.
        FingerprintError
            If the index was filled by another embedder.
        """
        self._require_fit()
        with self._lock.writing():
            vectors = self._checked(X, embedder)
            self._collection.add(vectors, ids, records, self._n_threads())
        return self

    def upsert(
        self, X: Any, ids: Sequence[Hashable], *, records: Any = None, embedder: Any = None
    ) -> Self:
        """Replace the vectors and records of ids that are there, and add the others.

        Parameters
        ----------
        X : array-like of shape (n_vectors, n_features)
            Finite.
        ids : sequence of n_vectors hashables
            A replaced vector keeps its row.
        records : DataFrame, dict of columns or sequence of n_vectors dicts, optional
            They replace whole records: what is not given becomes None. Without any, the records
            that are there stay.
        embedder : ImageEmbedder, optional
            What made the vectors.

        Returns
        -------
        self : NearestNeighborIndex

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If X has another width or is not finite, or ids or records are not one for each.
        DuplicateIdError
            If an id comes twice in ``ids``.
        FingerprintError
            If the index was filled by another embedder.
        """
        self._require_fit()
        with self._lock.writing():
            vectors = self._checked(X, embedder)
            self._collection.upsert(vectors, ids, records, self._n_threads())
        return self

    def remove(self, ids: Sequence[Hashable]) -> Self:
        """Remove vectors; rows behind them move up.

        Parameters
        ----------
        ids : sequence of hashables

        Returns
        -------
        self : NearestNeighborIndex

        Raises
        ------
        NotFittedError
            Before fit.
        UnknownIdError
            If an id is not there; then none is removed.
        """
        self._require_fit()
        with self._lock.writing():
            self._collection.remove(ids, self._n_threads())
        return self

    def update_records(self, ids: Sequence[Hashable], records: Any) -> Self:
        """Change columns of records, and leave the other columns and the vectors.

        Parameters
        ----------
        ids : sequence of hashables
        records : DataFrame, dict of columns or sequence of dicts
            One for each id.

        Returns
        -------
        self : NearestNeighborIndex

        Raises
        ------
        NotFittedError
            Before fit.
        UnknownIdError
            If an id is not there.
        ValueError
            If records are not one for each.
        """
        self._require_fit()
        with self._lock.writing():
            slots = self._collection.records.slots_of(ids)
            self._collection.records.update(slots, records)
        return self

    def compact(self) -> Self:
        """Give back what removed and replaced vectors take, and build the graph without them.

        It happens by itself when more than a third of the index is not in use.

        Returns
        -------
        self : NearestNeighborIndex

        Raises
        ------
        NotFittedError
            Before fit.
        """
        self._require_fit()
        with self._lock.writing():
            self._collection.compact(self._n_threads())
        return self

    # Searching.

    def kneighbors(
        self,
        X: Any = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
        *,
        where: Any = None,
        params: Parameters = None,
        exact: bool = False,
        embedder: Any = None,
    ) -> Any:
        """Find the nearest vectors of each query.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), optional
            The queries. By default the vectors of the index, each without itself.
        n_neighbors : int, optional
            How many neighbours; by default the parameter of the index.
        return_distance : bool, default=True
            Whether to return distances too.
        where : str, array of bool of shape (n_images,) or sequence of ids, optional
            What may be found: a condition in SQL on the columns of the records, such as
            ``"price < 50 AND category = 'shoe'"``, a mask of rows, or ids.
        params : sequence or mapping, optional
            Values for ``?`` or ``:name`` in the condition.
        exact : bool, default=False
            Compare with all vectors.
        embedder : ImageEmbedder, optional
            What made the queries.

        Returns
        -------
        distances : ndarray of shape (n_queries, n_neighbors), dtype float64
            Ascending. Only if ``return_distance``.
        rows : ndarray of shape (n_queries, n_neighbors), dtype int64
            Rows of the index. Where there are fewer vectors than ``n_neighbors``, the places
            that are left hold -1, and inf in distances.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If the queries have another width, or are not finite.
        WhereError
            If the condition is none on the columns.
        FingerprintError
            If the index was filled by another embedder.
        """
        k = self._checked_n_neighbors(n_neighbors)
        with self._lock.reading():
            if X is None:
                allowed = allowed_slots(self._collection, where, params)
                distances, slots = self._nearest(None, k, allowed, exact)
            else:
                distances, slots = self._found(X, k, where, params, exact, embedder)
            rows = self._collection.items.rows_of(slots)
        return (distances, rows) if return_distance else rows

    def search(
        self,
        X: Any,
        n_neighbors: int | None = None,
        *,
        where: Any = None,
        params: Parameters = None,
        exact: bool = False,
        min_probability: float | None = None,
        embedder: Any = None,
    ) -> Neighbors:
        """Find ids, distances and records of the nearest vectors.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            The queries.
        n_neighbors : int, optional
            How many neighbours; by default the parameter of the index.
        where : str, array of bool of shape (n_images,) or sequence of ids, optional
            What may be found, as in :meth:`kneighbors`.
        params : sequence or mapping, optional
            Values for ``?`` or ``:name`` in the condition.
        exact : bool, default=False
            Compare with all vectors.
        min_probability : float, optional
            Leave out what is less probably a match, which may leave nothing: there is no good
            match. Needs :meth:`calibrate`.
        embedder : ImageEmbedder, optional
            What made the queries.

        Returns
        -------
        found : Neighbors

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If the queries have another width or are not finite, or the index is not calibrated.
        WhereError
            If the condition is none on the columns.
        FingerprintError
            If the index was filled by another embedder.
        """
        k = self._checked_n_neighbors(n_neighbors)
        with self._lock.reading():
            distances, slots = self._found(X, k, where, params, exact, embedder)
            probabilities = self._probabilities(distances, min_probability)
            if min_probability is not None:
                poor = probabilities < min_probability
                distances[poor], slots[poor], probabilities[poor] = np.inf, -1, 0.0
            return self._neighbors(distances, slots, probabilities)

    def select(
        self, where: Any = None, *, params: Parameters = None, limit: int | None = None
    ) -> dict[Hashable, dict[str, Any]]:
        """Select ids and records by a condition, without any query.

        Parameters
        ----------
        where : str, array of bool of shape (n_images,) or sequence of ids, optional
            What is wanted, as in :meth:`kneighbors`; by default all.
        params : sequence or mapping, optional
            Values for ``?`` or ``:name`` in the condition.
        limit : int, optional
            How many at most: the first ones.

        Returns
        -------
        records : dict of hashable to dict
            The record of each id, in the order of the rows.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If the limit is negative.
        WhereError
            If the condition is none on the columns.

        Examples
        --------
        >>> from imgembed import NearestNeighborIndex
        >>> records = {"price": [5, 7, 9]}
        >>> index = NearestNeighborIndex().fit([[0, 1], [1, 0], [1, 1]], records=records)
        >>> index.select("price > 5")
        {1: {'price': 7}, 2: {'price': 9}}
        """
        self._require_fit()
        check_limit(limit)
        with self._lock.reading():
            collection = self._collection
            slots, records = collection.items.living, collection.records
            allowed = allowed_slots(collection, where, params)
            if allowed is not None:
                slots = slots[allowed[slots]]
            slots = slots[:limit]
            return dict(zip(records.ids_at(slots), records.records_at(slots), strict=True))

    def radius_neighbors(
        self,
        X: Any = None,
        radius: float | None = None,
        return_distance: bool = True,
        *,
        where: Any = None,
        params: Parameters = None,
        embedder: Any = None,
    ) -> Any:
        """Find all vectors within a distance of each query, exactly.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), optional
            The queries. By default the vectors of the index, each without itself.
        radius : float, optional
            The largest distance; by default the threshold of :meth:`calibrate`.
        return_distance : bool, default=True
            Whether to return distances too.
        where : str, array of bool of shape (n_images,) or sequence of ids, optional
            What may be found, as in :meth:`kneighbors`.
        params : sequence or mapping, optional
            Values for ``?`` or ``:name`` in the condition.
        embedder : ImageEmbedder, optional
            What made the queries.

        Returns
        -------
        distances : ndarray of shape (n_queries,) of arrays of float64
            Ascending. Only if ``return_distance``.
        rows : ndarray of shape (n_queries,) of arrays of int64
            Rows of the index.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If the queries have another width or are not finite, or there is no radius.
        WhereError
            If the condition is none on the columns.
        FingerprintError
            If the index was filled by another embedder.
        """
        self._require_fit()
        with self._lock.reading():
            queries = None if X is None else self._checked(X, embedder)
            limit = self._threshold(radius, "radius")
            collection = self._collection
            allowed = allowed_slots(collection, where, params)
            own = None if queries is not None else collection.items.living
            if queries is None:
                queries = collection.vectors(collection.items.living)
            query, slots, found = collection.within(queries, limit, allowed)
            if own is not None:
                other = slots != own[query]
                query, slots, found = query[other], slots[other], found[other]
            rows = collection.items.rows_of(slots)
        split = rows_of_pairs(query, len(queries))
        distances, rows = split(found), split(rows)
        return (distances, rows) if return_distance else rows

    def near_duplicates(self, threshold: float | None = None) -> list[list[Hashable]]:
        """Find groups of vectors that are all near each other: complete linkage, no chains.

        Parameters
        ----------
        threshold : float, optional
            The largest distance within a group; by default that of :meth:`calibrate`.

        Returns
        -------
        groups : list of list of ids
            Groups of two or more, in the order of their first rows.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If there is no threshold.
        """
        self._require_fit()
        with self._lock.reading():
            limit = self._threshold(threshold, "threshold")
            collection = self._collection
            living = collection.items.living
            query, slots, distances = collection.within(collection.vectors(living), limit, None)
            first, second = query, collection.items.rows_of(slots)
            once = first < second
            groups = complete_linkage_groups(
                first[once], second[once], distances[once], len(living)
            )
            return [collection.records.ids_at(living[group]) for group in groups]

    def calibrate(
        self,
        pairs: Any = None,
        is_match: Any = None,
        *,
        prior: float | None = None,
    ) -> Calibration:
        """Learn at what distance two vectors are a match.

        Parameters
        ----------
        pairs : sequence of n_pairs pairs of ids, optional
            Pairs whose answer is known; best those that searches find near, with the default
            prior. Without them random pairs of the index are taken for no matches, and the
            threshold is such that chance gives one false match, among all pairs, for each
            hundred vectors.
        is_match : array-like of shape (n_pairs,) of bool, optional
            The answers.
        prior : float, optional
            The share of matches among the pairs that will be asked about; by default that among
            ``pairs``, which is far too large for :meth:`near_duplicates` if those are balanced:
            of all pairs of n images with one copy each, 1 / n are matches.

        Returns
        -------
        calibration : LabelledCalibration or RandomPairCalibration
            It is kept as ``calibration_``: :meth:`search` then gives probabilities, and
            :meth:`near_duplicates` and :meth:`radius_neighbors` have a threshold.

        Raises
        ------
        NotFittedError
            Before fit.
        UnknownIdError
            If an id is not there.
        ValueError
            If answers are not one a pair, all the same, the index is too small, or its metric
            is "ip".

        Warns
        -----
        UserWarning
            If the prior is so small that no distance makes a match, for so few pairs.
        """
        self._require_fit()
        with self._lock.writing():
            calibration: Calibration = calibrated(self._collection, pairs, is_match, prior)
            self.calibration_: Calibration | None = calibration
        return calibration

    def recall_curve(self, X: Any = None, n_neighbors: int | None = None) -> RecallCurve:
        """Recall and speed for several ef.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), optional
            Queries that are not in the index. By default the recall is what was measured when
            the graph was built or grew, for the parameter ``n_neighbors``.
        n_neighbors : int, optional
            Neighbours to count; by default the parameter of the index.

        Returns
        -------
        curve : RecallCurve
            Empty where there is no graph.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If the queries have another width or are not finite, or ``n_neighbors`` is given
            without queries.
        """
        if X is None and n_neighbors is not None:
            raise ValueError("recall_curve needs queries X where n_neighbors is given")
        k = self._checked_n_neighbors(n_neighbors)
        with self._lock.writing():
            queries = None if X is None else self._checked(X, None)
            return measured_curve(self._collection.nodes, queries, k, self._n_threads())

    def vectors_at(self, rows: Any) -> NDArray[np.float32]:
        """The vectors of some rows.

        Parameters
        ----------
        rows : array-like of shape (n_rows,), dtype int

        Returns
        -------
        vectors : ndarray of shape (n_rows, n_features), dtype float32
            Copies; the other vectors are not touched.

        Raises
        ------
        NotFittedError
            Before fit.
        IndexError
            If there is no such row.
        """
        self._require_fit()
        with self._lock.reading():
            collection = self._collection
            return np.array(collection.vectors(collection.items.living[np.asarray(rows, int)]))

    # scikit-learn.

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> sparse.csr_matrix:
        """Put vectors into the index, and give the graph of their neighbours.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Finite.
        y : ignored
            For the API of scikit-learn.
        **fit_params : dict
            As :meth:`fit` takes them.

        Returns
        -------
        graph : csr_matrix of shape (n_images, n_images)
            As that of :meth:`transform`, where each vector is its own first neighbour, also
            among equal ones.

        Raises
        ------
        ValueError
            As :meth:`fit`.
        """
        self.fit(X, y, **fit_params)
        with self._lock.reading():
            return neighbour_graph(self._own_neighbours, self.n_neighbors, self.mode, len(self))

    def transform(self, X: Any) -> sparse.csr_matrix:
        """The sparse graph of neighbours, as scikit-learn's KNeighborsTransformer gives it.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            The queries.

        Returns
        -------
        graph : csr_matrix of shape (n_queries, n_images)
            With ``mode="distance"`` it holds ``n_neighbors + 1`` distances a row, because a
            fitted vector counts as its own neighbour; with "connectivity" ``n_neighbors``
            ones. It may be given to estimators that take ``metric="precomputed"``.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If the queries have another width, or are not finite.

        Warns
        -----
        UserWarning
            If the index holds fewer vectors than neighbours are asked for.
        """
        self._require_fit()

        def nearest(k: int) -> tuple[Distances, Rows]:
            distances, slots = self._nearest(queries, k, None, False)
            return distances, self._collection.items.rows_of(slots)

        with self._lock.reading():
            queries = self._checked(X, None)
            return neighbour_graph(nearest, self.n_neighbors, self.mode, len(self))

    # Storage.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a folder, at every moment of which the old or the new one is there.

        Parameters
        ----------
        path : str or Path
            A folder: a new one, or one that holds an index.

        Raises
        ------
        NotFittedError
            Before fit.
        FileExistsError or NotADirectoryError
            If there is something else.
        IndexLockedError
            If it is being saved there right now.
        IndexChangedError
            If this index was loaded from there or saved there, and another one was saved since.
        OSError
            If the disk is full or the folder cannot be written; what was there stays.
        """
        self._require_fit()
        with self._lock.reading():
            fields, arrays, blobs = self._collection.parts()
            meta = {**metadata_of(self, self._filled_by), "collection": fields}
        place = str(Path(path).resolve())
        self._generations[place] = write_snapshot(
            path, meta, arrays, blobs, replaces=self._generations.get(place)
        )

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, mmap: bool = False, rebuild: bool = False
    ) -> Self:
        """Read an index from a folder.

        All sizes, checksums and the structure of the graph are checked before anything is used.

        Parameters
        ----------
        path : str or Path
            The folder.
        mmap : bool, default=False
            Leave the vectors in their file and read what is needed. The graph has a copy.
        rebuild : bool, default=False
            If only the graph is damaged, build it again from the vectors, with a warning.

        Returns
        -------
        index : NearestNeighborIndex

        Raises
        ------
        FileNotFoundError
            If there is no index.
        CorruptIndexError
            If it is damaged.
        ValueError
            If a newer imgembed has written it.

        Warns
        -----
        UserWarning
            If the graph is built again.
        """
        snapshot = read_snapshot(path, mmap={"vectors"} if mmap else (), spared=GRAPH_ARRAYS)
        index = estimator_from(cls, snapshot.meta)
        collection = unpack(snapshot, index._n_threads(), rebuild=rebuild)
        check_features(index, collection)
        index._hold(collection, *notes_from(snapshot.meta))
        index._generations[str(Path(path).resolve())] = snapshot.generation
        return index

    def __getstate__(self) -> dict[str, Any]:
        """Arrays and bytes in place of the graph, the table and the lock."""
        if not hasattr(self, "_collection"):
            return dict(super().__getstate__())
        with self._lock.reading():
            state: dict[str, Any] = dict(super().__getstate__())
            state["_parts"] = self._collection.parts()
        for name in ("_collection", "_lock", "_generations"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a pickle."""
        state = dict(state)
        parts = state.pop("_parts", None)
        super().__setstate__(state)
        if parts is not None:
            self._hold(Collection.from_parts(*parts), self._filled_by, self.calibration_)

    # What is there.

    def __len__(self) -> int:
        self._require_fit()
        return len(self._collection)

    def __bool__(self) -> bool:
        return True  # scikit-learn asks whether there is an estimator

    def __contains__(self, item_id: Hashable) -> bool:
        self._require_fit()
        with self._lock.reading():
            return item_id in self._collection.records

    def __iter__(self) -> Iterator[Hashable]:
        self._require_fit()
        with self._lock.reading():
            ids = self._collection.records.ids_at(self._collection.items.living)
        return iter(ids)

    def __sklearn_is_fitted__(self) -> bool:
        return "_collection" in self.__dict__

    def _require_fit(self) -> None:
        if "_collection" not in self.__dict__:  # asked first: the check takes 13 microseconds
            check_is_fitted(self)

    @property
    def n_samples_fit_(self) -> int:
        """Vectors in the index."""
        return len(self._fitted_collection("n_samples_fit_"))

    @property
    def vectors_(self) -> NDArray[np.float32]:
        """The vectors, row by row."""
        collection = self._fitted_collection("vectors_")
        with self._lock.reading():
            vectors = collection.plain_vectors()
            if vectors is None:
                vectors = collection.vectors(collection.items.living)
        vectors = vectors.view()
        vectors.flags.writeable = False
        return vectors

    @property
    def algorithm_(self) -> str:
        """What searches where there is no filter."""
        return "exact" if self._fitted_collection("algorithm_").nodes.graph is None else "hnsw"

    @property
    def ef_search_(self) -> int:
        """Candidates that are visited for the parameter ``n_neighbors``; 0 without a graph."""
        return self._fitted_collection("ef_search_").nodes.recall_estimate().ef

    @property
    def recall_estimate_(self) -> RecallEstimate:
        """What was measured for the parameter ``n_neighbors``."""
        return self._fitted_collection("recall_estimate_").nodes.recall_estimate()

    @property
    def storage_recall_(self) -> RecallEstimate:
        """The recall of exact search over what is stored, against the vectors given to fit."""
        nodes = self._fitted_collection("storage_recall_").nodes
        return nodes.rounding or RecallEstimate.exact(nodes.settings.n_neighbors)

    @property
    def columns_(self) -> dict[str, str]:
        """The columns of the records and their kinds."""
        return self._fitted_collection("columns_").records.columns

    @property
    def fingerprint_(self) -> str | None:
        """The fingerprint of the embedder that filled the index."""
        self._fitted_collection("fingerprint_")
        return None if self._filled_by is None else self._filled_by.fingerprint

    @property
    def _n_features_out(self) -> int:
        return self.n_samples_fit_

    def check_embedder(self, embedder: Any) -> None:
        """Raise a FingerprintError if another embedder has filled the index.

        Parameters
        ----------
        embedder : ImageEmbedder

        Raises
        ------
        NotFittedError
            Before fit.
        FingerprintError
            It names what differs.
        """
        self._require_fit()
        if self._filled_by is not None and embedder is not None:
            self._filled_by.check(embedder)

    def _fitted_collection(self, name: str) -> Collection:
        """The collection; without one the attribute that was asked for is missing."""
        if not hasattr(self, "_collection"):
            raise AttributeError(f"NearestNeighborIndex has {name} after fit or load")
        return self._collection

    def _hold(
        self, collection: Collection, filled_by: FilledBy | None, calibration: Calibration | None
    ) -> None:
        self._lock: SharedLock = self.__dict__.get("_lock") or SharedLock()
        self._generations: dict[str, str] = {}
        self._filled_by = filled_by
        self.calibration_ = calibration
        self._collection = collection

    def _take_features(self, checked: Any) -> None:
        """Take the width, and the names if there are any, of what another index has checked."""
        self.n_features_in_ = checked.n_features_in_
        self.__dict__.pop("feature_names_in_", None)
        if hasattr(checked, "feature_names_in_"):
            self.feature_names_in_ = checked.feature_names_in_

    def _new_settings(self) -> Settings:
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        return Settings(
            metric=self.metric,
            algorithm=self.algorithm,
            n_neighbors=int(self.n_neighbors),
            M=int(self.M),
            ef_construction=int(self.ef_construction),
            ef_search=None if self.ef_search is None else int(self.ef_search),
            target_recall=float(self.target_recall),
            storage=self.storage,
            seed=seed,
        )

    def _n_threads(self) -> int:
        if self.n_jobs is not None and self.n_jobs > 0:
            return min(int(self.n_jobs), _MOST_THREADS)
        return min(n_threads_here(self.n_jobs), _MOST_THREADS)

    def _checked(self, X: Any, embedder: Any) -> NDArray[np.float32]:
        self._require_fit()
        self.check_embedder(embedder)
        return check_vectors(self, X, self._collection.nodes.settings.metric, reset=False)

    def _checked_n_neighbors(self, n_neighbors: int | None) -> int:
        if "_collection" not in self.__dict__:  # here, too, since each call costs a query
            self._require_fit()
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        if type(k) is not int or k < 1:
            check_scalar(k, "n_neighbors", (int, np.integer), min_val=1)
        return int(k)

    def _found(
        self, X: Any, k: int, where: Any, params: Parameters, exact: bool, embedder: Any
    ) -> tuple[Distances, Rows]:
        """Distances and slots of the nearest of queries."""
        is_plain = where is None and params is None and embedder is None and not exact
        if is_plain and "feature_names_in_" not in self.__dict__:
            collection = self._collection
            found = (collection.plain_search or collection.new_plain_search()).nearest(X, k)
            if found is not None:
                return found
        queries = self._checked(X, embedder)
        allowed = allowed_slots(self._collection, where, params)
        return self._nearest(queries, k, allowed, exact)

    def _nearest(
        self,
        queries: NDArray[np.float32] | None,
        k: int,
        allowed: NDArray[np.bool_] | None,
        exact: bool,
    ) -> tuple[Distances, Rows]:
        """Distances and slots, for the index's own vectors without themselves."""
        collection = self._collection
        if queries is not None:
            # One query takes one thread, and asking joblib for their number takes 20 microseconds.
            n_threads = 1 if len(queries) == 1 else self._n_threads()
            return collection.search(queries, k, n_threads, allowed=allowed, exact=exact)
        living, n_threads = collection.items.living, self._n_threads()
        own = collection.vectors(living)
        found = collection.search(own, k + 1, n_threads, allowed=allowed, exact=exact)
        return without_self(*found, living)

    def _own_neighbours(self, k: int) -> tuple[Distances, Rows]:
        """Of each vector itself, then its k - 1 nearest."""
        items = self._collection.items
        distances, slots = self._nearest(None, max(k - 1, 1), None, False)
        distances = np.insert(distances, 0, 0.0, axis=1)[:, :k]
        return distances, np.insert(items.rows_of(slots), 0, np.arange(len(items)), axis=1)[:, :k]

    def _probabilities(self, distances: Distances, min_probability: float | None) -> Any:
        if self.calibration_ is not None:
            return self.calibration_.probability(distances)
        if min_probability is not None:
            raise ValueError(
                "min_probability needs to know what distances mean: call calibrate first"
            )
        return None

    def _neighbors(self, distances: Distances, slots: Rows, probabilities: Any) -> Neighbors:
        records = self._collection.records
        present = [row[row >= 0] for row in slots]
        return Neighbors(
            [records.ids_at(some) for some in present],
            distances,
            self._collection.items.rows_of(slots),
            [records.records_at(some) for some in present],
            probabilities,
        )

    def _threshold(self, given: float | None, name: str) -> float:
        if given is not None:
            if not isinstance(given, (int, float, np.number)) or np.isnan(given):
                raise ValueError(f"{name} must be a number, got {given!r}")
            return float(given)
        if self.calibration_ is None:
            raise ValueError(f"{name} is missing: give one, or call calibrate first")
        return self.calibration_.threshold
