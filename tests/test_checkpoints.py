"""Checkpoints of every known layout fill a network whole, or say why not."""

import argparse
import collections
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from timm.layers import resample_abs_pos_embed
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from imgembed.deep._checkpoints import CheckpointError, load_checkpoint, read_checkpoint

State = dict[str, torch.Tensor]

HEAD = ("fc.", "head.")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BILINEAR = (*IMAGENET, 0.875, "bilinear")
BICUBIC = (*IMAGENET, 0.875, "bicubic")
DINOV2 = (*IMAGENET, None, None)
UNIT = ((0, 0, 0), (1, 1, 1), 0.875, "bicubic")
CLIP = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
    1.0,
    "bicubic",
)
OWN = (None, None, None, None)

RESNET = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def seeded(make: Callable[..., torch.nn.Module], seed: int, **options: Any) -> torch.nn.Module:
    """A network of which every tensor is random, also the statistics of batch norms."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = make(**options).eval()
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.2 + 0.05)
            else:
                tensor.fill_(seed)
    return network


def resnet(seed: int, **options: Any) -> torch.nn.Module:
    return seeded(ResNet, seed, **{**RESNET, "num_classes": 0, **options})


def bottleneck_resnet(seed: int) -> torch.nn.Module:
    return resnet(seed, block=Bottleneck)


def vit(seed: int, **options: Any) -> torch.nn.Module:
    return seeded(VisionTransformer, seed, **{**VIT, "num_classes": 0, **options})


def scaled_vit(seed: int) -> torch.nn.Module:
    return vit(seed, init_values=0.1)


def register_vit(seed: int) -> torch.nn.Module:
    return vit(seed, init_values=0.1, reg_tokens=2, no_embed_class=True)


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def heads(*names: str) -> State:
    return {name: torch.full((3, 3), 9.0) for name in names}


def lightning(state: State) -> dict[str, Any]:
    """As PyTorch Lightning saves: with a defaultdict, which torch's own safe reader refuses."""
    return {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state,
        "callbacks": collections.defaultdict(list, {"best": [Path("a.ckpt")]}),
        "hyper_parameters": argparse.Namespace(lr=0.1),
    }


def projection(prefix: str) -> State:
    return heads(f"{prefix}fc.0.weight", f"{prefix}fc.2.bias")


def simclr_v2_names(state: State) -> State:
    named = {}
    for name, tensor in state.items():
        stage, _, rest = name.partition(".")
        if stage == "conv1":
            name = f"net.0.0.{rest}"
        elif stage == "bn1":
            name = f"net.0.1.0.{rest}"
        else:
            block, layer, tensor_name = rest.split(".", 2)
            place = {
                "conv1": "net.0",
                "bn1": "net.1.0",
                "conv2": "net.2",
                "bn2": "net.3.0",
                "conv3": "net.4",
                "bn3": "net.5.0",
            }.get(layer)
            if layer == "downsample":
                place = "projection.shortcut" if tensor_name[0] == "0" else "projection.bn.0"
                tensor_name = tensor_name[2:]
            name = f"net.{stage[-1]}.blocks.{block}.{place}.{tensor_name}"
        named[name] = tensor
    return named


