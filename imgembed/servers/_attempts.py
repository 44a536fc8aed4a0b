"""Work that is done again when a server was lost and comes back."""

import time
from collections.abc import Callable
from typing import TypeVar

from ._errors import ServerUnavailableError

Result = TypeVar("Result")

_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0


def until_back(work: Callable[[], Result], timeout: float, lost: Callable[[], bool]) -> Result:
    """Do work, again and again while the server is lost.

    Parameters
    ----------
    work : callable
    timeout : float
        Seconds that are waited at most.
    lost : callable
        Called after each loss. It tells whether the server was there before, so that waiting for
        it is worth while.

    Returns
    -------
    result : object
        What ``work`` returned.

    Raises
    ------
    ServerUnavailableError
        If the server does not come back.
    """
    deadline, wait = time.monotonic() + timeout, _FIRST_WAIT
    while True:
        try:
            return work()
        except ServerUnavailableError:
            if not lost() or time.monotonic() + wait > deadline:
                raise
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)
