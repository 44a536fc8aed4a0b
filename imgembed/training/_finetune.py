"""FineTunedEmbedder: a network that learns from the user's labels, and loses its head again."""

import copy
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.utils import Tags, check_scalar
from torch import Tensor, nn

from ..base import at_least_one, check_choice
from ..cache import Cache
from ..deep._archives import write_tensors
from ..deep._checkpoints import CheckpointError, read_checkpoint
from ..deep._cnn import CNNEmbedder
from ..deep._engines import resolve_device
from ..deep._network_embedder import Built
from ..deep._preprocessing import Preprocessing
from ..deep._timm_embedder import TimmEmbedder
from ..deep._vit import ViTEmbedder
from ..images import MAX_PIXELS, ChosenImages, ImageReadError, check_images
from ._augmentation import mirror, random_resized_crop
from ._feed import Feed, find_unreadable
from ._labels import (
    IMAGES_OF_A_CLASS,
    Labels,
    check_labels,
    hold_out,
    number_classes,
    order_epoch,
)
from ._losses import ArcFace, BatchHardTriplet, CrossEntropy, SupervisedContrastive
from ._parts import PARTS, trainable_names
from ._trained import Learned, TrainedEmbedder, draw_seed
from ._trainer import seeded
from ._tuner import Tuner

Loss = str | nn.Module | Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Callable[[int, int], nn.Module]] = {
    "supcon": lambda n_features, n_classes: SupervisedContrastive(),
    "cross_entropy": CrossEntropy,
    "arcface": ArcFace,
    "triplet": lambda n_features, n_classes: BatchHardTriplet(),
}
# The smallest share of an image that training sees; less loses what the label is about.
_SMALLEST_CROP = 0.4
_FORMAT = 1
# Another computer has other devices and folders, and a random_state may be a generator.
_NOT_SAVED = frozenset({"base", "cache", "device", "random_state"})
_BASES: dict[str, type[TimmEmbedder]] = {"CNNEmbedder": CNNEmbedder, "ViTEmbedder": ViTEmbedder}


