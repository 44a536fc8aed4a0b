"""Tests of FineTunedEmbedder: what learns, what stays, what is refused, and what is kept."""

import json
import math
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor, nn
from torch.nn import functional

from imgembed import (
    CheckpointError,
    CNNEmbedder,
    FineTunedEmbedder,
    ImageReadError,
    ImageReadWarning,
    ImageSearch,
    SIFTEmbedder,
    ViTEmbedder,
)
from imgembed.evaluation import mean_average_precision
from imgembed.testing import check_embedder
from imgembed.training._feed import Feed
from imgembed.training._labels import order_epoch
from imgembed.training._losses import (
    ArcFace,
    BatchHardTriplet,
    CrossEntropy,
    SupervisedContrastive,
)

Pixels = NDArray[np.uint8]
BROKEN = b"this is no image"
SMALL = "test_resnet"  # timm's own, of 0.4 million parameters, which makes vectors of 96 numbers


def striped(seed: int, direction: str) -> Pixels:
    """Noise of random colours in stripes that run across or down: two classes."""
    rng = np.random.default_rng([seed, direction == "across"])
    stripes = rng.integers(0, 256, (8, 1, 3) if direction == "across" else (1, 8, 3))
    noise = rng.integers(-60, 61, (64, 64, 3))
    whole = np.repeat(np.repeat(stripes, 64 // stripes.shape[0], 0), 64 // stripes.shape[1], 1)
    return np.clip(whole + noise, 0, 255).astype(np.uint8)


def labelled(n_images: int, first: int = 0) -> tuple[list[Pixels], list[str]]:
    labels = ["across" if row % 2 else "down" for row in range(n_images)]
    return [striped(first + row, label) for row, label in enumerate(labels)], labels


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A maker of files of seeded weights, which training starts from."""
    folder = tmp_path_factory.mktemp("weights")

    def make(name: str) -> Path:
        path = folder / f"{name}.pth"
        if not path.exists():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                torch.save(timm.create_model(name, num_classes=0).state_dict(), path)
        return path

    return make


@pytest.fixture
def base(weights: Callable[[str], Path]) -> CNNEmbedder:
    return CNNEmbedder(SMALL, weights(SMALL), image_size=64, engine="torch")


def tuned(base: Any, loss: Any = "supcon", **parameters: Any) -> FineTunedEmbedder:
    """A quick training of all images on the CPU."""
    given: dict[str, Any] = {
        "epochs": 1, "train_batch_size": 8, "learning_rate": 1e-3, "validation_fraction": 0,
        "engine": "torch", "device": "cpu", "progress": False, "random_state": 0,
    } | parameters  # fmt: skip
    return FineTunedEmbedder(base, loss, **given)


def map_among(vectors: NDArray[np.float32], labels: Sequence[object]) -> float:
    """Each image searched among the others."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    others = ~np.eye(len(labels), dtype=bool)
    same = np.array([[a == b for b in labels] for a in labels])
    n_images = len(labels)
    return mean_average_precision(
        (unit @ unit.T)[others].reshape(n_images, -1), same[others].reshape(n_images, -1)
    )


def changed_names(before: nn.Module, after: nn.Module) -> set[str]:
    """The parameters and buffers of which not every bit is as it was."""
    new = after.state_dict()
    return {name for name, old in before.state_dict().items() if not torch.equal(old, new[name])}


# Of each network what must learn; told from what its authors call its last stage or block.
LAST_BLOCKS = [
    ("resnet10t", {}, ("layer4.",)),
    ("resnet10t", {"layer": 1}, ("layer1.",)),
    ("mobilenetv3_small_050", {}, ("blocks.5.", "conv_head.")),
    ("mobilenetv3_small_050", {"pooling": "gem"}, ("blocks.5.",)),
    ("tf_efficientnet_lite0", {}, ("blocks.6.", "conv_head.", "bn2.")),
    ("convnext_atto", {}, ("stages.3.", "head.norm.")),
    ("poolformer_s12", {}, ("stages.3.", "head.norm.")),
    ("vit_tiny_patch16_224", {}, ("blocks.11.", "norm.")),
    ("vit_tiny_patch16_224", {"layer": 3}, ("blocks.3.",)),
    pytest.param(
        "swin_tiny_patch4_window7_224",
        {"image_size": 224},
        ("layers.3.", "norm."),
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("name", "parameters", "trained"), LAST_BLOCKS)
def test_only_the_last_block_that_is_used_learns(
    weights: Callable[[str], Path], name: str, parameters: dict[str, Any], trained: tuple[str, ...]
) -> None:
    kind = ViTEmbedder if name.startswith(("vit", "swin")) else CNNEmbedder
    start = kind(name, weights(name), engine="torch", **{"image_size": 64, **parameters})
    images, labels = labelled(4)
    before = start.fit_transform(images)
    embedder = tuned(start, "cross_entropy", train_batch_size=4)
    assert np.abs(embedder.fit_transform(images, labels) - before).max() > 1e-4
    changed = changed_names(start.backbone_, embedder.backbone_)
    assert {one for one in changed if not one.startswith(trained)} == set()
    matrices = {n for n, p in start.backbone_.named_parameters() if p.ndim > 1 and p.any()}
    assert {one for one in matrices if one.startswith(trained)} <= changed
    assert all(any(one.startswith(prefix) for one in changed) for prefix in trained)


def test_batch_norms_learn_statistics_only_where_they_are_trained(base: CNNEmbedder) -> None:
    images, labels = labelled(8)
    embedder = tuned(base.fit(images)).fit(images, labels)
    changed = changed_names(base.backbone_, embedder.backbone_)
    statistics = {name for name in base.backbone_.state_dict() if name.endswith("running_mean")}
    assert {name for name in statistics if name.startswith("layer4.")} == statistics & changed


def test_everything_learns_when_all_is_trained(base: CNNEmbedder) -> None:
    images, labels = labelled(8)
    embedder = tuned(base.fit(images), trainable="all").fit(images, labels)
    matrices = {name for name, one in base.backbone_.named_parameters() if one.ndim > 1}
    assert matrices <= changed_names(base.backbone_, embedder.backbone_)


@pytest.mark.parametrize(("n_components", "width"), [(None, 96), (7, 7)])
def test_a_head_is_a_projection_that_stays_behind_a_network_that_stays_as_it_was(
    base: CNNEmbedder, n_components: int | None, width: int
) -> None:
    images, labels = labelled(8)
    before = base.fit_transform(images)
    embedder = tuned(base, trainable="head", n_components=n_components)
    vectors = embedder.fit_transform(images, labels)
    assert changed_names(base.backbone_, embedder.backbone_) == set()
    assert vectors.shape == (8, width)
    solved, *_ = np.linalg.lstsq(before, vectors, rcond=None)
    np.testing.assert_allclose(before @ solved, vectors, atol=1e-3)  # linear, and
    assert width != 96 or np.abs(vectors - before).max() > 1e-4  # not what it was


def test_a_projection_can_be_trained_with_the_last_block(base: CNNEmbedder) -> None:
    images, labels = labelled(8)
    embedder = tuned(base.fit(images), n_components=5)
    assert embedder.fit_transform(images, labels).shape == (8, 5)
    assert len(embedder.get_feature_names_out()) == 5
    assert any(
        name.startswith("layer4.") for name in changed_names(base.backbone_, embedder.backbone_)
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "arcface", "triplet", "supcon"])
def test_unseen_images_of_a_class_come_nearer_to_each_other(base: CNNEmbedder, loss: str) -> None:
    unseen, their_labels = labelled(24, first=100)
    before = map_among(base.transform(unseen), their_labels)
    embedder = tuned(base, loss, trainable="all", epochs=8, blend=1).fit(*labelled(32))
    assert map_among(embedder.transform(unseen), their_labels) > before + 0.15
    losses = [record["loss"] for record in embedder.history_[1:]]
    assert losses[-1] < losses[0]


def some_embeddings() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=(7, 5))), torch.tensor([0, 1, 0, 2, 1, 0, 1])


