"""Conditions on a ClickHouseIndex: what they mean there, and what they cannot do."""

from collections.abc import Iterator

import numpy as np
import pytest
from clickhouse_server import ClickHouseServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from where_strategies import CONDITIONS, HOSTILE, WORDS

from imgembed import ClickHouseIndex, NearestNeighborIndex, WhereError

pytestmark = pytest.mark.clickhouse


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouseServer]:
    running = ClickHouseServer()
    yield running
    running.stop()


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)


def test_awkward_names_are_only_names(
    server: ClickHouseServer, vectors: NDArray[np.float32]
) -> None:
    table = "x`; DROP TABLE loaded; --"
    names = [
        'say "x"',
        "50% off",
        "select",
        "é",
        "a'b",
        "{v0:Int64}",
        "Price",
        "{0}",
        "a`b\\",
        "-- /*",
    ]
    records = {name: list(range(300)) for name in names}
    index = ClickHouseIndex(server.dsn, table).fit(vectors, records=records)
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        assert index.search(vectors[:1], where=f"{quoted} = 17").ids == [[17]]
    index.upsert(vectors[:1], [0], records={"50% off": [1000]})
    index.update_records([1], {"{v0:Int64}": [1000]})
    assert index.search(vectors[:1], where='"50% off" = 1000').ids == [[0]]
    assert index.search(vectors[:1], where='"{v0:Int64}" = 1000').ids == [[1]]
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
    index = ClickHouseIndex(server.dsn, "hostile", timeout=20).fit(
        vectors[:20], records={"price": range(20), "name": list("abcdefghijklmnopqrst")}
    )
    server.execute("CREATE TABLE secret ENGINE = MergeTree ORDER BY word AS SELECT 'word' AS word")
    query = "SELECT groupBitXor(cityHash64(*)), count() FROM hostile"
    before = server.execute(query)
    ids = set(range(20))
    attacks = [*HOSTILE, "sleep(3) = 0", "price = (SELECT 1 FROM numbers(9))", "price = {p:Int64}"]
    attacks += ["url('http://127.0.0.1', CSV) = 1", "name = file('/etc/passwd')", "price AS x = 1"]

    @settings(
        max_examples=1_000,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(st.one_of(st.sampled_from(attacks), st.lists(WORDS, max_size=12).map(" ".join)))
    def attack(condition: str) -> None:
        try:
            found = index.search(vectors[:1], 20, where=condition)
        except WhereError:
            return
        assert set(found.ids[0]) <= ids
        assert "word" not in repr(found.records)

    attack()
    assert server.execute(query) == before
    assert server.execute("SELECT word FROM secret") == [["word"]]
    assert len(index) == 20


def test_what_both_take_means_the_same_on_the_server_and_here(server: ClickHouseServer) -> None:
    rng = np.random.default_rng(0)
    texts = ["a", "A", " a ", "É%", "é%", "", "a_b", None]
    records = {
        "n": [None if row % 7 == 0 else row - 12 for row in range(40)],
        "r": [None if row % 9 == 0 else (row - 20) / 4 for row in range(40)],
        "b": [[True, False, None][row % 3] for row in range(40)],
        "t": [texts[row % 8] for row in range(40)],
    }
    vectors = rng.normal(size=(40, 4))
    both = [
        index.fit(vectors, records=records)
        for index in (ClickHouseIndex(server.dsn, "both"), NearestNeighborIndex())
    ]
    n_compared = 0

    @settings(
        max_examples=500,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(CONDITIONS)
    def compare(condition: str) -> None:
        nonlocal n_compared
        params = [3] * condition.count("?")
        try:
            kept = both[0].search(vectors[:1], 40, where=condition, params=params).ids[0]
        except WhereError:
            return
        n_compared += 1
        wanted = both[1].search(vectors[:1], 40, where=condition, params=params).ids[0]
        assert sorted(kept) == sorted(wanted), condition

    compare()
    assert n_compared > 200
