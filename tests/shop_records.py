"""Records of a small shop, and what all records must satisfy."""

from typing import Any

import numpy as np

from imgembed.index.records._records import Records


def shop() -> Records:
    """Six items in a shop; one has been removed."""
    records = Records()
    columns = {
        "price": [10, 55.5, None, 20, 1, 49],
        "category": ["shoe", "shoe", "hat", "hat", None, "shoe"],
        "in_stock": [True, False, True, True, None, True],
        "order by": [1, 2, 3, 4, 5, 6],
    }
    records.append(["a", "b", "c", "d", 5, (1, "x")], columns, 6)
    records.remove([3])
    return records


def behaviour(records: Records) -> tuple[Any, ...]:
    """All that records show, with the types."""
    living = records.living()
    return (
        records.n_slots,
        len(records),
        records.columns,
        living.tolist(),
        repr(records.ids_at(living)),
        repr(records.records_at(living)),
    )


def consistent(records: Records) -> bool:
    """Whether each item is found where its id says, and conditions see what records show."""
    living = records.living()
    found = records.find(records.ids_at(living))
    shown = records.records_at(living)
    records.where("1")
    return len(records) == len(living) == len(shown) and np.array_equal(found, living)
