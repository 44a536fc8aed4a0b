"""Conditions in Milvus's words: what they can say decides, or narrows down who is asked further.

Milvus has comparisons of a column with values, ``in``, ``exists``, and, or, not; whether a missing
value makes ``not`` true depends on its version. So an expression is written in two forms, what is
surely true and what is surely false, and ``not`` changes one into the other: no form relies on what
a comparison says of a missing value, save that it does not say true.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...index.records._values import INT64, is_utf8
from .._expressions import NUMBERS, Column, Expression, Operation, Value

#: Fields of a collection.
KEY, SLOT, VECTOR, ORIGINAL = (
    "imgembed_key",
    "imgembed_slot",
    "imgembed_vector",
    "imgembed_original",
)

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FLIPPED: Mapping[str, str] = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_OPPOSITE: Mapping[str, str] = {"=": "<>", "<>": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_OF_VALUES: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda left, right: bool(left == right),
    "<>": lambda left, right: bool(left != right),
    "<": lambda left, right: bool(left < right),
    "<=": lambda left, right: bool(left <= right),
    ">": lambda left, right: bool(left > right),
    ">=": lambda left, right: bool(left >= right),
}
# The first letter of a key tells the kind of the id.
_IS_TEXT = f'({KEY} >= "t" and {KEY} < "u")'
_IS_OTHER = f'({KEY} >= "b" and {KEY} < "c")'
_ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class MilvusCondition(NamedTuple):
    """A condition as far as Milvus can say it.

    Parameters
    ----------
    text : str or bool
        A filter that keeps all for which the condition is true; True keeps all, False none.
    is_exact : bool
        Whether it keeps no other.
    """

    text: str | bool
    is_exact: bool = True

    @property
    def filter(self) -> str:
        """The text as Milvus takes it, of a condition that keeps some; "" keeps all."""
        return "" if self.text is True else str(self.text)


#: A condition that all items fulfil.
ALL = MilvusCondition(True)
_NOT_SAID = MilvusCondition(True, is_exact=False)


def milvus_condition(expression: Expression, columns: Sequence[str]) -> MilvusCondition:
    """Write an expression as far as Milvus can say it.

    Parameters
    ----------
    expression : Expression
        Of kind "boolean".
    columns : sequence of str
        All columns of the records, in order.

    Returns
    -------
    condition : MilvusCondition

    Examples
    --------
    >>> from imgembed.servers._conditions import read_condition
    >>> from imgembed.servers.milvus._conditions import milvus_condition
    >>> kinds = {"price": "integer", "name": "text"}
    >>> milvus_condition(read_condition("NOT price < 50", None, kinds), list(kinds))
    MilvusCondition(text='c_price >= 50', is_exact=True)
    >>> milvus_condition(read_condition("price < 5 AND length(name) > 2", None, kinds), list(kinds))
    MilvusCondition(text='c_price < 5', is_exact=False)
    """
    fields = {name: field_of(name, position) for position, name in enumerate(columns)}
    return _Writer(fields).written(expression, True)


def field_of(name: str, position: int) -> str:
    """The dynamic field of a column: with its name, if Milvus's expressions can hold that.

    Parameters
    ----------
    name : str
    position : int
        Among the columns of the records.

    Returns
    -------
    field : str
    """
    return f"c_{name}" if _IDENTIFIER.fullmatch(name) else f"c_{position}"


def columns_of(expression: Expression) -> set[str]:
    """The columns that an expression names, without the id.

    Parameters
    ----------
    expression : Expression

    Returns
    -------
    names : set of str
    """
    return {one.name for one in _leaves(expression) if isinstance(one, Column) and one.kind != "id"}


def one_of(field: str, values: Sequence[str] | Sequence[int]) -> MilvusCondition:
    """The condition that a field has one of these values.

    Parameters
    ----------
    field : str
    values : sequence of str or int

    Returns
    -------
    condition : MilvusCondition
    """
    if not values:
        return MilvusCondition(False)
    return MilvusCondition(f"{field} in [{', '.join(map(_literal, values))}]")


def _leaves(expression: Expression) -> Iterator[Expression]:
    if isinstance(expression, Operation):
        for operand in expression.operands:
            yield from _leaves(operand)
    else:
        yield expression


class _Writer:
    """Writes expressions, whose columns are in fields of these names."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def written(self, expression: Expression, wanted: bool) -> MilvusCondition:
        """What is surely true of an expression, or surely false."""
        if isinstance(expression, Value):
            return MilvusCondition(expression.value is wanted)
        if isinstance(expression, Column):
            return MilvusCondition(f"{self._fields[expression.name]} == {_literal(wanted)}")
        operator, operands = expression.operator, expression.operands
        if operator == "not":
            return self.written(operands[0], not wanted)
        if operator in ("and", "or"):
            parts = [self.written(operand, wanted) for operand in operands]
            return _all_of(parts) if (operator == "and") == wanted else _any_of(parts)
        if operator == "truth":
            operands = (operands[0], Value(0, "integer"))
            return self._compared("<>" if wanted else "=", *operands)
        if operator == "is null":
            return self._null_test(operands[0], wanted)
        if operator == "in":
            return self._membership(operands, wanted)
        if operator in ("is", "is not"):
            return self._distinction(operands, (operator == "is") == wanted)
        if operator in _OF_VALUES:
            return self._compared(operator if wanted else _OPPOSITE[operator], *operands)
        return _NOT_SAID

    def _compared(self, operator: str, left: Expression, right: Expression) -> MilvusCondition:
        """A comparison that is true, of which no side is missing then."""
        if isinstance(left, Value):
            if isinstance(right, Value):
                return _of_values(operator, left.value, right.value)
            left, right, operator = right, left, _FLIPPED[operator]
        if not isinstance(right, Value):
            return _NOT_SAID
        if right.value is None:
            return MilvusCondition(False)
        if isinstance(left, Operation):
            return _of_id(left, operator, right.value)
        return _of_field(self._fields[left.name], left.kind, operator, right.value)

    def _membership(self, operands: Sequence[Expression], wanted: bool) -> MilvusCondition:
        value, *members = operands
        operator = "=" if wanted else "<>"
        parts = [self._compared(operator, value, member) for member in members]
        if not isinstance(value, Column) or value.kind not in ("integer", "real", "text"):
            return _any_of(parts) if wanted else _all_of(parts)
        if not all(isinstance(member, Value) and _is_plain(member.value) for member in members):
            return _any_of(parts) if wanted else _all_of(parts)
        field = self._fields[value.name]
        fitted = [_fitted(value.kind, one.value) for one in members if isinstance(one, Value)]
        listed = one_of(field, [one for one in fitted if one is not None])
        has_null = any(isinstance(one, Value) and one.value is None for one in members)
        if wanted:
            return listed
        if has_null:
            return MilvusCondition(False)
        known = _is_there(field)
        return MilvusCondition(f"({known} and not ({listed.text}))" if listed.text else known)

    def _null_test(self, operand: Expression, wanted: bool) -> MilvusCondition:
        if isinstance(operand, Column):
            known = _is_there(self._fields[operand.name])
            return MilvusCondition(f"(not {known})" if wanted else known)
        if isinstance(operand, Operation) and operand.operator == "id as either":
            return MilvusCondition(_IS_OTHER if wanted else f'({KEY} < "b" or {KEY} >= "c")')
        return _NOT_SAID

    def _distinction(self, operands: Sequence[Expression], same: bool) -> MilvusCondition:
        """IS and IS NOT, with a value that is there: they know a missing one from it."""
        left, right = operands if isinstance(operands[1], Value) else tuple(reversed(operands))
        if not isinstance(left, Column) or not isinstance(right, Value) or right.value is None:
            return _NOT_SAID
        if same:
            return self._compared("=", left, right)
        return _any_of([self._compared("<>", left, right), self._null_test(left, True)])


