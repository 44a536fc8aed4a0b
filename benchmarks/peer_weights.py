"""Weights for the libraries that peers.py compares, without a network, and what they should give.

Networks of timm get the bundled ImageNet weights of tf_efficientnet_lite0, or weights drawn from a
seed; those of torchvision and CLIP weights drawn from a seed, and torchvision's batch norms the
statistics of eight photographs.
"""

import contextlib
import importlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Vectors = NDArray[np.float32]


def photographs() -> list[Path]:
    """Some photographs that come with scikit-image, for statistics and vocabularies."""
    data_dir = importlib.import_module("skimage").data_dir
    names = "astronaut brick camera chelsea coffee grass gravel text".split()
    return [Path(data_dir, f"{name}.png") for name in names]


def our_network(name: str) -> Any:
    """Our embedder of a network of timm, which lends its weights to others that use timm."""
    import imgembed

    if name == "tf_efficientnet_lite0":
        return imgembed.CNNEmbedder(name, weights="bundled").fit(photographs()[:1])
    vit = imgembed.ViTEmbedder(name, weights=None, random_state=0, engine="torch")
    return vit.fit(photographs()[:1])


def timm_shown(name: str, transform: Callable[..., Any], path: Path) -> tuple[Vectors, Vectors]:
    import timm

    data = timm.data.resolve_model_data_config(timm.create_model(name))
    return shown_by(transform, timm.data.create_transform(**data, is_training=False), path)


def shown_by(
    transform: Callable[..., Any], wanted: Callable[..., Any], path: Path
) -> tuple[Vectors, Vectors]:
    image = Image.open(path)
    return np.asarray(transform(image)), np.asarray(wanted(image))


def timm_vector(name: str, path: Path) -> Vectors:
    """What the network itself gives, in evaluation mode and without its head."""
    import torch

    network, shown = timm_network(name, path)
    with torch.no_grad():
        return cast(Vectors, network(shown)[0].numpy())


def timm_poolings(name: str, path: Path) -> list[Vectors]:
    """The class token, and the means of the patch tokens and of all tokens, after the last norm."""
    import torch

    network, shown = timm_network(name, path)
    with torch.no_grad():
        tokens = network.forward_features(shown)[0]
    return [tokens[0].numpy(), tokens[1:].mean(dim=0).numpy(), tokens.mean(dim=0).numpy()]


def timm_network(name: str, path: Path) -> tuple[Any, Any]:
    import timm

    network = timm.create_model(name, num_classes=0).eval()
    network.load_state_dict(our_network(name).backbone_.state_dict())
    data = timm.data.resolve_model_data_config(network)
    transform: Any = timm.data.create_transform(**data, is_training=False)
    return network, transform(Image.open(path))[None]


@contextlib.contextmanager
def timm_offline() -> Iterator[None]:
    """Networks of timm that ask for pretrained weights get those of :func:`our_network`."""
    import timm

    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> Any:
        network = create(name, pretrained=False, **options)
        with mock.patch.object(timm, "create_model", create):
            weights = our_network(name).backbone_.state_dict()
        lacking = network.load_state_dict(weights, strict=False)
        assert not [
            key for key in lacking.missing_keys if not key.startswith(("classifier", "head"))
        ]
        return network

    with mock.patch.object(timm, "create_model", offline):
        yield


@contextlib.contextmanager
def torchvision_offline() -> Iterator[None]:
    """Networks of torchvision that ask for pretrained weights get seeded ones."""
    from torchvision.models import WeightsEnum

    with mock.patch.object(WeightsEnum, "get_state_dict", seeded_torchvision):
        yield


def seeded_torchvision(weights: Any, *_: Any, **__: Any) -> Any:
    """A state as torchvision would download it, drawn from a seed."""
    import torch
    from torchvision import models

    names = models.list_models(module=models)
    name = next(n for n in names if models.get_model_weights(n) is type(weights))
    options = {"image_size": 384} if name == "vit_b_16" else {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = models.get_model(name, weights=None, **options)
        if name == "vit_b_16":  # torchvision starts with zeros; here it is as large as patches
            torch.nn.init.normal_(network.class_token)
        else:
            see_photographs(network)
    return network.state_dict()


def see_photographs(network: Any) -> None:
    """Give batch norms the statistics of photographs, as training would."""
    import torch

    shown = [np.asarray(Image.open(p).convert("RGB").resize((128, 128))) for p in photographs()]
    batch = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2) / 127.5 - 1
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(batch)


@contextlib.contextmanager
def clip_checkpoint() -> Iterator[tuple[Any, Path]]:
    """OpenAI's smallest CLIP as open_clip builds it, from a seed, and a file of its weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.default_generator.manual_seed(0)
        clip: Any = open_clip.create_model("ViT-B-32", force_quick_gelu=True).eval()
        file = Path(folder, "open_clip_model.safetensors")
        visual = {k: v for k, v in clip.state_dict().items() if k.startswith("visual.")}
        save_file({k: v.contiguous() for k, v in visual.items()}, file)
        yield clip, file
