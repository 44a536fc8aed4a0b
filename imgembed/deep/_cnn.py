"""CNNEmbedder: a convolutional network behind fit and transform."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..cache import Cache
from ..images import MAX_PIXELS
from ._backbones import Weights
from ._embedding import Embedding, MapEmbedding
from ._pooling import returns_tokens
from ._preprocessing import Normalisation
from ._timm_embedder import TimmEmbedder


class CNNEmbedder(TimmEmbedder):
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
        is a checkpoint: a file of torch.save or safetensors in any of the layouts that
        MoCo, SimSiam, SwAV, DINO, DINOv2, MAE, Barlow Twins, VICReg, VISSL, SimCLR, lightly,
        solo-learn, CLIP, open_clip, timm and torchvision write. The backbone is taken out of
        it, and must be there whole. Nothing in a file is executed. None gives random weights,
        for tests.
    pooling : {"avg", "max", "gem", "mac", "rmac"}, default="avg"
        How the feature maps become one vector:

        - "avg" is the network's own head-off output, which for some families passes a
          further layer behind the average (VGG, MobileNetV3). Take it for search by content,
          and where in doubt.
        - "max" is the same with the largest activation of each map in place of the average.
        - "gem" is the generalised mean of the last maps, with the power 3, between average and
          maximum [3]_.
        - "mac" is their maximum [4]_; it differs from "max" where a layer follows the pooling.
        - "rmac" sums the maxima of 14 or more regions, each of unit length [4]_. Take it for
          objects that fill a part of the image.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", "mps"; "auto" takes CUDA, then MPS, then the CPU. A
        device that is not there is an error, never a silent fallback.
    layer : int or None, default=None
        The stage that is taken, from 0, or from the end if negative, as it leaves the stage; None
        is the output. Earlier stages have finer maps of simpler patterns.
    image_size : int or (int, int), optional
        Edge of the network's input in pixels, or height and width, in place of its own.
        Most convolutional networks take any; small objects want larger inputs.
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
    cache : path, EmbeddingCache or None, default=None
        A folder where embeddings are kept, and found again instead of being computed; see
        :class:`EmbeddingCache`.

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
    checkpoint_report_ : CheckpointReport or None
        What was recognised, used and dropped of a file with weights.

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
    .. [3] F. Radenovic, G. Tolias and O. Chum, "Fine-tuning CNN Image Retrieval with No Human
       Annotation", TPAMI 2019.
    .. [4] G. Tolias, R. Sicre and H. Jegou, "Particular object retrieval with integral
       max-pooling of CNN activations", ICLR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import CNNEmbedder
    >>> images = [np.zeros((60, 80, 3), dtype=np.uint8), np.full((50, 50), 255, dtype=np.uint8)]
    >>> CNNEmbedder("tf_efficientnet_lite0", weights="bundled").fit_transform(images).shape
    (2, 1280)
    """

    _poolings = ("avg", "max", "mac", "gem", "rmac")

    def __init__(
        self,
        model_name: str = "resnet50",
        weights: Weights = "pretrained",
        pooling: str = "avg",
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

    def _timm_pooling(self) -> str | None:
        return "max" if self.pooling == "max" else None

    def _embedding_of(self, network: nn.Module, output: Tensor) -> Embedding:
        if returns_tokens(network, output) or output.ndim != 4:
            raise ValueError(
                f"{self.model_name!r} returns tokens of shape {tuple(output.shape[1:])}, not "
                "feature maps; use ViTEmbedder"
            )
        own = self.layer is None and self.pooling in ("avg", "max")
        return MapEmbedding(network, "own" if own else self.pooling, self.layer)
