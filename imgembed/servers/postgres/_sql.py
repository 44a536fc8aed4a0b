"""Conditions in PostgreSQL's words: names are quoted, values are bound."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from psycopg import sql

from .._expressions import Column, Expression, Value

KEY = "imgembed_key"

# Types of columns and of values, by kind. Texts are compared byte by byte, as SQLite does.
SQL_TYPES: Mapping[str, sql.SQL] = {
    "boolean": sql.SQL("boolean"),
    "integer": sql.SQL("bigint"),
    "real": sql.SQL("double precision"),
    "text": sql.SQL('text COLLATE "C"'),
    "blob": sql.SQL("bytea"),
    "null": sql.SQL('text COLLATE "C"'),
}
_CASTS: Mapping[str, sql.SQL] = {
    kind: sql.SQL("({}::" + name + ")")
    for kind, name in {
        "boolean": "boolean",
        "integer": "bigint",
        "real": "double precision",
        "blob": "bytea",
        "null": "boolean",
    }.items()
} | {"text": sql.SQL('({}::text COLLATE "C")')}

# What differs from PostgreSQL's own words is so in order to mean what SQLite means: LIKE does
# not know case among ASCII letters and has no escape of its own, division by zero gives NULL.
_FORMS: Mapping[str, sql.SQL] = {
    "not": sql.SQL("(NOT {})"),
    "=": sql.SQL("({} = {})"),
    "<>": sql.SQL("({} <> {})"),
    "<": sql.SQL("({} < {})"),
    "<=": sql.SQL("({} <= {})"),
    ">": sql.SQL("({} > {})"),
    ">=": sql.SQL("({} >= {})"),
    "is": sql.SQL("({} IS NOT DISTINCT FROM {})"),
    "is not": sql.SQL("({} IS DISTINCT FROM {})"),
    "is null": sql.SQL("({} IS NULL)"),
    "+": sql.SQL("({} + {})"),
    "-": sql.SQL("({} - {})"),
    "*": sql.SQL("({} * {})"),
    "/": sql.SQL("({} / NULLIF({}, 0))"),
    "%": sql.SQL("({} %% NULLIF({}, 0))"),
    "negative": sql.SQL("(- {})"),
    "truth": sql.SQL("({} <> 0)"),
    "number": sql.SQL("({}::int::bigint)"),
    "abs": sql.SQL("abs({})"),
    "nullif": sql.SQL("NULLIF({}, {})"),
    "length": sql.SQL("length({})::bigint"),
    "lower": sql.SQL("lower({})"),
    "upper": sql.SQL("upper({})"),
    "trim": sql.SQL("btrim({}, ' ')"),
    "id as text": sql.SQL("(CASE WHEN left({0}, 1) = 't' THEN substr({0}, 2) END)"),
    "id as integer": sql.SQL(
        "(CASE WHEN {0} ~ '^n-?[0-9]+$' THEN substr({0}, 2)::numeric::bigint END)"
    ),
    "id as either": sql.SQL("(CASE WHEN left({0}, 1) <> 'b' THEN {0} END)"),
}
_LISTS: Mapping[str, tuple[str, str]] = {
    "and": ("(", " AND "),
    "or": ("(", " OR "),
    "coalesce": ("COALESCE(", ", "),
}


class PostgresCondition(NamedTuple):
    """A condition that PostgreSQL takes.

    Parameters
    ----------
    sql : psycopg.sql.Composable
    values : mapping of str to object
        For its placeholders.
    """

    sql: sql.Composable
    values: Mapping[str, Any]


def postgres_condition(expression: Expression) -> PostgresCondition:
    """An expression as PostgreSQL takes it.

    Parameters
    ----------
    expression : Expression

    Returns
    -------
    condition : PostgresCondition

    Examples
    --------
    >>> from imgembed.servers._conditions import read_condition
    >>> from imgembed.servers.postgres._sql import postgres_condition
    >>> written = postgres_condition(read_condition("price < 50", None, {"price": "integer"}))
    >>> written.sql.as_string(), written.values
    ('("price" < (%(v0)s::bigint))', {'v0': 50})
    """
    values: dict[str, Any] = {}
    written = _written(expression, values)
    return PostgresCondition(written, values)


def named(name: str) -> sql.Identifier:
    """A name in quotes, in a statement that has values: there ``%`` begins a placeholder.

    Parameters
    ----------
    name : str

    Returns
    -------
    identifier : psycopg.sql.Identifier
    """
    return sql.Identifier(name.replace("%", "%%"))


def _written(expression: Expression, values: dict[str, Any]) -> sql.Composable:
    """The words of an expression, whose values are put among the others."""
    if isinstance(expression, Column):
        return named(KEY if expression.kind == "id" else expression.name)
    if isinstance(expression, Value):
        name = f"v{len(values)}"
        values[name] = expression.value
        return _CASTS[expression.kind].format(sql.Placeholder(name))
    if expression.operator == "like":
        return _like(expression.operands, values)
    operands = [_written(operand, values) for operand in expression.operands]
    if expression.operator == "in":
        return sql.SQL("({} IN ({}))").format(operands[0], sql.SQL(", ").join(operands[1:]))
    if expression.operator in _LISTS:
        start, between = _LISTS[expression.operator]
        return sql.SQL(start) + sql.SQL(between).join(operands) + sql.SQL(")")
    return _FORMS[expression.operator].format(*operands)


def _like(operands: tuple[Expression, ...], values: dict[str, Any]) -> sql.Composable:
    text, pattern, *escape = [_written(operand, values) for operand in operands]
    form = "(lower({}) LIKE lower({}) ESCAPE {})"
    return sql.SQL(form).format(text, pattern, escape[0] if escape else sql.SQL("''"))
