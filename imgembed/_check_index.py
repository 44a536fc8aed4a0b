"""check_index: the contract of every index, wherever it is held."""

import datetime as dt
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from .base import FingerprintError
from .classical import HOGEmbedder
from .index import DuplicateIdError, NearestNeighborIndex, UnknownIdError, WhereError

# Distances are sums of float32.
_TOLERANCE = 1e-5
_N_FEATURES = 12

#: Conditions on which all indexes must agree, with parameters.
CONDITIONS: tuple[tuple[str, Any], ...] = (
    ("price < 50", None),
    ("price < ? AND category = ?", (50, "shoe")),
    ("price <= :p OR year >= :y", {"p": 20, "y": 2020}),
    ("PRICE BETWEEN ? AND ?", (10, 30.5)),
    ("year NOT BETWEEN 2001 AND 2015", None),
    ("category = 'shoe'", None),
    ("category <> 'shoe'", None),
    ("category != 'shoe' AND NOT (price > 30)", None),
    ("category IN ('shoe', 'hat')", None),
    ("year NOT IN (2001, 2002, 2003)", None),
    ("category IS NULL", None),
    ("category IS NOT NULL AND price IS NULL", None),
    ("category LIKE 'SH%'", None),
    ("name NOT LIKE '%e_1'", None),
    ("name LIKE ? ESCAPE '!'", ("%!%%",)),
    ("in_stock", None),
    ("NOT in_stock OR category = 'hat'", None),
    ("in_stock = ? AND year > 2005", (True,)),
    ("in_stock IS NULL", None),
    ("price * 2 + 1 > year - 1960", None),
    ("(year - 2000) / 3 = 2", None),
    ("year % 4 = 0 AND -price < -20", None),
    ("abs(year - 2010) <= 3", None),
    ("coalesce(price, 0) < 10", None),
    ("length(name) > 6", None),
    ("upper(category) = 'HAT' OR lower(name) = 'shoe 3'", None),
    ("name >= 'hat' AND name < 'shoe'", None),
    ('"order by" IN (?, ?, ?)', (1, 2, 3)),
    ("taken >= ? AND taken < '2024-03-01'", (dt.datetime(2024, 1, 15),)),
    ("id = 'item 7' OR id IN ('item 8', 'item 9') OR id IS NULL", None),
    ("1 = 1", None),
    ("price > 1000", None),
)

_REFUSED: tuple[tuple[Any, Any], ...] = (
    ("", None),
    ("prize < 5", None),
    ("price <", None),
    ("price < ?", None),
    ("price < 5", (1,)),
    ("price < ? OR price > :p", (1,)),
    ("1; DROP TABLE x", None),
    ("1 -- comment", None),
    ("price IN (SELECT 1)", None),
    ("pg_sleep(1)", None),
    ('category = "shoe"', None),
    ("category = 'open", None),
)


def check_index(index: Any, n_images: int = 200) -> None:
    """Check that an index does what :class:`NearestNeighborIndex` does.

    Among others: exact search finds the same ids, graphs find as many as they promise, 30
    conditions keep the same items, changes have the same effects, the same errors are raised, and
    vectors of another embedder are refused.

    Parameters
    ----------
    index : estimator
        With the methods ``fit``, ``add``, ``upsert``, ``remove``, ``update_records``,
        ``kneighbors``, ``search`` and ``select`` of :class:`NearestNeighborIndex`. It is cloned;
        where it is held by a server, what it holds there is replaced.
    n_images : int, default=200
        Random vectors to try it on, at least 100.

    Raises
    ------
    AssertionError
        If the contract is broken. The message says what was seen, a note which check it was.
    ValueError
        If there are fewer than 100 images.

    Notes
    -----
    An error that the index raises by itself passes through, with the note.

    Examples
    --------
    >>> from imgembed import NearestNeighborIndex
    >>> from imgembed.testing import check_index
    >>> check_index(NearestNeighborIndex(), n_images=100)
    """
    if n_images < 100:
        raise ValueError(f"check_index needs at least 100 images, got {n_images}")
    case = _Case(index, n_images)
    for check in _CHECKS:
        try:
            check(case)
        except Exception as error:
            error.add_note(f"in {check.__name__.lstrip('_')} of {index!r}")
            raise


