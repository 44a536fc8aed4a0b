"""MilvusIndex: the nearest vectors of vectors, in a collection of Milvus."""

import re
from typing import Any, ClassVar, Self

from ..._optional import import_optional
from ...index import NearestNeighborIndex
from .._server_index import ServerIndex
from .._store import Store

_NARROWEST, _WIDEST = 2, 32_768
_LONGEST_NAME = 200
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class MilvusIndex(ServerIndex):
    """Find the nearest vectors in a collection of Milvus.

    It has the methods of :class:`NearestNeighborIndex`, for vectors that are more than one
    machine holds: Milvus spreads a collection over many. Ids and vectors are fields of the
    entities, columns of records are dynamic fields; what is known of the index is an entity in
    the collection ``imgembed_indexes``. Both collections are made when they are needed.

    Parameters
    ----------
    uri : str
        Where the server is: ``"http://host:19530"``, with ``https`` if it has a certificate, and
        with the name of a database behind a slash. A file that ends in ``.db`` is opened by
        milvus-lite in this process.
    collection : str, default="imgembed"
        Name of the index: letters, digits and underscores. Its items are in a collection whose
        name goes on with ``_imgembed_`` and eight digits, others after each fit.
    n_neighbors : int, default=5
        Neighbours of a query, where a call does not say otherwise.
    metric : {"cosine", "euclidean", "ip"}, default="cosine"
        As that of :class:`NearestNeighborIndex`.
    algorithm : {"auto", "hnsw", "exact"}, default="auto"
        "hnsw" is Milvus's graph. "exact" compares with all, on the server. "auto" builds the
        graph when there are 10,000 vectors.
    token : str, optional
        ``"user:password"``, or a key. It is not shown.
    M : int, default=16
        Links of a node of the graph, 4 to 64.
    ef_construction : int, default=200
        Candidates while the graph is built, 8 to 512.
    ef_search : int, optional
        Candidates while the graph is searched. By default as few as ``target_recall`` needs,
        measured when the graph is built and when the index has grown by half, by fit or add.
    target_recall : float, default=0.95
        The share of the true neighbours that a search finds in the mean.
    timeout : float, default=60.0
        Seconds that a call of the server may take, and that a lost server is waited for.

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
    PostgresIndex : The same in PostgreSQL, with whole changes.

    Notes
    -----
    Milvus has no transactions. When a method has returned, its change is there, and stays if the
    server is killed. If it has raised a ServerError, the change may be there in part: ``upsert``
    with the same items completes it, and makes none twice. ``fit`` is whole or not at all. An
    index takes one writer at a time; a second one is noticed, and told. Reads are strongly
    consistent: they wait for what was written before.

    Comparisons of a column with values, AND, OR, NOT, IN, BETWEEN and IS NULL are decided by
    Milvus. The rest of what servers share, such as LIKE, arithmetic and functions, is decided here
    by the embedded index, on the columns of those items that the other parts keep, up to 100,000;
    with more a WhereError says what to do.

    ``exact=True`` over a graph reads all vectors that the condition keeps, and compares them here.

    References
    ----------
    .. [1] J. Wang et al., "Milvus: A Purpose-Built Vector Data Management System", SIGMOD 2021.

    Examples
    --------
    >>> from imgembed import MilvusIndex
    >>> index = MilvusIndex("http://localhost:19530", collection="photos")

    With a server there::

        index.fit(vectors, ids=paths, records={"price": prices})
        index.search(queries, n_neighbors=10, where="price < ?", params=(50,))
    """

    _secret_parameters: ClassVar[tuple[str, ...]] = ("uri", "token")

    def __init__(
        self,
        uri: str,
        collection: str = "imgembed",
        n_neighbors: int = 5,
        metric: str = "cosine",
        algorithm: str = "auto",
        *,
        token: str | None = None,
        M: int = 16,
        ef_construction: int = 200,
        ef_search: int | None = None,
        target_recall: float = 0.95,
        timeout: float = 60.0,
    ) -> None:
        self.uri = uri
        self.collection = collection
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.algorithm = algorithm
        self.token = token
        self.M = M
        self.ef_construction = ef_construction
        self.ef_search = ef_search
        self.target_recall = target_recall
        self.timeout = timeout

    @classmethod
    def load(
        cls,
        uri: str,
        collection: str = "imgembed",
        *,
        token: str | None = None,
        timeout: float = 60.0,
    ) -> Self:
        """Take an index that is on a server already.

        Parameters
        ----------
        uri : str
            Where the server is.
        collection : str, default="imgembed"
            Name of the index.
        token : str, optional
            As the parameter of this class.
        timeout : float, default=60.0
            Seconds that a call of the server may take, and that a lost server is waited for.

        Returns
        -------
        index : MilvusIndex
            With the parameters of the one that was fitted.

        Raises
        ------
        ServerTableError
            If there is no index.
        ServerError
            If the server cannot be reached, or is too old.
        """
        return cls(uri, collection, token=token, timeout=timeout)._take_what_is_there()

    @classmethod
    def from_index(
        cls,
        index: NearestNeighborIndex,
        uri: str,
        collection: str = "imgembed",
        *,
        token: str | None = None,
    ) -> Self:
        """Put what an embedded index holds on a server, in place of all that is there.

        Parameters
        ----------
        index : NearestNeighborIndex
            A fitted one; it stays as it is. Its calibration is not taken.
        uri : str
            Where the server is.
        collection : str, default="imgembed"
            Name of the index.
        token : str, optional
            As the parameter of this class.

        Returns
        -------
        index : MilvusIndex
            With the parameters of the embedded one. Vectors are float32.

        Raises
        ------
        NotFittedError
            If the index is not fitted.
        ServerError
            If the server does not do it.
        """
        return cls(uri, collection, token=token)._fill_from(index)

    def _new_store(self) -> Store:
        for module in ("pymilvus", "sqlglot"):
            import_optional(module, extra="milvus", needed_by="MilvusIndex")
        from ._session import MilvusSession
        from ._store import MilvusStore

        session = MilvusSession(self.uri, self.token, float(self.timeout))
        return MilvusStore(session, self.collection)

    def _check_parameters(self) -> None:
        """Raise a ValueError or TypeError that names the first parameter that is wrong."""
        self._check_searching(M=(4, 64), ef_construction=(8, 512), ef_search=(1, 32_768))
        for name in ("uri", "collection"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a str, got {type(getattr(self, name)).__name__}")
        _check_name(self.collection)

    def _check_width(self, n_features: int) -> None:
        if not _NARROWEST <= n_features <= _WIDEST:
            raise ValueError(
                f"Milvus keeps vectors of {_NARROWEST} to {_WIDEST:,} features, got {n_features}"
            )


def _check_name(collection: Any) -> None:
    if not _NAME.fullmatch(collection) or len(collection) > _LONGEST_NAME:
        raise ValueError(
            f"collection must have 1 to {_LONGEST_NAME} letters, digits and underscores, and not "
            f"begin with a digit; got {collection!r:.80}"
        )
    if collection.startswith("imgembed_") or "_imgembed_" in collection:
        raise ValueError(f"names with 'imgembed_' are not for indexes, got {collection!r}")
