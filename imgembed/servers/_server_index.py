"""ServerIndex: what is common to the indexes that servers hold."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from ..base import check_choice
from ..index import NearestNeighborIndex, Neighbors, RecallEstimate
from ..index._checks import check_limit, check_vectors
from ..index._fingerprint import FilledBy
from ..index._sparse import without_self
from ._columns import record_of
from ._credentials import Address
from ._keys import id_of, keys_of
from ._state import State
from ._store import Chosen, Found, Item, Parameters, Store, Tuning, unknown_recall

# Parameters that the state of an index keeps, and those that it shares with the embedded one.
_KEPT = ("metric", "algorithm", "storage", "partitions", "M", "ef_construction")
_SHARED = ("n_neighbors", "metric", "algorithm", "M", "ef_construction", "target_recall")


class ServerIndex(BaseEstimator, ABC):
    """An index whose vectors, ids and records are held by a server.

    A subclass stores its parameters, among them the eight below, and writes ``_new_store``,
    ``_check_parameters`` and ``_check_width``.

    Parameters
    ----------
    n_neighbors : int
        Neighbours of a query, where a call does not say otherwise.
    metric : {"cosine", "euclidean", "ip"}
    algorithm : str
        What searches.
    M : int
        Links of a node of the graph.
    ef_construction : int
        Candidates while the graph is built.
    ef_search : int or None
        Candidates while the graph is searched; None measures them.
    target_recall : float
        The share of the true neighbours that a search finds in the mean.
    timeout : float
        Seconds that a search may take.
    """

    n_neighbors: int
    metric: str
    algorithm: str
    M: int
    ef_construction: int
    ef_search: int | None
    target_recall: float
    timeout: float
    # Where a server has one kind, it is no parameter.
    storage: str = "float32"
    partitions: int = 0

    # What may hold a password.
    _secret_parameters: ClassVar[tuple[str, ...]] = ("dsn",)

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
        """Put vectors into the table, in place of all that is there.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Finite.
        y : ignored
            For the API of scikit-learn.
        ids : sequence of n_images hashables, optional
            As those of :meth:`NearestNeighborIndex.fit`. By default 0, 1, 2, ...
        records : DataFrame, dict of columns or sequence of n_images dicts, optional
            What is known of each vector.
        embedder : ImageEmbedder, optional
            What made the vectors. Queries that name another one are refused.

        Returns
        -------
        self : ServerIndex

        Raises
        ------
        ValueError
            If X is empty, not finite or not two-dimensional, a parameter is wrong, or records
            are not one for each.
        DuplicateIdError
            If an id comes twice.
        ServerTableError
            If there is a table of that name that is no index.
        ServerError
            If the server does not do it. What was there stays.
        """
        self._check_parameters()
        checked = NearestNeighborIndex()
        vectors = check_vectors(checked, X, self.metric, reset=True)
        return self._filled(vectors, ids, records, FilledBy.of(embedder))

    def to_index(self) -> NearestNeighborIndex:
        """An embedded index with all that is in the table.

        Returns
        -------
        index : NearestNeighborIndex
            With the parameters of this one.

        Raises
        ------
        NotFittedError
            Before fit.
        ServerError
            If the server does not answer.
        """
        check_is_fitted(self)
        state, vectors, items = self._store.contents()
        index = NearestNeighborIndex(
            self.n_neighbors,
            state.metric,
            state.algorithm,
            M=state.M,
            ef_construction=state.ef_construction,
            target_recall=self.target_recall,
            storage="float16" if state.storage == "float16" else "float32",
        )
        ids, records = _ids_of(items), _records_of(state, items)
        index.fit(vectors, ids=ids, records=records if state.kinds else None)
        index._filled_by = state.filled_by
        return index

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
        self : ServerIndex

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
        ServerError
            If the server does not do it; nothing was added then.
        """
        vectors = self._checked(X, embedder)
        self._store.add(vectors, ids, records, self._tuning())
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
        self : ServerIndex

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
        ServerError
            If the server does not do it; nothing was changed then.
        """
        vectors = self._checked(X, embedder)
        self._store.upsert(vectors, ids, records)
        return self

    def remove(self, ids: Sequence[Hashable]) -> Self:
        """Remove vectors; rows behind them move up.

        Parameters
        ----------
        ids : sequence of hashables

        Returns
        -------
        self : ServerIndex

        Raises
        ------
        NotFittedError
            Before fit.
        UnknownIdError
            If an id is not there; then none is removed.
        ServerError
            If the server does not do it; nothing was removed then.
        """
        check_is_fitted(self)
        self._store.remove(ids)
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
        self : ServerIndex

        Raises
        ------
        NotFittedError
            Before fit.
        UnknownIdError
            If an id is not there.
        ValueError
            If records are not one for each.
        ServerError
            If the server does not do it; nothing was changed then.
        """
        check_is_fitted(self)
        self._store.update(ids, records)
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
            If the condition is none on the columns, or not one that servers have.
        FingerprintError
            If the index was filled by another embedder.
        ServerError
            If the server does not answer.
        """
        _, found, rows = self._found(X, n_neighbors, where, params, exact, embedder, False)
        distances = found.distances
        if X is None:
            distances, rows = without_self(distances, rows, np.arange(len(rows)))
        return (distances, rows) if return_distance else rows

    def search(
        self,
        X: Any,
        n_neighbors: int | None = None,
        *,
        where: Any = None,
        params: Parameters = None,
        exact: bool = False,
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
            If the queries have another width or are not finite.
        WhereError
            If the condition is none on the columns, or not one that servers have.
        FingerprintError
            If the index was filled by another embedder.
        ServerError
            If the server does not answer.
        """
        if X is None:
            raise ValueError("search needs queries X; kneighbors takes those of the index")
        state, found, rows = self._found(X, n_neighbors, where, params, exact, embedder, True)
        ids = [_ids_of(row) for row in found.others]
        records = [_records_of(state, row) for row in found.others]
        return Neighbors(ids, found.distances, rows, records)

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
            If the condition is none on the columns, or not one that servers have.
        ServerError
            If the server does not answer.
        """
        check_is_fitted(self)
        check_limit(limit)
        state, items = self._store.items(Chosen(where, params), limit)
        return dict(zip(_ids_of(items), _records_of(state, items), strict=True))

    def vectors_at(self, rows: Any) -> NDArray[np.float32]:
        """The vectors of some rows.

        Parameters
        ----------
        rows : array-like of shape (n_rows,), dtype int

        Returns
        -------
        vectors : ndarray of shape (n_rows, n_features), dtype float32

        Raises
        ------
        NotFittedError
            Before fit.
        ServerError
            If the server does not answer.
        """
        check_is_fitted(self)
        return self._store.vectors(np.asarray(rows, np.int64))

    # What is there.

    def __len__(self) -> int:
        return self._state().n_items

    def __bool__(self) -> bool:
        return True  # scikit-learn asks whether there is an estimator

    def __contains__(self, item_id: Hashable) -> bool:
        check_is_fitted(self)
        try:
            keys, _ = keys_of([item_id], 1)
        except (TypeError, ValueError):
            return False  # what cannot be an id is none
        return self._store.contains(keys[0])

    def __iter__(self) -> Iterator[Hashable]:
        check_is_fitted(self)
        return iter(self._store.ids())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters, of which addresses do not show when they are printed.

        Parameters
        ----------
        deep : bool, default=True
            For the API of scikit-learn.

        Returns
        -------
        parameters : dict
        """
        parameters = dict(super().get_params(deep))
        for name in self._secret_parameters:
            if isinstance(parameters[name], str):
                parameters[name] = Address.of(parameters[name])
        return parameters

    def close(self) -> None:
        """End the connections to the server; the next call makes new ones."""
        if hasattr(self, "_kept_store"):
            self._kept_store.close()

    def __sklearn_is_fitted__(self) -> bool:
        return "n_features_in_" in self.__dict__

    def __getstate__(self) -> dict[str, Any]:
        """All but the connections."""
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_kept_store", None)
        return state

    @property
    def n_samples_fit_(self) -> int:
        """Vectors in the index."""
        return self._attribute("n_samples_fit_").n_items

    @property
    def vectors_(self) -> NDArray[np.float32]:
        """The vectors, row by row."""
        self._attribute("vectors_")
        return self._store.vectors(None)

    @property
    def algorithm_(self) -> str:
        """What searches where there is no filter."""
        return "hnsw" if self._attribute("algorithm_").has_graph else "exact"

    @property
    def ef_search_(self) -> int:
        """Candidates that are visited for the parameter ``n_neighbors``; 0 without a graph."""
        return self.recall_estimate_.ef

    @property
    def recall_estimate_(self) -> RecallEstimate:
        """What was measured for the parameter ``n_neighbors``."""
        state = self._attribute("recall_estimate_")
        return state.recall if state.has_graph else RecallEstimate.exact(self.n_neighbors)

    @property
    def columns_(self) -> dict[str, str]:
        """The columns of the records and their kinds."""
        return dict(self._attribute("columns_").kinds)

    @property
    def fingerprint_(self) -> str | None:
        """The fingerprint of the embedder that filled the index."""
        filled_by = self._attribute("fingerprint_").filled_by
        return None if filled_by is None else filled_by.fingerprint

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
        ServerError
            If the server does not answer.
        """
        filled_by = self._state().filled_by
        if filled_by is not None and embedder is not None:
            filled_by.check(embedder)

    def _found(
        self,
        X: Any,
        n_neighbors: int | None,
        where: Any,
        params: Parameters,
        exact: bool,
        embedder: Any,
        with_records: bool,
    ) -> tuple[State, Found, NDArray[np.int64]]:
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        check_scalar(k, "n_neighbors", (int, np.integer), min_val=1)
        queries = None if X is None else self._checked(X, embedder)
        chosen = Chosen(where, params)
        return self._store.nearest(queries, int(k), chosen, exact=exact, with_records=with_records)

    def _checked(self, X: Any, embedder: Any) -> NDArray[np.float32]:
        check_is_fitted(self)
        if embedder is not None:
            self.check_embedder(embedder)
        return check_vectors(self, X, self.metric, reset=False)

    def _state(self) -> State:
        check_is_fitted(self)
        return self._store.state()

    def _attribute(self, name: str) -> State:
        """The state; before fit the attribute that was asked for is missing."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"{type(self).__name__} has {name} after fit or load")
        return self._store.state()

    @property
    def _store(self) -> Store:
        """The table; after a pickle was read it is connected to again."""
        if not hasattr(self, "_kept_store"):
            self._kept_store: Store = self._new_store()
        return self._kept_store

    @abstractmethod
    def _new_store(self) -> Store:
        """The store, connected to when it is first asked for something."""

    @abstractmethod
    def _check_parameters(self) -> None:
        """Raise a ValueError or TypeError that names the first parameter that is wrong."""

    @abstractmethod
    def _check_width(self, n_features: int) -> None:
        """Raise a ValueError if the server does not take vectors of this width."""

    def _filled(
        self, vectors: NDArray[np.float32], ids: Any, records: Any, filled_by: FilledBy | None
    ) -> Self:
        self._check_width(vectors.shape[1])
        store = self._new_store()
        state = self._new_state(vectors.shape[1], filled_by)
        store.fill(state, vectors, ids, records, self._tuning())
        self._hold(store, store.state())
        return self

    def _new_state(self, n_features: int, filled_by: FilledBy | None) -> State:
        """The state of an index without items."""
        return State(
            metric=self.metric,
            storage=self.storage,
            algorithm=self.algorithm,
            n_features=n_features,
            M=int(self.M),
            ef_construction=int(self.ef_construction),
            partitions=int(self.partitions),
            recall=unknown_recall(self._tuning()),
            filled_by=filled_by,
        )

    def _tuning(self) -> Tuning:
        ef = None if self.ef_search is None else int(self.ef_search)
        return Tuning(int(self.n_neighbors), float(self.target_recall), ef)

    def _hold(self, store: Store, state: State) -> None:
        self.close()
        self._kept_store = store
        self.n_features_in_ = state.n_features

    def _take_what_is_there(self) -> Self:
        """Take the parameters of the index that the server holds."""
        self._check_parameters()
        store = self._new_store()
        state = store.state()
        kept = {name: getattr(state, name) for name in _KEPT if name in self.get_params()}
        self.set_params(**kept, n_neighbors=state.recall.n_neighbors)
        self._hold(store, state)
        return self

    def _fill_from(self, index: NearestNeighborIndex) -> Self:
        """Take the parameters of an embedded index, and what it holds."""
        check_is_fitted(index)
        self.set_params(**{name: getattr(index, name) for name in _SHARED})
        self._check_parameters()
        with index._lock.reading():
            living = index._collection.items.living
            vectors, filled_by = index._collection.vectors(living), index._filled_by
            ids = index._collection.records.ids_at(living)
            records = index._collection.records.records_at(living)
        return self._filled(vectors, ids, records if index.columns_ else None, filled_by)

    def _check_searching(
        self, M: tuple[int, int], ef_construction: tuple[int, int], ef_search: tuple[int, int]
    ) -> None:
        """Check the parameters that all servers share, of which some have other bounds."""
        bounds = {"n_neighbors": (1, 1_000_000), "M": M, "ef_construction": ef_construction}
        if self.ef_search is not None:
            bounds["ef_search"] = ef_search
        for name, (low, high) in bounds.items():
            kinds = (int, np.integer)
            check_scalar(getattr(self, name), name, kinds, min_val=low, max_val=high)
        check_scalar(self.target_recall, "target_recall", (int, float), min_val=0, max_val=1)
        check_scalar(self.timeout, "timeout", (int, float), min_val=0.001, max_val=1e6)
        check_choice("metric", self.metric, ("cosine", "euclidean", "ip"))
        check_choice("algorithm", self.algorithm, ("auto", "hnsw", "exact"))


def _ids_of(items: Sequence[Item]) -> list[Hashable]:
    return [id_of(*item[:2]) for item in items]


def _records_of(state: State, items: Sequence[Item]) -> list[dict[str, Any]]:
    return [record_of(state.kinds, item[2:]) for item in items]


def check_table_name(table: Any, n_bytes: int) -> None:
    """Raise an error if this can be no name of a table.

    Parameters
    ----------
    table : object
    n_bytes : int
        Of the longest.

    Raises
    ------
    TypeError
        If it is no str.
    ValueError
        If it is too long or empty, or holds a NUL.
    """
    if not isinstance(table, str):
        raise TypeError(f"table must be a str, got {type(table).__name__}")
    if not 0 < len(table.encode()) <= n_bytes or "\0" in table:
        raise ValueError(f"table must have 1 to {n_bytes} bytes and no NUL, got {table!r:.80}")
