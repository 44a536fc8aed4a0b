"""Workers: chunks of images go to other processes, by way of joblib, and what comes of them back.

joblib says which backend is in force. Through a backend of processes it also carries the chunks. On
a Dask cluster the futures of its client do: joblib 1.6 waits for ever for a task that takes its
workers down with it, and what it has scattered is lost with the worker that holds it.
"""

import hashlib
import pickle
import threading
import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Self

import cloudpickle
import numpy as np
from joblib import Parallel, cpu_count, delayed, effective_n_jobs, parallel_config
from joblib.parallel import SequentialBackend, get_active_backend

from ._image_chunk import ImageChunk

# Tasks that a process keeps ready: two, so that embedders can be compared without being loaded
# again and again, and no more, as each may hold a network.
_N_RESIDENT = 2
# Times in a row that workers may be lost before a single chunk is done.
_MOST_LOSSES = 3
# Chunks for each thread of the cluster: one under way, and one that waits there.
_CHUNKS_PER_THREAD = 2
# Dask warns of more than 10 MB in one message to its scheduler.
_LARGEST_PIECE = 4_000_000


class WorkersLostError(RuntimeError):
    """Workers die, or the cluster is gone, and the work cannot be done on them.

    Examples
    --------
    >>> from imgembed import WorkersLostError
    >>> issubclass(WorkersLostError, RuntimeError)
    True
    """


class WorkerTask(ABC):
    """What a worker does with each chunk. It is sent to a worker once, and made ready there once.

    Its ``n_threads`` and ``max_pixels`` are read where the chunks come from.
    """

    n_threads: int
    max_pixels: int

    @abstractmethod
    def load(self) -> None:
        """Make ready, in the worker."""

    @abstractmethod
    def run(self, chunk: ImageChunk, on_error: str) -> Any:
        """The result for a chunk. Runs in several threads at once."""


@dataclass(frozen=True)
class PackedTask:
    """A task as bytes, and a name by which a process knows whether it has it already.

    Parameters
    ----------
    token : str
    content : bytes
    n_threads : int
        That the task may have in a worker.
    """

    token: str
    content: bytes
    n_threads: int

    @classmethod
    def of(cls, task: WorkerTask) -> Self:
        """Pack a task; classes that are defined in a notebook are packed with it.

        Parameters
        ----------
        task : WorkerTask

        Returns
        -------
        packed : PackedTask
        """
        content = cloudpickle.dumps(task, protocol=5)
        return cls(hashlib.blake2b(content, digest_size=16).hexdigest(), content, task.n_threads)


