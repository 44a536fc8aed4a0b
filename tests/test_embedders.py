"""Every embedder keeps the contract, and check_embedder notices one that does not."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray

from imgembed import (
    AKAZEEmbedder,
    BagOfVisualWords,
    CNNEmbedder,
    HOGEmbedder,
    ImageEmbedder,
    ORBEmbedder,
    SIFTEmbedder,
    SURFEmbedder,
    VisualVocabulary,
    ViTEmbedder,
    read_image,
)
from imgembed.classical import surf_available
from imgembed.testing import check_embedder

NETWORK = "test_resnet"  # timm's own, of 0.4 million parameters
EMBEDDERS = {
    # Small networks and images: what is checked does not depend on their size.
    "CNN, bundled weights": lambda _: CNNEmbedder(
        "tf_efficientnet_lite0", weights="bundled", image_size=64
    ),
    "CNN, a file": lambda path: CNNEmbedder(NETWORK, weights=path, pooling="max", image_size=64),
    "ViT, random weights": lambda _: ViTEmbedder("test_vit", weights=None, random_state=0),
    "SIFT": lambda _: SIFTEmbedder(n_words=50, random_state=0),
    "SIFT, VLAD": lambda _: SIFTEmbedder(8, "vlad", random_state=0),
    "SIFT, Fisher vectors": lambda _: SIFTEmbedder(4, "fisher", random_state=0),
    "SIFT, soft assignment": lambda _: SIFTEmbedder(
        aggregation=BagOfVisualWords(VisualVocabulary(50, random_state=0), n_nearest=3)
    ),
    "ORB": lambda _: ORBEmbedder(n_words=20, random_state=0),
    "AKAZE": lambda _: AKAZEEmbedder(n_words=20, random_state=0),
    "HOG": lambda _: HOGEmbedder(),
    "HOG, a pyramid": lambda _: HOGEmbedder(n_levels=3),
}
if surf_available():
    EMBEDDERS["SURF"] = lambda _: SURFEmbedder(n_words=20, random_state=0)


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "network.pth"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = timm.create_model(NETWORK, zero_init_last=False)
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.filterwarnings("ignore:.*random weights:UserWarning")
@pytest.mark.parametrize("name", EMBEDDERS)
def test_every_embedder_keeps_the_contract(name: str, weights_file: Path) -> None:
    check_embedder(EMBEDDERS[name](weights_file))


def test_the_contract_holds_on_real_photographs(photographs: list[Path]) -> None:
    images = [read_image(path)[::2, ::2] for path in photographs[:5]]
    check_embedder(SIFTEmbedder(n_words=200, random_state=0), images)


class MeanColour(ImageEmbedder):
    """As little as an embedder of a user may be."""

    def __init__(
        self,
        scale: float = 1.0,
        batch_size: int = 2,
        n_jobs: int | None = None,
        on_error: str = "raise",
        progress: bool | str = False,
        max_pixels: int = 10_000_000,
    ) -> None:
        self.scale = scale
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags

    def _load(self) -> None:
        pass

    def _prepare(self, image: NDArray[np.uint8]) -> Any:
        return self.scale * image.mean(axis=(0, 1))

    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        return np.stack(prepared).astype(np.float32)

    def _learned_digest(self) -> str:
        return ""

    @property
    def _n_features_out(self) -> int:
        return 3


class DependsOnBatch(MeanColour):
    """Like a network in training mode."""

    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        return super()._embed([one - np.mean(prepared) for one in prepared])


class ForgetsRows(MeanColour):
    """Leaves out what it cannot read, so that rows move."""

    def _embed_images(self, images: Any, on_error: str) -> Any:
        vectors, errors = super()._embed_images(images, "nan")
        return vectors[np.isfinite(vectors[:, 0])], errors


class WorksInDouble(MeanColour):
    def transform(self, X: Any) -> Any:
        return super().transform(X).astype(np.float64)


class Seeds(MeanColour):
    def _load(self) -> None:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002


class BuildsInInit(MeanColour):
    def __init__(self, scale: float = 1.0, batch_size: int = 2, n_jobs: int | None = None,
                 on_error: str = "raise", progress: bool | str = False,
                 max_pixels: int = 10_000_000) -> None:  # fmt: skip
        super().__init__(scale, batch_size, n_jobs, on_error, progress, max_pixels)
        self.network = object()


class PaintsOnImages(MeanColour):
    def transform(self, X: Any) -> Any:
        vectors = super().transform(X)
        for image in X:
            if isinstance(image, np.ndarray) and image.flags.writeable:
                image[0, 0] = 255 - image[0, 0]
        return vectors


class HoldsAllImages(MeanColour):
    def transform(self, X: Any) -> Any:
        return super().transform([X[i] for i in range(len(X))] if hasattr(X, "most_alive") else X)


class RandomFingerprint(MeanColour):
    def _learned_digest(self) -> str:
        return str(np.random.default_rng().random())


class CountsAfterUnpickling(MeanColour):
    def __setstate__(self, state: Any) -> None:
        super().__setstate__({**state, "scale": 2 * state["scale"]})


def test_a_small_embedder_of_a_user_passes() -> None:
    check_embedder(MeanColour())


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (DependsOnBatch, "check_alone_as_in_a_batch"),
        (ForgetsRows, "check_unreadable_images"),
        (WorksInDouble, "check_vectors"),
        (Seeds, "check_nothing_else_changes"),
        (BuildsInInit, "check_construction_does_nothing"),
        (PaintsOnImages, "check_"),
        (HoldsAllImages, "check_constant_memory"),
        (RandomFingerprint, "check_"),
        (CountsAfterUnpickling, "check_pickles"),
    ],
)
def test_a_broken_embedder_is_found(broken: type[ImageEmbedder], check: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_embedder(broken())
    assert check in caught.value.__notes__[-1]


def test_fewer_than_four_images_are_refused() -> None:
    with pytest.raises(ValueError, match="four"):
        check_embedder(MeanColour(), [np.zeros((9, 9, 3), np.uint8)])


def test_progress_bars_show_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    images = [np.zeros((9, 9, 3), np.uint8)] * 3
    MeanColour().transform(images)
    assert capsys.readouterr().err == ""
    MeanColour(progress=True).transform(images)
    assert "3/3" in capsys.readouterr().err
