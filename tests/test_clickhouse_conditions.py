"""ClickHouseIndex without a server: conditions as they are written, parameters, addresses, rows."""

import struct
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from imgembed import ClickHouseIndex, NearestNeighborIndex, ServerError, WhereError
from imgembed._check_index import CONDITIONS
from imgembed.servers._columns import Batch
from imgembed.servers._conditions import read_condition
from imgembed.servers.clickhouse._rows import blocks, read_slots, read_vectors
from imgembed.servers.clickhouse._sql import clickhouse_condition, named, quoted
from imgembed.servers.clickhouse._state import following, new_tag

COLUMNS = {
    "price": "real",
    "year": "integer",
    "category": "text",
    "in_stock": "boolean",
    "taken": "datetime",
    "empty": "null",
    "raw": "blob",
    "order by": "integer",
    "name": "text",
}
SHOE = "CAST(unhex('73686f65') AS Nullable(String))"
TWO = "CAST('2' AS Nullable(Int64))"


def written(condition: str, params: Any = None) -> str:
    return clickhouse_condition(read_condition(condition, params, COLUMNS))


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("category = 'shoe'", f"(`category` = {SHOE})"),
        ("category <> 'shoe'", f"(`category` <> {SHOE})"),
        ("year < 2", f"(`year` < {TWO})"),
        ("year <= 2", f"(`year` <= {TWO})"),
        ("year > 2", f"(`year` > {TWO})"),
        ("year >= 2", f"(`year` >= {TWO})"),
        ("year IS 2", f"(`year` IS NOT DISTINCT FROM {TWO})"),
        ("year IS NOT 2", f"(`year` IS DISTINCT FROM {TWO})"),
        ("year IS NULL", "isNull(`year`)"),
        ("NOT in_stock", "(NOT `in_stock`)"),
        ("in_stock = true", "(`in_stock` = CAST(true AS Nullable(Bool)))"),
        ("year", "(`year` <> 0)"),
        ("in_stock > 2", f"(toInt64(`in_stock`) > {TWO})"),
        ("in_stock AND year > 2 OR year < 2",
         f"((`in_stock` AND (`year` > {TWO})) OR (`year` < {TWO}))"),
        ("year BETWEEN 2 AND 2", f"((`year` >= {TWO}) AND (`year` <= {TWO}))"),
        ("year IN (2, 2)", f"(((`year` AS imgembed_0) = {TWO}) OR (imgembed_0 = {TWO}))"),
        ("year + 2 = 2",
         f"(accurateCast(toInt128(`year`) + toInt128({TWO}), 'Nullable(Int64)') = {TWO})"),
        ("year / 2 = 2", "(accurateCast(intDivOrZero(toInt128(`year`), "
         f"toInt128(nullIf({TWO}, 0))), 'Nullable(Int64)') = {TWO})"),
        ("year % 2 = 2", "(accurateCast(moduloOrZero(toInt128(`year`), "
         f"toInt128(nullIf({TWO}, 0))), 'Nullable(Int64)') = {TWO})"),
        ("-year = 2", f"(accurateCast(-toInt128(`year`), 'Nullable(Int64)') = {TWO})"),
        ("abs(year) = 2", f"(accurateCast(abs(toInt128(`year`)), 'Nullable(Int64)') = {TWO})"),
        ("price * 2 = 2", "(if(isNaN((toFloat64(`price`) * toFloat64("
         f"{TWO})) AS imgembed_0), NULL, imgembed_0) = {TWO})"),
        ("coalesce(year, 2) = 2", f"(coalesce(`year`, {TWO}) = {TWO})"),
        ("coalesce(year, price) = 2", f"(coalesce(toFloat64(`year`), toFloat64(`price`)) = {TWO})"),
        ("coalesce(year, NULL) = 2",
         f"(coalesce(`year`, CAST(NULL AS Nullable(Int64))) = {TWO})"),
        ("nullif(year, 2) = 2", f"(nullIf(`year`, {TWO}) = {TWO})"),
        ("length(category) = 2", f"(toInt64(lengthUTF8(`category`)) = {TWO})"),
        ("lower(category) = 'shoe'", f"(lower(`category`) = {SHOE})"),
        ("upper(category) = 'shoe'", f"(upper(`category`) = {SHOE})"),
        ("trim(category) = 'shoe'", f"(trimBoth(`category`) = {SHOE})"),
        ("category LIKE 'shoe'", "like(lower(`category`), lower(unhex('73686f65')))"),
        ("category LIKE name", "like(lower(`category`), "
         "lower(replaceAll(`name`, unhex('5c'), unhex('5c5c'))))"),
        ("id = 'shoe'", "(if(startsWith(`imgembed_key`, 't'), "
         f"substring(`imgembed_key`, 2), NULL) = {SHOE})"),
        ("id = 2", "(if(match(`imgembed_key`, '^n-?[0-9]+$'), "
         f"toInt64OrNull(substring(`imgembed_key`, 2)), NULL) = {TWO})"),
        ("id IS NULL", "isNull(if(startsWith(`imgembed_key`, 'b'), NULL, `imgembed_key`))"),
        ("raw = x'00ff'", "(`raw` = CAST(unhex('00ff') AS Nullable(String)))"),
        ("category = NULL", "(`category` = CAST(NULL AS Nullable(String)))"),
    ],
)  # fmt: skip
def test_each_operator_has_its_words(condition: str, wanted: str) -> None:
    assert written(condition) == wanted


