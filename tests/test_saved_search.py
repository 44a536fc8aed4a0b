"""Embedders in files, searches on disk and searches that change."""

import json
import os
import pickle
import shutil
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image
from test_embedders import MeanColour

from imgembed import (
    VLAD,
    AKAZEEmbedder,
    BagOfVisualWords,
    CheckpointError,
    CLIPEmbedder,
    CNNEmbedder,
    CorruptIndexError,
    EmbedderFileError,
    FineTunedEmbedder,
    FingerprintError,
    GeometricReranker,
    HOGEmbedder,
    ImageEmbedder,
    ImageReadWarning,
    ImageSearch,
    IndexChangedError,
    MoCoEmbedder,
    NearestNeighborIndex,
    ORBEmbedder,
    QueryExpansion,
    SIFTEmbedder,
    SimCLREmbedder,
    UnknownIdError,
    VisualVocabulary,
    ViTEmbedder,
    load_embedder,
    save_embedder,
)
from imgembed.embedder_files import _packing
from imgembed.embedder_files._kinds import KINDS
from imgembed.index.storage import _folder

Pixels = NDArray[np.uint8]


def noise(seed: int) -> Pixels:
    blocks = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((10, 10, 1), dtype=np.uint8))


IMAGES = [noise(seed) for seed in range(8)]
LABELS = ["a"] * 4 + ["b"] * 4


def small(size: int = 32) -> CNNEmbedder:
    return CNNEmbedder(
        "tf_efficientnet_lite0", weights="bundled", image_size=size, engine="torch", n_jobs=1
    )


def words(n_words: int = 10, **options: Any) -> VisualVocabulary:
    return VisualVocabulary(n_words, random_state=0, **options)


# Embedders in files.

EMBEDDERS: dict[str, Callable[[], Any]] = {
    "HOG": lambda: HOGEmbedder(n_levels=2, n_orientations=7),
    "SIFT": lambda: SIFTEmbedder(10, random_state=0),
    "SIFT, VLAD": lambda: SIFTEmbedder(4, "vlad", random_state=np.random.RandomState(1)),
    "SIFT, Fisher": lambda: SIFTEmbedder(4, "fisher", random_state=0),
    "SIFT, soft": lambda: SIFTEmbedder(
        aggregation=BagOfVisualWords(words(), n_nearest=3, sigma=np.float64(90))
    ),
    "SIFT, cells": lambda: SIFTEmbedder(
        aggregation=BagOfVisualWords(words(60, assignment="approximate"))
    ),
    "SIFT, words of a stream": lambda: SIFTEmbedder(
        aggregation=VLAD(words(4).partial_fit(np.random.default_rng(0).random((90, 128)) * 99))
    ),
    "ORB": lambda: ORBEmbedder(10, random_state=0),
    "AKAZE": lambda: AKAZEEmbedder(10, random_state=0),
    "CNN": lambda: small(),
    "ViT, random": lambda: ViTEmbedder(
        "vit_tiny_patch16_224", weights=None, engine="torch", scales=[0.5, 1.0]
    ),
    "CLIP, random": lambda: CLIPEmbedder("ViT-S-32-alt", weights=None, engine="torch"),
    "fine-tuned": lambda: FineTunedEmbedder(
        small(), epochs=1, validation_fraction=0, n_components=5, engine="torch", random_state=0
    ),
    "fine-tuned, own loss": lambda: FineTunedEmbedder(
        small(), _spread, epochs=1, validation_fraction=0, engine="torch", random_state=0
    ),
    "MoCo": lambda: MoCoEmbedder(
        backbone=small(), epochs=1, train_batch_size=4, engine="torch", random_state=0
    ),
    "SimCLR": lambda: SimCLREmbedder(
        backbone=small(), epochs=1, train_batch_size=4, engine="torch", random_state=0
    ),
}


def _spread(embeddings: Any, labels: Any) -> Any:
    return embeddings.std()


@pytest.mark.filterwarnings("ignore:.*random weights:UserWarning")
@pytest.mark.parametrize("name", EMBEDDERS)
def test_an_embedder_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    embedder = EMBEDDERS[name]()
    embedder.fit(IMAGES, LABELS)
    save_embedder(embedder, tmp_path / "embedder")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load_embedder(tmp_path / "embedder")
    assert again.fingerprint() == embedder.fingerprint()
    assert np.array_equal(again.transform(IMAGES), embedder.transform(IMAGES))
    assert os.listdir(tmp_path) == ["embedder"]