def hugging_face_names(state: State) -> State:
    named = {"embeddings.mask_token": torch.ones(1, 24)}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                new = name.replace("blocks.", "encoder.layer.")
                named[new.replace("attn.qkv", f"attention.attention.{part}")] = third
            continue
        for old, new in (
            ("blocks.", "encoder.layer."),
            (".attn.proj.", ".attention.output.dense."),
            (".ls1.gamma", ".layer_scale1.lambda1"),
            (".ls2.gamma", ".layer_scale2.lambda1"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("cls_token", "embeddings.cls_token"),
            ("pos_embed", "embeddings.position_embeddings"),
        ):
            name = name.replace(old, new)
        named["layernorm." + name.removeprefix("norm.") if name.startswith("norm.") else name] = (
            tensor
        )
    return named


def dinov2_names(state: State) -> State:
    return {**state, "mask_token": torch.ones(1, 24)}


def in_chunks(state: State) -> State:
    return {name.replace("blocks.", "blocks.0."): tensor for name, tensor in state.items()}


def numbered(state: State) -> State:
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    parts = ((name.partition("."), tensor) for name, tensor in state.items())
    return {f"{numbers[part[0]]}.{part[2]}": tensor for part, tensor in parts}


# Of each layout: the backbone, what its training code saves of it (own) and of another network
# beside it (other), and what is to be recognised: layout, prefix, how images are shown.
LAYOUTS: dict[str, tuple[Any, Callable[[State, State], Any], str, str, tuple[Any, ...]]] = {
    "plain": (resnet, lambda own, other: own, "plain", "", OWN),
    "plain with its head": (
        resnet,
        lambda own, other: {**own, **heads("fc.weight")},
        "plain",
        "",
        OWN,
    ),
    "DataParallel": (resnet, lambda own, other: under("module.", own), "plain", "module.", OWN),
    "compiled and distributed": (
        resnet,
        lambda own, other: {"model": under("_orig_mod.module.", own)},
        "plain",
        "_orig_mod.module.",
        OWN,
    ),
    "timm's EMA": (
        resnet,
        lambda own, other: {"arch": "resnet10", "state_dict": other, "state_dict_ema": own},
        "plain",
        "",
        OWN,
    ),
    "DeiT's EMA": (resnet, lambda own, other: {"model": other, "model_ema": own}, "plain", "", OWN),
    "a prefix of someone's own": (
        resnet,
        lambda own, other: {**under("network.", own), **heads("loss.weight")},
        "plain",
        "network.",
        OWN,
    ),
    "MoCo v1": (
        resnet,
        lambda own, other: {
            "epoch": 200,
            "arch": "resnet10",
            "state_dict": {
                **under("module.encoder_q.", {**own, **heads("fc.weight")}),
                **under("module.encoder_k.", {**other, **heads("fc.weight")}),
                **heads("module.queue", "module.queue_ptr"),
            },
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []},
        },
        "MoCo v1",
        "module.encoder_q.",
        BILINEAR,
    ),
    "MoCo v2": (
        resnet,
        lambda own, other: {
            "arch": "resnet10",
            "state_dict": {
                **under("module.encoder_k.", {**other, **projection("")}),
                **under("module.encoder_q.", {**own, **projection("")}),
                **heads("module.queue", "module.queue_ptr"),
            },
        },
        "MoCo v2",
        "module.encoder_q.",
        BILINEAR,
    ),
    "MoCo v2 of a transformer": (
        vit,
        lambda own, other: {
            "state_dict": {
                **under("module.encoder_q.", {**own, **projection("")}),
                **under("module.encoder_k.", {**other, **projection("")}),
            },
        },
        "MoCo v2",
        "module.encoder_q.",
        BILINEAR,
    ),
    "MoCo linear probe": (
        resnet,
        lambda own, other: {
            "arch": "resnet10",
            "best_acc1": torch.tensor(60.0),
            "state_dict": under("module.", {**own, **heads("fc.weight")}),
        },
        "MoCo linear probe",
        "module.",
        BILINEAR,
    ),
    "MoCo v3": (
        resnet,
        lambda own, other: {
            "arch": "resnet10",
            "scaler": {"scale": 65536.0},
            "state_dict": {
                **under("module.base_encoder.", {**own, **projection("")}),
                **under("module.momentum_encoder.", {**other, **projection("")}),
                **heads("module.predictor.0.weight"),
            },
        },
        "MoCo v3",
        "module.base_encoder.",
        BICUBIC,
    ),
    "MoCo v3 of a transformer": (
        vit,
        lambda own, other: {
            "state_dict": {
                **under("module.base_encoder.", {**own, **heads("head.0.weight")}),
                **under("module.momentum_encoder.", {**other, **heads("head.0.weight")}),
            },
        },
        "MoCo v3",
        "module.base_encoder.",
        BICUBIC,
    ),
    "MoCo v3, convert_to_deit": (
        vit,
        lambda own, other: {"model": own},
        "MAE or DeiT",
        "",
        BICUBIC,
    ),
    "SimSiam": (
        resnet,
        lambda own, other: {
            "arch": "resnet10",
            "state_dict": {
                **under("module.encoder.", {**own, **heads("fc.0.weight", "fc.7.bias")}),
                **heads("module.predictor.0.weight"),
            },
        },
        "SimSiam",
        "module.encoder.",
        BILINEAR,
    ),
    "SwAV, published": (
        resnet,
        lambda own, other: under(
            "module.", {**own, **heads("projection_head.0.weight", "prototypes.weight")}
        ),
        "SwAV",
        "module.",
        BILINEAR,
    ),
    "SwAV, training": (
        resnet,
        lambda own, other: {
            "epoch": 1,
            "amp": {"loss_scaler0": {"loss_scale": 1.0}},
            "state_dict": under(
                "module.",
                {**own, **heads("projection_head.0.weight", "prototypes.prototypes0.weight")},
            ),
        },
        "SwAV",
        "module.",
        BILINEAR,
    ),
    "DINO, training": (
        vit,
        lambda own, other: {
            "student": under("module.backbone.", other),
            "teacher": {
                **under("backbone.", own),
                **heads("head.mlp.0.weight", "head.last_layer.weight_g"),
            },
            "args": argparse.Namespace(arch="vit_small", output_dir=Path("out")),
        },
        "DINO",
        "backbone.",
        BICUBIC,
    ),
    "DINO, published": (vit, lambda own, other: own, "plain", "", OWN),
    "DINOv2": (scaled_vit, lambda own, other: dinov2_names(own), "DINOv2", "", DINOV2),
    "DINOv2, in chunks": (
        scaled_vit,
        lambda own, other: in_chunks(dinov2_names(own)),
        "DINOv2",
        "",
        DINOV2,
    ),
    "DINOv2, teacher": (
        scaled_vit,
        lambda own, other: {
            "teacher": {
                **under("module.backbone.", dinov2_names(own)),
                **heads("module.dino_head.mlp.0.weight", "module.ibot_head.mlp.0.weight"),
            },
            "student": under("module.backbone.", dinov2_names(other)),
        },
        "DINOv2",
        "module.backbone.",
        DINOV2,
    ),
    "DINOv2 of Hugging Face": (
        scaled_vit,
        lambda own, other: hugging_face_names(own),
        "DINOv2 of Hugging Face",
        "",
        DINOV2,
    ),
    "DINOv2 of Hugging Face in a model": (
        scaled_vit,
        lambda own, other: {
            **under("dinov2.", hugging_face_names(own)),
            **heads("classifier.weight"),
        },
        "DINOv2 of Hugging Face",
        "dinov2.",
        DINOV2,
    ),
    "MAE, published": (vit, lambda own, other: {"model": own}, "MAE or DeiT", "", BICUBIC),
    "MAE, training": (
        vit,
        lambda own, other: {
            "model": {
                **own,
                **heads("mask_token", "decoder_pos_embed", "decoder_embed.weight"),
                **under("decoder_blocks.", {k[7:]: v for k, v in other.items() if "blocks." in k}),
            },
            "args": argparse.Namespace(model="mae_vit_base_patch16"),
        },
        "MAE",
        "",
        BICUBIC,
    ),
    "Barlow Twins": (
        resnet,
        lambda own, other: {
            "epoch": 3,
            "model": {
                **under("module.backbone.", own),
                **heads("module.projector.0.weight", "module.bn.running_mean"),
            },
        },
        "Barlow Twins",
        "module.backbone.",
        BILINEAR,
    ),
    "VICReg": (
        resnet,
        lambda own, other: {
            "model": {**under("module.backbone.", own), **heads("module.projector.0.weight")}
        },
        "VICReg",
        "module.backbone.",
        BILINEAR,
    ),
    "VISSL": (
        resnet,
        lambda own, other: {
            "classy_state_dict": {
                "base_model": {
                    "model": {
                        "trunk": under("_feature_blocks.", own),
                        "heads": heads("0.clf.0.weight"),
                    }
                },
                "train": True,
            }
        },
        "VISSL",
        "_feature_blocks.",
        BILINEAR,
    ),
    "VISSL, extracted": (
        resnet,
        lambda own, other: {"model_state_dict": under("trunk.base_model._feature_blocks.", own)},
        "VISSL",
        "trunk.base_model._feature_blocks.",
        BILINEAR,
    ),
    "SimCLR of sthalles": (
        resnet,
        lambda own, other: {
            "arch": "resnet10",
            "state_dict": {**under("backbone.", own), **projection("backbone.")},
        },
        "SimCLR",
        "backbone.",
        UNIT,
    ),
    "SimCLR of Spijkervet": (
        resnet,
        lambda own, other: {**under("encoder.", own), **heads("projector.0.weight")},
        "SimCLR",
        "encoder.",
        UNIT,
    ),
    "SimCLR v2": (
        bottleneck_resnet,
        lambda own, other: {
            "resnet": {**simclr_v2_names(own), **heads("fc.weight")},
            "head": heads("layers.0.weight"),
        },
        "SimCLR v2",
        "",
        UNIT,
    ),
    "lightly": (
        resnet,
        lambda own, other: lightning(
            {
                **under("key_backbone.", other),
                **under("backbone.", own),
                **heads("projection_head.layers.0.weight", "online_classifier.linear.weight"),
            }
        ),
        "lightly",
        "backbone.",
        BILINEAR,
    ),
    "lightly, numbered": (
        resnet,
        lambda own, other: lightning(
            {**under("backbone.", numbered(own)), **heads("projection_head.layers.0.weight")}
        ),
        "lightly",
        "backbone.",
        BILINEAR,
    ),
    "lightly, old": (
        resnet,
        lambda own, other: lightning(under("model.features.", numbered(own))),
        "lightly",
        "model.features.",
        BILINEAR,
    ),
    "solo-learn": (
        resnet,
        lambda own, other: lightning(
            {
                **under("momentum_backbone.", other),
                **under("backbone.", own),
                **heads("projector.0.weight", "classifier.weight"),
            }
        ),
        "solo-learn",
        "backbone.",
        BICUBIC,
    ),
    "solo-learn, old": (
        vit,
        lambda own, other: lightning(
            {
                **under("momentum_encoder.", other),
                **under("encoder.", own),
                **heads("projector.0.weight", "predictor.0.weight"),
            }
        ),
        "solo-learn",
        "encoder.",
        BICUBIC,
    ),
    "open_clip with a tower of timm": (
        vit,
        lambda own, other: {
            **under("visual.trunk.", own),
            **heads("visual.head.proj.weight", "text.token_embedding.weight", "logit_scale"),
        },
        "CLIP with a tower of timm",
        "visual.trunk.",
        OWN,
    ),
}  # fmt: skip


