"""Every embedder keeps the contract, and check_embedder notices one that does not."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mean_colour import (
    BuildsInInit,
    CountsAfterUnpickling,
    DependsOnBatch,
    ForgetsRows,
    HoldsAllImages,
    MeanColour,
    PaintsOnImages,
    RandomFingerprint,
    Seeds,
    WorksInDouble,
)

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
    images = [read_image(path)[::3, ::3] for path in photographs[:5]]
    check_embedder(SIFTEmbedder(n_words=100, random_state=0), images)


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
