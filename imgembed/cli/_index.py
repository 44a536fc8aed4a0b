"""imgembed index: embed a folder and save what a search needs."""

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import click

import imgembed

from ._options import embedder_option, is_index, json_option, out_option, plural, print_json
from ._records import read_records


@click.command(short_help="Keep a folder of images as an index.")
@click.argument("folder", type=click.Path(path_type=Path))
@out_option("Where the index goes.", folder=True)
@embedder_option("lite0")
@click.option(
    "--records",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="CSV",
    help="What is known of each image; a column 'path' or 'image', or the first, names its file.",
)
@click.option("--verify", is_flag=True, help="Keep local features too: searches verify their hits.")
@click.option("--replace", is_flag=True, help="Put the index in the place of one that is there.")
@json_option
def index(
    folder: Path,
    out: Path,
    embedder: str,
    records: Path | None,
    verify: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Embed the images of FOLDER and keep them as an index, for search, report and app."""
    _check_place(out, replace)
    images = images_of(folder)
    known = None if records is None else read_records(records, folder, images)
    reranker = imgembed.GeometricReranker() if verify else None
    search = imgembed.ImageSearch(imgembed.make_embedder(embedder), rerank=reranker)
    search.fit(images, records=known)
    _save(search, out)
    _report(search, embedder, out, as_json)


def images_of(folder: Path) -> list[Path]:
    """The images of a folder, at least one."""
    images = imgembed.list_images(folder)
    if not images:
        raise ValueError(f"there are no images in the folder {str(folder)!r}")
    return images


def _check_place(out: Path, replace: bool) -> None:
    """Refuse before the long work what could not be written after it."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not is_index(out):
        raise FileExistsError(f"{str(out)!r} is there and is no index; give another --out")
    if not replace:
        raise FileExistsError(
            f"there is an index in {str(out)!r}; give --replace to put the new one in its place"
        )


def _save(search: "imgembed.ImageSearch", out: Path) -> None:
    """Save so that nothing half-written is ever there."""
    if out.exists():  # the old index or the new one is there at any moment
        search.save(out)
        return
    beside = out.with_name(f".{out.name}.{secrets.token_hex(8)}")
    try:
        search.save(beside)
        os.rename(beside, out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _report(search: "imgembed.ImageSearch", embedder: str, out: Path, as_json: bool) -> None:
    n_read = len(search)
    if not as_json:
        click.echo(f"{out}: {plural(n_read, 'image')} by {embedder}")
        return
    document: dict[str, Any] = {
        "index": str(out),
        "embedder": embedder,
        "n_images": n_read,
        "unreadable": [
            {"image": str(search.images_[row]), "reason": error.reason}
            for row, error in search.errors_.items()
        ],
    }
    print_json(document)
