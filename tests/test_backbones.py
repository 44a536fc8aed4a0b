"""Any backbone of timm: equal to its own forward pass, pooled, resized, and at several scales."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from imgembed import VLAD, CNNEmbedder, ImageReadWarning, VisualVocabulary, ViTEmbedder
from imgembed.deep._pooling import pool_maps, rmac_regions

pytestmark = pytest.mark.filterwarnings("ignore:.*random weights:UserWarning")

IMAGE = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)

CNNS = """
    resnet18 resnet10t resnext50_32x4d seresnet50 skresnet18 resnest14d res2net50_14w_8s
    wide_resnet50_2 vgg11 vgg13_bn inception_v3 inception_v4 inception_resnet_v2 xception41
    mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small mobileone_s0 efficientnet_b0
    tf_efficientnetv2_b0 tf_efficientnet_lite0 mnasnet_050 fbnetc_100 densenet121 convnext_atto
    convnextv2_atto regnetx_002 regnety_002 nf_regnet_b0 eca_nfnet_l0 hrnet_w18_small dla34 dpn48b
    repvgg_a0 ghostnet_050 rexnet_100 lcnet_050 tinynet_e cspresnet50 selecsls42 edgenext_xx_small
    mobilevit_xxs poolformer_s12 fastvit_t8 resnet50_clip
""".split()
VITS = """
    vit_tiny_patch16_224 vit_base_patch32_clip_quickgelu_224 deit_tiny_patch16_224
    deit_tiny_distilled_patch16_224 deit3_small_patch16_224 beit_base_patch16_224
    eva02_tiny_patch14_224 vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2
    vit_small_patch16_dinov3 vit_base_patch16_siglip_224 swin_tiny_patch4_window7_224
    swinv2_tiny_window8_256 hiera_tiny_224 levit_128s pit_ti_224 cait_xxs24_224 crossvit_9_240
    xcit_nano_12_p16_224 mixer_s16_224 mvitv2_tiny
""".split()

# Of more than 40 million parameters, or of images of 518 x 518 pixels.
LARGE = """
    wide_resnet50_2 vgg11 vgg13_bn inception_v4 inception_resnet_v2
    vit_base_patch32_clip_quickgelu_224 beit_base_patch16_224 vit_base_patch16_siglip_224
    vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2
""".split()


def seeded(name: str, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return timm.create_model(name, num_classes=0, **options).eval()


def timm_input(network: Any, image: NDArray[np.uint8] = IMAGE, **changes: Any) -> torch.Tensor:
    """The image by timm's own transform."""
    config = timm.data.resolve_model_data_config(network) | changes
    transform = timm.data.create_transform(**config, is_training=False)
    return transform(Image.fromarray(image))[None]  # type: ignore[operator, no-any-return]


def assert_close(got: Any, wanted: torch.Tensor) -> None:
    scale = max(1.0, float(wanted.abs().max()))
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=2e-5 * scale)


def saved(network: Any, folder: Path) -> Path:
    path = folder / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in [*CNNS, *VITS]],
)
def test_vectors_are_those_of_timms_own_forward_pass_without_head(
    name: str, tmp_path: Path
) -> None:
    network = seeded(name)
    with torch.inference_mode():
        wanted = network(timm_input(network))
    kind, pooling = (CNNEmbedder, "avg") if name in CNNS else (ViTEmbedder, "own")
    embedder = kind(name, saved(network, tmp_path), pooling, engine="torch")
    got = embedder.transform([IMAGE])
    assert got.shape == (1, embedder.n_features_out_) == tuple(wanted.shape)
    assert np.isfinite(got).all()
    assert_close(got, wanted)