@pytest.mark.parametrize(("condition", "params"), CONDITIONS)
def test_the_conditions_of_the_contract_are_written(condition: str, params: Any) -> None:
    assert written(condition, params).count("(") == written(condition, params).count(")")


@given(st.text())
def test_no_letter_of_a_text_is_in_a_condition(text: str) -> None:
    params = (text.replace("\0", ""), "%")
    try:
        words = written("category = ? AND name LIKE ?", params)
    except (WhereError, UnicodeEncodeError):
        return
    plain = written("category = ? AND name LIKE ?", ("", "%"))
    digits = params[0].encode().hex()
    assert words == plain.replace("unhex('')", f"unhex('{digits}')", 1)


@given(st.floats(allow_nan=False))
def test_no_bit_of_a_real_is_lost(value: float) -> None:
    digits = struct.pack("<d", value).hex()
    assert f"reinterpretAsFloat64(unhex('{digits}'))" in written("price = ?", (value,))


@pytest.mark.parametrize(
    ("pattern", "escape", "wanted"),
    [
        ("a%_b", None, "a%_b"),
        ("a\\%", None, "a\\\\%"),
        ("100!%", "!", "100\\%"),
        ("!_!!!a", "!", "\\_!a"),
        ("!\\x", "!", "\\\\x"),
        ("\\%", "\\", "\\%"),
        ("\\\\%", "\\", "\\\\%"),
    ],
)
def test_escapes_of_like_become_backslashes(pattern: str, escape: str | None, wanted: str) -> None:
    words = "category LIKE ?" + ("" if escape is None else f" ESCAPE '{escape}'")
    assert written(words, (pattern,)) == f"like(lower(`category`), lower({quoted(wanted)}))"


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("category LIKE 'a!' ESCAPE '!'", "ends with its escape"),
        ("category LIKE name ESCAPE '!'", "computed"),
    ],
)
def test_what_clickhouse_cannot_say_is_refused(condition: str, told: str) -> None:
    with pytest.raises(WhereError, match=told):
        written(condition)


def test_names_are_quoted() -> None:
    assert named("a`b\\c") == "`a\\`b\\\\c`"


@pytest.mark.parametrize(
    ("parameters", "error", "told"),
    [
        ({"metric": "ip", "algorithm": "hnsw"}, ValueError, "algorithm='exact'"),
        ({"metric": "manhattan"}, ValueError, "metric"),
        ({"algorithm": "ivf"}, ValueError, "algorithm"),
        ({"storage": "int8"}, ValueError, "storage"),
        ({"M": 1}, ValueError, "M"),
        ({"ef_search": 0}, ValueError, "ef_search"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"table": ""}, ValueError, "1 to 40 bytes"),
        ({"table": "é" * 21}, ValueError, "1 to 40 bytes"),
        ({"table": "imgembed_x"}, ValueError, "not for tables"),
        ({"table": 5}, TypeError, "str"),
        ({"dsn": 5}, TypeError, "dsn must be a str"),
    ],
)
def test_wrong_parameters_are_named(
    parameters: dict[str, Any], error: type[Exception], told: str
) -> None:
    index = ClickHouseIndex("clickhouse://127.0.0.1:1").set_params(**parameters)
    with pytest.raises(error, match=told):
        index.fit([[1.0, 2.0]])


