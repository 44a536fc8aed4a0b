"""What several commands share: options, JSON, files written whole, folders told apart."""

import json
import math
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

import imgembed

from ..methods import METHODS, check_method

Command = TypeVar("Command", bound=Callable[..., Any])

_NAMES = ", ".join(METHODS)
# What a saved search has in its folder.
_MARKS = ("MANIFEST.json", "LOCK")


def check_names(
    ctx: click.Context, param: click.Parameter, value: str | tuple[str, ...] | None
) -> str | tuple[str, ...] | None:
    """Refuse names that :func:`imgembed.make_embedder` does not know, without loading any."""
    for name in (value,) if isinstance(value, str) else value or ():
        try:
            check_method(name)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from error
    return value


def embedder_option(default: str | None, more: str = "") -> Callable[[Command], Command]:
    """The option ``--embedder NAME``.

    Parameters
    ----------
    default : str or None
    more : str, default=""
        What the help says beside the names.
    """
    told = f"{_NAMES}, or timm:MODEL. {more}".rstrip()
    return click.option(
        "--embedder",
        metavar="NAME",
        default=default,
        show_default=default is not None,
        callback=check_names,
        help=told,
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
"""The option ``--json``."""


def _existing_parent(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and not value.parent.is_dir():  # before the long work
        raise FileNotFoundError(f"there is no folder {str(value.parent)!r} for {value.name!r}")
    return value


def html_option(what: str) -> Callable[[Command], Command]:
    """The option ``--html FILE``, whose folder must be there.

    Parameters
    ----------
    what : str
        What is on the page.
    """
    return click.option(
        "--html",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        callback=_existing_parent,
        help=f"Also write a page with {what}.",
    )


def out_option(what: str, *, folder: bool = False) -> Callable[[Command], Command]:
    """The option ``--out``, whose parent must be there.

    Parameters
    ----------
    what : str
        What is written.
    folder : bool, default=False
        Whether it is a folder.
    """
    return click.option(
        "--out",
        type=click.Path(path_type=Path, dir_okay=folder, file_okay=not folder),
        required=True,
        metavar="FOLDER" if folder else "FILE",
        callback=_existing_parent,
        help=what,
    )


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document as JSON: numbers that are not finite as null, what it has not as text."""
    click.echo(json.dumps(_finite(document), allow_nan=False, default=str, indent=2))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that what was there or all of the new text is there at any moment."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def is_index(folder: Path) -> bool:
    """Whether a folder holds a saved search."""
    return all((folder / name).is_file() for name in _MARKS)


def open_index(folder: Path) -> "imgembed.ImageSearch":
    """Load a saved search, or say how to make one."""
    if not folder.is_dir() or not is_index(folder):
        raise FileNotFoundError(
            f"there is no index in {str(folder)!r}; make one: imgembed index FOLDER --out {folder}"
        )
    return imgembed.ImageSearch.load(folder)


def plural(n: int, noun: str) -> str:
    """A number and a noun, such as "1 image" or "2 images"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value