@dataclass(frozen=True)
class _Case:
    """An index that is tried, vectors and records, and the embedded index with the same."""

    index: Any
    n_images: int

    @property
    def new(self) -> Any:
        return clone(self.index)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        rng = np.random.default_rng(0)
        return rng.normal(size=(self.n_images, _N_FEATURES)).astype(np.float32)

    @cached_property
    def queries(self) -> NDArray[np.float32]:
        return np.random.default_rng(1).normal(size=(20, _N_FEATURES)).astype(np.float32)

    @property
    def ids(self) -> list[str]:
        return [f"item {row}" for row in range(self.n_images)]

    @property
    def records(self) -> dict[str, list[Any]]:
        rows = range(self.n_images)
        kinds = ["shoe", "hat", None, "glove", "Shoe"]
        names = ["shoe", "hat", "Ärmel 5% \\", "glove", "Shoe"]
        return {
            "price": [None if row % 11 == 3 else row * 0.75 for row in rows],
            "year": [2000 + row * 7 % 25 for row in rows],
            "category": [kinds[row % 5] for row in rows],
            "name": [f"{names[row % 5]} {row}" for row in rows],
            "in_stock": [[True, False, None][row % 3] for row in rows],
            "order by": [row % 9 for row in rows],
            "taken": [dt.datetime(2024, 1 + row % 4, 1 + row % 28, row % 24) for row in rows],
        }

    def filled(self, index: Any) -> Any:
        return index.fit(self.vectors, ids=self.ids, records=self.records)

    @cached_property
    def fitted(self) -> Any:
        return self.filled(self.new)

    @cached_property
    def reference(self) -> NearestNeighborIndex:
        index = NearestNeighborIndex(metric=self.index.metric, algorithm="exact")
        fitted: NearestNeighborIndex = self.filled(index)
        return fitted


def _check_before_fit(case: _Case) -> None:
    for call in (
        lambda: case.new.kneighbors(case.queries),
        lambda: case.new.add(case.vectors),
        lambda: case.new.remove(["a"]),
        lambda: len(case.new),
    ):
        _assert_raises(NotFittedError, call, "what needs fit, before fit,")


def _check_exact_search(case: _Case) -> None:
    for k in (1, 7, case.n_images + 3):
        _assert_same_search(case.fitted, case.reference, case.queries, k)
    got = case.fitted.kneighbors(n_neighbors=4, exact=True)
    wanted = case.reference.kneighbors(n_neighbors=4, exact=True)
    assert np.array_equal(got[1], wanted[1]), "its own vectors have other neighbours"
    assert np.allclose(got[0], wanted[0], atol=_TOLERANCE), "and other distances"


def _check_what_is_there(case: _Case) -> None:
    index = case.fitted
    assert len(index) == index.n_samples_fit_ == case.n_images, f"it holds {len(index)} items"
    assert list(index) == case.ids, "its ids are others, or in another order"
    assert "item 3" in index
    assert "item x" not in index
    assert 3 not in index
    assert index.n_features_in_ == _N_FEATURES
    assert index.columns_ == case.reference.columns_, f"its columns are {index.columns_}"
    stored, wanted = index.vectors_, case.reference.vectors_
    assert stored.dtype == np.float32, f"vectors_ have the dtype {stored.dtype}"
    assert np.allclose(stored, wanted, atol=_TOLERANCE), "vectors_ are others"
    rows = np.array([5, 0, 5])
    assert np.allclose(index.vectors_at(rows), wanted[rows], atol=_TOLERANCE)


def _check_recall(case: _Case) -> None:
    target = case.index.target_recall
    for where in (None, "in_stock", "category = 'hat' AND price > 50"):
        got = case.fitted.kneighbors(case.queries, 10, where=where)[0]
        wanted = case.reference.kneighbors(case.queries, 10, where=where)[0]
        found = (got <= wanted[:, -1:] + _TOLERANCE).mean()
        assert found >= target, f"the recall where {where} is {found:.3f}, not {target}"


def _check_conditions(case: _Case) -> None:
    for condition, params in CONDITIONS:
        kept = [
            sorted(index.search(case.queries[:1], case.n_images, where=condition,
                                params=params, exact=True).ids[0])
            for index in (case.fitted, case.reference)
        ]  # fmt: skip
        assert kept[0] == kept[1], (
            f"where {condition!r} with {params!r} keeps {len(kept[0])} items instead of "
            f"{len(kept[1])}; only one of both has {sorted({*kept[0]} ^ {*kept[1]})[:5]}"
        )
        _assert_same_selection(case, condition, params=params)


