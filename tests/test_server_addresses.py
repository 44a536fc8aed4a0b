"""Addresses of servers: no password is ever shown. No server is needed."""

import pickle

import pytest
from sklearn.base import clone
from sklearn.utils._pprint import _EstimatorPrettyPrinter

from imgembed import HOGEmbedder, ImageSearch, PostgresIndex, ServerError
from imgembed.servers._credentials import without_password

SECRET = "very-secret-word"
ADDRESSES = [
    f"postgresql://me:{SECRET}@127.0.0.1:1/photos",
    f"host=127.0.0.1 port=1 user=me password={SECRET}",
    f"host=127.0.0.1 port=1 password = '{SECRET}'",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_way_to_show_an_index_shows_the_password(address: str) -> None:
    index = PostgresIndex(address, table="photos")
    search = ImageSearch(HOGEmbedder(), index)
    again = pickle.loads(pickle.dumps(clone(index)))
    for shown in (index, clone(index), search, clone(search), again):
        texts = [repr(shown), str(shown), shown._repr_html_(), repr(shown.get_params())]
        texts += [_EstimatorPrettyPrinter(compact=True).pformat(shown)]
        assert not any(SECRET in text for text in texts)
    assert index.dsn == again.dsn == clone(index).dsn == address


@pytest.mark.parametrize(
    "address",
    [*ADDRESSES, f"{SECRET}", f"postgresql://me:{SECRET}@host:port/x", f"password='{SECRET}"],
)
def test_no_error_of_an_address_shows_the_password(address: str) -> None:
    with pytest.raises(ServerError) as caught:
        PostgresIndex(address, timeout=0.1).fit([[1.0, 2.0]])
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET} host=x",
        f"a://me:{SECRET}@host/x",
        f"it is {SECRET}!",
        f"PASSWORD = '{SECRET}'",
    ],
)
def test_messages_lose_their_passwords(text: str) -> None:
    assert SECRET not in without_password(text, SECRET)
    if "it is" not in text:
        assert SECRET not in without_password(text, None)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"table": ""}, "1 to 40 bytes"),
        ({"table": "é" * 21}, "1 to 40 bytes"),
        ({"table": "imgembed_indexes"}, "not for tables"),
        ({"table": "50%"}, "not for tables"),
        ({"metric": "cosin"}, "metric"),
        ({"storage": "int8"}, "storage"),
        ({"M": 101}, "M == 101"),
        ({"M": 50, "ef_construction": 80}, "2 \\* M"),
        ({"ef_search": 2_000}, "ef_search"),
        ({"partitions": -1}, "partitions"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_wrong_parameters_are_named_before_anything_is_connected(
    parameters: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PostgresIndex("host=127.0.0.1 port=1").set_params(**parameters).fit([[1.0, 2.0]])
