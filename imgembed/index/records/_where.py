"""Conditions on records: SQL that can read the columns of one table, and nothing else.

Two walls: the words of a condition are checked against what conditions may use, which also makes
for errors that say what is wrong; then SQLite's authorizer refuses whatever reads anything else.
"""

import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

from ._values import COLUMN_KINDS, as_list, encode_parameter, folded, is_utf8

TABLE = "imgembed_items"
_SLOT = "imgembed_slot"

_LONGEST_CONDITION = 100_000
_SECONDS = 60.0
_STEPS_BETWEEN_LOOKS = 100_000

FUNCTIONS = frozenset(
    "abs ceil ceiling coalesce date datetime floor glob ifnull iif instr julianday length like "
    "lower ltrim max min nullif round rtrim sign strftime substr substring time trim typeof "
    "unicode upper".split()
)
_KEYWORDS = frozenset(
    "and or not in is null isnull notnull like glob escape between case when then else end "
    "true false collate nocase binary rtrim cast as integer real text blob numeric".split()
)
# Words of SQL with which no column can be meant unless it is in quotes.
_QUOTED_ONLY = frozenset(
    "add all alter as attach by check commit constraint create current_date current_time "
    "current_timestamp default deferrable delete distinct drop except exists filter foreign from "
    "group having index insert intersect into join limit match natural offset on order over "
    "primary raise recursive references regexp returning row select set table to transaction "
    "union unique update using values where window with".split()
)
_TOKEN = re.compile(
    r"""(?P<space>[ \t\n\f\r]+)
    |(?P<comment>--|/\*)
    |(?P<text>[xX]?'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
    |(?P<number>0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    |(?P<named>:[A-Za-z_][A-Za-z0-9_]*)
    |(?P<mark>\?(?![0-9]))
    |(?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
    |(?P<operator>\|\||<>|<=|>=|<<|>>|!=|==|-(?!>)|[=<>+*/%&|~(),])""",
    re.VERBOSE,
)


class WhereError(ValueError):
    """A condition that cannot be used."""


class Token(NamedTuple):
    """A word of a condition."""

    kind: str
    text: str


class ReadGuard:
    """The authorizer of a connection: while it watches, columns of the table can be read, no more.

    Parameters
    ----------
    connection : sqlite3.Connection
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._watches = False
        connection.set_authorizer(self._authorise)

    @contextmanager
    def watching(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Refuse all but reading the table, and end what takes too long."""
        end = time.monotonic() + _SECONDS
        connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS_BETWEEN_LOOKS)
        self._watches = True
        try:
            yield
        finally:
            self._watches = False
            connection.set_progress_handler(None, 0)

    def _authorise(self, action: int, first: str | None, second: str | None, *_: Any) -> int:
        allowed = (
            not self._watches
            or action == sqlite3.SQLITE_SELECT
            or (action == sqlite3.SQLITE_READ and first == TABLE)
            or (action == sqlite3.SQLITE_FUNCTION and second in FUNCTIONS)
        )
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def slots_where(
    connection: sqlite3.Connection,
    guard: ReadGuard,
    condition: str,
    params: Sequence[Any] | Mapping[str, Any] | None,
    columns: Mapping[str, str],
) -> list[int]:
    """Find the slots whose records satisfy a condition.

    Parameters
    ----------
    connection : sqlite3.Connection
    guard : ReadGuard
        Of that connection.
    condition : str
        An expression of SQL on the columns and, unless a column has that name, on ``id``.
    params : sequence, mapping or None
        For each ``?`` or ``:name`` of the condition.
    columns : mapping of str to str
        Kind of each column, in order.

    Returns
    -------
    slots : list of int
        Ascending.

    Raises
    ------
    WhereError
        If the condition is no such expression, a parameter is missing or too many, or it takes
        more than a minute.
    """
    fields = _fields(columns)
    _, bound = checked_condition(condition, params, fields)
    # A subquery, so that names are those of the columns, and comparisons follow their kinds.
    listed = ", ".join(f"{read} AS {_in_quotes(name)}" for name, read in fields.items())
    query = (
        f"SELECT {_SLOT} FROM (SELECT slot AS {_SLOT}, {listed} FROM {TABLE}) "  # noqa: S608
        f"WHERE ({condition}) ORDER BY {_SLOT}"
    )
    try:
        with guard.watching(connection):
            return [row[0] for row in connection.execute(query, bound)]
    except sqlite3.Error as error:
        raise _refused(condition, _readable(error), fields) from error


def checked_condition(
    condition: str,
    params: Sequence[Any] | Mapping[str, Any] | None,
    names: Mapping[str, Any],
) -> tuple[list[Token], list[Any] | dict[str, Any]]:
    """Split a condition into words, and refuse those that no condition may have.

    Parameters
    ----------
    condition : str
    params : sequence, mapping or None
        For each ``?`` or ``:name`` of the condition.
    names : mapping of str to object
        Its keys are the names that may be used.

    Returns
    -------
    tokens : list of Token
    bound : list or dict
        The parameters, as the columns of records hold such values.

    Raises
    ------
    WhereError
        If there is a word that conditions may not have, or a parameter is missing or too many.
    """
    tokens = _tokens(condition)
    _check_parentheses(tokens)
    _check_names(tokens, names)
    return tokens, _bound(tokens, params)


