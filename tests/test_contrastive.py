"""Training without labels: losses by hand, the queue, augmentations, resumption, checkpoints."""

import colorsys
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags
from torch import nn

from imgembed import CheckpointError, CNNEmbedder, ImageReadError, ImageReadWarning, ViTEmbedder
from imgembed.testing import check_embedder
from imgembed.training import MoCoEmbedder, SimCLREmbedder
from imgembed.training._augmentation import (
    colour_jitter,
    gaussian_blur,
    greyscale,
    mirror,
    random_resized_crop,
    random_view,
)
from imgembed.training._backbone import resolve_backbone
from imgembed.training._lars import LARS
from imgembed.training._moco import MomentumContrast, info_nce
from imgembed.training._schedule import warmup_cosine
from imgembed.training._simclr import nt_xent
from imgembed.training._trainer import Trainer
from imgembed.training._training_file import TrainingFile

Pixels = NDArray[np.uint8]
Method = type[MoCoEmbedder] | type[SimCLREmbedder]

METHODS = [MoCoEmbedder, SimCLREmbedder]
TINY = "test_resnet"  # timm's own, of 0.4 million parameters


def random_start(**parameters: Any) -> CNNEmbedder:
    return CNNEmbedder(
        TINY, weights=None, random_state=0, engine="torch", **{"image_size": 32, **parameters}
    )


def tiny(method: Method, **parameters: Any) -> Any:
    """An embedder that learns in a second."""
    backbone = parameters.pop("backbone", random_start())
    return method(
        backbone=backbone,
        engine="torch",
        **{"epochs": 2, "train_batch_size": 8, "random_state": 0, **parameters},
    )


def coloured(n_each: int, seed: int = 0) -> tuple[list[Pixels], NDArray[np.intp]]:
    """Blocks in six hues, each image of another brightness, which a random network goes by."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(6), n_each)
    images = []
    for label in labels:
        hue, saturation = label / 6 + rng.uniform(-0.02, 0.02), rng.uniform(0.35, 0.6)
        brightness, n_blocks = rng.uniform(0.25, 1), rng.integers(4, 12)
        colour = np.array(colorsys.hsv_to_rgb(hue, saturation, brightness))
        blocks = (255 * colour * rng.uniform(0.3, 1, (n_blocks, n_blocks, 1))).astype(np.uint8)
        image = Image.fromarray(blocks).resize((48, 48), Image.Resampling.NEAREST)
        images.append(np.asarray(image))
    return images, labels


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    return coloured(3)[0][:16]


# Losses, the queue and optimisers, by hand.


def unit_rows(seed: int, n_rows: int, width: int = 5) -> NDArray[np.float64]:
    rows = np.random.default_rng(seed).normal(size=(n_rows, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_info_nce_is_the_cross_entropy_of_the_own_key_among_the_queue() -> None:
    queries, keys, queue = unit_rows(0, 4), unit_rows(1, 4), unit_rows(2, 7)
    by_hand = []
    for query, key in zip(queries, keys, strict=True):
        positive = np.exp(query @ key / 0.2)
        negatives = sum(np.exp(query @ other / 0.2) for other in queue)
        by_hand.append(-np.log(positive / (positive + negatives)))
    tensors = (torch.from_numpy(rows) for rows in (queries, keys, queue.T))
    assert info_nce(*tensors, temperature=0.2).item() == pytest.approx(np.mean(by_hand))


def test_nt_xent_is_the_cross_entropy_of_the_other_view_among_all_other_views() -> None:
    first, second = unit_rows(0, 4), unit_rows(1, 4)
    views = np.concatenate([first, second])
    by_hand = []
    for i in range(8):
        similarities = np.exp(views @ views[i] / 0.1)
        others = similarities.sum() - similarities[i]
        by_hand.append(-np.log(similarities[(i + 4) % 8] / others))
    loss = nt_xent(torch.from_numpy(first), torch.from_numpy(second), 0.1)
    assert loss.item() == pytest.approx(np.mean(by_hand))


class Lookup(nn.Module):
    """An encoder that projects an image to the row of a table that its first pixel names."""

    n_projection = 3

    def __init__(self) -> None:
        super().__init__()
        table = torch.nn.functional.normalize(torch.arange(1.0, 31.0).reshape(10, 3).sin(), dim=1)
        self.table = nn.Parameter(table)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.table[inputs[:, 0, 0, 0].long()]


def numbered(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32).reshape(-1, 1, 1, 1)


def test_keys_enter_the_queue_in_order_where_the_oldest_are() -> None:
    moco = MomentumContrast(Lookup(), queue_size=5, momentum=1.0, temperature=0.2)  # type: ignore[arg-type]
    table = moco.encoder_q.table.detach()
    for batch in ((0, 1), (2, 3), (4, 5)):
        moco.loss(numbered(*batch), numbered(*batch))
    assert int(moco.queue_ptr) == 1
    torch.testing.assert_close(moco.queue.T, table[[5, 1, 2, 3, 4]])


def test_a_query_meets_its_own_key_and_the_queue_of_before() -> None:
    moco = MomentumContrast(Lookup(), queue_size=4, momentum=1.0, temperature=0.2)  # type: ignore[arg-type]
    table, before = moco.encoder_q.table.detach(), moco.queue.clone()
    loss = moco.loss(numbered(3, 7), numbered(4, 8))
    torch.testing.assert_close(loss, info_nce(table[[3, 7]], table[[4, 8]], before, 0.2))


def test_the_keys_encoder_follows_by_the_momentum_and_has_no_gradient() -> None:
    moco = MomentumContrast(Lookup(), queue_size=4, momentum=0.9, temperature=0.2)  # type: ignore[arg-type]
    before = moco.encoder_k.table.clone()
    with torch.no_grad():
        moco.encoder_q.table.add_(1.0)
    moco.loss(numbered(1, 2), numbered(1, 2)).backward()
    torch.testing.assert_close(moco.encoder_k.table.detach(), before + 0.1)
    assert moco.encoder_k.table.grad is None
    assert moco.encoder_q.table.grad is not None


class Normed(Lookup):
    """Its output depends on the statistics of what passes at once, as with batch norms."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = super().forward(inputs)
        return torch.nn.functional.normalize(found - found.mean(dim=0), dim=1)