def test_all_embedders_of_the_project_have_a_place_in_the_table() -> None:
    import imgembed

    public = {name: getattr(imgembed, name) for name in imgembed.__all__}
    embedders = {
        name
        for name, value in public.items()
        if isinstance(value, type)
        and issubclass(value, ImageEmbedder)
        and value is not ImageEmbedder
    }
    assert embedders <= set(KINDS)
    assert all(kind.load(name).__name__ == name for name, kind in KINDS.items())


def test_what_belongs_to_a_computer_is_not_kept(tmp_path: Path) -> None:
    embedder = HOGEmbedder(cache=tmp_path / "cache", n_jobs=1).fit(IMAGES)
    save_embedder(embedder, tmp_path / "embedder")
    again = load_embedder(tmp_path / "embedder")
    assert again.cache is None
    assert again.n_jobs == 1


def test_a_file_of_weights_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small().fit(IMAGES)
    safetensors.numpy.save_file(
        {name: tensor.numpy() for name, tensor in source.backbone_.state_dict().items()},
        tmp_path / "weights.safetensors",
    )
    monkeypatch.chdir(tmp_path)
    embedder = small().set_params(weights="weights.safetensors").fit(IMAGES)
    save_embedder(embedder, "embedder")
    monkeypatch.chdir("/")
    assert load_embedder(tmp_path / "embedder").fingerprint() == embedder.fingerprint()
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no weights file.*weights\.safetensors"):
        load_embedder(tmp_path / "embedder")


def test_other_classes_and_unfitted_embedders_are_not_saved(tmp_path: Path) -> None:
    class OwnWords(BagOfVisualWords):
        pass

    with pytest.raises(TypeError, match=r"mean_colour\.MeanColour is no class of imgembed"):
        save_embedder(MeanColour(), tmp_path / "embedder")
    with pytest.raises(TypeError, match="OwnWords is no class of imgembed"):
        save_embedder(SIFTEmbedder(aggregation=OwnWords(words())).fit(IMAGES), tmp_path / "it")
    with pytest.raises(ValueError, match="not fitted"):
        save_embedder(SIFTEmbedder(), tmp_path / "embedder")
    assert not os.listdir(tmp_path)


