"""Threads: results in order, computed ahead; matrix products without threads of their own."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_n_inside = 0
_limited: Any = None


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], n_threads: int, n_ahead: int
) -> Generator[Result]:
    """The results of a function, in order, computed in threads ahead of the consumer.

    Parameters
    ----------
    function : callable
        Of one item. What it raises is raised where its result would come.
    items : iterable
        They are taken one by one, no more than ``n_ahead`` before their turn.
    n_threads : int
        Threads that run the function.
    n_ahead : int
        The most items that are under way or done and not yet consumed.

    Yields
    ------
    result : object
        The function's result for each item.
    """
    ahead: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="imgembed")
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) >= n_ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread, so that a product is the same whatever the threads around it.

    Put it around many products, not around each: when it is restored, BLAS's threads start and
    keep a processor busy for some milliseconds, waiting for work.

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