def assert_filled(network: torch.nn.Module, wanted: torch.nn.Module) -> None:
    got = network.state_dict()
    assert got.keys() == wanted.state_dict().keys()
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(got[name], tensor), name
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network(images), wanted(images))


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_layout_is_recognised_and_fills_the_network_that_was_trained(
    case: str, tmp_path: Path
) -> None:
    make, write, layout, prefix, shown = LAYOUTS[case]
    trained, other, network = make(1), make(2), make(3)
    content = write(trained.state_dict(), other.state_dict())
    torch.save(content, tmp_path / "file.pth")
    report = load_checkpoint(network, read_checkpoint(tmp_path / "file.pth"), HEAD)
    assert_filled(network, trained)
    convention = report.convention
    shown_so = (convention.mean, convention.std, convention.crop_pct, convention.interpolation)
    assert shown_so == shown
    assert (report.layout, report.prefix) == (layout, prefix)
    assert report.n_used == len(trained.state_dict())
    assert report.resized == ()


def test_a_report_tells_what_was_dropped_under_its_own_name(tmp_path: Path) -> None:
    own, other = resnet(1).state_dict(), resnet(2).state_dict()
    torch.save(LAYOUTS["MoCo v2"][1](own, other), tmp_path / "moco.pth")
    checkpoint = read_checkpoint(tmp_path / "moco.pth")
    assert checkpoint.architecture == "resnet10"
    report = load_checkpoint(resnet(3), checkpoint, HEAD)
    wanted = {f"module.encoder_k.{name}" for name in {**other, **projection("")}}
    wanted |= {"module.encoder_q.fc.0.weight", "module.encoder_q.fc.2.bias"}
    assert set(report.dropped) == wanted | {"module.queue", "module.queue_ptr"}
    assert report.ignored == ("arch",)
    for told in ("MoCo v2", "resnet10", "module.encoder_q.*", "crop_pct 0.875", "dropped"):
        assert told in str(report)


