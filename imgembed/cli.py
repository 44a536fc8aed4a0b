"""The command line: thin, calls the public API only."""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .base import ImageEmbedder
from .classical import AKAZEEmbedder, HOGEmbedder, ORBEmbedder, SIFTEmbedder
from .deep import CNNEmbedder, ViTEmbedder
from .demo import run_demo
from .images import ImageReadWarning
from .rerank import GeometricReranker
from .search import ImageSearch

EMBEDDERS: dict[str, Callable[[], ImageEmbedder]] = {
    "lite0": lambda: CNNEmbedder("tf_efficientnet_lite0", weights="bundled"),
    "cnn": CNNEmbedder,
    "vit": ViTEmbedder,
    "sift": lambda: SIFTEmbedder(random_state=0),
    "orb": lambda: ORBEmbedder(random_state=0),
    "akaze": lambda: AKAZEEmbedder(random_state=0),
    "hog": HOGEmbedder,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Without the name of the program; by default those of the process.

    Returns
    -------
    status : int
        0 if all went well, 1 after an error, 2 for wrong arguments, 130 when interrupted.
    """
    parsed = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("default", ImageReadWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            parsed.run(parsed)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            print(f"imgembed: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("imgembed: interrupted", file=sys.stderr)
            return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Wrong arguments get one line, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"imgembed: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="imgembed", description="Search images by image.")
    parser.add_argument("--version", action="version", version=f"imgembed {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="find changed copies of real photographs, offline")
    demo.add_argument(
        "--output", type=Path, default=Path("imgembed-demo"), help="folder for the pictures"
    )
    demo.set_defaults(run=lambda parsed: run_demo(parsed.output))
    search = commands.add_parser("search", help="search a folder of images by image")
    search.add_argument("gallery", type=Path, metavar="GALLERY", help="folder with images")
    search.add_argument("queries", type=Path, nargs="+", metavar="QUERY", help="image file")
    search.add_argument(
        "--embedder",
        default="lite0",
        choices=EMBEDDERS,
        metavar="NAME",
        help="lite0: EfficientNet-Lite0, works offline (default); cnn: ResNet-50; "
        "vit: ViT-B/16; sift, orb, akaze: visual words of these; hog: histograms of gradients",
    )
    search.add_argument("--n-neighbors", type=_count, default=5, metavar="K", help="default 5")
    search.add_argument(
        "--verify",
        action="store_true",
        help="put the hits first whose SIFT features fit the query by one homography",
    )
    search.add_argument("--html", type=Path, metavar="FILE", help="also write a page with pictures")
    search.set_defaults(run=_search)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _search(parsed: Any) -> None:
    if parsed.html is not None and not parsed.html.parent.is_dir():  # before the long work
        raise FileNotFoundError(f"there is no folder {str(parsed.html.parent)!r} for the page")
    for query in parsed.queries:
        if not query.is_file():
            raise FileNotFoundError(f"there is no image file {str(query)!r}")
    rerank = GeometricReranker() if parsed.verify else None
    search = ImageSearch(EMBEDDERS[parsed.embedder](), rerank=rerank).fit(parsed.gallery)
    result = search.search(parsed.queries, parsed.n_neighbors)
    for query, found in zip(parsed.queries, result.lines(), strict=True):
        print(query, *found, sep="\n")
    if parsed.html is not None:
        page = result.to_html(f"{parsed.gallery} by {parsed.embedder}")
        parsed.html.write_text(page, encoding="utf-8")
        print(f"page: {parsed.html}")


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"imgembed: warning: {' '.join(str(message).split())}", file=sys.stderr)
