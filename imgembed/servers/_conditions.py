"""Conditions on records, for servers: the common part of SQL, read once, and written by each.

No word of a condition reaches a server. Words are checked as those of the embedded index are; then
values and names are taken out, and sqlglot reads what is left: keywords, operators, functions,
and names of placeholders. Its tree is translated node by node into
:mod:`._expressions`, and what is not in the tables here is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from ..index import WhereError
from ..index.records._values import INT64, folded
from ..index.records._where import Token, checked_condition
from ._expressions import (
    NUMBERS,
    Column,
    Expression,
    KindError,
    Operation,
    Value,
    comparable,
    logical,
    numeric,
    textual,
)

FUNCTIONS = ("abs", "coalesce", "ifnull", "length", "lower", "nullif", "trim", "upper")

# More would end in the recursion limit of this translator, or of a server's.
_MOST_TOKENS = 5_000
_DEEPEST = 50

# Kinds of columns of records, by what a condition compares them as.
_COMPARED_AS = {
    "boolean": "boolean",
    "integer": "integer",
    "real": "real",
    "blob": "blob",
    "null": "null",
}


def read_condition(
    condition: str,
    params: Sequence[Any] | Mapping[str, Any] | None,
    columns: Mapping[str, str],
) -> Expression:
    """Read a condition as an expression that every server can write.

    Parameters
    ----------
    condition : str
        An expression of SQL on the columns and, unless a column has that name, on ``id``:
        comparisons, AND, OR, NOT, IN, BETWEEN, LIKE, IS NULL, arithmetic, parentheses, and the
        functions in ``FUNCTIONS``.
    params : sequence, mapping or None
        For each ``?`` or ``:name`` of the condition.
    columns : mapping of str to str
        Kind of each column.

    Returns
    -------
    expression : Expression
        Of kind "boolean".

    Raises
    ------
    WhereError
        If the condition is no expression on the columns, or one that servers do not agree on;
        the message says what to write instead.

    Examples
    --------
    >>> from imgembed.servers._conditions import read_condition
    >>> read_condition("price < ?", (50,), {"price": "real"}).operands
    (Column(name='price', kind='real'), Value(value=50, kind='integer'))
    """
    names = dict(columns)
    if "id" not in set(map(folded, names)):
        names["id"] = "id"
    tokens, bound = checked_condition(condition, params, names)
    _check_size(tokens)
    text, leaves = _without_values(tokens, bound, names)
    try:
        return logical(_Translator(leaves).translated(_parsed(text)))
    except (KindError, SqlglotError, RecursionError) as error:
        reason = str(error) if isinstance(error, KindError) else _reason(error)
        raise WhereError(f"{condition!r:.200}: {reason}") from error


def _check_size(tokens: Sequence[Token]) -> None:
    if len(tokens) > _MOST_TOKENS:
        raise WhereError(
            f"the condition has {len(tokens)} words, more than {_MOST_TOKENS} for a server; pass "
            "a list of ids instead"
        )
    depth = deepest = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        raise WhereError(f"the parentheses are {deepest} deep, more than {_DEEPEST} for a server")


def _without_values(
    tokens: Sequence[Token],
    bound: Sequence[Any] | Mapping[str, Any],
    names: Mapping[str, str],
) -> tuple[str, dict[str, Expression]]:
    """The condition with placeholders for values and columns, and what they stand for."""
    columns = {folded(name): _column(name, kind) for name, kind in names.items()}
    words, leaves, n_marks = [], dict[str, Expression](), 0
    for token, following in zip(tokens, [*tokens[1:], Token("end", "")], strict=True):
        leaf: Expression | None = None
        if token.kind == "mark":
            assert not isinstance(bound, Mapping)
            leaf, n_marks = _value(bound[n_marks]), n_marks + 1
        elif token.kind == "named":
            assert isinstance(bound, Mapping)
            leaf = _value(bound[token.text[1:]])
        elif token.kind in ("text", "number"):
            leaf = _literal(token)
        elif token.kind == "quoted" or (token.kind == "word" and following.text != "("):
            leaf = columns.get(folded(_unquoted(token)))
        if leaf is None:
            words.append("=" if token.text == "==" else token.text)
        else:
            words.append(f":v{len(leaves)}")
            leaves[f"v{len(leaves)}"] = leaf
    return " ".join(words), leaves


def _column(name: str, kind: str) -> Expression:
    if kind == "null":
        return Value(None, "null")
    return Column(name, kind if kind == "id" else _COMPARED_AS.get(kind, "text"))


def _value(value: Any) -> Value:
    kinds = {int: "integer", float: "real", str: "text", bytes: "blob", type(None): "null"}
    return Value(value, kinds[type(value)])


def _literal(token: Token) -> Value:
    text = token.text
    if token.kind == "text":
        if text[0] in "xX":
            try:
                return Value(bytes.fromhex(text[2:-1]), "blob")
            except ValueError as error:
                raise WhereError(f"{text!r:.50} is no bytes in hexadecimal digits") from error
        return Value(text[1:-1].replace("''", "'"), "text")
    if text[:2] in ("0x", "0X") or text.isdigit():
        number = int(text, 16 if text[1:2] in ("x", "X") else 10)
        if number in INT64:
            return Value(number, "integer")
    real = float(int(text, 16)) if text[1:2] in ("x", "X") else float(text)
    if real in (float("inf"), float("-inf")):
        raise WhereError(f"{text!r:.50} is larger than any number of 64 bits")
    return Value(real, "real")


def _unquoted(token: Token) -> str:
    text = token.text
    if token.kind != "quoted":
        return text
    return text[1:-1] if text[0] == "[" else text[1:-1].replace(text[0] * 2, text[0])


def _parsed(text: str) -> exp.Expression:
    tree: Any = sqlglot.parse_one(text, read="sqlite")
    if not isinstance(tree, exp.Expression):
        raise KindError("this is no expression")
    return tree


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply; pass a list of ids instead"
    return "syntax error: this is no expression of SQL"


_COMPARISONS: Mapping[type[exp.Expression], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeEQ: "is",
    exp.NullSafeNEQ: "is not",
}
_ARITHMETIC: Mapping[type[exp.Expression], str] = {
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
    exp.Mod: "%",
}
_TEXT_FUNCTIONS: Mapping[type[exp.Expression], tuple[str, str]] = {
    exp.Length: ("length", "integer"),
    exp.Lower: ("lower", "text"),
    exp.Upper: ("upper", "text"),
    exp.Trim: ("trim", "text"),
}
# SQLite gives these one precedence, sqlglot several: a chain of them needs parentheses.
_CHAINED = (*_COMPARISONS, exp.Is, exp.In, exp.Between, exp.Like, exp.Escape)


class _Translator:
    """Translates sqlglot's tree, of which it knows each node or refuses it.

    Parameters
    ----------
    leaves : dict of str to Expression
        What the placeholders stand for.
    """

    def __init__(self, leaves: Mapping[str, Expression]) -> None:
        self._leaves = leaves
        self._translators: dict[type[exp.Expression], Callable[[Any], Expression]] = {
            exp.Placeholder: self._leaf,
            exp.Paren: lambda node: self.translated(*_parts(node, "this")),
            exp.Null: lambda _: Value(None, "null"),
            exp.Boolean: lambda node: Value(bool(node.this), "boolean"),
            exp.And: lambda node: self._connected("and", node),
            exp.Or: lambda node: self._connected("or", node),
            exp.Not: self._negation,
            exp.Is: self._is,
            exp.In: self._membership,
            exp.Between: self._between,
            exp.Like: self._like,
            exp.Escape: self._like,
            exp.Neg: self._negative,
            exp.Abs: self._absolute,
            exp.Coalesce: self._coalesce,
            exp.Nullif: self._nullif,
            **dict.fromkeys(_COMPARISONS, self._comparison),
            **dict.fromkeys(_ARITHMETIC, self._arithmetic),
            **dict.fromkeys(_TEXT_FUNCTIONS, self._text_function),
        }

    def translated(self, node: Any) -> Expression:
        """The expression of a node.

        Raises
        ------
        KindError
            If conditions for servers have no such node, or kinds do not fit.
        """
        translator = self._translators.get(type(node))
        if translator is not None:
            return translator(node)
        raise KindError(
            f"{type(node).__name__.upper()} has no place in conditions for servers, which have "
            "comparisons, AND, OR, NOT, IN, BETWEEN, LIKE, IS NULL, arithmetic, and the functions "
            f"{', '.join(FUNCTIONS)}"
        )

    def _leaf(self, node: exp.Expression) -> Expression:
        (name,) = _parts(node, "this")
        leaf = self._leaves.get(str(name))
        if leaf is None:
            raise KindError("syntax error: this is no expression of SQL")
        return leaf

    def _connected(self, operator: str, node: exp.Expression) -> Expression:
        # A long chain leans to the left, and is walked without recursion.
        operands = []
        while type(node) is (exp.And if operator == "and" else exp.Or):
            node, last = _parts(node, "this", "expression")
            operands.append(logical(self.translated(last)))
        operands.append(logical(self.translated(node)))
        return Operation(operator, tuple(reversed(operands)), "boolean")

    def _negation(self, node: exp.Expression) -> Expression:
        return _not(self.translated(*_parts(node, "this")))

    def _comparison(self, node: exp.Expression) -> Expression:
        operands = self._operands(node, "this", "expression")
        return _compared(_COMPARISONS[type(node)], operands)

    def _is(self, node: exp.Expression) -> Expression:
        left, right = _parts(node, "this", "expression")
        operand = self._operand(left)
        if isinstance(right, exp.Boolean):
            truth = Value(bool(right.this), "boolean")
            return Operation("is", (logical(operand), truth), "boolean")
        return _compared("is", [operand, self._operand(right)])

    def _membership(self, node: exp.Expression) -> Expression:
        (left,) = _parts(node, "this", listed="expressions")
        members = node.args.get("expressions") or []
        operands = [self._operand(left), *map(self._operand, members)]
        if not members:
            raise KindError("IN wants a list with at least one value")
        return Operation("in", tuple(comparable(operands)), "boolean")

    def _between(self, node: exp.Expression) -> Expression:
        value, low, high = self._operands(node, "this", "low", "high")
        both = (_compared(">=", [value, low]), _compared("<=", [value, high]))
        return Operation("and", both, "boolean")

    def _like(self, node: exp.Expression) -> Expression:
        escape: tuple[Expression, ...] = ()
        if isinstance(node, exp.Escape):
            node, last = _parts(node, "this", "expression")
            escape = (_escape(self.translated(last)),)
            if not isinstance(node, exp.Like):
                raise KindError("ESCAPE belongs to LIKE")
        operands = [textual(one) for one in self._operands(node, "this", "expression")]
        typed = [Value(None, "text") if one.kind == "null" else one for one in operands]
        like = Operation("like", (*typed, *escape), "boolean")
        return _not(like) if node.args.get("negate") else like

    def _arithmetic(self, node: exp.Expression) -> Expression:
        operator = _ARITHMETIC[type(node)]
        operands = [
            numeric(one) for one in map(self.translated, _parts(node, "this", "expression"))
        ]
        kinds = {one.kind for one in operands}
        if "null" in kinds:
            return Value(None, "null")
        if operator == "%" and kinds != {"integer"}:
            raise KindError("% wants two integers")
        if operator == "/" and "number" in kinds:
            raise KindError("/ wants integers or reals, and this may be either; write 2.0, not 2")
        kind = "integer" if kinds == {"integer"} else "number" if "number" in kinds else "real"
        return Operation(operator, tuple(operands), kind)

    def _negative(self, node: exp.Expression) -> Expression:
        operand = numeric(self.translated(*_parts(node, "this")))
        if isinstance(operand, Value):
            return operand if operand.value is None else Value(-operand.value, operand.kind)
        return Operation("negative", (operand,), operand.kind)

    def _absolute(self, node: exp.Expression) -> Expression:
        operand = numeric(self.translated(*_parts(node, "this")))
        return operand if operand.kind == "null" else Operation("abs", (operand,), operand.kind)

    def _text_function(self, node: exp.Expression) -> Expression:
        operator, kind = _TEXT_FUNCTIONS[type(node)]
        operand = textual(self.translated(*_parts(node, "this")))
        return operand if operand.kind == "null" else Operation(operator, (operand,), kind)

    def _coalesce(self, node: exp.Expression) -> Expression:
        (first,) = _parts(node, "this", listed="expressions")
        operands = [self.translated(one) for one in (first, *(node.args.get("expressions") or []))]
        if len(operands) < 2:
            raise KindError("coalesce wants two operands or more")
        return _chosen("coalesce", operands)

    def _nullif(self, node: exp.Expression) -> Expression:
        return _chosen("nullif", self._operands(node, "this", "expression"))

    def _operands(self, node: exp.Expression, *names: str) -> list[Expression]:
        return [self._operand(part) for part in _parts(node, *names)]

    def _operand(self, node: exp.Expression) -> Expression:
        if isinstance(node, (*_CHAINED, exp.Not)):
            raise KindError("comparisons in a row need parentheses: (a = b) = c")
        return self.translated(node)


def _parts(node: exp.Expression, *names: str, listed: str | None = None) -> list[Any]:
    """Parts of a node, which must have these and, save for notes of the parser, no others."""
    known = {*names, listed, "negate", "safe", "typed"}
    foreign = [name for name, part in node.args.items() if part and name not in known]
    if foreign or not all(node.args.get(name) is not None for name in names):
        raise KindError("syntax error: this is no expression of SQL that servers share")
    return [node.args[name] for name in names]


def _not(expression: Expression) -> Expression:
    return Operation("not", (logical(expression),), "boolean")


def _compared(operator: str, operands: Sequence[Expression]) -> Expression:
    """A comparison; IS NULL where one side is NULL."""
    if operator in ("is", "is not"):
        nulls = [isinstance(one, Value) and one.value is None for one in operands]
        if any(nulls):
            other = operands[0] if nulls[1] else operands[1]
            return _null_test(other) if operator == "is" else _not(_null_test(other))
    fitted = comparable(operands)
    if any(one.kind == "null" for one in fitted):
        return Value(None, "boolean")
    return Operation(operator, tuple(fitted), "boolean")


def _null_test(expression: Expression) -> Expression:
    if isinstance(expression, Value):
        return Value(expression.value is None, "boolean")
    if expression.kind == "id":
        expression = Operation("id as either", (expression,), "text")
    return Operation("is null", (expression,), "boolean")


def _chosen(operator: str, operands: Sequence[Expression]) -> Expression:
    """One of the operands, of a kind that all share."""
    if any(one.kind == "id" for one in operands):
        raise KindError(f"{operator} does not take id, which may be text or a number")
    fitted = comparable(operands)
    kinds = {one.kind for one in fitted if not isinstance(one, Value) or one.value is not None}
    if not kinds:
        return Value(None, "null")
    if operator == "nullif":
        return Operation(operator, tuple(fitted), fitted[0].kind)
    mixed = len(kinds) > 1 and kinds <= set(NUMBERS)
    return Operation(operator, tuple(fitted), "number" if mixed else kinds.pop())


def _escape(expression: Expression) -> Value:
    if (
        not isinstance(expression, Value)
        or not isinstance(expression.value, str)
        or len(expression.value) != 1
        or expression.value.isalnum()
        or expression.value in "%_"
    ):
        raise KindError("ESCAPE wants one character that is no letter, digit, % or _")
    return expression