@pytest.mark.parametrize(
    ("arguments", "said"), [({"arch": "vit_small"}, "vit_small"), ({"model": "mae_vit"}, "mae_vit")]
)
def test_the_architecture_is_found_among_a_scripts_arguments(
    arguments: dict[str, str], said: str, tmp_path: Path
) -> None:
    content = {"model": vit(1).state_dict(), "args": argparse.Namespace(**arguments)}
    torch.save(content, tmp_path / "file.pth")
    assert read_checkpoint(tmp_path / "file.pth").architecture == said


def test_moco_v2_gives_the_features_of_its_published_evaluation(tmp_path: Path) -> None:
    trained = seeded(torchvision.models.resnet50, 1)
    trained.fc = torch.nn.Sequential(torch.nn.Linear(2048, 8), torch.nn.ReLU())
    file = {
        "arch": "resnet50",
        "state_dict": {
            **under("module.encoder_q.", {**trained.state_dict(), **projection("")}),
            **under("module.encoder_k.", projection("")),
        },
    }
    torch.save(file, tmp_path / "moco.pth.tar")
    by_hand = torchvision.models.resnet50()
    start = "module.encoder_q."
    kept = {k[len(start) :]: v for k, v in file["state_dict"].items() if k.startswith(start)}
    kept = {k: v for k, v in kept.items() if not k.startswith("fc")}
    missing = by_hand.load_state_dict(kept, strict=False).missing_keys
    assert set(missing) == {"fc.weight", "fc.bias"}
    by_hand.fc = torch.nn.Identity()
    network = timm.create_model("resnet50", num_classes=0).eval()
    load_checkpoint(network, read_checkpoint(tmp_path / "moco.pth.tar"), ("fc.",))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = by_hand.eval()(images)
        assert wanted.shape == (2, 2048)
        torch.testing.assert_close(network(images), wanted)


