"""Conditions that Milvus cannot say, decided here on the columns that they name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...index import WhereError
from ...index.records._records import Records
from ...index.records._values import COLUMN_KINDS
from .._expressions import Expression
from .._keys import id_of
from .._state import State
from .._store import Chosen
from ._collection import MilvusCollection
from ._conditions import KEY, SLOT, MilvusCondition, columns_of, field_of, one_of

#: Items whose columns are read for a condition that Milvus cannot say.
MOST_READ = 100_000


def decided_here(
    collection: MilvusCollection,
    state: State,
    chosen: Chosen,
    expression: Expression,
    said: MilvusCondition,
) -> MilvusCondition:
    """The condition as a list of slots: the embedded index decides it on what Milvus keeps.

    Parameters
    ----------
    collection : MilvusCollection
    state : State
    chosen : Chosen
        The condition as it was given.
    expression : Expression
        The same, read.
    said : MilvusCondition
        The same, as far as Milvus can say it.

    Returns
    -------
    condition : MilvusCondition

    Raises
    ------
    WhereError
        If there are too many items to read, or the embedded index refuses the condition.
    """
    n_kept = collection.count(said.filter)
    if n_kept > MOST_READ:
        raise WhereError(
            f"{chosen.where!r:.200}: Milvus cannot say all of it, and {n_kept:,} items are too "
            f"many to read (at most {MOST_READ:,}): keep what it computes as a column of its own, "
            "or add AND with a comparison of a column with a value that keeps fewer"
        )
    kinds = {
        name: (field_of(name, position), kind)
        for position, (name, kind) in enumerate(state.kinds.items())
        if name in columns_of(expression) or kind == "null"
    }
    fields = [KEY, *(field for field, _ in kinds.values())]
    entities = [one for page in collection.pages(state, fields, said.filter) for one in page]
    records = Records()
    columns = {name: _read(entities, *place) for name, place in kinds.items()}
    records.append([id_of(one[KEY], None) for one in entities], columns, len(entities))
    kept = records.where(chosen.where, chosen.params)
    slots = np.array([one[SLOT] for one in entities], np.int64)[kept]
    return one_of(SLOT, slots.tolist())


def _read(entities: Sequence[Mapping[str, Any]], field: str, kind: str) -> list[Any]:
    """The values of a column, as they were given to the index."""
    values = [entity.get(field) for entity in entities]
    if kind == "blob":
        return [None if value is None else bytes.fromhex(value) for value in values]
    read = COLUMN_KINDS[kind].read
    return [None if value is None else read(value) for value in values]
