"""Protocols: which images are queries, which answer them, and what is measured."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._ranks import Flags

Rows = NDArray[np.int64]

_MEASURES = ("mean_average_precision", "precision@1", "recall@10")


class RetrievalProtocol(ABC):
    """What :func:`imgembed.evaluation.evaluate` is told of a set of images.

    Parameters
    ----------
    n_queries : int
    n_images : int
        Rows of vectors that the protocol speaks of.
    database_rows : ndarray of shape (n_database,), dtype int64
        Rows of the vectors among which is searched.
    query_rows : ndarray of shape (n_queries,), dtype int64, or None
        Rows of the vectors that are the queries. None where queries have vectors of their own.
    measures : tuple of str
        What is measured if nothing else is asked for; see :func:`per_query`.

    Raises
    ------
    ValueError
        If there are no queries, or nothing to search among.

    Examples
    --------
    >>> from imgembed.evaluation import LabelProtocol
    >>> relevant, ignored = LabelProtocol(["a", "a", "b"]).answers(slice(0, 1))
    >>> relevant, ignored
    (array([[ True,  True, False]]), array([[ True, False, False]]))
    """

    def __init__(
        self,
        n_queries: int,
        n_images: int,
        database_rows: Rows,
        query_rows: Rows | None,
        measures: tuple[str, ...],
    ) -> None:
        self.n_queries = n_queries
        self.n_images = n_images
        self.database_rows = database_rows
        self.query_rows = query_rows
        self.measures = measures
        if not n_queries or not len(database_rows):
            raise ValueError(
                f"there must be queries and images to search among; got {n_queries} queries and "
                f"{len(database_rows)} images"
            )

    @abstractmethod
    def answers(self, queries: slice) -> tuple[Flags, Flags]:
        """Which database images answer some of the queries, and which are taken out.

        Parameters
        ----------
        queries : slice
            From query to query, without steps.

        Returns
        -------
        relevant, ignored : ndarray of shape (n_these_queries, n_database), dtype bool
        """


class LabelProtocol(RetrievalProtocol):
    """An image answers a query when both have the same label: classes, groups, copies.

    Parameters
    ----------
    labels : sequence of hashable, of length n_images
        What each image shows. None or NaN: a distractor, which answers nothing.
    is_query : array-like of shape (n_images,), dtype bool, optional
        Which images are queries; by default all are.
    in_database : array-like of shape (n_images,), dtype bool, optional
        Among which images is searched. By default among those that are no queries, and if all
        are queries, among all.
    query_itself : {"removed", "relevant"}, default="removed"
        What becomes of a query that is in the database: it is taken out of its own
        ranking, or is an answer to itself, as in UKBench.
    measures : sequence of str, optional
        What is measured; by default mean average precision, precision@1 and recall@10.

    Raises
    ------
    ValueError
        If lengths differ, or there are no queries or nothing to search among.

    Examples
    --------
    >>> from imgembed.evaluation import LabelProtocol, evaluate
    >>> vectors = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
    >>> protocol = LabelProtocol(["cat", "cat", "dog", "dog"], measures=["precision@1"])
    >>> evaluate(vectors, protocol).means
    {'precision@1': 1.0}
    """

    def __init__(
        self,
        labels: Iterable[Hashable],
        is_query: Any = None,
        in_database: Any = None,
        query_itself: str = "removed",
        measures: Sequence[str] | None = None,
    ) -> None:
        if query_itself not in ("removed", "relevant"):
            raise ValueError(f"query_itself must be 'removed' or 'relevant'; got {query_itself!r}")
        self._codes = _coded(labels)
        everything = np.ones(len(self._codes), bool)
        queries = everything if is_query is None else _mask(is_query, self._codes, "is_query")
        if in_database is not None:
            database = _mask(in_database, self._codes, "in_database")
        else:
            database = everything if queries.all() else ~queries
        self._removes_itself = query_itself == "removed"
        rows = np.flatnonzero(queries)
        super().__init__(
            len(rows),
            len(self._codes),
            np.flatnonzero(database),
            rows,
            _default_measures(measures, _MEASURES, int(database.sum())),
        )

    def answers(self, queries: slice) -> tuple[Flags, Flags]:
        """Which database images answer some of the queries, and which are taken out.

        Parameters
        ----------
        queries : slice
            From query to query, without steps.

        Returns
        -------
        relevant, ignored : ndarray of shape (n_these_queries, n_database), dtype bool
        """
        assert self.query_rows is not None
        rows = self.query_rows[queries][:, np.newaxis]
        codes = self._codes[rows]
        relevant: Flags = (codes == self._codes[self.database_rows]) & (codes >= 0)
        itself: Flags = rows == self.database_rows
        if self._removes_itself:
            return relevant, itself
        return relevant, np.zeros_like(itself)


class ListProtocol(RetrievalProtocol):
    """Each query has its list of images that answer it, and of those that do not count.

    Parameters
    ----------
    relevant : sequence of array-like of int, of length n_queries
        Numbers of database images, from 0.
    ignored : sequence of array-like of int, of length n_queries, optional
        Database images that are taken out of the ranking of a query: junk, or itself.
    n_images : int
        How many database images there are; numbers are below it.
    query_rows : array-like of shape (n_queries,), dtype int, optional
        The database images that are the queries. By default queries have vectors of their own,
        as those of cropped images.
    measures : sequence of str, optional
        What is measured; by default mean average precision, precision@1 and recall@10.

    Raises
    ------
    ValueError
        If lengths differ, or a number is not that of a database image.

    Examples
    --------
    >>> from imgembed.evaluation import ListProtocol, evaluate
    >>> protocol = ListProtocol([[0], [2]], [[1], []], n_images=3, measures=["precision@1"])
    >>> vectors = [[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]]
    >>> evaluate(vectors, protocol, query_vectors=[[1.0, 0.0], [0.1, 1.0]]).means
    {'precision@1': 1.0}
    """

    def __init__(
        self,
        relevant: Sequence[Any],
        ignored: Sequence[Any] | None = None,
        *,
        n_images: int,
        query_rows: Any = None,
        measures: Sequence[str] | None = None,
    ) -> None:
        ignored = [()] * len(relevant) if ignored is None else ignored
        self._relevant = _numbers(relevant, n_images, "relevant")
        self._ignored = _numbers(ignored, n_images, "ignored")
        rows = None if query_rows is None else _numbers([query_rows], n_images, "query_rows")[0]
        for name, each in (("ignored", ignored), ("query_rows", rows)):
            if each is not None and len(each) != len(relevant):
                raise ValueError(
                    f"{name} must have one entry a query, {len(relevant)}; got {len(each)}"
                )
        measures = _default_measures(measures, _MEASURES, n_images)
        super().__init__(len(relevant), n_images, np.arange(n_images), rows, measures)

    def answers(self, queries: slice) -> tuple[Flags, Flags]:
        """Which database images answer some of the queries, and which are taken out.

        Parameters
        ----------
        queries : slice
            From query to query, without steps.

        Returns
        -------
        relevant, ignored : ndarray of shape (n_these_queries, n_database), dtype bool
        """
        return (
            _flags(self._relevant[queries], self.n_images),
            _flags(self._ignored[queries], self.n_images),
        )


def _coded(labels: Iterable[Hashable]) -> NDArray[np.int32]:
    """A number for each label, -1 for those that are none."""
    numbers: dict[Hashable, int] = {}
    labels = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    return np.array(
        [-1 if _is_none(label) else numbers.setdefault(label, len(numbers)) for label in labels],
        np.int32,
    )


def _is_none(label: Hashable) -> bool:
    return label is None or label != label


def _mask(flags: Any, codes: NDArray[np.int32], name: str) -> Flags:
    mask = np.asarray(flags)
    if mask.shape != codes.shape or (mask.dtype != bool and not np.isin(mask, (0, 1)).all()):
        raise ValueError(
            f"{name} must be True or False for each of {len(codes)} labels; got an array of shape "
            f"{mask.shape} and dtype {mask.dtype}"
        )
    return mask.astype(bool)


def _default_measures(
    measures: Sequence[str] | None, default: tuple[str, ...], n_database: int
) -> tuple[str, ...]:
    if measures is not None:
        return tuple(measures)
    return tuple(
        name for name in default if "@" not in name or int(name.split("@")[1]) <= n_database
    )


def _numbers(lists: Sequence[Any], n_images: int, name: str) -> list[Rows]:
    numbers = [np.asarray(each if len(each) else (), np.int64).ravel() for each in lists]
    for i, each in enumerate(numbers):
        if len(each) and not 0 <= each.min() <= each.max() < n_images:
            raise ValueError(
                f"{name}[{i}] must hold numbers of database images, from 0 to {n_images - 1}; "
                f"got {each.min()} to {each.max()}"
            )
    return numbers


def _flags(lists: Sequence[Rows], n_images: int) -> Flags:
    flags = np.zeros((len(lists), n_images), bool)
    rows = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
    flags[rows, np.concatenate([*lists, np.empty(0, np.int64)])] = True
    return flags
