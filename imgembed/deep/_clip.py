"""CLIPEmbedder: images and text in one space."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.utils import check_scalar
from torch import Tensor
from torch.nn.functional import normalize

from .._vectors import normalise_rows
from ..cache import Cache
from ..images import MAX_PIXELS, check_images, is_one_image
from ._backbones import Weights
from ._network_embedder import Built, NetworkEmbedder
from ._open_clip import ImageTower, build_model, resolve_preprocessing, tokenize
from ._preprocessing import Normalisation, check_normalisation

# A text as it is.
_NO_TEMPLATES = ("{}",)


class RankedCaption(NamedTuple):
    """A caption, and how well it describes an image.

    Parameters
    ----------
    caption : str
        As it was given.
    cosine : float
        Of the caption's vector and the image's, in -1..1. For trained networks 0.2 to 0.35 is
        usual for captions that fit; it can be compared between images.
    probability : float
        The softmax of the cosines of all captions given, times the network's logit scale: how
        the network would choose among them. It says nothing of captions that were not given.

    Examples
    --------
    >>> from imgembed import RankedCaption
    >>> RankedCaption("a cat", cosine=0.31, probability=0.98).caption
    'a cat'
    """

    caption: str
    cosine: float
    probability: float


class CLIPEmbedder(NetworkEmbedder):
    """Embed images and text in one space, with a network trained on images and their captions.

    Any architecture of open_clip: those of CLIP, and SigLIP, CoCa, MobileCLIP and others that
    were trained in the same manner [1]_ [2]_. Vectors have unit length, so that the cosine of an
    image and a text is their scalar product. Needs the extra ``clip``.

    Parameters
    ----------
    model_name : str, default="ViT-B-32"
        Name of the architecture in open_clip; ``open_clip.list_models()`` lists them.
    weights : str, path or None, default="laion2b_s34b_b79k"
        One of open_clip's tags for this architecture, which is downloaded once
        (``open_clip.list_pretrained_tags_by_model(model_name)`` lists them); the path of a file
        of open_clip or OpenAI (torch.save, TorchScript, safetensors), of which every tensor of
        both towers must be filled; None draws random weights, for tests.
    device : str, default="auto"
        As in :class:`CNNEmbedder`.
    templates : sequence of str, default=("{}",)
        Format strings that a text is put in, such as ``"a photo of a {}."``, for text that is
        the name of a thing; see :meth:`transform_text`. They leave the vectors of images, and so
        the fingerprint, as they are.
    normalisation : {"auto", "imagenet", "clip", "half", "none"} or (mean, std), default="auto"
        How pixels in 0..1 are normalised. "auto": as open_clip says of the tag; for files, as all
        its tags for the architecture agree, else "clip". "half" is 0.5 and 0.5, "none" leaves
        the pixels; a pair holds three means and three standard deviations.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        What both towers compute in; see :class:`ViTEmbedder`.
    engine : {"auto", "torch", "onnxruntime"}, default="auto"
        What runs the image tower; see :class:`ViTEmbedder`. Text is always run by torch.
    compile : bool, default=False
        Whether torch compiles the image tower, which takes up to a minute and a C++ compiler.
    batch_size : int, default=4
        Images or texts that pass the network at once. On a GPU 64 or more is better.
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
        The model with both towers. It is loaded at fit or first use, and left out of pickles.
    preprocessing_ : Preprocessing
        What is done to images before the network.
    logit_scale_ : float
        What cosines are multiplied by before a softmax, as learned in training; about 100.
    n_features_out_ : int
        The width of the vectors.
    device_ : torch.device
        Where the network is.
    checkpoint_report_ : CheckpointReport or None
        What was recognised, used and dropped of the file with the weights.

    Raises
    ------
    CheckpointError
        If the weights cannot be had or do not fill the model, or were trained with another
        activation than the architecture has: those of OpenAI need one with QuickGELU, such as
        "ViT-B-32-quickgelu".
    ValueError
        If open_clip has no such model.
    ImportError
        If open_clip is not installed.

    See Also
    --------
    ZeroShotClassifier : A classifier from the names of classes.
    ImageSearch : Its ``search(text="a red shoe")`` takes this embedder.

    Notes
    -----
    Cosines of an image and a text are lower than those of two images: compare texts with texts,
    images with images, and images with texts, but not the one sort of cosine with the other.

    For images alone, timm has the same image towers, and :class:`ViTEmbedder` reads the same
    files: ``ViTEmbedder("vit_base_patch32_clip_quickgelu_224", weights=path, pooling="cls")``. In
    timm the projection into the common space is the classifier, which is left out: the vectors
    are the class token before the projection, 768 wide and not of unit length, instead of 512
    wide. They serve for images among themselves and for classifiers on top, and cannot be
    compared with text or with vectors of this class.

    References
    ----------
    .. [1] A. Radford, J. W. Kim, C. Hallacy et al., "Learning Transferable Visual Models From
       Natural Language Supervision", ICML 2021.
    .. [2] M. Cherti, R. Beaumont, R. Wightman et al., "Reproducible Scaling Laws for Contrastive
       Language-Image Learning", CVPR 2023.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from imgembed import CLIPEmbedder
    >>> embedder = CLIPEmbedder("ViT-S-32-alt", weights=None, engine="torch", random_state=0)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # random weights are for examples and tests
    ...     images = embedder.fit_transform([np.zeros((60, 80, 3), dtype=np.uint8)])
    >>> texts = embedder.transform_text(["a red shoe", "a green hat"])
    >>> (images @ texts.T).shape
    (1, 2)
    """

    logit_scale_: float

    _built_by = ("model_name", "weights", "normalisation")

    def __init__(
        self,
        model_name: str = "ViT-B-32",
        weights: Weights = "laion2b_s34b_b79k",
        device: str = "auto",
        *,
        templates: Sequence[str] = _NO_TEMPLATES,
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
        self.model_name = model_name
        self.weights = weights
        self.device = device
        self.templates = templates
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

    def transform_text(
        self, texts: Iterable[str], templates: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Embed texts in the space of the images.

        Parameters
        ----------
        texts : sequence of n_texts str
            Words, names or sentences, in the language that the network was trained on.
        templates : sequence of str, optional
            Format strings that each text is put in, such as ``"a photo of a {}."``; by default
            those of the embedder. Of several, the vectors are averaged and scaled to unit length,
            which classifies better than any one of them (section 3.1.4 of Radford et al. 2021).

        Returns
        -------
        vectors : ndarray of shape (n_texts, n_features), dtype float32
            Of unit length.

        Raises
        ------
        TypeError
            If texts is one string, or not all of them are strings.
        ValueError
            If there is no text, or a template has no place for it.
        CheckpointError
            If the tokenizer cannot be had; those of open_clip's own text towers come with it.

        Warns
        -----
        UserWarning
            If texts have more tokens than the network reads, 77 with most; the rest is cut off.
        """
        self._check_parameters()
        checked = check_texts("texts", texts)
        used = check_templates(self.templates if templates is None else templates)
        self._load()
        filled = [template.format(text) for text in checked for template in used]
        vectors = self._embed_tokens(tokenize(self.model_name, filled))
        mean = vectors.reshape(len(checked), len(used), -1).mean(axis=1)
        return normalise_rows(mean).astype(np.float32, copy=False)

    def rank_captions(
        self, images: Any, captions: Iterable[str], n_captions: int | None = None
    ) -> list[list[RankedCaption]]:
        """Describe images by those of given captions that fit best.

        Parameters
        ----------
        images : an image or a sequence of n_images images
            As :func:`imgembed.read_image` takes them.
        captions : sequence of str
            They are taken as they are, without ``templates``.
        n_captions : int, optional
            How many to return of an image; all by default.

        Returns
        -------
        ranked : list of n_images lists of RankedCaption
            The best first: ``ranked[0][0].caption`` describes the first image. The list of an
            image that cannot be read is empty, with ``on_error="nan"``.

        Raises
        ------
        TypeError
            If captions is one string, or not all of them are strings.
        ValueError
            If there is no caption, or fewer than ``n_captions``.
        ImageReadError
            If an image cannot be read and ``on_error="raise"``.
        """
        checked = check_texts("captions", captions)
        if n_captions is not None:
            check_scalar(n_captions, "n_captions", int, min_val=1, max_val=len(checked))
        queries = [images] if is_one_image(images) else check_images(images)
        texts = self.transform_text(checked, _NO_TEMPLATES)
        vectors, errors = self._embed_images(queries, self.on_error)
        self._warn_of(errors)
        return [
            [] if np.isnan(row).any() else _ranked(checked, row, self.logit_scale_)[:n_captions]
            for row in vectors @ texts.T
        ]

    def fingerprint_parts(self) -> dict[str, Any]:
        """What goes into the fingerprint, to explain why two of them differ.

        Returns
        -------
        parts : dict of str to object
            As of every embedder, without ``templates``, which change no vector of an image; the
            digest of the weights covers both towers.
        """
        parts = super().fingerprint_parts()
        del parts["templates"]
        return parts

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_normalisation(self.normalisation)
        check_templates(self.templates)

    def _build(self) -> Built:
        model: Any
        model, report = build_model(self.model_name, self.weights, self._seed())
        # Read before half precision rounds it.
        self.logit_scale_ = model.logit_scale.exp().item()
        preprocessing = resolve_preprocessing(model, self.normalisation)
        return Built(model, ImageTower(model), preprocessing, report=report)

    def _embed_tokens(self, tokens: Tensor) -> NDArray[np.float32]:
        model: Any = self.backbone_
        vectors = []
        with torch.inference_mode():
            for batch in torch.split(tokens, self.batch_size):
                encoded = model.encode_text(batch.to(self.device_), normalize=False)
                vectors.append(normalize(encoded.float(), dim=-1).cpu())
        joined: NDArray[np.float32] = torch.cat(vectors).numpy()
        return joined