def _is_there(field: str) -> str:
    return f"(exists {field})"  # without parentheses it takes in what comes after it


def _of_values(operator: str, left: Any, right: Any) -> MilvusCondition:
    if left is None or right is None:
        return MilvusCondition(False)
    return MilvusCondition(_OF_VALUES[operator](left, right))


def _of_field(field: str, kind: str, operator: str, value: Any) -> MilvusCondition:
    if kind == "boolean":
        return _of_boolean(field, operator, value)
    if kind in NUMBERS:
        operator, value = _fitted_comparison(kind, operator, value)
        if isinstance(value, bool):
            return MilvusCondition(_is_there(field) if value else False)
    if not _is_plain(value):
        return _NOT_SAID
    literal = _literal(value)
    if operator == "<>":  # of which a missing value must not be true
        return MilvusCondition(f"({field} < {literal} or {field} > {literal})")
    return MilvusCondition(f"{field} {'==' if operator == '=' else operator} {literal}")


def _of_boolean(field: str, operator: str, value: bool) -> MilvusCondition:
    parts = [one for one in (False, True) if _OF_VALUES[operator](one, value)]
    return _any_of([MilvusCondition(f"{field} == {_literal(one)}") for one in parts])


def _of_id(operation: Operation, operator: str, value: Any) -> MilvusCondition:
    """A comparison of the id: its key begins with the kind of the id."""
    if operation.operator == "id as text":
        key = _literal(f"t{value}")
        sign = {"=": "==", "<>": "!="}.get(operator, operator)
        return MilvusCondition(f"({_IS_TEXT} and {KEY} {sign} {key})")
    if operation.operator == "id as integer" and operator == "=" and isinstance(value, int):
        return MilvusCondition(f"{KEY} == {_literal(f'n{value}')}")
    return _NOT_SAID


