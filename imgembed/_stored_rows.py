"""StoredRows: a .npy file filled row by row, which goes on where a crash has stopped it."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._differences import differences

# Seconds between records of what is done: the most work that a crash can cost.
_SECONDS_BETWEEN_RECORDS = 5.0


class StoredRows:
    """An array of float32 on disk that is filled from the first row to the last.

    Until it is whole it is called ``<path>.part``. Beside it ``<path>.json`` records how it is
    made, how many rows are there, and notes; it stays, so that the same work is not done twice.

    Parameters
    ----------
    path : Path
        The .npy file.
    shape : tuple of (int, int)
        Of the whole array.
    recipe : dict
        What decides the rows, as JSON: rows of another recipe are never mixed in.

    Attributes
    ----------
    n_done : int
        Rows that are on disk.
    notes : dict of str to object
        Kept in the record.

    Raises
    ------
    ValueError
        If there are rows of another recipe at ``path``.
    """

    def __init__(self, path: Path, shape: tuple[int, int], recipe: dict[str, Any]) -> None:
        self.path, self.shape, self.recipe = path, shape, recipe
        self.part, self.record = Path(f"{path}.part"), Path(f"{path}.json")
        self.n_done, self.notes = 0, dict[str, Any]()
        self._resume()
        self._rows: Any = None
        if not self.path.exists():
            mode = "r+" if self.n_done else "w+"
            self._rows = np.lib.format.open_memmap(
                self.part, mode, dtype=np.float32, shape=self.shape
            )
        self._recorded_at = time.monotonic()

    def write(self, rows: NDArray[np.float32]) -> None:
        """Write the next rows.

        Parameters
        ----------
        rows : ndarray of shape (n_rows, n_features), dtype float32
        """
        self._rows[self.n_done : self.n_done + len(rows)] = rows
        self.n_done += len(rows)
        if time.monotonic() - self._recorded_at > _SECONDS_BETWEEN_RECORDS:
            self.keep()

    def keep(self) -> None:
        """Record how much is done, once it is on disk."""
        self._rows.flush()
        part = Path(f"{self.record}.part")
        record = {"recipe": self.recipe, "n_done": self.n_done, "notes": self.notes}
        part.write_text(json.dumps(record), encoding="utf-8")
        os.replace(part, self.record)
        self._recorded_at = time.monotonic()

    def finish(self) -> NDArray[np.float32]:
        """Give the file its name, and map it.

        Returns
        -------
        rows : memmap, dtype float32
            Read only.
        """
        if self._rows is not None:
            self.keep()
            self._rows = None  # some systems do not rename what is mapped
            os.replace(self.part, self.path)
        rows: NDArray[np.float32] = np.load(self.path, mmap_mode="r")
        return rows

    def _resume(self) -> None:
        """Take up what is there, if it is of this recipe."""
        record = self._read_record()
        there = [path for path in (self.path, self.part) if path.exists()]
        if there and record is not None and record["recipe"] != self.recipe:
            raise ValueError(self._other_recipe(there[0], record["recipe"]))
        if self.path.exists() and record is None:
            raise ValueError(
                f"{str(self.path)!r} is there, and no record of how it was made; take another "
                "name, or delete it"
            )
        if there and record is not None:
            self.n_done, self.notes = record["n_done"], record["notes"]

    def _read_record(self) -> dict[str, Any] | None:
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            return {key: record[key] for key in ("recipe", "n_done", "notes")}
        except (OSError, ValueError, KeyError, TypeError):  # none, or not one of ours
            return None

    def _other_recipe(self, there: Path, before: dict[str, Any]) -> str:
        return (
            f"{str(there)!r} holds rows that were made otherwise: "
            f"{differences(before, self.recipe)}. Take another name, or delete it and "
            f"{self.record.name!r}"
        )
