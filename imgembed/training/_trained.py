"""TrainedEmbedder: what embedders have in common whose network is trained on the user's images."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags, check_random_state
from torch import Tensor, nn

from ..deep._fitting import move_norm
from ..deep._network_embedder import Built, NetworkEmbedder
from ..deep._preprocessing import Preprocessing
from ..deep._timm_embedder import TimmEmbedder
from ._trainer import seeded


@dataclass(frozen=True)
class Learned:
    """A trained network: its tensors, and how images are shown to it.

    Parameters
    ----------
    tensors : dict of str to Tensor
        All of the embedding's, on the CPU.
    preprocessing : Preprocessing
        As in training.
    """

    tensors: dict[str, Tensor]
    preprocessing: Preprocessing

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], preprocessing: Preprocessing) -> Self:
        """What was learned, from copies of :attr:`arrays`."""
        return cls({n: torch.from_numpy(np.array(a)) for n, a in arrays.items()}, preprocessing)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The tensors as arrays, which share their memory."""
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}


class TrainedEmbedder(NetworkEmbedder):
    """Base class of embedders whose network learns from the user's images.

    What it has learned is whole: weights that training started from need no longer be there.
    A subclass writes ``_inner`` and ``_architecture``, and sets ``_learned``.
    """

    _learned: Learned
    _shown_by: TimmEmbedder

    @abstractmethod
    def _inner(self) -> TimmEmbedder:
        """A new embedder that builds the network that training starts from."""

    def _architecture(self, start: Built) -> nn.Module:
        """What is trained, and becomes the embedding."""
        return start.embedding

    @property
    def scales(self) -> Sequence[float]:  # type: ignore[override]
        """The sizes at which an image is seen are those of the embedder that it starts from."""
        return self._inner().scales

    @property
    def flip(self) -> bool:  # type: ignore[override]
        """Whether its mirror image is seen too, is as well."""
        return self._inner().flip

    def fingerprint_parts(self) -> dict[str, Any]:
        """What goes into the fingerprint, to explain why two of them differ.

        Returns
        -------
        parts : dict of str to object
            The method and its version, how images are read and vectors pooled, and a digest
            of the weights. What the training did is in the weights.
        """
        self._check_parameters()
        self._load()
        inner = self._shown_by
        return {
            "method": type(self).__qualname__,
            "version": self._vectors_version,
            "model_name": inner.model_name,
            "pooling": inner.pooling,
            "layer": inner.layer,
            "scales": inner.scales,
            "flip": inner.flip,
            "preprocessing": asdict(self.preprocessing_),
            "dtype": self.dtype,
            "exact_decoding": self.exact_decoding,
            "learned": self._learned_digest(),
        }

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        return tags

    def _build(self) -> Built:
        if not hasattr(self, "_learned"):
            raise NotFittedError(
                f"this {type(self).__name__} has not been fitted, or not with these parameters; "
                "call fit with images to learn from"
            )
        self._shown_by = self._inner().set_params(weights=None)
        self._shown_by.seed_ = 0  # no warning: all random weights are replaced
        network, _ = self._shown_by._network()
        move_norm(network, {name.rpartition("network.")[2] for name in self._learned.tensors})
        built = self._shown_by._built_around(network, None)
        with seeded(0, torch.device("cpu")):
            embedding = self._architecture(built)
        embedding.load_state_dict(self._learned.tensors)
        return replace(built, embedding=embedding.eval(), preprocessing=self._learned.preprocessing)

    def _forget(self) -> None:
        super()._forget()
        for name in ("_learned", "history_"):
            self.__dict__.pop(name, None)


def draw_seed(random_state: Any) -> int:
    """A seed for all that is random in a training.

    Parameters
    ----------
    random_state : int, RandomState instance or None

    Returns
    -------
    seed : int
    """
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