def _fitted_comparison(kind: str, operator: str, value: Any) -> tuple[str, Any]:
    """A comparison of numbers with a value of the column's kind; a bool where it is decided."""
    if not _is_plain(value):
        return operator, value
    fitted = _fitted(kind, value)
    if fitted is not None:
        return operator, fitted
    if kind == "integer":
        if operator in ("=", "<>"):
            return operator, operator == "<>"
        floor = math.floor(value)
        if floor + 1 in INT64 and floor in INT64:
            return ("<=", floor) if operator in ("<", "<=") else (">=", floor + 1)
    return operator, None


def _fitted(kind: str, value: Any) -> Any:
    """A value as its column holds such, or None if it holds none that is equal."""
    if kind == "integer" and isinstance(value, float):
        return int(value) if value.is_integer() and int(value) in INT64 else None
    if kind == "real" and isinstance(value, int):
        return float(value) if float(value) == value else None
    return value


def _is_plain(value: Any) -> bool:
    """Whether Milvus's expressions can hold a value."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return is_utf8(value)
    return value is not None and (not isinstance(value, int) or value > INT64.start)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        value = value.hex()
    if isinstance(value, str):
        return '"' + "".join(_ESCAPED.get(letter, letter) for letter in value) + '"'
    return repr(value)


def _all_of(parts: Sequence[MilvusCondition]) -> MilvusCondition:
    if any(part.text is False for part in parts):
        return MilvusCondition(False)
    return _joined("and", [part for part in parts if part.text is not True], parts)


def _any_of(parts: Sequence[MilvusCondition]) -> MilvusCondition:
    everything = [part for part in parts if part.text is True]
    if everything:
        return MilvusCondition(True, any(part.is_exact for part in everything))
    said = [part for part in parts if part.text is not False]
    return _joined("or", said, parts) if said else MilvusCondition(False)


def _joined(
    word: str, said: Sequence[MilvusCondition], parts: Sequence[MilvusCondition]
) -> MilvusCondition:
    is_exact = all(part.is_exact for part in parts)
    if not said:
        return MilvusCondition(True, is_exact)
    return MilvusCondition(_balanced(word, [str(part.text) for part in said]), is_exact)


def _balanced(word: str, texts: Sequence[str]) -> str:
    """Texts joined two by two: a chain of hundreds would be nested too deeply for the server."""
    if len(texts) == 1:
        return texts[0]
    middle = len(texts) // 2
    first, second = _balanced(word, texts[:middle]), _balanced(word, texts[middle:])
    return f"({first} {word} {second})"
