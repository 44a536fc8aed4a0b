"""The cache of embeddings: found by content and fingerprint, whole or not at all, never wrong."""

import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mean_colour import MeanColour
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from test_frame import run_code_in

import imgembed
from imgembed import (
    CacheError,
    CacheWarning,
    CNNEmbedder,
    EmbeddingCache,
    FineTunedEmbedder,
    HOGEmbedder,
    ImageReadError,
    ImageReadWarning,
    SIFTEmbedder,
    _vector_table,
    testing,
)
from imgembed import cache as cache_room
from imgembed.cache import Cache, OpenCache

N_IMAGES = 12


class Counting(MeanColour):
    """It has a cache, counts the images that it embeds, and remembers the sizes of batches."""

    def __init__(
        self,
        scale: float = 1.0,
        batch_size: int = 2,
        n_jobs: int | None = None,
        on_error: str = "raise",
        progress: bool | str = False,
        max_pixels: int = 10_000_000,
        cache: Cache = None,
    ) -> None:
        super().__init__(scale, batch_size, n_jobs, on_error, progress, max_pixels)
        self.cache = cache

    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        self.__dict__.setdefault("_batches_embedded", []).append(len(prepared))
        return super()._embed(prepared)

    @property
    def batches(self) -> list[int]:
        sizes: list[int] = self.__dict__.pop("_batches_embedded", [])
        return sizes

    @property
    def n_embedded(self) -> int:
        return sum(self.batches)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    (tmp_path / "images").mkdir()
    made = [tmp_path / "images" / f"{i:02}.png" for i in range(N_IMAGES)]
    for i, path in enumerate(made):
        Image.fromarray(np.full((8, 8, 3), 10 * i, dtype=np.uint8)).save(path)
    return made


@contextmanager
def database(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "embeddings.sqlite")) as connection, connection:
        yield connection


# Hits and misses.


def test_what_is_in_the_cache_is_not_embedded_again(paths: list[Path], folder: Path) -> None:
    embedder = Counting(cache=folder)
    first = embedder.transform(paths)
    assert embedder.n_embedded == N_IMAGES
    assert np.array_equal(first, MeanColour().transform(paths))
    again = Counting(cache=str(folder))
    assert np.array_equal(again.transform(paths), first)
    assert again.transform(paths).dtype == np.float32
    assert again.n_embedded == 0
    info = EmbeddingCache(folder).info()
    assert (info.n_entries, info.n_hits, info.n_misses) == (N_IMAGES, 2 * N_IMAGES, N_IMAGES)


