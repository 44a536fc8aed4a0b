"""Duplicates: groups of images that are the same, as a table, a picture and a page."""

import html
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import plotting
from .._optional import import_optional
from ..images import ImageReadError

Rows = NDArray[np.int64]

# Groups that are shown where all would be too many; the table and the page have them all.
_SHOWN = 10


@dataclass(frozen=True)
class DuplicateImage:
    """An image of a group of duplicates.

    Parameters
    ----------
    group : int
        The number of its group, from 0.
    row : int
        Its row in the images that were searched.
    keep : bool
        Whether it is the one to keep of its group.
    likeness : {"itself", "identical", "same pixels", "similar"}
        What it is to the image that is kept; "identical" is the same bytes.
    distance : float
        Its cosine distance from the image that is kept.
    probability : float or None
        That chance would not bring any image as near (:class:`RandomPairCalibration`); None if
        the threshold was given.
    width, height : int
        Of the upright image, in pixels.
    n_bytes : int
        Size of the file; of an array or PIL image, of its pixels.
    reason : str
        Why it is kept or not: the rule that decided.

    Examples
    --------
    >>> from imgembed import DuplicateImage
    >>> DuplicateImage(0, 7, False, "similar", 0.04, None, 160, 120, 9000, "fewer pixels").keep
    False
    """

    group: int
    row: int
    keep: bool
    likeness: str
    distance: float
    probability: float | None
    width: int
    height: int
    n_bytes: int
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class Duplicates:
    """Groups of images that are the same or nearly so, and which to keep.

    A table, a picture, and thumbnails in a notebook. Nothing is deleted by it.

    Parameters
    ----------
    members : list of DuplicateImage
        Group by group; of each group first the image to keep, then the others, nearest first.
    images : sequence of n_images images
        Those that were searched.
    threshold : float
        The largest cosine distance of two images of a group.
    errors : dict of int to ImageReadError
        The rows that could not be read, and why.

    See Also
    --------
    find_duplicates : What makes it.

    Examples
    --------
    >>> from imgembed import DuplicateImage, Duplicates
    >>> members = [
    ...     DuplicateImage(0, 1, True, "itself", 0.0, None, 640, 480, 90_000, "most pixels"),
    ...     DuplicateImage(0, 0, False, "similar", 0.04, None, 160, 120, 9_000, "fewer pixels"),
    ... ]
    >>> duplicates = Duplicates(members, ["a.jpg", "b.jpg", "c.jpg"], threshold=0.1, errors={})
    >>> duplicates
    1 group of duplicates among 3 images, 1 to remove (9.0 kB); threshold 0.1
    group 0
      keep    b.jpg  640 x 480, 90.0 kB: most pixels
      remove  a.jpg  160 x 120, 9.0 kB, similar (0.0400): fewer pixels
    >>> duplicates.groups, duplicates.keep, duplicates.remove
    ([array([1, 0])], array([1]), array([0]))
    """

    members: list[DuplicateImage]
    images: Sequence[object]
    threshold: float
    errors: dict[int, ImageReadError]

    @property
    def groups(self) -> list[Rows]:
        """The rows of each group: first the image to keep, then the others, nearest first."""
        return [np.array([each.row for each in group]) for group in self._groups()]

    @property
    def keep(self) -> Rows:
        """The row to keep of each group."""
        return np.array([each.row for each in self.members if each.keep], dtype=np.int64)

    @property
    def remove(self) -> Rows:
        """The rows of all images that a group could do without, ascending."""
        rows = sorted(each.row for each in self.members if not each.keep)
        return np.array(rows, dtype=np.int64)

    @property
    def distances(self) -> list[NDArray[np.float64]]:
        """The cosine distances of each group from its image to keep, as ``groups`` has them."""
        return [np.array([each.distance for each in group]) for group in self._groups()]

    @property
    def n_bytes_to_remove(self) -> int:
        """What the images of ``remove`` take."""
        return sum(each.n_bytes for each in self.members if not each.keep)

    def __len__(self) -> int:
        return sum(each.keep for each in self.members)

    def __repr__(self) -> str:
        lines = [self.summary()]
        for number, found in zip(range(min(len(self), _SHOWN)), self.lines(), strict=False):
            lines += [f"group {number}", *found]
        if len(self) > _SHOWN:
            lines.append(f"... and {_counted(len(self) - _SHOWN, 'more group')}")
        return "\n".join(lines)

    def summary(self) -> str:
        """The result in one line: how many groups, how many images to remove, their size.

        Returns
        -------
        summary : str
        """
        threshold = f"threshold {self.threshold:.4g}"
        among = f"among {_counted(len(self.images), 'image')}"
        if not self.members:
            return f"No duplicates {among}; {threshold}"
        freed = _size(self.n_bytes_to_remove)
        return (
            f"{_counted(len(self), 'group')} of duplicates {among}, {len(self.remove)} to remove "
            f"({freed}); {threshold}"
        )

    def lines(self) -> Iterator[list[str]]:
        """The groups as text: of each group a list with a line an image.

        Yields
        ------
        lines : list of str
            Whether to keep it, its path or row, size, likeness, and the reason.
        """
        for group in self._groups():
            names = [self._name(each) for each in group]
            width = max(map(len, names))
            yield [
                f"  {'keep  ' if each.keep else 'remove'}  {name:{width}}  {_described(each)}"
                for name, each in zip(names, group, strict=True)
            ]

    def to_pandas(self) -> Any:
        """The groups as a table with a row an image.

        Returns
        -------
        table : pandas.DataFrame
            Columns as the parameters of :class:`DuplicateImage`, and image (its path, where the
            images are paths).

        Raises
        ------
        ImportError
            If pandas is not installed (extra ``pandas``).
        """
        pandas = import_optional("pandas", extra="pandas", needed_by="Duplicates.to_pandas")
        columns = [each.name for each in fields(DuplicateImage)]
        table = pandas.DataFrame([asdict(each) for each in self.members], columns=columns)
        if self.images and isinstance(self.images[0], (str, os.PathLike)):
            table["image"] = [self._name(each) for each in self.members]
        return table

    def plot(self, n_groups: int = 10) -> Any:
        """Draw the groups as a contact sheet.

        Parameters
        ----------
        n_groups : int, default=10
            How many groups to draw, from the first.

        Returns
        -------
        axes : ndarray of shape (n_lines, n_columns) of matplotlib Axes

        Raises
        ------
        ValueError
            If there are no groups.
        ImportError
            If matplotlib is not installed (extra ``plot``).
        """
        if not self.members:
            raise ValueError("there are no duplicates to draw")
        return plotting.plot_contact_sheet(**self._sheet(), max_groups=n_groups)

    def to_html(self, title: str = "Duplicates") -> str:
        """One self-contained page with all groups, thumbnails inside.

        Parameters
        ----------
        title : str, default="Duplicates"
            The title of the page.

        Returns
        -------
        page : str
            HTML; all text in it is escaped.
        """
        return plotting.html_page(title, self._html(len(self)))

    def _repr_html_(self) -> str:
        return self._html(min(len(self), _SHOWN))

    def _html(self, n_groups: int) -> str:
        summary = html.escape(self.summary())
        if not self.members:
            return f"<p>{summary}</p>"
        sheet = plotting.html_contact_sheet(**self._sheet(), max_groups=n_groups)
        return f"<p>{summary}</p>{sheet}"

    def _sheet(self) -> dict[str, Any]:
        """The contact sheet of the members alone, whose rows are their places."""
        starts = np.cumsum([len(group) for group in self._groups()])[:-1]
        return {
            "groups": np.split(np.arange(len(self.members)), starts),
            "images": [self.images[each.row] for each in self.members],
            "keep": [place for place, each in enumerate(self.members) if each.keep],
            "captions": [self._caption(each) for each in self.members],
        }

    def _caption(self, member: DuplicateImage) -> str:
        described = _described(member).replace(": ", "\n")
        return f"{plotting.image_name(self.images[member.row])}\n{described}"

    def _groups(self) -> list[list[DuplicateImage]]:
        return [list(group) for _, group in groupby(self.members, key=lambda each: each.group)]

    def _name(self, member: DuplicateImage) -> str:
        image = self.images[member.row]
        return os.fsdecode(image) if isinstance(image, (str, os.PathLike)) else f"row {member.row}"


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _described(member: DuplicateImage) -> str:
    size = f"{member.width} x {member.height}, {_size(member.n_bytes)}"
    if member.keep:
        return f"{size}: {member.reason}"
    near = f" ({member.distance:.4f})" if member.likeness == "similar" else ""
    return f"{size}, {member.likeness}{near}: {member.reason}"


def _size(n_bytes: int) -> str:
    """Bytes in the unit that a reader wants; a kB is 1,000 of them."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"
