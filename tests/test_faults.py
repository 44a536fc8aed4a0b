"""The matrix of faults at full length: ``nox -s faults`` runs these alone.

Each fault happens in child processes with fixed seeds, and says in a line what came of it; the
other tests have a short version of each. ``IMGEMBED_FAULT_SECONDS`` is how long each pair of
operations runs at the same time.
"""

import os
from collections import Counter
from collections.abc import Callable
from functools import partial

import graph_faults
import index_faults
import pytest
import saved_index_faults
import storage_faults

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.name == "nt", reason="needs POSIX: fork, signals, limits"),
]

SECONDS_A_PAIR = float(os.environ.get("IMGEMBED_FAULT_SECONDS", "60"))
Say = Callable[[str], None]


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Say:
    """A printer of lines that are seen also where tests pass, once they have; see conftest."""
    return partial(record_property, "said")


@pytest.fixture(autouse=True)
def _children_work_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the child processes the waiting for a real disk, where there is a disk in memory."""
    if os.access("/dev/shm", os.W_OK):
        monkeypatch.setenv("TMPDIR", "/dev/shm")


def test_damaged_files(say: Say) -> None:
    outcomes = saved_index_faults.in_child(saved_index_faults.damage_index, 2000, 0)
    for name in sorted({key.partition(": ")[0] for key in outcomes}):
        refused, rebuilt = outcomes[f"{name}: refused"], outcomes[f"{name}: rebuilt"]
        assert refused + rebuilt == 2000
        built = f", {rebuilt} of them built again when asked" if rebuilt else ""
        say(f"2000 mutations of {name}: {refused + rebuilt} refused{built}, 0 crashed, 0 wrong")


def test_damaged_files_of_a_store(say: Say) -> None:
    outcomes = storage_faults.in_child(storage_faults.damage_files, 2000, 1)
    assert set(outcomes) <= {"CorruptIndexError", "same"}
    say(f"2000 mutations of each file of a plain store: {_listed(outcomes)}, 0 crashed, 0 wrong")


def test_forged_manifests(say: Say) -> None:
    outcomes = storage_faults.in_child(storage_faults.forge_manifests, 5000, 0)
    say(f"5000 forged manifests: {_listed(outcomes)}, 0 crashed, 0 wrong")


def test_forged_parameters(say: Say) -> None:
    outcomes = saved_index_faults.in_child(saved_index_faults.forge_meta, None, 0)
    assert outcomes.total() > 5000
    say(f"{outcomes.total()} forged parameters: {_listed(outcomes)}, 0 crashed, 0 wrong")


@pytest.mark.parametrize("seed", range(3))
def test_forged_arrays(seed: int, say: Say) -> None:
    outcomes = saved_index_faults.in_child(saved_index_faults.forge_arrays, 1000, seed)
    say(f"3000 times forged arrays, seed {seed}: {_listed(outcomes)}, 0 crashed, 0 wrong")


@pytest.mark.parametrize("seed", range(5))
def test_forged_graphs(seed: int, say: Say) -> None:
    n_refused, n_used = graph_faults.use_forged_graphs_in_a_child(1000, seed)
    say(f"1000 forged graphs, seed {seed}: {n_refused} refused, {n_used} used, 0 crashed, 0 wrong")


def test_hostile_files(say: Say) -> None:
    outcomes = saved_index_faults.in_child(saved_index_faults.hostile_files)
    assert set(outcomes) == {"refused"}
    say(f"5 hostile contents in each file: {_listed(outcomes)}, 0 run")


def test_random_kills(say: Say) -> None:
    outcomes = storage_faults.in_child(storage_faults.kill_at_random, 300, 0)
    assert outcomes.total() == 300
    say(f"300 random kills of a save: {_listed(outcomes)}, 0 other")


def test_random_kills_of_an_index(say: Say) -> None:
    outcomes = saved_index_faults.in_child(saved_index_faults.kill_saves, 300, 0)
    assert outcomes.total() == 300
    say(f"300 random kills of an index's save: {_listed(outcomes)}, 0 other")


def test_kills_at_each_write(say: Say) -> None:
    outcomes = storage_faults.in_child(storage_faults.kill_at_points)
    say(f"a kill at each of {outcomes.total()} write points: {_listed(outcomes)}, 0 other")


@pytest.mark.parametrize("lasting", [False, True])
def test_errors_at_each_write(lasting: bool, say: Say) -> None:
    outcomes = storage_faults.in_child(storage_faults.raise_at_points, lasting)
    what = "a disk that is full from then on" if lasting else "an OSError"
    say(f"{what}, at each of {outcomes.total()} write points: {_listed(outcomes)}, 0 other")


def test_full_disks(say: Say) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may mount a small disk")
    outcomes = storage_faults.in_child(storage_faults.save_to_full_disks, 20)
    assert outcomes.total() == 20
    assert min(outcomes["old"], outcomes["new"]) > 0
    say(f"20 sizes of a full disk: {_listed(outcomes)}, 0 other")


def test_files_that_must_not_grow(say: Say) -> None:
    outcomes = storage_faults.in_child(storage_faults.save_with_short_files, 20)
    say(f"20 limits of the size of a file: {_listed(outcomes)}, 0 other")


def test_folders_without_rights(say: Say) -> None:
    outcomes = storage_faults.in_child(storage_faults.save_without_rights)
    say(f"a read-only folder: {_listed(outcomes)}")


def test_readers_and_writers_in_other_processes(say: Say) -> None:
    outcomes = storage_faults.in_child(storage_faults.read_while_saving, 2000, 2)
    say(f"2000 saves while 2 processes read: {_listed(outcomes)}, each of one whole version")
    outcomes = storage_faults.in_child(storage_faults.count_together, 200, 3)
    say(f"3 processes that save 200 times each: {_listed(outcomes)}, 0 undone")


@pytest.mark.parametrize("algorithm", ["auto", "hnsw", "exact"])
def test_misuses(algorithm: str, say: Say) -> None:
    n_refused = index_faults.misuse_in_a_child(algorithm)
    say(f"{n_refused} misuses, {algorithm}: {n_refused} refused, 0 crashed, 0 changed the index")


@pytest.mark.parametrize("pair", index_faults.PAIRS, ids=" and ".join)
def test_operations_at_the_same_time(pair: tuple[str, str], say: Say) -> None:
    n_done = index_faults.pair_in_a_child(*pair, SECONDS_A_PAIR)
    assert n_done > 0
    say(f"{' and '.join(pair)} for {SECONDS_A_PAIR:g} s: {n_done} done, 0 crashed, 0 wrong")


def _listed(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
