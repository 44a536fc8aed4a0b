"""imgembed compare: which method is right for these images."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import imgembed

from ._index import images_of
from ._options import check_names, html_option, json_option, print_json, write_whole
from ._records import labels_of_folders, read_labels

# Those that need neither a network nor a special build.
_METHODS = ("lite0", "sift", "sift-vlad", "orb", "akaze", "hog")


@click.command(short_help="Compare methods on your images.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--method",
    "methods",
    metavar="NAME",
    multiple=True,
    callback=check_names,
    default=_METHODS,
    show_default=True,
    help="Once for each method to compare; names as for imgembed index --embedder.",
)
@click.option(
    "--labels",
    metavar="folders|CSV",
    help="What images show: their subfolders, or the column 'label' of a CSV file. Without, images "
    "are sought by changed copies of them.",
)
@click.option("--measure", default="mean_average_precision", show_default=True)
@click.option("--n-copied", type=click.IntRange(min=1), default=100, show_default=True)
@html_option("the table")
@json_option
def compare(
    folder: Path,
    methods: tuple[str, ...],
    labels: str | None,
    measure: str,
    n_copied: int,
    html: Path | None,
    as_json: bool,
) -> None:
    """Compare methods on the images of FOLDER: quality, speed, memory, weaknesses."""
    images = images_of(folder)
    comparison = imgembed.compare_embedders(
        {name: imgembed.make_embedder(name) for name in methods},
        images,
        _labels(labels, folder, images),
        measure=measure,
        n_copied=n_copied,
    )
    if html is not None:
        write_whole(html, comparison.to_html(f"Methods compared on {folder}"))
    if as_json:
        print_json({"folder": os.fspath(folder), **_document(comparison)})
        return
    click.echo(repr(comparison))
    if html is not None:
        click.echo(f"page: {html}")


def _labels(given: str | None, folder: Path, images: list[Path]) -> list[str | None] | None:
    if given is None:
        return None
    if given == "folders":
        return labels_of_folders(folder, images)
    return read_labels(Path(given), folder, images)


def _document(comparison: "imgembed.Comparison") -> dict[str, Any]:
    return {
        "measure": comparison.measure,
        "by_labels": comparison.by_labels,
        "n_images": comparison.n_images,
        "n_queries": comparison.n_queries,
        "seconds": comparison.seconds,
        "methods": [_row(row) for row in comparison.rows],
    }


def _row(row: "imgembed.ComparedEmbedder") -> dict[str, Any]:
    shown = asdict(row)
    del shown["per_query"]
    return shown
