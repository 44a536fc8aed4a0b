"""Conditions for tests of servers: hostile ones, and ones on the columns n, r, b and t."""

from hypothesis import strategies as st

_WORDS = (
    "price name id ( ) ' \" ; -- /* */ AND OR NOT IN LIKE = < > 1 'x' ? :v %s {} :: , . "
    "secret NULL TRUE \\ \0 || + - % é"
)
SQL_WORDS = "%(v0)s $1 SELECT FROM pg_sleep(9) DROP TABLE hostile UNION ALL"
HOSTILE = [
    "1=1); DROP TABLE hostile; --",
    "price IN (SELECT word FROM secret)",
    "EXISTS (SELECT 1 FROM secret)",
    "pg_read_file('/etc/passwd') IS NOT NULL",
    "pg_sleep(100) IS NULL",
    "name = (TABLE secret)",
    "lo_import('/etc/passwd') > 0",
    "query_to_xml('DELETE FROM hostile', true, true, '') IS NULL",
    "name = 'x' UNION SELECT * FROM secret",
    "set_config('x', 'y', false) = 'y'",
    "name LIKE 'a' ESCAPE ''';DROP TABLE hostile'",
    "price::text = '1'",
    "secret.word = 'x'",
    "$$x$$ = name",
    "E'\\'' = name",
    "U&'\\0041' = name",
]


def attacks(conditions: list[str], words: str) -> st.SearchStrategy[str]:
    """Hostile conditions, and words that all servers know mixed with those of one of them."""
    mixed = st.lists(st.sampled_from(f"{_WORDS} {words}".split(" ")), max_size=12)
    return st.one_of(st.sampled_from(conditions), mixed.map(" ".join))


_NUMBERS = st.recursive(
    st.sampled_from(["n", "r", "b", "id", "0", "1", "2", "-3", "2.5", "NULL", "?", "length(t)"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+ - * /".split()), inner)
        .map(" ".join)
        .map("({})".format),
        inner.map("-({})".format),
        inner.map("abs({})".format),
        st.tuples(inner, inner).map(", ".join).map("coalesce({})".format),
        st.tuples(inner, inner).map(", ".join).map("nullif({})".format),
    ),
    max_leaves=4,
)
_TEXTS = st.sampled_from(
    [
        "t",
        "'a'",
        "'É%'",
        "''",
        "lower(t)",
        "upper(t)",
        "trim(t)",
        "coalesce(t, 'z')",
        "' A'",
        "NULL",
    ]
)
_COMPARED = st.sampled_from("= <> < <= > >= IS".split()) | st.just("IS NOT")
CONDITIONS = st.recursive(
    st.one_of(
        st.tuples(_NUMBERS, _COMPARED, _NUMBERS).map(" ".join),
        st.tuples(_TEXTS, _COMPARED, _TEXTS).map(" ".join),
        st.tuples(_TEXTS, st.sampled_from(["LIKE", "NOT LIKE"]), _TEXTS).map(" ".join),
        st.tuples(_NUMBERS, _NUMBERS, _NUMBERS).map(lambda n: f"{n[0]} BETWEEN {n[1]} AND {n[2]}"),
        st.tuples(_TEXTS, _TEXTS, _TEXTS).map(lambda t: f"{t[0]} NOT IN ({t[1]}, {t[2]})"),
        st.sampled_from(
            ["b", "n", "b IS TRUE", "b IS NOT FALSE", "t IS NULL", "n % 2 = 1", "r NOTNULL"]
        ),
    ),
    lambda inner: st.one_of(
        inner.map("NOT ({})".format),
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(" ".join),
        st.tuples(inner, _COMPARED, inner).map(lambda c: f"({c[0]}) {c[1]} ({c[2]})"),
    ),
    max_leaves=4,
)

_PLAIN_NUMBERS = st.sampled_from("n r 0 1 -3 2.5 NULL n+1 abs(r)".split())
# Most compare a column with constants, which any server can take whole.
PLAIN_CONDITIONS = st.recursive(
    st.one_of(
        st.tuples(_PLAIN_NUMBERS, st.sampled_from("= <> < <= > >= IS".split()), _PLAIN_NUMBERS)
        .map(" ".join),
        st.tuples(st.just("t"), st.sampled_from("= <> < LIKE IS".split()),
                  st.sampled_from(["'a'", "'É%'", "''", "NULL", "' A'"])).map(" ".join),
        st.tuples(_PLAIN_NUMBERS, _PLAIN_NUMBERS, _PLAIN_NUMBERS)
        .map("{0[0]} BETWEEN {0[1]} AND {0[2]}".format),
        st.sampled_from(["b", "n", "b IS TRUE", "b IS NOT FALSE", "t IS NULL", "n NOT IN (1, 2.5)",
                         "r IN (0.5, 2, -3)", "t NOT IN ('a', '')", "b IN (0, 1)", "id > 3",
                         "id IN (3, 4)", "id <> 5"]),
    ),
    lambda inner: st.one_of(
        inner.map("NOT ({})".format),
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(" ".join).map("({})".format),
    ),
    max_leaves=4,
)  # fmt: skip
