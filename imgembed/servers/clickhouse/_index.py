"""ClickHouseIndex: the nearest vectors of vectors, in ClickHouse."""

from typing import Self

from ..._optional import import_optional
from ...base import check_choice
from ...index import NearestNeighborIndex
from .._server_index import ServerIndex, check_table_name
from .._store import Store

# Names of the tables that hold the rows are made from it.
_LONGEST_TABLE_NAME = 40


class ClickHouseIndex(ServerIndex):
    """Find the nearest vectors in a table of ClickHouse.

    It has the methods of :class:`NearestNeighborIndex`, for vectors that are more than one
    machine holds, or that lie beside tables which are asked in SQL. Ids, records and vectors are
    columns of one table; what is known of the index is in the table ``imgembed_indexes``. Both
    are made when they are needed.

    Parameters
    ----------
    dsn : str
        Where the server is: ``"clickhouse://user@host:8123/database"`` (the port of HTTP),
        ``"https://user@host:8443/database"`` for one over TLS, or ``"chdb:///folder"`` for
        ClickHouse within this process, which the package ``chdb`` brings. A password in it is
        not shown.
    table : str, default="imgembed"
        The name; at most 40 bytes. A view of that name shows the rows.
    n_neighbors : int, default=5
        Neighbours of a query, where a call does not say otherwise.
    metric : {"cosine", "euclidean", "ip"}, default="cosine"
        As that of :class:`NearestNeighborIndex`. ClickHouse has no graph for "ip".
    algorithm : {"auto", "hnsw", "exact"}, default="auto"
        "hnsw" is ClickHouse's vector_similarity index. "exact" compares with all. "auto" builds
        the graph when there are 10,000 vectors, and never for "ip".
    M : int, default=16
        Links of a node of the graph, 2 to 1,000.
    ef_construction : int, default=200
        Candidates while the graph is built, at most 10,000.
    ef_search : int, optional
        Candidates while the graph is searched, at most 10,000. By default as few as
        ``target_recall`` needs, measured when the graph is built and when the index has grown by
        half, by fit or add.
    target_recall : float, default=0.95
        The share of the true neighbours that a search finds in the mean.
    storage : {"float32", "bfloat16"}, default="float32"
        How vectors are kept, in the table and in the graph.
    timeout : float, default=60.0
        Seconds that a search may take, that a lost server is waited for, and that changes of
        others may come before one of this index.

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
    PostgresIndex : The same in PostgreSQL, where single changes are quicker.

    Notes
    -----
    ClickHouse has no transactions, and no unique keys. The rows of a change are written first,
    and no one sees them; one row in ``imgembed_indexes`` then publishes them all. So a change is
    there in whole when the method returns, and stays, or it is not there at all. If the server is
    lost in between, the index finds out whether the change was published before it makes it
    again. Of two changes at the same time one is published, and the other is made again after
    it.

    Every change makes a part of the table, with a graph of its own: change many items at once.
    Where there is a condition, all rows that it keeps are compared with.

    Conditions (``where``) are the part of SQL that all servers share, as those of
    :class:`PostgresIndex`. What :class:`NearestNeighborIndex` has besides (calibration, near
    duplicates, search within a radius, folders) is not here. One ClickHouseIndex searches in one
    thread at a time. Of ``chdb:///folder`` a process opens one folder, and no other process the
    same.

    References
    ----------
    .. [1] Y. Malkov and D. Yashunin, "Efficient and robust approximate nearest neighbor
       search using Hierarchical Navigable Small World graphs", TPAMI 2020.

    Examples
    --------
    >>> from imgembed import ClickHouseIndex
    >>> index = ClickHouseIndex("clickhouse://me@localhost/photos", table="photos")

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
        self.timeout = timeout

    @classmethod
    def load(cls, dsn: str, table: str = "imgembed", *, timeout: float = 60.0) -> Self:
        """Take an index that is in a table already.

        Parameters
        ----------
        dsn : str
            Where the server is.
        table : str, default="imgembed"
            The name.
        timeout : float, default=60.0
            Seconds that a search may take, and that a lost server is waited for.

        Returns
        -------
        index : ClickHouseIndex
            With the parameters of the one that was fitted.

        Raises
        ------
        ServerTableError
            If there is no index, or its table holds more or fewer rows than it should.
        ServerError
            If the server cannot be reached, or is too old.
        """
        return cls(dsn, table, timeout=timeout)._take_what_is_there()

    @classmethod
    def from_index(cls, index: NearestNeighborIndex, dsn: str, table: str = "imgembed") -> Self:
        """Put what an embedded index holds into a table, in place of all that is there.

        Parameters
        ----------
        index : NearestNeighborIndex
            A fitted one; it stays as it is. Its calibration is not taken.
        dsn : str
            Where the server is.
        table : str, default="imgembed"
            The name.

        Returns
        -------
        index : ClickHouseIndex
            With the parameters of the embedded one. Vectors become float32.

        Raises
        ------
        NotFittedError
            If the index is not fitted.
        ValueError
            If it searches by "hnsw" for "ip", which ClickHouse does not.
        ServerError
            If the server does not do it.
        """
        return cls(dsn, table)._fill_from(index)

    def _new_store(self) -> Store:
        for module in ("clickhouse_connect", "sqlglot"):
            import_optional(module, extra="clickhouse", needed_by="ClickHouseIndex")
        if isinstance(self.dsn, str) and self.dsn.startswith("chdb:"):
            import_optional("chdb", extra="chdb", needed_by="ClickHouseIndex('chdb:///folder')")
        from ._session import ClickHouseSession
        from ._store import ClickHouseStore

        timeout = float(self.timeout)
        return ClickHouseStore(ClickHouseSession(self.dsn, timeout), self.table, timeout)

    def _check_parameters(self) -> None:
        """Raise a ValueError or TypeError that names the first parameter that is wrong."""
        self._check_searching(M=(2, 1_000), ef_construction=(1, 10_000), ef_search=(1, 10_000))
        check_choice("storage", self.storage, ("float32", "bfloat16"))
        if self.metric == "ip" and self.algorithm == "hnsw":
            raise ValueError(
                "ClickHouse's graph knows 'cosine' and 'euclidean': with metric='ip' take "
                "algorithm='exact' or 'auto', or normalise the vectors and take 'cosine'"
            )
        check_table_name(self.table, _LONGEST_TABLE_NAME)
        if "imgembed_" in self.table:
            raise ValueError(f"names with 'imgembed_' are not for tables, got {self.table!r}")

    def _check_width(self, n_features: int) -> None:
        """ClickHouse takes vectors of every width."""
