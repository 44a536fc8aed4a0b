"""PostgresIndex: the nearest vectors of vectors, in PostgreSQL with pgvector."""

from typing import Self

import numpy as np
from sklearn.utils import check_scalar

from ..._optional import import_optional
from ...base import check_choice
from ...index import NearestNeighborIndex
from .._server_index import ServerIndex, check_table_name
from .._store import Store

# The widest vectors of pgvector's types, and of HNSW in half precision.
_WIDEST = 16_000
_WIDEST_GRAPH = 4_000
# Names of partitions and of a table that is being filled are made from that of the table.
_LONGEST_TABLE_NAME = 40


class PostgresIndex(ServerIndex):
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
        return cls(dsn, table, timeout=timeout)._take_what_is_there()

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
        storage = "float16" if index.storage == "float16" else "float32"
        return cls(dsn, table, storage=storage, partitions=partitions)._fill_from(index)

    def _new_store(self) -> Store:
        for module in ("psycopg", "pgvector", "sqlglot"):
            import_optional(module, extra="postgres", needed_by="PostgresIndex")
        from ._session import PostgresSession
        from ._store import PostgresStore

        return PostgresStore(PostgresSession(self.dsn, float(self.timeout)), self.table)

    def _check_parameters(self) -> None:
        """Raise a ValueError or TypeError that names the first parameter that is wrong."""
        self._check_searching(M=(2, 100), ef_construction=(4, 1_000), ef_search=(1, 1_000))
        if self.ef_construction < 2 * self.M:
            raise ValueError(
                f"ef_construction must be at least 2 * M, which pgvector wants; got "
                f"{self.ef_construction} and M={self.M}"
            )
        check_scalar(self.partitions, "partitions", (int, np.integer), min_val=0, max_val=1_000)
        check_choice("storage", self.storage, ("float32", "float16"))
        check_table_name(self.table, _LONGEST_TABLE_NAME)
        if self.table.startswith("imgembed_") or "%" in self.table:
            raise ValueError(
                f"names with 'imgembed_' or '%' are not for tables, got {self.table!r}"
            )

    def _check_width(self, n_features: int) -> None:
        if n_features > _WIDEST:
            raise ValueError(f"pgvector keeps up to {_WIDEST:,} features, got {n_features}")
        if n_features > _WIDEST_GRAPH and self.algorithm != "exact":
            raise ValueError(
                f"the vectors have {n_features} features, and pgvector's graph takes up to "
                f"{_WIDEST_GRAPH:,}: reduce them (sklearn.decomposition.TruncatedSVD), or take "
                "algorithm='exact'"
            )
