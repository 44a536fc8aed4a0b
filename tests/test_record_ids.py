"""Ids of items: any hashable that can be written, the same as in a dict."""

import datetime as dt
import uuid
from enum import IntEnum, StrEnum
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shop_records import behaviour, shop

from imgembed.index.records._records import Records

NOON = dt.datetime(2024, 5, 1, 12)
ROME = dt.timezone(dt.timedelta(hours=2))


ODD_IDS = [
    "", "é", "🎉", "a\0b", "\ud800", "\ud83d\ude00", "😀", "x" * 100_000, b"", b"\x00\xff",
    0, -1, 2**63 - 1, -(2**63), 2**63, -(2**80), 10**5000, 0.5, -1.5, float("inf"), 2.0**100,
    None, (), (1, ("a", None, b"b")), ((),), ("\ud800",), dt.date(2024, 5, 1), NOON,
    NOON.replace(tzinfo=ROME), NOON.replace(microsecond=1), uuid.UUID(int=7), Path("a/b"),
    PurePosixPath("c"), PureWindowsPath("C:/x"), "['str','61']", b'["int","0x1"]',
]  # fmt: skip


def test_odd_ids_come_back_as_they_were() -> None:
    records = Records()
    records.append(ODD_IDS, None, len(ODD_IDS))
    again = Records.from_bytes(records.to_bytes())
    for table in (records, again, records.copy()):
        back = table.ids_at(table.living())
        assert back == ODD_IDS
        assert list(map(type, back)) == list(map(type, ODD_IDS))
        assert table.find(ODD_IDS).tolist() == list(range(len(ODD_IDS)))


_numbers = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.integers(-3, 3).map(float),
    st.sampled_from([2**53, 2**53 + 1, 2.0**53, 2**63, 2.0**63, -(2.0**63), 2**70, 2.0**70, -0.0]),
)
_aware = st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 28)).map(
    lambda when: when.replace(tzinfo=ROME, fold=0)
)
_scalars = st.one_of(
    _numbers,
    st.none(),
    st.text(st.characters()),
    st.binary(),
    st.dates(),
    st.datetimes().map(lambda when: when.replace(fold=0)),
    _aware,
    _aware.map(lambda when: when.astimezone(dt.UTC)),
    st.uuids(),
    st.text("aB/.", max_size=3).map(PurePosixPath),
    st.text("aB/.", max_size=3).map(PureWindowsPath),
)
_ids = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)


@settings(deadline=None, max_examples=100)
@given(st.lists(_ids, max_size=12), _ids)
def test_ids_are_the_same_just_when_they_are_in_a_dict(ids: list[Any], other: Any) -> None:
    unique = dict.fromkeys(ids)
    records = Records()
    records.append(list(unique), None, len(unique))
    expected = {value: slot for slot, value in enumerate(unique)}
    assert records.find([*ids, other]).tolist() == [expected.get(v, -1) for v in [*ids, other]]
    shown = repr(records.ids_at(records.living()))
    assert shown.replace("-0.0", "0.0") == repr(list(unique)).replace("-0.0", "0.0")
    assert behaviour(Records.from_bytes(records.to_bytes())) == behaviour(records)


def test_scalars_of_numpy_and_pandas_become_pythons() -> None:
    given_ids = [
        np.int8(3), np.float32(0.5), np.str_("s"), np.bytes_(b"b"), np.datetime64("2024-05-01"),
        np.datetime64("2024-05-01T12:00", "ns"), pd.Timestamp(NOON, tz="UTC"), (np.int64(1), 2),
    ]  # fmt: skip
    records = Records()
    records.append(given_ids, None, len(given_ids))
    wanted = [
        3, 0.5, "s", b"b", dt.date(2024, 5, 1), NOON, NOON.replace(tzinfo=dt.UTC), (1, 2)
    ]  # fmt: skip
    back = records.ids_at(records.living())
    assert back == wanted
    assert list(map(type, back)) == list(map(type, wanted))
    assert records.find(np.array([3, 4])).tolist() == [0, -1]
    assert records.find(pd.Series(["s"])).tolist() == records.find(pl.Series(["s"])).tolist() == [2]
    assert np.True_ not in records


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    SMALL = 1


def test_members_of_enumerations_are_their_values() -> None:
    records = Records()
    records.append([Colour.RED, Size.SMALL], {"c": [Colour.RED, Colour.RED]}, 2)
    assert records.ids_at([0, 1]) == ["red", 1]
    assert records.find(["red", 1.0]).tolist() == [0, 1]
    assert repr(records.records_at([0])) == "[{'c': 'red'}]"


@pytest.mark.parametrize(
    "unfit",
    [float("nan"), np.nan, pd.NA, pd.NaT, [1], {}, object(), 1j, {1}, (1, [2]), (float("nan"),),
     np.datetime64("NaT"), np.timedelta64(5, "ns"), pd.Timestamp(1), np.arange(2)],
    ids=lambda unfit: repr(unfit).partition(" at ")[0],
)  # fmt: skip
def test_what_cannot_be_an_id_is_refused_and_in_no_index(unfit: Any) -> None:
    records = shop()
    with pytest.raises(TypeError, match="cannot be an id; ids are str, int"):
        records.append([unfit], None, 1)
    assert unfit not in records
    assert len(records) == 5


def test_tuples_nested_too_deeply_are_refused() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = (deep,)
    with pytest.raises(ValueError, match="nested more than 20 deep"):
        Records().append([deep], None, 1)
    assert deep not in shop()
