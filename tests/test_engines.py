"""Engines: ONNX Runtime equals torch, exports are kept, batches shrink, half precision is near."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_backbones import seeded

from imgembed import CNNEmbedder, ViTEmbedder
from imgembed.deep import _network_embedder, _onnx
from imgembed.deep._engines import TorchEngine
from imgembed.deep._preprocessing import Preprocessing, resolve_preprocessing

pytestmark = pytest.mark.filterwarnings("ignore:.*random weights:UserWarning")

rng = np.random.default_rng(0)
IMAGES = [rng.integers(0, 256, (50, 60 + i, 3), dtype=np.uint8) for i in range(5)]


@pytest.fixture
def exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for exported networks."""
    monkeypatch.setenv("IMGEMBED_CACHE", str(tmp_path))
    return tmp_path / "onnx"


@pytest.fixture
def _no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a network is exported."""
    monkeypatch.setattr(_onnx, "_export", lambda *_: pytest.fail("the network was exported"))


def small(engine: str = "auto", **options: Any) -> CNNEmbedder:
    return CNNEmbedder(
        "resnet10t",
        None,
        image_size=64,
        engine=engine,
        device="cpu",
        **{"random_state": 0, **options},
    )


@pytest.mark.parametrize(
    ("kind", "name", "pooling"),
    [
        (CNNEmbedder, "resnet10t", "avg"),
        (CNNEmbedder, "test_efficientnet", "gem"),
        (CNNEmbedder, "test_convnext", "rmac"),
        (ViTEmbedder, "test_vit", "cls+mean"),
        (ViTEmbedder, "deit_tiny_distilled_patch16_224", "own"),
    ],
)
def test_onnx_runtime_gives_the_vectors_of_torch(kind: Any, name: str, pooling: str) -> None:
    options = {"image_size": 96, "random_state": 0, "device": "cpu"}
    got = kind(name, None, pooling, engine="onnxruntime", **options).fit_transform(IMAGES)
    wanted = kind(name, None, pooling, engine="torch", **options).fit_transform(IMAGES)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * max(1, np.abs(wanted).max()))
    assert not np.array_equal(got, wanted), "both came from torch"


def test_several_scales_and_a_layer_are_exported_too(exports: Path) -> None:
    options: dict[str, Any] = {"scales": (1.0, 1.5), "flip": True, "layer": 2}
    got = small("onnxruntime", **options).transform(IMAGES)
    np.testing.assert_allclose(got, small("torch", **options).transform(IMAGES), atol=1e-4)
    assert len(list(exports.glob("*.onnx"))) == 2


def test_auto_takes_it_on_a_cpu_and_says_the_same_by_fingerprint() -> None:
    automatic, torch_only = small().fit(IMAGES), small("torch").fit(IMAGES)
    assert isinstance(automatic._onnx, _onnx.OnnxEngine)
    assert torch_only._onnx is None
    assert automatic.fingerprint() == torch_only.fingerprint()


@pytest.mark.usefixtures("_no_export")
@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"engine": "torch"}])
def test_auto_leaves_to_torch_what_only_torch_does(options: Any) -> None:
    small(**options).fit(IMAGES)


def test_auto_without_the_extra_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_onnx, "find_spec", lambda package: None)
    wanted = small("torch").transform(IMAGES)
    assert np.array_equal(small("auto").transform(IMAGES), wanted)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"imgembed\[onnx\]"):
        small("onnxruntime").fit(IMAGES)


def test_an_export_is_kept_and_used_again(exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = small().transform(IMAGES)
    (kept,) = exports.iterdir()
    assert kept.suffix == ".onnx"
    monkeypatch.setattr(_onnx, "_export", lambda *_: pytest.fail("exported again"))
    assert np.array_equal(small(batch_size=2).transform(IMAGES), wanted)
    with pytest.raises(pytest.fail.Exception):  # other weights are another network
        CNNEmbedder("resnet10t", None, image_size=64, random_state=1).fit(IMAGES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The exports of two networks; :func:`small` makes the first."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("IMGEMBED_CACHE", str(folder))
        small().fit(IMAGES)
        (first,) = folder.glob("onnx/*.onnx")
        small(random_state=1).fit(IMAGES)
        (other,) = set(folder.glob("onnx/*.onnx")) - {first}
    return [first, other]


@pytest.mark.parametrize("damage", ["truncated", "empty", "another network", "not a number"])
def test_a_damaged_export_is_made_anew(damage: str, exported: list[Path], exports: Path) -> None:
    first, other = exported
    whole = first.read_bytes()
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "another network": other.read_bytes(),
        "not a number": _spoil(whole),
    }[damage]
    exports.mkdir()
    kept = exports / first.name
    kept.write_bytes(damaged)
    # Another export need not add in the same order.
    wanted = small("torch").transform(IMAGES)
    np.testing.assert_allclose(small().transform(IMAGES), wanted, atol=1e-4)
    assert kept.read_bytes() != damaged


def _spoil(model: bytes) -> bytes:
    """Half of the weights become NaN: of a few the next ReLU may make zeros."""
    spoilt = bytearray(model)
    quarter = len(spoilt) // 4 // 4 * 4
    spoilt[quarter : 3 * quarter] = np.full(quarter // 2, np.nan, np.float32).tobytes()
    return bytes(spoilt)


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx").write_text("a file")
    monkeypatch.setenv("IMGEMBED_CACHE", str(tmp_path))
    wanted = small("torch").transform(IMAGES)
    with pytest.warns(UserWarning, match="IMGEMBED_CACHE"):
        got = small().transform(IMAGES)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert list(tmp_path.iterdir()) == [tmp_path / "onnx"]


def test_what_cannot_be_exported_runs_in_torch_with_a_warning_or_is_an_error(
    exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TypeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.warns(UserWarning, match="no such operator"):
        got = small().transform(IMAGES)
    assert np.array_equal(got, small("torch").transform(IMAGES))
    with pytest.raises(_onnx.ExportError, match="no such operator"):
        small("onnxruntime").transform(IMAGES)


@pytest.mark.slow
def test_a_transformer_that_the_newer_exporter_refuses_is_exported() -> None:
    options = {"random_state": 0, "device": "cpu"}
    name = "beit_base_patch16_224"
    got = ViTEmbedder(name, None, engine="onnxruntime", **options).fit_transform(IMAGES[:1])
    wanted = ViTEmbedder(name, None, engine="torch", **options).fit_transform(IMAGES[:1])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * max(1, np.abs(wanted).max()))


def test_the_folder_of_exports_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMGEMBED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert _onnx.exports_folder() == Path("/somewhere/imgembed/onnx")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert _onnx.exports_folder() == Path.home() / ".cache" / "imgembed" / "onnx"


@pytest.fixture(scope="module")
def shown() -> Preprocessing:
    return resolve_preprocessing(seeded("resnet10t"))


class LittleMemory:
    """It takes only so many images at once, like a small GPU."""

    def __init__(self, most: int, message: str = "CUDA out of memory. Tried ...") -> None:
        self.most, self.message = most, message
        self.sizes: list[int] = []

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(inputs))
        if len(inputs) > self.most:
            raise torch.OutOfMemoryError(self.message)
        return inputs.mean((2, 3))


def test_batches_shrink_until_they_fit_and_stay_so(shown: Preprocessing) -> None:
    engine = TorchEngine(shown, torch.device("cpu"), torch.float32)
    pixels = rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    wanted = engine.run(LittleMemory(99), pixels)
    function = LittleMemory(4)
    with pytest.warns(UserWarning, match="batch_size=") as told:
        got = engine.run(function, pixels)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert [str(one.message).partition(" images")[0] for one in told] == ["16", "8"]
    assert function.sizes == [16, 8, 4, 4, 4, 4]
    assert len(engine.run(function, pixels)) == 16
    assert function.sizes[6:] == [4, 4, 4, 4]


@pytest.mark.filterwarnings("ignore:.*do not fit")
@pytest.mark.parametrize(("most", "message"), [(0, "out of memory"), (4, "wrong shape")])
def test_one_image_too_large_and_other_errors_are_raised(
    most: int, message: str, shown: Preprocessing
) -> None:
    engine = TorchEngine(shown, torch.device("cpu"), torch.float32)
    pixels = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(RuntimeError, match=message):
        engine.run(LittleMemory(most, message), pixels)


def test_half_precision_is_near_and_another_fingerprint() -> None:
    exact, half = small("torch"), small(dtype="bfloat16")
    wanted, got = exact.transform(IMAGES), half.transform(IMAGES)
    assert got.dtype == np.float32
    cosines = (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)
    assert (cosines > 0.999).all()
    assert not np.array_equal(got, wanted)
    assert exact.fingerprint() != half.fingerprint()
    vit = ViTEmbedder("vit_tiny_patch16_224", None, dtype="bfloat16", random_state=0)
    assert np.isfinite(vit.transform(IMAGES[:1])).all()
    assert np.isfinite(vit.patch_tokens(IMAGES[:1])).all()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_gives_the_same_vectors() -> None:
    wanted = small("torch").transform(IMAGES)
    compiled = small(compile=True, batch_size=2)
    np.testing.assert_allclose(compiled.transform(IMAGES), wanted, atol=1e-4)
    assert compiled.fingerprint() == small("torch").fingerprint()


def test_another_device_is_no_place_for_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    meta = torch.device("meta")
    monkeypatch.setattr(_network_embedder, "resolve_device", lambda device: meta)
    with pytest.raises(ValueError, match="runs on the CPU"):
        CNNEmbedder("resnet10t", None, engine="onnxruntime", random_state=0).fit(IMAGES)