@dataclass(frozen=True)
class Workers:
    """The workers of the backend that is in force.

    Parameters
    ----------
    backend : joblib backend
        One that does not share memory.
    n_workers : int or None
        Processes of this computer; None on a cluster, which may grow and shrink.
    """

    backend: Any
    n_workers: int | None

    def n_threads(self, n_jobs: int | None) -> int:
        """Threads that each chunk may have where it is worked on.

        Parameters
        ----------
        n_jobs : int or None
            What the embedder was given. On a cluster its number counts for each worker, and
            what is not a number is one, since every thread of a worker has a chunk.

        Returns
        -------
        n_threads : int
        """
        if self.n_workers is None:
            return max(1, n_jobs or 1)
        return max(1, int(cpu_count()) // self.n_workers)

    def map(
        self, task: WorkerTask, chunks: Iterator[ImageChunk], on_error: str
    ) -> Generator[tuple[range, Any]]:
        """The results of chunks, in the order in which they are done.

        Parameters
        ----------
        task : WorkerTask
        chunks : iterator of ImageChunk
            Taken not long before there is room for them.
        on_error : str
            For the task.

        Yields
        ------
        rows : range
            Of the chunk.
        result : object
            Of the task.

        Raises
        ------
        WorkersLostError
            If workers die again and again.
        """
        packed = ((chunk.rows, chunk.packed(task.max_pixels)) for chunk in chunks)
        if self.n_workers is None:
            return _by_dask(self.backend, PackedTask.of(task), packed, on_error)
        return _by_joblib(self.n_workers, PackedTask.of(task), packed, on_error)


def active_workers(n_jobs: int | None) -> Workers | None:
    """The workers that a :func:`joblib.parallel_config` context asks for, if it does.

    Parameters
    ----------
    n_jobs : int or None
        The number of processes, unless the context has one.

    Returns
    -------
    workers : Workers or None
        None: the work is to be done in this process.
    """
    # The hint counts only where no backend was asked for.
    backend, n_in_context = get_active_backend(prefer="threads")
    if _shares_memory(backend):
        return None
    if hasattr(backend, "client"):
        return Workers(backend, None)
    n_workers = backend.effective_n_jobs(n_jobs if n_in_context is None else n_in_context)
    return Workers(backend, n_workers) if n_workers > 1 else None


def n_threads_here(n_jobs: int | None) -> int:
    """Threads for work in this process, whatever workers a context names.

    Parameters
    ----------
    n_jobs : int or None

    Returns
    -------
    n_threads : int
    """
    if _shares_memory(get_active_backend(prefer="threads")[0]):
        return int(effective_n_jobs(n_jobs))
    with parallel_config(backend="threading"):
        return int(effective_n_jobs(n_jobs))


def in_one_thread() -> bool:
    """Whether the work is to be done without any thread beside this one.

    Returns
    -------
    alone : bool
    """
    return isinstance(get_active_backend(prefer="threads")[0], SequentialBackend)


def run_chunk(task: PackedTask, content: Sequence[Any], chunk: Sequence[Any], on_error: str) -> Any:
    """Do the work of one chunk, in a worker.

    Parameters
    ----------
    task : PackedTask
        Its content comes apart.
    content, chunk : sequence of bytes or ndarray
        Pieces of the packed task, and of the chunk.
    on_error : str
        For the task.

    Returns
    -------
    result : object
        Of the task.
    """
    with kept_to(task.n_threads):
        loaded = resident(task.token, content)
        return loaded.run(ImageChunk.unpacked(b"".join(chunk)), on_error)


def kept_to(n_threads: int) -> Any:
    """A context in which nothing goes to workers again, and one thread is one.

    Parameters
    ----------
    n_threads : int

    Returns
    -------
    context : context manager
    """
    return parallel_config(backend="sequential" if n_threads == 1 else "threading")


def resident(token: str, content: Sequence[Any]) -> WorkerTask:
    """The task of this process, loaded when it is first needed.

    Parameters
    ----------
    token : str
    content : sequence of bytes or ndarray

    Returns
    -------
    task : WorkerTask
    """
    with _lock:  # one thread loads, and the others wait: two networks would need twice the memory
        if token not in _residents:
            task: WorkerTask = pickle.loads(b"".join(content))  # noqa: S301 (as the chunks)
            task.load()
            _residents[token] = task
            while len(_residents) > _N_RESIDENT:
                _residents.popitem(last=False)
        _residents.move_to_end(token)
        return _residents[token]


def _shares_memory(backend: Any) -> bool:
    return bool(getattr(backend, "supports_sharedmem", False))  # joblib's own test


_lock = threading.Lock()
_residents: OrderedDict[str, WorkerTask] = OrderedDict()


def _by_dask(
    backend: Any, task: PackedTask, packed: Iterator[tuple[range, bytes]], on_error: str
) -> Generator[tuple[range, Any]]:
    from distributed import as_completed

    client = backend.client
    content = _on_cluster(client, task.content)
    known = PackedTask(task.token, b"", task.n_threads)
    flying: dict[Any, range] = {}
    done = as_completed(loop=client.loop)
    try:
        with backend.retrieval_context():  # in a worker, so that its thread is free for a chunk
            while True:
                room = _CHUNKS_PER_THREAD * max(1, sum(client.ncores().values())) - len(flying)
                for rows, chunk in islice(packed, max(0, room)):
                    pieces = _on_cluster(client, chunk)
                    future = client.submit(
                        run_chunk, known, content, pieces, on_error, pure=False,
                        **backend.submit_kwargs,
                    )  # fmt: skip
                    flying[future] = rows
                    done.add(future)
                if not flying:
                    return
                future = next(done)
                rows = flying.pop(future)
                yield rows, _result_of(future, [rows, *flying.values()])
    finally:
        client.cancel(list(flying))


def _on_cluster(client: Any, content: bytes) -> list[Any]:
    """Bytes as arguments of tasks; many of them as results of tasks of their own.

    A result travels to a worker once. Unlike what is scattered it comes back if it is lost, as the
    scheduler can have it made again.
    """
    if len(content) <= _SMALLEST_PIECE:
        return [content]
    pieces = [content[at : at + _LARGEST_PIECE] for at in range(0, len(content), _LARGEST_PIECE)]
    return [client.submit(_piece, piece, pure=False) for piece in pieces]


# Less is quicker in the message of the task itself.
_SMALLEST_PIECE = 20_000


def _piece(content: bytes) -> bytes:
    return content


def _result_of(future: Any, suspects: list[range]) -> Any:
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise WorkersLostError(_say_lost(suspects, str(error))) from error
    except CancelledError as error:
        raise WorkersLostError(
            f"the cluster has given up the work ({error}): was it closed or restarted?"
        ) from error


def _say_lost(suspects: list[range], said: str) -> str:
    """What to do; the chunk at fault is one of those that workers had, and not always the first."""
    spans: list[list[int]] = []
    for rows in sorted(suspects, key=lambda rows: rows.start):
        if spans and spans[-1][1] == rows.start - 1:
            spans[-1][1] = rows.stop - 1
        else:
            spans.append([rows.start, rows.stop - 1])
    named = ", ".join(f"{first} to {last}" for first, last in spans)
    return (
        f"workers died one after the other while they had images in rows {named}: {said} Have they "
        "enough memory? Try these images alone in one process, where what happens can be seen"
    )


def _by_joblib(
    n_workers: int, task: PackedTask, packed: Iterator[tuple[range, bytes]], on_error: str
) -> Generator[tuple[range, Any]]:
    # An array, which joblib keeps in memory that the processes share if it is large.
    content = [np.frombuffer(task.content, np.uint8)]
    known = PackedTask(task.token, b"", task.n_threads)
    flying: dict[range, bytes] = {}
    n_losses = 0
    while True:
        again = list(flying.items())

        def calls(again: list[tuple[range, bytes]] = again) -> Iterator[Any]:
            for rows, chunk in chain(again, packed):
                flying[rows] = chunk
                yield delayed(_numbered_chunk)(rows, known, content, [chunk], on_error)

        try:
            with closing(_quietly_closed(_parallel(n_workers)(calls()))) as results:
                for rows, result in results:
                    del flying[rows]
                    n_losses = 0
                    yield rows, result
            return
        except BrokenProcessPool as error:
            n_losses += 1
            if n_losses == _MOST_LOSSES:
                raise WorkersLostError(_say_lost(list(flying), str(error))) from error


def _parallel(n_workers: int) -> Any:
    return Parallel(n_jobs=n_workers, return_as="generator_unordered")


def _quietly_closed(results: Any) -> Generator[Any]:
    """Results; if they are not wanted any more, the work that is under way is given up."""
    try:
        # "yield from" would close them before the warning is turned off.
        for result in results:  # noqa: UP028
            yield result
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # joblib says that work was in vain
            results.close()


def _numbered_chunk(rows: range, *arguments: Any) -> tuple[range, Any]:
    return rows, run_chunk(*arguments)