def test_keys_are_normed_in_shuffled_groups_and_come_back_in_order() -> None:
    torch.default_generator.manual_seed(0)
    moco = MomentumContrast(Normed(), 8, momentum=1.0, temperature=0.2, n_groups=2)  # type: ignore[arg-type]
    moco.loss(numbered(*range(8)), numbered(*range(8)))
    keys, encoder = moco.queue.T, moco.encoder_k
    torch.default_generator.manual_seed(0)
    torch.randn(3, 8)  # the queue
    order = torch.randperm(8)
    assert order.tolist() != list(range(8))
    for group in order.split(4):
        alone = encoder(numbered(*group.tolist()))
        torch.testing.assert_close(keys[group], alone.detach())
    in_order = torch.cat([encoder(numbered(0, 1, 2, 3)), encoder(numbered(4, 5, 6, 7))])
    assert not torch.allclose(keys, in_order)


def test_two_steps_of_lars_by_hand() -> None:
    matrix, vector = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([2.0]))
    optimizer = LARS([matrix, vector], lr=0.5, momentum=0.9, weight_decay=0.1, trust=0.01)
    gradients = [np.array([[0.0, 2.0]]), np.array([[1.0, 0.0]])]
    weights, velocity = np.array([[3.0, 4.0]]), np.zeros((1, 2))
    bias, bias_velocity = 2.0, 0.0
    for gradient in gradients:
        matrix.grad = torch.from_numpy(gradient).float()
        vector.grad = torch.tensor([1.0])
        optimizer.step()
        norm = np.linalg.norm(weights)
        trust = 0.01 * norm / (np.linalg.norm(gradient) + 0.1 * norm)
        velocity = 0.9 * velocity + 0.5 * trust * (gradient + 0.1 * weights)
        weights = weights - velocity
        bias_velocity = 0.9 * bias_velocity + 0.5 * 1.0  # no trust, no decay
        bias -= bias_velocity
    np.testing.assert_allclose(matrix.detach(), weights, rtol=1e-6)
    np.testing.assert_allclose(vector.detach(), [bias], rtol=1e-6)


