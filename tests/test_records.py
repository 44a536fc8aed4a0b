"""Records: ids and columns of an index's items, in step with its slots."""

import datetime as dt
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from shop_records import behaviour, shop

from imgembed.index.records import _records
from imgembed.index.records._records import DuplicateIdError, Records, UnknownIdError

NOON = dt.datetime(2024, 5, 1, 12)
ROME = dt.timezone(dt.timedelta(hours=2))


def test_items_without_ids_are_numbered_and_have_no_table() -> None:
    records = Records()
    records.append(None, None, 3)
    records.append(None, None, 2)
    assert records._connection is None
    assert records.n_slots == len(records) == 5
    assert records.living().tolist() == records.ids_at(records.living()) == [0, 1, 2, 3, 4]
    assert records.find([4, 5, -1, True, 2.0, 2.5, float("inf"), "0"]).tolist() == [
        4, -1, -1, 1, 2, -1, -1, -1,
    ]  # fmt: skip
    assert records.records_at([0, 4]) == [{}, {}]
    assert 4 in records
    assert 5 not in records


def test_default_ids_go_on_from_the_largest_integer_that_there_ever_was() -> None:
    records = Records()
    records.append(None, None, 3)
    records.remove([2])
    records.append(None, None, 1)
    records.append([10, "x", 2**63, 11.5], None, 4)
    records.append(None, {"price": [1, 2]}, 2)
    assert records.ids_at(records.living()) == [0, 1, 3, 10, "x", 2**63, 11.5, 12, 13]


def test_slots_stay_until_they_are_renumbered() -> None:
    records = shop()
    assert records.n_slots == 6
    assert records.living().tolist() == [0, 1, 2, 4, 5]
    assert "d" not in records
    before = records.ids_at([0, 1, 2, 4, 5]), records.records_at([0, 1, 2, 4, 5])
    records.renumber()
    assert records.n_slots == 5
    assert (records.ids_at(np.arange(5)), records.records_at(np.arange(5))) == before
    records.append(["d"], None, 1)
    assert records.slots_of(["d", "a"]).tolist() == [5, 0]


@pytest.mark.parametrize("with_table", [False, True])
def test_slots_without_items_are_refused(with_table: bool) -> None:
    records = Records()
    records.append(None, None, 2)
    if with_table:
        records.where("1")
    for slot in (2, -1):
        with pytest.raises(IndexError, match=f"no item at slots .{slot}"):
            records.ids_at([0, slot])
        with pytest.raises(IndexError):
            records.remove([slot])
    with pytest.raises(TypeError, match="integers"):
        records.records_at([0.5])
    assert len(records) == 2


def test_duplicate_ids_are_named_and_change_nothing() -> None:
    records = shop()
    before = records.to_bytes()
    with pytest.raises(DuplicateIdError, match="given more than once: id 'e'"):
        records.append(["e", "f", "e"], None, 3)
    with pytest.raises(DuplicateIdError, match=r"already ids 'a', 5\.0"):
        records.append(["new", "a", 5.0], {"colour": ["red"] * 3}, 3)
    with pytest.raises(DuplicateIdError, match=r"\(7 in all\)"):
        records.append([*range(7), *range(7)], None, 14)
    with pytest.raises(DuplicateIdError):
        records.check_new(["a"], 1)
    with pytest.raises(ValueError, match="got 2 ids for 3 items"):
        records.append(["x", "y"], None, 3)
    with pytest.raises(TypeError, match="wanted a list"):
        records.append("xyz", None, 3)
    assert records.to_bytes() == before


def test_unknown_ids_are_named_readably() -> None:
    with pytest.raises(UnknownIdError) as caught:
        shop().slots_of(["a", "zebra", 10**5000])
    assert str(caught.value) == "no item has ids 'zebra', a very long int"


def test_upsert_replaces_what_is_there_and_adds_the_rest() -> None:
    records = shop()
    slots = records.upsert(["new", "b", 5], {"price": [7, 8, 9]}, 3)
    assert slots.tolist() == [6, 1, 4]
    shown = records.records_at([1, 6])
    assert [row["price"] for row in shown] == [8.0, 7.0]
    assert [row["category"] for row in shown] == [None, None]
    records.upsert(["a"], None, 1)
    assert records.records_at([0])[0]["category"] == "shoe"


