"""Protocols of published image sets."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from ._ground_truth import OxfordQuery
from ._protocols import LabelProtocol, ListProtocol, Rows
from ._ranks import UKBENCH_GROUP

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