def test_registers_of_dinov2_are_timms(tmp_path: Path) -> None:
    network = register_vit(3)
    file = {
        **dinov2_names(vit(1, init_values=0.1).state_dict()),
        "register_tokens": torch.rand(1, 2, 24),
    }
    safetensors.torch.save_file(file, tmp_path / "dinov2.safetensors")
    report = load_checkpoint(network, read_checkpoint(tmp_path / "dinov2.safetensors"), HEAD)
    reference = register_vit(4)
    reference.load_state_dict(checkpoint_filter_fn(dict(file), reference))
    assert_filled(network, reference)
    assert (report.layout, report.dropped) == ("DINOv2", ("mask_token",))


def test_a_fine_tuned_mae_has_its_norm_behind_the_pooling(tmp_path: Path) -> None:
    trained, network = vit(1, num_classes=3, global_pool="avg"), vit(2)
    torch.save({"model": trained.state_dict()}, tmp_path / "mae.pth")
    report = load_checkpoint(network, read_checkpoint(tmp_path / "mae.pth"), HEAD)
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        wanted = trained.forward_head(trained.forward_features(images), pre_logits=True)
        assert torch.equal(network(images), wanted)
    assert report.dropped == ("head.weight", "head.bias")
    assert "the final norm comes after" in str(report)