def test_cross_entropy_is_that_of_a_linear_classifier() -> None:
    embeddings, labels = some_embeddings()
    loss = CrossEntropy(5, 3).double()
    scores = embeddings @ loss.classifier.weight.T + loss.classifier.bias
    shares = scores.exp() / scores.exp().sum(1, keepdim=True)
    torch.testing.assert_close(loss(embeddings, labels), -shares[range(7), labels].log().mean())


def test_arcface_adds_its_margin_to_the_angle_of_the_right_class() -> None:
    embeddings, labels = some_embeddings()
    embeddings = embeddings.abs()  # no angle is near pi, where another formula is used
    loss = ArcFace(5, 3).double()
    with torch.no_grad():
        loss.centres.abs_()
    unit = functional.normalize(embeddings, dim=1)
    cosines = unit @ functional.normalize(loss.centres, dim=1).T
    angles = cosines.detach().arccos()
    angles[range(7), labels] += 0.5
    expected = functional.cross_entropy(30 * angles.cos(), labels)
    torch.testing.assert_close(loss(embeddings, labels), expected)


def test_arcface_falls_as_an_embedding_turns_to_its_centre_from_any_angle() -> None:
    loss = ArcFace(2, 2).double()
    with torch.no_grad():
        loss.centres.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    angles = torch.linspace(0, math.pi, 50, dtype=torch.float64)
    turned = torch.stack([angles.cos(), angles.sin()], dim=1)
    losses = [loss(one[None], torch.tensor([0])).item() for one in turned]
    assert (np.diff(losses) > 0).all()