@pytest.mark.parametrize(
    "make",
    [
        pd.DataFrame,
        pl.DataFrame,
        dict,
        lambda columns: [dict(zip(columns, row)) for row in zip(*columns.values())],  # noqa: B905
        lambda columns: {name: np.array(values, object) for name, values in columns.items()},
        lambda columns: {name: pd.Series(values, [5, 5]) for name, values in columns.items()},
    ],
    ids=["pandas", "polars", "dict", "dicts", "arrays", "series"],
)
def test_records_come_in_many_forms_and_go_out_in_one(make: Any) -> None:
    columns = {"i": [1, 2], "r": [0.5, None], "t": ["é\0", None], "b": [True, False],
               "y": [b"\0", b""], "d": [NOON, NOON]}  # fmt: skip
    records = Records()
    records.append(None, make(columns), 2)
    kinds = ["integer", "real", "text", "boolean", "blob", "datetime"]
    assert records.columns == dict(zip(columns, kinds, strict=True))
    assert repr(records.records_at([1, 0])) == repr(
        [{name: values[row] for name, values in columns.items()} for row in (1, 0)]
    )


def test_values_of_each_kind_come_back() -> None:
    kinds = {
        "boolean": [True, np.True_],
        "integer": [2**63 - 1, np.int8(-1)],
        "real": [float("inf"), np.float32(0.5)],
        "text": ["🎉", "x" * 100_000],
        "blob": [b"\0\xff", np.bytes_(b"a")],
        "path": [Path("a/b"), Path("c")],
        "date": [dt.date(1, 1, 1), np.datetime64("2024-05-01")],
        "datetime": [NOON, NOON.replace(microsecond=5)],
        "datetime_utc": [NOON.replace(tzinfo=ROME), pd.Timestamp(NOON, tz="UTC")],
        "uuid": [uuid.UUID(int=1), uuid.UUID(int=2)],
        "null": [None, float("nan")],
    }
    records = Records()
    records.append(None, kinds, 2)
    assert records.columns == {name: name for name in kinds}
    for table in (records, Records.from_bytes(records.to_bytes())):
        first, second = table.records_at([0, 1])
        assert first == {name: values[0] for name, values in kinds.items()}
        assert first["datetime_utc"].tzinfo == dt.UTC
        assert {name: type(value) for name, value in second.items() if name != "null"} == {
            name: type(value) for name, value in first.items() if name != "null"
        }
        assert second["null"] is None


def test_missing_values_are_none() -> None:
    frame = pd.DataFrame({"a": [1, None], "b": pd.array([None, 2], "Int64"), "c": [pd.NaT, NOON]})
    records = Records()
    records.append(None, frame, 2)
    assert records.records_at([0, 1]) == [
        {"a": 1.0, "b": None, "c": None}, {"a": None, "b": 2, "c": NOON},
    ]  # fmt: skip


def test_integers_and_reals_together_are_reals_unless_that_rounds() -> None:
    records = Records()
    records.append(None, {"n": [1, 3]}, 2)
    records.append(None, {"n": [0.5]}, 1)
    assert records.columns == {"n": "real"}
    assert repr(records.records_at([1, 2])) == "[{'n': 3.0}, {'n': 0.5}]"
    assert records.where("n / 2 = 1.5").tolist() == [1]
    with pytest.raises(ValueError, match=r"column 'n', row 1: .* rounded"):
        records.update([0, 1], {"n": [1, 2**53 + 1]})
    large = Records()
    large.append(None, {"n": [2**63 - 1]}, 1)
    before = large.to_bytes()
    with pytest.raises(ValueError, match="9223372036854775807 would be rounded"):
        large.append(None, {"n": [0.5], "new": ["x"]}, 1)
    assert large.to_bytes() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "x"], "column 'c' holds integer values, got text in row 1: 'x'"),
        ([True, 1], "holds boolean values, got integer in row 1"),
        (["a", b"a"], "holds text values, got blob"),
        ([NOON, NOON.replace(tzinfo=dt.UTC)], "holds datetime values, got datetime_utc"),
        ([1, 2**63], "column 'c', row 1: .* 64 bits"),
        ([1, 10**5000], "column 'c', row 1: a very long int does not fit"),
        ([0.5, 10**5000], "column 'c', row 1: .* rounded"),
        (["a", "\ud800"], "column 'c', row 1: .* surrogate"),
        ([None, [1]], r"column 'c', row 1: \[1\] \(list\) cannot be kept"),
        ([None, {}], "column 'c', row 1"),
        ([None, pd.Timestamp(1)], "column 'c', row 1: .* whole microseconds"),
        (np.array([1, 2], "m8[ns]"), "column 'c', row 0"),
        ("ab", "column 'c': wanted a list"),
        ([1], "column 'c' has 1 values for 2 items"),
        (np.zeros((2, 2)), "one dimension"),
    ],
)
def test_values_that_do_not_fit_are_named(values: Any, message: str) -> None:
    records = Records()
    with pytest.raises((ValueError, TypeError), match=message):
        records.append(None, {"fine": [1, 2], "c": values}, 2)
    assert len(records) == records.n_slots == 0
    assert records.columns == {}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "A"], "differ by case alone"),
        (["PRICE"], "'price' and 'PRICE' differ by case"),
        ([""], "1 to 100 characters"),
        (["x" * 101], "1 to 100 characters"),
        ([5], "column names are str, got 5"),
        (["a\0"], "NUL"),
        (["\ud800"], "surrogate"),
        (["Imgembed_slot"], "reserved"),
        ([f"n{number}" for number in range(500)], "more than the 500"),
    ],
)
def test_names_that_cannot_be_columns_are_refused(names: list[Any], message: str) -> None:
    records = shop()
    before = records.to_bytes()
    with pytest.raises((ValueError, TypeError), match=message):
        records.append(None, {name: [1] for name in names}, 1)
    assert records.to_bytes() == before


