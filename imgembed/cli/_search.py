"""imgembed search: find images by image or by words, in a folder or an index."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import imgembed

from ._options import (
    embedder_option,
    html_option,
    is_index,
    json_option,
    open_index,
    print_json,
    write_whole,
)

_EMBEDDER = "lite0"


@click.command(short_help="Search an index, or a folder, by image or words.")
@click.argument("gallery", type=click.Path(path_type=Path))
@click.argument("queries", type=click.Path(path_type=Path), nargs=-1, metavar="[QUERY]...")
@click.option("--text", "texts", multiple=True, help="Search by words (embedder clip).")
@click.option("--n-neighbors", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--where", help='A condition on the records, such as "price < 50".')
@embedder_option(None, f"For a folder of images; {_EMBEDDER} by default.")
@click.option("--verify", is_flag=True, help="Put the hits first whose SIFT features fit.")
@html_option("the hits")
@json_option
def search(
    gallery: Path,
    queries: tuple[Path, ...],
    texts: tuple[str, ...],
    n_neighbors: int,
    where: str | None,
    embedder: str | None,
    verify: bool,
    html: Path | None,
    as_json: bool,
) -> None:
    """Find the images of GALLERY that are nearest to each QUERY.

    GALLERY is an index or a folder of images, QUERY an image file.
    """
    _check_queries(queries, texts)
    opened = _opened(gallery, embedder, verify)
    if texts:
        result = opened.search(text=list(texts), n_neighbors=n_neighbors, where=where)
    else:
        result = opened.search(list(queries), n_neighbors, where=where)
    if html is not None:
        write_whole(html, result.to_html(f"Search in {gallery}"))
    if as_json:
        print_json(
            {"gallery": str(gallery), "page": html and str(html), "queries": _document(result)}
        )
        return
    for query, found in zip(texts or queries, result.lines(), strict=True):
        click.echo("\n".join([str(query), *found]))
    if html is not None:
        click.echo(f"page: {html}")


def _check_queries(queries: tuple[Path, ...], texts: tuple[str, ...]) -> None:
    if bool(queries) == bool(texts):
        raise click.UsageError(
            "give queries: image files, or --text, and not both", click.get_current_context()
        )
    for query in queries:
        if not query.is_file():
            raise FileNotFoundError(f"there is no image file {str(query)!r}")


def _opened(gallery: Path, embedder: str | None, verify: bool) -> "imgembed.ImageSearch":
    if gallery.is_dir() and is_index(gallery):
        return _opened_index(gallery, embedder, verify)
    reranker = imgembed.GeometricReranker() if verify else None
    made = imgembed.make_embedder(embedder or _EMBEDDER)
    return imgembed.ImageSearch(made, rerank=reranker).fit(gallery)


def _opened_index(gallery: Path, embedder: str | None, verify: bool) -> "imgembed.ImageSearch":
    if embedder is not None:
        raise ValueError(
            f"{str(gallery)!r} is an index, which has its embedder: leave --embedder out"
        )
    opened = open_index(gallery)
    if verify and opened.reranker_ is None:
        raise ValueError(
            f"the index {str(gallery)!r} has no local features to verify hits by: make it with "
            "imgembed index --verify"
        )
    return opened


def _document(result: "imgembed.SearchResult") -> list[dict[str, Any]]:
    return [
        {"query": str(query), "hits": list(_hits(result, q))}
        for q, query in enumerate(result.queries)
    ]


def _hits(result: "imgembed.SearchResult", q: int) -> Iterator[dict[str, Any]]:
    """The hits of one query; places that the gallery could not fill are left out."""
    found = [int(item) for item in result.ids[q] if item >= 0]
    for place, (item, record) in enumerate(zip(found, result.records[q], strict=True)):
        hit = {
            "rank": place + 1,
            "id": item,
            "image": str(result.images[item]),
            "distance": float(result.distances[q, place]),
            "record": record,
        }
        if result.n_inliers is not None:
            hit["n_inliers"] = max(0, int(result.n_inliers[q, place]))
        yield hit
