"""Conditions on a ClickHouseIndex: what they mean there, and what they cannot do."""

import numpy as np
import pytest
from clickhouse_server import ClickHouseServer
from numpy.typing import NDArray
from server_fixtures import clickhouse, vectors_300_by_16  # noqa: F401
from where_checks import (
    check_conditions_mean_the_same,
    check_hostile_conditions_find_no_more,
    check_names_are_only_names,
    fit_what_is_attacked,
)
from where_strategies import CONDITIONS, HOSTILE, SQL_WORDS, attacks

from imgembed import ClickHouseIndex, WhereError

pytestmark = pytest.mark.clickhouse


def test_awkward_names_are_only_names(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = ClickHouseIndex(server.dsn, "x`; DROP TABLE loaded; --")
    names = ['say "x"', "50% off", "select", "é", "a'b", "{v0:Int64}", "Price", "{0}"]
    check_names_are_only_names(index, [*names, "a`b\\", "-- /*"], "{v0:Int64}", vectors)
    with pytest.raises(ValueError, match=r"has a '\.'"):
        index.add(vectors[:1], records={"a.b": [1]})
    with pytest.raises(ValueError, match="begins with '_'"):
        index.add(vectors[:1], records={"_part": [1]})
    with pytest.raises(ValueError, match="NUL"):
        index.add(vectors[:1], records={"é": [1], "text": ["\0"]})
    assert len(index) == 300


def test_long_and_deep_conditions_are_taken(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = ClickHouseIndex(server.dsn, "conditions").fit(vectors, records={"n": range(300)})
    listed = ", ".join(map(str, range(100, 2_500)))
    either = " OR ".join(f"n = {number}" for number in range(100, 1_300))
    deep = "(" * 20 + "n >= 100" + " AND n < 300)" * 20
    denied = "NOT (" * 21 + "n < 100" + ")" * 21
    for condition in (f"n IN ({listed})", either, deep, denied):
        found = index.search(vectors[:1], 300, where=condition).ids[0]
        assert sorted(found) == list(range(100, 300))


def test_values_that_break_a_condition_are_a_where_error(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    records = {"n": [2**62] * 300, "low": [-(2**63)] * 300}
    index = ClickHouseIndex(server.dsn, "breaks").fit(vectors, records=records)
    for condition in ("n * n > 1", "n + n > 1", "-low > 1", "abs(low) > 1", "low / -1 > 1"):
        with pytest.raises(WhereError, match="cannot be safely converted"):
            index.search(vectors[:1], where=condition)
    assert index.search(vectors[:1], where="n / 0 IS NULL").ids[0]


def test_integers_become_reals_unless_that_rounds_them(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = ClickHouseIndex(server.dsn, "reals").fit(
        vectors[:3], records={"n": [1, 2, None], "large": [2**53 + 1] * 3}
    )
    index.update_records([0], {"n": [0.5]})
    assert index.columns_ == {"n": "real", "large": "integer"}
    with pytest.raises(ValueError, match=r"beyond 2\*\*53"):
        index.update_records([0], {"large": [0.5]})
    found = index.search(vectors[:3], 3, where="n < 1").records
    assert [row[0]["n"] for row in found] == [0.5] * 3
    assert index.columns_["large"] == "integer"


def test_hostile_conditions_change_nothing_and_read_nothing(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    index = fit_what_is_attacked(ClickHouseIndex(server.dsn, "hostile", timeout=20), vectors)
    server.execute("CREATE TABLE secret ENGINE = MergeTree ORDER BY word AS SELECT 'word' AS word")
    query = "SELECT groupBitXor(cityHash64(*)), count() FROM hostile"
    before = server.execute(query)
    hostile = [*HOSTILE, "sleep(3) = 0", "price = (SELECT 1 FROM numbers(9))", "price = {p:Int64}"]
    hostile += ["url('http://127.0.0.1', CSV) = 1", "name = file('/etc/passwd')", "price AS x = 1"]
    check_hostile_conditions_find_no_more(index, vectors[:1], attacks(hostile, SQL_WORDS))
    assert server.execute(query) == before
    assert server.execute("SELECT word FROM secret") == [["word"]]


def test_what_both_take_means_the_same_on_the_server_and_here(server: ClickHouseServer) -> None:
    check_conditions_mean_the_same(ClickHouseIndex(server.dsn, "both"), CONDITIONS)