def _fields(columns: Mapping[str, str]) -> dict[str, str]:
    """SQL that reads each column, by name."""
    fields = {
        name: f"CAST(c{number} AS {COLUMN_KINDS[kind].affinity})"
        for number, (name, kind) in enumerate(columns.items())
    }
    if "id" not in set(map(folded, columns)):
        fields["id"] = "CASE WHEN typeof(key) != 'blob' THEN key END"
    return fields


def _tokens(condition: str) -> list[Token]:
    if not isinstance(condition, str):
        raise WhereError(f"a condition is a str of SQL, got {type(condition).__name__}")
    if not condition.strip():
        raise WhereError("the condition is empty; pass None for no condition")
    if not is_utf8(condition):
        raise WhereError(f"the condition holds a lone surrogate: {condition!r:.200}")
    if len(condition) > _LONGEST_CONDITION:
        raise WhereError(
            f"the condition has {len(condition)} characters, more than {_LONGEST_CONDITION}; "
            "pass a mask or a list of ids instead"
        )
    tokens, position = [], 0
    while position < len(condition):
        match = _TOKEN.match(condition, position)
        if match is None or match.lastgroup == "comment":
            _refuse_character(condition, position)
        elif match.lastgroup != "space":
            tokens.append(Token(str(match.lastgroup), match.group()))
        position = match.end() if match else position
    return tokens


def _refuse_character(condition: str, position: int) -> None:
    raise WhereError(
        f"in {condition!r:.200}: {condition[position : position + 10]!r} at character {position} "
        "has no place in a condition, which is one expression with ? or :name for parameters; "
        "no comment, no ';', no '.' between names"
    )


def _check_parentheses(tokens: Sequence[Token]) -> None:
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth < 0:
            break
    if depth:
        raise WhereError("the condition has a parenthesis without its partner")


def _check_names(tokens: Sequence[Token], fields: Mapping[str, Any]) -> None:
    """Refuse names that are no column, and functions that conditions may not call."""
    known = set(map(folded, fields))
    for token, following in pairwise([*tokens, Token("end", "")]):
        if token.kind not in ("word", "quoted"):
            continue
        called = following.text == "(" and following.kind == "operator"
        if token.kind == "quoted":
            _check_quoted(token.text, called, known, fields)
        else:
            _check_word(token.text, called, known, fields)


def _check_quoted(text: str, called: bool, known: set[str], fields: Mapping[str, Any]) -> None:
    # SQLite takes an unknown name in double quotes for a text, without a word.
    name = text[1:-1].replace(text[0] * 2, text[0]) if text[0] != "[" else text[1:-1]
    if called or folded(name) not in known:
        raise _refused(text, "no such column; text is in single quotes, names in double", fields)


def _check_word(word: str, called: bool, known: set[str], fields: Mapping[str, Any]) -> None:
    lower = folded(word)
    if lower in _KEYWORDS or (called and lower in FUNCTIONS):
        return
    if called:
        raise WhereError(f"no function {word!r} in conditions; there are {sorted(FUNCTIONS)}")
    if lower not in known:
        raise _refused(word, "no such column", fields)
    if lower in _QUOTED_ONLY:
        raise WhereError(f'{word!r} is a word of SQL; write the column as "{word}"')


def _bound(
    tokens: Sequence[Token], params: Sequence[Any] | Mapping[str, Any] | None
) -> list[Any] | dict[str, Any]:
    marks = sum(token.kind == "mark" for token in tokens)
    names = list(dict.fromkeys(token.text[1:] for token in tokens if token.kind == "named"))
    if marks and names:
        raise WhereError("the condition mixes ? and :name; use one of them")
    if isinstance(params, Mapping):
        return _bound_by_name(marks, names, params)
    try:
        values = [] if params is None else as_list(params, "params")
    except TypeError as error:
        raise WhereError(str(error)) from error
    if names or len(values) != marks:
        wanted = f"a mapping with {names}" if names else f"{marks} parameters"
        raise WhereError(f"the condition wants {wanted}, got {len(values)} in a sequence")
    return [_parameter(f"number {number}", value) for number, value in enumerate(values)]


def _bound_by_name(marks: int, names: list[str], params: Mapping[str, Any]) -> dict[str, Any]:
    missing = [name for name in names if name not in params]
    if marks or missing:
        wanted = f"{marks} parameters in a sequence" if marks else f"also {missing}"
        raise WhereError(f"the condition wants {wanted}, got a mapping with {list(params)}")
    return {name: _parameter(f":{name}", params[name]) for name in names}


def _parameter(name: str, value: Any) -> Any:
    try:
        return encode_parameter(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise WhereError(f"parameter {name}: {error}; a list takes a ? for each value") from error


def _in_quotes(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _readable(error: sqlite3.Error) -> str:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
        return f"took more than {_SECONDS:.0f} s"
    return str(error)


def _refused(text: str, reason: str, fields: Mapping[str, Any]) -> WhereError:
    return WhereError(f"{text!r:.200}: {reason}; the columns are {list(fields)}")