def test_batch_hard_triplet_takes_the_farthest_companion_and_the_nearest_stranger() -> None:
    embeddings, labels = some_embeddings()
    unit = functional.normalize(embeddings, dim=1)
    terms = []
    for i in range(7):
        distances = [
            (float((unit[i] - unit[j]).norm()), labels[j] == labels[i], j) for j in range(7)
        ]
        companions = [d for d, same, j in distances if same and j != i]
        if companions:  # the only image of its class has none
            nearest = min(d for d, same, j in distances if not same)
            terms.append(math.log1p(math.exp(max(companions) - nearest)))
    assert len(terms) == 6
    assert BatchHardTriplet()(embeddings, labels).item() == pytest.approx(np.mean(terms))


def test_supervised_contrastive_is_that_of_pytorch_metric_learning() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    embeddings, labels = some_embeddings()
    keep = labels != 2  # which it counts, though it has no companion
    reference = losses.SupConLoss(temperature=0.1)(embeddings[keep], labels[keep])
    torch.testing.assert_close(SupervisedContrastive()(embeddings[keep], labels[keep]), reference)


@pytest.mark.parametrize("loss", [BatchHardTriplet(), SupervisedContrastive()])
def test_losses_of_batches_without_companions_have_a_gradient_of_zero(loss: nn.Module) -> None:
    embeddings = torch.ones((3, 2), requires_grad=True)
    loss(embeddings, torch.arange(3)).backward()
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


def test_losses_of_equal_embeddings_have_finite_gradients() -> None:
    for loss in (ArcFace(2, 2), BatchHardTriplet(), SupervisedContrastive()):
        embeddings = torch.ones((4, 2), requires_grad=True)
        loss(embeddings, torch.tensor([0, 0, 1, 1])).backward()
        assert embeddings.grad is not None
        assert embeddings.grad.isfinite().all()


def test_losses_of_pytorch_metric_learning_can_be_taken(base: CNNEmbedder) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    unseen, their_labels = labelled(24, first=100)
    before = map_among(base.transform(unseen), their_labels)
    embedder = tuned(base, losses.MultiSimilarityLoss(), trainable="all", epochs=8, blend=1)
    embedder.fit(*labelled(32))
    assert map_among(embedder.transform(unseen), their_labels) > before + 0.1


