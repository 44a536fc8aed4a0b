"""Protocols: which images are queries, which answer them, and what is measured."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._ground_truth import OxfordQuery
from ._ranks import UKBENCH_GROUP, Flags

Rows = NDArray[np.int64]

_MEASURES = ("mean_average_precision", "precision@1", "recall@10")
_TRAPEZOIDS = ("trapezoidal_mean_average_precision",)
_REVISITED = (
    "trapezoidal_mean_average_precision",
    "revisited_precision@1",
    "revisited_precision@5",
    "revisited_precision@10",
)
# What is sought, and what is taken out of the ranking, at each difficulty.
_DIFFICULTIES = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


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
            raise ValueError(
                f"query_itself must be 'removed' or 'relevant'; got {query_itself!r}"
            )
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
        """See :class:`RetrievalProtocol`."""
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
        """See :class:`RetrievalProtocol`."""
        return (
            _flags(self._relevant[queries], self.n_images),
            _flags(self._ignored[queries], self.n_images),
        )


def holidays_protocol(names: Sequence[str | PurePath]) -> LabelProtocol:
    """INRIA Holidays: the first photograph of each group asks for its others.

    Parameters
    ----------
    names : sequence of n_images str or Path
        Files as "100000.jpg": group 1000, photograph 00, which is the query.

    Returns
    -------
    protocol : LabelProtocol
        The query is taken out of its own ranking; average precision is by trapezoids.

    Raises
    ------
    ValueError
        If a name is no number.

    References
    ----------
    .. [1] H. Jegou, M. Douze and C. Schmid, "Hamming embedding and weak geometric consistency
       for large scale image search", ECCV 2008.

    Examples
    --------
    >>> from imgembed.evaluation import holidays_protocol
    >>> holidays_protocol(["100000.jpg", "100001.jpg", "100100.jpg", "100101.jpg"]).n_queries
    2
    """
    numbers = _file_numbers(names)
    everything = np.ones(len(numbers), bool)
    return LabelProtocol(
        (numbers // 100).tolist(), numbers % 100 == 0, everything, measures=_TRAPEZOIDS
    )


def ukbench_protocol(n_images: int) -> LabelProtocol:
    """UKBench: photographs in groups of four, each of which asks for its group, itself included.

    Parameters
    ----------
    n_images : int
        A multiple of 4. Rows 0 to 3 show the first object, and so on, in the order of the names
        "ukbench00000.jpg" to "ukbench10199.jpg".

    Returns
    -------
    protocol : LabelProtocol
        Its measure is in 0..4.

    Raises
    ------
    ValueError
        If n_images is not a multiple of 4.

    References
    ----------
    .. [1] D. Nister and H. Stewenius, "Scalable Recognition with a Vocabulary Tree", CVPR 2006.

    Examples
    --------
    >>> from imgembed.evaluation import ukbench_protocol
    >>> ukbench_protocol(10200).n_queries
    10200
    """
    if n_images < 1 or n_images % UKBENCH_GROUP:
        raise ValueError(f"UKBench has 4 images of each object; got {n_images} images")
    labels = np.arange(n_images) // UKBENCH_GROUP
    return LabelProtocol(labels.tolist(), query_itself="relevant", measures=("ukbench_score",))


def copydays_protocol(paths: Sequence[str | PurePath], n_distractors: int = 0) -> LabelProtocol:
    """INRIA Copydays: each changed image asks for the original, among originals and distractors.

    Parameters
    ----------
    paths : sequence of str or Path
        Files whose folder is "original", as "original/200000.jpg", and their copies, as
        "jpegqual/3/200000.jpg", "crops/50/200000.jpg" or "strong/200001.jpg".
    n_distractors : int, default=0
        Images that follow those of ``paths`` in the vectors and answer nothing.

    Returns
    -------
    protocol : LabelProtocol
        Average precision is by trapezoids. For the numbers of one attack give the paths
        of originals and of that attack.

    Raises
    ------
    ValueError
        If a name is no number, or there are no originals or no copies.

    References
    ----------
    .. [1] M. Douze et al., "Evaluation of GIST descriptors for web-scale image search",
       CIVR 2009.

    Examples
    --------
    >>> from imgembed.evaluation import copydays_protocol
    >>> copydays_protocol(["original/200000.jpg", "strong/200001.jpg"], n_distractors=9).n_queries
    1
    """
    groups = [*(_file_numbers(paths) // 100).tolist(), *[None] * n_distractors]
    is_copy = [PurePath(path).parent.name != "original" for path in paths]
    return LabelProtocol(groups, [*is_copy, *[False] * n_distractors], measures=_TRAPEZOIDS)


def oxford_protocol(
    queries: Sequence[OxfordQuery], names: Sequence[str | PurePath], missing: str = "raise"
) -> ListProtocol:
    """Oxford5k and Paris6k: good and ok images answer, junk is taken out of the ranking.

    Parameters
    ----------
    queries : sequence of OxfordQuery
        From :func:`read_oxford_ground_truth`.
    names : sequence of n_images str or Path
        The database images in the order of their vectors, as "all_souls_000013.jpg".
    missing : {"raise", "drop"}, default="raise"
        What happens if the ground truth names an image that is not among the names. "drop" forgets
        it, as is done with the twenty damaged images of Paris6k.

    Returns
    -------
    protocol : ListProtocol
        Queries have vectors of their own: those of the images cropped to the boxes.
        The image that a query was cut from stays in the database and is relevant.

    Raises
    ------
    ValueError
        If an image is missing, or two have the same name.

    References
    ----------
    .. [1] J. Philbin et al., "Object retrieval with large vocabularies and fast spatial
       matching", CVPR 2007.
    .. [2] J. Philbin et al., "Lost in quantization: Improving particular object retrieval in
       large scale image databases", CVPR 2008.

    Examples
    --------
    >>> from imgembed.evaluation import OxfordQuery, oxford_protocol
    >>> query = OxfordQuery("a_1", "a_000001", (0, 0, 9, 9), ("a_000001",), ("a_000002",), ())
    >>> oxford_protocol([query], ["a_000001.jpg", "a_000002.jpg", "b_000001.jpg"]).n_images
    3
    """
    if missing not in ("raise", "drop"):
        raise ValueError(f"missing must be 'raise' or 'drop'; got {missing!r}")
    row_of = _rows_of_names(names)
    if missing == "raise":
        _check_named(queries, row_of)
    relevant = [_rows_of(row_of, (*query.good, *query.ok)) for query in queries]
    junk = [_rows_of(row_of, query.junk) for query in queries]
    return ListProtocol(relevant, junk, n_images=len(names), measures=_TRAPEZOIDS)


def revisited_protocol(
    gnd: Sequence[Mapping[str, Any]], n_images: int, difficulty: str = "medium"
) -> ListProtocol:
    """Revisited Oxford and Paris: easy, medium or hard.

    Parameters
    ----------
    gnd : sequence of n_queries mappings
        The entry "gnd" of the published ``gnd_roxford5k.pkl`` or ``gnd_rparis6k.pkl``: for each
        query the database images that are "easy", "hard" and "junk", from 0. Loading a pickle
        runs what is in it: load it yourself, if you trust where it came from.
    n_images : int
        How many database images there are, distractors included: 4,993 in Oxford, 6,322 in Paris,
        in the order of the entry "imlist".
    difficulty : {"easy", "medium", "hard"}, default="medium"
        Whether easy images, both, or hard ones answer. The others, and junk, are taken out.

    Returns
    -------
    protocol : ListProtocol
        Queries have vectors of their own: those of "qimlist", cropped to "bbx". Queries that
        nothing answers are NaN and are left out of the means. Average precision is by trapezoids.

    Raises
    ------
    ValueError
        If a list is missing, or a number is not that of a database image.

    References
    ----------
    .. [1] F. Radenovic et al., "Revisiting Oxford and Paris: Large-Scale Image Retrieval
       Benchmarking", CVPR 2018.

    Examples
    --------
    >>> from imgembed.evaluation import revisited_protocol
    >>> gnd = [{"easy": [0], "hard": [1], "junk": [2], "bbx": [0, 0, 9, 9]}]
    >>> revisited_protocol(gnd, n_images=4, difficulty="hard").measures[0]
    'trapezoidal_mean_average_precision'
    """
    if difficulty not in _DIFFICULTIES:
        raise ValueError(f"difficulty must be one of {list(_DIFFICULTIES)}; got {difficulty!r}")
    sought, removed = _DIFFICULTIES[difficulty]
    return ListProtocol(
        [_joined(entry, sought) for entry in gnd],
        [_joined(entry, removed) for entry in gnd],
        n_images=n_images,
        measures=_REVISITED,
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
    return tuple(name for name in default if "@" not in name or int(name.split("@")[1]) <= n_database)


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


def _file_numbers(names: Sequence[str | PurePath]) -> Rows:
    stems = [PurePath(name).stem for name in names]
    strange = [stem for stem in stems if not stem.isdecimal()]
    if strange:
        raise ValueError(
            f"{len(strange)} file names are no numbers, as '100000.jpg' is; the first is "
            f"{strange[0]!r}"
        )
    return np.array([int(stem) for stem in stems], np.int64)


def _rows_of_names(names: Sequence[str | PurePath]) -> dict[str, int]:
    row_of = {_bare(name): row for row, name in enumerate(names)}
    if len(row_of) < len(names):
        raise ValueError(
            f"names must differ; {len(names)} names have {len(row_of)} different stems only"
        )
    return row_of


def _bare(name: str | PurePath) -> str:
    """The name without folder, and without the ending of an image."""
    return PurePath(name).name.removesuffix(".jpg")


def _check_named(queries: Sequence[OxfordQuery], row_of: Mapping[str, int]) -> None:
    named = {name for query in queries for name in (*query.good, *query.ok, *query.junk)}
    absent = sorted(named - set(row_of))
    if absent:
        raise ValueError(
            f"{len(absent)} images of the ground truth are not among the names, as {absent[0]!r}; "
            "missing='drop' leaves them out of it"
        )


def _rows_of(row_of: Mapping[str, int], names: Iterable[str]) -> list[int]:
    return [row_of[name] for name in names if name in row_of]


def _joined(entry: Mapping[str, Any], keys: tuple[str, ...]) -> Rows:
    absent = [key for key in keys if key not in entry]
    if absent:
        raise ValueError(
            f"each query of gnd needs the lists 'easy', 'hard' and 'junk'; got {sorted(entry)}"
        )
    return np.concatenate([np.asarray(entry[key], np.int64).ravel() for key in keys])
