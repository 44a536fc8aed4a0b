"""imgembed report and imgembed app: an index as a page, and as a page to search on."""

from pathlib import Path

import click

import imgembed

from ._options import json_option, open_index, out_option, print_json


@click.command(short_help="Describe an index on one page.")
@click.argument("index", type=click.Path(path_type=Path))
@out_option("The HTML file; it needs nothing else.")
@click.option("--title", help="By default the name of INDEX.")
@json_option
def report(index: Path, out: Path, title: str | None, as_json: bool) -> None:
    """Describe INDEX on one page: sample searches, duplicates, a map, records."""
    opened = open_index(index)
    imgembed.pages.write_report(opened, out, title=title or index.resolve().name)
    if as_json:
        print_json({"index": str(index), "page": str(out), "n_bytes": out.stat().st_size})
    else:
        click.echo(f"page: {out}")


@click.command(short_help="Serve a page to search an index.")
@click.argument("index", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Others reach you by others.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
def app(index: Path, host: str, port: int) -> None:
    """Serve a page to search INDEX by image, words and records, until Ctrl-C."""
    imgembed.pages.run_app(open_index(index), host, port)