def test_other_forms_of_records_are_refused() -> None:
    records = shop()
    repeated = pd.DataFrame([[1, 2]], columns=["a", "a"])
    for unfit, message in [
        ("x", "records are"), (5, "records are"), ([1], "record 0 is 1"),
        ([{}, {}], "got 2 records for 1"), (repeated, "one name"),
    ]:  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=message):
            records.append(None, unfit, 1)


def test_upsert_empties_the_other_columns_and_update_leaves_them() -> None:
    records = shop()
    records.update([0], {"price": [11]})
    records.update([1, 2], [{"price": 5}, {"category": "cap", "colour": "red"}])
    rows = records.records_at([0, 1, 2])
    assert [row["price"] for row in rows] == [11.0, 5.0, None]
    assert [row["category"] for row in rows] == ["shoe", "shoe", "cap"]
    assert [row["colour"] for row in rows] == [None, None, "red"]
    assert records.upsert(["a"], [{"category": "boot"}], 1).tolist() == [0]
    assert records.records_at([0]) == [
        {"price": None, "category": "boot", "in_stock": None, "order by": None, "colour": None}
    ]


def test_a_copy_is_independent() -> None:
    for records in (shop(), Records()):
        twin = records.copy()
        before = behaviour(records)
        assert behaviour(twin) == before
        twin.append(["new", "gone"], {"colour": ["red", "red"]}, 2)
        twin.remove(twin.slots_of(["gone"]))
        assert behaviour(records) == before
        assert "new" in twin


def test_threads_read_while_one_writes() -> None:
    records, wrong, done = shop(), list[Any](), threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                assert records.slots_of(["a", (1, "x")]).tolist() == [0, 5]
                assert records.ids_at([4]) == [5]
                assert records.records_at([0])[0]["category"] == "shoe"
                assert records.where("id = 'a'").tolist() == [0]
        except Exception as error:
            wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for number in range(100):
        records.append([f"new {number}"], {"price": [number]}, 1)
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert len(records) == 105


def test_an_answer_that_is_kept_follows_the_changes() -> None:
    records = Records()
    records.append(None, {"price": [1, 2, 3]}, 3)
    for _ in range(2):
        assert records.where("price < ?", (3,)).tolist() == [0, 1]
    assert records.where("price < ?", (2,)).tolist() == [0]
    records.update([2], {"price": [0]})
    assert records.where("price < ?", (3,)).tolist() == [0, 1, 2]
    records.remove([0])
    assert records.where("price < ?", (3,)).tolist() == [1, 2]
    for bound in range(50):  # more than are kept
        wanted = [slot for slot, price in ((1, 2), (2, 0)) if price < bound]
        assert records.where("price < ?", (bound,)).tolist() == wanted
    with pytest.raises(ValueError, match="read-only"):
        records.where("price < ?", (3,))[0] = 7


def test_what_the_clock_may_change_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records()
    records.append(None, {"day": ["2020-01-01"]}, 1)
    asked = []
    monkeypatch.setattr(_records, "slots_where", lambda *question: asked.append(question[2]) or [0])
    for condition in ("day < date('now')", "day < '2021'"):
        for _ in range(2):
            assert records.where(condition).tolist() == [0]
    assert asked == ["day < date('now')"] * 2 + ["day < '2021'"]