@pytest.mark.parametrize(
    "dsn",
    [
        "very-secret-word",
        "postgresql://me:very-secret-word@127.0.0.1/x",
        "clickhouse://me:very-secret-word@127.0.0.1:port/x",
        "clickhouse://me:very-secret-word@127.0.0.1:1/x",
        "clickhouse://me:very%2Dsecret%2Dword@127.0.0.1:1/x",
    ],
)
def test_no_error_of_an_address_shows_the_password(dsn: str) -> None:
    index = ClickHouseIndex(dsn, timeout=0.1)
    with pytest.raises(ServerError) as caught:
        index.fit([[1.0, 2.0]])
    assert "very-secret-word" not in str(caught.value) + repr(index)
    assert caught.value.__cause__ is None


def test_a_graph_for_inner_products_is_refused_before_anything_is_moved() -> None:
    index = NearestNeighborIndex(metric="ip", algorithm="hnsw").fit(np.eye(3))
    with pytest.raises(ValueError, match="'cosine' and 'euclidean'"):
        ClickHouseIndex.from_index(index, "clickhouse://127.0.0.1:1")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, dsn, extra in (
        ("chdb", "chdb:///nowhere", "chdb"),
        ("clickhouse_connect", "clickhouse://127.0.0.1:1", "clickhouse"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=rf"imgembed\[{extra}\]"):
            ClickHouseIndex(dsn).fit([[1.0, 2.0]])
        monkeypatch.undo()


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(3, 200)).astype(np.float32)


@pytest.mark.parametrize(("storage", "width"), [("float32", 4), ("bfloat16", 2)])
def test_a_block_begins_with_its_types_and_holds_all_rows(
    vectors: NDArray[np.float32], storage: str, width: int
) -> None:
    index = ClickHouseIndex("clickhouse://127.0.0.1", storage=storage)
    state = index._new_state(200, None)
    columns: dict[str, list[Any]] = {"price": [1.5, None, 2.5], "empty": [None] * 3}
    kinds = {"price": "real", "empty": "null"}
    state = type(state)(**{**vars(state), "columns": kinds})
    batch = Batch(vectors, ["ta", "tb", "n1"], [None, b"x", None], columns)
    (block,) = blocks(state, batch, np.arange(3), 7)
    assert block.startswith(b"\6\rimgembed_slot")  # six columns: one that holds nothing is left out
    assert block.endswith(b"\0" + struct.pack("<d", 2.5))
    assert block.count(b"\xc8\1") == 3
    assert (
        len(block)
        == len(block.split(b"\x11Nullable(Float64)")[0])
        + 18
        + 3 * (8 + 3 + 1 + 8 + 2 + 200 * width + 1)
        + 2
        + 2 * 8
    )


def test_rounding_to_bfloat16_is_to_the_nearest_even() -> None:
    from imgembed.servers.clickhouse._rows import _as_bfloat16

    values = np.array([1.0, 1.00390625, 1.01171875, -2.5, 1e15], np.float32)
    kept = (_as_bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    assert kept[:4].tolist() == [1.0, 1.0, 1.015625, -2.5]
    assert abs(kept[4] / values[4] - 1) < 2**-8


def test_rows_of_vectors_are_read_as_arrays(vectors: NDArray[np.float32]) -> None:
    packed = b"".join(
        struct.pack("<q", slot) + b"\xc8\1" + vector.tobytes()
        for slot, vector in zip((3, 5, 9), vectors, strict=True)
    )
    slots, read = read_vectors(packed, 200)
    assert slots.tolist() == [3, 5, 9]
    assert np.array_equal(read, vectors)
    assert read_slots(struct.pack("<3q", 3, 5, 9)).tolist() == [3, 5, 9]


def test_rows_of_other_changes_do_not_belong_to_an_index() -> None:
    state = ClickHouseIndex("clickhouse://127.0.0.1")._new_state(2, None)
    published, tags = None, []
    for _ in range(300):
        tags.append(new_tag(published))
        published = following(published, "photos", state, "photos_imgembed_1", tags[-1])
    assert published is not None
    assert published.state.n_changes == 300
    assert tags == sorted(tags)
    assert all(map(published.holds, tags))
    assert not published.holds(tags[-1] ^ 1)
    assert not published.holds(new_tag(published))
    assert len(published.tags) < 300
