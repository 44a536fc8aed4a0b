"""Conditions in ClickHouse's words: names are quoted, values are digits."""

import struct
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from ...index import WhereError
from .._expressions import Column, Expression, Operation, Value

KEY = "imgembed_key"

#: Types of columns and of values, by kind. ClickHouse compares texts byte by byte, as SQLite does.
SQL_TYPES: Mapping[str, str] = {
    "boolean": "Nullable(Bool)",
    "integer": "Nullable(Int64)",
    "real": "Nullable(Float64)",
    "text": "Nullable(String)",
    "blob": "Nullable(String)",
    "null": "Nullable(String)",
}

# What differs from ClickHouse's own words is so in order to mean what SQLite means: LIKE does not
# know case among ASCII letters, division by zero gives NULL, lengths are those of characters.
_FORMS: Mapping[str, str] = {
    "not": "(NOT {})",
    "=": "({} = {})",
    "<>": "({} <> {})",
    "<": "({} < {})",
    "<=": "({} <= {})",
    ">": "({} > {})",
    ">=": "({} >= {})",
    "is": "({} IS NOT DISTINCT FROM {})",
    "is not": "({} IS DISTINCT FROM {})",
    "is null": "isNull({})",
    "truth": "({} <> 0)",
    "number": "toInt64({})",
    "nullif": "nullIf({}, {})",
    "length": "toInt64(lengthUTF8({}))",
    "lower": "lower({})",
    "upper": "upper({})",
    "trim": "trimBoth({})",
    "id as text": "if(startsWith({0}, 't'), substring({0}, 2), NULL)",
    "id as integer": "if(match({0}, '^n-?[0-9]+$'), toInt64OrNull(substring({0}, 2)), NULL)",
    "id as either": "if(startsWith({0}, 'b'), NULL, {0})",
}
# Integers of 64 bits wrap around in ClickHouse without a word: they are computed in 128, and a
# result that does not fit is an error.
_INTEGER_FORMS: Mapping[str, str] = {
    "+": "toInt128({}) + toInt128({})",
    "-": "toInt128({}) - toInt128({})",
    "*": "toInt128({}) * toInt128({})",
    "/": "intDivOrZero(toInt128({}), toInt128(nullIf({}, 0)))",
    "%": "moduloOrZero(toInt128({}), toInt128(nullIf({}, 0)))",
    "negative": "-toInt128({})",
    "abs": "abs(toInt128({}))",
}
# What is not a number is NULL in SQLite.
_REAL_FORMS: Mapping[str, str] = {
    "+": "toFloat64({}) + toFloat64({})",
    "-": "toFloat64({}) - toFloat64({})",
    "*": "toFloat64({}) * toFloat64({})",
    "/": "toFloat64({}) / toFloat64(nullIf({}, 0))",
    "negative": "-toFloat64({})",
    "abs": "abs(toFloat64({}))",
}
_LISTS: Mapping[str, tuple[str, str]] = {
    "and": ("(", " AND "),
    "or": ("(", " OR "),
    "coalesce": ("coalesce(", ", "),
}


def clickhouse_condition(expression: Expression) -> str:
    """An expression as ClickHouse takes it.

    Parameters
    ----------
    expression : Expression

    Returns
    -------
    condition : str
        Texts and reals in it are hexadecimal digits, so that no letter of a value is read as SQL,
        and no bit of a real is lost.

    Raises
    ------
    WhereError
        If ClickHouse cannot say it.

    Examples
    --------
    >>> from imgembed.servers._conditions import read_condition
    >>> from imgembed.servers.clickhouse._sql import clickhouse_condition
    >>> clickhouse_condition(read_condition("price < 50", None, {"price": "integer"}))
    "(`price` < CAST('50' AS Nullable(Int64)))"
    """
    return _Writer().written(expression)


def named(name: str) -> str:
    """A name in quotes.

    Parameters
    ----------
    name : str

    Returns
    -------
    quoted : str
    """
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def quoted(content: str | bytes) -> str:
    """A text or bytes as hexadecimal digits.

    Parameters
    ----------
    content : str or bytes

    Returns
    -------
    quoted : str
    """
    written = content.encode() if isinstance(content, str) else content
    return f"unhex('{written.hex()}')"


