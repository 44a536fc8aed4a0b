"""imgembed duplicates: which images of a folder are the same, and which to keep."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import imgembed

from ._options import embedder_option, html_option, json_option, print_json, write_whole


@click.command(short_help="Find images that are the same.")
@click.argument("folder", type=click.Path(path_type=Path))
@embedder_option(None, "By default a coarse HOG, which tells copies best.")
@click.option(
    "--threshold",
    type=float,
    help="The largest cosine distance of two copies; learned from the images by default.",
)
@html_option("the groups")
@json_option
def duplicates(
    folder: Path, embedder: str | None, threshold: float | None, html: Path | None, as_json: bool
) -> None:
    """Group the images of FOLDER that are the same or nearly so. Nothing is deleted."""
    made = None if embedder is None else imgembed.make_embedder(embedder)
    found = imgembed.find_duplicates(folder, made, threshold=threshold)
    if html is not None:
        write_whole(html, found.to_html(f"Duplicates in {folder}"))
    if as_json:
        print_json({"folder": os.fspath(folder), **_document(found)})
        return
    click.echo(found.summary())
    for number, lines in enumerate(found.lines()):
        click.echo("\n".join([f"group {number}", *lines]))
    if html is not None:
        click.echo(f"page: {html}")


def _document(found: "imgembed.Duplicates") -> dict[str, Any]:
    return {
        "n_images": len(found.images),
        "threshold": found.threshold,
        "groups": [
            [_member(found, each) for each in found.members if each.group == number]
            for number in range(len(found))
        ],
        "unreadable": [
            {"image": str(found.images[row]), "reason": error.reason}
            for row, error in found.errors.items()
        ],
    }


def _member(found: "imgembed.Duplicates", member: "imgembed.DuplicateImage") -> dict[str, Any]:
    return {"image": str(found.images[member.row]), **asdict(member)}
