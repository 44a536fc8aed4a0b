"""MoCoEmbedder: momentum contrast, from a checkpoint or trained on the user's images."""

import copy
import os
from typing import Any

import torch
from sklearn.utils import check_scalar
from torch import Tensor, nn
from torch.nn import functional

from ..cache import Cache
from ..deep._preprocessing import Normalisation
from ..images import MAX_PIXELS
from ._backbone import Backbone
from ._contrastive import ContrastiveEmbedder
from ._encoder import Encoder

_LARGEST_QUEUE = 65_536  # the paper's, for 1.3 million images
# Images whose statistics a batch norm takes together: those of one of the paper's GPUs.
_LARGEST_GROUP = 32
_SMALLEST_BATCH = 4  # two groups of two


class MoCoEmbedder(ContrastiveEmbedder):
    """Embed images with a network trained by MoCo: from a checkpoint, or on your own images.

    Momentum contrast [1]_ [2]_ needs no labels: a random view of an image is to be nearer to
    another view of it, as a slowly following copy of the network sees it, than to a queue of
    other images.

    Parameters
    ----------
    checkpoint : path, optional
        A file of MoCo's training code, from which the backbone is taken; nothing is then
        trained, and images are shown as in training. None trains a network at fit.
    backbone : "auto", str, CNNEmbedder or ViTEmbedder, default="auto"
        The network. "auto" is the architecture that the checkpoint names, or ``resnet50``. A
        str is a name in timm, which without checkpoint starts from timm's pretrained weights. An
        embedder says weights (None: from scratch), pooling and input size too.
    epochs : int, default=10
        How often each image is seen.
    device : str, default="auto"
        For training and for use; see :class:`imgembed.CNNEmbedder`.
    learning_rate : float or "auto", default="auto"
        The highest. "auto" with AdamW: 1e-4 for a trained backbone and 1e-3 for random weights;
        with SGD: the paper's for the batch size.
    optimizer : {"adamw", "sgd"}, default="adamw"
        The paper has SGD, which in so few steps gained nothing from trained backbones.
    temperature : float, default=0.07
        By which cosines are divided: the smaller, the more the most similar images count.
    momentum : float, default=0.99
        How slowly the copy follows. The paper's 0.999 is for hundreds of thousands of steps.
    queue_size : int or "auto", default="auto"
        Images that each view is told from. "auto": as many as there are in X, in whole batches,
        and at most 65,536.
    train_batch_size : int, default=32
        Images in a step.
    n_projection : int, None or "auto", default="auto"
        Width of a projection of two layers, on which the loss works and which is then removed.
        None lets it work on the vectors themselves. "auto": 128 for random weights, as in the
        paper, and None for a trained backbone, whose vectors it improves more.
    smallest_crop : float, default=0.2
        The smallest share of an image that a view shows.
    jitter : float, default=0.5
        How far colours are changed: brightness, contrast and saturation by up to 0.8 times
        this, the hue by up to 0.2 times. 0.5 is MoCo v2's.
    batch_norm : {"auto", "frozen", "batch"}, default="auto"
        Whether batch norms keep the statistics that they have ("frozen"), or take those of the
        batch. "auto" freezes those of trained backbones.
    save_path : path, optional
        A checkpoint in MoCo's own layout that is written after each epoch. The same call goes on
        from it, if training was stopped; ``CNNEmbedder(name, weights=save_path)`` reads it.
    normalisation : {"auto", "imagenet", "clip", "half", "none"} or (mean, std), default="auto"
        How pixels are normalised. "auto": the backbone's, or as MoCo did with a checkpoint.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        Of the vectors' computation; training is in float32.
    engine : {"auto", "torch", "onnxruntime"}, default="auto"
        What runs the network after training; see :class:`imgembed.CNNEmbedder`.
    compile : bool, default=False
        Whether torch compiles it.
    batch_size : int, default=4
        Images that pass the network at once after training.
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
        Draws the order of images, views, and new weights.
    cache : path, EmbeddingCache or None, default=None
        A folder where embeddings are kept, and found again instead of being computed; see
        :class:`EmbeddingCache`.

    Attributes
    ----------
    backbone_ : torch.nn.Module
        The network, without projection.
    preprocessing_ : Preprocessing
        What is done to images before the network.
    checkpoint_report_ : CheckpointReport or None
        What was recognised, used and dropped of the checkpoint.
    history_ : list of dict
        Of each epoch of a training ``epoch`` and ``loss``.
    n_features_out_ : int
        The width of the vectors.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be read or does not fill the network, or ``save_path`` is of
        another training.
    ValueError
        If images are too few or batches too small to learn from; the message says why.
    NotFittedError
        At transform without checkpoint and without fit.

    See Also
    --------
    SimCLREmbedder : Negatives from the batch instead of a queue.
    FineTunedEmbedder : Training with labels.

    Notes
    -----
    With ``batch_norm="batch"`` the paper shuffles keys between GPUs, lest the network recognise its
    own batch by its statistics. On one device the equivalent is done here: keys are shuffled,
    queries and keys pass the network in parts of up to 32 images with statistics of their own,
    and keys are sorted back.

    What it gains depends on the images; ``benchmarks/contrastive.py`` measures it on two sets.
    The vectors are those of the backbone, as :class:`CNNEmbedder` gives them; those of a MoCo v3
    transformer are the class token's.

    References
    ----------
    .. [1] K. He, H. Fan, Y. Wu, S. Xie and R. Girshick, "Momentum Contrast for Unsupervised Visual
       Representation Learning", CVPR 2020.
    .. [2] X. Chen, H. Fan, R. Girshick and K. He, "Improved Baselines with Momentum Contrastive
       Learning", 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import CNNEmbedder, MoCoEmbedder
    >>> images = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), dtype=np.uint8)
    >>> start = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", image_size=64)
    >>> moco = MoCoEmbedder(backbone=start, epochs=1, train_batch_size=4, engine="torch")
    >>> moco.fit_transform(images).shape
    (8, 1280)
    """

    _trained_by = (*ContrastiveEmbedder._trained_by, "momentum", "queue_size")
    _warmup = 0.0
    _weight_decay = 1e-4
    _optimizers = ("adamw", "sgd")
    _prefix = "module."

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None = None,
        backbone: Backbone = "auto",
        epochs: int = 10,
        device: str = "auto",
        *,
        learning_rate: float | str = "auto",
        optimizer: str = "adamw",
        temperature: float = 0.07,
        momentum: float = 0.99,
        queue_size: int | str = "auto",
        train_batch_size: int = 32,
        n_projection: int | str | None = "auto",
        smallest_crop: float = 0.2,
        jitter: float = 0.5,
        batch_norm: str = "auto",
        save_path: str | os.PathLike[str] | None = None,
        normalisation: Normalisation = "auto",
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
        self.checkpoint = checkpoint
        self.backbone = backbone
        self.epochs = epochs
        self.device = device
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.temperature = temperature
        self.momentum = momentum
        self.queue_size = queue_size
        self.train_batch_size = train_batch_size
        self.n_projection = n_projection
        self.smallest_crop = smallest_crop
        self.jitter = jitter
        self.batch_norm = batch_norm
        self.save_path = save_path
        self.normalisation = normalisation
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

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_scalar(
            self.momentum, "momentum", float, min_val=0, max_val=1, include_boundaries="left"
        )
        if self.queue_size != "auto":
            check_scalar(self.queue_size, "queue_size", int, min_val=1)

    def _learner(self, encoder: Encoder, n_images: int, batch_statistics: bool) -> nn.Module:
        return MomentumContrast(
            encoder,
            self._n_queue(n_images),
            self.momentum,
            self.temperature,
            _n_groups(self.train_batch_size) if batch_statistics else 1,
        )

    def _check_sizes(self, n_images: int, batch_statistics: bool) -> None:
        size = self.train_batch_size
        if batch_statistics and size < _SMALLEST_BATCH:
            raise ValueError(
                f"train_batch_size={size} is too small: with batch_norm='batch' each half of a "
                f"batch needs two images to have statistics, so that {_SMALLEST_BATCH} is the "
                "least, and such statistics are poor below 16; take more, or batch_norm='frozen'"
            )
        queue_size = self._n_queue(n_images)
        if not size <= queue_size <= n_images:
            raise ValueError(
                f"queue_size={queue_size} must be at least train_batch_size={size}, as a batch "
                f"enters whole, and at most the {n_images} images of X, as each query would "
                "be told to differ from older keys of its own image"
            )

    def _n_queue(self, n_images: int) -> int:
        if self.queue_size != "auto":
            return int(self.queue_size)
        size = self.train_batch_size
        return min(_LARGEST_QUEUE // size, max(1, n_images // size)) * size


class MomentumContrast(nn.Module):
    """What MoCo trains: an encoder of queries, one of keys that follows it, and a queue of keys.

    Parameters
    ----------
    encoder : Encoder
        Of queries.
    queue_size : int
        Keys in the queue.
    momentum : float
        Of what the keys' encoder is, the share that it keeps in a step.
    temperature : float
        By which cosines are divided.
    n_groups : int, default=1
        Parts of a batch that go through the encoders one by one, so that batch norms take the
        statistics of each part. Keys are shuffled before, and sorted after.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(
        self,
        encoder: Encoder,
        queue_size: int,
        momentum: float,
        temperature: float,
        n_groups: int = 1,
    ) -> None:
        super().__init__()
        self.encoder_q = encoder
        self.encoder_k = copy.deepcopy(encoder).requires_grad_(False)
        keys = torch.randn(encoder.n_projection, queue_size)
        self.register_buffer("queue", functional.normalize(keys, dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self.momentum = momentum
        self.temperature = temperature
        self.n_groups = n_groups

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of two views of a batch; the keys enter the queue.

        Parameters
        ----------
        first, second : Tensor of shape (n_images, 3, height, width)
            Views of the same images, as queries and as keys.

        Returns
        -------
        loss : Tensor
            A scalar.
        """
        queries = self._in_groups(self.encoder_q, first)
        with torch.no_grad():
            self._follow()
            order = torch.randperm(len(second), device="cpu").to(second.device)
            keys = self._in_groups(self.encoder_k, second[order])[order.argsort()]
            queue = self.queue.clone()
            self._enqueue(keys)
        return info_nce(queries, keys, queue, self.temperature)

    def _in_groups(self, encoder: nn.Module, inputs: Tensor) -> Tensor:
        return torch.cat([encoder(part) for part in inputs.tensor_split(self.n_groups)])

    def _follow(self) -> None:
        """Move the keys' encoder towards the queries'; batch norms have their own statistics."""
        parameters = zip(self.encoder_k.parameters(), self.encoder_q.parameters(), strict=True)
        for key, query in parameters:
            key.lerp_(query, 1 - self.momentum)

    def _enqueue(self, keys: Tensor) -> None:
        """Put keys where the oldest ones are."""
        size = self.queue.shape[1]
        places = (self.queue_ptr + torch.arange(len(keys), device=keys.device)) % size
        self.queue[:, places] = keys.T
        self.queue_ptr[:] = (self.queue_ptr + len(keys)) % size


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """How hard it is to tell the key of each query's own image from those in the queue.

    Parameters
    ----------
    queries, keys : Tensor of shape (n_images, n_projection)
        Of unit length; row i of both is of image i.
    queue : Tensor of shape (n_projection, queue_size)
        Keys of other images.
    temperature : float
        By which cosines are divided.

    Returns
    -------
    loss : Tensor
        The mean cross entropy, a scalar.
    """
    positive = (queries * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, queries @ queue], dim=1) / temperature
    own = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return functional.cross_entropy(logits, own)


def _n_groups(batch_size: int) -> int:
    return max(2, batch_size // _LARGEST_GROUP)