def test_the_network_is_not_called_for_what_is_known(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = CNNEmbedder(
        "tf_efficientnet_lite0", "bundled", image_size=64, engine="torch", cache=folder
    )
    first = network.transform(paths)
    monkeypatch.setattr(CNNEmbedder, "_embed_by", lambda *_: pytest.fail("it was called"))
    assert np.array_equal(network.transform(paths), first)
    with pytest.raises(pytest.fail.Exception, match="it was called"):
        network.set_params(image_size=96).transform(paths)


def test_every_way_to_embed_finds_them(paths: list[Path], folder: Path, tmp_path: Path) -> None:
    embedder = Counting(cache=folder)
    wanted = embedder.transform(paths)
    embedder.batches  # noqa: B018 (it forgets them)
    assert np.array_equal(embedder.fit_transform(paths), wanted)
    assert np.array_equal(embedder.transform_with_errors(paths)[0], wanted)
    assert np.array_equal(embedder.fit_transform_with_errors(paths)[0], wanted)
    assert np.array_equal(embedder.transform_to(paths, tmp_path / "vectors.npy"), wanted)
    assert embedder.n_embedded == 0


def test_transform_to_fills_the_cache(paths: list[Path], folder: Path, tmp_path: Path) -> None:
    embedder = Counting(cache=folder)
    embedder.transform(paths[3:6])
    stored = embedder.transform_to(paths, tmp_path / "vectors.npy")
    assert embedder.n_embedded == N_IMAGES
    assert np.array_equal(stored, embedder.transform(paths))
    assert embedder.n_embedded == 0


def test_unknown_images_still_fill_whole_batches(paths: list[Path], folder: Path) -> None:
    embedder = Counting(batch_size=3, cache=folder)
    embedder.transform(paths[::2])
    assert embedder.batches == [3, 3]
    assert np.array_equal(embedder.transform(paths), MeanColour().transform(paths))
    assert embedder.batches == [3, 3]


def test_more_known_images_than_pass_with_a_batch(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgembed.base._MOST_KNOWN", 2)
    embedder = Counting(batch_size=4, cache=folder)
    embedder.transform(paths[:7])
    embedder.batches  # noqa: B018 (it forgets them)
    assert np.array_equal(embedder.transform(paths), MeanColour().transform(paths))
    assert embedder.n_embedded == N_IMAGES - 7


def test_another_fingerprint_misses(paths: list[Path], folder: Path) -> None:
    Counting(cache=folder).transform(paths)
    other = Counting(scale=2.0, cache=folder)
    assert np.array_equal(other.transform(paths), MeanColour(2.0).transform(paths))
    assert other.n_embedded == N_IMAGES
    assert EmbeddingCache(folder).info().n_entries == 2 * N_IMAGES


def test_a_class_of_the_same_name_elsewhere_misses(paths: list[Path], folder: Path) -> None:
    Counting(cache=folder).transform(paths)
    namesake = type("Counting", (Counting,), {"__module__": "elsewhere"})(cache=folder)
    assert namesake.fingerprint() == Counting().fingerprint()
    namesake.transform(paths)
    assert namesake.n_embedded == N_IMAGES


def test_changed_content_misses_and_a_new_name_hits(paths: list[Path], folder: Path) -> None:
    embedder = Counting(cache=folder)
    before = embedder.transform(paths)
    os.utime(paths[0])
    moved = paths[1].rename(paths[1].with_name("moved.png"))
    stat = paths[2].stat()
    Image.fromarray(np.full((8, 8, 3), 255, dtype=np.uint8)).save(paths[2])
    os.utime(paths[2], ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if nothing had happened
    embedder.batches  # noqa: B018 (it forgets them)
    after = embedder.transform([paths[0], moved, *paths[2:]])
    assert embedder.n_embedded == 1
    assert after[2].tolist() == [255, 255, 255]
    assert np.array_equal(np.delete(after, 2, axis=0), np.delete(before, 2, axis=0))


def test_a_file_that_changes_in_between_is_kept_as_what_was_embedded(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = OpenCache.look_up

    def changing(self: OpenCache, content: Any) -> Any:
        found = look_up(self, content)
        Image.fromarray(np.full((8, 8, 3), 200, dtype=np.uint8)).save(paths[1])
        return found

    old = paths[1].read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(OpenCache, "look_up", changing)
        Counting(cache=folder).transform(paths[1:2])
    got = Counting(cache=folder).transform([old, paths[1].read_bytes()])
    assert got[:, 0].tolist() == [10, 200]


def test_all_kinds_of_images_are_found_again(paths: list[Path], folder: Path) -> None:
    pixels = np.full((6, 9, 3), 77, dtype=np.uint8)
    deep = np.full((6, 9), 30000, dtype=np.uint16)
    clear = Image.new("LA", (9, 6), (10, 0))
    turned = Image.fromarray(pixels)
    turned.getexif()[0x0112] = 6
    content = paths[3].read_bytes()
    images = [pixels, deep, pixels[:, ::2], clear, turned, content, {"bytes": content, "path": "x"},
              {"bytes": None, "path": str(paths[4])}]  # fmt: skip
    embedder = Counting(cache=folder)
    assert np.array_equal(embedder.transform(images), MeanColour().transform(images))
    embedder.batches  # noqa: B018 (it forgets them)
    assert np.array_equal(embedder.transform(images), MeanColour().transform(images))
    assert embedder.n_embedded == 0
    assert embedder.transform([paths[3]])[0, 0] == 30
    assert embedder.n_embedded == 0, "a path and its bytes are one image"


def test_pixels_of_another_shape_are_another_image(folder: Path) -> None:
    embedder = Counting(cache=folder)
    ramp = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    embedder.transform([ramp, ramp.reshape(6, 4, 3), ramp.reshape(2, 12, 3)])
    assert embedder.n_embedded == 3


def test_an_image_that_was_changed_in_place_misses(folder: Path) -> None:
    embedder = Counting(cache=folder)
    image = np.full((6, 9, 3), 77, dtype=np.uint8)
    embedder.transform([image])
    image[:] = 78
    assert embedder.transform([image])[0, 0] == 78


# Images that cannot be read.


def test_unreadable_images_keep_their_rows_and_are_never_kept(
    paths: list[Path], folder: Path
) -> None:
    paths[4].write_bytes(b"no image")
    paths[5].write_bytes(b"")
    images = [*paths, paths[0].with_name("missing.png"), np.zeros((3, 3), dtype=np.float64)]
    _, plain = MeanColour().transform_with_errors(images)
    for _ in range(2):
        with pytest.warns(ImageReadWarning, match="4 images cannot be read"):
            vectors = Counting(on_error="nan", cache=folder).transform(images)
        assert np.flatnonzero(np.isnan(vectors[:, 0])).tolist() == [4, 5, N_IMAGES, N_IMAGES + 1]
        _, errors = Counting(cache=folder).transform_with_errors(images)
        assert {row: str(e) for row, e in errors.items()} == {r: str(e) for r, e in plain.items()}
    assert EmbeddingCache(folder).info().n_entries == N_IMAGES - 2


def test_an_unreadable_image_raises_after_what_came_before_it_is_kept(
    paths: list[Path], folder: Path
) -> None:
    paths[9].write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=r"in row 9 .*09\.png"):
        Counting(cache=folder).transform(paths)
    assert EmbeddingCache(folder).info().n_entries == 8  # batches of two


# Estimators.


@pytest.mark.parametrize("cache", ["a", Path("a"), EmbeddingCache("a", 2_000_000)])
def test_embedders_with_a_cache_clone_and_pickle(cache: Any) -> None:
    for embedder in (HOGEmbedder(cache=cache), clone(HOGEmbedder(cache=cache))):
        again = pickle.loads(pickle.dumps(embedder))
        assert again.get_params() == embedder.get_params()
        assert again.cache == cache
    assert "cache=" in repr(HOGEmbedder(cache=cache))
    assert HOGEmbedder().cache is None


def test_the_parameter_is_the_last_of_every_embedder() -> None:
    named = [getattr(imgembed, name) for name in imgembed.__all__ if name.endswith("Embedder")]
    kinds = [kind for kind in named if issubclass(kind, imgembed.ImageEmbedder)]
    kinds.remove(imgembed.ImageEmbedder)
    assert len(kinds) >= 11
    for kind in kinds:
        arguments = (CNNEmbedder(),) if kind is FineTunedEmbedder else ()
        parameters = kind(*arguments, cache="c").get_params(deep=False)
        assert parameters["cache"] == "c"
        assert list(kind.__init__.__annotations__)[-2:] == ["cache", "return"]


@pytest.mark.parametrize("cache", [3, True, ["a"], {}])
def test_what_is_no_cache_is_refused(cache: Any, paths: list[Path]) -> None:
    with pytest.raises(TypeError, match="cache must be None, the path of a folder or an Embedd"):
        HOGEmbedder(cache=cache).transform(paths)


@pytest.mark.parametrize("limit", [0, 999_999, 1e9, "1 GB"])
def test_a_limit_that_holds_nothing_is_refused(limit: Any, paths: list[Path]) -> None:
    with pytest.raises(ValueError, match="size_limit of a cache must be an int of at least 1,000"):
        HOGEmbedder(cache=EmbeddingCache("a", limit)).transform(paths)


class SpeaksOfItsCache(Counting):
    """It would miss what another folder's embedder has computed, and what it is compared with."""

    def fingerprint_parts(self) -> dict[str, Any]:
        return {**super().fingerprint_parts(), "cache": repr(self.cache)}


class ForgetsItsCache(Counting):
    def _open_cache(self) -> Any:
        return nullcontext()


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [(SpeaksOfItsCache, "cache is in the fingerprint"), (ForgetsItsCache, "only 0 vectors")],
)
def test_the_check_finds_what_is_wrong(
    kind: type[Counting], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testing, "_CHECKS", (testing._check_cache,))
    testing.check_embedder(Counting())
    testing.check_embedder(MeanColour())  # it has none
    with pytest.raises(AssertionError, match=complaint):
        testing.check_embedder(kind())


def test_embedders_that_learn_are_found_by_what_they_learned(make_noise: Any, folder: Path) -> None:
    images = [make_noise(seed) for seed in range(4)]
    cached = SIFTEmbedder(20, random_state=0, cache=folder).fit(images)
    assert not folder.exists(), "fit needs no vectors"
    vectors = cached.transform(images)
    again = SIFTEmbedder(20, random_state=0, cache=folder).fit(images)
    assert np.array_equal(again.transform(images), vectors)
    assert EmbeddingCache(folder).info().n_hits == 4
    SIFTEmbedder(21, random_state=0, cache=folder).fit(images).transform(images)
    assert EmbeddingCache(folder).info().n_entries == 8


def test_a_saved_embedder_says_nothing_of_its_cache(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (8, 40, 40, 3), dtype=np.uint8)
    base = CNNEmbedder("tf_efficientnet_lite0", "bundled", image_size=64, cache="base's")
    tuned = FineTunedEmbedder(
        base, epochs=1, validation_fraction=0, engine="torch", cache=EmbeddingCache("its")
    ).fit(images, [0, 1] * 4)
    tuned.save(tmp_path / "tuned")
    told = json.loads((tmp_path / "tuned" / "embedder.json").read_text())
    assert "cache" not in told["parameters"]
    assert FineTunedEmbedder.load(tmp_path / "tuned").base.cache is None


# Size.


def fill(folder: Path, numbers: range, size_limit: int = 1_000_000) -> list[bytes]:
    """Vectors of 4 kB by their numbers, each in a transaction of its own."""
    keys = [b"%032d" % number for number in numbers]
    folder.mkdir(exist_ok=True)
    with closing(_vector_table.VectorTable(folder / "embeddings.sqlite", size_limit)) as table:
        for key in keys:
            table.put([key], [key * 128])
    return keys


def kept(folder: Path) -> list[int]:
    with database(folder) as connection:
        return sorted(int(key) for (key,) in connection.execute("SELECT key FROM vectors"))


def test_the_size_is_bounded_and_the_oldest_leave_first(folder: Path) -> None:
    fill(folder, range(600))
    info = EmbeddingCache(folder).info()
    assert 150 < info.n_entries < 600
    assert 800_000 < info.n_bytes <= 1_000_000
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_100_000
    assert kept(folder) == list(range(600 - info.n_entries, 600))


def test_what_was_used_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_vector_table, "_USE_NOTED_AFTER", 0)
    keys = fill(folder, range(150))
    with closing(_vector_table.VectorTable(folder / "embeddings.sqlite", 1_000_000)) as table:
        assert all(table.get(key) for key in keys[:50])
    fill(folder, range(150, 260))
    assert set(range(50)) <= set(kept(folder))
    assert not set(range(50, 70)) & set(kept(folder))


def test_reading_writes_only_if_the_last_use_is_long_ago(folder: Path) -> None:
    keys = fill(folder, range(3))
    with database(folder) as connection:
        connection.execute("UPDATE vectors SET used = used - 7200 WHERE key = ?", (keys[1],))
    before = uses(folder)
    with closing(_vector_table.VectorTable(folder / "embeddings.sqlite", 1_000_000)) as table:
        assert all(table.get(key) for key in keys)
    after = uses(folder)
    assert after[1] > before[1] + 7000
    assert (after[0], after[2]) == (before[0], before[2])


def uses(folder: Path) -> list[float]:
    with database(folder) as connection:
        return [use for (use,) in connection.execute("SELECT used FROM vectors ORDER BY key")]


def test_clear_forgets_all_and_gives_the_space_back(paths: list[Path], folder: Path) -> None:
    fill(folder, range(200))
    EmbeddingCache(folder).clear()
    info = EmbeddingCache(folder).info()
    assert info.n_entries == 0
    assert info.n_bytes < 50_000
    assert sum(path.stat().st_size for path in folder.iterdir()) < 100_000
    assert len(Counting(cache=folder).transform(paths)) == N_IMAGES


def test_info_and_clear_of_what_never_was_make_nothing(folder: Path) -> None:
    EmbeddingCache(folder).clear()
    assert EmbeddingCache(folder).info() == (0, 0, 4_000_000_000, 0, 0)
    assert not folder.exists()


# Damage.


def test_damaged_entries_are_embedded_again(paths: list[Path], folder: Path) -> None:
    wanted = Counting(cache=folder).transform(paths)
    with database(folder) as connection:
        connection.execute("UPDATE vectors SET vector = randomblob(12) WHERE rowid = 1")
        connection.execute("UPDATE vectors SET vector = 'text' WHERE rowid = 2")
        connection.execute("UPDATE vectors SET checksum = 3, used = 'x' WHERE rowid = 3")
    embedder = Counting(cache=folder)
    with pytest.warns(CacheWarning, match="3 of its entries are damaged, and their images were"):
        assert np.array_equal(embedder.transform(paths), wanted)
    assert embedder.n_embedded == 3
    assert np.array_equal(embedder.transform(paths), wanted)
    assert embedder.n_embedded == 0


def test_an_entry_under_another_key_is_damaged(paths: list[Path], folder: Path) -> None:
    wanted = Counting(cache=folder).transform(paths)
    with database(folder) as connection:
        (first,), (second,) = connection.execute("SELECT key FROM vectors LIMIT 2").fetchall()
        for key, to in ((first, b"x"), (second, first), (b"x", second)):
            connection.execute("UPDATE vectors SET key = ? WHERE key = ?", (to, key))
    with pytest.warns(CacheWarning, match="2 of its entries are damaged"):
        assert np.array_equal(Counting(cache=folder).transform(paths), wanted)


@pytest.fixture(scope="module")
def whole_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "cache"
    Counting(cache=folder).transform(solid_images())
    return folder / "embeddings.sqlite"


def solid_images() -> list[NDArray[np.uint8]]:
    return [np.full((4, 4, 3), 20 * i, dtype=np.uint8) for i in range(N_IMAGES)]


@settings(max_examples=200, deadline=None)
@given(
    cut=st.none() | st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=40),
)
def test_no_damage_gives_a_wrong_vector(
    cut: float | None,
    flips: list[tuple[float, int]],
    whole_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    content = bytearray(whole_cache.read_bytes())
    for place, bits in flips:
        content[int(place * len(content))] ^= bits
    if cut is not None:
        del content[int(cut * len(content)) :]
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "embeddings.sqlite").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        try:
            vectors = Counting(cache=folder).transform(solid_images())
        except CacheError as error:
            if "delete the file" in str(error):  # it calls itself something else
                return
            EmbeddingCache(folder).clear()
            vectors = Counting(cache=folder).transform(solid_images())
    assert np.array_equal(vectors, MeanColour().transform(solid_images()))


