"""A search on disk: one snapshot of its index with gallery, embedder and reranker in it.

The snapshot is that of :mod:`imgembed.index`, so that the old search or the new one is there whole.
To the parts of the index come:

``gallery.bin``
    JSON: the folder of all files; of each image its path in there, the number of its content, or
    null; the errors.
``contents.bin``, ``content_ends.npy``
    Images that were in memory, one after the other.
``objects.bin``
    Embedder, rerank, expansion and local features, as :mod:`imgembed.embedder_files` packs them.
"""

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..base import ImageEmbedder
from ..embedder_files._packing import EmbedderFileError, UnknownClassError, pack, unpack
from ..images import ChosenImages, ImageReadError, read_image
from ..index import CorruptIndexError, NearestNeighborIndex
from ..index._snapshot import GRAPH_ARRAYS
from ..index.storage._folder import Snapshot, read_snapshot, write_snapshot
from ..rerank import GeometricReranker, QueryExpansion
from ._gallery import Gallery, absolute_path
from ._inside_index import index_from, index_parts
from ._inside_reranker import packed_features, restored

_VERSION = 1
_WRONG = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True)
class Saved:
    """All of a search that is saved.

    Parameters
    ----------
    embedder : ImageEmbedder
    index : NearestNeighborIndex
    gallery : Gallery
    errors : dict of int to ImageReadError
    rerank : GeometricReranker or None
        The parameter.
    expansion : QueryExpansion or None
    reranker : GeometricReranker or None
        The fitted one.
    """

    embedder: ImageEmbedder
    index: NearestNeighborIndex
    gallery: Gallery
    errors: Mapping[int, ImageReadError]
    rerank: GeometricReranker | None
    expansion: QueryExpansion | None
    reranker: GeometricReranker | None

    @property
    def rows(self) -> NDArray[np.int64]:
        """The id of each vector in the index."""
        return np.array(list(self.index), np.int64)


def write_search(path: str | os.PathLike[str], search: Saved, *, replaces: str | None) -> str:
    """Save a search; see :meth:`ImageSearch.save`.

    Parameters
    ----------
    path : str or Path
    search : Saved
    replaces : str or None
        The generation that must be there; None takes the place of whatever is there.

    Returns
    -------
    generation : str
        Of this save.
    """
    meta, arrays, blobs = index_parts(search.index)
    described, contents = _described_gallery(search.gallery, search.errors)
    objects, embedder_is_unknown = _packed_objects(search)
    meta["search"] = {"version": _VERSION, "embedder_is_unknown": embedder_is_unknown}
    arrays["content_ends"] = np.cumsum([len(one) for one in contents], dtype=np.int64)
    blobs |= {
        "gallery": json.dumps(described).encode("ascii"),
        "contents": b"".join(contents),
        "objects": objects,
    }
    return write_snapshot(path, meta, arrays, blobs, replaces=replaces)


def read_search(
    path: str | os.PathLike[str],
    *,
    embedder: ImageEmbedder | None,
    images_root: str | os.PathLike[str] | None,
    mmap: bool,
    rebuild: bool,
) -> tuple[Saved, str]:
    """Load a search; see :meth:`ImageSearch.load`.

    Parameters
    ----------
    path : str or Path
    embedder : ImageEmbedder or None
    images_root : str, Path or None
    mmap : bool
    rebuild : bool

    Returns
    -------
    search : Saved
    generation : str
        Of the save that has written it.
    """
    snapshot = read_snapshot(path, mmap={"vectors"} if mmap else (), spared=GRAPH_ARRAYS)
    place = os.fspath(path)
    _check_is_search(snapshot, place)
    index = index_from(snapshot, rebuild=rebuild)
    if embedder is not None:
        index.check_embedder(embedder)  # before anything else is read
    try:
        gallery, errors = _read_gallery(snapshot, images_root)
        rows = np.array(list(index), np.int64)
        _check_ids(rows, len(gallery))
        objects = unpack(snapshot.blobs["objects"])
        rerank, expansion = objects["rerank"], objects["expansion"]
        _check_objects(objects)
        reranker = None
        if rerank is not None:
            reranker = restored(rerank, ChosenImages(gallery, rows), objects["features"])
    except _WRONG as error:
        raise CorruptIndexError(
            f"{place!r} is damaged: the parts of the search do not fit together "
            f"({type(error).__name__}: {error}). Take a copy of it, or make it anew"
        ) from error
    embedder = embedder or objects["embedder"]
    if embedder is None:
        raise ValueError(_UNKNOWN.format(place, snapshot.meta["search"]["embedder_is_unknown"]))
    return (
        Saved(embedder, index, gallery, errors, rerank, expansion, reranker),
        snapshot.generation,
    )


