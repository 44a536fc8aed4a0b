"""The demonstration: find scikit-image's photographs again after they were changed."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._optional import import_optional
from .base import ImageEmbedder
from .classical import SIFTEmbedder
from .deep import CNNEmbedder
from .images import read_image
from .search import ImageSearch, SearchResult

# Photographs inside the scikit-image package that are in the public domain or under CC0, as
# the documentation of skimage.data says, so that pictures of the demonstration may be shown.
_PHOTOGRAPHS = (
    "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png grass.png"
    " gravel.png hubble_deep_field.jpg microaneurysms.png retina.jpg rocket.jpg text.png"
).split()
# Those that the picture shows as queries.
_PICTURED = ("astronaut", "camera", "chelsea", "coffee")
_SHOWN_QUERIES = 6
_N_HITS = 3


def run_demo(output: Path, n_photographs: int = len(_PHOTOGRAPHS)) -> None:
    """Search photographs by changed copies of them, with two methods, and print how it went.

    Parameters
    ----------
    output : Path
        The folder for the queries, the result grids (PNG) and the pages (HTML).
    n_photographs : int, default=14
        How many photographs are searched, 4 to 14.

    Raises
    ------
    ImportError
        If scikit-image, matplotlib or the bundled weights are missing (extra ``demo``).
    """
    gallery = _some_of(gallery_paths(), n_photographs)
    queries = write_queries(gallery, output / "queries")
    print(f"{len(gallery)} photographs of scikit-image, {len(queries)} changed copies as queries.")
    table = {}
    for name, embedder in _methods().items():
        search = ImageSearch(embedder).fit(gallery)
        result = search.search(queries, n_neighbors=_N_HITS)
        print(f"\n{name}: the first hits of {_SHOWN_QUERIES} queries, and all that failed")
        _print_hits(result)
        table[name] = _count_found(result)
        _write_pictures(result, name, output)
    print("\nHow often the right photograph came first:")
    _print_table(table, len(gallery))
    print(f"\nResult grids (PNG) and pages (HTML) are in {output.resolve()}")
    print(f"Try: imgembed search FOLDER {queries[0]} --html result.html")


def gallery_paths() -> list[Path]:
    """The photographs that are installed with scikit-image.

    Returns
    -------
    paths : list of Path

    Raises
    ------
    ImportError
        If scikit-image is not installed (extra ``demo``).
    """
    skimage = import_optional("skimage", extra="demo", needed_by="imgembed demo")
    return [Path(skimage.data_dir) / name for name in _PHOTOGRAPHS]


def write_queries(gallery: list[Path], folder: Path) -> list[Path]:
    """Write changed copies of the photographs as JPEG files.

    Parameters
    ----------
    gallery : list of Path
        The photographs.
    folder : Path
        Where to write; it is made if it is not there.

    Returns
    -------
    paths : list of Path
        Named ``photograph--change.jpg``; all changes of one photograph, then of the next.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for path in gallery:
        picture = Image.fromarray(read_image(path))
        for change, apply in CHANGES.items():
            paths.append(folder / f"{path.stem}--{change}.jpg")
            apply(picture).save(paths[-1], quality=90)
    return paths


def _some_of(gallery: list[Path], n_photographs: int) -> list[Path]:
    """So many photographs, with those that the picture shows."""
    others = [path for path in gallery if path.stem not in _PICTURED]
    left_out = set(others[n_photographs - len(_PICTURED) :])
    return [path for path in gallery if path not in left_out]


def _cropped(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((width // 8, height // 8, width - width // 6, height - height // 6))


def _rotated(picture: Image.Image) -> Image.Image:
    return picture.rotate(15, Image.Resampling.BICUBIC, expand=True, fillcolor="white")


def _resized(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width * 2 // 5, picture.height * 2 // 5))


def _recompressed(picture: Image.Image) -> Image.Image:
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=10)
    return Image.fromarray(read_image(jpeg.getvalue()))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cropped": _cropped,
    "rotated": _rotated,
    "resized": _resized,
    "recompressed": _recompressed,
}


def _methods() -> dict[str, ImageEmbedder]:
    return {
        "CNN": CNNEmbedder("tf_efficientnet_lite0", weights="bundled", progress=True),
        "SIFT": SIFTEmbedder(n_words=1000, random_state=0, progress=True),
    }


def _query_name(query: Path) -> tuple[str, str]:
    photograph, _, change = query.stem.rpartition("--")
    return photograph, change


def _found(result: SearchResult) -> NDArray[np.bool_]:
    """Whether the first hit of each query is the photograph that it was made from."""
    first = [Path(str(result.images[int(i)])).stem for i in result.ids[:, 0]]
    return np.array([_query_name(q)[0] == f for q, f in zip(result.queries, first, strict=True)])


def _print_hits(result: SearchResult) -> None:
    found = _found(result)
    shown = np.linspace(0, len(found) - 1, _SHOWN_QUERIES).astype(int)
    for q, query in enumerate(result.queries):
        if q in shown or not found[q]:
            hits = ", ".join(
                f"{Path(str(result.images[int(i)])).stem} {distance:.3f}"
                for i, distance in zip(result.ids[q], result.distances[q], strict=True)
            )
            print(f"  {'found ' if found[q] else 'MISSED'}  {query.stem:32} -> {hits}")


def _count_found(result: SearchResult) -> dict[str, int]:
    found = _found(result)
    changes = np.array([_query_name(query)[1] for query in result.queries])
    return {change: int(found[changes == change].sum()) for change in CHANGES}


def _print_table(table: dict[str, dict[str, int]], n_photographs: int) -> None:
    print("        " + "".join(f"{change:>14}" for change in CHANGES) + f"{'all':>14}")
    for name, counts in table.items():
        cells = [f"{n}/{n_photographs}" for n in counts.values()]
        cells.append(f"{sum(counts.values())}/{n_photographs * len(CHANGES)}")
        print(f"{name:8}" + "".join(f"{cell:>14}" for cell in cells))


def _write_pictures(result: SearchResult, name: str, output: Path) -> None:
    pyplot = import_optional("matplotlib.pyplot", extra="demo", needed_by="imgembed demo")
    names = [_query_name(query) for query in result.queries]
    # One query of each, each changed in another way.
    chosen = [names.index(pair) for pair in zip(_PICTURED, CHANGES, strict=True)]
    some = SearchResult(
        [result.queries[q] for q in chosen],
        result.ids[chosen],
        result.distances[chosen],
        result.images,
    )
    figure = some.plot()[0, 0].figure
    figure.savefig(output / f"{name.lower()}.png", dpi=120)
    pyplot.close(figure)
    page = result.to_html(f"imgembed demo: {name}")
    (output / f"{name.lower()}.html").write_text(page, encoding="utf-8")
