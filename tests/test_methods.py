"""Embedders by short names."""

import subprocess
import sys

import pytest

from imgembed import CNNEmbedder, ImageEmbedder, SIFTEmbedder, ViTEmbedder, make_embedder
from imgembed.methods import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_every_name_makes_an_embedder_that_is_not_fitted(name: str) -> None:
    embedder = make_embedder(name)
    assert isinstance(embedder, ImageEmbedder)
    assert not hasattr(embedder, "n_features_out_")
    assert len(METHODS[name]) < 50


def test_what_is_drawn_at_random_is_drawn_the_same_each_time() -> None:
    drawing = [make_embedder(n) for n in METHODS if n.startswith(("sift", "surf", "orb", "akaze"))]
    assert len(drawing) == 6
    assert all(embedder.get_params()["random_state"] == 0 for embedder in drawing)


def test_names_of_aggregations_say_what_is_made() -> None:
    fisher = make_embedder("sift-fisher")
    assert isinstance(fisher, SIFTEmbedder)
    assert fisher.aggregation == "fisher"


@pytest.mark.parametrize(
    ("model_name", "kind", "pooling"),
    [
        ("resnet18", CNNEmbedder, "avg"),
        ("mobilenetv3_small_100", CNNEmbedder, "avg"),
        ("vit_tiny_patch16_224", ViTEmbedder, "mean"),
        ("swin_tiny_patch4_window7_224", ViTEmbedder, "mean"),  # 4-D output, but of tokens
        ("levit_128", ViTEmbedder, "own"),  # no norm behind its tokens
        ("crossvit_9_240", ViTEmbedder, "own"),  # two outputs
    ],
)
def test_any_timm_model_gets_the_embedder_that_can_take_it(
    model_name: str, kind: type[ImageEmbedder], pooling: str
) -> None:
    embedder = make_embedder(f"timm:{model_name}")
    assert type(embedder) is kind
    parameters = embedder.get_params()
    assert (parameters["model_name"], parameters["pooling"]) == (model_name, pooling)
    assert parameters["weights"] == "pretrained"


def test_a_timm_model_that_cannot_be_outlined_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from imgembed.deep import timm_embedder

    def refuse(name: str) -> torch.device:
        raise RuntimeError(f"no tensors on {name!r} here")

    before = torch.random.get_rng_state()
    with monkeypatch.context() as patched:
        patched.setattr("imgembed.deep._timm_models.torch.device", refuse)
        assert isinstance(timm_embedder("resnet10t"), CNNEmbedder)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sfit", "'sift'"),
        ("resnet", "timm:MODEL"),
        ("", "lite0"),
        ("timm:resnet19", "'resnet18'"),
        ("timm:", "timm has no model ''"),
    ],
)
def test_a_wrong_name_is_told_what_is_near(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"there is no|has no") as caught:
        make_embedder(name)
    assert told in str(caught.value)


def test_naming_the_methods_loads_no_network_library() -> None:
    code = "import sys, imgembed.methods; print({'torch', 'cv2', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