class Recording(nn.Module):
    """A loss that tells what it is called with; its copies tell the same list."""

    seen: list[tuple[float, list[int]]]

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Recording":
        new = Recording()
        new.seen = self.seen
        return new

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        self.seen.append((self.scale.item(), labels.tolist()))
        return (embeddings.mean() * self.scale).square()


def test_parameters_of_a_loss_are_trained_in_a_copy(base: CNNEmbedder) -> None:
    loss = Recording()
    tuned(base, loss, epochs=2).fit(*labelled(16))
    scales = [scale for scale, _ in loss.seen]
    assert len(scales) == 4
    assert scales[0] == 1.0
    assert len(set(scales)) == 4
    assert loss.scale.item() == 1.0


def test_batches_for_losses_that_compare_hold_several_images_of_several_classes(
    base: CNNEmbedder,
) -> None:
    loss = Recording()
    images, _ = labelled(26)
    labels = [0] * 4 + [1] * 5 + [2] * 7 + [3] * 10
    tuned(base, loss, epochs=2, train_batch_size=16).fit(images, labels)
    for _, batch in loss.seen:
        counts = np.bincount(batch, minlength=4)
        assert (counts % 4 == 0).all()
        assert np.count_nonzero(counts) > 1


@pytest.mark.parametrize("wrong", [lambda e, y: e.mean(dim=1), lambda e, y: 1.0])
def test_a_loss_that_is_not_one_number_is_refused(base: CNNEmbedder, wrong: Any) -> None:
    with pytest.raises(TypeError, match="must return a tensor that is one number"):
        tuned(base, wrong).fit(*labelled(8))


