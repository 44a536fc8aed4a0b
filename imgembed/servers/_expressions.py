"""Expressions: what a condition says, with the kind of each part, for every server to write."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Numbers of which integers and reals are mixed are "number": how they divide is not known.
NUMBERS = ("integer", "real", "number")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the records.

    Parameters
    ----------
    name : str
    kind : {"boolean", "integer", "real", "text", "blob", "id"}
        "id" is the id of an item: text or a whole number, and nothing where it is neither.
    """

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Value:
    """A value, from the condition itself or from its parameters.

    Parameters
    ----------
    value : bool, int, float, str, bytes or None
    kind : {"boolean", "integer", "real", "text", "blob", "null"}
        Of None the kind that is wanted where it stands.
    """

    value: Any
    kind: str


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator or a function with its operands.

    Parameters
    ----------
    operator : str
        "and", "or", "not"; "=", "<>", "<", "<=", ">", ">=", "is", "is not", "is null", "in",
        "like" (text, pattern and perhaps an escape); "+", "-", "*", "/", "%", "negative";
        "truth" (of a number), "number" (of a boolean); "id as text", "id as integer",
        "id as either"; "abs", "coalesce", "nullif", "length", "lower", "upper", "trim".
    operands : tuple of Expression
    kind : str
        Of the result.
    """

    operator: str
    operands: tuple["Expression", ...]
    kind: str


Expression = Column | Value | Operation


class KindError(ValueError):
    """Operands of kinds that do not go together."""


def logical(expression: Expression) -> Expression:
    """An expression as true, false or unknown: numbers are true unless zero.

    Parameters
    ----------
    expression : Expression

    Returns
    -------
    expression : Expression
        Of kind "boolean".

    Raises
    ------
    KindError
        If it is text or bytes.
    """
    if expression.kind == "boolean":
        return expression
    if expression.kind == "null":
        return Value(None, "boolean")
    if expression.kind in NUMBERS:
        return Operation("truth", (expression,), "boolean")
    raise KindError(f"wanted a condition, got {_named(expression)}: compare it with something")


def numeric(expression: Expression) -> Expression:
    """An expression as a number: true is 1 and false 0.

    Parameters
    ----------
    expression : Expression

    Returns
    -------
    expression : Expression
        Of a kind in ``NUMBERS``, or "null".

    Raises
    ------
    KindError
        If it is text or bytes.
    """
    if expression.kind in (*NUMBERS, "null"):
        return expression
    if expression.kind == "id":
        return Operation("id as integer", (expression,), "integer")
    if expression.kind == "boolean":
        if isinstance(expression, Value) and expression.value is not None:
            return Value(int(expression.value), "integer")
        return Operation("number", (expression,), "integer")
    raise KindError(f"wanted a number, got {_named(expression)}")


def textual(expression: Expression) -> Expression:
    """An expression as text.

    Parameters
    ----------
    expression : Expression

    Returns
    -------
    expression : Expression
        Of kind "text" or "null".

    Raises
    ------
    KindError
        If it is of another kind.
    """
    if expression.kind in ("text", "null"):
        return expression
    if expression.kind == "id":
        return Operation("id as text", (expression,), "text")
    raise KindError(f"wanted text, got {_named(expression)}")


def comparable(expressions: Sequence[Expression]) -> list[Expression]:
    """Expressions of one kind, so that they can be compared.

    Parameters
    ----------
    expressions : sequence of Expression

    Returns
    -------
    expressions : list of Expression
        All booleans, numbers, texts or bytes; "null" takes the kind of the others.

    Raises
    ------
    KindError
        If they are of kinds that have no common one.
    """
    shared = _shared_kind(expressions)
    if shared == "number":
        fitted = [numeric(expression) for expression in expressions]
        of_nulls = "real"
    elif shared == "text":
        fitted = [textual(expression) for expression in expressions]
        of_nulls = "text"
    elif shared == "boolean":
        fitted, of_nulls = [_as_boolean(expression) for expression in expressions], "boolean"
    else:
        fitted, of_nulls = list(expressions), shared
    return [Value(None, of_nulls) if one.kind == "null" else one for one in fitted]


def _shared_kind(expressions: Sequence[Expression]) -> str:
    """The kind of all but NULLs: "boolean", "number", "text", "blob", or "null" of none."""
    kinds = {one.kind for one in expressions} - {"null"}
    families = {"number" if kind in NUMBERS else kind for kind in kinds}
    if families <= {"boolean", "number"} and families:
        booleans = families == {"boolean"} or all(
            one.kind in ("boolean", "null") or _is_zero_or_one(one) for one in expressions
        )
        return "boolean" if booleans else "number"
    if sum(one.kind == "id" for one in expressions) > 1:
        raise KindError("id is compared with itself; a server compares it with values")
    families -= {"id"}
    if not families:
        return "text" if kinds else "null"
    if len(families) == 1 and families <= {"text", "number", "blob"}:
        return families.pop()
    wanted = " with ".join(_named(one) for one in expressions[:2])
    raise KindError(f"cannot compare {wanted}; a server compares only what is of one kind")


def _is_zero_or_one(expression: Expression) -> bool:
    """Whether it is 0 or 1, as booleans are written where they are parameters."""
    return (
        isinstance(expression, Value)
        and expression.kind == "integer"
        and expression.value in (0, 1)
    )


def _as_boolean(expression: Expression) -> Expression:
    if isinstance(expression, Value) and expression.kind == "integer":
        return Value(bool(expression.value), "boolean")
    return expression


def _named(expression: Expression) -> str:
    """An expression in words."""
    if isinstance(expression, Column):
        return f"the column {expression.name!r} ({expression.kind})"
    if isinstance(expression, Value):
        return f"the {expression.kind} {expression.value!r:.50}"
    return f"the {expression.kind} that {expression.operator!r} gives"
