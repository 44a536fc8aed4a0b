"""Conditions on records: what is answered, and what is refused."""

import datetime as dt
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shop_records import shop

from imgembed.index.records import _where
from imgembed.index.records._records import Records
from imgembed.index.records._where import WhereError

ROME = dt.timezone(dt.timedelta(hours=2))


@pytest.mark.parametrize(
    ("condition", "params", "slots"),
    [
        ("price < 50 AND category = 'shoe'", None, [0, 5]),
        ("price < ? and category = ?", (50, "shoe"), [0, 5]),
        ("price < :p or price = :q or price = :p", {"p": np.int64(2), "q": 49, "more": 1}, [4, 5]),
        ("price < '9'", None, [4]),
        ("PRICE BETWEEN ? AND ?", np.array([10, 50]), [0, 5]),
        ("category LIKE 'SH%' AND NOT in_stock", None, [1]),
        ("category IS NULL", None, [4]),
        ("category IS ?", (None,), [4]),
        ("in_stock = TRUE AND price IS NOT NULL", None, [0, 5]),
        ('"order by" >= 5', None, [4, 5]),
        ("[order by] in (1, 2) AND `price` > 0", None, [0, 1]),
        ("id = 'b' OR id = 5", None, [1, 4]),
        ("id IS NULL", None, [5]),
        ("length(upper(category)) = 3 and 'it''s; -- (' <> category", None, [2]),
        ("CASE WHEN price > 40 THEN 1 ELSE 0 END", None, [1, 5]),
        ("coalesce(price, 0) + max(price, 1e0) > 100", None, [1]),
        ("CAST(price AS INTEGER) % 2 = 1", None, [1, 4, 5]),
        ("category COLLATE NOCASE IN ('HAT')", None, [2]),
        ("1", (), [0, 1, 2, 4, 5]),
        ("price > 1000", None, []),
    ],
)
def test_conditions_are_sql_on_the_columns(condition: str, params: Any, slots: list[int]) -> None:
    found = shop().where(condition, params)
    assert found.dtype == np.int64
    assert found.tolist() == slots


def test_conditions_work_on_numbered_items_dates_and_awkward_names() -> None:
    records = Records()
    records.append(None, None, 10)
    assert records.where("id % 4 = 1").tolist() == [1, 5, 9]
    days = [dt.datetime(2024, 5, day, tzinfo=ROME) for day in (1, 2)]
    awkward = {"é": ["a", "b"], 'say "x"': [1, 2], "select": [1, 2], "ID": ["p", "q"],
               "slot": [7, 8], "rowid": [1, 2], "taken": days}  # fmt: skip
    records.append(None, awkward, 2)
    for condition, params in [
        ("é = 'b'", None), ('"say ""x""" = 2', None), ('"select" = 2', None), ("id = 'q'", None),
        ("slot = 8", None), ("rowid > 1", None), ("taken > ?", [days[0]]),
        ("taken >= '2024-05-01 22:00'", None), ("date(taken) = '2024-05-01'", None),
    ]:  # fmt: skip
        assert records.where(condition, params).tolist()[-1:] == [11], condition


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("", "empty"),
        (" \n", "empty"),
        (5, "a str of SQL"),
        ("prize < 5", r"no such column; the columns are \['price', 'category'"),
        ('category = "shoe"', "single quotes"),
        ("category = `shoe`", "single quotes"),
        ("category = [shoe]", "single quotes"),
        ('category = "Sh""oe"', "single quotes"),
        ("price <", "syntax error"),
        ("1) OR (1", "parenthesis"),
        ("(1", "parenthesis"),
        ("1; DROP TABLE imgembed_items", "';"),
        ("1 -- comment", "'--"),
        ("1 /* comment", "'/"),
        ("1)--", "'--"),
        ("price IN (SELECT 1)", "no such column"),
        ("EXISTS (VALUES (1))", "no function 'EXISTS'"),
        ("1 UNION SELECT 1", "no such column"),
        ("1 ORDER BY price", "no such column"),
        ("1 LIMIT 1", "no such column"),
        ("rowid = 1", "no such column"),
        ("key = 1", "no such column"),
        ("c0 = 1", "no such column"),
        ("imgembed_slot = 1", "no such column"),
        ("id IN imgembed_items", "no such column"),
        ("imgembed_items.key = 1", "no such column|no place"),
        ("sqlite_master.name = 1", "no such column|no place"),
        ("randomblob(1000000000)", "no function 'randomblob'"),
        ("zeroblob(1000000000)", "no function"),
        ("load_extension('x')", "no function"),
        ("\"randomblob\"(5)", "no such column"),
        ("printf('%1000000000d', 1)", "no function"),
        ("count(*)", "no function 'count'"),
        ("max(price)", "aggregate"),
        ("max(price) OVER ()", "no function 'OVER'"),
        ("price MATCH 'x'", "no such column"),
        ("category REGEXP 'x'", "no such column"),
        ("price -> 1", "'-> 1'"),
        ("RAISE(ABORT, 'x')", "no function"),
        ("abs(-9223372036854775808)", "overflow"),
        ("price = 5abc", "no such column|token"),
        ("price = 'open", "no place"),
        ("price\0", "no place"),
        ("category = '\0'", "null character"),
        ("category = '\ud800'", "surrogate"),
        ("price = $p", "no place"),
        ("price = @p", "no place"),
        ("price = ?1", "no place"),
        ("(" * 2000 + "1" + ")" * 2000, "overflow|depth|too"),
        ("1 " + "OR 1 " * 15_000, "depth|too"),
        ("price + " * 20_000 + "1", "more than 100000"),
        ("price AND ATTACH", "no such column"),
        ("PRAGMA user_version", "no such column"),
    ],
)  # fmt: skip
def test_other_sql_is_refused_and_changes_nothing(condition: Any, message: str) -> None:
    records = shop()
    before = records.to_bytes()
    with pytest.raises(WhereError, match=message):
        records.where(condition)
    assert records.to_bytes() == before
    assert records.where("price = 1").tolist() == [4]


