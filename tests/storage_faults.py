"""Faults of saved indexes, made on purpose: damage, kills, full disks, saves at the same time.

Each fault is a function of counts and seeds that returns how often each outcome was seen, and
fails an assertion for an outcome that must never be. :func:`in_child` runs one in a process of its
own, so that a crash is seen and forks are safe. They need POSIX.
"""

import errno
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from imgembed.index.storage._folder import (
    IndexChangedError,
    Snapshot,
    read_snapshot,
    write_snapshot,
)
from imgembed.index.storage._lock import IndexLockedError
from imgembed.index.storage._manifest import MANIFEST_NAME, encode_manifest

WRITE_EVENTS = frozenset(
    "open os.mkdir os.rename os.remove os.rmdir os.listdir os.scandir shutil.rmtree "
    "fcntl.flock".split()
)
_FORGED_VALUES = (
    *(None, True, False, -1, 0, 1, 2, 3, 2**31, 2**32, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308),
    *("", ".", "..", "../..", "/etc/passwd", "gen-", "a" * 10_000, "\x00", "\ud800", "vectors"),
    *("|O", "<f4", "<i4", ">f4", "<c8", "<M8[s]", "<U4", "V8", "<f4,<f4", "object"),
    *([], {}, [0], [1] * 40, [[]], [2**40, 2**40], [0, 2**62], {"": {}}, {"../../x": {}}),
)


# The storage needs NumPy only; the rest of the package takes seconds to import.
_CHILD = """
import json, sys, types, imgembed
index = sys.modules["imgembed.index"] = types.ModuleType("imgembed.index")
index.__path__ = [imgembed.__path__[0] + "/index"]
sys.path.insert(0, sys.argv[1])
import storage_faults
print(json.dumps(getattr(storage_faults, sys.argv[2])(*json.loads(sys.argv[3]))))
"""


