"""NetworkEmbedder: what embedders with a network have in common."""

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import Tags, check_random_state
from torch import nn

from .._vectors import normalise_rows
from .._workers import n_threads_here
from ..base import Describe, ImageEmbedder, Prepare, check_choice
from ._backbones import Weights, digest_network
from ._checkpoints import CheckpointError, CheckpointReport
from ._engines import DTYPES, ENGINES, Pixels, TorchEngine, Vectors, resolve_device, resolve_dtype
from ._onnx import ExportError, OnnxEngine, onnx_available
from ._preprocessing import Preprocessing

# A JPEG is decoded to no less than this many times what the network's resize keeps:
# cosine to full decoding 0.9996 in the mean, 0.998 at worst; at once the size 0.967.
_DRAFT_MARGIN = 2
# What _load makes and a pickle leaves out.
_LOADED = frozenset(
    {"backbone_", "preprocessing_", "device_", "_embedding", "_torch", "_onnx", "_run", "_crops"}
)


@dataclass(frozen=True)
class Built:
    """What a subclass has built.

    Parameters
    ----------
    backbone : torch.nn.Module
        The network without head.
    embedding : torch.nn.Module
        From inputs of shape (n_images, 3, height, width) to vectors; it contains the backbone.
    preprocessing : Preprocessing
        How images become inputs.
    stride : int, default=32
        What other sizes of the input are rounded to a multiple of.
    report : CheckpointReport or None, default=None
        What was made of a file with weights.
    """

    backbone: nn.Module
    embedding: nn.Module
    preprocessing: Preprocessing
    stride: int = 32
    report: CheckpointReport | None = None


