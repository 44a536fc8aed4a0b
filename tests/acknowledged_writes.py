"""A thread that writes while its server fails, and what must be there in the end."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from imgembed.servers._server_index import ServerIndex


class Writer(threading.Thread):
    """Upserts two new items and an old one at a time, and keeps what was acknowledged."""

    def __init__(self, index: ServerIndex, patience: float) -> None:
        super().__init__()
        self.index = index
        self.patience = patience
        self.acknowledged: list[str] = []
        self.error: BaseException | None = None
        self.has_enough = threading.Event()

    def run(self) -> None:
        number = 0
        try:
            while not self.has_enough.is_set():
                ids = [f"{number} a", f"{number} b", "old"]
                vectors = np.full((3, 8), number + 1, np.float32)
                self.index.upsert(vectors, ids, records={"number": [number] * 3})
                self.acknowledged += ids[:2]
                number += 1
        except BaseException as error:
            self.error = error

    def wait_for(self, n: int) -> None:
        """Wait until so many more items are acknowledged, each time for ``patience`` seconds."""
        end = time.monotonic() + self.patience
        start = len(self.acknowledged)
        while len(self.acknowledged) < start + n and self.error is None:
            assert time.monotonic() < end, "nothing is acknowledged any more"
            time.sleep(0.01)


@contextmanager
def writing(index: ServerIndex, n: int = 6, patience: float = 60) -> Iterator[Writer]:
    """Fit a Euclidean index, and write to it; at least n items before and after what happens."""
    index.fit(np.zeros((1, 8)), ids=["old"], records={"number": [-1]})
    writer = Writer(index, patience)
    writer.start()
    try:
        writer.wait_for(n)
        yield writer
        writer.wait_for(n)
    finally:
        writer.has_enough.set()
        writer.join()
    assert writer.error is None, repr(writer.error)


def assert_nothing_is_lost_or_twice(
    index: ServerIndex, acknowledged: list[str], *, n_unsure: int = 0
) -> None:
    """Of what was sent and not acknowledged, at most ``n_unsure`` items may be there."""
    ids = list(index)
    assert len(ids) == len(set(ids)) == len(index)
    assert {"old", *acknowledged} <= set(ids)
    assert len(ids) <= len(acknowledged) + 1 + n_unsure
    wanted = {f"{row} {letter}": row for row in range(len(ids)) for letter in "ab"}
    found = index.search(np.zeros((1, 8)), len(ids), exact=True)
    assert len(found.ids[0]) == len(ids)
    for one, record in zip(found.ids[0], found.records[0], strict=True):
        assert one == "old" or record["number"] == wanted[str(one)]
