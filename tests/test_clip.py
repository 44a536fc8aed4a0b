"""CLIP: equal to open_clip's own outputs, filled whole, and a classifier from names."""

import json
import logging
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import get_tags
from test_checkpoints import save_torchscript

from imgembed import (
    CheckpointError,
    CLIPEmbedder,
    CNNEmbedder,
    ImageReadError,
    ImageReadWarning,
    RankedCaption,
    ViTEmbedder,
    ZeroShotClassifier,
)
from imgembed.deep._open_clip import build_model, resolve_preprocessing
from imgembed.testing import check_embedder

open_clip = pytest.importorskip("open_clip")

pytestmark = pytest.mark.filterwarnings("ignore:.*random weights:UserWarning")

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
VISION = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-quickgelu": {"embed_dim": 32, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-apart": {  # as SigLIP: the text tower apart, the image tower timm's, a bias
        "embed_dim": 32,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "resnet10t", "timm_proj": "linear", "image_size": 64},
        "text_cfg": TEXT,
    },
    "tiny-hub": {
        "embed_dim": 32,
        "vision_cfg": VISION,
        "text_cfg": {"hf_model_name": "a/b", "hf_tokenizer_name": "a/b"},
    },
    "tiny-hub-tokenizer": {
        "embed_dim": 32,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "hf_tokenizer_name": "a/b"},
    },
}
for _name, _config in CONFIGS.items():
    with tempfile.TemporaryDirectory() as _folder:
        _path = Path(_folder, f"{_name}.json")
        _path.write_text(json.dumps(_config))
        open_clip.add_model_config(_path)

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
OTHER = np.full((50, 80, 3), (200, 30, 20), dtype=np.uint8)
TEXTS = ["a red shoe", "a photo of a dog, asleep", "Größe 42 & schön", "", "snow"]


class TinyCLIP(CLIPEmbedder):
    """One that other processes import from here, where the tiny architectures are known."""