class NetworkEmbedder(ImageEmbedder):
    """Base class of embedders with a network.

    A subclass writes ``_build``, and names in ``_built_by`` the parameters that decide what it
    builds. One that learns from images overrides ``_fit_images``.

    Parameters
    ----------
    weights : str, path or None
        Where the weights are.
    device : str
        "auto", "cpu", "cuda", "mps".
    dtype : {"float32", "bfloat16", "float16"}
        What the network computes in.
    engine : {"auto", "torch", "onnxruntime"}
        What runs the network.
    compile : bool
        Whether torch compiles it.
    exact_decoding : bool
        Whether JPEGs are decoded in full.
    random_state : int, RandomState instance or None
        Draws the weights of ``weights=None``.
    """

    weights: Weights
    device: str
    dtype: str
    engine: str
    compile: bool
    exact_decoding: bool
    random_state: Any
    # Sizes at which an image is seen, and whether its mirror image is.
    scales: Sequence[float] = (1.0,)
    flip: bool = False

    backbone_: nn.Module
    preprocessing_: Preprocessing
    device_: torch.device
    checkpoint_report_: CheckpointReport | None
    weights_digest_: str
    n_features_out_: int
    seed_: int

    _built_by: ClassVar[tuple[str, ...]]
    _built_from: dict[str, str]
    _embedding: nn.Module
    _torch: TorchEngine
    _onnx: OnnxEngine | None
    _run: Callable[[Pixels], Vectors]
    _crops: list[Preprocessing]

    @abstractmethod
    def _build(self) -> Built:
        """Build network, embedding and preprocessing, on the CPU and in evaluation mode."""

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
        check_choice("dtype", self.dtype, tuple(DTYPES))
        check_choice("engine", self.engine, ENGINES)
        for name in ("compile", "exact_decoding", "flip"):
            check_choice(name, getattr(self, name), (True, False))
        _check_scales(self.scales)
        if self.engine == "onnxruntime" and (self.dtype != "float32" or self.compile):
            raise ValueError(
                "engine='onnxruntime' computes in float32 and compiles by itself; leave dtype and "
                f"compile as they are, got dtype={self.dtype!r}, compile={self.compile}"
            )

    def _load(self) -> None:
        names = (*self._built_by, *_RUN_BY)
        built_from = {name: repr(getattr(self, name)) for name in names}
        if hasattr(self, "backbone_") and self._built_from == built_from:
            return
        before = getattr(self, "_built_from", built_from)
        if any(before[name] != built_from[name] for name in self._built_by):
            self._forget()  # set_params asked for another network
        device = resolve_device(self.device)
        dtype = resolve_dtype(self.dtype, device)
        built = self._build()
        self._check_digest(digest_network(built.embedding))
        self._take(built, device, dtype)
        self._built_from = built_from

    def _forget(self) -> None:
        """Forget what was learned of another network."""
        for name in ("weights_digest_", "seed_"):
            self.__dict__.pop(name, None)

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

    def _take(self, built: Built, device: torch.device, dtype: torch.dtype) -> None:
        """Make ready to run what was built."""
        scaled = [built.preprocessing.scaled(scale, built.stride) for scale in self.scales]
        self.n_features_out_ = _try_sizes(built, scaled)
        self.preprocessing_, self._crops = built.preprocessing, scaled
        self.device_, self.checkpoint_report_ = device, built.report
        embedding = built.embedding.to(device, dtype).to(memory_format=torch.channels_last)
        self._embedding, self._torch = embedding, TorchEngine(built.preprocessing, device, dtype)
        self._run = self._engine(embedding)
        self.backbone_ = built.backbone

    def _engine(self, embedding: nn.Module) -> Callable[[Pixels], Vectors]:
        """What takes pixels to vectors."""
        self._onnx = None
        if self._uses_onnx():
            digest = hashlib.sha256(repr(self._vector_parts()).encode()).hexdigest()
            engine = OnnxEngine(embedding, self.preprocessing_, digest)
            try:
                for crop in self._crops:
                    engine.session(crop.height, crop.width, torch.get_num_threads())
            except ExportError as error:
                if self.engine == "onnxruntime":
                    raise
                warnings.warn(
                    f"{type(self).__name__} runs in torch, more slowly: {error}. Set "
                    "engine='torch' to have it so without this warning",
                    UserWarning,
                    stacklevel=4,
                )
            else:
                self._onnx = engine
                return partial(engine.run, n_threads=torch.get_num_threads())
        return partial(self._torch.run, torch.compile(embedding) if self.compile else embedding)

    def _uses_onnx(self) -> bool:
        if self.engine == "onnxruntime" and self.device_.type != "cpu":
            raise ValueError(
                "engine='onnxruntime' runs on the CPU here; take device='cpu' or engine='torch', "
                f"got device {str(self.device_)!r}"
            )
        automatic = self.device_.type == "cpu" and self.dtype == "float32" and not self.compile
        return self.engine == "onnxruntime" or (
            self.engine == "auto" and automatic and onnx_available()
        )

    def _vector_parts(self) -> list[Any]:
        """What decides the vectors of normalised inputs."""
        return [type(self).__qualname__, self.weights_digest_, self._vectors_version] + [
            (name, repr(getattr(self, name))) for name in self._built_by if name != "weights"
        ]

    def _check_digest(self, digest: str) -> None:
        """After unpickling, the weights must be those that were there before."""
        if getattr(self, "weights_digest_", digest) != digest:
            raise CheckpointError(
                f"the weights of {self!r} are not those that it was saved or pickled with; get the "
                "old ones back, or make a new embedder and embed the images again"
            )
        self.weights_digest_ = digest

    def _prepare(self, image: NDArray[np.uint8]) -> list[Pixels]:
        return [crop.crop(image) for crop in self._crops]

    def _embed(self, prepared: list[Any]) -> Vectors:
        return self._embed_by(self._run, prepared)

    def _steps(self, n_images: int) -> tuple[Prepare, Describe]:
        """Of many images each is embedded in the thread that reads it, where ONNX Runtime does it.

        Threads that work on an image each never wait for one another. Of few images, or with
        few threads that read, all threads work on one image at a time.
        """
        n_threads = n_threads_here(self.n_jobs)
        if self._onnx is None or n_threads < torch.get_num_threads() or n_images < n_threads:
            return super()._steps(n_images)
        run = partial(self._onnx.run, n_threads=1)
        return lambda image: self._embed_by(run, [self._prepare(image)])[0], np.stack

    def _embed_by(self, run: Callable[[Pixels], Vectors], prepared: list[Any]) -> Vectors:
        views = [np.stack(view) for view in zip(*prepared, strict=True)]
        if self.flip:
            views += [np.ascontiguousarray(view[:, :, ::-1]) for view in views]
        vectors = [run(view) for view in views]
        if len(vectors) == 1:
            return vectors[0]
        mean: Vectors = np.mean([normalise_rows(one) for one in vectors], axis=0)
        return mean

    def _learned_digest(self) -> str:
        return self.weights_digest_

    @property
    def _n_features_out(self) -> int:
        self._load()
        return self.n_features_out_

    def _shortest_edge(self) -> int | None:
        if self.exact_decoding:
            return None
        return _DRAFT_MARGIN * max(crop.shortest_edge for crop in self._crops)


# The parameters that decide how what was built is run.
_RUN_BY = ("device", "dtype", "engine", "compile")


def _check_scales(scales: Any) -> None:
    try:
        values = np.asarray(scales, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 1 or not len(values) or not ((values > 0) & (values < np.inf)).all():
        raise ValueError(
            f"scales must be a sequence of positive numbers, such as (0.7, 1.0); got {scales!r}"
        )


def _try_sizes(built: Built, crops: list[Preprocessing]) -> int:
    """The width of the vectors, from a blank image of each size."""
    with torch.inference_mode():
        for crop in crops:
            try:
                vectors = built.embedding(torch.zeros((1, 3, crop.height, crop.width)))
            except (AssertionError, RuntimeError) as error:
                raise ValueError(
                    f"{type(built.backbone).__name__} does not take images of {crop.height} x "
                    f"{crop.width} pixels: {error}. Leave image_size and scales as they are, or "
                    f"take sizes that are multiples of {built.stride}"
                ) from error
    width: int = vectors.shape[1]
    return width
