"""VectorStore: the vectors of an index, as float32 or smaller."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_DTYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
# The largest code: a row is scaled so that its largest entry has it.
_LARGEST_CODE = {"float16": 1.0, "int8": 127.0}
# Entries of a block that is decoded at once: 16 MB of float32.
_BLOCK_ENTRIES = 4_000_000
# What a file may hold: entries as large as an index takes, a little more for the rounding of
# small storage; squares of unit vectors so near to 1; widths for which one vector fits memory.
_LARGEST = 1.001e15
_ROUNDING = 1e-4
# So many hashes are looked for one by one, more by sorting.
_FEW = 16
# Vectors whose mean is the centre; how much larger its square may be than theirs about it.
_N_CENTRED = 10_000
_FAR = 100
_MOST_FEATURES = 100_000_000


class VectorStore:
    """Rows of vectors that may be appended to and read back.

    Parameters
    ----------
    n_features : int
    storage : {"float32", "float16", "int8"}
        The two small ones keep a scale a row, so that they hold rows of any magnitude.
    unit : bool
        Whether rows are of unit length (or zero), and shall be so when they are read back.
    """

    def __init__(self, n_features: int, storage: str, unit: bool) -> None:
        self.storage, self.unit = storage, unit
        self._codes: NDArray[Any] = np.empty((0, n_features), _DTYPES[storage])
        self._scales: Floats = np.empty(0, np.float32)
        self._n = 0
        self._centred: tuple[Floats, Floats, bool] | None = None

    def __len__(self) -> int:
        return self._n

    @property
    def n_features(self) -> int:
        """Width of the vectors."""
        return int(self._codes.shape[1])

    @property
    def n_bytes(self) -> int:
        """Bytes of memory, or of the mapped file, that the vectors take."""
        return int(self._codes.nbytes + self._scales.nbytes)

    def encode(self, vectors: Floats) -> tuple[NDArray[Any], Floats]:
        """Codes and scales that stand for vectors.

        Parameters
        ----------
        vectors : ndarray of shape (n, n_features), dtype float32

        Returns
        -------
        codes : ndarray of shape (n, n_features)
        scales : ndarray of shape (n,), dtype float32
            Empty for "float32", whose codes are the vectors.
        """
        if self.storage == "float32":
            return vectors, np.empty(0, np.float32)
        largest = np.abs(vectors).max(axis=1, initial=0)
        scales = np.maximum(largest / np.float32(_LARGEST_CODE[self.storage]), np.float32(1e-37))
        codes = vectors / scales[:, np.newaxis]
        if self.storage == "int8":
            codes = np.rint(codes)
        codes = codes.astype(_DTYPES[self.storage])
        if self.unit:
            lengths = np.linalg.norm(codes.astype(np.float32), axis=1)
            scales = 1 / np.where(lengths > 0, lengths, 1)
        return codes, scales

    def append(self, codes: NDArray[Any], scales: Floats) -> None:
        """Add encoded rows at the end; what was there is not lost if memory is out."""
        n = self._n + len(codes)
        if n > len(self._codes) or not self._codes.flags.writeable:
            # The first rows take no more than they need; later growth is amortised.
            capacity = n + (self._n // 4 if self._n else 0)
            grown = np.empty((capacity, self.n_features), self._codes.dtype)
            grown_scales = np.empty(0 if self.storage == "float32" else capacity, np.float32)
            grown[: self._n], grown_scales[: self._n] = self.arrays()
            self._codes, self._scales = grown, grown_scales
        self._codes[self._n : n] = codes
        if len(scales):
            self._scales[self._n : n] = scales
        self._n = n

    def take(self, rows: NDArray[np.int64] | slice) -> Floats:
        """Rows as float32: a view for a slice of "float32", else a copy."""
        codes = self._codes[: self._n][rows]
        if self.storage == "float32":
            return codes
        scales = self._scales[: self._n][rows]
        return codes.astype(np.float32) * scales[:, np.newaxis]

    def blocks(self, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[int, Floats]]:
        """All rows, or some, in blocks.

        Yields
        ------
        start : int
            Place of the block's first row among all, or among ``rows``.
        vectors : ndarray of shape (n_block, n_features), dtype float32
        """
        n = self._n if rows is None else len(rows)
        step = max(1, _BLOCK_ENTRIES // max(1, self.n_features))
        for start in range(0, n, step):
            some = slice(start, min(start + step, n))
            yield start, self.take(some if rows is None else rows[some])

    def centred(self) -> tuple[Floats, Floats, bool]:
        """A point amid the vectors, and how far they are from it.

        Returns
        -------
        centre : ndarray of shape (n_features,), dtype float32
        halves : ndarray of shape (n,), dtype float32
            Half the squared distance of each row to the centre.
        is_far : bool
            Whether the centre is so far from the origin that inner products with vectors that
            are not shifted lose digits.
        """
        known = self._centred
        if known is None or len(known[1]) != self._n:
            sample = self.take(slice(0, _N_CENTRED))
            centre = known[0] if known else sample.mean(axis=0, dtype=np.float64).astype(np.float32)
            halves = [np.empty(0, np.float32)] if known is None else [known[1]]
            added = np.arange(len(halves[0]), self._n)
            for _, vectors in self.blocks(added):
                shifted = vectors - centre
                halves.append(np.einsum("ij,ij->i", shifted, shifted) / 2)
            joined = np.concatenate(halves)
            spread = float(joined.mean(dtype=np.float64)) if self._n else 0.0
            is_far = float(centre @ centre) > _FAR * 2 * spread
            # At once, since several queries may do this at the same time.
            self._centred = known = centre, joined, is_far
        return known

    def same(self, rows: NDArray[np.int64], codes: NDArray[Any], scales: Floats) -> Any:
        """Whether each row equals an encoded one, as an array of bool."""
        equal = (self._codes[rows] == codes).all(axis=1)
        return equal & (self._scales[rows] == scales) if len(scales) else equal

    def chosen(self, rows: NDArray[np.int64]) -> "VectorStore":
        """A store of some of the rows."""
        store = VectorStore(self.n_features, self.storage, self.unit)
        store.append(self._codes[rows], self._scales[rows] if len(self._scales) else self._scales)
        return store

    def arrays(self) -> tuple[NDArray[Any], Floats]:
        """Codes and scales of all rows, as views."""
        return self._codes[: self._n], self._scales[: self._n]

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], storage: str, unit: bool
    ) -> "VectorStore":
        """A store around ``arrays["vectors"]`` and ``arrays["scales"]``, which are not copied.

        Raises
        ------
        ValueError
            If they are not what :meth:`arrays` gives.
        """
        codes, scales = arrays["vectors"], arrays["scales"]
        if codes.ndim != 2 or codes.dtype != _DTYPES[storage]:
            raise ValueError(f"vectors of shape {codes.shape} and {codes.dtype} are no {storage}")
        if not 0 < codes.shape[1] <= _MOST_FEATURES:
            raise ValueError(f"vectors have 1 to {_MOST_FEATURES} features, not {codes.shape[1]}")
        n_scales = 0 if storage == "float32" else len(codes)
        if scales.shape != (n_scales,) or scales.dtype != np.float32:
            raise ValueError(f"the scales are {scales.dtype} of shape {scales.shape}")
        store = cls(codes.shape[1], storage, unit)
        store._codes, store._scales, store._n = codes, scales, len(codes)
        with np.errstate(over="ignore", invalid="ignore"):
            if not all(_are_sound(block, unit) for _, block in store.blocks()):
                raise ValueError(
                    f"there are vectors that are not {'of unit length' if unit else 'finite'}"
                )
        return store


def _are_sound(vectors: Floats, unit: bool) -> bool:
    """Whether rows from a file are such as an index takes, and as searches rely on."""
    if not unit:  # a NaN compares as false
        most, least = vectors.max(initial=0), vectors.min(initial=0)
        return bool(least >= -_LARGEST and most <= _LARGEST)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    zero = squares == 0
    return bool((zero | (np.abs(squares - 1) <= _ROUNDING)).all() and not vectors[zero].any())


def hash_rows(codes: NDArray[Any], scales: Floats) -> NDArray[np.uint64]:
    """A hash of each encoded row: equal rows have equal ones.

    Parameters
    ----------
    codes : ndarray of shape (n, n_features)
    scales : ndarray of shape (n,) or (0,), dtype float32

    Returns
    -------
    hashes : ndarray of shape (n,), dtype uint64
        The bits of a random weighted sum, which is computed in the same order for every row.
    """
    weights = np.random.default_rng(0).uniform(0.5, 1, codes.shape[1] + 1)
    sums = np.zeros(len(codes))
    sums[: len(scales)] = scales * weights[-1]
    step = max(1, _BLOCK_ENTRIES // max(1, codes.shape[1]))
    for start in range(0, len(codes), step):
        block = codes[start : start + step].astype(np.float64)
        sums[start : start + step] += np.einsum("ij,j->i", block, weights[:-1])
    return (sums + 0.0).view(np.uint64)  # zeros with one sign


def first_of_equal(
    codes: NDArray[Any], scales: Floats, hashes: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of each set of equal rows, ascending, and the place therein of every row."""
    _, firsts, groups = np.unique(hashes, return_index=True, return_inverse=True)
    if len(firsts) == len(codes):
        every = np.arange(len(codes))
        return every, every
    leaders = firsts[groups]
    followers = np.flatnonzero(leaders != np.arange(len(codes)))
    differ = (codes[followers] != codes[leaders[followers]]).any(axis=1)
    if len(scales):
        differ |= scales[followers] != scales[leaders[followers]]
    unequal = followers[differ]
    leaders[unequal] = unequal  # of equal hash only: each stands for itself
    firsts, groups = np.unique(leaders, return_inverse=True)
    return firsts, groups


def first_places(hashes: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where each hash is, or any place if it is nowhere."""
    if len(wanted) <= _FEW:
        return np.array([int(np.argmax(hashes == one)) for one in wanted], np.int64)
    order = np.argsort(hashes, kind="stable")
    places = np.searchsorted(hashes, wanted, sorter=order)
    return order[np.minimum(places, len(order) - 1)]
