"""PostgresIndex: the nearest vectors of vectors, in PostgreSQL with pgvector."""

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from .._optional import import_optional
from ..base import check_choice
from ..index import NearestNeighborIndex, Neighbors, RecallEstimate
from ..index._checks import check_vectors
from ..index._fingerprint import FilledBy
from ..index._sparse import without_self
from ._credentials import Address

if TYPE_CHECKING:
    from ._postgres_search import Found
    from ._postgres_state import State
    from ._postgres_store import Parameters, PostgresStore, Tuning

# The widest vectors of pgvector's types, and of HNSW in half precision.
_WIDEST = 16_000
_WIDEST_GRAPH = 4_000
# Names of partitions and of a table that is being filled are made from that of the table.
_LONGEST_TABLE_NAME = 40


class PostgresIndex(BaseEstimator):
    """Find the nearest vectors in a table of PostgreSQL, with pgvector.

    It has the methods of :class:`NearestNeighborIndex`, for vectors that are more than one
    machine holds, or that several programs share. Ids, records and vectors are columns of one
    table; what is known of the index is a row in the table ``imgembed_indexes``. Both are made
    when they are needed, and so is the extension ``vector``.

    Parameters
    ----------
    dsn : str
        Where the server is: ``"postgresql://user@host:5432/database"``, or
        ``"host=... dbname=... user=..."``. A password is better in ``~/.pgpass``, but is not
        shown in either case. With several hosts (``host=one,two``), searches go to a standby if
        there is one, and changes to the primary.
    table : str, default="imgembed"
        The table; at most 40 bytes.
    n_neighbors : int, default=5
        Neighbours of a query, where a call does not say otherwise.
    metric : {"cosine", "euclidean", "ip"}, default="cosine"
        As that of :class:`NearestNeighborIndex`.
    algorithm : {"auto", "hnsw", "exact"}, default="auto"
        "hnsw" is pgvector's graph. "exact" compares with all. "auto" builds the graph when there
        are 10,000 vectors.
    M : int, default=16
        Links of a node of the graph, 2 to 100.
    ef_construction : int, default=200
        Candidates while the graph is built, at least ``2 * M``, at most 1,000.
    ef_search : int, optional
        Candidates while the graph is searched. By default as few as ``target_recall`` needs,
        measured when the graph is built and when the index has grown by half, by fit or add.
    target_recall : float, default=0.95
        The share of the true neighbours that a search finds in the mean.
    storage : {"float32", "float16"}, default="float32"
        How vectors are kept. The graph holds vectors of more than 2,000 features in half
        precision in either case, and ranks what it finds by the vectors that are kept.
    partitions : int, default=0
        Parts of the table, by a hash of the id; 0 for a table that is whole. Each has a graph
        of its own.
    timeout : float, default=60.0
        Seconds that a search may take, and that a lost server is waited for.

    Attributes
    ----------
    n_samples_fit_ : int
        Vectors in the index, as ``len(index)``.
    n_features_in_ : int
        Their width.
    vectors_ : ndarray of shape (n_images, n_features), dtype float32
        The vectors, row by row, read from the server each time.
    algorithm_ : {"hnsw", "exact"}
        What searches where there is no filter.
    ef_search_ : int
        Candidates that are visited for ``n_neighbors``; 0 without a graph.
    recall_estimate_ : RecallEstimate
        What was measured for ``n_neighbors``; of no queries, if it could not be.
    columns_ : dict of str to str
        The columns of the records and their kinds.
    fingerprint_ : str or None
        The fingerprint of the embedder that filled the index, if it was told.

    See Also
    --------
    NearestNeighborIndex : The same on one machine, and faster there.

    Notes
    -----
    A change is one transaction: it is there in whole when the method returns, and stays, or it
    is not there at all. If the server is lost in between, the index connects again and finds
    out whether the change was made before it makes it. Changes of one index wait for each other.

    Conditions (``where``) are the part of SQL that all servers share: comparisons of one kind,
    AND, OR, NOT, IN, BETWEEN, LIKE, IS NULL, arithmetic, and a few functions. What is refused
    says why. They run in a transaction that can only read. Dates, paths and UUIDs are columns of
    text, as in the embedded index. An id is text or a whole number in conditions, or NULL.

    What :class:`NearestNeighborIndex` has besides (calibration, near duplicates, search within a
    radius, folders) is not here. Building a graph asks the server for up to 1 GB of
    ``maintenance_work_mem``. One PostgresIndex searches in one thread at a time.

    References
    ----------
    .. [1] Y. Malkov and D. Yashunin, "Efficient and robust approximate nearest neighbor
       search using Hierarchical Navigable Small World graphs", TPAMI 2020.

    Examples
    --------
    >>> from imgembed import PostgresIndex
    >>> index = PostgresIndex("postgresql://me@localhost/photos", table="photos")

    With a server there::

        index.fit(vectors, ids=paths, records={"price": prices})
        index.search(queries, n_neighbors=10, where="price < ?", params=(50,))
    """

    def __init__(
        self,
        dsn: str,
        table: str = "imgembed",
        n_neighbors: int = 5,
        metric: str = "cosine",
        algorithm: str = "auto",
        *,
        M: int = 16,
        ef_construction: int = 200,
        ef_search: int | None = None,
        target_recall: float = 0.95,
        storage: str = "float32",
        partitions: int = 0,
        timeout: float = 60.0,
    ) -> None:
        self.dsn = dsn
        self.table = table
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.algorithm = algorithm
        self.M = M
        self.ef_construction = ef_construction
        self.ef_search = ef_search
        self.target_recall = target_recall
        self.storage = storage
        self.partitions = partitions
        self.timeout = timeout

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
        self : PostgresIndex

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
        _check_parameters(self)
        checked = NearestNeighborIndex()
        vectors = check_vectors(checked, X, self.metric, reset=True)
        return self._filled(vectors, ids, records, FilledBy.of(embedder))

    @classmethod
    def load(cls, dsn: str, table: str = "imgembed", *, timeout: float = 60.0) -> Self:
        """Take an index that is in a table already.

        Parameters
        ----------
        dsn : str
            Where the server is.
        table : str, default="imgembed"
            The table.
        timeout : float, default=60.0
            Seconds that a search may take, and that a lost server is waited for.

        Returns
        -------
        index : PostgresIndex
            With the parameters of the one that was fitted.

        Raises
        ------
        ServerTableError
            If there is no index.
        ServerError
            If the server cannot be reached, or is too old.
        """
        index = cls(dsn, table, timeout=timeout)
        _check_parameters(index)
        store = index._new_store()
        state = store.state()
        index.set_params(
            metric=state.metric,
            algorithm=state.algorithm,
            storage=state.storage,
            partitions=state.partitions,
            M=state.M,
            ef_construction=state.ef_construction,
            n_neighbors=state.recall.n_neighbors,
        )
        index._hold(store, state)
        return index

    @classmethod
    def from_index(
        cls, index: NearestNeighborIndex, dsn: str, table: str = "imgembed", *, partitions: int = 0
    ) -> Self:
        """Put what an embedded index holds into a table, in place of all that is there.

        Parameters
        ----------
        index : NearestNeighborIndex
            A fitted one; it stays as it is. Its calibration is not taken.
        dsn : str
            Where the server is.
        table : str, default="imgembed"
            The table.
        partitions : int, default=0
            As the parameter of this class.

        Returns
        -------
        index : PostgresIndex
            With the parameters of the embedded one. Vectors that it keeps as int8 become
            float32.

        Raises
        ------
        NotFittedError
            If the index is not fitted.
        ServerError
            If the server does not do it.
        """
        check_is_fitted(index)
        new = cls(
            dsn,
            table,
            index.n_neighbors,
            index.metric,
            index.algorithm,
            M=index.M,
            ef_construction=index.ef_construction,
            target_recall=index.target_recall,
            storage="float16" if index.storage == "float16" else "float32",
            partitions=partitions,
        )
        _check_parameters(new)
        with index._lock.reading():
            living = index._collection.items.living
            vectors, filled_by = index._collection.vectors(living), index._filled_by
            ids = index._collection.records.ids_at(living)
            records = index._collection.records.records_at(living)
        return new._filled(vectors, ids, records if index.columns_ else None, filled_by)

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
        state, vectors, ids, records = self._store.contents()
        index = NearestNeighborIndex(
            self.n_neighbors,
            state.metric,
            state.algorithm,
            M=state.M,
            ef_construction=state.ef_construction,
            target_recall=self.target_recall,
            storage=state.storage,
        )
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
        self : PostgresIndex

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
        self : PostgresIndex

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
        self : PostgresIndex

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
        self : PostgresIndex

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
        params: "Parameters" = None,
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
        params: "Parameters" = None,
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
        from ._postgres_rows import id_of, record_of

        state, found, rows = self._found(X, n_neighbors, where, params, exact, embedder, True)
        ids = [[id_of(*one[:2]) for one in row] for row in found.others]
        records = [[record_of(state.kinds, one[2:]) for one in row] for row in found.others]
        return Neighbors(ids, found.distances, rows, records)

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
        return self._store.contains(item_id)

    def __iter__(self) -> Iterator[Hashable]:
        check_is_fitted(self)
        return iter(self._store.ids())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters, of which the address does not show when it is printed.

        Parameters
        ----------
        deep : bool, default=True
            For the API of scikit-learn.

        Returns
        -------
        parameters : dict
        """
        parameters = dict(super().get_params(deep))
        if isinstance(self.dsn, str):
            parameters["dsn"] = Address.of(self.dsn)
        return parameters

    def close(self) -> None:
        """End the connections to the server; the next call makes new ones."""
        if hasattr(self, "_kept_store"):
            self._kept_store.session.close()

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
        params: "Parameters",
        exact: bool,
        embedder: Any,
        with_records: bool,
    ) -> "tuple[State, Found, NDArray[np.int64]]":
        from ._postgres_store import Chosen

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

    def _state(self) -> "State":
        check_is_fitted(self)
        return self._store.state()

    def _attribute(self, name: str) -> "State":
        """The state; before fit the attribute that was asked for is missing."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"PostgresIndex has {name} after fit or load")
        return self._store.state()

    @property
    def _store(self) -> "PostgresStore":
        """The table; after a pickle was read it is connected to again."""
        if not hasattr(self, "_kept_store"):
            self._kept_store: PostgresStore = self._new_store()
        return self._kept_store

    def _new_store(self) -> "PostgresStore":
        for module in ("psycopg", "pgvector", "sqlglot"):
            import_optional(module, extra="postgres", needed_by="PostgresIndex")
        from ._postgres_session import PostgresSession
        from ._postgres_store import PostgresStore

        return PostgresStore(PostgresSession(self.dsn, float(self.timeout)), self.table)

    def _new_state(self, n_features: int, filled_by: FilledBy | None) -> "State":
        from ._postgres_state import State
        from ._postgres_store import unknown_recall

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

    def _filled(
        self, vectors: NDArray[np.float32], ids: Any, records: Any, filled_by: FilledBy | None
    ) -> Self:
        _check_width(self, vectors.shape[1])
        store = self._new_store()
        state = self._new_state(vectors.shape[1], filled_by)
        store.fill(state, vectors, ids, records, self._tuning())
        self._hold(store, store.state())
        return self

    def _tuning(self) -> "Tuning":
        from ._postgres_store import Tuning

        ef = None if self.ef_search is None else int(self.ef_search)
        return Tuning(int(self.n_neighbors), float(self.target_recall), ef)

    def _hold(self, store: "PostgresStore", state: "State") -> None:
        self.close()
        self._kept_store = store
        self.n_features_in_ = state.n_features


