"""A report on a collection: one HTML file that needs nothing else."""

import os
import tempfile
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from sklearn.utils import check_scalar

from ..search import ImageSearch
from ._collection import duplicate_groups, map_picture, record_table, sample_searches, unreadable
from ._facts import embedder_facts, index_facts
from ._gallery import Gallery, opened

_PAGES = Path(__file__).parent


def report_html(
    search: ImageSearch | str | os.PathLike[str],
    *,
    title: str = "Image collection",
    n_queries: int = 8,
    n_hits: int = 6,
    n_groups: int = 12,
    n_records: int = 50,
    threshold: float | None = None,
    random_state: Any = 0,
) -> str:
    """Describe a collection on one page: what is in it, and how well it is searched.

    The page has the embedder and the index with their parameters, searches for images drawn from
    the collection, groups of near duplicates, a map, records, and the files that could not be
    read. Thumbnails are inside, all text is escaped, and nothing is loaded from elsewhere.

    Parameters
    ----------
    search : ImageSearch, str or Path
        A fitted search, or the folder of a saved one.
    title : str, default="Image collection"
        The title of the page.
    n_queries : int, default=8
        Images that are drawn and searched for.
    n_hits : int, default=6
        Hits of each.
    n_groups : int, default=12
        Groups of near duplicates that are shown, the largest.
    n_records : int, default=50
        Records that are shown, spread over the collection.
    threshold : float, optional
        The largest distance of near duplicates; by default that of the calibration of the
        index, or of one by random pairs.
    random_state : int, RandomState instance or None, default=0
        Draws the queries, and the images of the map.

    Returns
    -------
    page : str
        HTML. Its size depends on these numbers, not on that of the collection.

    Raises
    ------
    NotFittedError
        If the search is not fitted.
    ValueError
        If a number is negative.

    Notes
    -----
    Names of files are given below the folder that all images share; parameters are shown as
    they are, even if they hold paths. The map needs matplotlib (extra ``plot``), and is left
    out without it.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import HOGEmbedder, ImageSearch
    >>> from imgembed.pages import report_html
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    >>> page = report_html(ImageSearch(HOGEmbedder()).fit(images), title="Four <images>")
    >>> "<h1>Four &lt;images&gt;</h1>" in page
    True
    """
    counts = {
        "n_queries": n_queries, "n_hits": n_hits, "n_groups": n_groups, "n_records": n_records
    }  # fmt: skip
    for name, count in counts.items():
        check_scalar(count, name, int, min_val=name == "n_hits")
    search = opened(search)
    gallery = Gallery(search)
    return _template().render(
        title=title,
        style=(_PAGES / "static" / "pages.css").read_text(encoding="utf-8"),
        n_images=len(gallery),
        embedder=embedder_facts(search),
        index=index_facts(search),
        samples=sample_searches(search, gallery, n_queries, n_hits, random_state),
        duplicates=duplicate_groups(search, gallery, n_groups, threshold),
        map=map_picture(search, gallery, random_state),
        records=record_table(search, gallery, n_records),
        unreadable=unreadable(search, gallery),
    )


def write_report(
    search: ImageSearch | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    title: str = "Image collection",
    n_queries: int = 8,
    n_hits: int = 6,
    n_groups: int = 12,
    n_records: int = 50,
    threshold: float | None = None,
    random_state: Any = 0,
) -> Path:
    """Write :func:`report_html` to a file, whole or not at all.

    Parameters
    ----------
    search : ImageSearch, str or Path
        A fitted search, or the folder of a saved one.
    out : str or Path
        The file; one that is there is replaced.
    title : str, default="Image collection"
        This, and all below, as for :func:`report_html`.
    n_queries : int, default=8
        Images that are drawn and searched for.
    n_hits : int, default=6
        Hits of each.
    n_groups : int, default=12
        Groups of near duplicates that are shown.
    n_records : int, default=50
        Records that are shown.
    threshold : float, optional
        The largest distance of near duplicates.
    random_state : int, RandomState instance or None, default=0
        Draws the queries, and the images of the map.

    Returns
    -------
    path : Path
        Of the file.

    Raises
    ------
    FileNotFoundError
        If there is no folder for the file; before the work begins.
    NotFittedError, ValueError
        As for :func:`report_html`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from imgembed import HOGEmbedder, ImageSearch
    >>> from imgembed.pages import write_report
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    >>> search = ImageSearch(HOGEmbedder()).fit(images)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(search, folder + "/report.html").name
    'report.html'
    """
    path = Path(out)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} for the report")
    page = report_html(
        search,
        title=title,
        n_queries=n_queries,
        n_hits=n_hits,
        n_groups=n_groups,
        n_records=n_records,
        threshold=threshold,
        random_state=random_state,
    )
    _write_whole(path, page)
    return path


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("imgembed.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _write_whole(path: Path, page: str) -> None:
    """Write a file beside its place, and move it there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(page)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
