"""Published files of ground truth, read as they are."""

import os
from dataclasses import dataclass
from pathlib import Path

_QUERY_ENDING = "_query.txt"
# Oxford's query files name images as in the list of visual words, with this before them.
_OXFORD_PREFIX = "oxc1_"


@dataclass(frozen=True)
class OxfordQuery:
    """A query of Oxford5k or Paris6k.

    Parameters
    ----------
    name : str
        As "all_souls_1".
    image : str
        The image that the query is cut from, without ending.
    box : tuple of 4 float
        Left, top, right and bottom of the query in pixels.
    good, ok, junk : tuple of str
        Images that show the building well, more than a quarter of it, and less; without ending.

    Examples
    --------
    >>> from imgembed.evaluation import OxfordQuery
    >>> OxfordQuery("a_1", "a_000001", (0, 0, 9, 9), ("a_000001",), (), ()).image
    'a_000001'
    """

    name: str
    image: str
    box: tuple[float, float, float, float]
    good: tuple[str, ...]
    ok: tuple[str, ...]
    junk: tuple[str, ...]


def read_oxford_ground_truth(folder: str | os.PathLike[str]) -> list[OxfordQuery]:
    """Read the ground truth of Oxford5k or Paris6k.

    Parameters
    ----------
    folder : str or Path
        With the published files ``*_query.txt``, ``*_good.txt``, ``*_ok.txt`` and ``*_junk.txt``.

    Returns
    -------
    queries : list of OxfordQuery
        In the order of their names.

    Raises
    ------
    FileNotFoundError
        If there is no query, or a file of one is missing.
    ValueError
        If a query is not an image and the four numbers of a box.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from imgembed.evaluation import read_oxford_ground_truth
    >>> texts = {"query": "oxc1_a_000001 0 0 9 9", "good": "a_000001", "ok": "", "junk": ""}
    >>> with TemporaryDirectory() as folder:
    ...     for kind, text in texts.items():
    ...         _ = Path(folder, f"a_1_{kind}.txt").write_text(text)
    ...     read_oxford_ground_truth(folder)[0].image
    'a_000001'
    """
    files = sorted(Path(folder).glob(f"*{_QUERY_ENDING}"))
    if not files:
        raise FileNotFoundError(
            f"no *{_QUERY_ENDING} in {os.fspath(folder)!r}; unpack the files of ground truth there"
        )
    return [_read_query(file) for file in files]


def _read_query(file: Path) -> OxfordQuery:
    name = file.name.removesuffix(_QUERY_ENDING)
    words = file.read_text(encoding="utf-8").split()
    try:
        image, (left, top, right, bottom) = words[0], map(float, words[1:])
    except (IndexError, ValueError):
        raise ValueError(
            f"{file} must hold the name of an image and the four numbers of a box; got {words}"
        ) from None
    good, ok, junk = (
        tuple(file.with_name(f"{name}_{kind}.txt").read_text(encoding="utf-8").split())
        for kind in ("good", "ok", "junk")
    )
    box = (left, top, right, bottom)
    return OxfordQuery(name, image.removeprefix(_OXFORD_PREFIX), box, good, ok, junk)