def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "embedder"
    save_embedder(HOGEmbedder().fit(IMAGES), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save_embedder(HOGEmbedder(64).fit(IMAGES), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["embedder"]


def test_other_vectors_than_when_it_was_saved_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_embedder(HOGEmbedder().fit(IMAGES), tmp_path / "embedder")
    monkeypatch.setattr(HOGEmbedder, "_vectors_version", 2)
    with pytest.raises(FingerprintError, match="version was 1 and is 2"):
        load_embedder(tmp_path / "embedder")


# Files that are damaged or forged.


def forged(content: Any, arrays: dict[str, Any] | None = None, version: int = 1) -> bytes:
    """A file whose checksum is right."""
    arrays = arrays or {}
    told = {"format": "imgembed objects", "version": version, "content": content}
    text = json.dumps(told)
    metadata = {"imgembed": text, "sha256": _packing._digest(text, arrays)}
    packed: bytes = safetensors.numpy.save(arrays, metadata)
    return packed


def told(embedder: Any) -> Any:
    return {"dict": {"embedder": embedder, "fingerprint": "", "parts": {"dict": {}}}}


def hog(**learned: Any) -> dict[str, Any]:
    return {"object": "HOGEmbedder", "parameters": {}, "learned": learned}


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


FORGED = {
    "nothing": b"",
    "a page": b"<html>",
    "arrays": safetensors.numpy.save({"a": np.zeros(3)}),
    "another class": forged(told({"object": "system", "parameters": {}, "learned": {}})),
    "a path to a class": forged(told({"object": "os.system", "parameters": {}, "learned": {}})),
    "no embedder": forged(told({"object": "PCA", "parameters": {}, "learned": {}})),
    "text": forged(told("HOGEmbedder")),
    "an attribute": forged(told(hog(__class__="str"))),
    "a method": forged(told(hog(transform="str"))),
    "a parameter": forged(told(hog() | {"parameters": {"callback": "os.system"}})),
    "no array": forged(told(hog() | {"parameters": {"size": {"array": "7"}}})),
    "a tag": forged(told({"reduce": ["os.system", "true"]})),
    "a list": forged([1, 2]),
    "a newer version": forged(told(hog()), version=2),
}


@pytest.mark.parametrize("name", FORGED)
def test_files_that_are_no_embedders_are_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "embedder"
    path.write_bytes(FORGED[name])
    with pytest.raises(EmbedderFileError, match=rf"cannot load an embedder from '{path}'"):
        load_embedder(path)


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / "embedder").write_bytes(pickle.dumps(Hostile(tmp_path / "made")))
    with pytest.raises(EmbedderFileError):
        load_embedder(tmp_path / "embedder")
    assert os.listdir(tmp_path) == ["embedder"]


def test_a_tower_of_lists_is_refused() -> None:
    tower = "[" * 100_000 + "]" * 100_000
    text = f'{{"format": "imgembed objects", "version": 1, "content": {tower}}}'
    metadata = {"imgembed": text, "sha256": _packing._digest(text, {})}
    with pytest.raises(EmbedderFileError, match="RecursionError"):
        _packing.unpack(safetensors.numpy.save({}, metadata))


def test_no_flipped_byte_goes_unnoticed() -> None:
    packed = _packing.pack({"embedder": SIFTEmbedder(4, "vlad", random_state=0).fit(IMAGES)})
    rng = np.random.default_rng(0)
    places = [*range(0, 400, 7), *rng.integers(len(packed), size=60).tolist()]
    for place in places:
        damaged = bytearray(packed)
        damaged[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(EmbedderFileError):
            _packing.unpack(bytes(damaged))
    for length in rng.integers(len(packed), size=20).tolist():
        with pytest.raises(EmbedderFileError):
            _packing.unpack(packed[:length])


# Searches on disk.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    gallery = tmp_path / "photos"
    (gallery / "sub").mkdir(parents=True)
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(gallery / "sub" / f"{number}.png")
    return gallery


def same_hits(one: ImageSearch, other: ImageSearch, **query: Any) -> None:
    first, second = one.search(n_neighbors=4, **query), other.search(n_neighbors=4, **query)
    assert np.array_equal(first.ids, second.ids)
    assert np.array_equal(first.distances, second.distances)
    assert first.records == second.records
    assert (first.n_inliers is None) == (second.n_inliers is None)
    if first.n_inliers is not None:
        assert np.array_equal(first.n_inliers, second.n_inliers)


@pytest.mark.parametrize("mmap", [False, True])
def test_a_saved_search_answers_the_same_without_embedding_anything(
    mmap: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "broken.jpg").write_bytes(b"no image")
    records = [{"price": i, "name": f"n{i}"} for i in range(9)]
    with pytest.warns(ImageReadWarning):
        search = ImageSearch(SIFTEmbedder(10, random_state=0)).fit(folder, records)
    search.save(tmp_path / "saved")
    monkeypatch.setattr(SIFTEmbedder, "_embed_images", None)
    again = ImageSearch.load(tmp_path / "saved", mmap=mmap)
    same_hits(search, again, ids=[3, 5], where="price < ?", params=(7,))
    monkeypatch.undo()
    same_hits(search, again, images=IMAGES[:3])
    assert list(again.images_) == list(search.images_)
    assert again.images_root_ == folder
    assert repr(again.errors_) == repr(search.errors_)
    assert again.rows_.tolist() == search.rows_.tolist()
    assert again.fingerprint_ == search.fingerprint_
    assert len(again) == 8
    assert pickle.loads(pickle.dumps(again)).search(IMAGES[0], 1).ids.tolist() == [[1]]


def test_reranking_and_expansion_are_ready_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for keep in (True, False):
        rerank = GeometricReranker(top=3, keep_features=keep, n_jobs=1)
        search = ImageSearch(HOGEmbedder(), rerank=rerank, expansion=QueryExpansion(2, alpha=3.0))
        search.fit(folder).remove([1])
        search.save(tmp_path / f"saved {keep}")
        again = ImageSearch.load(tmp_path / f"saved {keep}")
        assert again.get_params()["expansion__alpha"] == 3.0
        same_hits(search, again, images=[IMAGES[2][10:, 20:]])
        assert again.explain(IMAGES[2], 2).n_inliers == search.explain(IMAGES[2], 2).n_inliers


def test_images_in_memory_are_kept_whole(tmp_path: Path) -> None:
    encoded = (tmp_path / "image.webp", tmp_path / "image.png")
    for path in encoded:
        Image.fromarray(IMAGES[0]).save(path)
    gallery = [
        IMAGES[1], Image.fromarray(IMAGES[2]), encoded[0].read_bytes(), IMAGES[3][:, :, 0],
        {"bytes": encoded[1].read_bytes(), "path": None}, {"bytes": None, "path": str(encoded[1])},
        str(encoded[1]), b"no image", None,
    ]  # fmt: skip
    with pytest.warns(ImageReadWarning):
        search = ImageSearch(HOGEmbedder()).fit(gallery)
    search.save(tmp_path / "saved")
    again = ImageSearch.load(tmp_path / "saved")
    assert again.images_[2] == encoded[0].read_bytes()
    assert again.images_[5] == again.images_[6] == encoded[1]
    readable = [again.images_[i] for i in again.rows_]
    assert np.array_equal(again.embedder_.transform(readable), HOGEmbedder().transform(gallery[:7]))
    assert set(again.errors_) == {7, 8}


def test_a_gallery_that_was_moved_is_found(folder: Path, tmp_path: Path) -> None:
    ImageSearch(HOGEmbedder(), rerank=GeometricReranker(keep_features=False)).fit(folder).save(
        tmp_path / "saved"
    )
    shutil.move(folder, tmp_path / "elsewhere")
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    lost = ImageSearch.load(tmp_path / "moved")
    assert lost.images_[0] == folder / "sub" / "0.png"
    found = ImageSearch.load(tmp_path / "moved", images_root=tmp_path / "elsewhere")
    assert found.images_[0] == tmp_path / "elsewhere" / "sub" / "0.png"
    assert found.search(ids=[0], n_neighbors=1).ids.shape == (1, 1)
    found.save(tmp_path / "moved")
    assert ImageSearch.load(tmp_path / "moved").images_root_ == tmp_path / "elsewhere"


def test_relative_paths_are_saved_as_absolute_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    search = ImageSearch(HOGEmbedder()).fit(["sub/0.png", Path("sub/1.png")])
    search.save(tmp_path / "saved")
    assert search.images_root_ == folder / "sub"
    monkeypatch.chdir("/")
    again = ImageSearch.load(tmp_path / "saved")
    assert list(again.images_) == [folder / "sub" / "0.png", folder / "sub" / "1.png"]


def test_an_embedder_of_the_user_is_passed_and_checked(tmp_path: Path) -> None:
    ImageSearch(MeanColour()).fit(IMAGES).save(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"MeanColour is no class.*ImageSearch\.load\(path, emb"):
        ImageSearch.load(tmp_path / "saved")
    again = ImageSearch.load(tmp_path / "saved", embedder=MeanColour())
    assert again.search(IMAGES[3], 1).ids.tolist() == [[3]]
    with pytest.raises(FingerprintError, match=r"scale was 1\.0 and is 2\.0"):
        ImageSearch.load(tmp_path / "saved", embedder=MeanColour(scale=2.0))
    with pytest.raises(FingerprintError, match="method was 'MeanColour' and is 'HOGEmbedder'"):
        ImageSearch.load(tmp_path / "saved", embedder=HOGEmbedder())


def test_a_changed_embedder_of_imgembed_is_refused_at_the_first_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ImageSearch(HOGEmbedder()).fit(IMAGES).save(tmp_path / "saved")
    monkeypatch.setattr(HOGEmbedder, "_vectors_version", 2)
    again = ImageSearch.load(tmp_path / "saved")
    with pytest.raises(FingerprintError, match="version was 1 and is 2"):
        again.search(IMAGES[0])
    with pytest.raises(FingerprintError):
        again.add(IMAGES[:1])


def test_what_is_no_search_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no index here"):
        ImageSearch.load(tmp_path)
    NearestNeighborIndex().fit(np.eye(3)).save(tmp_path / "index")
    with pytest.raises(ValueError, match=r"index without images: NearestNeighborIndex\.load"):
        ImageSearch.load(tmp_path / "index")
    search = ImageSearch(HOGEmbedder()).fit(IMAGES)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="other things"):
        search.save(tmp_path / "other")
    search.save(tmp_path / "index")  # takes its place
    assert len(ImageSearch.load(tmp_path / "index")) == 8
    assert len(NearestNeighborIndex.load(tmp_path / "index")) == 8


def files_of(saved: Path) -> list[Path]:
    return sorted(path for path in saved.rglob("*") if path.is_file() and path.name != "LOCK")


def test_every_damaged_file_is_named(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    ImageSearch(SIFTEmbedder(4, random_state=0), rerank=GeometricReranker()).fit(IMAGES).save(saved)
    files = files_of(saved)
    assert {"gallery.bin", "objects.bin", "contents.bin"} < {path.name for path in files}
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(CorruptIndexError, match=path.name):
            ImageSearch.load(saved)
        path.unlink()
        with pytest.raises((CorruptIndexError, FileNotFoundError), match=path.name):
            ImageSearch.load(saved)
        path.write_bytes(whole)
    ImageSearch.load(saved)


def resaved(saved: Path, change: Callable[[Any], None]) -> None:
    """Save what is in a folder with a change, and with right checksums."""
    snapshot = _folder.read_snapshot(saved)
    change(snapshot)
    parts = snapshot.meta, snapshot.arrays, snapshot.blobs
    _folder.write_snapshot(saved, *parts, replaces=None)


def set_gallery(snapshot: Any, **fields: Any) -> None:
    described = json.loads(snapshot.blobs["gallery"])
    snapshot.blobs["gallery"] = json.dumps(described | fields).encode()


FORGERIES: dict[str, Callable[[Any], Any]] = {
    "no gallery": lambda it: it.blobs.pop("gallery"),
    "fewer images": lambda it: set_gallery(it, images=[0, 1]),
    "no content": lambda it: set_gallery(it, images=[99] * 8),
    "a number for a folder": lambda it: set_gallery(it, root=7, images=["a"] * 8),
    "errors of no row": lambda it: set_gallery(it, errors=[["a", "b", "c"]]),
    "ends beyond": lambda it: it.arrays.update(content_ends=np.array([10**9])),
    "other objects": lambda it: it.blobs.update(objects=forged({"dict": {}})),
    "hostile objects": lambda it: it.blobs.update(objects=pickle.dumps(Hostile(Path("made")))),
    "a reranker for an embedder": lambda it: it.blobs.update(
        objects=_packing.pack(
            {"embedder": GeometricReranker(), "rerank": None, "expansion": None, "features": None}
        )
    ),
    "features of none": lambda it: it.blobs.update(
        objects=_packing.pack(
            {
                "embedder": HOGEmbedder(),
                "rerank": GeometricReranker(),
                "expansion": None,
                "features": None,
            }
        )
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_search_is_refused(name: str, tmp_path: Path) -> None:
    ImageSearch(HOGEmbedder()).fit(IMAGES).save(tmp_path / "saved")
    resaved(tmp_path / "saved", FORGERIES[name])
    with pytest.raises(CorruptIndexError, match=str(tmp_path)):
        ImageSearch.load(tmp_path / "saved")


def test_a_search_of_a_newer_imgembed_is_explained(tmp_path: Path) -> None:
    ImageSearch(HOGEmbedder()).fit(IMAGES).save(tmp_path / "saved")
    resaved(tmp_path / "saved", lambda it: it.meta["search"].update(version=2))
    with pytest.raises(ValueError, match=r"newer imgembed \(format 2"):
        ImageSearch.load(tmp_path / "saved")


def test_of_two_writers_neither_undoes_the_other(tmp_path: Path) -> None:
    ImageSearch(HOGEmbedder()).fit(IMAGES).save(tmp_path / "saved")
    one, other = (ImageSearch.load(tmp_path / "saved") for _ in range(2))
    one.remove([0]).save(tmp_path / "saved")
    one.remove([1]).save(tmp_path / "saved")
    with pytest.raises(IndexChangedError):
        other.save(tmp_path / "saved")
    assert len(ImageSearch.load(tmp_path / "saved")) == 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_killed_save_leaves_the_old_search_or_the_new_one(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    search = ImageSearch(HOGEmbedder(n_jobs=1)).fit(IMAGES)
    search.save(saved)
    search.remove([0])
    lengths = []
    for n_steps in range(100):
        if _killed_at(n_steps, search, saved):
            lengths.append(len(ImageSearch.load(saved)))
        else:
            break
    assert lengths == sorted(lengths, reverse=True)  # old, and from some step on new
    assert lengths[0] == 8
    assert len(lengths) > 8
    assert len(ImageSearch.load(saved)) == 7


def _killed_at(n_steps: int, search: ImageSearch, saved: Path) -> bool:
    """Whether a child that is killed in this step of a save was killed before its end."""
    child = os.fork()
    if child == 0:
        steps = iter(range(n_steps))

        def counted(step: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                if next(steps, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*arguments)

            return run

        try:
            os.fsync, os.replace = counted(os.fsync), counted(os.replace)
            search._generations = {}
            search.save(saved)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WIFSIGNALED(status)
    return status != 0


# Searches that change.


def test_ids_stay_when_images_come_and_go() -> None:
    search = ImageSearch(HOGEmbedder()).fit(IMAGES[:4], [{"n": i} for i in range(4)])
    search.remove([1]).add(IMAGES[4:6], [{"n": 4, "new": True}, {"n": 5, "new": False}])
    assert len(search) == 5
    assert search.rows_.tolist() == [0, 2, 3, 4, 5]
    assert search.images_[1] is None
    for i in search.rows_:
        result = search.search(IMAGES[i], 1)
        assert result.ids.tolist() == [[i]]
        assert result.records[0][0]["n"] == i
    assert search.search(IMAGES[5], 1, where="new").records == [[{"n": 4, "new": True}]]
    search.remove(5).add([IMAGES[1]])
    assert search.rows_.tolist() == [0, 2, 3, 4, 6]  # 5 is not given again
    assert search.search(IMAGES[1], 1).records == [[{"n": None, "new": None}]]
    search.update_records([6], [{"n": 1}])
    assert search.search(IMAGES[1], 1).records == [[{"n": 1, "new": None}]]


def test_a_changed_search_is_that_of_a_new_one(tmp_path: Path) -> None:
    rerank = GeometricReranker(top=4, n_jobs=1)
    expansion = QueryExpansion(2)
    changed = ImageSearch(HOGEmbedder(), rerank=rerank, expansion=expansion)
    changed.fit(IMAGES[:3] + IMAGES[5:7]).remove([3]).add(IMAGES[3:5]).remove([4])
    changed.save(tmp_path / "saved")
    fresh = ImageSearch(HOGEmbedder(), rerank=rerank, expansion=expansion).fit(IMAGES[:5])
    for search in (changed, ImageSearch.load(tmp_path / "saved")):
        queries = [image[20:, 10:] for image in IMAGES[:5]]
        found, wanted = search.search(queries, 3), fresh.search(queries, 3)
        at = np.array([0, 1, 2, -1, -1, 3, 4])
        assert np.array_equal(at[found.ids], wanted.ids)
        assert np.allclose(found.distances, wanted.distances, atol=1e-6)
        assert np.array_equal(found.n_inliers, wanted.n_inliers)
        assert search.explain(queries[3], 5).n_inliers == fresh.explain(queries[3], 3).n_inliers


def test_unreadable_images_get_ids_and_are_not_indexed() -> None:
    search = ImageSearch(HOGEmbedder()).fit(IMAGES[:2])
    with pytest.warns(ImageReadWarning, match="1 of 3 images"):
        search.add([IMAGES[2], b"no image", IMAGES[3]])
    assert search.rows_.tolist() == [0, 1, 2, 4]
    assert [(i, error.row) for i, error in search.errors_.items()] == [(3, 3)]
    with pytest.raises(ValueError, match="none of 1 images can be read"):
        search.add([b"no image"])
    assert len(search.images_) == 5


def test_a_change_that_fails_changes_nothing() -> None:
    search = ImageSearch(HOGEmbedder(), rerank=GeometricReranker()).fit(
        IMAGES[:4], [{"n": i} for i in range(4)]
    )
    for ids in ([0, 9], [-1]):
        with pytest.raises(UnknownIdError, match="no image in the index has the ids"):
            search.remove(ids)
    with pytest.raises(UnknownIdError):
        search.update_records([9], [{"n": 1}])
    with pytest.raises(ValueError, match="1 records and 2 images"):
        search.add(IMAGES[4:6], [{}])
    with pytest.raises((ValueError, TypeError)):
        search.add(IMAGES[4:6], [{"n": object()}, {"n": 1}])
    for ids in ("a", [0.5], [], [[1]]):
        with pytest.raises(ValueError, match="ids must be one or more integers"):
            search.remove(ids)  # type: ignore[arg-type]
    assert len(search) == len(search.images_) == len(search.reranker_.images_) == 4  # type: ignore[union-attr]


def test_a_search_from_which_all_was_removed_finds_nothing(tmp_path: Path) -> None:
    for rerank in (None, GeometricReranker()):
        search = ImageSearch(HOGEmbedder(), rerank=rerank).fit(IMAGES[:2]).remove([0, 1])
        search.save(tmp_path / "saved")
        for one in (search, ImageSearch.load(tmp_path / "saved")):
            assert one.search(IMAGES[0], 2).ids.tolist() == [[-1, -1]]
            assert len(one) == 0
            assert one.add([IMAGES[3]]).search(IMAGES[3], 1).ids.tolist() == [[2]]


def test_results_keep_the_images_that_they_were_found_with() -> None:
    search = ImageSearch(HOGEmbedder()).fit(IMAGES)
    result = search.search(IMAGES[2], 1)
    search.remove([2])
    assert np.array_equal(result.images[2], IMAGES[2])


# Searches by id.


def test_an_image_of_the_gallery_is_searched_on_from_without_itself(folder: Path) -> None:
    search = ImageSearch(HOGEmbedder()).fit(folder)
    shutil.rmtree(folder)  # no image is read
    paths = [search.images_[i] for i in (3, 5)]
    by_id = search.search(ids=[3, 5], n_neighbors=3)
    by_image = search.search([IMAGES[3], IMAGES[5]], n_neighbors=4)
    assert np.array_equal(by_id.ids, by_image.ids[:, 1:])
    assert np.allclose(by_id.distances, by_image.distances[:, 1:], atol=1e-6)
    assert by_id.queries == paths
    everything = search.search(ids=3, n_neighbors=8)
    assert sorted(everything.ids[0].tolist()) == [-1, 0, 1, 2, 4, 5, 6, 7]


def test_copies_of_a_query_are_hits() -> None:
    search = ImageSearch(HOGEmbedder()).fit([*IMAGES[:4], IMAGES[1], IMAGES[1]])
    assert search.search(ids=[1, 4], n_neighbors=2).ids.tolist() == [[4, 5], [1, 5]]


def test_a_search_by_id_takes_conditions_and_verifies() -> None:
    search = ImageSearch(HOGEmbedder(), rerank=GeometricReranker(top=3))
    search.fit([*IMAGES, IMAGES[1][10:, 20:]], [{"n": i} for i in range(9)])
    result = search.search(ids=[1], n_neighbors=2, where="n > 3")
    assert result.ids.shape == (1, 2)
    assert result.ids.min() > 3
    found = search.search(ids=[1], n_neighbors=8)
    assert found.n_inliers is not None
    assert sorted(found.ids[0].tolist()) == [0, 2, 3, 4, 5, 6, 7, 8]


def test_what_is_not_in_the_index_cannot_be_searched_from() -> None:
    search = ImageSearch(HOGEmbedder()).fit(IMAGES[:3]).remove([1])
    for ids in ([1], [0, 3], [-1]):
        with pytest.raises(UnknownIdError, match="no image in the index has the ids"):
            search.search(ids=ids)
    with pytest.raises(ValueError, match="ids must be one or more integers"):
        search.search(ids=[True])
    with pytest.raises(ValueError, match="n_neighbors"):
        search.search(ids=[0], n_neighbors=0)
    with pytest.raises(TypeError, match="one of them only"):
        search.search(IMAGES[0], ids=[0])


def test_threads_search_while_images_come_and_go() -> None:
    search = ImageSearch(HOGEmbedder(n_jobs=1)).fit(IMAGES[:6])
    failures: list[BaseException] = []

    def keep_searching() -> None:
        try:
            for _ in range(30):
                result = search.search(ids=[0, 1], n_neighbors=7)
                for i, distance in zip(result.ids.ravel(), result.distances.ravel(), strict=True):
                    assert (i < 0) == np.isinf(distance)
                    assert i < 0 or result.images[int(i)] is not None
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=keep_searching) for _ in range(2)]
    for thread in threads:
        thread.start()
    for seed in range(10):
        search.add([noise(100 + seed)])
        search.remove([search.rows_[-1]])
    for thread in threads:
        thread.join()
    assert not failures
    assert len(search) == 6
