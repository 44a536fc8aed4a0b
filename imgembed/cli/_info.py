"""imgembed info: what is in an index, or in a folder of images."""

from collections import Counter
from pathlib import Path
from typing import Any

import click

from ._index import images_of
from ._options import is_index, json_option, open_index, print_json


@click.command(short_help="Say what is in an index or a folder.")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def info(folder: Path, as_json: bool) -> None:
    """Say what is in FOLDER, an index or a folder of images."""
    facts = _of_index(folder) if folder.is_dir() and is_index(folder) else _of_images(folder)
    if as_json:
        print_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name:{width}}  {_text(value)}")


def _of_index(folder: Path) -> dict[str, Any]:
    search = open_index(folder)
    index = search.index_
    recall = index.recall_estimate_
    return {
        "index": str(folder),
        "images": len(search),
        "images_root": None if search.images_root_ is None else str(search.images_root_),
        "unreadable": len(search.errors_),
        "embedder": repr(search.embedder_),
        "fingerprint": search.fingerprint_,
        "features": index.n_features_in_,
        "metric": index.metric,
        "algorithm": index.algorithm_,
        "recall": recall.recall,
        "recall_queries": recall.n_queries,  # 0: all vectors are compared
        "storage": index.storage,
        "verifies": search.reranker_ is not None,
        "columns": dict(index.columns_),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def _of_images(folder: Path) -> dict[str, Any]:
    images = images_of(folder)
    suffixes = Counter(image.suffix.lower() for image in images)
    return {
        "folder": str(folder),
        "images": len(images),
        "formats": dict(suffixes.most_common()),
        "subfolders": len({image.parent for image in images} - {folder}),
        "bytes": sum(image.stat().st_size for image in images),
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} ({each})" for name, each in value.items()) or "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,}"
    return " ".join(str(value).split())