def _check_selections(case: _Case) -> None:
    assert list(case.fitted.select()) == case.ids, (
        "select without a condition must give all, in order"
    )
    mask = np.arange(case.n_images) % 3 == 1
    for where in (None, mask, ["item 9", "item 2"], "year > 2010", "price > 1000"):
        for limit in (None, 0, 5, case.n_images + 1):
            _assert_same_selection(case, where, limit=limit)
    _assert_raises(ValueError, _call(case.fitted.select, limit=-1), "limit=-1")
    _assert_raises(ValueError, _call(case.fitted.select, params=(1,)), "params without where")


def _check_masks_and_ids(case: _Case) -> None:
    mask = np.arange(case.n_images) % 3 == 1
    for where in (mask, mask.tolist(), ["item 9", "item 2"]):
        _assert_same_search(case.fitted, case.reference, case.queries, 3, where=where)
    for where, kind in (
        (mask[:-1], ValueError),
        (["item x"], UnknownIdError),
        (5, TypeError),
    ):
        call = _call(case.fitted.kneighbors, case.queries, where=where)
        _assert_raises(kind, call, f"where={where!r:.40}")


def _check_refused_conditions(case: _Case) -> None:
    for condition, params in _REFUSED:
        call = _call(case.fitted.search, case.queries, where=condition, params=params)
        _assert_raises(WhereError, call, f"where={condition!r} with {params!r}")
        call = _call(case.fitted.select, condition, params=params)
        _assert_raises(WhereError, call, f"select({condition!r}) with {params!r}")
    call = _call(case.fitted.search, case.queries, params=(1,))
    _assert_raises(ValueError, call, "params without where")


def _check_wrong_input(case: _Case) -> None:
    index, before = case.fitted, list(case.fitted)
    vectors = case.vectors[:2]
    nan = np.full((1, _N_FEATURES), np.nan, np.float32)
    for kind, call, what in (
        (ValueError, _call(index.kneighbors, vectors[:, :3]), "queries of another width"),
        (ValueError, _call(index.kneighbors, nan), "queries of NaN"),
        (ValueError, _call(index.kneighbors, vectors, 0), "no neighbours"),
        (ValueError, _call(index.add, nan), "vectors of NaN"),
        (ValueError, _call(index.add, vectors, ids=["one"]), "one id for two vectors"),
        (ValueError, _call(index.add, vectors, records={"price": [1]}), "one record for two"),
        (ValueError, _call(index.add, vectors, records={"price": ["a", "b"]}), "text for reals"),
        (DuplicateIdError, _call(index.add, vectors, ids=["item 1", "new"]), "an id again"),
        (DuplicateIdError, _call(index.add, vectors, ids=["new", "new"]), "an id twice"),
        (DuplicateIdError, _call(index.upsert, vectors, ["new", "new"]), "an id twice"),
        (UnknownIdError, _call(index.remove, ["item 1", "item x"]), "an unknown id"),
        (UnknownIdError, _call(index.update_records, ["x"], {"price": [1]}), "an unknown id"),
        (TypeError, _call(index.add, vectors, ids=[1, object()]), "an id that cannot be kept"),
    ):
        _assert_raises(kind, call, what)
    assert list(index) == before, "a call that failed has changed the index"
    _assert_same_search(index, case.reference, case.queries, 5)


def _check_changes(case: _Case) -> None:
    """The same changes, one after the other, of this index and of the reference."""
    new = np.random.default_rng(2).normal(size=(6, _N_FEATURES)).astype(np.float32)
    both = [case.filled(case.new), case.filled(clone(case.reference))]
    changes: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        ("add", lambda index: index.add(new[:2], ids=["a", "b"], records={"price": [1, 2.5]})),
        ("add with a new column", lambda index: index.add(new[2:4], records=[{"size": 4}, {}])),
        ("remove", lambda index: index.remove(["item 0", "item 50", "a"])),
        ("upsert", lambda index: index.upsert(
            new[3:6], ["item 3", "z", 201], records={"year": [1, 2, 3]})),
        ("upsert without records", lambda index: index.upsert(new[:1], ["item 4"])),
        ("update_records", lambda index: index.update_records(
            ["item 5", "b"], [{"price": -4.0}, {"category": "new"}])),
        ("a column of reals after integers", lambda index: index.update_records(
            ["item 6"], {"year": [0.5]})),
        ("add without ids", lambda index: index.add(new[4:5])),
    )  # fmt: skip
    for what, change in changes:
        for index in both:
            assert change(index) is index, f"{what} must return the index"
        assert list(both[0]) == list(both[1]), f"after {what} the ids are others"
        assert both[0].columns_ == both[1].columns_, f"after {what} the columns are others"
        _assert_same_search(both[0], both[1], case.queries, len(both[1]))
        assert both[0].select() == both[1].select(), f"after {what} the records are others"
    case.filled(both[0])
    _assert_same_search(both[0], case.reference, case.queries, 5)


