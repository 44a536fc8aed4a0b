"""TimmEmbedder: what CNNEmbedder and ViTEmbedder have in common."""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_scalar
from torch import Tensor, nn

from ..base import check_choice
from ..images import check_images
from ._backbones import Weights, build_network, input_stride, resize_input
from ._checkpoints import CheckpointReport
from ._embedding import Embedding
from ._network_embedder import Built, NetworkEmbedder
from ._preprocessing import Normalisation, check_normalisation, resolve_preprocessing


class TimmEmbedder(NetworkEmbedder):
    """Base class of embedders with a timm network; what is taken of it is the subclass's.

    Parameters
    ----------
    model_name : str
        Name of the model in timm.
    weights : str, path or None
        Where its weights are.
    pooling : str
        How feature maps or tokens become one vector.
    layer : int or None
        The stage or block that is taken.
    image_size : int, (int, int) or None
        Size of the network's input in place of its own.
    normalisation : str or (mean, std)
        How pixels are normalised.
    random_state : int, RandomState instance or None
        Draws the weights of ``weights=None``.
    """

    model_name: str
    weights: Weights
    pooling: str
    layer: int | None
    image_size: int | tuple[int, int] | None
    normalisation: Normalisation
    random_state: Any

    _poolings: ClassVar[tuple[str, ...]]
    _built_by = (
        "model_name",
        "weights",
        "pooling",
        "layer",
        "image_size",
        "normalisation",
        "scales",
    )

    @abstractmethod
    def _embedding_of(self, network: nn.Module, output: Tensor) -> Embedding:
        """The embedding that takes of the network what the parameters say.

        Raises a ValueError if the output of its ``forward_features`` is not of that kind.
        """

    def patch_tokens(self, X: Any) -> NDArray[np.float32]:
        """The local descriptors of images: patch tokens, or places of the feature maps.

        Parameters
        ----------
        X : sequence of n_images images
            Paths, bytes, PIL images, arrays; see :func:`imgembed.read_image`.

        Returns
        -------
        tokens : ndarray of shape (n_images, n_patches, n_features), dtype float32
            Patches row by row, of the output or of ``layer``. :class:`imgembed.VLAD`,
            :class:`imgembed.FisherVector` and :class:`imgembed.VisualVocabulary` take them.
            Rows of unreadable images are NaN with ``on_error="nan"``. ``pooling``, ``scales``
            and ``flip`` play no part.

        Raises
        ------
        ImageReadError
            If an image cannot be read and ``on_error="raise"``.
        """
        self._check_parameters()
        self._load()
        embedding: Any = self._embedding

        def describe(prepared: list[Any]) -> NDArray[np.float32]:
            pixels = np.stack([views[0] for views in prepared])
            return self._torch.run(embedding.patches, pixels)

        own = self.preprocessing_
        with torch.inference_mode():
            blank = torch.zeros((1, 3, own.height, own.width), device=self.device_)
            shape = embedding.patches(blank.to(self._torch.dtype)).shape[1:]
        tokens, errors = self._described(
            check_images(X), self._prepare, describe, tuple(shape), self.on_error
        )
        self._warn_of(errors)
        return tokens

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("pooling", self.pooling, self._poolings)
        check_normalisation(self.normalisation)
        if self.layer is not None:
            check_scalar(self.layer, "layer", int)
        self._height_and_width()

    def _height_and_width(self) -> tuple[int, int] | None:
        if self.image_size is None:
            return None
        size = self.image_size
        height, width = size if isinstance(size, (tuple, list)) and len(size) == 2 else (size, size)
        for edge in (height, width):
            check_scalar(edge, "image_size", int, min_val=1)
        return height, width

    def _build(self) -> Built:
        return self._built_around(*self._network())

    def _network(self) -> tuple[nn.Module, CheckpointReport | None]:
        """The network without head, and what its weights are."""
        return build_network(
            self.model_name,
            self.weights,
            self._seed(),
            pooling=self._timm_pooling(),
            any_size=tuple(self.scales) != (1.0,),
        )

    def _built_around(self, network: Any, report: CheckpointReport | None) -> Built:
        size = self._height_and_width()
        # One that takes any size resizes its own position embeddings, at each size once.
        if size is not None and not getattr(network, "dynamic_img_size", False):
            resize_input(network, size)
        convention = None if report is None else report.convention
        preprocessing = resolve_preprocessing(network, convention, self.normalisation, size)
        blank = torch.zeros((1, 3, preprocessing.height, preprocessing.width))
        embedding = self._embedding_of(network, _features(network, blank))
        if self.layer is not None:
            _check_layer(embedding, blank)
        return Built(network, embedding, preprocessing, input_stride(network), report)

    def _timm_pooling(self) -> str | None:
        return None


def _features(network: Any, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        try:
            output: Tensor = network.forward_features(inputs)
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"{type(network).__name__} does not take images of {inputs.shape[2]} x "
                f"{inputs.shape[3]} pixels: {error}"
            ) from error
    return output


def _check_layer(embedding: Embedding, inputs: Tensor) -> None:
    with torch.inference_mode():
        try:
            embedding(inputs)
        except (AssertionError, IndexError, ValueError) as error:
            raise ValueError(
                f"layer={embedding.layer} of {type(embedding.network).__name__}: {error}"
            ) from error
