"""ContrastiveEmbedder: what MoCoEmbedder and SimCLREmbedder have in common."""

import numbers
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import Tags, check_scalar
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from ..base import check_choice, digest_images
from ..deep._engines import resolve_device
from ..deep._network_embedder import Built
from ..deep._preprocessing import Normalisation, Preprocessing, check_normalisation
from ..deep._timm_embedder import TimmEmbedder
from ..images import ChosenImages, ImageReadError
from ._augmentation import random_view
from ._backbone import Backbone, resolve_backbone
from ._encoder import Encoder, has_batch_norm
from ._feed import Feed, find_unreadable
from ._lars import LARS
from ._trained import Learned, TrainedEmbedder, draw_seed
from ._trainer import Trainer, seeded
from ._training_file import TrainingFile

Pixels = NDArray[np.uint8]


class ContrastiveEmbedder(TrainedEmbedder):
    """Base class of methods that learn to tell an image, however changed, from all others.

    A subclass stores its parameters and writes ``_learner`` and ``_check_sizes``.

    Parameters
    ----------
    checkpoint : path or None
        A file with a trained network; None trains one.
    backbone : str or TimmEmbedder
        The network, and how its output becomes a vector.
    epochs : int
        How often each image is seen.
    learning_rate : float or "auto"
        The highest.
    optimizer : str
        What moves the parameters.
    temperature : float
        By which cosines are divided.
    train_batch_size : int
        Images in a step.
    n_projection : int, None or "auto"
        Width of the projections.
    smallest_crop : float
        The smallest share of an image that a view shows.
    jitter : float
        How far a view's colours are changed.
    batch_norm : {"auto", "frozen", "batch"}
        Statistics of batch norms during training.
    save_path : path or None
        Where the training is kept after each epoch.
    normalisation : str or (mean, std)
        How pixels are normalised.
    """

    checkpoint: str | os.PathLike[str] | None
    backbone: Backbone
    epochs: int
    learning_rate: float | str
    optimizer: str
    temperature: float
    train_batch_size: int
    n_projection: int | str | None
    smallest_crop: float
    jitter: float
    batch_norm: str
    save_path: str | os.PathLike[str] | None
    normalisation: Normalisation

    history_: list[dict[str, float]]

    _built_by = ("checkpoint", "backbone", "normalisation")
    # What decides a training, beside the network and the images.
    _trained_by: ClassVar[tuple[str, ...]] = (
        "epochs",
        "learning_rate",
        "optimizer",
        "temperature",
        "train_batch_size",
        "n_projection",
        "smallest_crop",
        "jitter",
        "batch_norm",
    )
    # Of the method's paper: the share of the training in which the learning rate rises.
    _warmup: ClassVar[float]
    _weight_decay: ClassVar[float]
    _optimizers: ClassVar[tuple[str, ...]]
    _prefix: ClassVar[str]  # of all names in its checkpoints

    @abstractmethod
    def _learner(self, encoder: Encoder, n_images: int, batch_statistics: bool) -> nn.Module:
        """What trains the encoder: a module with it and with a ``loss`` of two views."""

    @abstractmethod
    def _check_sizes(self, n_images: int, batch_statistics: bool) -> None:
        """Raise a ValueError if batches are too small, or images too few."""

    @property
    def scales(self) -> Sequence[float]:  # type: ignore[override]
        """The sizes at which an image is seen are the backbone's."""
        return self.backbone.scales if isinstance(self.backbone, TimmEmbedder) else (1.0,)

    @property
    def flip(self) -> bool:  # type: ignore[override]
        """Whether its mirror image is seen too, is as well."""
        return self.backbone.flip if isinstance(self.backbone, TimmEmbedder) else False

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = self.checkpoint is None
        return tags

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name in ("epochs", "train_batch_size"):
            check_scalar(getattr(self, name), name, int, min_val=1)
        if self.n_projection not in (None, "auto"):
            check_scalar(self.n_projection, "n_projection", int, min_val=1)
        for name in ("learning_rate", "temperature"):
            if name == "temperature" or self.learning_rate != "auto":
                _check_positive(name, getattr(self, name))
        _check_share("smallest_crop", self.smallest_crop)
        check_scalar(self.jitter, "jitter", numbers.Real, min_val=0, max_val=_MOST_JITTER)
        check_choice("optimizer", self.optimizer, self._optimizers)
        check_choice("batch_norm", self.batch_norm, ("auto", "frozen", "batch"))
        check_normalisation(self.normalisation)
        if self.checkpoint is not None and self.save_path is not None:
            raise ValueError(
                "with a checkpoint nothing is trained, so that there is nothing to save; leave "
                "save_path as it is, or train from the checkpoint with "
                "backbone=CNNEmbedder(name, weights=checkpoint)"
            )

    def _build(self) -> Built:
        if self.checkpoint is None:
            return super()._build()
        self._shown_by = self._inner()
        built: Built = self._shown_by._build()
        return built

    def _inner(self) -> TimmEmbedder:
        """The embedder that builds the network."""
        inner = resolve_backbone(self.backbone, self.checkpoint)
        if not isinstance(self.normalisation, str) or self.normalisation != "auto":
            inner.set_params(normalisation=self.normalisation)
        inner._check_parameters()
        return inner

    # Training.

    def _fit_images(self, images: Sequence[object], on_error: str) -> dict[int, ImageReadError]:
        if self.checkpoint is not None:
            return super()._fit_images(images, on_error)
        for name in ("backbone_", "_built_from"):
            self.__dict__.pop(name, None)
        self._forget()
        inner, seed = self._inner(), draw_seed(self.random_state)
        # Set, so that no warning says that random weights are for tests.
        inner.seed_ = seed if inner.random_state is None else draw_seed(inner.random_state)
        start = inner._build()
        shown = start.preprocessing
        self._crops = [shown]  # the feed asks how large images must be decoded
        readable, errors = self._readable(images, on_error)
        feed = Feed(self, readable, self._two_views(shown), self.train_batch_size, seed)
        self._train(start, inner, feed, seed)
        tensors = {name: value.cpu() for name, value in start.embedding.state_dict().items()}
        self._learned = Learned(tensors, shown)
        self._load()
        return errors

    def _readable(
        self, images: Sequence[object], on_error: str
    ) -> tuple[Sequence[object], dict[int, ImageReadError]]:
        """The images that can be read, and what is wrong with the others.

        They are left out before the training, which is then what it would be without them.
        """
        if on_error == "raise":
            return images, {}
        errors = find_unreadable(self, images)
        rows = np.array([row for row in range(len(images)) if row not in errors], dtype=np.int64)
        return (ChosenImages(images, rows) if errors else images), errors

    def _train(self, start: Built, inner: TimmEmbedder, feed: Feed, seed: int) -> None:
        n_images, is_random = len(feed.images), inner.weights is None
        frozen = self.batch_norm == "frozen" or (self.batch_norm == "auto" and not is_random)
        batch_statistics = has_batch_norm(start.backbone) and not frozen
        if n_images < self.train_batch_size:
            raise ValueError(
                f"X has {n_images} readable images, which is not one batch of train_batch_size="
                f"{self.train_batch_size}; take a smaller one, or more images"
            )
        self._check_sizes(n_images, batch_statistics)
        n_projection: Any = self.n_projection
        if n_projection == "auto":
            n_projection = _N_PROJECTION if is_random else None
        device = resolve_device(self.device)
        with seeded(seed, device):
            encoder = Encoder(start.embedding, _width(start), n_projection)
            learner = self._learner(encoder, n_images, batch_statistics)
        learner = learner.to(device).to(memory_format=torch.channels_last)
        trainer = Trainer(
            learner,
            self._optimizer(learner, is_random),
            start.preprocessing,
            device,
            epochs=self.epochs,
            warmup=self._warmup,
            freeze_statistics=frozen,
            seed=seed,
        )
        file = self._training_file(start, inner, feed, seed)
        self.history_ = trainer.run(feed, file, type(self).__name__)

    def _optimizer(self, learner: nn.Module, is_random: bool) -> Optimizer:
        parameters = [one for one in learner.parameters() if one.requires_grad]
        rate = self.learning_rate
        if rate == "auto":
            rate = _RATES[self.optimizer](self.train_batch_size, is_random)
        kind: Any = _OPTIMIZERS[self.optimizer]
        optimizer: Optimizer = kind(parameters, lr=rate, weight_decay=self._weight_decay)
        return optimizer

    def _two_views(self, shown: Preprocessing) -> Any:
        view = partial(
            random_view,
            height=shown.height,
            width=shown.width,
            resampling=shown.resampling,
            smallest=self.smallest_crop,
            strength=self.jitter,
        )

        def two_views(pixels: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
            return view(pixels, rng), view(pixels, rng)

        return two_views

    def _training_file(
        self, start: Built, inner: TimmEmbedder, feed: Feed, seed: int
    ) -> TrainingFile | None:
        if self.save_path is None:
            return None
        recipe = {name: repr(getattr(inner, name)) for name in inner._built_by}
        recipe |= {name: repr(getattr(self, name)) for name in self._trained_by}
        recipe |= {
            "images": digest_images(feed.images),
            "seed": repr(None if self.random_state is None else seed),
        }
        return TrainingFile(
            self.save_path, inner.model_name, start.preprocessing, recipe, self._prefix
        )


_N_PROJECTION = 128  # of both papers
_MOST_JITTER = 2.5  # where the hue takes any value

_OPTIMIZERS = {"adamw": AdamW, "lars": LARS, "sgd": partial(SGD, momentum=0.9)}
# Learning rates by the size of a batch and whether the training starts from random weights.
# Those of SGD and LARS are MoCo's and SimCLR's, those of AdamW were found here.
_RATES: dict[str, Callable[[int, bool], float]] = {
    "adamw": lambda size, is_random: 0.001 if is_random else 0.0001,
    "lars": lambda size, is_random: 0.3 * size / 256,
    "sgd": lambda size, is_random: 0.03 * size / 256,
}


def _check_positive(name: str, value: Any) -> None:
    check_scalar(value, name, numbers.Real, min_val=0, max_val=np.inf, include_boundaries="neither")


def _check_share(name: str, value: Any) -> None:
    check_scalar(value, name, numbers.Real, min_val=0, max_val=1, include_boundaries="right")


def _width(start: Built) -> int:
    """The width of the vectors, from a blank image."""
    shown = start.preprocessing
    with torch.no_grad():
        return int(start.embedding(torch.zeros((1, 3, shown.height, shown.width))).shape[1])
