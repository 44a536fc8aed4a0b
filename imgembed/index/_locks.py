"""SharedLock: many readers at once, or one writer."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


class SharedLock(AbstractContextManager[None]):
    """Let readers in together and writers alone; a writer that waits goes before new readers.

    It is not reentrant: who holds it must not ask for it again.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._condition = threading.Condition(self._mutex)
        self._n_readers = 0
        self._n_waiting = 0
        self._writing = False

    def reading(self) -> AbstractContextManager[None]:
        """Hold the lock with other readers."""
        return self  # no object, no generator: a query takes microseconds

    def __enter__(self) -> None:
        with self._mutex:  # as the condition does, without a call in Python
            while self._writing or self._n_waiting:
                self._condition.wait()
            self._n_readers += 1

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            self._n_readers -= 1
            if self._n_waiting and not self._n_readers:
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
                self._condition.notify_all()  # readers that wait for one who was interrupted
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
                self._condition.notify_all()
