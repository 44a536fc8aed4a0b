"""What embedding costs: time, and memory while it runs."""

import ctypes
import gc
import os
import time
from pathlib import Path
from threading import Event, Thread
from typing import Self

_STATM = Path("/proc/self/statm")
_SECONDS_BETWEEN_SAMPLES = 0.01


class Stopwatch:
    """Measure how long a block takes.

    Examples
    --------
    >>> from imgembed.comparison._costs import Stopwatch
    >>> with Stopwatch() as watch:
    ...     pass
    >>> watch.seconds < 1
    True
    """

    seconds: float

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *failure: object) -> None:
        self.seconds = time.perf_counter() - self._start


class MemoryWatch:
    """Measure how far the memory of this process rises in a block.

    ``rise`` is the largest resident set less that at the start, in bytes, as sampled each
    hundredth of a second; NaN where there is no ``/proc``, which is Linux's.

    Examples
    --------
    >>> from imgembed.comparison._costs import MemoryWatch
    >>> with MemoryWatch() as watch:
    ...     pass
    >>> isinstance(watch.rise, float)
    True
    """

    rise: float

    def __enter__(self) -> Self:
        gc.collect()
        _give_back()
        self._start = self._highest = _resident()
        self._done = Event()
        self._thread = Thread(target=self._sample, name="imgembed-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._done.set()
        self._thread.join()
        self.rise = max(self._highest, _resident()) - self._start

    def _sample(self) -> None:
        while not self._done.wait(_SECONDS_BETWEEN_SAMPLES):
            self._highest = max(self._highest, _resident())


def _resident() -> float:
    """Bytes of this process that are in memory."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        return float("nan")
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def _give_back() -> None:
    """Give free memory back to the system, lest what comes next uses it and seems to need none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:  # glibc's alone
        trim(0)
