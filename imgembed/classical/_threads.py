"""Threads around matrix products: ours outside, none of BLAS's own inside."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_n_inside = 0
_limited: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread, so that a product is the same whatever the threads around it.

    BLAS's number of threads belongs to the process. The first that comes in sets it and the
    last that goes out restores it: otherwise two threads could restore each other's one.
    """
    global _n_inside, _limited
    with _lock:
        if _n_inside == 0:
            _limited = _blas().limit(limits=1)
        _n_inside += 1
    try:
        yield
    finally:
        with _lock:
            _n_inside -= 1
            if _n_inside == 0:
                _limited.restore_original_limits()


@cache
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")
