"""ViTEmbedder: a vision transformer behind fit and transform."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..cache import Cache
from ..images import MAX_PIXELS
from ._backbones import Weights
from ._embedding import Embedding, TokenEmbedding
from ._pooling import TokenLayout, token_layout
from ._preprocessing import Normalisation
from ._timm_embedder import TimmEmbedder


class ViTEmbedder(TimmEmbedder):
    """Embed images as the mean of a vision transformer's output tokens.

    Any transformer of timm that returns its tokens after the final norm (ViT, DeiT, BEiT,
    EVA, DINOv2 with and without registers, SigLIP, Swin, Hiera ...), in evaluation mode, shown
    images as it was evaluated.

    Parameters
    ----------
    model_name : str, default="vit_base_patch16_224.augreg_in21k"
        Name of the model in timm.
    weights : {"pretrained", "bundled"}, path or None, default="pretrained"
        As in :class:`CNNEmbedder`.
    pooling : {"mean", "mean_all", "cls", "cls+mean", "max", "gem", "own"}, default="mean"
        How the output tokens of shape (n_tokens, n_features) become one vector, all but "own"
        with the final norm:

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
        - "gem" is the generalised mean of the patch tokens, with the power 3. Negative values
          count as none, so it suits features that say by their size what is there.
        - "own" is the network's own output without classifier, whatever its authors chose:
          class token, mean, or a pooling by attention (SigLIP). Take it for transformers whose
          tokens are not to be had after a norm (LeViT, PiT, CrossViT).
    device : str, default="auto"
        As in :class:`CNNEmbedder`.
    layer : int or None, default=None
        The block that is taken, from 0, or from the end if negative, as it leaves the block,
        before the final norm; None is the output behind it.
    image_size : int or (int, int), optional
        Edge of the network's input in pixels, or height and width, in place of its own.
        A multiple of the patch size; position embeddings are resized. Transformers that
        take one size only refuse it.
    normalisation : {"auto", "imagenet", "clip", "half", "none"} or (mean, std), default="auto"
        How pixels in 0..1 are normalised. "auto": as the method did that trained a recognised
        checkpoint, else as timm says of the model. "half" is 0.5 and 0.5, "none" leaves the
        pixels; a pair holds three means and three standard deviations.
    scales : sequence of float, default=(1.0,)
        Sizes at which an image is seen, as multiples of the input's. Of several, the vectors are
        scaled to unit length and averaged; ``(0.71, 1.0, 1.41)`` is usual.
    flip : bool, default=False
        Average with the vector of the mirror image, in the same way.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        What the network computes in. On GPUs half precision is two to four times as fast; on a
        CPU bfloat16 gains only where the processor computes in it, and is several times slower
        elsewhere; float16 is refused there.
    engine : {"auto", "torch", "onnxruntime"}, default="auto"
        What runs the network. "onnxruntime" (extra ``onnx``) exports it once, which takes a few
        seconds and is kept on disk; its vectors differ from torch's by less than 1e-4. "auto" takes
        it on a CPU if it is installed, and torch if the network cannot be exported.
    compile : bool, default=False
        Whether torch compiles the network, which takes up to a minute and a C++ compiler.
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
    cache : path, EmbeddingCache or None, default=None
        A folder where embeddings are kept, and found again instead of being computed; see
        :class:`EmbeddingCache`.

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
    checkpoint_report_ : CheckpointReport or None
        What was recognised, used and dropped of a file with weights.

    Raises
    ------
    CheckpointError
        If the weights cannot be had or do not fill the backbone.
    ValueError
        If timm has no such model, or it returns no tokens (convolutional networks), or not
        about its final norm (LeViT, PiT), or it has no class token to pool.

    See Also
    --------
    CNNEmbedder : For convolutional networks.

    Notes
    -----
    Networks that normalise behind their pooling (BEiT, EVA-02, Hiera) have that norm applied to
    the pooled vector.

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

    _poolings = ("mean", "mean_all", "cls", "cls+mean", "max", "gem", "own")

    def __init__(
        self,
        model_name: str = "vit_base_patch16_224.augreg_in21k",
        weights: Weights = "pretrained",
        pooling: str = "mean",
        device: str = "auto",
        *,
        layer: int | None = None,
        image_size: int | tuple[int, int] | None = None,
        normalisation: Normalisation = "auto",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
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
        self.model_name = model_name
        self.weights = weights
        self.pooling = pooling
        self.device = device
        self.layer = layer
        self.image_size = image_size
        self.normalisation = normalisation
        self.scales = scales
        self.flip = flip
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
        if self.pooling == "own" and self.layer is not None:
            raise ValueError(
                "pooling='own' is of the network's output; with a layer take another pooling, got "
                f"layer={self.layer}"
            )

    def _embedding_of(self, network: nn.Module, output: Tensor) -> Embedding:
        if self.pooling == "own":
            layout = TokenLayout(getattr(network, "num_prefix_tokens", 0), False, nn.Identity())
            return TokenEmbedding(network, self.pooling, None, layout)
        layout = token_layout(network, output)
        if "cls" in self.pooling and not layout.has_cls:
            raise ValueError(
                f"{self.model_name!r} has no class token, so pooling={self.pooling!r} is not "
                "there; use 'mean' or 'max'"
            )
        return TokenEmbedding(network, self.pooling, self.layer, layout)