class FineTunedEmbedder(TrainedEmbedder):
    """Embed images with a network that has learned from labelled images.

    ``fit(X, y)`` trains a part of the base's network with a head that is then removed, so
    that images with the same label come to lie near each other.

    Parameters
    ----------
    base : CNNEmbedder or ViTEmbedder
        The network that training starts from, with its weights, pooling, layer, input size and
        normalisation. It is not changed. How it is run (device, batch size ...) is said here.
    loss : {"supcon", "cross_entropy", "arcface", "triplet"} or callable, default="supcon"
        What is made small:

        - "supcon": of each image all companions against all others [3]_; take it where in doubt.
        - "cross_entropy": a linear classifier's, which compares no images and takes smaller
          batches.
        - "arcface": a classifier by angles with a margin of 0.5 [1]_, for many classes that
          differ little.
        - "triplet": in each batch, of each image the farthest companion against the
          nearest stranger [2]_.
        - A callable or ``torch.nn.Module`` of ``(embeddings, labels)`` that returns a scalar,
          such as any loss of pytorch-metric-learning (extra ``metric-learning``), which has
          dozens more. Its own parameters, if any, are trained too.
    trainable : {"last_block", "head", "all"}, default="last_block"
        What learns. "last_block" is the last stage of a convolutional network or the last block
        of a transformer, with all behind it. "head" leaves the network as it is, and
        learns a linear projection behind it, which becomes the embedding. "all" takes many
        labelled images.
    n_components : int, optional
        Width of a projection that becomes the embedding. By default there is none, or with
        ``trainable="head"`` one as wide as the network's vectors.
    epochs : int, default=10
        How often each image is seen, at most.
    learning_rate : float, default=1e-4
        The highest, for the network's own layers; that of new layers is ten times as high.
    train_batch_size : int, default=32
        Images in a step; 8 at least, but for "cross_entropy" and "arcface" 2.
    blend : float, default=0.5
        The share of the way from the network as it was (0) to the network as trained (1) that
        its weights go. On the way it gains for the classes of the labels, and loses little of
        what it knew about others [4]_; 1 gains the most where no others will be searched for.
    validation_fraction : float, default=0.1
        The share of each class, and at least two images, that is held out to tell when to stop,
        by the mean average precision of searching them among each other. 0 trains all epochs on
        all images.
    patience : int, default=3
        Epochs without progress after which training stops. What is kept is the best epoch.
    device : str, default="auto"
        For training and for use; see :class:`imgembed.CNNEmbedder`.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        Of the vectors' computation; training is in float32.
    engine : {"auto", "torch", "onnxruntime"}, default="auto"
        What runs the trained network; see :class:`imgembed.CNNEmbedder`.
    compile : bool, default=False
        Whether torch compiles it.
    batch_size : int, default=4
        Images that pass the trained network at once.
    exact_decoding : bool, default=False
        Whether JPEGs are decoded in full.
    n_jobs : int or None, default=-1
        Threads that read and augment images.
    on_error : {"raise", "nan"}, default="raise"
        An unreadable image raises :class:`ImageReadError`; or fit leaves it out, and
        transform gives a row of NaN, with one :class:`ImageReadWarning`.
    progress : {"auto", True, False}, default="auto"
        Whether to show a progress bar.
    max_pixels : int, default=100_000_000
        Larger images are refused before they are decoded.
    random_state : int, RandomState instance or None, default=None
        Draws batches, augmentation, the validation images and new layers.
    cache : path, EmbeddingCache or None, default=None
        A folder where embeddings are kept, and found again instead of being computed; see
        :class:`EmbeddingCache`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    history_ : list of dict
        Of each epoch, and of the state before the first: ``epoch``, ``loss`` and
        ``validation_map``.
    n_features_out_ : int
        The width of the vectors.
    backbone_ : torch.nn.Module
        The trained network, without head.
    preprocessing_ : Preprocessing
        What is done to images before the network.

    Raises
    ------
    ValueError
        If labels are missing, of one class, or too few of a class; or if batches are too small
        for the loss.

    Warns
    -----
    UserWarning
        If no epoch was better than the start, which is then what is kept.

    See Also
    --------
    imgembed.MoCoEmbedder : Training without labels.

    Notes
    -----
    Training only the last linear layer, the classifier, and removing it again leaves the
    embedding as it was: nothing before it has changed. That is why "last_block" is the default,
    and why "head" trains a projection that stays.

    What is gained is that other images of the labels' classes are found better; those of classes
    without labels gain nothing (measured in the guide to networks).

    The defaults change little in few steps: with a hundred images take more epochs and a higher
    learning rate, such as ``epochs=60, patience=20, learning_rate=1e-3`` (also measured there).

    All that is not trained keeps its weights and its batch norms' statistics; dropout does
    nothing. Training uses AdamW, a rising and then falling learning rate, random crops
    of at least 40 % of an image, and mirror images. Losses that compare the images of a batch
    are given four of a class at a time. With ``on_error="nan"`` all images are read once before
    training, so that those that cannot be read change nothing.

    References
    ----------
    .. [1] J. Deng, J. Guo, N. Xue and S. Zafeiriou, "ArcFace: Additive Angular Margin Loss for
       Deep Face Recognition", CVPR 2019.
    .. [2] A. Hermans, L. Beyer and B. Leibe, "In Defense of the Triplet Loss for Person
       Re-Identification", 2017.
    .. [3] P. Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020.
    .. [4] M. Wortsman et al., "Robust Fine-tuning of Zero-shot Models", CVPR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import CNNEmbedder, FineTunedEmbedder
    >>> dark, light = np.zeros((4, 40, 40, 3), np.uint8), np.full((4, 40, 40, 3), 250, np.uint8)
    >>> base = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", image_size=64)
    >>> tuned = FineTunedEmbedder(base, epochs=1, validation_fraction=0, engine="torch")
    >>> tuned.fit_transform([*dark, *light], ["dark"] * 4 + ["light"] * 4).shape
    (8, 1280)
    """

    _built_by = ("base", "n_components", "trainable")

    def __init__(
        self,
        base: TimmEmbedder,
        loss: Loss = "supcon",
        trainable: str = "last_block",
        *,
        n_components: int | None = None,
        epochs: int = 10,
        learning_rate: float = 1e-4,
        train_batch_size: int = 32,
        blend: float = 0.5,
        validation_fraction: float = 0.1,
        patience: int = 3,
        device: str = "auto",
        dtype: str = "float32",
        engine: str = "auto",
        compile: bool = False,  # noqa: A002
        batch_size: int = 4,
        exact_decoding: bool = False,
        n_jobs: int | None = -1,
        on_error: str = "raise",
        progress: bool | str = "auto",
        max_pixels: int = MAX_PIXELS,
        random_state: Any = None,
        cache: Cache = None,
    ) -> None:
        self.base = base
        self.loss = loss
        self.trainable = trainable
        self.n_components = n_components
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.train_batch_size = train_batch_size
        self.blend = blend
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.device = device
        self.dtype = dtype
        self.engine = engine
        self.compile = compile
        self.batch_size = batch_size
        self.exact_decoding = exact_decoding
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels
        self.random_state = random_state
        self.cache = cache

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on labelled images.

        Parameters
        ----------
        X : sequence of n_images images
            Paths, bytes, PIL images, arrays; see :func:`imgembed.read_image`.
        y : array-like of shape (n_images,)
            What each image shows: numbers or strings.

        Returns
        -------
        self : FineTunedEmbedder

        Raises
        ------
        ValueError
            If labels or a parameter are wrong.
        ImageReadError
            If an image cannot be read and ``on_error="raise"``.
        """
        self._warn_of(self._learn(X, y, self.on_error))
        return self

    def fit_transform(self, X: Any, y: Any = None) -> NDArray[np.float32]:
        """Train on labelled images and embed them.

        Parameters
        ----------
        X : sequence of n_images images
            As in :meth:`fit`.
        y : array-like of shape (n_images,)
            What each image shows.

        Returns
        -------
        vectors : ndarray of shape (n_images, n_features), dtype float32, C-contiguous
            As from :meth:`transform`.
        """
        self._learn(X, y, self.on_error)
        vectors: NDArray[np.float32] = self.transform(X)  # it warns of the same images
        return vectors

    def fit_transform_with_errors(
        self, X: Any, y: Any = None
    ) -> tuple[NDArray[np.float32], dict[int, ImageReadError]]:
        """Train on what can be read and embed it, as :meth:`transform_with_errors` does.

        Parameters
        ----------
        X : sequence of n_images images
            As in :meth:`fit`.
        y : array-like of shape (n_images,)
            What each image shows.

        Returns
        -------
        vectors : ndarray of shape (n_images, n_features), dtype float32
            The rows of unreadable images are NaN.
        errors : dict of int to ImageReadError
            The row of each unreadable image, and why.
        """
        self._learn(X, y, "nan")
        return self.transform_with_errors(X)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trained embedder as a folder that needs nothing else to be loaded.

        Parameters
        ----------
        path : str or Path
            The folder; it is made. ``weights.safetensors`` and ``embedder.json`` in it are
            replaced. A loss that is no string, the device and ``random_state`` are not kept.

        Raises
        ------
        NotFittedError
            Before fit.
        """
        self._load()
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        not_saved = _NOT_SAVED if isinstance(self.loss, str) else _NOT_SAVED | {"loss"}
        own = {n: v for n, v in self.get_params(deep=False).items() if n not in not_saved}
        base = {**self.base.get_params(), "weights": None, "device": "auto"}
        base |= {"cache": None, "random_state": None}
        description = {
            "format": _FORMAT,
            "base": [type(self.base).__name__, base],
            "parameters": own,
            "classes": self.classes_.tolist(),
            "history": self.history_,
            "preprocessing": asdict(self._learned.preprocessing),
            "weights_digest": self._learned_digest(),
        }
        part = folder / "embedder.json.part"
        part.write_text(json.dumps(description, indent=1, default=_plain), encoding="utf-8")
        write_tensors(folder / "weights.safetensors", self._learned.tensors)
        os.replace(part, folder / "embedder.json")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Load what :meth:`save` has written.

        Parameters
        ----------
        path : str or Path
            The folder.

        Returns
        -------
        embedder : FineTunedEmbedder
            Its base has no weights: those that it started from are not needed.

        Raises
        ------
        CheckpointError
            If files are missing, damaged, or do not belong together.
        """
        folder = Path(path)
        tensors = read_checkpoint(folder / "weights.safetensors").tensors
        try:
            told = json.loads((folder / "embedder.json").read_text(encoding="utf-8"))
            if told["format"] != _FORMAT:
                raise ValueError(f"its format is {told['format']!r}, known is {_FORMAT}")
            kind, base = told["base"]
            embedder = cls(_BASES[kind](**_with_tuples(base)), **told["parameters"])
            embedder._learned = Learned(tensors, _preprocessing(told["preprocessing"]))
            embedder.classes_ = np.array(told["classes"])
            embedder.history_ = told["history"]
            embedder.weights_digest_ = told["weights_digest"]
            embedder._check_parameters()
            embedder._load()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"cannot load a FineTunedEmbedder from {os.fspath(path)!r} "
                f"({type(error).__name__}: {error}); save it again where it was trained"
            ) from error
        return embedder

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _check_parameters(self) -> None:
        if not isinstance(self.base, TimmEmbedder):
            raise TypeError(
                f"base must be a CNNEmbedder or a ViTEmbedder, got {self.base!r}; the network that "
                "training starts from"
            )
        super()._check_parameters()
        check_choice("trainable", self.trainable, PARTS)
        if not callable(self.loss):
            check_choice("loss", self.loss, tuple(LOSSES))
        for name, smallest in (("epochs", 1), ("patience", 1), ("train_batch_size", 2)):
            check_scalar(getattr(self, name), name, int, min_val=smallest)
        if self._in_groups and self.train_batch_size < 2 * IMAGES_OF_A_CLASS:
            raise ValueError(
                f"train_batch_size={self.train_batch_size} is too small for a loss that compares "
                f"the images of a batch, which come {IMAGES_OF_A_CLASS} of a class at a time; "
                f"take {2 * IMAGES_OF_A_CLASS} at least, so that there is another class, or "
                'loss="cross_entropy", which compares none'
            )
        if self.n_components is not None:
            check_scalar(self.n_components, "n_components", int, min_val=1)
        check_scalar(
            self.learning_rate, "learning_rate", float, min_val=0, include_boundaries="neither"
        )
        check_scalar(
            self.blend, "blend", (int, float), min_val=0, max_val=1, include_boundaries="right"
        )
        check_scalar(
            self.validation_fraction,
            "validation_fraction",
            (int, float),
            min_val=0,
            max_val=1,
            include_boundaries="left",
        )

    def _inner(self) -> TimmEmbedder:
        inner: TimmEmbedder = clone(self.base)
        inner._check_parameters()
        return inner

    def _architecture(self, start: Built) -> nn.Module:
        if self.n_components is None and self.trainable != "head":
            return start.embedding
        n_features = _width(start.embedding, start.preprocessing)
        width = self.n_components or n_features
        projection = nn.Linear(n_features, width, bias=False)
        initialise = nn.init.eye_ if width == n_features else nn.init.orthogonal_
        initialise(projection.weight)
        return nn.Sequential(start.embedding, projection)

    def _learn(self, X: Any, y: Any, on_error: str) -> dict[int, ImageReadError]:
        """Train, and return what could not be read."""
        self._check_parameters()
        images = at_least_one(check_images(X))
        labels = check_labels(y, len(images))
        seed = draw_seed(self.random_state)
        for name in ("backbone_", "_built_from"):
            self.__dict__.pop(name, None)
        self._forget()
        inner = self._inner()
        inner.seed_ = seed
        start = inner._build()
        shown = start.preprocessing
        self._crops = [shown]  # it is asked how large images must be decoded
        errors = find_unreadable(self, images) if on_error == "nan" else {}
        if errors:
            readable = np.setdiff1d(np.arange(len(images)), list(errors))
            images, labels = ChosenImages(images, readable), labels[readable]
        classes, labels = number_classes(labels)
        held_out = hold_out(labels, self.validation_fraction, seed)
        size = self.train_batch_size
        augmented = Feed(self, images, _augmentation(shown), size, seed, on_error="raise")
        as_shown = Feed(
            self, images, _as_shown(shown), size, seed, drop_last=False, on_error="raise"
        )
        rows = np.setdiff1d(np.arange(len(images)), held_out)
        embedding = self._tune(start, augmented, as_shown, labels, rows, held_out, seed)
        self.classes_ = classes
        self._learned = Learned(
            {name: tensor.cpu() for name, tensor in embedding.state_dict().items()}, shown
        )
        self._load()
        return errors

    def _tune(
        self,
        start: Built,
        augmented: Feed,
        as_shown: Feed,
        labels: Labels,
        rows: Labels,
        held_out: Labels,
        seed: int,
    ) -> nn.Module:
        device = resolve_device(self.device)
        with seeded(seed, device):
            embedding = self._architecture(start)
            n_features = _width(embedding, start.preprocessing)
            criterion = self._criterion(n_features, int(labels.max()) + 1)
        names, new_names = self._trained_names(start, embedding)
        embedding.to(device).to(memory_format=torch.channels_last)
        tuner = Tuner(
            embedding, names, new_names,
            criterion.to(device) if isinstance(criterion, nn.Module) else criterion,
            start.preprocessing, self.learning_rate, self.blend, device,
        )  # fmt: skip
        order = partial(order_epoch, rows, labels, self.train_batch_size, seed, self._in_groups)
        with self._bar(self.epochs * len(order(0))) as bar:
            self.history_ = tuner.run(
                augmented, order, labels, (as_shown, held_out) if len(held_out) else None,
                epochs=self.epochs, patience=self.patience, seed=seed, bar=bar,
            )  # fmt: skip
        if len(held_out) and tuner.best_epoch == 0:
            warnings.warn(
                "no epoch was better than the start on the images that were held out, so that the "
                "network is as it was (history_ has the figures); take a smaller learning_rate, "
                "more images, or another part with trainable",
                UserWarning,
                stacklevel=4,
            )
        return embedding

    @property
    def _in_groups(self) -> bool:
        """Whether batches hold several images of each class in them."""
        return self.loss not in ("cross_entropy", "arcface")

    def _criterion(self, n_features: int, n_classes: int) -> Callable[[Tensor, Tensor], Tensor]:
        if not isinstance(self.loss, str):
            # Its own parameters, if any, start anew at each fit.
            return copy.deepcopy(self.loss)
        return LOSSES[self.loss](n_features, n_classes)

    def _trained_names(
        self, start: Built, embedding: nn.Module
    ) -> tuple[frozenset[str], frozenset[str]]:
        """The names in the embedding of all parameters that are trained, and of the new ones."""
        shown = start.preprocessing
        inputs = torch.zeros((1, 3, shown.height, shown.width))
        part = trainable_names(start.backbone, self.trainable, start.embedding, inputs)
        chosen = {id(p) for name, p in start.backbone.named_parameters() if name in part}
        known = {id(p) for p in start.backbone.parameters()}
        named = list(embedding.named_parameters())
        new = frozenset(name for name, p in named if id(p) not in known)
        return new | {name for name, p in named if id(p) in chosen}, new


def _augmentation(shown: Preprocessing) -> Callable[..., Any]:
    def augment(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        scale = (_SMALLEST_CROP, 1.0)
        crop = random_resized_crop(
            pixels, rng, shown.height, shown.width, scale=scale, resampling=shown.resampling
        )
        return mirror(crop, rng)

    return augment


def _as_shown(shown: Preprocessing) -> Callable[..., Any]:
    return lambda pixels, rng: shown.crop(pixels)


def _width(embedding: nn.Module, shown: Preprocessing) -> int:
    with torch.inference_mode():
        return int(embedding(torch.zeros((1, 3, shown.height, shown.width))).shape[1])


def _plain(number: Any) -> Any:
    """A number of numpy as one of Python, which JSON takes."""
    if isinstance(number, np.generic):
        return number.item()
    raise TypeError(f"{number!r} cannot be saved; save takes numbers, strings and tuples of them")


def _with_tuples(value: Any) -> Any:
    """Parameters as they were before JSON made lists of tuples."""
    if isinstance(value, dict):
        return {name: _with_tuples(one) for name, one in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _preprocessing(told: dict[str, Any]) -> Preprocessing:
    resampling = Image.Resampling(told["resampling"])
    return Preprocessing(**_with_tuples(told) | {"resampling": resampling})
