"""SharedLock: many readers at once, or one writer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Let readers in together and writers alone; a writer that waits goes before new readers.

    It is not reentrant: who holds it must not ask for it again.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._n_readers = 0
        self._n_waiting = 0
        self._writing = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock with other readers."""
        with self._condition:
            while self._writing or self._n_waiting:
                self._condition.wait()
            self._n_readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._n_readers -= 1
                if not self._n_readers:
                    self._condition.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._condition:
            self._n_waiting += 1
            try:
                while self._writing or self._n_readers:
                    self._condition.wait()
                self._writing = True
            finally:
                self._n_waiting -= 1
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
                self._condition.notify_all()
