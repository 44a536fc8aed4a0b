"""A lock between processes and threads that dies with the process that holds it."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class IndexLockedError(RuntimeError):
    """Another process or thread is saving an index into the same folder right now.

    Nothing was written. The save may be tried again when the other one is done; a process that
    was killed holds nothing up.

    Examples
    --------
    >>> import time
    >>> from imgembed import IndexLockedError
    >>> def save_when_free(index, folder):
    ...     while True:
    ...         try:
    ...             return index.save(folder)
    ...         except IndexLockedError:
    ...             time.sleep(1)
    """


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is created if need be and stays.

    Parameters
    ----------
    path : Path
        The file. A symbolic link is not followed.

    Raises
    ------
    IndexLockedError
        At once, if another process or another thread of this one holds the lock.
    OSError
        If the file cannot be created or opened, or the file system knows no locks.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        _lock(descriptor, path)
        try:
            yield
        finally:
            _unlock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            # Not lockf: its locks belong to the process, so two threads would both get one.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise
        raise IndexLockedError(
            f"an index is being saved to {str(path.parent)!r} right now, by another process or "
            "thread; nothing was written: try again later, or save to another folder"
        ) from error


def _unlock(descriptor: int) -> None:
    """Unlock, although closing would do: a forked child may hold a copy of the descriptor."""
    with suppress(OSError):
        if sys.platform == "win32":
            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