@pytest.mark.parametrize(
    ("condition", "params", "message"),
    [
        ("price < ?", None, "wants 1 parameters, got 0"),
        ("price < ?", (1, 2), "wants 1 parameters, got 2"),
        ("price < 5", (1,), "wants 0 parameters, got 1"),
        ("price < ?", {"p": 1}, "in a sequence"),
        ("price < :p", {"q": 1}, r"also \['p'\]"),
        ("price < :p", (1,), r"a mapping with \['p'\]"),
        ("price < :p and price > ?", (1,), "mixes"),
        ("price < ?", "5", "wanted a list"),
        ("price < ?", 5, "wanted a list"),
        ("price < ?", (float("nan"),), "IS NULL"),
        ("price < ?", (2**63,), "64 bits"),
        ("price in (?)", ([1, 2],), "a list takes a \\? for each value"),
        ("category = ?", ("\ud800",), "surrogate"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(condition: str, params: Any, message: str) -> None:
    with pytest.raises(WhereError, match=message):
        shop().where(condition, params)


def test_words_of_sql_are_columns_only_in_quotes() -> None:
    records = Records()
    names = ["select", "from", "index", "order", "values", "sqlite_master", "dbstat"]
    records.append(None, {name: [1] for name in names}, 1)
    for condition in ("1 IN (select select from)", "1 IN (values (1))", "index = 1", "order = 1"):
        with pytest.raises(WhereError, match=r"word of SQL|no function"):
            records.where(condition)
    for condition in ("1 IN sqlite_master", '1 IN "sqlite_master"', "1 IN dbstat"):
        with pytest.raises(WhereError):
            records.where(condition)
    assert records.where('"select" = "index"').tolist() == [0]


def test_the_authorizer_refuses_what_the_words_would_let_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_where, "_check_names", lambda tokens, fields: None)
    records = shop()
    before = records.to_bytes()
    for condition in (
        "1 IN (SELECT name FROM sqlite_master)",
        "length(randomblob(10))",
        "1 IN (SELECT name FROM pragma_table_info('imgembed_items'))",
        "1 IN (WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n)",
        "load_extension('x')",
    ):
        with pytest.raises(WhereError, match=r"not authorized|prohibited"):
            records.where(condition)
    assert records.to_bytes() == before


def test_a_condition_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records()
    records.append(None, {"n": range(50_000)}, 50_000)
    condition = " + ".join(["n % 3"] * 100)
    monkeypatch.setattr(_where, "_SECONDS", 0.0)
    with pytest.raises(WhereError, match="took more than 0 s"):
        records.where(condition)
    monkeypatch.undo()
    assert len(records.where("n < 10")) == 10


def test_patterns_with_many_wildcards_end_soon() -> None:
    records = Records()
    records.append(None, {"t": ["a" * 2000]}, 1)
    start = time.monotonic()
    for pattern, operator in (("%a" * 500 + "%b", "LIKE"), ("*a" * 500 + "*b", "GLOB")):
        assert records.where(f"t {operator} ?", [pattern]).tolist() == []
    assert time.monotonic() - start < 10


_WORDS = (
    "price category id ( ) ' \" ; -- /* select from , . ? :p and or not in 1 'a' \"price\" like "
    "max abs null case when end + - * || = < imgembed_items values"
)
_pieces = st.sampled_from([*_WORDS.split(), " ", "\0", "\ud800"])


@settings(deadline=None, max_examples=300)
@given(st.lists(_pieces, max_size=12), st.booleans())
def test_any_condition_is_answered_or_refused(pieces: list[str], spaced: bool) -> None:
    records = shop()
    before = records.to_bytes()
    try:
        found = records.where((" " if spaced else "").join(pieces))
    except WhereError:
        pass
    else:
        assert set(found.tolist()) <= {0, 1, 2, 4, 5}
    assert records.to_bytes() == before
