"""SimCLREmbedder: contrast within the batch, from a checkpoint or trained on the user's images."""

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..cache import Cache
from ..deep._preprocessing import Normalisation
from ..images import MAX_PIXELS
from ._backbone import Backbone
from ._contrastive import ContrastiveEmbedder
from ._encoder import Encoder


class SimCLREmbedder(ContrastiveEmbedder):
    """Embed images with a network trained by SimCLR: from a checkpoint, or on your own images.

    It needs no labels [1]_: two random views of an image are to be nearer to each other than to the
    views of all other images in the batch.

    Parameters
    ----------
    checkpoint : path, optional
        A file of SimCLR's training code, from which the backbone is taken; nothing is then
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
        with LARS: the paper's for the batch size.
    optimizer : {"adamw", "lars"}, default="adamw"
        LARS [2]_ is the paper's, for batches of thousands.
    temperature : float, default=0.07
        By which cosines are divided: the smaller, the more the most similar images count.
    train_batch_size : int, default=32
        Images in a step; an image is told from the others in it, so that more are better.
    n_projection : int, None or "auto", default="auto"
        Width of a projection of two layers, on which the loss works and which is then removed.
        None lets it work on the vectors themselves. "auto": 128 for random weights, as in the
        paper, and None for a trained backbone, whose vectors it improves more.
    smallest_crop : float, default=0.2
        The smallest share of an image that a view shows.
    jitter : float, default=0.5
        How far colours are changed: brightness, contrast and saturation by up to 0.8 times
        this, the hue by up to 0.2 times. 1.0 is the paper's.
    batch_norm : {"auto", "frozen", "batch"}, default="auto"
        Whether batch norms keep the statistics that they have ("frozen"), or take those of the
        batch, of both views together. "auto" freezes those of trained backbones.
    save_path : path, optional
        A checkpoint in the PyTorch layout that is written after each epoch. The same call goes on
        from it, if training was stopped; ``CNNEmbedder(name, weights=save_path)`` reads it.
    normalisation : {"auto", "imagenet", "clip", "half", "none"} or (mean, std), default="auto"
        How pixels are normalised. "auto": the backbone's; with a checkpoint none, as SimCLR's
        training code leaves pixels in 0..1.
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
    MoCoEmbedder : A queue of negatives, for small batches.
    FineTunedEmbedder : Training with labels.

    Notes
    -----
    What it gains depends on the images; ``benchmarks/contrastive.py`` measures it on two sets.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi and G. Hinton, "A Simple Framework for Contrastive
       Learning of Visual Representations", ICML 2020.
    .. [2] Y. You, I. Gitman and B. Ginsburg, "Large Batch Training of Convolutional Networks",
       2017.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import CNNEmbedder, SimCLREmbedder
    >>> images = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), dtype=np.uint8)
    >>> start = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", image_size=64)
    >>> simclr = SimCLREmbedder(backbone=start, epochs=1, train_batch_size=4, engine="torch")
    >>> simclr.fit_transform(images).shape
    (8, 1280)
    """

    _warmup = 0.1
    _weight_decay = 1e-6
    _optimizers = ("adamw", "lars")
    _prefix = ""

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

    def _learner(self, encoder: Encoder, n_images: int, batch_statistics: bool) -> nn.Module:
        return Contrast(encoder, self.temperature)

    def _check_sizes(self, n_images: int, batch_statistics: bool) -> None:
        if self.train_batch_size < 2:
            raise ValueError(
                f"train_batch_size={self.train_batch_size} is too small: an image is told from the "
                "others of its batch, of which there are none. 2 is the least, and the more the "
                "better: the paper took 256 to 8192"
            )


class Contrast(nn.Module):
    """What SimCLR trains: one encoder.

    Parameters
    ----------
    encoder : Encoder
    temperature : float
        By which cosines are divided.
    """

    def __init__(self, encoder: Encoder, temperature: float) -> None:
        super().__init__()
        self.backbone = encoder
        self.temperature = temperature

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of two views of a batch.

        Parameters
        ----------
        first, second : Tensor of shape (n_images, 3, height, width)
            Views of the same images.

        Returns
        -------
        loss : Tensor
            A scalar.
        """
        projections = self.backbone(torch.cat([first, second]))
        return nt_xent(projections[: len(first)], projections[len(first) :], self.temperature)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """How hard it is to tell the other view of each image from all views of the others.

    Parameters
    ----------
    first, second : Tensor of shape (n_images, n_projection)
        Of unit length; row i of both is of image i.
    temperature : float
        By which cosines are divided.

    Returns
    -------
    loss : Tensor
        The normalised, temperature-scaled cross entropy: the mean over both views of each
        image, a scalar.
    """
    views = torch.cat([first, second])
    logits = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    others = torch.arange(len(views), device=views.device).roll(len(first))
    return functional.cross_entropy(logits, others)
