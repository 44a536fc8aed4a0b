"""Conditions for tests of servers: hostile ones, and ones on the columns n, r, b and t."""

from hypothesis import strategies as st

WORDS = st.sampled_from(
    "price name id ( ) ' \" ; -- /* */ AND OR NOT IN LIKE = < > 1 'x' ? :v %s %(v0)s {} $1 :: , . "
    "SELECT FROM pg_sleep(9) secret DROP TABLE hostile UNION ALL NULL TRUE \\ \0 || + - % é".split(
        " "
    )
)
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