def test_position_embeddings_are_resampled_to_the_networks_grid(tmp_path: Path) -> None:
    trained, network = vit(1), vit(2, img_size=(48, 32))
    torch.save({k: v.half() for k, v in trained.state_dict().items()}, tmp_path / "vit.pth")
    report = load_checkpoint(network, read_checkpoint(tmp_path / "vit.pth"), HEAD)
    half = trained.state_dict()["pos_embed"].half()
    wanted = resample_abs_pos_embed(half, new_size=[6, 4], num_prefix_tokens=1)
    torch.testing.assert_close(network.state_dict()["pos_embed"], wanted.float())
    assert report.resized == ("pos_embed from 4 x 4 to 6 x 4",)
    assert all(tensor.dtype == torch.float32 for tensor in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    trained, network = resnet(1).to(dtype), resnet(2)
    torch.save(trained.state_dict(), tmp_path / "half.pth")
    load_checkpoint(network, read_checkpoint(tmp_path / "half.pth"), HEAD)
    assert_filled(network, trained.float())


def clip(seed: int, **vision: Any) -> Any:
    open_clip = pytest.importorskip("open_clip")
    text = {"context_length": 4, "vocab_size": 8, "width": 16, "heads": 2, "layers": 1}
    return seeded(
        open_clip.CLIP, seed, embed_dim=16, vision_cfg=vision, text_cfg=text, quick_gelu=True
    )


def clip_vit(seed: int, **options: Any) -> torch.nn.Module:
    norm = functools.partial(torch.nn.LayerNorm, eps=1e-5)  # as in CLIP and timm's CLIP
    return vit(seed, embed_dim=128, pre_norm=True, norm_layer=norm, **options)


@pytest.mark.parametrize("kind", ["TorchScript", "state_dict", "safetensors", "distributed"])
def test_clips_transformer_is_filled(kind: str, tmp_path: Path) -> None:
    trained = clip(1, image_size=32, patch_size=8, width=128, layers=2)
    state = {k: v.half() for k, v in trained.state_dict().items()}
    openai = {**state, **{k: torch.tensor(32) for k in ("input_resolution", "context_length")}}
    path = tmp_path / "clip.pt"
    if kind == "TorchScript":
        save_torchscript(openai, path)
    elif kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(
            {"state_dict": under("module.", state)} if kind == "distributed" else openai, path
        )
    network = clip_vit(2, act_layer=timm.layers.QuickGELU)
    report = load_checkpoint(network, read_checkpoint(path), HEAD)
    trained.load_state_dict(state)
    trained.visual.proj = None
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network(images), trained.visual(images), rtol=1e-4, atol=1e-5)
    assert report.layout == ("OpenAI CLIP" if kind in ("TorchScript", "state_dict") else "CLIP")
    assert report.convention.mean == CLIP[0]
    assert {name.removeprefix("module.") for name in report.dropped} >= {
        "visual.proj",
        "logit_scale",
    }


