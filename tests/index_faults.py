"""Faults of use: wrong calls, and calls at the same time.

The tests run each once and shortly. This file is also the child process in which the nox session
``faults`` runs them, since the one mistake that matters ends the process:
``python index_faults.py misuses ALGORITHM`` and ``python index_faults.py pairs SECONDS``.
"""

import itertools
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgembed import NearestNeighborIndex
from imgembed.index import (
    DuplicateIdError,
    IndexChangedError,
    IndexLockedError,
    UnknownIdError,
    WhereError,
    _node_index,
)

_FRESH_MEMORY = "165"  # glibc fills it with this byte, so that nothing works by chance
_N_FEATURES = 6
# A thread that has not ended so long after it was told to is taken for a deadlock.
_PATIENCE = 60.0


def misuse_in_a_child(algorithm: str) -> int:
    """Call an index wrongly in every way in a child process; how many ways there are.

    Parameters
    ----------
    algorithm : {"auto", "hnsw", "exact"}

    Raises
    ------
    AssertionError
        With the output of the child, if it was killed, or a wrong call was taken, raised
        another exception, or changed the index.
    """
    lines = _in_a_child("misuses", algorithm)
    assert lines.count("refused") == len(lines) > 60
    return len(lines)


def pairs_in_a_child(seconds: float) -> Mapping[str, int]:
    """Run every pair of operations at the same time in a child process.

    Parameters
    ----------
    seconds : float
        For each pair.

    Returns
    -------
    counts : dict of str to int
        Of each pair, how many operations were done.

    Raises
    ------
    AssertionError
        With the output of the child, if it was killed, an answer was wrong, or a pair waited
        for each other for ever.
    """
    lines = [line.rsplit(":", 1) for line in _in_a_child("pairs", str(seconds))]
    assert [name for name, _ in lines] == [" and ".join(pair) for pair in PAIRS]
    return {name: int(count) for name, count in lines}


def _in_a_child(*arguments: str) -> list[str]:
    child = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=os.environ | {"MALLOC_PERTURB_": _FRESH_MEMORY},
        capture_output=True,
        text=True,
    )
    lines = child.stdout.splitlines()
    assert child.returncode == 0, (
        f"the child ended with {child.returncode} after {lines[-1:]}\n{child.stderr}"
    )
    return lines


@contextmanager
def busy_graphs() -> Iterator[None]:
    """Use the graph for few vectors, where else all would be scanned, and extend it often."""
    names = ("_EXACT_BELOW", "_MOST_OUTSIDE", "_VECTORS_PER_CANDIDATE")
    before = [getattr(_node_index, name) for name in names]
    for name, value in zip(names, (20, 7, (0, 0)), strict=True):
        setattr(_node_index, name, value)
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(_node_index, name, value)


# Misuses.


class Misuse(NamedTuple):
    """A wrong call, and what it must raise."""

    name: str
    call: Callable[[], Any]
    expected: type[Exception] | tuple[type[Exception], ...]


def shop_index(algorithm: str = "auto") -> NearestNeighborIndex:
    """Forty vectors with ids "a0", "a1", ..., prices and categories; the last ten are copies."""
    vectors = np.random.default_rng(0).normal(size=(40, _N_FEATURES))
    vectors[30:] = vectors[:10]
    records = {"price": np.arange(40), "category": ["shoe", "hat"] * 20}
    index = NearestNeighborIndex(metric="euclidean", algorithm=algorithm)
    return index.fit(vectors, ids=[f"a{row}" for row in range(40)], records=records)


def state_of(index: NearestNeighborIndex) -> str:
    """All that a user sees of an index; equal texts are equal states."""
    queries = np.random.default_rng(1).normal(size=(3, index.n_features_in_))
    everything = index.search(queries, n_neighbors=len(index) + 1, exact=True)
    seen = [
        list(index),
        index.vectors_.tolist(),
        [part.tolist() for part in index.kneighbors(queries, 5)],
        [everything.ids, everything.distances.tolist(), everything.records],
        [index.columns_, index.get_params(), index.calibration_, index.fingerprint_],
        [index.algorithm_, index.recall_estimate_, index.n_features_in_],
    ]
    return repr(seen)


def misuses(index: NearestNeighborIndex) -> Iterator[Misuse]:
    """Wrong calls of the index that :func:`shop_index` makes; none may change it."""
    yield from _wrong_vectors(index)
    yield from _wrong_questions(index)
    yield from _wrong_conditions(index)
    yield from _wrong_changes(index)
    yield from _wrong_fits(index)
    yield from _wrong_calibrations(index)
    yield from _wrong_files(index)


_BAD_VECTORS: Mapping[str, Any] = {
    "of another width": np.zeros((2, _N_FEATURES + 1)),
    "of no width": np.zeros((2, 0)),
    "of a width of megabytes": np.zeros((1, 1_000_000), np.float32),
    "in one dimension": np.zeros(_N_FEATURES),
    "in three dimensions": np.zeros((2, _N_FEATURES, 1)),
    "with NaN": np.full((2, _N_FEATURES), np.nan, np.float32),
    "with infinity": np.full((2, _N_FEATURES), -np.inf, np.float32),
    "too large": np.full((2, _N_FEATURES), 1e30, np.float32),
    "too large for float32": np.full((2, _N_FEATURES), 1e300),
    "of complex numbers": np.zeros((2, _N_FEATURES), complex),
    "of words": [["a"] * _N_FEATURES],
    "of dates": np.zeros((2, _N_FEATURES), "datetime64[s]"),
    "of unequal widths": [[0.0] * _N_FEATURES, [0.0]],
    "which are none": np.zeros((0, _N_FEATURES)),
    "which are a number": 5,
}


def _wrong_vectors(index: NearestNeighborIndex) -> Iterator[Misuse]:
    refused = (ValueError, TypeError)
    for name, vectors in _BAD_VECTORS.items():
        ids = [f"b{row}" for row in range(np.shape(vectors)[0] if np.ndim(vectors) else 1)] \
            if name != "of unequal widths" else ["b0", "b1"]
        for call in (index.kneighbors, index.search, index.transform, index.recall_curve, index.add):
            yield Misuse(f"{call.__name__} {name}", lambda c=call, v=vectors: c(v), refused)
        yield Misuse(
            f"radius_neighbors {name}", lambda v=vectors: index.radius_neighbors(v, 1.0), refused
        )
        yield Misuse(f"upsert {name}", lambda v=vectors, i=ids: index.upsert(v, i), refused)


