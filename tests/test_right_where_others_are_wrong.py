"""Known faults of image search, end to end: from the file to the vector and the neighbours.

docs/peers.md names the tests of the faults that are not here.
"""

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from imgembed import (
    CNNEmbedder,
    HOGEmbedder,
    ImageEmbedder,
    ImageReadError,
    ImageReadWarning,
    ImageSearch,
    NearestNeighborIndex,
    SIFTEmbedder,
    ViTEmbedder,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*random weights:UserWarning")

Pixels = NDArray[np.uint8]
# Networks are shown small images and run in torch, for the sake of speed.
SMALL: dict[str, Any] = {"image_size": 64, "engine": "torch"}
EMBEDDERS: dict[str, Callable[[], ImageEmbedder]] = {
    "HOG": HOGEmbedder,
    "SIFT": lambda: SIFTEmbedder(n_words=20, random_state=0),
    "CNN": lambda: CNNEmbedder("tf_efficientnet_lite0", weights="bundled", **SMALL),
    "ViT": lambda: ViTEmbedder("vit_tiny_patch16_224", weights=None, random_state=0, **SMALL),
}


@pytest.fixture(scope="module", params=EMBEDDERS)
def embedder(request: pytest.FixtureRequest) -> ImageEmbedder:
    return EMBEDDERS[request.param]().fit([_picture(seed) for seed in range(3)])


def _picture(seed: int = 0) -> Pixels:
    """Blocks of colours, which have corners, and no symmetry."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 11, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((12, 12, 1), dtype=np.uint8))


def _encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _decode(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded))


def turned_by_a_camera() -> Iterator[bytes]:
    """A JPEG that is stored on its side, and the upright pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.rot90(_picture()).copy())
    turned = _encode(stored, "JPEG", exif=exif, quality=95)
    yield turned
    yield _encode(_decode(turned).transpose(Image.Transpose.ROTATE_270), exif=Image.Exif())


def colours_below_transparent_pixels() -> Iterator[bytes]:
    """Three files that look the same; the last has no transparency."""
    for seed in (1, 2):
        pixels = np.dstack([_picture(), np.full((96, 132), 255, np.uint8)])
        pixels[:, 66:, :3], pixels[:, 66:, 3] = _picture(seed)[:, 66:], 0
        yield _encode(Image.fromarray(pixels))
    seen = _picture()
    seen[:, 66:] = 255
    yield _encode(Image.fromarray(seen))


def sixteen_bits() -> Iterator[bytes]:
    """Grey of 16 bits, which Pillow makes white, and of 8 bits."""
    grey = np.asarray(Image.fromarray(_picture()).convert("L"))
    yield _encode(Image.fromarray(grey.astype(np.uint16) * 257))
    yield _encode(Image.fromarray(grey).convert("RGB"))


def grey() -> Iterator[bytes]:
    """One channel, one channel with alpha, and three."""
    one = Image.fromarray(_picture()).convert("L")
    yield _encode(one)
    yield _encode(one.convert("LA"))
    yield _encode(one.convert("RGB"))


def a_palette() -> Iterator[bytes]:
    """Numbers of colours, and the colours."""
    numbers = Image.fromarray(_picture()).quantize(16)
    yield _encode(numbers)
    yield _encode(numbers, "GIF")
    yield _encode(numbers.convert("RGB"))


def inks() -> Iterator[bytes]:
    """A JPEG for printing, which is stored inverted, and the colours of its inks."""
    printed = _encode(Image.fromarray(_picture()).convert("CMYK"), "JPEG", quality=95)
    yield printed
    yield _encode(_decode(printed).convert("RGB"))


@pytest.mark.parametrize(
    "looks",
    [turned_by_a_camera, colours_below_transparent_pixels, sixteen_bits, grey, a_palette, inks],
)
def test_files_that_look_the_same_have_the_same_vector(
    looks: Callable[[], Iterator[bytes]], embedder: ImageEmbedder
) -> None:
    *odd, plain = embedder.transform(list(looks()))
    other = embedder.transform([_picture(5)])[0]
    for vector in odd:
        np.testing.assert_allclose(vector, plain, atol=1e-5 * max(1, np.abs(plain).max()))
    assert np.linalg.norm(plain - other) > 0.01 * np.linalg.norm(plain)  # it could have failed


def test_half_a_photograph_is_named_and_moves_no_row(embedder: ImageEmbedder) -> None:
    whole = [_encode(Image.fromarray(_picture(seed)), "JPEG") for seed in range(3)]
    images = [whole[0], whole[1][: len(whole[1]) // 2], whole[2]]
    with pytest.raises(ImageReadError, match="row 1 ") as caught:
        embedder.transform(images)
    assert caught.value.row == 1
    vectors, errors = embedder.transform_with_errors(images)
    assert list(errors) == [1]
    assert np.isnan(vectors[1]).all()
    np.testing.assert_allclose(vectors[[0, 2]], embedder.transform([whole[0], whole[2]]), atol=1e-5)


@pytest.mark.parametrize("embedder", ["CNN", "ViT"], indirect=True)
def test_embedding_changes_no_tensor_of_a_network(embedder: ImageEmbedder) -> None:
    network: Any = embedder.backbone_  # type: ignore[attr-defined]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    embedder.transform([_picture(seed) for seed in range(4)])
    assert not any(module.training for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("embedder", ["ViT"], indirect=True)
def test_a_transformer_gives_its_width_and_sees_where_things_are(embedder: ImageEmbedder) -> None:
    picture = _picture()[:64, :64]
    vectors = embedder.transform([picture, np.roll(picture, 16, axis=1)])  # whole patches
    assert vectors.shape == (2, embedder.backbone_.num_features)  # type: ignore[attr-defined]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_a_file_that_is_left_out_moves_no_hit() -> None:
    gallery = [_encode(Image.fromarray(_picture(seed))) for seed in range(4)]
    gallery.insert(1, b"this is no image")
    records = [{"number": number} for number in range(5)]
    with pytest.warns(ImageReadWarning, match="row 1 "):
        search = ImageSearch(HOGEmbedder(on_error="nan")).fit(gallery, records=records)
    result = search.search([gallery[n] for n in (0, 2, 3, 4)], n_neighbors=1)
    assert [record["number"] for (record,) in result.records] == [0, 2, 3, 4]


@pytest.mark.parametrize("algorithm", ["exact", "hnsw"])
def test_one_vector_of_nan_does_not_spoil_an_index(algorithm: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 8))
    index = NearestNeighborIndex(algorithm=algorithm).fit(vectors)
    with pytest.raises(ValueError, match="NaN"):
        index.add(np.full((1, 8), np.nan))
    _, rows = index.kneighbors(vectors, 1)
    assert (rows[:, 0] == np.arange(500)).mean() > 0.99
    assert len(index) == 500