def test_a_damaged_file_is_named_and_clear_makes_it_anew(paths: list[Path], folder: Path) -> None:
    Counting(cache=folder).transform(paths)
    (folder / "embeddings.sqlite").write_bytes(b"SQLite format 4\0" + bytes(9000))
    with pytest.raises(
        CacheError, match=r"embeddings.sqlite.* is damaged.*clear\(\) makes it anew"
    ):
        Counting(cache=folder).transform(paths)
    with pytest.raises(CacheError, match="is damaged"):
        EmbeddingCache(folder).info()
    EmbeddingCache(folder).clear()
    assert len(Counting(cache=folder).transform(paths)) == N_IMAGES


def test_what_is_no_cache_is_left_alone(paths: list[Path], tmp_path: Path) -> None:
    folder = paths[0].parent
    for path, reason in ((folder, "is no cache: it holds '00.png'"), (paths[0], "is a file")):
        for use in (
            lambda p: Counting(cache=p).transform(paths),
            lambda p: EmbeddingCache(p).info(),
            lambda p: EmbeddingCache(p).clear(),
        ):
            with pytest.raises(CacheError, match=reason):
                use(path)
    assert sorted(folder.iterdir()) == paths


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE TABLE other (a)", "database of another program"),
        ("PRAGMA application_id = 7", "database of another program"),
    ],
)
def test_a_database_of_another_program_is_left_alone(
    statement: str, reason: str, paths: list[Path], folder: Path
) -> None:
    folder.mkdir()
    with database(folder) as connection:
        connection.execute(statement)
    before = (folder / "embeddings.sqlite").read_bytes()
    with pytest.raises(CacheError, match=reason):
        Counting(cache=folder).transform(paths)
    with pytest.raises(CacheError, match=reason):
        EmbeddingCache(folder).clear()
    assert (folder / "embeddings.sqlite").read_bytes() == before


