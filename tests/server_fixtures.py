"""Fixtures for tests of servers: a server for all tests of a module, and vectors to write there.

A module that imports one of them names it as its tests do: ``server`` or ``vectors``.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from clickhouse_server import ClickHouseServer
from milvus_server import MilvusServer
from numpy.typing import NDArray
from postgres_server import PostgresServer


@pytest.fixture(name="server", scope="module")
def postgres() -> Iterator[PostgresServer]:
    running = PostgresServer()
    yield running
    running.stop()


@pytest.fixture(name="server", scope="module")
def clickhouse() -> Iterator[ClickHouseServer]:
    running = ClickHouseServer()
    yield running
    running.stop()


@pytest.fixture(name="server", scope="module", params=["lite", "core"])
def milvus(request: pytest.FixtureRequest) -> Iterator[MilvusServer]:
    running = MilvusServer(request.param)
    yield running
    running.stop()


@pytest.fixture(name="vectors")
def vectors_300_by_16() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)


@pytest.fixture(name="vectors")
def vectors_60_by_8() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