def _check_ids_of_all_kinds(case: _Case) -> None:
    ids = [1, "1", 2.5, 3.0, True + 4, None, b"x", (1, ("a", None)), dt.date(2024, 5, 1), "Ä '\"%s"]
    index = case.new.fit(case.vectors[: len(ids)], ids=ids)
    assert repr(list(index)) == repr(ids), f"ids {ids} came back as {list(index)}"
    found = index.search(case.vectors[: len(ids)], 1, exact=True).ids
    if case.index.metric != "ip":
        assert [repr(row[0]) for row in found] == list(map(repr, ids))
    assert (1.0 in index, (1, ("a", None)) in index, "2.5" in index) == (True, True, False)
    index.remove([None, 3])
    assert len(index) == len(ids) - 2
    case.filled(case.fitted)


def _check_fingerprint(case: _Case) -> None:
    embedder, other = HOGEmbedder(), HOGEmbedder(n_orientations=5)
    index = case.new.fit(case.vectors, embedder=embedder)
    assert index.fingerprint_ == embedder.fingerprint(), "fingerprint_ is another one"
    index.check_embedder(embedder)
    index.kneighbors(case.queries, embedder=embedder)
    for call in (
        _call(index.check_embedder, other),
        _call(index.kneighbors, case.queries, embedder=other),
        _call(index.search, case.queries, embedder=other),
        _call(index.add, case.vectors, embedder=other),
        _call(index.upsert, case.vectors, list(range(case.n_images)), embedder=other),
    ):
        error = _assert_raises(FingerprintError, call, "another embedder")
        assert "n_orientations" in str(error) or "orientations" in str(error), (
            f"the error does not say what differs: {error}"
        )
    assert len(index) == case.n_images
    case.filled(case.fitted)
    assert case.fitted.fingerprint_ is None, "fingerprint_ without an embedder is not None"


def _check_pickles(case: _Case) -> None:
    again = pickle.loads(pickle.dumps(case.fitted))  # noqa: S301
    _assert_same_search(again, case.reference, case.queries, 5)


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: function(*args, **kwargs)


def _assert_raises(kind: type[Exception], call: Callable[[], object], what: str) -> Exception:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{what} must raise {kind.__name__}, and raised nothing")


def _assert_same_selection(case: _Case, where: Any, **options: Any) -> None:
    got = case.fitted.select(where, **options)
    wanted = case.reference.select(where, **options)
    assert list(got) == list(wanted), (
        f"select({where!r}, {options}) gives {list(got)[:5]}... instead of {list(wanted)[:5]}..."
    )
    assert got == wanted, f"select({where!r}, {options}) gives other records"


def _assert_same_search(
    index: Any, reference: Any, queries: NDArray[np.float32], k: int, where: Any = None
) -> None:
    """Exact search finds the same ids, rows, distances and records."""
    got = index.search(queries, k, where=where, exact=True)
    wanted = reference.search(queries, k, where=where, exact=True)
    assert got.ids == wanted.ids, f"ids {got.ids[0][:5]}... instead of {wanted.ids[0][:5]}..."
    assert np.array_equal(got.rows, wanted.rows), "the ids are right, and the rows are others"
    close = np.isclose(got.distances, wanted.distances, atol=_TOLERANCE, rtol=_TOLERANCE)
    assert close.all(), f"distances {got.distances[0][:5]} instead of {wanted.distances[0][:5]}"
    assert got.records == wanted.records, "the ids are right, and the records are others"


_CHECKS = (
    _check_before_fit,
    _check_exact_search,
    _check_what_is_there,
    _check_recall,
    _check_conditions,
    _check_selections,
    _check_masks_and_ids,
    _check_refused_conditions,
    _check_wrong_input,
    _check_changes,
    _check_ids_of_all_kinds,
    _check_fingerprint,
    _check_pickles,
)