def test_a_later_format_is_refused(paths: list[Path], folder: Path) -> None:
    Counting(cache=folder).transform(paths)
    with database(folder) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(CacheError, match="its format is 2, and this version of imgembed knows 1"):
        Counting(cache=folder).transform(paths)


# Disks.

ONLY_POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who may write nowhere, where the tests are run by one who may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder and its files that may be read and not written."""
    for parent in folder.parents:  # pytest's own, which only their owner may enter
        if Path(tempfile.gettempdir()) in parent.parents:
            parent.chmod(0o755)
    folder.chmod(0o555)
    for path in folder.iterdir():
        path.chmod(0o444)
    try:
        with nobody():
            yield
    finally:
        folder.chmod(0o755)


@ONLY_POSIX
def test_a_folder_that_may_only_be_read_is_read(paths: list[Path], folder: Path) -> None:
    Counting(cache=folder).transform(paths[:8])
    images = [path.read_bytes() for path in paths]
    embedder = Counting(cache=folder)
    with read_only(folder):
        assert len(embedder.transform(images[:8])) == 8
        assert embedder.n_embedded == 0
        with pytest.warns(CacheWarning, match=r"cannot be written \(.*readonly.*make room"):
            got = embedder.transform(images)
        assert EmbeddingCache(folder).info().n_entries == 8
        with pytest.raises(CacheError, match=r"cannot be used .*whether you may write"):
            EmbeddingCache(folder).clear()
    assert np.array_equal(got, MeanColour().transform(images))
    assert embedder.n_embedded == 4


@ONLY_POSIX
def test_a_cache_that_cannot_be_made_is_an_error_before_any_work(
    paths: list[Path], folder: Path
) -> None:
    folder.mkdir()
    embedder = Counting(cache=folder / "below")
    images = [path.read_bytes() for path in paths]
    with (
        read_only(folder),
        pytest.raises(CacheError, match=r"cache of embeddings in .* cannot be used .*Permission"),
    ):
        embedder.transform(images)
    assert embedder.n_embedded == 0


@pytest.mark.parametrize("room", [0, 60_000], ids=["for no lock", "for few vectors"])
def test_on_a_full_disk_the_run_goes_on_without_the_cache(
    room: int, paths: list[Path], folder: Path
) -> None:
    resource = pytest.importorskip("resource")
    Counting(cache=folder).transform(paths[:2])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (folder / "embeddings.sqlite").stat().st_size + room
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        embedder = Counting(cache=folder)
        with pytest.warns(CacheWarning, match=r"cannot be written .*make room on the disk"):
            got = embedder.transform([*paths, *solid_images()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert np.array_equal(got, MeanColour().transform([*paths, *solid_images()]))
    assert embedder.n_embedded == 2 * N_IMAGES - 2
    assert np.array_equal(Counting(cache=folder).transform(paths), got[:N_IMAGES])


# Processes and threads.


_WRITER = """
import sys
import numpy as np
from imgembed import EmbeddingCache, HOGEmbedder