def in_child(fault: Callable[..., Counter[str]], *arguments: Any) -> Counter[str]:
    """Run a function of this file, with arguments that JSON knows, in a process of its own."""
    command = child_command(fault, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
    return Counter(json.loads(done.stdout.splitlines()[-1]))


def child_command(fault: Callable[..., Counter[str]], *arguments: Any) -> list[str]:
    """The command that runs a function of this file and prints what it returns."""
    here = str(Path(__file__).parent)
    return [sys.executable, "-c", _CHILD, here, fault.__name__, json.dumps(arguments)]


def save_version(
    folder: Path, version: int, *, n_rows: int = 2000, replaces: str | None = None
) -> str:
    """Save an index all of whose parts tell its version."""
    arrays = {
        "vectors": np.full((n_rows, 16), version, dtype=np.float32),
        "counts": np.full(n_rows, version, dtype=np.int64),
    }
    blobs = {"graph": b"%08d" % version * n_rows}
    meta = {"version": version, "n_rows": n_rows}
    return write_snapshot(folder, meta, arrays, blobs, replaces=replaces)


def version_of(snapshot: Snapshot) -> int:
    """The version of an index, if all its parts agree."""
    version, n_rows = snapshot.meta["version"], snapshot.meta["n_rows"]
    assert snapshot.arrays["vectors"].shape == (n_rows, 16)
    assert (snapshot.arrays["vectors"] == version).all()
    assert snapshot.arrays["counts"].shape == (n_rows,)
    assert (snapshot.arrays["counts"] == version).all()
    assert snapshot.blobs["graph"] == b"%08d" % version * n_rows
    return int(version)


def generations(folder: Path) -> list[Path]:
    """The folders of generations: one, unless something was left behind."""
    return sorted(folder.glob("gen-*"))


def forge(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest, and make its checksum fit."""
    path = folder / MANIFEST_NAME
    content = json.loads(path.read_bytes())
    edit(content)
    path.write_bytes(encode_manifest(content))


def damage_files(n_mutations: int, seed: int) -> Counter[str]:
    """Damage each file of an index in random ways; outcomes are those of loading."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_version(folder, 1, n_rows=50)
        sound = read_snapshot(folder)
        for path in [folder / MANIFEST_NAME, *generations(folder)[0].iterdir()]:
            rng, content = np.random.default_rng(seed), path.read_bytes()
            for i in range(n_mutations):
                path.write_bytes(mutated(content, rng))
                same = path.read_bytes() == content
                outcome = _outcome(folder, sound, mapped=i % 2 == 0)
                assert outcome == ("same" if same else "CorruptIndexError"), (path, i, outcome)
                outcomes[outcome] += 1
            path.write_bytes(content)
    return outcomes


def forge_manifests(n_forgeries: int, seed: int) -> Counter[str]:
    """Change random fields of the manifest and make its checksum fit."""
    outcomes: Counter[str] = Counter()
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_version(folder, 1, n_rows=50)
        sound, manifest = read_snapshot(folder), (folder / MANIFEST_NAME).read_bytes()
        for i in range(n_forgeries):
            (folder / MANIFEST_NAME).write_bytes(manifest)
            forge(folder, lambda content: _forge_field(content, rng))
            outcome = _outcome(folder, sound, mapped=i % 2 == 0)
            forged = (folder / MANIFEST_NAME).read_bytes()
            assert outcome in ("CorruptIndexError", "same", "newer"), (outcome, forged[:1000])
            outcomes[outcome] += 1
    return outcomes


def kill_at_random(n_kills: int, seed: int) -> Counter[str]:
    """Kill a saving process after random times; the old or the new index must be there."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        longest = _seconds_of_a_save(folder)
        outcomes: Counter[str] = Counter()
        for i in range(n_kills):
            save_version(folder, 2 * i)
            assert len(generations(folder)) == 1  # what killed saves have left is gone
            child = _fork(lambda version=2 * i + 1: save_version(folder, version))
            time.sleep(rng.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            outcomes[_old_or_new(folder, 2 * i)] += 1
    return outcomes


def kill_at_points() -> Counter[str]:
    """Kill a saving process at each point where it touches the disk."""

    def act(point: int, n: int) -> None:
        if n == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return Counter(index for _, index in _save_with_acts(act))


def raise_at_points(lasting: bool) -> Counter[str]:
    """Let the disk fail at each point where a save touches it, once or from then on."""

    def act(point: int, n: int) -> None:
        if n == point or (lasting and n > point):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    outcomes: Counter[str] = Counter()
    for status, index in _save_with_acts(act, no_leftovers=not lasting):
        assert status in (_SAVED, _FAILED), "something else than an OSError was raised"
        assert (status, index) != (_SAVED, "old"), "a save that failed said nothing"
        outcomes[f"{index}, {'saved' if status == _SAVED else 'OSError'}"] += 1
    return outcomes


def save_to_full_disks(n_sizes: int) -> Counter[str]:
    """Save to small file systems, which the old index fits; needs the right to mount."""
    sizes = np.linspace(80, 560, n_sizes, dtype=int)
    with tempfile.TemporaryDirectory() as name:
        return Counter(_save_to_full_disk(Path(name), int(n_kilobytes)) for n_kilobytes in sizes)


def save_with_short_files(n_sizes: int) -> Counter[str]:
    """Save with a limit of the size of a file, which any process may set itself."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        for n_bytes in map(int, np.linspace(0, 160_000, n_sizes)):
            folder = Path(name) / str(n_bytes)
            save_version(folder, 0, n_rows=100)
            child = _fork(lambda n=n_bytes, to=folder: _save_with_limit(to, n))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            index = _old_or_new(folder, 0)
            assert (status, index) in ((_SAVED, "new"), (_FAILED, "old"))
            assert len(generations(folder)) == 1
            outcomes[index] += 1
    return outcomes


def read_while_saving(n_saves: int, n_readers: int) -> Counter[str]:
    """Read all the time while another process saves; each read must give one whole version."""
    with tempfile.TemporaryDirectory() as name, _pool(n_readers) as pool:
        folder = Path(name)
        save_version(folder, 0)
        readers = [pool.submit(_read_until, folder, n_saves) for _ in range(n_readers)]
        for version in range(1, n_saves + 1):
            save_version(folder, version, n_rows=1000 + version % 7 * 500)
        return Counter({"reads": sum(reader.result() for reader in readers)})


def count_together(n_saves: int, n_writers: int) -> Counter[str]:
    """Let processes add to one counter, each save replacing what it has read."""
    with tempfile.TemporaryDirectory() as name, _pool(n_writers) as pool:
        folder = Path(name)
        save_version(folder, 0, n_rows=10)
        writers = [pool.submit(_count, folder, n_saves) for _ in range(n_writers)]
        outcomes = sum((writer.result() for writer in writers), Counter())
        assert version_of(read_snapshot(folder)) == n_saves * n_writers, "a save was undone"
        assert len(generations(folder)) == 1
    return outcomes


def save_without_rights() -> Counter[str]:
    """Save into a folder that may be read only, as a user who is not root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "index"
        save_version(folder, 0)
        for path in (Path(name), folder):
            path.chmod(0o555)
        status = os.waitstatus_to_exitcode(os.waitpid(_fork(lambda: _save_as_nobody(folder)), 0)[1])
        assert status == _SAVED
        for path in (Path(name), folder):
            path.chmod(0o755)
        return Counter([_old_or_new(folder, 0)])


def hold_lock(folder: str) -> Counter[str]:
    """Begin a save and never end it, until killed."""

    def stop(event: str, _: object) -> None:
        if event == "os.rename":
            print("saving", flush=True)
            time.sleep(3600)

    sys.addaudithook(stop)
    save_version(Path(folder), 1)
    return Counter()


_SAVED, _FAILED, _NOT_REACHED, _OTHER = 0, 10, 11, 12


def _fork(work: Callable[[], object]) -> int:
    """Do it in a copy of this process, whose exit code tells how it went."""
    child = os.fork()
    if child:
        return child
    status = _OTHER
    try:
        work()
        status = _SAVED
    except OSError:
        status = _FAILED
    except _NotReachedError:
        status = _NOT_REACHED
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


class _NotReachedError(Exception):
    """The save has fewer points than that."""


def _save_with_acts(
    act: Callable[[int, int], None], *, no_leftovers: bool = False
) -> Iterator[tuple[int, str]]:
    """Save again and again, each time with the act at another point."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for point in itertools.count(1):
            save_version(folder, 2 * point, n_rows=100)
            assert len(generations(folder)) == 1  # what failed saves have left is gone
            child = _fork(lambda point=point: _save_with_act(folder, 2 * point + 1, point, act))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status == _NOT_REACHED:
                return
            index = _old_or_new(folder, 2 * point)
            if no_leftovers and index == "old":
                assert len(generations(folder)) == 1
            yield status, index


def _save_with_act(folder: Path, version: int, point: int, act: Callable[[int, int], None]) -> None:
    n_points = 0

    def reach() -> None:
        nonlocal n_points
        n_points += 1
        act(point, n_points)

    def fsync(descriptor: int, really: Callable[[int], None] = os.fsync) -> None:
        reach()
        really(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
    sys.addaudithook(lambda event, _: reach() if event in WRITE_EVENTS else None)
    save_version(folder, version, n_rows=100)
    if n_points < point:
        raise _NotReachedError


def _old_or_new(folder: Path, old: int) -> str:
    return {old: "old", old + 1: "new"}[version_of(read_snapshot(folder))]


def _seconds_of_a_save(folder: Path) -> float:
    """Of the slowest of five saves, each in a process of its own."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        os.waitpid(_fork(lambda: save_version(folder, 0)), 0)
        seconds.append(time.perf_counter() - start)
    return max(seconds)


def _save_to_full_disk(folder: Path, n_kilobytes: int) -> str:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={n_kilobytes}k", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        save_version(folder / "index", 0, n_rows=100)
        try:
            save_version(folder / "index", 1, n_rows=5000)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        index = _old_or_new(folder / "index", 0)
        assert len(generations(folder / "index")) == 1
        return index
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _save_with_limit(folder: Path, n_bytes: int) -> None:
    import resource  # Windows has none, and the tests import this file there too

    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
    save_version(folder, 1)


def _save_as_nobody(folder: Path) -> None:
    if os.getuid() == 0:
        os.setuid(65534)
    assert version_of(read_snapshot(folder)) == 0
    for target in (folder, folder.parent / "new"):
        try:
            save_version(target, 1)
        except PermissionError:
            continue
        raise AssertionError("a read-only folder was written to")


def _pool(n_processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(n_processes, multiprocessing.get_context("fork"))


def _read_until(folder: Path, last: int) -> int:
    """Read until the last version comes; what is mapped must outlive its generation."""
    version = n_reads = 0
    earlier = read_snapshot(folder, mmap=["vectors"])
    while version < last:
        snapshot = read_snapshot(folder, mmap=["vectors"], spared=["graph"])
        assert not snapshot.spared
        assert version <= version_of(snapshot)
        version_of(earlier)
        version, earlier, n_reads = version_of(snapshot), snapshot, n_reads + 1
    return n_reads


def _count(folder: Path, n_saves: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    while outcomes["saved"] < n_saves:
        snapshot = read_snapshot(folder)
        try:
            version = version_of(snapshot) + 1
            save_version(folder, version, n_rows=10, replaces=snapshot.generation)
            outcomes["saved"] += 1
        except (IndexLockedError, IndexChangedError) as error:
            outcomes[type(error).__name__] += 1
    return outcomes


def _outcome(folder: Path, sound: Snapshot, *, mapped: bool) -> str:
    """What loading gives: "same" if nothing is there that was not saved so."""
    try:
        loaded = read_snapshot(folder, mmap=["vectors"] if mapped else [])
    except ValueError as error:
        return "newer" if "newer imgembed" in str(error) else type(error).__name__
    except Exception as error:
        return type(error).__name__
    arrays = all(
        (array.dtype, array.shape, array.tobytes())
        == (sound.arrays[name].dtype, sound.arrays[name].shape, sound.arrays[name].tobytes())
        for name, array in loaded.arrays.items()
    )
    return "same" if arrays and loaded.blobs.items() <= sound.blobs.items() else "wrong"


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Content with one random damage."""
    start, stop = sorted(map(int, rng.integers(0, len(content) + 1, 2)))
    before, middle, after = content[:start], content[start:stop], content[stop:]
    flipped = bytearray(content)
    if content:
        flipped[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    damages = (
        bytes(flipped),
        bytes(flipped),  # twice, being the likeliest
        before,
        before + after,
        before + middle + middle + after,
        before + bytes(len(middle)) + after,
        before + rng.bytes(len(middle)) + after,
        before + rng.bytes(int(rng.integers(1, 9))) + middle + after,
        content + bytes(int(rng.integers(1, 5000))),
        middle + before + after,
        rng.bytes(len(content)),
        b"",
    )
    return damages[rng.integers(len(damages))]


def _forge_field(content: dict[str, Any], rng: np.random.Generator) -> None:
    """Give a random field another value or name, or take it away; meta may be anything anyhow."""
    places = [place for place in _places(content) if place[1] != "meta"]
    parent, key = places[rng.integers(len(places))]
    action = rng.integers(4)
    value = _FORGED_VALUES[rng.integers(len(_FORGED_VALUES))]
    if action == 0:
        del parent[key]
    elif action == 1 and isinstance(parent, dict):
        parent[value if isinstance(value, str) else str(key) + "_"] = parent.pop(key)
    else:
        parent[key] = value


def _places(part: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(part) if isinstance(part, dict) else range(len(part))
    for key in keys:
        yield part, key
        if isinstance(part[key], dict | list) and key != "meta":
            yield from _places(part[key])
