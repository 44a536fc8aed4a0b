"""Ids as texts for servers: counted as the embedded index counts them."""

from hypothesis import given
from hypothesis import strategies as st

from imgembed.index.records._ids import LAST_COUNTED_ID, encode_ids
from imgembed.servers._keys import keys_of, next_number

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.integers(-3, 3)
# No server keeps a NUL.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
IDS = st.lists(NUMBERS | st.booleans() | TEXTS | st.none(), max_size=8, unique=True)


@given(IDS)
def test_servers_go_on_from_the_same_number_as_the_embedded_index(
    ids: list[object],
) -> None:
    keys, _ = keys_of(ids, len(ids))
    assert next_number(keys) == encode_ids(ids, len(ids)).next_integer()


@given(st.integers(0, LAST_COUNTED_ID), st.integers(0, 20))
def test_without_ids_numbers_go_on(first: int, n: int) -> None:
    assert keys_of(None, n, first) == keys_of(range(first, first + n), n)