def check_texts(name: str, texts: Any) -> list[str]:
    """Texts as a list, or an error that says what is wrong with them.

    Parameters
    ----------
    name : str
        What the user calls them.
    texts : object
        What was given.

    Returns
    -------
    checked : list of str

    Raises
    ------
    TypeError
        If it is one string or no sequence, or not all of it are strings.
    ValueError
        If it is empty.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"{name} must be a sequence of str, got one: put it in a list, [{texts!r}]")
    if not isinstance(texts, Iterable):
        raise TypeError(f"{name} must be a sequence of str, got a {type(texts).__name__}")
    checked = list(texts)
    for row, text in enumerate(checked):
        if not isinstance(text, str):
            raise TypeError(f"{name} must all be str; in row {row} there is {text!r}")
    if not checked:
        raise ValueError(f"{name} is empty; give at least one")
    return checked


def check_templates(templates: Any) -> list[str]:
    """Templates as a list, or an error that says what is wrong with them.

    Parameters
    ----------
    templates : object
        What was given.

    Returns
    -------
    checked : list of str

    Raises
    ------
    TypeError
        As of :func:`check_texts`.
    ValueError
        If there are none, or one has no place for a text, or for something else too.
    """
    checked = check_texts("templates", templates)
    for template in checked:
        try:
            has_place = "\0" in template.format("\0")
        except (IndexError, KeyError, ValueError):
            has_place = False
        if not has_place:
            raise ValueError(
                "templates must have one place for the text, '{}', as 'a photo of a {}.' has; got "
                f"{template!r}"
            )
    return checked


def _ranked(
    captions: Sequence[str], cosines: NDArray[np.float32], logit_scale: float
) -> list[RankedCaption]:
    probabilities = softmax(logit_scale * cosines.astype(np.float64))
    order = np.argsort(-cosines, kind="stable")
    return [RankedCaption(captions[i], float(cosines[i]), float(probabilities[i])) for i in order]