def test_lars_takes_plain_steps_where_weights_are_zero() -> None:
    matrix = nn.Parameter(torch.zeros(1, 2))
    matrix.grad = torch.tensor([[1.0, -2.0]])
    LARS([matrix], lr=0.1).step()
    torch.testing.assert_close(matrix.detach(), torch.tensor([[-0.1, 0.2]]))


def test_the_learning_rate_rises_and_falls_by_half_a_cosine() -> None:
    assert [warmup_cosine(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])
    risen = [warmup_cosine(p, warmup=0.2) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert risen == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


# Augmentations.


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


GRADIENT = np.stack(
    [*np.meshgrid(np.arange(200), np.arange(200)), np.full((200, 200), 90)], axis=2
).astype(np.uint8)  # red tells x, green tells y

AUGMENTATIONS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "crop": lambda pixels, rng: random_resized_crop(pixels, rng, 200, 200),
    "mirror": mirror,
    "jitter": colour_jitter,
    "grey": greyscale,
    "blur": gaussian_blur,
    "view": lambda pixels, rng: random_view(pixels, rng, 200, 200, Image.Resampling.BICUBIC),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_depend_on_the_generator_and_leave_the_image(name: str) -> None:
    augment = AUGMENTATIONS[name]
    given = rng(1).integers(0, 256, GRADIENT.shape, dtype=np.uint8)
    before = given.copy()
    given.setflags(write=False)
    results = [augment(given, rng(seed)) for seed in range(20)]
    assert {(one.shape, one.dtype) for one in results} == {(GRADIENT.shape, np.dtype(np.uint8))}
    assert len({one.tobytes() for one in results}) >= 2
    for seed, one in enumerate(results):
        assert np.array_equal(augment(given, rng(seed)), one)
    assert np.array_equal(given, before)


def test_crops_have_the_areas_and_ratios_that_were_asked_for() -> None:
    areas, ratios = [], []
    for seed in range(400):
        crop = random_resized_crop(
            GRADIENT, rng(seed), 50, 50, (0.2, 0.8), (0.5, 2.0), Image.Resampling.NEAREST
        ).astype(float)
        width = (crop[0, -1, 0] - crop[0, 0, 0]) * 50 / 49  # in pixels, as red tells x
        height = (crop[-1, 0, 1] - crop[0, 0, 1]) * 50 / 49
        areas.append(width * height / 200**2)
        ratios.append(width / height)
    assert 0.17 < min(areas) < 0.25
    assert 0.7 < max(areas) < 0.83
    assert 0.4 < np.median(areas) < 0.56
    assert 0.45 < min(ratios) < 0.7
    assert 1.6 < max(ratios) < 2.2
    assert 0.85 < np.median(ratios) < 1.3


def test_a_strip_is_cropped_in_its_centre() -> None:
    strip = np.zeros((4, 4000, 3), dtype=np.uint8)
    strip[:, 1990:2010] = 255
    assert (random_resized_crop(strip, rng(), 8, 8, (0.9, 1.0)) == 255).all()
    assert (random_resized_crop(strip.transpose(1, 0, 2), rng(), 8, 8, (0.9, 1.0)) == 255).all()


def test_what_is_random_happens_as_often_as_it_should() -> None:
    noise = rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    wanted = {"mirror": (mirror, 0.5), "grey": (greyscale, 0.2), "blur": (gaussian_blur, 0.5)}
    for name, (augment, share) in {**wanted, "jitter": (colour_jitter, 0.8)}.items():
        changed = [not np.array_equal(augment(noise, rng(seed)), noise) for seed in range(400)]
        assert abs(np.mean(changed) - share) < 0.08, name


def test_mirror_exchanges_left_and_right() -> None:
    assert np.array_equal(mirror(GRADIENT, rng(), 1.0), GRADIENT[:, ::-1])


def test_grey_has_three_equal_channels_and_the_same_brightness() -> None:
    grey = greyscale(GRADIENT, rng(), 1.0)
    assert (grey == grey[..., :1]).all()
    by_hand = GRADIENT @ [0.299, 0.587, 0.114]
    assert np.abs(grey[..., 0] - by_hand).max() <= 1


def test_blur_keeps_the_mean_and_lowers_the_differences() -> None:
    noise = rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    slight, strong = (gaussian_blur(noise, rng(), (s, s), 1.0).astype(float) for s in (0.5, 2.0))
    assert strong.std() < 0.5 * slight.std() < 0.5 * noise.std()
    assert abs(strong.mean() - noise.mean()) < 2


def test_each_colour_is_jittered_as_its_name_says() -> None:
    red = np.full((2, 2, 3), (200, 40, 40), dtype=np.uint8)
    hues = {tuple(colour_jitter(red, rng(s), 0, 0, 0, 0.5, 1.0)[0, 0]) for s in range(60)}
    assert len(hues) > 40
    for colour in hues:  # value and saturation stay
        assert abs(max(colour) - 200) <= 2
        assert abs(min(colour) - 40) <= 3
    brightness = [colour_jitter(red, rng(s), 0.2, 0, 0, 0, 1.0)[0, 0] for s in range(60)]
    factors = np.array([b[0] for b in brightness]) / 200
    assert 0.79 < factors.min() < 0.9 < 1.1 < factors.max() < 1.21
    assert np.allclose([b[1] / b[0] for b in brightness], 0.2, atol=0.01)
    saturation = np.array([colour_jitter(red, rng(s), 0, 0, 0.5, 0, 1.0)[0, 0] for s in range(60)])
    spread = saturation[:, 0].astype(int) - saturation[:, 1]
    assert 70 < spread.min() < 100 < 200 < spread.max() < 241
    contrast = [colour_jitter(GRADIENT, rng(s), 0, 0.5, 0, 0, 1.0).std() for s in range(60)]
    assert min(contrast) < 0.7 * GRADIENT.std() < 1.1 * GRADIENT.std() < max(contrast)


# Training.


def precision_at_5(vectors: NDArray[np.float32], labels: NDArray[np.intp]) -> float:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = unit @ unit.T
    np.fill_diagonal(similarities, -np.inf)
    nearest = np.argsort(-similarities, axis=1)[:, :5]
    return float((labels[nearest] == labels[:, np.newaxis]).mean())


@pytest.mark.parametrize("method", METHODS)
def test_training_brings_images_of_a_hue_together(method: Method) -> None:
    images, labels = coloured(10)
    with pytest.warns(UserWarning, match="random weights"):
        before = precision_at_5(random_start().fit_transform(images), labels)
    of_method = {"momentum": 0.9, "queue_size": 32} if method is MoCoEmbedder else {}
    embedder = tiny(
        method, epochs=30 if of_method else 20, train_batch_size=16, learning_rate=0.002,
        temperature=0.1, random_state=1, **of_method,
    )  # fmt: skip
    after = precision_at_5(embedder.fit_transform(images), labels)
    losses = [epoch["loss"] for epoch in embedder.history_]
    # MoCo's first queue is random, and easy to tell from images.
    assert np.mean(losses[-3:]) < np.mean(losses[2:5])
    assert after > before + 0.06


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_training_goes_on_to_the_same_result(
    method: Method, images: list[Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny(method, epochs=3).fit(images)
    write = TrainingFile.write

    def write_and_stop(self: TrainingFile, *arguments: Any) -> None:
        write(self, *arguments)
        if len(arguments[-1]) == 2:
            raise KeyboardInterrupt

    stopped = tiny(method, epochs=3, save_path=tmp_path / "training.pth")
    with monkeypatch.context() as patched:
        patched.setattr(TrainingFile, "write", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            stopped.fit(images)
    with pytest.raises(NotFittedError):
        stopped.transform(images)
    resumed = clone(stopped).fit(images)
    assert [epoch["epoch"] for epoch in resumed.history_] == [1, 2, 3]
    losses = [[epoch["loss"] for epoch in one.history_] for one in (resumed, whole)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    np.testing.assert_allclose(resumed.transform(images), whole.transform(images), atol=1e-5)
    monkeypatch.setattr(Trainer, "_epoch", None)  # a finished training needs no more epochs
    again = clone(resumed).fit(images)
    assert again.history_ == resumed.history_
    assert again.fingerprint() == resumed.fingerprint()


def test_a_file_of_another_training_is_refused(images: list[Pixels], tmp_path: Path) -> None:
    path = tmp_path / "training.pth"
    embedder = tiny(MoCoEmbedder, epochs=1, save_path=path).fit(images)
    for told, changed in {
        "learning_rate was 'auto' and is 0.01": {"learning_rate": 0.01},
        "queue_size was 'auto' and is 8": {"queue_size": 8},
        "seed was ": {"random_state": 1},
        "arch was test_resnet and is resnet10t": {
            "backbone": CNNEmbedder("resnet10t", weights=None, image_size=32)
        },
    }.items():
        with pytest.raises(CheckpointError, match=told):
            clone(embedder).set_params(**changed).fit(images)
    with pytest.raises(CheckpointError, match="images was"):
        clone(embedder).fit(images[::-1])
    torch.save({"state_dict": embedder.backbone_.state_dict()}, path)
    with pytest.raises(CheckpointError, match="no file of a training here"):
        clone(embedder).fit(images)
    with pytest.raises(FileNotFoundError, match="no folder"):
        clone(embedder).set_params(save_path=tmp_path / "no" / "x.pth").fit(images)


# Of each method what its own training code calls backbone and projection.
NAMES = {
    MoCoEmbedder: ("module.encoder_q.", {"module.queue", "module.queue_ptr"}),
    SimCLREmbedder: ("backbone.", set()),
}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_has_the_methods_own_names_and_is_read_back(
    method: Method, images: list[Pixels], tmp_path: Path
) -> None:
    path, (prefix, others) = tmp_path / "training.pth", NAMES[method]
    embedder = tiny(method, save_path=path, n_projection=16).fit(images)
    vectors = embedder.transform(images)
    content = torch.load(path, weights_only=True)
    assert (content["epoch"], content["arch"]) == (2, TINY)
    assert set(content["optimizer"]) == {"state", "param_groups"}
    network = timm.create_model(TINY, num_classes=0)
    projection = {f"fc.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    names = {prefix + name for name in {*network.state_dict(), *projection}} | others
    if method is MoCoEmbedder:
        names |= {name.replace("encoder_q", "encoder_k") for name in names}
        assert content["state_dict"]["module.queue"].shape == (16, 16)
        assert content["state_dict"]["module.queue_ptr"].tolist() == [0]  # full twice
    assert set(content["state_dict"]) == names
    readers = [
        CNNEmbedder(TINY, weights=path, image_size=32, engine="torch"),
        method(path, CNNEmbedder(TINY, image_size=32), engine="torch"),
    ]
    for reader in readers:
        np.testing.assert_allclose(reader.transform(images), vectors, atol=1e-6)
        assert reader.checkpoint_report_ is not None
        assert reader.checkpoint_report_.layout.startswith(method.__name__.removesuffix("Embedder"))
    assert not list(tmp_path.glob("*.part"))


def test_training_shows_images_as_the_backbone_does_and_says_so_in_the_file(
    images: list[Pixels], tmp_path: Path
) -> None:
    path = tmp_path / "training.pth"
    start = random_start(normalisation=([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]))
    embedder = tiny(SimCLREmbedder, backbone=start, save_path=path).fit(images)
    reader = CNNEmbedder(TINY, weights=path, image_size=32, engine="torch")
    np.testing.assert_allclose(reader.fit_transform(images), embedder.transform(images), atol=1e-6)
    assert reader.preprocessing_.mean == (0.1, 0.2, 0.3)


def test_training_starts_from_the_backbones_weights(images: list[Pixels], tmp_path: Path) -> None:
    path = tmp_path / "start.pth"
    first = tiny(SimCLREmbedder, save_path=path).fit(images)
    start = CNNEmbedder(TINY, weights=path, image_size=32)
    second = tiny(SimCLREmbedder, backbone=start, learning_rate=1e-12).fit(images)
    path.unlink()  # what was learned is whole without it
    vectors = first.transform(images)
    np.testing.assert_allclose(second.transform(images), vectors, atol=1e-4)
    again = pickle.loads(pickle.dumps(second))
    np.testing.assert_array_equal(again.transform(images), second.transform(images))


def test_batch_norms_keep_their_statistics_where_the_backbone_is_trained(
    images: list[Pixels], tmp_path: Path
) -> None:
    network = timm.create_model(TINY, num_classes=0)
    torch.save(network.state_dict(), tmp_path / "trained.pth")
    trained = CNNEmbedder(TINY, weights=tmp_path / "trained.pth", image_size=32)
    for backbone, batch_norm, frozen in (
        (trained, "auto", True),
        (trained, "batch", False),
        (random_start(), "auto", False),
        (random_start(), "frozen", True),
    ):
        embedder = tiny(MoCoEmbedder, backbone=backbone, batch_norm=batch_norm, epochs=1)
        norm = embedder.fit(images).backbone_.conv1[1]
        assert bool((norm.running_var == 1).all()) == frozen, (backbone, batch_norm)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_trained_embedders_keep_the_contract(method: Method) -> None:
    check_embedder(tiny(method, epochs=1, train_batch_size=4, progress=False))


@pytest.mark.slow
def test_embedders_of_a_checkpoint_keep_the_contract(images: list[Pixels], tmp_path: Path) -> None:
    path = tmp_path / "training.pth"
    tiny(MoCoEmbedder, save_path=path).fit(images)
    check_embedder(MoCoEmbedder(path, CNNEmbedder(TINY, image_size=32), engine="torch"))


def test_vision_transformers_learn_too(images: list[Pixels]) -> None:
    start = ViTEmbedder("test_vit", weights=None, image_size=32, random_state=0)
    vectors = tiny(MoCoEmbedder, backbone=start).fit_transform(images)
    assert vectors.shape == (16, 64)
    assert np.isfinite(vectors).all()


def test_unreadable_images_are_named_or_left_out(images: list[Pixels]) -> None:
    X: list[object] = [*images, b"broken"]
    with pytest.raises(ImageReadError, match="row 16"):
        tiny(SimCLREmbedder).fit(X)
    tolerant = tiny(SimCLREmbedder, on_error="nan")
    with pytest.warns(ImageReadWarning, match="row 16 "):
        tolerant.fit(X)
    assert np.isfinite(tolerant.transform(images)).all()
    with pytest.raises(ValueError, match="X has 0 readable images"):
        clone(tolerant).fit([b"broken"] * 8)


def test_a_loss_that_is_no_number_stops_the_training(images: list[Pixels]) -> None:
    with pytest.raises(FloatingPointError, match="smaller learning_rate"):
        tiny(SimCLREmbedder, learning_rate=1e30, batch_norm="frozen", epochs=20).fit(images)


def test_sizes_that_cannot_work_are_refused_with_reasons(images: list[Pixels]) -> None:
    for told, embedder in {
        "of which there are none": tiny(SimCLREmbedder, train_batch_size=1),
        "X has 16 readable images, which is not one batch": tiny(MoCoEmbedder, train_batch_size=17),
        "each half of a batch needs two": tiny(MoCoEmbedder, train_batch_size=3),
        "queue_size=7 must be at least": tiny(MoCoEmbedder, queue_size=7),
        "older keys of its own image": tiny(MoCoEmbedder, queue_size=17),
        "epochs": tiny(SimCLREmbedder, epochs=0),
        "optimizer must be one of 'adamw', 'lars'": tiny(SimCLREmbedder, optimizer="sgd"),
        "smallest_crop": tiny(SimCLREmbedder, smallest_crop=0),
        "jitter": tiny(SimCLREmbedder, jitter=-1),
        "batch_norm": tiny(SimCLREmbedder, batch_norm="off"),
        "there is nothing to save": MoCoEmbedder("file.pth", save_path="other.pth"),
        "timm has no model": tiny(SimCLREmbedder, backbone="resnet5O"),
    }.items():
        with pytest.raises(ValueError, match=told):
            embedder.fit(images)
    with pytest.raises(TypeError, match="backbone must be"):
        tiny(MoCoEmbedder, backbone=3).fit(images)
    # One image at a time is enough for MoCo where batch norms are frozen.
    tiny(MoCoEmbedder, train_batch_size=1, queue_size=4, batch_norm="frozen").fit(images)


def test_a_file_that_says_in_a_damaged_way_how_images_are_shown_is_refused(
    images: list[Pixels], tmp_path: Path
) -> None:
    path = tmp_path / "training.pth"
    tiny(SimCLREmbedder, save_path=path, epochs=1).fit(images)
    content = torch.load(path, weights_only=True)
    for damage in ({"mean": [1.0]}, {"crop_pct": 0.0}, {"std": [1, 0, 1]}, {"interpolation": "x"}):
        told = content["imgembed"]
        damaged = {**told, "convention": {**told["convention"], **damage}}
        torch.save({**content, "imgembed": damaged}, path)
        with pytest.raises(CheckpointError, match="damaged way"):
            CNNEmbedder(TINY, weights=path).fit(images)


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_the_papers_optimizers_train(optimizer: str, images: list[Pixels]) -> None:
    method = MoCoEmbedder if optimizer == "sgd" else SimCLREmbedder
    embedder = tiny(method, optimizer=optimizer, batch_norm="frozen").fit(images)
    start = random_start()
    with pytest.warns(UserWarning, match="random weights"):
        before = start.fit_transform(images)
    assert 0 < np.abs(embedder.transform(images) - before).max() < np.inf


def test_other_parameters_after_fit_need_another_fit(images: list[Pixels]) -> None:
    embedder = tiny(SimCLREmbedder).fit(images)
    before = embedder.transform(images)
    np.testing.assert_array_equal(embedder.set_params(epochs=5).transform(images), before)
    embedder.set_params(normalisation="half")
    with pytest.raises(NotFittedError, match="call fit"):
        embedder.transform(images)
    embedder.fit(images)
    assert np.abs(embedder.transform(images) - before).max() > 0


def test_the_mirror_image_is_seen_where_the_backbone_sees_it(images: list[Pixels]) -> None:
    # At this size the crop is in the middle to the pixel.
    embedder = tiny(SimCLREmbedder, backbone=random_start(flip=True, image_size=40)).fit(images)
    vectors = embedder.transform(images)
    mirrored = embedder.transform([image[:, ::-1] for image in images])
    np.testing.assert_allclose(vectors, mirrored, atol=1e-5)


# Checkpoints of others.


def network_of(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return timm.create_model(name, num_classes=0).eval()


def save_moco(network: nn.Module, path: Path, arch: str | None) -> None:
    """As MoCo v2's main_moco.py does."""
    width = network.num_features
    tensors = dict(network.state_dict())
    tensors |= {"fc.0.weight": torch.zeros(width, width), "fc.0.bias": torch.zeros(width)}
    tensors |= {"fc.2.weight": torch.zeros(128, width), "fc.2.bias": torch.zeros(128)}
    state = {f"module.encoder_q.{name}": tensor for name, tensor in tensors.items()}
    state |= {f"module.encoder_k.{name}": 2 * tensor for name, tensor in tensors.items()}
    state |= {"module.queue": torch.zeros(128, 64), "module.queue_ptr": torch.zeros(1).long()}
    told = {} if arch is None else {"arch": arch}
    torch.save({"epoch": 800, **told, "state_dict": state, "optimizer": {}}, path)


@pytest.mark.parametrize(("name", "arch"), [("resnet18", "resnet18"), ("resnet50", None)])
def test_moco_embedder_takes_a_published_file_by_its_name_alone(
    name: str, arch: str | None, tmp_path: Path
) -> None:
    network, path = network_of(name), tmp_path / "moco_v2_800ep.pth.tar"
    save_moco(network, path, arch)
    image = rng().integers(0, 256, (300, 256, 3), dtype=np.uint8)
    embedder = MoCoEmbedder(path, engine="torch")
    # As main_lincls.py shows images: the shorter edge to 256, the centre, ImageNet's mean and std.
    pixels = torch.from_numpy(image[38:262, 16:240] / np.float32(255)).permute(2, 0, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        by_hand = network(((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1))[None])
    np.testing.assert_allclose(embedder.transform([image]), by_hand, rtol=1e-4, atol=1e-4)
    assert embedder.n_features_out_ == {"resnet18": 512, "resnet50": 2048}[name]
    report = embedder.checkpoint_report_
    assert report is not None
    assert (report.layout, report.architecture) == ("MoCo v2", arch)
    assert not get_tags(embedder).requires_fit
    assert get_tags(MoCoEmbedder()).requires_fit


def test_simclr_embedder_does_not_normalise_what_the_method_did_not(tmp_path: Path) -> None:
    network, path = network_of("resnet18"), tmp_path / "simclr.pth.tar"
    state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    state |= {"backbone.fc.0.weight": torch.zeros(4, 512), "backbone.fc.2.weight": torch.zeros(4)}
    torch.save({"arch": "resnet18", "state_dict": state}, path)
    image = rng().integers(0, 256, (256, 256, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image[16:240, 16:240] / np.float32(255)).permute(2, 0, 1)
    with torch.inference_mode():
        by_hand = network(pixels[None])
    embedder = SimCLREmbedder(path, engine="torch")
    np.testing.assert_allclose(embedder.transform([image]), by_hand, rtol=1e-4, atol=1e-4)
    embedder.set_params(normalisation="imagenet")
    assert np.abs(embedder.transform([image]) - by_hand.numpy()).max() > 0.01


def test_what_a_checkpoint_does_not_say_must_be_told(tmp_path: Path) -> None:
    path = tmp_path / "moco.pth"
    save_moco(network_of("resnet18"), path, None)
    with pytest.raises(CheckpointError, match="the network is a ResNet of 3, 4, 6, 3"):
        MoCoEmbedder(path).fit([GRADIENT])
    assert MoCoEmbedder(path, "resnet18", engine="torch").fit_transform([GRADIENT]).shape == (
        1,
        512,
    )
    save_moco(network_of("resnet18"), path, "net_of_ours")
    with pytest.raises(ValueError, match="'net_of_ours', and timm has none"):
        MoCoEmbedder(path).fit([GRADIENT])


def test_moco_v3_names_its_transformers_in_its_own_way(tmp_path: Path) -> None:
    path = tmp_path / "moco_v3.pth.tar"
    for name in ("vit_base", "vit_small"):
        torch.save({"arch": name, "state_dict": {"module.base_encoder.x": torch.ones(2)}}, path)
        resolved = resolve_backbone("auto", path)
        assert (resolved.model_name, resolved.pooling) == (f"{name}_patch16_224", "cls")
    # timm's has 6 heads, and would take the tensors.
    with pytest.raises(CheckpointError, match="12 attention heads"):
        MoCoEmbedder(path).fit([GRADIENT])


def test_a_name_is_built_as_what_it_is() -> None:
    assert isinstance(resolve_backbone("resnet18"), CNNEmbedder)
    assert isinstance(resolve_backbone("swin_tiny_patch4_window7_224"), ViTEmbedder)
    assert resolve_backbone("auto").model_name == "resnet50"
    assert resolve_backbone("vit_tiny_patch16_224").pooling == "mean"
    assert resolve_backbone("vit_tiny_patch16_224", "moco.pth").pooling == "cls"
    given = CNNEmbedder("resnet18", image_size=64)
    resolved = resolve_backbone(given, "moco.pth")
    assert (resolved.weights, resolved.image_size) == ("moco.pth", 64)
    assert given.weights == "pretrained"
