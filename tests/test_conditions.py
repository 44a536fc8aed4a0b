"""Conditions for servers: what is read, and what is refused. No server is needed."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgembed import WhereError
from imgembed._check_index import CONDITIONS
from imgembed.index.records._records import Records
from imgembed.servers._conditions import FUNCTIONS, read_condition
from imgembed.servers._expressions import Column, Expression, Operation, Value

COLUMNS = {
    "price": "real",
    "year": "integer",
    "category": "text",
    "in_stock": "boolean",
    "taken": "datetime",
    "empty": "null",
    "raw": "blob",
    "order by": "integer",
}


def shown(expression: Expression) -> str:
    """An expression in few words: operators first, values in repr."""
    if isinstance(expression, Column):
        return expression.name
    if isinstance(expression, Value):
        return repr(expression.value)
    return f"{expression.operator}({', '.join(map(shown, expression.operands))})"


@pytest.mark.parametrize(
    ("condition", "params", "wanted"),
    [
        ("price < 50", None, "<(price, 50)"),
        ("PRICE < ? AND category = ?", (50, "shoe"), "and(<(price, 50), =(category, 'shoe'))"),
        ("price < :p OR price > :p", {"p": 1.5}, "or(<(price, 1.5), >(price, 1.5))"),
        ("NOT price < 1 OR year = 2 AND in_stock", None,
         "or(not(<(price, 1)), and(=(year, 2), in_stock))"),
        ("price BETWEEN 1 AND 2", None, "and(>=(price, 1), <=(price, 2))"),
        ("price NOT IN (1, -2)", None, "not(in(price, 1, -2))"),
        ("category IS NULL AND price NOT NULL", None,
         "and(is null(category), not(is null(price)))"),
        ("category IS ?", (None,), "is null(category)"),
        ("category IS NOT ?", ("x",), "is not(category, 'x')"),
        ("in_stock = ?", (True,), "=(in_stock, True)"),
        ("in_stock = 2", None, "=(number(in_stock), 2)"),
        ("in_stock + 1 > year", None, ">(+(number(in_stock), 1), year)"),
        ("price IS TRUE", None, "is(truth(price), True)"),
        ("category LIKE 'a!%' ESCAPE '!'", None, "like(category, 'a!%', '!')"),
        ("category NOT LIKE ?", ("it''s",), "not(like(category, \"it''s\"))"),
        ("category = 'it''s; -- (?'", None, "=(category, \"it's; -- (?\")"),
        ("-price * (2 + year) % 3 > 1", None, None),
        ("[order by] = 1 OR `price` == 0x10", None, "or(=(order by, 1), =(price, 16))"),
        ("raw = x'00ff'", None, r"=(raw, b'\x00\xff')"),
        ("id = 'a'", None, "=(id as text(id), 'a')"),
        ("id % 2 = 0", None, "=(%(id as integer(id), 2), 0)"),
        ("empty = 5", None, "=(None, 5)"),
        ("empty IS NULL", None, "True"),
        ("NULL", None, "None"),
        ("coalesce(price, year, 0) < 1", None, "<(coalesce(price, year, 0), 1)"),
        ("length(trim(upper(category))) = 3", None, "=(length(trim(upper(category))), 3)"),
        ("taken >= '2024-05-01'", None, ">=(taken, '2024-05-01')"),
        ("1", None, "truth(1)"),
    ],
)  # fmt: skip
def test_conditions_become_expressions(condition: str, params: Any, wanted: str | None) -> None:
    if wanted is None:
        with pytest.raises(WhereError, match="% wants two integers"):
            read_condition(condition, params, COLUMNS)
    else:
        expression = read_condition(condition, params, COLUMNS)
        assert shown(expression) == wanted
        assert expression.kind == "boolean"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("category = 5", "cannot compare the column 'category' .text. with the integer 5"),
        ("price < '9'", "one kind"),
        ("category", "compare it with something"),
        ("category + 1 > 0", "wanted a number"),
        ("length(price) = 1", "wanted text"),
        ("price LIKE '1%'", "wanted text"),
        ("max(price, 1) > 2", "GREATEST has no place.*coalesce"),
        ("CASE WHEN price > 1 THEN 1 END", "CASE has no place"),
        ("CAST(price AS INTEGER) = 1", "CAST has no place"),
        ("category COLLATE NOCASE = 'x'", "COLLATE has no place"),
        ("category GLOB 'x*'", "GLOB has no place"),
        ("category || 'x' = 'y'", "no place"),
        ("year & 1", "no place"),
        ("price = year = 1", "parentheses"),
        ("price IN ()", "at least one"),
        ("price IN year", "syntax error|no such|share"),
        ("(price, year) = (1, 2)", "no place"),
        ("price year", "no place|syntax"),
        ("price <", "syntax error"),
        ("coalesce(price) = 1", "two operands"),
        ("coalesce(id, 1) = 1", "does not take id"),
        ("category LIKE 'a' ESCAPE 'aa'", "one character"),
        ("category LIKE 'a' ESCAPE category", "one character"),
        ("1e999 > price", "larger than any"),
        ("raw = x'0'", "hexadecimal"),
        ("lower(DISTINCT category) = 'x'", "no such column"),
        ("price IN (SELECT 1)", "no such column"),
        ("price = 1; DROP TABLE x", "no place"),
        ("NOT " * 3_000 + "1", "nested too deeply"),
        ("(" * 60 + "1" + ")" * 60, "60 deep"),
        ("1 " + "OR 1 " * 4_000, "more than 5000"),
        ("coalesce(price, 1) / 2 > 1", "write 2.0"),
    ],
)
def test_what_servers_do_not_share_is_refused_with_a_reason(condition: str, message: str) -> None:
    with pytest.raises(WhereError, match=message):
        read_condition(condition, None, COLUMNS)


def test_long_conditions_and_lists_are_read() -> None:
    many = read_condition("price = 1 " + "OR price = 2 " * 1_000, None, COLUMNS)
    assert isinstance(many, Operation)
    assert len(many.operands) == 1_001
    marks = ", ".join("?" * 2_000)
    listed = read_condition(f"year IN ({marks})", list(range(2_000)), COLUMNS)
    assert isinstance(listed, Operation)
    assert listed.operands[1:] == tuple(Value(number, "integer") for number in range(2_000))


def test_the_conditions_that_all_indexes_share_are_all_read() -> None:
    columns = {
        "price": "real", "year": "integer", "category": "text", "name": "text",
        "in_stock": "boolean", "order by": "integer", "taken": "datetime",
    }  # fmt: skip
    assert len(CONDITIONS) >= 30
    for condition, params in CONDITIONS:
        assert read_condition(condition, params, columns).kind == "boolean"


_WORDS = st.sampled_from(
    "price year category in_stock id empty ( ) ( ) , 'x' 'it''s' 1 2.5 0 = <> < >= + - * / % "
    "AND OR NOT IN LIKE BETWEEN IS NULL TRUE abs( coalesce( length( lower( ? ; -- . :: $1 {} "
    '%s " \\'.split()
)


def leaves(expression: Expression) -> list[Expression]:
    if isinstance(expression, Operation):
        return [leaf for operand in expression.operands for leaf in leaves(operand)]
    return [expression]


@settings(max_examples=500, deadline=None)
@given(st.lists(_WORDS, max_size=15).map(" ".join))
def test_whatever_is_read_is_made_of_columns_and_bound_values(condition: str) -> None:
    params = [7] * condition.count("?")
    try:
        expression = read_condition(condition, params, COLUMNS)
    except WhereError:
        return
    for leaf in leaves(expression):
        assert isinstance(leaf, Value) or leaf.name in {*COLUMNS, "id"}
    # What servers take, the embedded index takes too.
    records = Records()
    records.append(["a"], {name: [value] for name, value in _RECORD.items()}, 1)
    records.where(condition, params)


_RECORD = {"price": 1.5, "year": 3, "category": "x", "in_stock": True, "empty": None}


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(condition: str) -> None:
    with suppress(WhereError):
        read_condition(condition, None, COLUMNS)


def test_the_functions_are_a_part_of_those_of_the_embedded_index() -> None:
    for name in FUNCTIONS:
        text = "category" if name in ("length", "lower", "upper", "trim") else "price"
        second = ", 1" if name in ("coalesce", "ifnull", "nullif") else ""
        assert read_condition(f"{name}({text}{second}) IS NULL", None, COLUMNS).kind == "boolean"
