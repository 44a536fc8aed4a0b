"""What is known of an index besides its rows, as every server keeps it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from ..index import RecallEstimate
from ..index._fingerprint import FilledBy
from ._errors import ServerVersionError
from ._keys import next_number

_FORMAT = 1
# Marks of the latest changes: who lost the server while one was acknowledged looks for its own.
_N_MARKS = 32
# Below, comparing with all is as fast as a graph.
_SMALLEST_GRAPH = 10_000


@dataclass(frozen=True)
class State:
    """What is known of an index besides its rows.

    Parameters
    ----------
    metric : {"cosine", "euclidean", "ip"}
    storage : {"float32", "float16", "bfloat16"}
    algorithm : {"auto", "hnsw", "exact"}
    n_features : int
    M, ef_construction : int
    partitions : int
        0 of a table without.
    n_slots : int
        One more than the last slot that was given.
    n_items : int
    next_id : int
        What numbers the next item without an id.
    columns : dict of str to str
        Kinds of the records' columns.
    filled_by : FilledBy or None
    has_graph : bool
    recall : RecallEstimate
    n_measured : int
        Items when the recall was measured.
    n_changes : int
    marks : tuple of str
        Of the latest changes.
    """

    metric: str
    storage: str
    algorithm: str
    n_features: int
    M: int
    ef_construction: int
    partitions: int
    recall: RecallEstimate
    filled_by: FilledBy | None
    n_slots: int = 0
    n_items: int = 0
    next_id: int = 0
    columns: Mapping[str, str] | None = None
    has_graph: bool = False
    n_measured: int = 0
    n_changes: int = 0
    marks: tuple[str, ...] = ()

    @property
    def kinds(self) -> Mapping[str, str]:
        """Kinds of the records' columns, in order."""
        return self.columns or {}

    @property
    def has_gaps(self) -> bool:
        """Whether rows are not slots, because items were removed."""
        return self.n_items < self.n_slots

    def wants_graph(self, n_items: int) -> bool:
        """Whether so many items should have a graph."""
        return self.algorithm == "hnsw" or (self.algorithm == "auto" and n_items >= _SMALLEST_GRAPH)

    def with_more(self, keys: Iterable[str], n_new: int) -> Self:
        """The state with new items in the next slots, whose keys are among these."""
        return replace(
            self,
            n_slots=self.n_slots + n_new,
            n_items=self.n_items + n_new,
            next_id=max(self.next_id, next_number(keys)),
        )

    def marked(self, mark: str) -> Self:
        """The state after one more change."""
        marks = (*self.marks, mark)[-_N_MARKS:]
        return replace(self, n_changes=self.n_changes + 1, marks=marks)

    def to_json(self) -> str:
        """The state as text."""
        fields = asdict(self) | {"columns": list(self.kinds.items()), "format": _FORMAT}
        return json.dumps(fields)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """The state that :meth:`to_json` wrote.

        Raises
        ------
        ServerVersionError
            If a newer imgembed has written it.
        """
        fields = dict(fields)
        version = fields.pop("format", None)
        if version != _FORMAT:
            raise ServerVersionError(
                f"the index was written by a newer imgembed (format {version!r}; this one reads "
                f"{_FORMAT}): update imgembed"
            )
        filled_by = fields["filled_by"]
        fields |= {
            "columns": dict(fields["columns"]),
            "filled_by": None if filled_by is None else FilledBy.from_dict(filled_by),
            "recall": RecallEstimate.from_dict(fields["recall"]),
            "marks": tuple(fields["marks"]),
        }
        return cls(**fields)
