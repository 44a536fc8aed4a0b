"""CNNEmbedder and ViTEmbedder: networks behind fit and transform."""

import os
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import Tags, check_random_state
from torch import Tensor, nn

from ..base import ImageEmbedder, check_choice
from ..images import MAX_PIXELS
from ._backbones import (
    Preprocessing,
    build_network,
    digest_network,
    resolve_device,
    resolve_preprocessing,
)
from ._checkpoints import CheckpointError
from ._pooling import POOLINGS, TokenLayout, pool_tokens, token_layout

# A JPEG is decoded to no less than this many times what the network's resize keeps:
# cosine to full decoding 0.9996 in the mean, 0.998 at worst; at once the size 0.967.
_DRAFT_MARGIN = 2


class _NetworkEmbedder(ImageEmbedder):
    """What embedders with a timm network have in common; pooling is the subclass's."""

    _poolings: ClassVar[tuple[str, ...]]

    model_name: str
    weights: str | os.PathLike[str] | None
    pooling: str
    device: str
    exact_decoding: bool
    random_state: Any

    backbone_: nn.Module
    preprocessing_: Preprocessing
    device_: torch.device
    seed_: int
    weights_digest_: str
    n_features_out_: int
    _built_from: dict[str, str]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the network, which can be loaded again, and keep what it must be."""
        if hasattr(self, "backbone_"):
            self._learned_digest()
        state: dict[str, Any] = super().__getstate__()
        return {k: v for k, v in state.items() if k not in _LOADED}

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("pooling", self.pooling, self._poolings)
        check_choice("exact_decoding", self.exact_decoding, (True, False))

    def _load(self) -> None:
        built_from = {name: repr(getattr(self, name)) for name in _BUILT_FROM}
        if hasattr(self, "backbone_") and self._built_from == built_from:
            return
        if getattr(self, "_built_from", built_from) != built_from:
            for learned in ("weights_digest_", "seed_"):  # set_params asked for another network
                self.__dict__.pop(learned, None)
        device = resolve_device(self.device)
        network = build_network(self.model_name, self.weights, self._timm_pooling(), self._seed())
        self._check_digest(network)
        self.preprocessing_ = resolve_preprocessing(network)
        self._look_at(network)
        self.device_ = device
        self.backbone_ = network.to(device).to(memory_format=torch.channels_last)
        self._built_from = built_from

    def _seed(self) -> int:
        """The seed of random weights, drawn once so that a pickle builds the same network."""
        if self.weights is not None:
            return 0
        if not hasattr(self, "seed_"):
            random_state = check_random_state(self.random_state)
            self.seed_ = int(random_state.randint(np.iinfo(np.int32).max))
            warnings.warn(
                f"{type(self).__name__}(weights=None) has random weights, which is for tests; its "
                "vectors say little about images",
                UserWarning,
                stacklevel=4,
            )
        return self.seed_

    def _check_digest(self, network: nn.Module) -> None:
        """After unpickling, the weights must be those that were there before."""
        before = getattr(self, "weights_digest_", None)
        if before is not None and digest_network(network) != before:
            raise CheckpointError(
                f"the weights of {self.model_name!r} from {self.weights!r} are not those that "
                "this embedder was pickled with; get the old ones back, or make a new embedder "
                "and embed the images again"
            )

    def _look_at(self, network: nn.Module) -> None:
        """Let one blank image through, to learn what the network really returns."""
        size = (1, 3, self.preprocessing_.height, self.preprocessing_.width)
        with torch.inference_mode():
            blank = torch.zeros(size)
            self._check_output(network, network.forward_features(blank))  # type: ignore[operator]
            self.n_features_out_ = self._pooled(network, blank).shape[1]

    def _prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self.preprocessing_.crop(image)

    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        # (n, height, width, 3) seen as (n, 3, height, width) is channels_last already.
        pixels = torch.from_numpy(np.stack(prepared)).to(self.device_).permute(0, 3, 1, 2)
        with torch.inference_mode():
            vectors = self._pooled(self.backbone_, self.preprocessing_.normalise(pixels))
        return vectors.float().cpu().numpy()

    def _learned_digest(self) -> str:
        if not hasattr(self, "weights_digest_"):
            self.weights_digest_ = digest_network(self.backbone_)
        return self.weights_digest_

    @property
    def _n_features_out(self) -> int:
        self._load()
        return self.n_features_out_

    def _shortest_edge(self) -> int | None:
        return None if self.exact_decoding else _DRAFT_MARGIN * self.preprocessing_.shortest_edge

    def _timm_pooling(self) -> str | None:
        return None

    def _check_output(self, network: nn.Module, output: Tensor) -> None:
        raise NotImplementedError

    def _pooled(self, network: nn.Module, inputs: Tensor) -> Tensor:
        raise NotImplementedError


# The parameters that decide the network and what is done with its output.
_BUILT_FROM = ("model_name", "weights", "pooling", "device")
# What _load makes and a pickle leaves out.
_LOADED = frozenset({"backbone_", "preprocessing_", "device_", "_layout"})


class CNNEmbedder(_NetworkEmbedder):
    """Embed images with a convolutional network whose classifier is removed.

    Any convolutional network of timm, in evaluation mode, shown images as it was
    evaluated: its own input size, crop, interpolation, mean and standard deviation.

    Parameters
    ----------
    model_name : str, default="resnet50"
        Name of the model in timm; ``timm.list_models()`` lists them.
    weights : {"pretrained", "bundled"}, path or None, default="pretrained"
        "pretrained" downloads the weights that timm names (and keeps them, in Hugging
        Face's cache). "bundled" takes weights that an installed package carries, without
        any network: ``tf_efficientnet_lite0`` today, with the extra ``offline``. A path
        is a file written by torch.save or safetensors with that architecture's
        parameters under timm's names; all of the backbone must be in it. None gives
        random weights, for tests.
    pooling : {"avg", "max"}, default="avg"
        "avg" is the network's own head-off output, which for some families passes a
        further layer behind the average (VGG, MobileNetV3). "max" takes the largest
        activation of each feature map in place of the average.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", "mps"; "auto" takes CUDA, then MPS, then the CPU. A
        device that is not there is an error, never a silent fallback.
    batch_size : int, default=4
        Images that pass the network at once. On a CPU more than 8 gains nothing and takes
        more memory; on a GPU 64 or more is better.
    exact_decoding : bool, default=False
        Whether JPEGs are decoded in full. By default a large JPEG is decoded at 1/2, 1/4
        or 1/8, to at least twice the size that the network's resize keeps, which is
        up to twice as fast, at a mean cosine of 0.999 to the exact vectors.
    n_jobs : int or None, default=-1
        Threads that read images ahead of the network; -1 means one for each processor.
    on_error : {"raise", "nan"}, default="raise"
        An unreadable image raises :class:`ImageReadError`, or leaves a row of NaN and one
        :class:`ImageReadWarning` that lists all of them.
    progress : {"auto", True, False}, default="auto"
        Whether to show a progress bar; "auto": in terminals and notebooks, after 2 s.
    max_pixels : int, default=100_000_000
        Larger images are refused before they are decoded.
    random_state : int, RandomState instance or None, default=None
        Draws the weights of ``weights=None``.

    Attributes
    ----------
    backbone_ : torch.nn.Module
        The network, without classifier. It is loaded at fit or the first transform, and
        left out of pickles.
    preprocessing_ : Preprocessing
        What is done to images before the network.
    n_features_out_ : int
        The width of the vectors, as the network really returns them.
    device_ : torch.device
        Where the network is.

    Raises
    ------
    CheckpointError
        If the weights cannot be had or do not fill the backbone.
    ValueError
        If timm has no such model, or it is not a convolutional one.

    See Also
    --------
    ViTEmbedder : For vision transformers.

    Notes
    -----
    Vectors are not normalised to unit length; the cosine metric of
    :class:`NearestNeighborIndex` does not need it. Layers behind the pooling that the
    network's authors count to the classifier are removed.

    References
    ----------
    .. [1] A. Babenko, A. Slesarev, A. Chigorin and V. Lempitsky, "Neural Codes for Image
       Retrieval", ECCV 2014.
    .. [2] R. Wightman, "PyTorch Image Models", 2019, https://github.com/huggingface/pytorch-image-models

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import CNNEmbedder
    >>> images = [np.zeros((60, 80, 3), dtype=np.uint8), np.full((50, 50), 255, dtype=np.uint8)]
    >>> CNNEmbedder("tf_efficientnet_lite0", weights="bundled").fit_transform(images).shape
    (2, 1280)
    """

    _poolings = ("avg", "max")

    def __init__(
        self,
        model_name: str = "resnet50",
        weights: str | os.PathLike[str] | None = "pretrained",
        pooling: str = "avg",
        device: str = "auto",
        *,
        batch_size: int = 4,
        exact_decoding: bool = False,
        n_jobs: int | None = -1,
        on_error: str = "raise",
        progress: bool | str = "auto",
        max_pixels: int = MAX_PIXELS,
        random_state: Any = None,
    ) -> None:
        self.model_name = model_name
        self.weights = weights
        self.pooling = pooling
        self.device = device
        self.batch_size = batch_size
        self.exact_decoding = exact_decoding
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels
        self.random_state = random_state

    def _timm_pooling(self) -> str | None:
        return "max" if self.pooling == "max" else None

    def _check_output(self, network: nn.Module, output: Tensor) -> None:
        if output.ndim != 4 or str(getattr(network, "output_fmt", "")).endswith("NHWC"):
            raise ValueError(
                f"{self.model_name!r} returns tokens of shape {tuple(output.shape[1:])}, not "
                "feature maps; use ViTEmbedder"
            )

    def _pooled(self, network: nn.Module, inputs: Tensor) -> Tensor:
        output: Tensor = network(inputs)
        return output


class ViTEmbedder(_NetworkEmbedder):
    """Embed images as the mean of a vision transformer's output tokens.

    Any transformer of timm that returns its tokens after the final norm (ViT, DeiT, BEiT,
    EVA, DINOv2 with and without registers, SigLIP, Swin ...), in evaluation mode, shown
    images as it was evaluated.

    Parameters
    ----------
    model_name : str, default="vit_base_patch16_224.augreg_in21k"
        Name of the model in timm.
    weights : {"pretrained", "bundled"}, path or None, default="pretrained"
        As in :class:`CNNEmbedder`.
    pooling : {"mean", "mean_all", "cls", "cls+mean", "max"}, default="mean"
        How the output tokens of shape (n_tokens, n_features) become one vector, always
        after the final norm:

        - "mean" averages the patch tokens. Take it for search by content, and where in
          doubt: all patches count, and every architecture has it.
        - "mean_all" averages all tokens, class and register tokens too; the same as
          ``last_hidden_state.mean(1)`` in the transformers library. Take it to agree with
          vectors made there.
        - "cls" takes the class token. Take it for networks trained on it by
          self-supervision (DINO) or for classification (DeiT), if the whole image is one
          subject. Networks without a class token refuse it.
        - "cls+mean" joins both, twice as wide. It is what DINOv2's authors give to linear
          classifiers.
        - "max" takes the largest value of each feature over the patch tokens. Take it for
          small objects before varied backgrounds.
    device : str, default="auto"
        As in :class:`CNNEmbedder`.
    batch_size : int, default=4
        Images that pass the network at once. On a CPU more than 8 gains nothing and takes
        more memory; on a GPU 64 or more is better.
    exact_decoding : bool, default=False
        Whether JPEGs are decoded in full; see :class:`CNNEmbedder`.
    n_jobs : int or None, default=-1
        Threads that read images ahead of the network; -1 means one for each processor.
    on_error : {"raise", "nan"}, default="raise"
        An unreadable image raises :class:`ImageReadError`, or leaves a row of NaN and one
        :class:`ImageReadWarning` that lists all of them.
    progress : {"auto", True, False}, default="auto"
        Whether to show a progress bar; "auto": in terminals and notebooks, after 2 s.
    max_pixels : int, default=100_000_000
        Larger images are refused before they are decoded.
    random_state : int, RandomState instance or None, default=None
        Draws the weights of ``weights=None``.

    Attributes
    ----------
    backbone_ : torch.nn.Module
        The network. It is loaded at fit or the first transform, and left out of pickles.
    preprocessing_ : Preprocessing
        What is done to images before the network.
    n_features_out_ : int
        The width of the vectors.
    device_ : torch.device
        Where the network is.

    Raises
    ------
    CheckpointError
        If the weights cannot be had or do not fill the backbone.
    ValueError
        If timm has no such model, or it does not return tokens after its final norm
        (convolutional networks, Hiera, LeViT, PiT), or it has no class token to pool.

    See Also
    --------
    CNNEmbedder : For convolutional networks.

    Notes
    -----
    Networks that normalise behind their pooling (BEiT, EVA-02) have that norm applied to
    the pooled vector. The attention pooling of SigLIP is not used.

    References
    ----------
    .. [1] A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image
       Recognition at Scale", ICLR 2021.
    .. [2] T. Darcet, M. Oquab, J. Mairal and P. Bojanowski, "Vision Transformers Need
       Registers", ICLR 2024.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from imgembed import ViTEmbedder
    >>> embedder = ViTEmbedder("vit_tiny_patch16_224", weights=None, random_state=0)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # random weights are for examples and tests
    ...     embedder.fit_transform([np.zeros((60, 80, 3), dtype=np.uint8)]).shape
    (1, 192)
    """

    _poolings = POOLINGS
    _layout: TokenLayout

    def __init__(
        self,
        model_name: str = "vit_base_patch16_224.augreg_in21k",
        weights: str | os.PathLike[str] | None = "pretrained",
        pooling: str = "mean",
        device: str = "auto",
        *,
        batch_size: int = 4,
        exact_decoding: bool = False,
        n_jobs: int | None = -1,
        on_error: str = "raise",
        progress: bool | str = "auto",
        max_pixels: int = MAX_PIXELS,
        random_state: Any = None,
    ) -> None:
        self.model_name = model_name
        self.weights = weights
        self.pooling = pooling
        self.device = device
        self.batch_size = batch_size
        self.exact_decoding = exact_decoding
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels
        self.random_state = random_state

    def _check_output(self, network: nn.Module, output: Tensor) -> None:
        self._layout = token_layout(network, output)
        if "cls" in self.pooling and not self._layout.has_cls:
            raise ValueError(
                f"{self.model_name!r} has no class token, so pooling={self.pooling!r} is not "
                "there; use 'mean' or 'max'"
            )

    def _pooled(self, network: nn.Module, inputs: Tensor) -> Tensor:
        tokens: Tensor = network.forward_features(inputs)  # type: ignore[operator]
        return pool_tokens(tokens, self._layout, self.pooling)