def test_at_least_forty_architectures_are_tried() -> None:
    assert len({*CNNS, *VITS}) == len(CNNS) + len(VITS)
    assert len({*CNNS, *VITS} - {*LARGE}) >= 40


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    network = seeded("resnet10t", zero_init_last=False)
    return network, saved(network, tmp_path_factory.mktemp("cnn"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    network = seeded("vit_tiny_patch16_224")
    torch.nn.init.normal_(network.norm.weight)
    torch.nn.init.normal_(network.pos_embed)
    return network, saved(network, tmp_path_factory.mktemp("vit"))


def rmac_by_hand(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of square maps: 1, 4 and 9 regions."""
    size, total = maps.shape[1], np.zeros(len(maps))
    for scale in (1, 2, 3):
        edge = 2 * size // (scale + 1)
        starts = [(size - edge) * i // max(scale - 1, 1) for i in range(scale)]
        for top in starts:
            for left in starts:
                region = maps[:, top : top + edge, left : left + edge].max((1, 2))
                total += region / np.linalg.norm(region)
    result: NDArray[np.float32] = total / np.linalg.norm(total)
    return result


def test_poolings_of_feature_maps_are_those_by_hand(cnn: tuple[Any, Path]) -> None:
    network, path = cnn
    with torch.inference_mode():
        maps = network.forward_features(timm_input(network))[0].numpy()
    by_hand = {
        "avg": maps.mean((1, 2)),
        "max": maps.max((1, 2)),
        "mac": maps.max((1, 2)),
        "gem": np.mean(np.maximum(maps, 1e-6) ** 3, axis=(1, 2)) ** (1 / 3),
        "rmac": rmac_by_hand(maps),
    }
    for pooling, wanted in by_hand.items():
        got = CNNEmbedder("resnet10t", path, pooling, engine="torch").transform([IMAGE])[0]
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (7, 10), (24, 18), (1, 1), (3, 40), (2, 3)])
def test_rmac_regions_lie_within_and_reach_the_borders(height: int, width: int) -> None:
    regions = rmac_regions(height, width)
    assert all(
        top >= 0 and top + edge <= height and left >= 0 and left + edge <= width
        for top, left, edge in regions
    )
    for edge in {edge for _, _, edge in regions if edge < min(height, width)}:
        some = [(top, left) for top, left, e in regions if e == edge]
        assert {(0, 0), (height - edge, width - edge)} <= set(some)
    if height != width and min(height, width) > 3:  # neighbours at the first scale overlap
        starts = sorted({max(t, x) for t, x, e in regions if e == min(height, width)})
        step = np.diff(starts).max()
        assert 0.2 <= 1 - step / min(height, width) <= 0.7


def test_mac_and_max_differ_where_a_layer_follows_the_pooling() -> None:
    vectors = {
        pooling: CNNEmbedder(
            "mobilenetv3_small_050", None, pooling, image_size=64, engine="torch", random_state=0
        ).transform([IMAGE])
        for pooling in ("max", "mac")
    }
    assert vectors["max"].shape != vectors["mac"].shape


def test_gem_of_tokens_is_that_by_hand(vit: tuple[Any, Path]) -> None:
    network, path = vit
    with torch.inference_mode():
        tokens = network.forward_features(timm_input(network))[0, 1:].numpy()
    wanted = np.mean(np.maximum(tokens, 1e-6) ** 3, axis=0) ** (1 / 3)
    got = ViTEmbedder("vit_tiny_patch16_224", path, "gem", engine="torch").transform([IMAGE])[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_an_earlier_stage_or_block_can_be_taken(
    cnn: tuple[Any, Path], vit: tuple[Any, Path]
) -> None:
    network, path = cnn
    x = timm_input(network)
    with torch.inference_mode():
        stem = network.maxpool(network.act1(network.bn1(network.conv1(x))))
        second = network.layer2(network.layer1(stem))
    # Stage 0 of a ResNet is its stem.
    for layer in (2, -3):
        got = CNNEmbedder("resnet10t", path, "avg", layer=layer, engine="torch").transform([IMAGE])
        assert_close(got, second.mean((2, 3)))
    network, path = vit
    with torch.inference_mode():
        x = network.norm_pre(network._pos_embed(network.patch_embed(timm_input(network))))
        for block in network.blocks[:4]:
            x = block(x)
    for pooling, wanted in {"mean": x[:, 1:].mean(1), "cls": x[:, 0]}.items():
        embedder = ViTEmbedder("vit_tiny_patch16_224", path, pooling, layer=3, engine="torch")
        assert_close(embedder.transform([IMAGE]), wanted)


@pytest.mark.parametrize(
    ("embedder", "told"),
    [
        (CNNEmbedder("resnet10t", None, layer=9), "layer=9"),
        (ViTEmbedder("vit_tiny_patch16_224", None, layer=-13), "layer=-13"),
        (ViTEmbedder("vit_tiny_patch16_224", None, "own", layer=1), "another pooling"),
        (ViTEmbedder("vit_tiny_patch16_224", None, image_size=100), "multiple of 16"),
        (ViTEmbedder("levit_128s", None, "own", image_size=256), "256 x 256"),
        (ViTEmbedder("vit_tiny_patch16_224", None, scales=()), "scales must"),
        (CNNEmbedder("resnet10t", None, scales=(1.0, 0.0)), "scales must"),
        (CNNEmbedder("resnet10t", None, normalisation="imagnet"), "normalisation must"),
        (CNNEmbedder("resnet10t", None, normalisation=((0, 0, 0), (1, 1, 0))), "positive"),
        (CNNEmbedder("resnet10t", None, dtype="float64"), "dtype must"),
        (CNNEmbedder("resnet10t", None, dtype="float16", device="cpu"), "gains nothing"),
        (CNNEmbedder("resnet10t", None, engine="tensorrt"), "engine must"),
        (CNNEmbedder("resnet10t", None, engine="onnxruntime", dtype="bfloat16"), "float32"),
        (CNNEmbedder("resnet10t", None, compile=1), "compile must"),
        (CNNEmbedder("resnet10t", None, "cls"), "pooling must"),
    ],
)
def test_wrong_parameters_are_explained(embedder: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        embedder.fit([IMAGE])


def test_a_wrong_kind_of_size_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="image_size"):
        CNNEmbedder("resnet10t", None, image_size=64.5).fit([IMAGE])  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [64, (96, 160)])
def test_cnns_take_images_of_other_sizes(size: Any, cnn: tuple[Any, Path]) -> None:
    network, path = cnn
    height, width = (size, size) if isinstance(size, int) else size
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    embedder = CNNEmbedder("resnet10t", path, image_size=size, engine="torch").fit([noise])
    own = embedder.preprocessing_
    assert (own.height, own.width) == (height, width)
    x = own.normalise(torch.from_numpy(own.crop(noise).copy())[None])
    with torch.inference_mode():
        assert_close(embedder.transform([noise]), network(x))
    if isinstance(size, int):
        assert_close(x, timm_input(network, noise, input_size=(3, size, size)))


def test_position_embeddings_are_resized_as_timm_resizes_them(vit: tuple[Any, Path]) -> None:
    network, path = vit
    resized = seeded("vit_tiny_patch16_224", img_size=128)
    pos_embed = timm.layers.resample_abs_pos_embed(network.pos_embed, (8, 8), num_prefix_tokens=1)
    resized.load_state_dict({**network.state_dict(), "pos_embed": pos_embed})
    with torch.inference_mode():
        wanted = resized.forward_features(timm_input(resized, input_size=(3, 128, 128)))
    embedder = ViTEmbedder("vit_tiny_patch16_224", path, image_size=128, engine="torch")
    assert_close(embedder.transform([IMAGE]), wanted[:, 1:].mean(1))


def test_several_scales_and_the_mirror_image_are_averaged(
    cnn: tuple[Any, Path], vit: tuple[Any, Path]
) -> None:
    heads: dict[Any, Any] = {
        CNNEmbedder: lambda network, x: network(x),
        ViTEmbedder: lambda network, x: network.forward_features(x)[:, 1:].mean(1),
    }
    for kind, name, path, scale in (
        (CNNEmbedder, "resnet10t", cnn[1], 1.5),
        (ViTEmbedder, "vit_tiny_patch16_224", vit[1], 2.0),
    ):
        views = []
        for size in (128, int(128 * scale)):
            alone = kind(name, path, image_size=size, engine="torch").fit([IMAGE])
            own = alone.preprocessing_
            pixels = torch.from_numpy(own.crop(IMAGE).copy())[None]
            x = own.normalise(pixels)
            with torch.inference_mode():
                views += [heads[kind](alone.backbone_, view) for view in (x, x.flip(3))]
        embedder = kind(name, path, image_size=128, engine="torch")
        plain = embedder.fingerprint()
        embedder.set_params(scales=(1.0, scale), flip=True)
        assert_close(
            embedder.transform([IMAGE]), functional.normalize(torch.stack(views), dim=2).mean(0)
        )
        assert embedder.fingerprint() != plain


def test_patch_tokens_are_those_of_the_network_and_make_vlad(vit: tuple[Any, Path]) -> None:
    network, path = vit
    embedder = ViTEmbedder("vit_tiny_patch16_224", path, engine="torch")
    tokens = embedder.patch_tokens([IMAGE, IMAGE[::-1].copy()])
    with torch.inference_mode():
        assert_close(tokens[:1], network.forward_features(timm_input(network))[:, 1:])
    assert tokens.shape == (2, 196, 192)
    vocabulary = VisualVocabulary(4, random_state=0)
    assert VLAD(vocabulary).fit_transform(tokens).shape == (2, 4 * 192)


def test_patch_tokens_of_maps_go_row_by_row(cnn: tuple[Any, Path]) -> None:
    network, path = cnn
    embedder = CNNEmbedder("resnet10t", path, on_error="nan", engine="torch")
    with pytest.warns(ImageReadWarning, match="row 1 "):
        tokens = embedder.patch_tokens([IMAGE, b"no image"])
    with torch.inference_mode():
        maps = network.forward_features(timm_input(network))[0]
    assert tokens.shape == (2, 36, 512)
    assert_close(tokens[0, 6 + 2], maps[:, 1, 2])
    assert np.isnan(tokens[1]).all()
    earlier = CNNEmbedder("resnet10t", path, layer=1, engine="torch").patch_tokens([IMAGE])
    assert earlier.shape == (1, 44 * 44, 64)
    assert CNNEmbedder("resnet10t", path, engine="torch").patch_tokens([]).shape == (0, 36, 512)


def test_gem_lies_between_average_and_maximum() -> None:
    maps = torch.rand((4, 8, 5, 6), generator=torch.Generator().manual_seed(0))
    assert (pool_maps(maps, "avg") <= pool_maps(maps, "gem")).all()
    assert (pool_maps(maps, "gem") <= pool_maps(maps, "mac")).all()


@pytest.mark.parametrize("normalisation", ["imagenet", "none", ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))])
def test_normalisation_can_be_overridden(normalisation: Any, cnn: tuple[Any, Path]) -> None:
    network, path = cnn
    mean, std = {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "none": ((0, 0, 0), (1, 1, 1)),
    }.get(normalisation if isinstance(normalisation, str) else "", normalisation)
    with torch.inference_mode():
        wanted = network(timm_input(network, mean=mean, std=std))
    got = CNNEmbedder("resnet10t", path, normalisation=normalisation, engine="torch")
    assert_close(got.transform([IMAGE]), wanted)
