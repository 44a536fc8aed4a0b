"""Conditions as Milvus takes them, and the parameters of MilvusIndex; without a server."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgembed import MilvusIndex
from imgembed._check_index import CONDITIONS
from imgembed.servers._conditions import read_condition
from imgembed.servers._expressions import Column, Expression, Operation, Value
from imgembed.servers.milvus._conditions import (
    MilvusCondition,
    field_of,
    milvus_condition,
    one_of,
)

KINDS = {
    "n": "integer",
    "r": "real",
    "t": "text",
    "b": "boolean",
    "raw": "blob",
    "order by": "integer",
    "nothing": "null",
}


def written(condition: str, params: Any = None) -> MilvusCondition:
    return milvus_condition(read_condition(condition, params, KINDS), list(KINDS))


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ("n < 5", "c_n < 5"),
        ("5 < n", "c_n > 5"),
        ("NOT n < 5", "c_n >= 5"),
        ("n <> 5", "(c_n < 5 or c_n > 5)"),
        ("NOT n <> 5", "c_n == 5"),
        ("n < 2.5", "c_n <= 2"),
        ("n >= 2.5", "c_n >= 3"),
        ("n = 2.5", False),
        ("n <> 2.5", "(exists c_n)"),
        ("r > 2", "c_r > 2.0"),
        ("n BETWEEN 1 AND -2", "(c_n >= 1 and c_n <= -2)"),
        ("n IN (1, 2.5, 3.0)", "c_n in [1, 3]"),
        ("n NOT IN (1, 2)", "((exists c_n) and not (c_n in [1, 2]))"),
        ("n NOT IN (1, NULL)", False),
        ("n IN (NULL)", False),
        ("n NOT IN (2.5)", "(exists c_n)"),
        ("t IS NULL", "(not (exists c_t))"),
        ("t IS NOT NULL", "(exists c_t)"),
        ("t = 'a\"\\b'", 'c_t == "a\\"\\\\b"'),
        ("t = 'it''s'", 'c_t == "it\'s"'),
        ("b", "c_b == true"),
        ("NOT b", "c_b == false"),
        ("b IS NOT TRUE", "(c_b == false or (not (exists c_b)))"),
        ("b = ?", "c_b == true"),
        ("n", "(c_n < 0 or c_n > 0)"),
        ("raw = x'Ab01'", 'c_raw == "ab01"'),
        ('"order by" = 1', "c_5 == 1"),
        ("nothing = 1", False),
        ("nothing IS NULL", True),
        ("1 = 1", True),
        ("1 > 2", False),
        ("1 = 1 OR n = 2", True),
        ("1 > 2 AND n = 2", False),
        ("NULL", False),
        ("id = 'a'", '((imgembed_key >= "t" and imgembed_key < "u") and imgembed_key == "ta")'),
        ("id = 7", 'imgembed_key == "n7"'),
        ("id IS NULL", '(imgembed_key >= "b" and imgembed_key < "c")'),
        ("NOT (n < 5 OR t = 'a')", '(c_n >= 5 and (c_t < "a" or c_t > "a"))'),
    ],
)
def test_each_operator_has_its_words(condition: str, text: str | bool) -> None:
    assert written(condition, (True,) if "?" in condition else None) == (text, True)


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ("n = 1 AND length(t) > 2", "c_n == 1"),
        ("n = 1 OR length(t) > 2", True),
        ("NOT (n = 1 OR length(t) > 2)", "(c_n < 1 or c_n > 1)"),
        ("t LIKE 'a%'", True),
        ("n + 1 > 2 AND 1 > 2", False),
        ("n > r", True),
        ("(n = 1) IS NOT TRUE", True),
        ("id > 5", True),
        ("n > 1e300", True),
        ("n = ?", True),
    ],
)
def test_what_milvus_cannot_say_is_narrowed_down_by_what_it_can(
    condition: str, text: str | bool
) -> None:
    found = written(condition, (-(2**63),) if "?" in condition else None)
    assert found.text == text
    assert not found.is_exact or text is False


def test_most_conditions_of_the_contract_are_said_by_milvus() -> None:
    kinds = {
        "price": "real",
        "year": "integer",
        "category": "text",
        "name": "text",
        "in_stock": "boolean",
        "order by": "integer",
        "taken": "datetime",
    }
    exact = [
        condition
        for condition, params in CONDITIONS
        if milvus_condition(read_condition(condition, params, kinds), list(kinds)).is_exact
    ]
    assert len(exact) >= 22


def test_long_chains_are_not_nested_deeply() -> None:
    text = written(" OR ".join(f"n = {number}" for number in range(1_000))).text
    assert isinstance(text, str)
    depth = deepest = 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        deepest = max(deepest, depth)
    assert depth == 0
    assert deepest <= 12


def test_names_are_fields_that_expressions_can_hold() -> None:
    assert field_of("price", 3) == "c_price"
    assert field_of("order by", 3) == field_of("é", 3) == field_of("", 3) == "c_3"


def test_lists_are_quoted() -> None:
    assert one_of("f", ['a"] or true', "b"]).text == 'f in ["a\\"] or true", "b"]'
    assert one_of("f", []).text is False


_LITERALS = st.one_of(
    st.integers(-5, 5).map(str), st.sampled_from(["2.5", "-0.5", "NULL", "n", "r"])
)
_TESTS = st.recursive(
    st.one_of(
        st.tuples(
            st.sampled_from(["n", "r"]), st.sampled_from("= <> < <= > >= IS".split()), _LITERALS
        ).map(" ".join),
        st.tuples(st.sampled_from(["n", "r", "b", "t"]), st.just("IS NULL")).map(" ".join),
        st.lists(_LITERALS.filter(lambda one: one not in "nr"), min_size=1, max_size=3)
        .map(", ".join)
        .map("n NOT IN ({})".format),
        st.sampled_from(["b", "b IS NOT TRUE", "t = 'a'", "'a' < t", "n", "length(t) > 1"]),
    ),
    lambda inner: st.one_of(
        inner.map("NOT ({})".format),
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(
            "({0[0]} {0[1]} {0[2]})".format
        ),
    ),
    max_leaves=5,
)
_ROWS = st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-5, 5),
        "r": st.none() | st.integers(-5, 5).map(float) | st.just(2.5),
        "t": st.sampled_from([None, "a", "b", "abc"]),
        "b": st.none() | st.booleans(),
    }
)


@given(_TESTS, _ROWS)
def test_a_filter_keeps_what_is_true_and_an_exact_one_no_more(
    condition: str, row: dict[str, Any]
) -> None:
    expression = read_condition(condition, None, KINDS)
    found = milvus_condition(expression, list(KINDS))
    kept = found.text if isinstance(found.text, bool) else _as_milvus(found.text, row)
    if truth(expression, row):
        assert kept
    elif found.is_exact:
        assert not kept


def _as_milvus(text: str, row: dict[str, Any]) -> bool:
    """What Milvus makes of a filter: a comparison with a missing value is false."""
    words: dict[str, Any] = {f"c_{name}": Field(value) for name, value in row.items()}
    python = text.replace("exists c_", "here.c_").replace("true", "True").replace("false", "False")
    for name in row:
        python = python.replace(f"here.c_{name}", f"(c_{name}.value is not None)")
        python = python.replace(f"c_{name} in ", f"c_{name}.value in ")
    return bool(eval(python, {}, words))


class Field:
    """A dynamic field of an entity, which may be missing."""

    def __init__(self, value: Any) -> None:
        self.value = value

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self.value is not None and bool(self.value == other)

    def __lt__(self, other: Any) -> bool:
        return self.value is not None and bool(self.value < other)

    def __le__(self, other: Any) -> bool:
        return self.value is not None and bool(self.value <= other)

    def __gt__(self, other: Any) -> bool:
        return self.value is not None and bool(self.value > other)

    def __ge__(self, other: Any) -> bool:
        return self.value is not None and bool(self.value >= other)


def truth(expression: Expression, row: dict[str, Any]) -> Any:
    """The value of an expression in three-valued logic, None for unknown."""
    if isinstance(expression, Value):
        return expression.value
    if isinstance(expression, Column):
        return row[expression.name]
    values = [truth(operand, row) for operand in expression.operands]
    return _result(expression, values)


def _result(operation: Operation, values: list[Any]) -> Any:
    operator = operation.operator
    if operator == "and":
        return False if False in values else None if None in values else True
    if operator == "or":
        return True if True in values else None if None in values else False
    if operator == "is null":
        return values[0] is None
    if operator in ("is", "is not"):
        return (values[0] == values[1]) == (operator == "is")
    if operator == "in":
        found = values[0] is not None and values[0] in [
            one for one in values[1:] if one is not None
        ]
        return True if found else None if None in values else False
    if None in values:
        return None
    return {
        "not": lambda a: not a,
        "truth": lambda a: a != 0,
        "length": len,
        "=": lambda a, b: a == b,
        "<>": lambda a, b: a != b,
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
    }[operator](*values)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"collection": "no-name"}, "letters, digits"),
        ({"collection": "1st"}, "letters, digits"),
        ({"collection": "imgembed_indexes"}, "not for indexes"),
        ({"algorithm": "ivf"}, "algorithm"),
        ({"metric": "l1"}, "metric"),
        ({"M": 3}, "M"),
        ({"ef_construction": 5_000}, "ef_construction"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_a_wrong_parameter_is_named_before_the_server_is_asked(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MilvusIndex("http://127.0.0.1:1", **wrong).fit([[0.0, 1.0]])


def test_a_width_that_milvus_does_not_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="2 to 32,768 features, got 1"):
        MilvusIndex("http://127.0.0.1:1", metric="euclidean").fit([[1.0], [2.0]])


def test_no_address_and_no_token_is_shown() -> None:
    index = MilvusIndex("http://me:secret@host:19530", token="root:mellon")
    assert "secret" not in repr(index)
    assert "mellon" not in repr(index)
    assert "secret" not in repr(index.get_params())


def test_parameters_are_written_as_columns_hold_them() -> None:
    kinds = {"taken": "datetime"}
    condition = read_condition("taken >= ?", (dt.datetime(2024, 1, 15),), kinds)
    assert milvus_condition(condition, ["taken"]).text == 'c_taken >= "2024-01-15 00:00:00"'
