"""What a report shows of a collection: searches, near duplicates, a map, records, failures."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from threadpoolctl import threadpool_limits

from .. import plotting
from .._optional import import_optional
from ..images import ChosenImages
from ..search import ImageSearch
from ._gallery import Gallery, jpeg, shown_value

_EDGE = 160  # pixels of a thumbnail
_SMALL_EDGE = 64  # in the table of records
_SHOWN_OF_GROUP = 6
_SHOWN_COLUMNS = 20
_SHOWN_FAILURES = 100
_FEWEST_MAPPED = 10
_MAPPED = 1000  # images; the map has no room for more
_FEWEST_CELLS, _MOST_CELLS = 6, 20  # along the longer side of the map
_MAP_DPI = 110
_MAP_NOTE = (
    "Images that lie near each other look alike to the embedder; how far apart groups lie means "
    "nothing (t-SNE)."
)


@dataclass(frozen=True)
class Shown:
    """An image on the page.

    Parameters
    ----------
    name : str
    uri : str
        The thumbnail as a data URI; "" if the image cannot be read any more.
    score : str, default=""
        What stands below the name.
    cells : list of str
        Its record, column by column.
    """

    name: str
    uri: str
    score: str = ""
    cells: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Some:
    """The first of some things, and what is to be said of all of them.

    Parameters
    ----------
    items : list
        Those that are shown.
    n_all : int or None
        How many there are; None if they were not counted.
    note : str, default=""
    columns : list of str
        Of a table.
    """

    items: list[Any]
    n_all: int | None
    note: str = ""
    columns: list[str] = field(default_factory=list)


def sample_searches(
    search: ImageSearch, gallery: Gallery, n_queries: int, n_hits: int, random_state: Any
) -> list[tuple[Shown, list[Shown]]]:
    """Queries that are drawn from the gallery, and their hits without themselves.

    Parameters
    ----------
    search : ImageSearch
    gallery : Gallery
    n_queries, n_hits : int
    random_state : int, RandomState instance or None

    Returns
    -------
    searches : list of (Shown, list of Shown)
    """
    ids = list(gallery)
    drawn = check_random_state(random_state).choice(
        len(ids), min(n_queries, len(ids)), replace=False
    )
    chosen = sorted(ids[row] for row in drawn)
    if not chosen:
        return []
    result = search.search(ids=chosen, n_neighbors=n_hits)
    found = []
    for item, hits, distances in zip(chosen, result.ids, result.distances, strict=True):
        pairs = [(int(i), f"{d:.3f}") for i, d in zip(hits, distances, strict=True) if i >= 0]
        found.append((_shown(gallery, item), [_shown(gallery, i, score=s) for i, s in pairs]))
    return found


def duplicate_groups(
    search: ImageSearch, gallery: Gallery, n_groups: int, threshold: float | None
) -> Some:
    """The largest groups of near duplicates; the note says how near, or why there are none.

    Parameters
    ----------
    search : ImageSearch
    gallery : Gallery
    n_groups : int
    threshold : float or None

    Returns
    -------
    groups : Some
        Of :class:`Some` images.
    """
    try:
        limit = _calibrated(search) if threshold is None else threshold
    except ValueError as error:
        return Some([], None, f"They were not looked for: {error}")
    groups = search.index_.near_duplicates(limit)
    largest = sorted(groups, key=len, reverse=True)[:n_groups]
    items = [
        Some([_shown(gallery, int(i)) for i in group[:_SHOWN_OF_GROUP]], len(group))
        for group in largest
    ]
    note = f"All images of a group are within {limit:.3g} ({search.index_.metric}) of each other."
    return Some(items, len(groups), note)


def map_picture(search: ImageSearch, gallery: Gallery, random_state: Any) -> tuple[str, str]:
    """A map of the collection, by t-SNE; or why there is none.

    Parameters
    ----------
    search : ImageSearch
    gallery : Gallery
    random_state : int, RandomState instance or None

    Returns
    -------
    uri : str
        The picture as a data URI; "" if there is none.
    note : str
    """
    if len(gallery) < _FEWEST_MAPPED:
        return "", f"A map needs at least {_FEWEST_MAPPED} images."
    ids = np.array(list(gallery))
    chosen = check_random_state(random_state).permutation(len(ids))[:_MAPPED]
    try:
        pyplot = import_optional("matplotlib.pyplot", extra="plot", needed_by="the map")
    except ImportError as error:
        return "", str(error)
    vectors, metric = search.index_.vectors_[chosen], _compared(search.index_.metric)
    with threadpool_limits(1):  # the steps of t-SNE are short: threads mostly wait for each other
        positions = plotting.project_2d(vectors, "tsne", metric=metric, random_state=random_state)
    images = ChosenImages(search.images_, ids[chosen])
    n_cells = int(np.clip(2 * np.sqrt(len(chosen)), _FEWEST_CELLS, _MOST_CELLS))
    axes = plotting.plot_map(positions, images, n_cells=n_cells, random_state=random_state)
    jpeg_file = io.BytesIO()
    axes.figure.savefig(jpeg_file, format="jpeg", dpi=_MAP_DPI, pil_kwargs={"quality": 85})
    pyplot.close(axes.figure)
    return _data_uri(jpeg_file.getvalue(), "jpeg"), _MAP_NOTE


def record_table(search: ImageSearch, gallery: Gallery, n_records: int) -> Some:
    """Records that are spread over the collection.

    Parameters
    ----------
    search : ImageSearch
    gallery : Gallery
    n_records : int

    Returns
    -------
    records : Some
        Of :class:`Shown` with cells; none if there are no columns.
    """
    columns = list(search.index_.columns_)
    ids = gallery.spread(n_records) if columns else []
    if not ids:
        return Some([], 0)
    # All of them are found by one search among them.
    found = search.index_.search(search.index_.vectors_[:1], n_neighbors=len(ids), where=ids)
    records = dict(zip(found.ids[0], found.records[0], strict=True))
    rows = [
        _shown(gallery, item, edge=_SMALL_EDGE, record=records[item], columns=columns)
        for item in ids
    ]
    note = f"{_SHOWN_COLUMNS} of {len(columns)} columns" if len(columns) > _SHOWN_COLUMNS else ""
    return Some(rows, len(gallery), note, columns[:_SHOWN_COLUMNS])


def unreadable(search: ImageSearch, gallery: Gallery) -> Some:
    """The first images that could not be read, and why.

    Parameters
    ----------
    search : ImageSearch
    gallery : Gallery

    Returns
    -------
    failures : Some
        Of (name, reason).
    """
    errors = list(search.errors_.items())
    items = [(gallery.name(i), shown_value(error.reason)) for i, error in errors[:_SHOWN_FAILURES]]
    return Some(items, len(errors))


def _shown(
    gallery: Gallery,
    item: int,
    *,
    edge: int = _EDGE,
    score: str = "",
    record: dict[str, Any] | None = None,
    columns: Sequence[str] = (),
) -> Shown:
    encoded = jpeg(gallery.image(item), edge)
    cells = [shown_value((record or {}).get(column)) for column in columns[:_SHOWN_COLUMNS]]
    return Shown(gallery.name(item), _data_uri(encoded, "jpeg"), score, cells)


def _data_uri(encoded: bytes | None, kind: str) -> str:
    if encoded is None:
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"


def _calibrated(search: ImageSearch) -> float:
    """The distance of near duplicates; the index stays as calibrated as it was."""
    index = search.index_
    if index.calibration_ is not None:
        return index.calibration_.threshold
    try:
        return index.calibrate().threshold
    finally:
        index.calibration_ = None


def _compared(metric: str) -> str:
    """How the map compares vectors: inner products by their directions."""
    return "euclidean" if metric == "euclidean" else "cosine"
