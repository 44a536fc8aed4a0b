"""How well find_duplicates finds changed copies, and what else it takes for copies.

    python benchmarks/duplicates.py [--images ../shared/data] [--methods default lite0 sift]

The collections: corel1k with one changed copy of 60 of its photographs, for each of eight changes;
corel1k with all these copies at once; covers of DVDs with photographs that four telephones took
of them, which are no copies; artwork of covers and bottles with one changed copy of each cover.
Prints, for each, the threshold that was learned or taken, the share of pairs in the found groups
that are copies of one image (precision), and of the pairs of copies that are in one group
(recall).
"""

import argparse
import csv
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from imgembed import Duplicates, ImageEmbedder, find_duplicates, make_embedder
from imgembed.demo import CHANGES, write_queries

Pairs = set[tuple[int, int]]


@dataclass(frozen=True)
class Collection:
    """Images, and of each what it shows: copies of one image show the same."""

    name: str
    paths: list[Path]
    shown: list[str]


def main() -> None:
    """Measure every method on every collection."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"))
    parser.add_argument("--methods", nargs="+", default=["default", "hog", "sift", "lite0"])
    parser.add_argument("--threshold", type=float, help="in place of the one that is learned")
    given = parser.parse_args()
    print(
        f"{'method':10}{'collection':24}{'images':>7}{'threshold':>11}{'groups':>8}"
        f"{'precision':>11}{'recall':>8}{'false':>7}"
    )
    for method in given.methods:
        with tempfile.TemporaryDirectory() as cache:  # the same images come again and again
            embedder = None
            if method != "default":
                embedder = make_embedder(method).set_params(progress=False, cache=cache)
            for collection in collections(given.images, Path(cache)):
                measure(method, embedder, collection, given.threshold)


def collections(images: Path, folder: Path) -> Iterator[Collection]:
    """The collections, from the image sets in a folder; copies are written to another."""
    photographs = sorted((images / "corel1k" / "images").rglob("*.jpg"))
    names = [f"c{path.stem}" for path in photographs]  # as copies_corel calls them
    copies = read_groups(images / "copies_corel")
    changes = [c for c in dict.fromkeys(row["transform"] for row in copies) if c != "original"]
    for change in changes:
        some = [row for row in copies if row["transform"] == change]
        yield with_copies(f"corel1k + {change}", photographs, names, some)
    changed = [row for row in copies if row["transform"] != "original"]
    yield with_copies("corel1k + all changes", photographs, names, changed)
    covers = read_groups(images / "smvs_dvd")
    yield with_copies("smvs_dvd", [], [], covers)
    yield from labels_and_covers(images, folder / "copies")


def labels_and_covers(images: Path, folder: Path) -> Iterator[Collection]:
    """Artwork of covers and bottles, with the covers changed as the demonstration changes them."""
    covers = sorted((images / "smvs_dvd" / "images" / "reference").glob("*.jpg"))
    bottles = sorted((images / "beer_labels" / "images" / "database").glob("*.jpg"))
    copies = write_queries(covers, folder)
    for change in CHANGES:
        some = [path for path in copies if path.stem.endswith(f"--{change}")]
        shown = [path.stem.partition("--")[0] for path in [*covers, *bottles, *some]]
        yield Collection(f"artwork + {change}", [*covers, *bottles, *some], shown)


def read_groups(folder: Path) -> list[dict[str, str]]:
    """The rows of a set's groups.csv, with paths that can be opened."""
    with open(folder / "groups.csv", newline="") as lines:
        return [{**row, "path": str(folder / row["path"])} for row in csv.DictReader(lines)]


def with_copies(
    name: str, photographs: Sequence[Path], shown: Sequence[str], rows: Iterable[dict[str, str]]
) -> Collection:
    """Photographs and copies in one collection."""
    rows = list(rows)
    paths = [*photographs, *(Path(row["path"]) for row in rows)]
    return Collection(name, paths, [*shown, *(row["group"] for row in rows)])


def measure(
    method: str, embedder: ImageEmbedder | None, collection: Collection, threshold: float | None
) -> None:
    """Find the duplicates of a collection, and print how right the groups are."""
    found = find_duplicates(collection.paths, embedder, threshold=threshold)
    pairs, truth = found_pairs(found), true_pairs(collection.shown)
    right = len(pairs & truth)
    print(
        f"{method:10}{collection.name:24}{len(collection.paths):7}{found.threshold:11.4f}"
        f"{len(found):8}{right / max(len(pairs), 1):11.3f}{right / len(truth):8.3f}"
        f"{len(pairs) - right:7}",
        flush=True,
    )


def found_pairs(found: Duplicates) -> Pairs:
    """All pairs of rows that are in one group."""
    return {pair for group in found.groups for pair in combinations(sorted(group.tolist()), 2)}


def true_pairs(shown: list[str]) -> Pairs:
    """All pairs of rows that show the same."""
    rows: dict[str, list[int]] = {}
    for row, what in enumerate(shown):
        rows.setdefault(what, []).append(row)
    return {pair for group in rows.values() for pair in combinations(group, 2)}


if __name__ == "__main__":
    main()