def model_of(name: str = "tiny", seed: int = 1) -> Any:
    """A model whose vectors differ well, with open_clip's own function."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = open_clip.create_model(name)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "tiny.pt"
    torch.save(model_of().state_dict(), path)
    return path


def embedder(weights: Path | None, name: str = "tiny", **options: Any) -> CLIPEmbedder:
    return CLIPEmbedder(name, weights, **{"engine": "torch", **options})


def assert_close(got: Any, wanted: torch.Tensor) -> None:
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)


def images_by_open_clip(model: Any, paths: list[Path]) -> torch.Tensor:
    transform = open_clip.image_transform(64, is_train=False)
    inputs = torch.stack([transform(Image.open(path)) for path in paths])
    with torch.inference_mode():
        vectors: torch.Tensor = model.encode_image(inputs, normalize=True)
    return vectors


def texts_by_open_clip(model: Any, texts: list[str], name: str = "tiny") -> torch.Tensor:
    with torch.inference_mode():
        vectors: torch.Tensor = model.encode_text(
            open_clip.get_tokenizer(name)(texts), normalize=True
        )
    return vectors


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    made = [folder / "noise.png", folder / "red.png"]
    for path, image in zip(made, (IMAGE, OTHER), strict=True):
        Image.fromarray(image).save(path)
    return made


@pytest.mark.parametrize("name", ["tiny", "tiny-quickgelu", "tiny-apart"])
def test_vectors_equal_open_clips_own(name: str, paths: list[Path], tmp_path: Path) -> None:
    model = model_of(name)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    clip = embedder(tmp_path / "model.pt", name)
    images = clip.fit_transform(paths)
    assert_close(images, images_by_open_clip(model, paths))
    texts = clip.transform_text(TEXTS)
    assert_close(texts, texts_by_open_clip(model, TEXTS, name))
    assert texts.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
    assert clip.logit_scale_ == pytest.approx(model.logit_scale.exp().item())
    # The comparison can fail: vectors of different texts and images differ.
    for vectors in (images, texts):
        assert (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)].max() < 0.99


PREPROCESSINGS = [
    {"size": 64, "resize_mode": "shortest", "interpolation": "bicubic"},
    {"size": (48, 64), "resize_mode": "squash", "interpolation": "bilinear"},
]
MODEL = model_of()


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 300), st.integers(20, 300), st.sampled_from(PREPROCESSINGS))
def test_preprocessing_is_open_clips(height: int, width: int, asked: dict[str, Any]) -> None:
    rng = np.random.default_rng(height * 1000 + width)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    config = {**asked, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    wanted = open_clip.image_transform(
        config["size"],
        is_train=False,
        **{key: config[key] for key in ("mean", "std", "resize_mode", "interpolation")},
    )(Image.fromarray(image))
    open_clip.set_model_preprocess_cfg(MODEL, config)
    preprocessing = resolve_preprocessing(MODEL, "auto")
    pixels = torch.from_numpy(preprocessing.crop(image).copy())[None]
    torch.testing.assert_close(preprocessing.normalise(pixels)[0], wanted, rtol=0, atol=1e-6)


def test_preprocessing_that_is_not_built_is_refused() -> None:
    for config in (
        {"size": 64, "resize_mode": "longest"},
        {"size": (64, 32), "resize_mode": "shortest"},
    ):
        open_clip.set_model_preprocess_cfg(
            MODEL, {**config, "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
        )
        with pytest.raises(ValueError, match=f"resize mode {config['resize_mode']!r}; built"):
            resolve_preprocessing(MODEL, "auto")


def test_files_are_shown_images_as_all_published_weights_are(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = embedder(weights).fit([IMAGE]).preprocessing_
    assert own.mean == open_clip.OPENAI_DATASET_MEAN
    assert not own.squash
    asked = embedder(weights, normalisation="half").fit([IMAGE]).preprocessing_
    assert (asked.mean, asked.std) == ((0.5,) * 3, (0.5,) * 3)
    config = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}
    tags = {
        "webli": {**config, "interpolation": "bicubic"},
        "other": {**config, "interpolation": "bilinear"},
    }
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: [*tags])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: tags.get(tag, {}))
    agreed = embedder(weights).fit([IMAGE]).preprocessing_
    assert agreed.squash
    assert agreed.mean == (0.5,) * 3
    assert agreed.resampling == Image.Resampling.BICUBIC  # they differ: open_clip's default


def test_a_tag_is_downloaded_and_shows_images_its_way(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = {
        "mine": {
            "hf_hub": "me/mine/",
            "mean": (0.1, 0.2, 0.3),
            "std": (0.3, 0.2, 0.1),
            "interpolation": "bilinear",
            "resize_mode": "squash",
        }
    }
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: tags.get(tag, {}))
    monkeypatch.setattr(open_clip, "download_pretrained", lambda config: str(weights))
    clip = CLIPEmbedder("tiny", "mine", engine="torch").fit([IMAGE])
    assert clip.preprocessing_.mean == (0.1, 0.2, 0.3)
    assert clip.preprocessing_.squash
    assert clip.preprocessing_.resampling == Image.Resampling.BILINEAR
    assert_close(clip.transform_text(TEXTS), texts_by_open_clip(model_of(), TEXTS))


def test_weights_that_cannot_be_had_say_what_to_do() -> None:
    with pytest.raises(
        CheckpointError, match=r"(?s)cannot get.*'laion2b_s34b_b79k'.*pass the file"
    ):
        CLIPEmbedder().fit([IMAGE])
    with pytest.raises(CheckpointError, match=r"neither a file.*'ViT-B-32': openai, laion400m"):
        CLIPEmbedder("ViT-B-32", "no_tag").fit([IMAGE])
    with pytest.raises(CheckpointError, match=r"neither a file.*'tiny': it has none"):
        CLIPEmbedder("tiny", Path("none.pt")).fit([IMAGE])
    with pytest.raises(ValueError, match=r"no model 'ViT-B/32'. Did you mean 'ViT-B-32'"):
        CLIPEmbedder("ViT-B/32").fit([IMAGE])
    with pytest.raises(ValueError, match="no model 'local-dir:"):
        CLIPEmbedder("local-dir:models").fit([IMAGE])
    with pytest.raises(CheckpointError, match=r"text tower is of Hugging Face.*transformers"):
        CLIPEmbedder("tiny-hub", None).fit([IMAGE])


def test_a_tokenizer_that_is_on_a_hub_is_missed_by_text_alone() -> None:
    clip = embedder(None, "tiny-hub-tokenizer", random_state=0)
    assert clip.fit_transform([IMAGE]).shape == (1, 32)
    with pytest.raises(CheckpointError, match="tokenizer of 'tiny-hub-tokenizer'"):
        clip.transform_text(["snow"])


def test_without_open_clip_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match=r"CLIPEmbedder needs.*imgembed\[clip\]"):
        CLIPEmbedder("tiny", None).fit([IMAGE])


def as_flat(state: Any, path: Path) -> None:
    torch.save(state, path)


def as_training(state: Any, path: Path) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {}}, path)


def as_safetensors(state: Any, path: Path) -> None:
    safetensors.torch.save_file(state, path)


def of_openai(state: Any) -> Any:
    numbers = ("input_resolution", "context_length", "vocab_size")
    return {k: v.half() for k, v in state.items()} | {k: torch.tensor(64) for k in numbers}


def as_openais_archive(state: Any, path: Path) -> None:
    save_torchscript(of_openai(state), path)


def as_openais_state(state: Any, path: Path) -> None:
    torch.save(of_openai(state), path)


@pytest.mark.parametrize(
    "save", [as_flat, as_training, as_safetensors, as_openais_archive, as_openais_state]
)
def test_every_layout_fills_both_towers(
    save: Callable[[Any, Path], None], tmp_path: Path, paths: list[Path]
) -> None:
    model = model_of("tiny-quickgelu")
    path = tmp_path / "clip.pt"
    save(model.state_dict(), path)
    is_half = "openais" in save.__name__
    if is_half:
        model.load_state_dict({k: v.half() for k, v in model.state_dict().items()})
    clip = embedder(path, "tiny-quickgelu").fit(paths)
    assert_close(clip.transform(paths), images_by_open_clip(model, paths))
    assert_close(clip.transform_text(TEXTS), texts_by_open_clip(model, TEXTS))
    report = clip.checkpoint_report_
    assert report is not None
    assert report.n_used == len(model.state_dict())
    assert len(report.dropped) == (3 if is_half else 0)
    assert report.prefix == ("module." if save is as_training else "")
    assert ("optimizer" in report.ignored) == (save is as_training)


def test_old_files_fill_models_whose_text_tower_is_apart(tmp_path: Path) -> None:
    model = model_of("tiny-apart")
    state = {name.removeprefix("text."): tensor for name, tensor in model.state_dict().items()}
    state["logit_scale"] = state["logit_scale"].reshape(1)
    torch.save(state, tmp_path / "old.pt")
    clip = embedder(tmp_path / "old.pt", "tiny-apart")
    assert_close(clip.transform_text(TEXTS), texts_by_open_clip(model, TEXTS))


def test_every_tensor_must_be_filled(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    state = model_of().state_dict()
    for name in ("logit_scale", "visual.proj", "text_projection", "positional_embedding"):
        torch.save({k: v for k, v in state.items() if k != name}, path)
        with pytest.raises(CheckpointError, match=rf"clip\.pt' for 'tiny': .*missing: {name}"):
            embedder(path).fit([IMAGE])
    torch.save({**state, "visual.other": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"unexpected: visual\.other"):
        embedder(path).fit([IMAGE])
    torch.save({**state, "visual.proj": torch.zeros(64, 16)}, path)
    with pytest.raises(CheckpointError, match=r"other shape: visual\.proj"):
        embedder(path).fit([IMAGE])
    path.write_text("<html>")
    with pytest.raises(CheckpointError, match="HTML"):
        embedder(path).fit([IMAGE])


def test_quick_gelu_belongs_to_the_architecture(tmp_path: Path) -> None:
    as_openais_state(model_of("tiny").state_dict(), tmp_path / "openai.pt")
    with pytest.raises(CheckpointError, match=r"OpenAI's.*QuickGELU.*model_name='tiny-quickgelu'"):
        embedder(tmp_path / "openai.pt").fit([IMAGE])
    with pytest.raises(CheckpointError, match=r"'openai' were.*model_name='ViT-B-32-quickgelu'"):
        CLIPEmbedder("ViT-B-32", "openai").fit([IMAGE])


def test_clip_keeps_the_contract() -> None:
    check_embedder(TinyCLIP("tiny", None, engine="torch", random_state=0))


def test_random_weights_are_drawn_from_random_state_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"CLIPEmbedder\(weights=None\) has random weights"):
        clip = embedder(None, random_state=3).fit([IMAGE])
    vectors = clip.transform_text(TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it has been said
        again = pickle.loads(pickle.dumps(clip))
        assert np.array_equal(again.transform_text(TEXTS), vectors)
    assert np.array_equal(embedder(None, random_state=3).transform_text(TEXTS), vectors)
    assert not np.allclose(embedder(None, random_state=4).transform_text(TEXTS), vectors)


def test_building_says_and_sets_nothing_in_logging(
    weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = logging.getLogger()
    embedder(weights).transform_text(["snow"])
    assert not caplog.records
    monkeypatch.setattr(root, "handlers", [])
    embedder(weights).transform_text(["snow"])
    assert (root.handlers, root.filters) == ([], [])


def test_pickles_hold_no_weights(weights: Path) -> None:
    clip = embedder(weights).fit([IMAGE])
    texts = clip.transform_text(TEXTS)
    pickled = pickle.dumps(clip)
    assert len(pickled) < 10_000
    assert np.array_equal(pickle.loads(pickled).transform_text(TEXTS), texts)


def test_the_fingerprint_covers_both_towers_and_no_templates(weights: Path, tmp_path: Path) -> None:
    fingerprint = embedder(weights).fingerprint()
    assert embedder(weights, templates=["a {}"]).fingerprint() == fingerprint
    assert embedder(weights, normalisation="half").fingerprint() != fingerprint
    for name in ("visual.proj", "text_projection", "logit_scale"):
        state = model_of().state_dict()
        state[name] = state[name] + 0.01
        torch.save(state, tmp_path / "changed.pt")
        assert embedder(tmp_path / "changed.pt").fingerprint() != fingerprint


def test_onnx_runtime_gives_the_vectors_of_torch(weights: Path, paths: list[Path]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    fast = embedder(weights, engine="onnxruntime")
    wanted = embedder(weights).transform(paths)
    np.testing.assert_allclose(fast.transform(paths), wanted, atol=1e-4)
    assert_close(fast.transform_text(TEXTS), texts_by_open_clip(model_of(), TEXTS))


def test_bfloat16_is_near(weights: Path, paths: list[Path]) -> None:
    near, exact = embedder(weights, dtype="bfloat16"), embedder(weights)
    cosines = [
        (near.transform(paths) * exact.transform(paths)).sum(1),
        (near.transform_text(TEXTS) * exact.transform_text(TEXTS)).sum(1),
    ]
    assert np.concatenate(cosines).min() > 0.99
    assert near.logit_scale_ == exact.logit_scale_


def test_texts_are_the_same_alone_and_in_batches(weights: Path) -> None:
    wanted = embedder(weights, batch_size=64).transform_text(TEXTS)
    in_twos = embedder(weights, batch_size=2)
    np.testing.assert_allclose(in_twos.transform_text(TEXTS), wanted, atol=1e-6)
    np.testing.assert_allclose(in_twos.transform_text(tuple(TEXTS[::-1])), wanted[::-1], atol=1e-6)
    np.testing.assert_allclose(in_twos.transform_text(np.array(TEXTS[:1])), wanted[:1], atol=1e-6)


def test_templates_are_averaged_and_normalised(weights: Path) -> None:
    templates = ["a photo of a {}.", "{}, drawn", "two {0}s"]
    clip = embedder(weights, templates=templates)
    by_hand = np.stack(
        [clip.transform_text([t.format(x) for x in ("cat", "dog")], ["{}"]) for t in templates]
    ).mean(axis=0)
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    np.testing.assert_allclose(clip.transform_text(["cat", "dog"]), by_hand, atol=1e-6)
    given_now = embedder(weights).transform_text(["cat", "dog"], templates=templates)
    np.testing.assert_allclose(given_now, by_hand, atol=1e-6)
    assert not np.allclose(embedder(weights).transform_text(["cat", "dog"]), by_hand, atol=1e-2)


def test_text_that_is_cut_is_named(weights: Path) -> None:
    clip = embedder(weights).fit([IMAGE])
    fits = " ".join(["dog"] * 14)  # and two tokens at its ends make 16
    clip.transform_text([fits])
    with pytest.warns(UserWarning, match=r"1 of 3 texts are longer than the 16 tokens.*'dog dog"):
        cut = clip.transform_text([fits, fits + " dog", "cat"])
    np.testing.assert_allclose(cut[1], cut[0], atol=1e-6)
    with pytest.warns(UserWarning, match=r"5 of 5 texts .*cat \.\.\.', .* and 2 more"):
        clip.transform_text([fits + " cat cat"] * 5)


@pytest.mark.parametrize(
    ("texts", "kind", "told"),
    [
        ("a red shoe", TypeError, r"put it in a list, \['a red shoe'\]"),
        (["cat", 3], TypeError, "in row 1 there is 3"),
        (["cat", None], TypeError, "in row 1 there is None"),
        (7, TypeError, "got a int"),
        ([], ValueError, "texts is empty"),
    ],
)
def test_what_is_no_text_is_refused(
    texts: Any, kind: type[Exception], told: str, weights: Path
) -> None:
    with pytest.raises(kind, match=told):
        embedder(weights).transform_text(texts)


@pytest.mark.parametrize("template", ["a photo", "a {thing}", "{} and {}", "{", "{:d}"])
def test_templates_have_one_place(template: str, weights: Path) -> None:
    for refused in (
        lambda: embedder(weights, templates=[template]).fit([IMAGE]),
        lambda: embedder(weights).transform_text(["cat"], [template]),
    ):
        with pytest.raises(ValueError, match="templates must have one place"):
            refused()


def test_captions_are_ranked_as_the_model_does(weights: Path, paths: list[Path]) -> None:
    model, captions = model_of(), ["a dog", "a red wall", "noise"]
    images, texts = images_by_open_clip(model, paths), texts_by_open_clip(model, captions)
    cosines = images @ texts.T
    probabilities = (model.logit_scale.exp().detach() * cosines).softmax(1)
    # Templates of the embedder are for names of things.
    ranked = embedder(weights, templates=["a {}"]).rank_captions(paths, captions)
    for row, of_image in enumerate(ranked):
        order = cosines[row].argsort(descending=True).tolist()
        assert [one.caption for one in of_image] == [captions[i] for i in order]
        assert [one.cosine for one in of_image] == pytest.approx(cosines[row][order].tolist(), 1e-4)
        assert [one.probability for one in of_image] == pytest.approx(
            probabilities[row][order].tolist(), rel=1e-4
        )
        assert sum(one.probability for one in of_image) == pytest.approx(1)
    best = embedder(weights).rank_captions(IMAGE, captions, n_captions=1)
    assert len(best) == len(best[0]) == 1
    assert isinstance(best[0][0], RankedCaption)
    assert best[0][0].caption == ranked[0][0].caption


def test_captions_of_unreadable_images_and_wrong_calls(weights: Path, paths: list[Path]) -> None:
    clip = embedder(weights)
    with pytest.raises(ImageReadError):
        clip.rank_captions([paths[0], b"x"], ["a", "b"])
    with pytest.warns(ImageReadWarning, match="row 1"):
        ranked = clip.set_params(on_error="nan").rank_captions([paths[0], b"x"], ["a", "b"])
    assert [len(of_image) for of_image in ranked] == [2, 0]
    with pytest.raises(ValueError, match="n_captions"):
        clip.rank_captions(paths, ["a", "b"], n_captions=3)
    with pytest.raises(TypeError, match="captions must be a sequence"):
        clip.rank_captions(paths, "a caption")
    tables = clone(clip).set_output(transform="pandas").rank_captions(paths, ["a", "b"])
    assert [len(of_image) for of_image in tables] == [2, 2]


def test_timms_tower_gives_the_vectors_before_the_projection(
    tmp_path: Path, paths: list[Path]
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = open_clip.CLIP(
            embed_dim=48,
            vision_cfg={"image_size": 224, "layers": 10, "width": 256, "patch_size": 16},
            text_cfg={**TEXT, "vocab_size": 8},
        ).eval()
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    transform = open_clip.image_transform(224, is_train=False)
    model.visual.proj = None
    with torch.inference_mode():
        wanted = model.visual(torch.stack([transform(Image.open(path)) for path in paths]))
    tower = ViTEmbedder("vit_xsmall_patch16_clip_224", tmp_path / "clip.pt", "cls", engine="torch")
    assert_close(tower.fit_transform(paths), wanted)


def test_building_twice_draws_the_same_and_leaves_the_generator() -> None:
    state = torch.get_rng_state()
    first, second = (build_model("tiny", None, seed=5)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


# Zero-shot classification.


CLASSES = ["shoe", "dog", "snow"]


def labelled(n_images: int = 12) -> tuple[list[NDArray[np.uint8]], list[str]]:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(n_images)]
    return images, [CLASSES[row % 3] for row in range(n_images)]


def test_names_classify_as_their_vectors_say(weights: Path) -> None:
    model, (images, _) = model_of(), labelled()
    clip = embedder(weights)
    templates = ("a photo of a {}.", "{}, drawn")
    classifier = ZeroShotClassifier(clip, CLASSES, templates).fit()
    assert classifier.classes_.tolist() == sorted(CLASSES)
    by_hand = [
        texts_by_open_clip(model, [t.format(name) for t in templates]).mean(0)
        for name in sorted(CLASSES)
    ]
    texts = torch.nn.functional.normalize(torch.stack(by_hand), dim=-1)
    assert_close(classifier.class_vectors_, texts)
    logits = model.logit_scale.exp().detach() * torch.from_numpy(clip.transform(images)) @ texts.T
    np.testing.assert_allclose(classifier.decision_function(images), logits, atol=1e-3)
    np.testing.assert_allclose(classifier.predict_proba(images), logits.softmax(1), atol=1e-4)
    predicted = [sorted(CLASSES)[i] for i in logits.argmax(1)]
    assert classifier.predict(images).tolist() == predicted
    accuracy = np.mean(np.array(predicted) == labelled()[1])
    assert classifier.score(images, labelled()[1]) == pytest.approx(accuracy)


def test_two_classes_have_one_decision(weights: Path) -> None:
    images, _ = labelled()
    classifier = ZeroShotClassifier(embedder(weights), ["shoe", "dog"]).fit()
    decision, probabilities = classifier.decision_function(images), classifier.predict_proba(images)
    assert decision.shape == (12,)
    np.testing.assert_allclose(1 / (1 + np.exp(-decision)), probabilities[:, 1])
    assert classifier.predict(images).tolist() == np.where(decision > 0, "shoe", "dog").tolist()


def test_scikit_learns_tools_take_the_classifier(weights: Path) -> None:
    images, y = labelled()
    loaded = embedder(weights).fit(images)
    classifier = ZeroShotClassifier(FrozenEstimator(loaded))
    assert clone(classifier).embedder.estimator is loaded  # cross-validation loads nothing again
    scores = cross_val_score(classifier, images, y, cv=2, error_score="raise")
    wanted = ZeroShotClassifier(loaded, CLASSES).fit().predict(images)
    assert scores.mean() == pytest.approx(np.mean(wanted == y))
    ovr = cross_val_score(classifier, images, y, cv=2, scoring="roc_auc_ovr", error_score="raise")
    assert np.isfinite(ovr).all()
    search = GridSearchCV(
        ZeroShotClassifier(embedder(weights), CLASSES),
        {"templates": [("a {}",), ("a photo of a {}.", "{}")], "embedder__normalisation": ["half"]},
        cv=2,
        error_score="raise",
    ).fit(images, y)
    assert search.best_estimator_.predict(images).shape == (12,)
    tags = get_tags(classifier)
    assert tags.estimator_type == "classifier"
    assert not tags.input_tags.two_d_array
    again = pickle.loads(pickle.dumps(ZeroShotClassifier(embedder(weights), CLASSES).fit()))
    assert again.predict(images).tolist() == wanted.tolist()


def test_classes_come_from_y_where_they_are_not_given(weights: Path) -> None:
    images, y = labelled()
    from_y = ZeroShotClassifier(embedder(weights)).fit(images, np.array(y))
    given = ZeroShotClassifier(embedder(weights), CLASSES).fit(images, y[:1])
    assert from_y.classes_.tolist() == given.classes_.tolist()
    assert np.array_equal(from_y.class_vectors_, given.class_vectors_)


def test_wrong_classes_say_why(weights: Path) -> None:
    clip = embedder(weights)
    for classes, y, kind, told in (
        (None, None, ValueError, "there are no classes"),
        (["dog"], None, ValueError, "at least two.*got 1"),
        (["dog", "cat", "dog"], None, ValueError, r"twice \['dog'\]"),
        (CLASSES, ["dog", "cat"], ValueError, r"in y alone \['cat'\]"),
        (None, [0, 1], TypeError, "y must all be str"),
        ("dog", None, TypeError, "classes must be a sequence"),
    ):
        with pytest.raises(kind, match=told):
            ZeroShotClassifier(clip, classes).fit(None, y)
    with pytest.raises(ValueError, match="templates must have one place"):
        ZeroShotClassifier(clip, CLASSES, ["a photo"]).fit()
    with pytest.raises(TypeError, match=r"CNNEmbedder embeds images only.*CLIPEmbedder"):
        ZeroShotClassifier(CNNEmbedder("resnet10t", weights=None), CLASSES).fit()
    with pytest.raises(NotFittedError):
        ZeroShotClassifier(clip, CLASSES).predict([IMAGE])


def test_an_unreadable_image_has_no_class(weights: Path) -> None:
    classifier = ZeroShotClassifier(embedder(weights, on_error="nan"), CLASSES).fit()
    with pytest.raises(ImageReadError, match="row 1"):
        classifier.predict([IMAGE, b"broken"])