def _check_parameters(index: PostgresIndex) -> None:
    """Raise a ValueError or TypeError that names the first parameter that is wrong."""
    for name, smallest, largest in (
        ("n_neighbors", 1, 1_000_000),
        ("M", 2, 100),
        ("ef_construction", 4, 1_000),
        ("partitions", 0, 1_000),
    ):
        check_scalar(
            getattr(index, name), name, (int, np.integer), min_val=smallest, max_val=largest
        )
    if index.ef_construction < 2 * index.M:
        raise ValueError(
            f"ef_construction must be at least 2 * M, which pgvector wants; got "
            f"{index.ef_construction} and M={index.M}"
        )
    if index.ef_search is not None:
        check_scalar(index.ef_search, "ef_search", (int, np.integer), min_val=1, max_val=1_000)
    check_scalar(index.target_recall, "target_recall", (int, float), min_val=0, max_val=1)
    check_scalar(index.timeout, "timeout", (int, float), min_val=0.001, max_val=1e6)
    check_choice("metric", index.metric, ("cosine", "euclidean", "ip"))
    check_choice("algorithm", index.algorithm, ("auto", "hnsw", "exact"))
    check_choice("storage", index.storage, ("float32", "float16"))
    _check_table_name(index.table)


def _check_table_name(table: Any) -> None:
    if not isinstance(table, str):
        raise TypeError(f"table must be a str, got {type(table).__name__}")
    if not 0 < len(table.encode()) <= _LONGEST_TABLE_NAME or "\0" in table:
        raise ValueError(
            f"table must have 1 to {_LONGEST_TABLE_NAME} bytes and no NUL, got {table!r:.80}"
        )
    if table.startswith("imgembed_") or "%" in table:
        raise ValueError(f"names with 'imgembed_' or '%' are not for tables, got {table!r}")


def _check_width(index: PostgresIndex, n_features: int) -> None:
    if n_features > _WIDEST:
        raise ValueError(f"pgvector keeps up to {_WIDEST:,} features, got {n_features}")
    if n_features > _WIDEST_GRAPH and index.algorithm != "exact":
        raise ValueError(
            f"the vectors have {n_features} features, and pgvector's graph takes up to "
            f"{_WIDEST_GRAPH:,}: reduce them (sklearn.decomposition.TruncatedSVD), or take "
            "algorithm='exact'"
        )
