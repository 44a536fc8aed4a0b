"""Bytes of records: the same each time, and refused when damaged or forged."""

import hashlib
import sqlite3

import numpy as np
import pytest
from shop_records import behaviour, consistent, shop

from imgembed.index.records._bytes import _sealed, _settled
from imgembed.index.records._records import Records


def test_bytes_bring_back_the_records_and_are_the_same_each_time() -> None:
    plain = Records()
    plain.append(None, None, 4)
    renumbered = shop()
    renumbered.renumber()
    for make in (Records, lambda: plain, shop, lambda: renumbered):
        written = make().to_bytes()
        again = Records.from_bytes(written)
        assert behaviour(again) == behaviour(make())
        assert written == make().to_bytes() == again.to_bytes()
        again.append(None, {"price": [1.5]}, 1)
        assert consistent(again)
    assert Records.from_bytes(plain.to_bytes())._connection is None


def test_numbering_goes_on_after_reading() -> None:
    records = shop()
    records.append(None, None, 1)
    assert records.ids_at([6]) == [6]
    records.remove([6])
    again = Records.from_bytes(records.to_bytes())
    again.append(None, None, 1)
    assert again.ids_at([7]) == [7]


SHOP = shop()
SHOP_BYTES = SHOP.to_bytes()
HEAD = len(b"imgembed records 1\n") + hashlib.sha256().digest_size


def mutated(written: bytes, rng: np.random.Generator) -> bytes:
    """Damage bytes in one of four ways."""
    changed = bytearray(written)
    at = int(rng.integers(len(changed)))
    way = rng.integers(4)
    if way == 0:
        changed[at] ^= 1 << int(rng.integers(8))
    elif way == 1:
        changed[at : at + 8] = rng.bytes(len(changed[at : at + 8]))
    elif way == 2:
        del changed[at:]
    else:
        length = int(rng.integers(1, 200))
        to = int(rng.integers(len(changed)))
        changed[to : to + length] = changed[at : at + length]
    return bytes(changed)


def test_damaged_bytes_are_refused() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        changed = mutated(SHOP_BYTES, rng)
        if changed != SHOP_BYTES:
            with pytest.raises(ValueError, match=r"damaged|no records of version 1"):
                Records.from_bytes(changed)
    for other in (b"", b"x", b"imgembed records 2\n", SHOP_BYTES + b"\0"):
        with pytest.raises(ValueError, match=r"damaged|no records of version 1"):
            Records.from_bytes(other)


def test_forged_bytes_are_refused_or_are_consistent_records() -> None:
    rng = np.random.default_rng(1)
    n_refused = 0
    # Where there is something: most of a database is empty.
    body = SHOP_BYTES[HEAD:]
    full = np.flatnonzero(np.frombuffer(body, np.uint8))
    for _ in range(1500):
        changed = bytearray(body)
        for at in rng.choice(full, rng.integers(1, 4)):
            changed[at] = rng.integers(256)
        forged = mutated(bytes(changed), rng) if rng.random() < 0.3 else bytes(changed)
        try:
            records = Records.from_bytes(_sealed(forged))
        except ValueError:
            n_refused += 1
        else:
            records.append(["another"], None, 1)
            records.remove(records.living()[:1])
            assert consistent(records)
    assert 500 < n_refused < 1500


def forged(*statements: str, columns: str = '{"c": "text"}', n_slots: int = 2) -> bytes:
    """Bytes of a table that another hand has changed, with a digest that fits."""
    records = Records()
    records.append(["a", "b"], {"c": ["x", "y"]}, 2)
    connection = records._table()
    connection.execute("PRAGMA writable_schema = ON")
    for statement in statements:
        connection.execute(statement)
    head = f"[{n_slots}, 0, {columns}]".encode()
    return _sealed(len(head).to_bytes(8, "big") + head + _settled(connection.serialize()))


def test_the_forger_of_these_tests_can_forge() -> None:
    assert Records.from_bytes(forged()).ids_at([0, 1]) == ["a", "b"]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE other (x)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE INDEX i ON imgembed_items (c0)",
        "CREATE TRIGGER t AFTER INSERT ON imgembed_items BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
        "ALTER TABLE imgembed_items ADD COLUMN c1",
        "ALTER TABLE imgembed_items ADD COLUMN c1 AS (randomblob(9))",
        "UPDATE sqlite_master SET sql = replace(sql, 'c0', 'c0 CHECK (1)') WHERE type = 'table'",
        "UPDATE sqlite_master SET rootpage = 3",
        "DELETE FROM sqlite_master WHERE type = 'index'",
        "DROP TABLE imgembed_items",
        "UPDATE imgembed_items SET slot = -1 WHERE slot = 0",
        "UPDATE imgembed_items SET slot = 2 WHERE slot = 0",
        "UPDATE imgembed_items SET key = NULL",
        "UPDATE imgembed_items SET key = 0 WHERE slot = 0",
        "UPDATE imgembed_items SET key = 2e20 WHERE slot = 0",
        "UPDATE imgembed_items SET key = x'00' WHERE slot = 0",
        'UPDATE imgembed_items SET key = CAST(\'["int","0x1"]\' AS BLOB) WHERE slot = 0',
        "UPDATE imgembed_items SET key = CAST('[\"tuple\",5]' AS BLOB) WHERE slot = 0",
        "UPDATE imgembed_items SET key = CAST(x'ff' AS TEXT) WHERE slot = 0",
        "UPDATE imgembed_items SET original = 'x' WHERE slot = 0",
        'UPDATE imgembed_items SET original = CAST(\'["int","0x1"]\' AS BLOB) WHERE slot = 0',
        "UPDATE imgembed_items SET c0 = 5",
        "UPDATE imgembed_items SET c0 = x'00'",
        "UPDATE imgembed_items SET c0 = CAST(x'ff' AS TEXT)",
    ],
)
def test_forged_tables_are_refused(statement: str) -> None:
    with pytest.raises(ValueError, match="the records are damaged"):
        Records.from_bytes(forged(statement))


@pytest.mark.parametrize(
    ("columns", "n_slots"),
    [
        ('{"c": "datetime"}', 2), ('{"c": "unknown"}', 2), ('{"c": []}', 2),
        ('{"c": "integer"}', 2),
        ('{"imgembed_x": "text"}', 2), ('{"c": "text", "C": "text"}', 2), ("{}", 2), ("[]", 2),
        ('{"c": "text"}', 1), ('{"c": "text"}', -1), ('{"c": "text"}', 2**50),
        ("[" * 100_000, 2), ('{"c": "null"}', 2), ('{"c": "boolean"}', 2), ("1, 2", 2),
    ],
)  # fmt: skip
def test_a_forged_state_is_refused(columns: str, n_slots: int) -> None:
    with pytest.raises(ValueError, match="the records are damaged"):
        Records.from_bytes(forged(columns=columns, n_slots=n_slots))


def test_a_change_that_fails_within_sqlite_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    records = shop()
    before = behaviour(records)
    connection = records._table()
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
    with pytest.raises(sqlite3.DataError, match="too big"):
        records.append(["e", "f"], {"category": ["fine", "x" * 2000], "new": [1, 2]}, 2)
    assert behaviour(records) == before
    records.append(["e"], None, 1)
    assert consistent(records)