_UNKNOWN = (
    "the search in {!r} was saved without its embedder, because {}; make the embedder as it was "
    "and pass it: ImageSearch.load(path, embedder=embedder)"
)


# Writing.


def _packed_objects(search: Saved) -> tuple[bytes, str | None]:
    """Embedder, reranker and the like, and why the embedder is not among them."""
    reranker = search.reranker
    objects = {
        "embedder": search.embedder,
        "rerank": search.rerank,
        "expansion": search.expansion,
        "features": None if reranker is None else packed_features(reranker),
    }
    try:
        return pack(objects), None
    except UnknownClassError as error:
        return pack(objects | {"embedder": None}), str(error)


def _described_gallery(
    gallery: Gallery, errors: Mapping[int, ImageReadError]
) -> tuple[dict[str, Any], list[bytes]]:
    """The gallery as JSON, and the content of images that are in memory."""
    root = gallery.root
    contents: list[bytes] = []
    places: list[str | int | None] = []
    for i, image in enumerate(gallery):
        path = absolute_path(image)
        if path is not None:
            places.append(path if root is None else os.path.relpath(path, root))
        elif image is None or i in errors:
            places.append(None)
        else:
            places.append(len(contents))
            contents.append(_content(image))
    described = {
        "root": None if root is None else str(root),
        "images": places,
        "removed": sorted(gallery.removed),
        "errors": [[int(i), error.source, error.reason] for i, error in errors.items()],
    }
    return described, contents


def _content(image: object) -> bytes:
    """An image in memory as bytes that give the same pixels."""
    if isinstance(image, Mapping):
        image = image["bytes"]
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    encoded = io.BytesIO()
    # It was read before, by an embedder whose limit let it pass.
    Image.fromarray(read_image(image, max_pixels=sys.maxsize)).save(encoded, "PNG")
    return encoded.getvalue()


# Reading.


def _check_is_search(snapshot: Snapshot, place: str) -> None:
    told = snapshot.meta.get("search")
    if told is None:
        raise ValueError(
            f"{place!r} holds an index without images: NearestNeighborIndex.load reads it"
        )
    version = told.get("version") if isinstance(told, dict) else None
    if version != _VERSION:
        raise ValueError(
            f"the search in {place!r} was written by a newer imgembed (format {version!r}; this "
            f"one reads {_VERSION}): update imgembed"
        )


def _read_gallery(
    snapshot: Snapshot, images_root: str | os.PathLike[str] | None
) -> tuple[Gallery, dict[int, ImageReadError]]:
    described = json.loads(snapshot.blobs["gallery"])
    root = described["root"] if images_root is None else os.path.abspath(images_root)
    contents = list(_split(snapshot.blobs["contents"], snapshot.arrays["content_ends"]))
    images = [_image(place, root, contents) for place in described["images"]]
    removed = frozenset(map(int, described["removed"]))
    errors = {
        int(i): ImageReadError(str(source), str(reason), int(i))
        for i, source, reason in described["errors"]
    }
    return Gallery([images], removed, [] if root is None else [root]), errors


def _split(contents: bytes, ends: NDArray[np.int64]) -> Iterator[bytes]:
    start = 0
    for end in ends.tolist():
        if not start <= end <= len(contents):
            raise ValueError("an image lies outside of the contents")
        yield contents[start:end]
        start = end


def _image(place: Any, root: str | None, contents: list[bytes]) -> Path | bytes | None:
    if isinstance(place, str):
        return Path(place) if root is None else Path(root, place)
    return None if place is None else contents[place]


def _check_ids(rows: NDArray[np.int64], n_images: int) -> None:
    if len(rows) and (rows[0] < 0 or rows[-1] >= n_images or (np.diff(rows) <= 0).any()):
        raise ValueError(f"the ids in the index are not those of {n_images} images, in order")


def _check_objects(objects: Any) -> None:
    for name, kind in (
        ("embedder", ImageEmbedder),
        ("rerank", GeometricReranker),
        ("expansion", QueryExpansion),
    ):
        if not isinstance(objects[name], (kind, type(None))):
            raise EmbedderFileError(f"its {name} is a {type(objects[name]).__name__}")