def save_torchscript(state: State, path: Path) -> None:
    """An archive whose modules and parameters have the names of a state dict."""
    root = torch.nn.Module()
    for name, tensor in state.items():
        module = root
        *parents, last = name.split(".")
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, torch.nn.Module())
            module = module._modules[parent]  # type: ignore[assignment]
        module.register_buffer(last, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(root).save(path)


def test_openais_clip_wants_its_own_activation(tmp_path: Path) -> None:
    state = clip(1, image_size=32, patch_size=8, width=128, layers=2).state_dict()
    torch.save({**state, "input_resolution": torch.tensor(32)}, tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match=r"trained with QuickGELU.*quickgelu_224"):
        load_checkpoint(clip_vit(2), read_checkpoint(tmp_path / "clip.pt"), HEAD)


def test_clips_resnet_is_filled(tmp_path: Path) -> None:
    trained = clip(1, image_size=224, layers=(3, 4, 6, 3), width=64)
    torch.save(trained.state_dict(), tmp_path / "clip.pt")
    network = timm.create_model("resnet50_clip", num_classes=0).eval()
    report = load_checkpoint(network, read_checkpoint(tmp_path / "clip.pt"), ("head.proj.",))
    reference = timm.create_model("resnet50_clip", num_classes=16)
    reference.load_state_dict(
        timm.models.byobnet.checkpoint_filter_fn(trained.state_dict(), reference), strict=False
    )
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, reference.state_dict()[name]), name
    assert report.layout == "CLIP"


def refused(content: Any, network: torch.nn.Module, path: Path) -> str:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.save(content, path)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(network, read_checkpoint(path), HEAD)
    assert all(torch.equal(tensor, before[k]) for k, tensor in network.state_dict().items())
    return str(error.value)


def test_what_does_not_fill_the_network_whole_is_told(tmp_path: Path) -> None:
    state = resnet(1).state_dict()
    path = tmp_path / "file.pth"
    for spoiled, told in (
        ({k: v for k, v in state.items() if k != "conv1.weight"}, "missing: conv1.weight"),
        ({k: v for k, v in state.items() if "running_var" not in k}, "running_var and"),
        ({**state, "extra.weight": torch.ones(1)}, "unexpected: extra.weight"),
        ({**state, "bn1.weight": torch.ones(2)}, "bn1.weight (2,) instead of (64,)"),
        ({**state, "bn1.weight": torch.ones(64).int()}, "bn1.weight torch.int32 instead"),
        ({**state, "module.bn1.bias": torch.ones(64)}, "two tensors for bn1.bias"),
    ):
        assert told in refused(spoiled, resnet(2), path)
    moco = under("module.encoder_q.", {**state, **heads("layer9.weight", "fc.weight")})
    assert "unexpected: layer9.weight." in refused({"state_dict": moco}, resnet(2), path)


def test_counters_of_batches_may_be_missing(tmp_path: Path) -> None:
    state = {k: v for k, v in resnet(1).state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth")
    network = resnet(2)
    report = load_checkpoint(network, read_checkpoint(tmp_path / "old.pth"), HEAD)
    assert report.n_used == len(state)
    assert all(torch.equal(network.state_dict()[k], v) for k, v in state.items())


def test_a_wrong_architecture_is_compared_with_the_file(tmp_path: Path) -> None:
    file = {"arch": "resnet50", "state_dict": resnet(1, layers=(2, 1, 1, 1)).state_dict()}
    told = refused(file, resnet(2), tmp_path / "a.pth")
    assert "says 'resnet50'" in told
    assert "are of a ResNet of 2, 1, 1, 1 basic blocks" in told
    assert "the network is a ResNet of 1, 1, 1, 1 basic blocks" in told
    told = refused(resnet(1).state_dict(), vit(2), tmp_path / "b.pth")
    assert "a transformer of 2 blocks, 24 wide, with patches of 8 pixels" in told
    torch.save(vit(1).state_dict(), tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"another kind \(it begins with stem.conv.weight"):
        load_checkpoint(timm.create_model("regnetx_002"), read_checkpoint(tmp_path / "c.pth"), HEAD)


def test_a_stem_for_cifar_is_named(tmp_path: Path) -> None:
    state = resnet(1).state_dict()
    cifar = {**state, "conv1.weight": torch.ones(64, 3, 3, 3)}
    told = refused(
        {**under("encoder.", cifar), **heads("projector.0.weight")}, resnet(2), tmp_path / "c"
    )
    assert "a stem for CIFAR" in told
