"""What must hold of conditions on an index, whichever server holds it."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray

from imgembed import NearestNeighborIndex, WhereError
from imgembed.servers._server_index import ServerIndex

Vectors = NDArray[np.float32]


def check_names_are_only_names(
    index: ServerIndex, names: list[str], looks_like_ours: str, vectors: Vectors
) -> None:
    """Of columns of records: 50% off, one that looks like a name of the library's, and others."""
    index.fit(vectors, records={name: list(range(len(vectors))) for name in names})
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        assert index.search(vectors[:1], where=f"{quoted} = 17").ids == [[17]]
    index.upsert(vectors[:1], [0], records={"50% off": [1000]})
    index.update_records([1], {looks_like_ours: [1000]})
    assert index.search(vectors[:1], where='"50% off" = 1000').ids == [[0]]
    assert index.search(vectors[:1], where=f'"{looks_like_ours}" = 1000').ids == [[1]]


def fit_what_is_attacked(index: ServerIndex, vectors: Vectors) -> ServerIndex:
    records = {"price": range(20), "name": list("abcdefghijklmnopqrst")}
    return index.fit(vectors[:20], records=records)


def check_hostile_conditions_find_no_more(
    index: ServerIndex,
    query: Vectors,
    conditions: SearchStrategy[str],
    n_examples: int = 1_000,
) -> None:
    """Than its 20 items. ``word`` stands in a table called secret, which none may read."""

    @settings(
        max_examples=n_examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(conditions)
    def attack(condition: str) -> None:
        try:
            found = index.search(query, 20, where=condition)
        except WhereError:
            return
        assert set(found.ids[0]) <= set(range(20))
        assert "word" not in repr(found.records)

    attack()
    assert len(index) == 20


def check_conditions_mean_the_same(
    index: ServerIndex,
    conditions: SearchStrategy[str],
    n_examples: int = 500,
    n_wanted: int = 200,
) -> None:
    """On the server as here; more than ``n_wanted`` of the examples must be taken there."""
    texts = ["a", "A", " a ", "É%", "é%", "", "a_b", None]
    records = {
        "n": [None if row % 7 == 0 else row - 12 for row in range(40)],
        "r": [None if row % 9 == 0 else (row - 20) / 4 for row in range(40)],
        "b": [[True, False, None][row % 3] for row in range(40)],
        "t": [texts[row % 8] for row in range(40)],
    }
    vectors = np.random.default_rng(0).normal(size=(40, 4))
    index.fit(vectors, records=records)
    here = NearestNeighborIndex().fit(vectors, records=records)
    n_compared = 0

    @settings(max_examples=n_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(conditions)
    def compare(condition: str) -> None:
        nonlocal n_compared
        params = [3] * condition.count("?")
        try:
            kept = index.search(vectors[:1], 40, where=condition, params=params).ids[0]
        except WhereError:
            return
        n_compared += 1
        wanted = here.search(vectors[:1], 40, where=condition, params=params).ids[0]
        assert sorted(kept) == sorted(wanted), condition

    compare()
    assert n_compared > n_wanted
