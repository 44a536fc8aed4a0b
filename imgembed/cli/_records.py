"""Tables of records and labels, as CSV files whose rows belong to images of a folder."""

import csv
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, str]

# Columns that name the file; else the first one does.
_PATH_COLUMNS = ("path", "image")
# Columns that hold the label; else the only other one does.
_LABEL_COLUMNS = ("label", "group")


def read_records(table: Path, folder: Path, images: Sequence[Path]) -> list[dict[str, Any]]:
    """What a CSV file knows of each image of a folder.

    Parameters
    ----------
    table : Path
        The first line names the columns. The column ``path`` or ``image``, or else the first
        one, holds the file relative to the folder. A column of numbers becomes numbers; an empty
        cell becomes None.
    folder : Path
    images : sequence of n_images Path
        The images of the folder.

    Returns
    -------
    records : list of n_images dict

    Raises
    ------
    ValueError
        If the table is none, names an image twice, or none of the images.

    Warns
    -----
    UserWarning
        If images have no row, or rows no image.
    """
    rows = _rows_of_images(table, folder, images)
    columns = list(next(iter(rows.values())))
    numbers = {column: _kind([row[column] for row in rows.values()]) for column in columns}
    empty = dict.fromkeys(columns, "")
    return [
        {c: numbers[c](text) if text else None for c, text in rows.get(image, empty).items()}
        for image in images
    ]


def read_labels(table: Path, folder: Path, images: Sequence[Path]) -> list[str | None]:
    """The label of each image of a folder, from a CSV file.

    Parameters
    ----------
    table : Path
        As for :func:`read_records`, with the column ``label`` or ``group``, or one other column.
    folder : Path
    images : sequence of n_images Path

    Returns
    -------
    labels : list of n_images str or None
        None where there is no row, or an empty cell.

    Raises
    ------
    ValueError
        As :func:`read_records`, or if no column holds the labels.
    """
    rows = _rows_of_images(table, folder, images)
    column = _label_column(table, list(next(iter(rows.values()))))
    return [rows.get(image, {}).get(column) or None for image in images]


def labels_of_folders(folder: Path, images: Sequence[Path]) -> list[str | None]:
    """The first subfolder of each image, None for images that lie in none.

    Raises
    ------
    ValueError
        If no image lies in a subfolder.
    """
    parts = [image.relative_to(folder).parts for image in images]
    labels = [each[0] if len(each) > 1 else None for each in parts]
    if not any(labels):
        raise ValueError(
            f"the images in {str(folder)!r} lie in no subfolders that could be their labels; give "
            "a CSV file: --labels FILE"
        )
    return labels


def _rows_of_images(table: Path, folder: Path, images: Sequence[Path]) -> dict[Path, Row]:
    """The row of each image that has one."""
    rows: dict[Path, Row] = {}
    strangers = []
    known = set(images)
    for line, row in _read(table):
        name = row[_path_column(list(row))]
        image = folder / name
        if image in rows:
            raise ValueError(f"{str(table)!r} names {name!r} twice, the second time in line {line}")
        if image in known:
            rows[image] = row
        else:
            strangers.append(name)
    _tell_of_misfits(table, rows, strangers, images, folder)
    return rows


def _read(table: Path) -> Iterator[tuple[int, Row]]:
    with table.open(newline="", encoding="utf-8-sig") as lines:  # Excel writes a mark at the start
        reader = csv.DictReader(lines)
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"line {reader.line_num} of {str(table)!r} has not as many cells as the first "
                    "line, which names the columns; cells are separated by commas"
                )
            yield reader.line_num, row


def _path_column(columns: list[str]) -> str:
    return next((name for name in _PATH_COLUMNS if name in columns), columns[0])


def _label_column(table: Path, columns: list[str]) -> str:
    others = [name for name in columns if name != _path_column(columns)]
    named = [name for name in _LABEL_COLUMNS if name in others]
    if not named and len(others) != 1:
        raise ValueError(
            f"{str(table)!r} must have a column 'label'; its columns are {', '.join(columns)}"
        )
    return (named or others)[0]


def _tell_of_misfits(
    table: Path,
    rows: dict[Path, Row],
    strangers: list[str],
    images: Sequence[Path],
    folder: Path,
) -> None:
    if not rows:
        told = f"such as {strangers[0]!r}" if strangers else "for it has no rows"
        raise ValueError(
            f"{str(table)!r} names no image in {str(folder)!r}, {told}; paths must be relative to "
            f"the folder, as {str(images[0].relative_to(folder))!r} is"
        )
    missing = [image for image in images if image not in rows]
    if missing:
        warnings.warn(
            f"{len(missing)} of {len(images)} images have no row in {str(table)!r}, the first "
            f"of them {str(missing[0].relative_to(folder))!r}; nothing is known of these",
            UserWarning,
            stacklevel=2,
        )
    if strangers:
        warnings.warn(
            f"{len(strangers)} rows of {str(table)!r} are of no image in {str(folder)!r}, the "
            f"first of {strangers[0]!r}; they are left out",
            UserWarning,
            stacklevel=2,
        )


def _kind(texts: list[str]) -> Callable[[str], Any]:
    """What all texts of a column can be read as: int, float or str."""
    for kind in (int, float):
        try:
            for text in filter(None, texts):
                kind(text)
        except ValueError:
            continue
        return kind
    return str