class _Writer:
    """Writes expressions, with a name of its own for each part that is said twice."""

    def __init__(self) -> None:
        self._numbers = count()

    def written(self, expression: Expression) -> str:
        """The words of an expression."""
        if isinstance(expression, Column):
            return named(KEY if expression.kind == "id" else expression.name)
        if isinstance(expression, Value):
            return _value(expression)
        if expression.operator == "like":
            return self._like(expression.operands)
        operands = [self.written(operand) for operand in _of_one_type(expression)]
        if expression.operator == "in":
            return self._membership(operands)
        if expression.operator in _INTEGER_FORMS:
            return self._arithmetic(expression, operands)
        if expression.kind == "number":  # integers and reals have no common type in ClickHouse
            operands = [f"toFloat64({operand})" for operand in operands]
        if expression.operator in _LISTS:
            start, between = _LISTS[expression.operator]
            return start + between.join(operands) + ")"
        return _FORMS[expression.operator].format(*operands)

    def _membership(self, operands: list[str]) -> str:
        # IN of ClickHouse is false, and not unknown, where a NULL is in the list.
        first, *members = operands
        name = f"imgembed_{next(self._numbers)}"
        others = [f"({name} = {member})" for member in members[1:]]
        return "(" + " OR ".join([f"(({first} AS {name}) = {members[0]})", *others]) + ")"

    def _arithmetic(self, expression: Operation, operands: list[str]) -> str:
        if expression.kind == "integer":
            computed = _INTEGER_FORMS[expression.operator].format(*operands)
            return f"accurateCast({computed}, 'Nullable(Int64)')"
        name = f"imgembed_{next(self._numbers)}"
        computed = _REAL_FORMS[expression.operator].format(*operands)
        return f"if(isNaN(({computed}) AS {name}), NULL, {name})"

    def _like(self, operands: tuple[Expression, ...]) -> str:
        text, pattern, *escape = operands
        if isinstance(pattern, Value):
            translated = _pattern(pattern, escape[0] if escape else None)
        elif escape:
            raise WhereError(
                "a server takes ESCAPE where the pattern of LIKE is a text in the condition or a "
                "parameter, and here it is computed"
            )
        else:
            backslash = quoted("\\")
            doubled = quoted("\\\\")
            translated = f"replaceAll({self.written(pattern)}, {backslash}, {doubled})"
        return f"like(lower({self.written(text)}), lower({translated}))"


def _of_one_type(expression: Operation) -> Sequence[Expression]:
    """The operands; NULL among those of which one is chosen is of the type of the others."""
    if expression.operator not in ("coalesce", "nullif") or expression.kind == "number":
        return expression.operands
    return [
        Value(None, expression.kind) if isinstance(one, Value) and one.value is None else one
        for one in expression.operands
    ]


def _value(value: Value) -> str:
    kind = SQL_TYPES[value.kind]
    if value.value is None:
        return f"CAST(NULL AS {kind})"
    return f"CAST({_digits(value.value)} AS {kind})"


def _digits(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"'{value}'"
    if isinstance(value, float):
        return f"reinterpretAsFloat64({quoted(struct.pack('<d', value))})"
    return quoted(value)


def _pattern(pattern: Value, escape: Expression | None) -> str:
    """A pattern of LIKE in which the backslash is the escape, as it always is in ClickHouse."""
    if pattern.value is None:
        return _value(pattern)
    mark = escape.value if isinstance(escape, Value) else None
    words, characters = [], iter(pattern.value)
    for character in characters:
        if character != mark:
            words.append("\\\\" if character == "\\" else character)
            continue
        following = next(characters, None)
        if following is None:
            raise WhereError(f"the pattern {pattern.value!r:.80} ends with its escape {mark!r}")
        words.append(f"\\{following}" if following in "%_\\" else following)
    return quoted("".join(words))
