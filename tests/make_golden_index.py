"""The golden indexes: what this version of the format looks like, kept so that it loads for ever.

``python tests/make_golden_index.py`` writes them, with the answers that they must give, to
``tests/golden/format_N``. Those that are there are never written again: a later version of the
format gets a folder of its own, and reads the old ones too.
"""

import datetime
import json
import uuid
from collections.abc import Callable
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray
from saved_index_faults import Embedder, narrow_graphs, table

from imgembed import NearestNeighborIndex
from imgembed.index.storage import _manifest

GOLDEN = Path(__file__).with_name("golden")
N_FEATURES = 12
WHERE = "price < 30 OR category IS NULL"


def numbers(seed: int, n_vectors: int) -> NDArray[np.float64]:
    """Vectors that are the same in every version of NumPy, and exact in float32."""
    rng = np.random.RandomState(seed)  # whose numbers never change
    return rng.randint(-1000, 1000, (n_vectors, N_FEATURES)) / 256


def _with_all() -> NearestNeighborIndex:
    """A graph; ids and records of all kinds; copies, zeros, removed ones and late ones."""
    vectors = numbers(0, 140)
    vectors[100:110], vectors[110:112] = vectors[:10], 0
    named = pandas.DataFrame(vectors, columns=[f"x{i}" for i in range(N_FEATURES)])
    index = NearestNeighborIndex(6, "cosine", "hnsw", M=4, ef_construction=50, random_state=3)
    index.fit(named[:120], ids=_ids(120), records=_records(120), embedder=Embedder())
    index.add(named[120:], ids=[f"late {i}" for i in range(20)], records={"late": [True] * 20})
    index.remove(["image 5", 50, None]).update_records(["image 7"], {"price": [1000]})
    index.calibrate()
    return index


def _ids(n: int) -> list[Any]:
    kinds = [
        None, True, 0.5, b"\x00\xff", "\N{GREEK SMALL LETTER ALPHA}'\n", ("a", 1, (2.5, None)),
        PurePosixPath("a/b.jpg"), datetime.date(2020, 2, 29), uuid.UUID(int=5), -(10**30),
        datetime.datetime(2020, 2, 29, 23, 59, 59, 999999, datetime.UTC),
    ]  # fmt: skip
    return [*(f"image {i}" for i in range(40)), *range(40, n - len(kinds)), *kinds]


def _records(n: int) -> dict[str, list[Any]]:
    start = datetime.datetime(2020, 1, 1)
    return {
        "price": [i % 50 / 2 for i in range(n)],
        "category": [("shoe", "hat", None)[i % 3] for i in range(n)],
        "count": [i**5 for i in range(n)],
        "in stock?": [i % 2 == 0 for i in range(n)],
        "digest": [bytes([i, 0]) for i in range(n)],
        "file": [PurePosixPath(f"folder/{i}.jpg") for i in range(n)],
        "day": [start.date() + datetime.timedelta(i) for i in range(n)],
        "time": [start + datetime.timedelta(0, i) for i in range(n)],
        "time_utc": [datetime.datetime(1900 + i, 1, 1, tzinfo=datetime.UTC) for i in range(n)],
        "uuid": [uuid.UUID(int=i) for i in range(n)],
        "nothing": [None] * n,
    }  # fmt: skip


def _projected() -> NearestNeighborIndex:
    """A graph in fewer axes than the vectors, which are int8, and labelled pairs."""
    index = NearestNeighborIndex(3, "euclidean", "hnsw", M=4, storage="int8", ef_search=20)
    vectors = numbers(1, 60)
    vectors[30:] = vectors[:30] + numbers(2, 30) / 50
    with narrow_graphs():
        index.fit(vectors, records=[{"price": i, "category": "hat"} for i in range(60)])
    pairs = [(i, i + 30) for i in range(30)] + [(i, i + 31) for i in range(29)]
    index.calibrate(pairs, [True] * 30 + [False] * 29)
    return index


def _plain() -> NearestNeighborIndex:
    """Vectors of float16 and nothing else."""
    return NearestNeighborIndex(2, "ip", storage="float16").fit(numbers(3, 30))


BUILDS: dict[str, Callable[[], NearestNeighborIndex]] = {
    "with_all": _with_all,
    "projected": _projected,
    "plain": _plain,
}


def answers(index: NearestNeighborIndex) -> dict[str, Any]:
    """What an index must answer, as JSON."""
    queries = table(index, numbers(9, 6))
    given = index.calibration_
    return {
        "parameters": {**index.get_params(), "progress": None},
        "ids": [shown(item_id) for item_id in index],
        "columns": index.columns_,
        "features": list(getattr(index, "feature_names_in_", [])),
        "fingerprint": index.fingerprint_,
        "threshold": None if given is None else given.threshold,
        "vectors": np.sum(index.vectors_, axis=0, dtype=np.float64).tolist(),
        "found exactly": _found(index, queries, exact=True),
        "found": _found(index, queries),
        "found of some": _found(index, queries, where=WHERE) if index.columns_ else None,
        "ef_search": index.ef_search_,
    }


def _found(index: NearestNeighborIndex, queries: Any, **options: Any) -> dict[str, Any]:
    found = index.search(queries, 3, **options)
    probabilities = found.probabilities
    return {
        "ids": [[shown(item_id) for item_id in row] for row in found.ids],
        "rows": found.rows.tolist(),
        "distances": found.distances.tolist(),
        "first records": [
            {name: shown(value) for name, value in row[0].items()} for row in found.records
        ],
        "probabilities": None if probabilities is None else probabilities.tolist(),
    }


def shown(value: Any) -> str:
    """A value and its type, the same on each system."""
    if isinstance(value, PurePath):
        value = PurePosixPath(value.as_posix())
    return repr(value)


def main() -> None:
    """Write the golden indexes of this version of the format."""
    folder = GOLDEN / f"format_{_manifest._VERSION}"
    if folder.exists():
        raise SystemExit(f"{folder} is there, and golden indexes are never made again")
    wanted = {}
    for name, build in BUILDS.items():
        build().save(folder / name)
        wanted[name] = answers(NearestNeighborIndex.load(folder / name))
    (folder / "answers.json").write_text(json.dumps(wanted, separators=(",", ":")))
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    print(f"{folder}: {sum(sizes)} bytes")


if __name__ == "__main__":
    main()