first, n_images, n_runs = map(int, sys.argv[1:])
images = [np.full((8, 8, 3), i, np.uint8) for i in range(first, first + n_images)]
for image in images:
    image[:4] = 255 - image[:4]
embedder = HOGEmbedder(32, 8, batch_size=2, n_jobs=1)
wanted = embedder.transform(images)
embedder.set_params(cache=EmbeddingCache({folder!r}, 4_000_000))
for _ in range(n_runs):
    assert np.array_equal(embedder.transform(images), wanted), "a wrong vector"
    print("done", flush=True)
"""


def writer(folder: Path, first: int, n_images: int, n_runs: int) -> subprocess.Popen[str]:
    code = _WRITER.format(folder=str(folder))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(first), str(n_images), str(n_runs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_several_processes_write_at_once(folder: Path) -> None:
    writers = [writer(folder, first, 100, 3) for first in (0, 40, 80)]
    for one in writers:
        _, errors = one.communicate(timeout=100)
        assert one.returncode == 0, errors
        assert "Warning" not in errors
    assert EmbeddingCache(folder).info().n_entries == 180


def test_a_killed_process_leaves_only_whole_entries(folder: Path) -> None:
    rng = np.random.default_rng(0)
    killed = writer(folder, 0, 200, 100_000)
    assert killed.stdout is not None
    try:
        killed.stdout.readline()  # it has begun
        for _ in range(10):
            EmbeddingCache(folder).clear()  # it writes again
            time.sleep(rng.uniform(0, 0.05))
    finally:
        killed.send_signal(signal.SIGKILL)
        _, errors = killed.communicate()
    assert errors == ""
    after = writer(folder, 0, 200, 1)
    _, errors = after.communicate(timeout=100)
    assert (after.returncode, errors) == (0, ""), "it found a wrong vector, or a damaged one"
    assert EmbeddingCache(folder).info().n_entries == 200


def test_several_threads_use_one_embedder(folder: Path) -> None:
    images, embedder = solid_images(), Counting(n_jobs=2, cache=folder)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(embedder.transform, [images] * 20):
            assert np.array_equal(got, MeanColour().transform(images))
    info = EmbeddingCache(folder).info()
    assert info.n_entries == N_IMAGES
    assert info.n_hits + info.n_misses == 20 * N_IMAGES


def test_a_cache_that_is_locked_for_long_is_done_without(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Counting(cache=folder).transform(paths[:2])
    monkeypatch.setattr(_vector_table, "_WAIT", 0.05)
    with database(folder) as connection:
        connection.execute("BEGIN IMMEDIATE")
        embedder = Counting(cache=folder)
        with pytest.warns(CacheWarning, match=r"cannot be written \(database is locked\)"):
            got = embedder.transform(paths)
        assert embedder.n_embedded == N_IMAGES - 2
        connection.execute("ROLLBACK")
    assert np.array_equal(got, MeanColour().transform(paths))


def test_counts_belong_to_the_folder_whatever_it_is_called(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_room, "_counts", {})
    monkeypatch.chdir(folder.parent)
    Counting(cache="cache").transform(paths)
    assert EmbeddingCache(folder).info().n_misses == N_IMAGES


def test_the_code_in_the_guide_runs(
    photographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for path in photographs[:4]:
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    names = run_code_in("docs/cache.md")
    assert np.array_equal(names["vectors"], names["again"])
    assert names["cache"].info()[:1] == (0,)
    assert names["cache"].info().n_hits == 4