def test_a_loss_that_is_no_longer_finite_stops_the_training(base: CNNEmbedder) -> None:
    with pytest.raises(FloatingPointError, match="smaller learning_rate"):
        tuned(base, lambda e, y: e.sum() * math.inf).fit(*labelled(8))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "a label for each image"),
        (["a", "b"], "one label an image"),
        ([["a"], ["b"]] * 4, "one label an image"),
        ([0.0, 1.0, math.nan] + [0.0] * 5, r"missing in the rows \[2\]"),
        (np.array(["a", None] * 4, dtype=object), r"missing in the rows \[1, 3, 5, 7\]"),
        (pd.Series(["a", pd.NA] * 4), r"missing in the rows \[1, 3, 5, 7\]"),
        (["a"] * 8, r"two classes at least; they are of \['a'\]"),
        (["a"] * 7 + ["b"], r"the classes \['b'\] have one image"),
        (list("abcdefgh"), r"'g', 'h'\] have one image each.* take MoCoEmbedder"),
        (np.array(["a", 1] * 4, dtype=object), "all numbers or all strings"),
    ],
)
def test_labels_from_which_nothing_can_be_learned_are_refused(
    base: CNNEmbedder, labels: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tuned(base).fit(labelled(8)[0], labels)


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a"] * 4,
        (7, -2) * 4,
        np.array([True, False] * 4),
        pd.Series(["b", "a"] * 4, index=range(8, 0, -1)),
        pd.Series(["b", "a"] * 4, dtype="category"),
    ],
)
def test_labels_may_be_strings_numbers_or_columns(base: CNNEmbedder, labels: Any) -> None:
    embedder = tuned(base).fit(labelled(8)[0], labels)
    assert embedder.classes_.tolist() == sorted(set(labels))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "hinge"),
        ("trainable", "stem"),
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("train_batch_size", 1),
        ("blend", 0),
        ("blend", 1.5),
        ("validation_fraction", 1.0),
        ("patience", 0),
        ("n_components", 0),
    ],
)
def test_wrong_parameters_are_named(base: CNNEmbedder, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        tuned(base).set_params(**{name: value}).fit(*labelled(8))


@pytest.mark.parametrize("loss", ["supcon", "triplet"])
def test_a_batch_that_holds_one_class_only_is_refused_to_losses_that_compare(
    base: CNNEmbedder, loss: str
) -> None:
    message = 'train_batch_size=7 is too small.* take 8 at least.* or loss="cross_entropy"'
    with pytest.raises(ValueError, match=message):
        tuned(base, loss, train_batch_size=7).fit(*labelled(8))


def test_what_is_refused_to_losses_that_compare_is_taken_by_the_one_that_is_named(
    base: CNNEmbedder,
) -> None:
    history = tuned(base, "cross_entropy", train_batch_size=7).fit(*labelled(8)).history_
    assert history[1]["loss"] > 0


def test_by_default_companions_are_compared_with_all_others(base: CNNEmbedder) -> None:
    images, labels = labelled(8)
    default = tuned(base, FineTunedEmbedder(base).loss).fit_transform(images, labels)
    same = tuned(base, SupervisedContrastive()).fit_transform(images, labels)
    np.testing.assert_allclose(default, same, atol=1e-5)
    assert np.abs(tuned(base, "triplet").fit_transform(images, labels) - same).max() > 1e-4


@given(
    counts=st.lists(st.integers(2, 9), min_size=20, max_size=50),
    batch_size=st.integers(8, 33),
    seed=st.integers(0, 9),
)
def test_each_batch_for_losses_that_compare_holds_different_images_of_a_class(
    counts: list[int], batch_size: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    ordered = order_epoch(np.arange(len(labels)), labels, batch_size, seed, True, 0)
    for rows in ordered.reshape(-1, batch_size):
        different = np.unique(rows)
        assert np.bincount(labels[different]).max() > 1


def test_only_networks_of_timm_can_be_tuned() -> None:
    with pytest.raises(TypeError, match="CNNEmbedder or a ViTEmbedder, got SIFT"):
        tuned(SIFTEmbedder()).fit(*labelled(8))


def test_the_same_random_state_gives_the_same_vectors_in_any_number_of_threads(
    base: CNNEmbedder,
) -> None:
    images, labels = labelled(16)
    one, same, other = (
        tuned(base, epochs=2, validation_fraction=0.2, random_state=seed, n_jobs=n_jobs)
        .fit_transform(images, labels)
        for seed, n_jobs in ((3, 1), (3, 2), (4, 1))
    )  # fmt: skip
    np.testing.assert_allclose(same, one, atol=1e-5)
    assert np.abs(other - one).max() > 1e-3


def test_what_is_held_out_is_not_trained_on(base: CNNEmbedder) -> None:
    loss = Recording()
    parameters = {"trainable": "head", "learning_rate": 1e-9, "validation_fraction": 0.25}
    tuned(base, loss, **parameters).fit(*labelled(22))  # of each 11 three are held out
    assert sum(len(batch) for _, batch in loss.seen) == 16


def test_a_training_that_ruins_the_network_is_stopped_and_undone(base: CNNEmbedder) -> None:
    labels = ["dark", "light"] * 12
    images = [striped(i, "down") // 3 + 150 * (i % 2) for i in range(24)]
    images = [image.astype(np.uint8) for image in images]
    worse = tuned(
        base, lambda e, y: -BatchHardTriplet()(e, y), trainable="all",
        epochs=9, patience=2, learning_rate=1.0, validation_fraction=0.4,
    )  # fmt: skip
    before = base.transform(images)
    with pytest.warns(UserWarning, match="no epoch was better than the start"):
        after = worse.fit(images, labels).transform(images)
    scores = [record["validation_map"] for record in worse.history_]
    assert max(scores[1:]) < scores[0]
    assert len(scores) == 3  # the start, and two without progress
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_weights_are_blended_from_the_start_and_what_was_trained(base: CNNEmbedder) -> None:
    images, labels = labelled(16)
    start = base.fit(images).backbone_.state_dict()
    end, half, fifth = (
        tuned(base, epochs=2, blend=blend).fit(images, labels).backbone_.state_dict()
        for blend in (1, 0.5, 0.2)
    )
    for name, tensor in start.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(half[name], (tensor + end[name]) / 2, atol=1e-5, rtol=1e-4)
            expected = 0.8 * tensor + 0.2 * end[name]
            torch.testing.assert_close(fifth[name], expected, atol=1e-5, rtol=1e-4)


def test_without_validation_all_epochs_are_trained(base: CNNEmbedder) -> None:
    history = tuned(base, epochs=3, patience=1).fit(*labelled(8)).history_
    assert [record["epoch"] for record in history] == [0, 1, 2, 3]
    assert all(math.isnan(record["validation_map"]) for record in history)


def test_an_unreadable_image_is_named_by_its_row(base: CNNEmbedder) -> None:
    images, labels = labelled(8)
    with pytest.raises(ImageReadError, match="row 5"):
        tuned(base).fit([*images[:5], BROKEN, *images[6:]], labels)


def test_unreadable_images_that_are_left_out_change_nothing(base: CNNEmbedder) -> None:
    images, labels = labelled(16)
    expected = tuned(base, validation_fraction=0.2).fit(images, labels)
    embedder = tuned(base, validation_fraction=0.2, on_error="nan")
    with pytest.warns(ImageReadWarning, match="2 images cannot be read.*row 3 .*row 17 ") as told:
        embedder.fit(
            [*images[:3], BROKEN, *images[3:], "no/such.jpg"], [*labels[:3], "x", *labels[3:], "x"]
        )
    assert len(told) == 1
    assert embedder.classes_.tolist() == ["across", "down"]
    np.testing.assert_allclose(embedder.transform(images), expected.transform(images), atol=1e-5)


def test_images_of_which_none_can_be_read_are_refused(base: CNNEmbedder) -> None:
    with pytest.raises(ValueError, match="the 0 images that can be read"):
        tuned(base, on_error="nan").fit([BROKEN] * 8, ["a", "b"] * 4)


def test_a_class_that_is_too_small_to_validate_is_told_what_to_do(base: CNNEmbedder) -> None:
    with pytest.raises(ValueError, match="validation_fraction=0"):
        tuned(base, validation_fraction=0.1).fit(labelled(7)[0], ["a"] * 4 + ["b"] * 3)


def test_before_fit_there_is_nothing_to_use_or_save(base: CNNEmbedder, tmp_path: Path) -> None:
    for use in (lambda e: e.transform(labelled(1)[0]), lambda e: e.save(tmp_path)):
        with pytest.raises(NotFittedError, match="call fit"):
            use(tuned(base))


def test_parameters_of_the_base_can_be_set_and_ask_for_a_new_fit(base: CNNEmbedder) -> None:
    images, labels = labelled(8)
    embedder = tuned(base).fit(images, labels)
    assert embedder.get_params()["base__model_name"] == SMALL
    embedder.set_params(base__pooling="gem")
    with pytest.raises(NotFittedError, match="not with these parameters"):
        embedder.transform(images)
    assert np.isfinite(embedder.fit_transform(images, labels)).all()


def test_the_base_stays_as_it_is(base: CNNEmbedder) -> None:
    images, labels = labelled(8)
    before, state = base.fit_transform(images), set(vars(base))
    embedder = tuned(base).fit(images, labels)
    np.testing.assert_array_equal(base.transform(images), before)
    assert set(vars(base)) == state
    assert embedder.base is base
    assert not hasattr(clone(embedder), "classes_")


def test_a_training_may_start_from_a_network_whose_norm_follows_the_pooling(
    tmp_path: Path,
) -> None:
    """As in networks that MAE has fine-tuned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mae = timm.create_model("test_vit", num_classes=3, global_pool="avg")
    torch.save({"model": mae.state_dict()}, tmp_path / "mae.pth")
    start = ViTEmbedder("test_vit", tmp_path / "mae.pth", image_size=64, engine="torch")
    images, labels = labelled(8)
    embedder = tuned(start, trainable="head", learning_rate=1e-9).fit(images, labels)
    np.testing.assert_allclose(embedder.transform(images), start.transform(images), atol=1e-5)


def test_scales_and_flip_of_the_base_are_kept(base: CNNEmbedder) -> None:
    images, labels = labelled(8)
    images = [np.tile(image, (2, 2, 1))[:80, :80] for image in images]
    base.set_params(flip=True, image_size=76)  # cut out of 80 pixels, without a remainder
    embedder = tuned(base).fit(images, labels)
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
    np.testing.assert_allclose(embedder.transform(images), embedder.transform(mirrored), atol=1e-5)


def test_a_saved_embedder_needs_nothing_else(
    base: CNNEmbedder, weights: Callable[[str], Path], tmp_path: Path
) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(weights(SMALL).read_bytes())
    images, labels = labelled(16)
    normalisation = ((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    base.set_params(
        weights=own, normalisation=normalisation, image_size=(64, 96), scales=(1.0, 0.7)
    )
    embedder = tuned(base, "arcface", n_components=6, validation_fraction=0.2)
    vectors = embedder.fit_transform(images, np.array([np.int64(len(y)) for y in labels], object))
    embedder.save(tmp_path / "saved")
    own.unlink()
    loaded = FineTunedEmbedder.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.transform(images), vectors, atol=1e-6)
    assert loaded.fingerprint() == embedder.fingerprint()
    assert loaded.classes_.tolist() == [4, 6]
    assert loaded.history_[1] == embedder.history_[1]
    assert loaded.loss == "arcface"
    assert loaded.base.normalisation == normalisation
    again = pickle.loads(pickle.dumps(loaded))
    np.testing.assert_allclose(again.transform(images), vectors, atol=1e-6)


def test_an_embedder_can_be_loaded_where_its_device_is_not(
    base: CNNEmbedder, tmp_path: Path
) -> None:
    embedder = tuned(base).fit(*labelled(8))
    embedder.save(tmp_path)
    told = json.loads((tmp_path / "embedder.json").read_text())
    assert "device" not in told["parameters"]
    assert FineTunedEmbedder.load(tmp_path).device == "auto"


def test_a_loss_that_is_no_name_is_not_saved(base: CNNEmbedder, tmp_path: Path) -> None:
    tuned(base, lambda e, y: e.square().mean()).fit(*labelled(8)).save(tmp_path)
    assert FineTunedEmbedder.load(tmp_path).loss == "supcon"


def test_what_cannot_be_saved_leaves_what_was_saved_as_it_was(
    base: CNNEmbedder, tmp_path: Path
) -> None:
    images, labels = labelled(8)
    first = tuned(base).fit(images, labels)
    first.save(tmp_path)
    second = tuned(base, random_state=1).fit(images, labels)
    second.history_ = [object()]  # type: ignore[list-item]
    with pytest.raises(TypeError, match="cannot be saved"):
        second.save(tmp_path)
    assert FineTunedEmbedder.load(tmp_path).fingerprint() == first.fingerprint()


@pytest.fixture(scope="module")
def saved(weights: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained embedder, for tests that damage a copy of it."""
    folder = tmp_path_factory.mktemp("saved")
    base = CNNEmbedder(SMALL, weights(SMALL), image_size=64, engine="torch")
    tuned(base).fit(*labelled(8)).save(folder)
    return folder


def _flip_a_bit(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "embedder.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        _flip_a_bit,
        lambda folder: os.truncate(folder / "weights.safetensors", 1000),
        lambda folder: (folder / "weights.safetensors").unlink(),
        lambda folder: (folder / "embedder.json").unlink(),
        lambda folder: (folder / "embedder.json").write_text("[1, 2]"),
        lambda folder: (folder / "embedder.json").write_text("{"),
        lambda folder: (folder / "embedder.json").write_bytes(b"\xff\xfe\x00"),
        _edit(format=99),
        _edit(base=["Popen", {"args": "true"}]),
        _edit(base=["CNNEmbedder", {"model_name": "no_such_network", "weights": None}]),
        _edit(base=["CNNEmbedder", {"model_name": "resnet18", "weights": None}]),
        _edit(parameters={"no_such_parameter": 1}),
        _edit(parameters={"epochs": "many"}),
        _edit(parameters={"n_components": 3}),
        _edit(preprocessing={"height": "x"}),
        _edit(preprocessing=None),
    ],
)
def test_a_damaged_folder_is_refused_and_named(
    saved: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=tmp_path.name):
        FineTunedEmbedder.load(tmp_path)


def test_the_fingerprint_tells_trainings_apart(base: CNNEmbedder) -> None:
    images, labels = labelled(8)
    one, other = (tuned(base, random_state=seed).fit(images, labels) for seed in (0, 1))
    assert one.fingerprint() != other.fingerprint()
    assert one.fingerprint_parts()["learned"] != other.fingerprint_parts()["learned"]


def test_onnxruntime_runs_the_network_that_was_trained(base: CNNEmbedder) -> None:
    pytest.importorskip("onnxruntime")
    images, labels = labelled(8)
    expected = tuned(base, n_components=9).fit_transform(images, labels)
    vectors = tuned(base, n_components=9, engine="onnxruntime").fit_transform(images, labels)
    np.testing.assert_allclose(vectors, expected, atol=1e-4 * np.abs(expected).max())


def test_labels_of_a_pipeline_reach_the_training(base: CNNEmbedder) -> None:
    images, labels = labelled(24)
    embedder = tuned(base, trainable="all", epochs=8, blend=1)
    untrained, trained = (
        make_pipeline(one, LogisticRegression()).fit(images, labels) for one in (base, embedder)
    )
    unseen = labelled(60, first=50)
    assert trained.score(*unseen) > untrained.score(*unseen) + 0.1


def test_a_trained_embedder_is_searched_with_as_it_is(base: CNNEmbedder) -> None:
    images, labels = labelled(8)
    embedder = tuned(base).fit(images, labels)
    search = ImageSearch(embedder).fit(images)
    assert search.embedder_ is embedder
    assert search.search(images, n_neighbors=1).ids.ravel().tolist() == list(range(8))


def test_a_progress_bar_is_shown_when_asked_for(
    base: CNNEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned(base, progress=True).fit(*labelled(8))
    assert "8/8" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["last_block", "head"])
def test_it_keeps_the_contract_of_embedders(base: CNNEmbedder, trainable: str) -> None:
    base.set_params(image_size=32)
    check_embedder(tuned(base, trainable=trainable), [*labelled(7)[0], striped(9, "down")[:40]])


def fed(n_jobs: int, number: int, **options: Any) -> list[tuple[int, float]]:
    """Of a feed of nine images the rows in order, and what random number each was given."""
    reader = SIFTEmbedder(n_jobs=n_jobs)
    feed = Feed(reader, labelled(9)[0], lambda pixels, rng: rng.random(), 4, 0, **options)
    return [
        (int(row), one)
        for rows, augmented in feed.epoch(number)
        for row, one in zip(rows, augmented, strict=True)
    ]


def test_a_feed_depends_on_seed_epoch_and_row_alone() -> None:
    first = fed(1, 0, drop_last=False)
    assert fed(4, 0, drop_last=False) == first
    assert sorted(row for row, _ in first) == list(range(9))
    assert fed(1, 0) == first[:8]  # the last batch is not full
    second = fed(1, 1, drop_last=False)
    assert [row for row, _ in second] != [row for row, _ in first]
    assert not {one for _, one in first} & {one for _, one in second}


def test_a_feed_takes_the_rows_it_is_given_and_remembers_those_it_cannot_read() -> None:
    images = [*labelled(4)[0], BROKEN]
    feed = Feed(SIFTEmbedder(), images, lambda pixels, rng: 0, 1, 0, on_error="nan")
    batches = list(feed.epoch(0, np.array([1, 3, 4])))
    assert sorted(int(rows[0]) for rows, _ in batches) == [1, 3]
    assert list(feed.errors) == [4]
    with pytest.raises(ImageReadError, match="row 4"):
        list(Feed(SIFTEmbedder(), images, lambda pixels, rng: 0, 1, 0).epoch(0))
